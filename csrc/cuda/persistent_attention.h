// Attention in the persistent kernel: the global stack's over its cache, dealt to blocks; the local
// stack's few positions in every block.
#pragma once

#include "persistent_frames.h"

namespace uniaudio::cuda {

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::attend(Block& block, const FrameParams& p) {
  const StackParams& s = p.global;
  const int dim = s.dim, padded = padded_dim(dim), group = s.heads / s.kv_heads,
            units = s.kv_heads * kSplits, stride = even(s.qkv), part = even(dim + 2);
  // [columns][group + 2][padded]: queries, key, value as they come
  float* const raw = reinterpret_cast<float*>(block.smem + p.at_operand);
  float* const ready = raw + p.columns * (group + 2) * padded;  // the same, turned
  // [kGroups][padded + 4]
  float* const subs = ready + p.columns * (group + 2) * padded;
  for (int unit = block.index; unit < units; unit += block.count) {
    const int kv = unit / kSplits, split = unit % kSplits;
    // Three runs of each column's q, k, v.
    const int from[3] = {kv * group * dim, s.heads * dim + kv * dim,
                         (s.heads + s.kv_heads) * dim + kv * dim};
    for (int run = 0; run < 3; ++run) {
      const int count = run == 0 ? group * dim : dim,
                to = run == 0 ? 0 : (group + run - 1) * padded;
      if (!gather_run(block, p.qkv + from[run], p.columns, count, stride,
                      [&](int c, int i, float v) {
                        raw[c * (group + 2) * padded + to + i / dim * padded + i % dim] = v;
                      })) {
        return false;
      }
    }
    block.sync();
    normalise_heads(block, head_norm_of(s, layer_of(p, s)), raw, p.columns * (group + 2), group,
                    padded, dim);
    const float scale = 1.0f / square_root(float(dim));
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * (group + 2) * padded; i += kThreads) {
        const int c = i / ((group + 2) * padded), h = i / padded % (group + 2), at = i % padded;
        const float* angles =
            s.angles && h <= group ? s.angles + size_t(position(p, c)) * dim : nullptr;
        float v =
            at < dim ? turned(raw + c * (group + 2) * padded + h * padded, at, dim, angles) : 0.0f;
        ready[i] = h < group ? v * scale : v;
      }
    });
    block.sync();
    // The newest positions go into the cache by the block that reads them back: no other ever
    // does.
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * 2 * padded; i += kThreads) {
        const int c = i / (2 * padded), which = i / padded % 2, at = i % padded;
        const int64_t t = position(p, c);
        if (t / kChunk % kSplits != split) continue;
        const Column& column = p.column[c];
        const size_t to =
            ((size_t(layer) * s.kv_heads + kv) * size_t(column.held) + size_t(t % column.held)) *
                padded +
            at;
        store_cache(which ? column.values : column.keys, to, p.kv_half,
                    ready[c * (group + 2) * padded + (group + which) * padded + at]);
      }
    });
    block.sync();
    for (int c = 0; c < p.columns; ++c) {
      const int64_t t = position(p, c);
      if (split >= splits_at(t)) continue;
      for (int g = 0; g < group; ++g) {
        const Column& column = p.column[c];
        const size_t base = (size_t(layer) * s.kv_heads + kv) * size_t(column.held);
        attend_head(block, {column.keys, column.values, base, column.held, dim, p.kv_half}, split,
                    first_seen(s.window, t), t + 1, ready + (c * (group + 2) + g) * padded, subs);
        Word* const to = p.part + (size_t(c * s.heads + kv * group + g) * kSplits + split) * part;
        block.threads([&](int tid) {
          for (int at = tid; at < dim + 2; at += kThreads)
            put(to + at, of_groups(subs, padded, dim, at), epoch + 1);
        });
        block.sync();
      }
    }
  }
  ++epoch;
  phase = Phase::kO;
  return true;
}

// As gather, for runs that begin and end anywhere.
template <int kColumns, int kDepth>
template <class F>
UA_HD bool Frames<kColumns, kDepth>::gather_run(Block& block, const Word* from, int columns, int n,
                                                int stride, F sink) {
#ifdef UA_DEVICE
  for (int i = int(threadIdx.x); i < columns * n; i += kThreads) {
    Word w = peek(from + i / n * stride + i % n);
    for (Patience patience; !arrived(w, epoch); patience.more())
      w = peek(from + i / n * stride + i % n);
    sink(i / n, i % n, value_of(w));
  }
  return true;
#else
  return gather(block, from, columns, n, stride, epoch, sink);
#endif
}

// The splits' partial sums -> attended.
template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::join(Block& block, const FrameParams& p, float* flat) {
  const StackParams& s = p.global;
  const int dim = s.dim, part = even(dim + 2), n = s.heads * dim;
#ifndef UA_DEVICE
  for (int c = 0; c < p.columns; ++c) {
    for (int i = 0; i < s.heads * kSplits; ++i) {
      for (int at = 0; i % kSplits < splits_at(position(p, c)) && at < dim + 2; ++at) {
        if (!host_ready(block.host, p.part[size_t(c * s.heads * kSplits + i) * part + at], epoch))
          return false;
      }
    }
  }
#endif
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * n; i += kThreads) {
      const int c = i / n, h = i % n / dim, at = i % dim, splits = splits_at(position(p, c));
      const Word* from = p.part + size_t(c * s.heads + h) * kSplits * part;
      Word most[kSplits], sum[kSplits], value[kSplits];
      bool again = true;
      for (Patience patience; again; patience.more()) {
        again = false;
        UA_UNROLL
        for (int k = 0; k < kSplits; ++k) {
          if (k < splits)
            most[k] = peek(from + k * part + dim), sum[k] = peek(from + k * part + dim + 1),
            value[k] = peek(from + k * part + at);
        }
        UA_UNROLL
        for (int k = 0; k < kSplits; ++k)
          again = again || (k < splits && !(arrived(most[k], epoch) && arrived(sum[k], epoch) &&
                                            arrived(value[k], epoch)));
      }
      float parts[3][kSplits];
      UA_UNROLL
      for (int k = 0; k < kSplits; ++k) {
        if (k < splits)
          parts[0][k] = value_of(most[k]), parts[1][k] = value_of(sum[k]),
          parts[2][k] = value_of(value[k]);
      }
      flat[i] = of_splits(parts, splits);
    }
  });
  return true;
}

// The local stack sees at most K positions: each block attends to all of them by itself, out of
// the exchanges of this frame's slots.
template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::attend_local(Block& block, const FrameParams& p, float* flat) {
  const StackParams& s = p.local;
  const int dim = s.dim, stride = even(s.qkv), own = local_slot(p);
  float* const now = reinterpret_cast<float*>(block.smem + p.at_operand);  // [columns][stride]
  const Word* const here = p.local_qkv + size_t(own * s.layers + layer) * p.columns * stride;
  if (!gather(block, here, p.columns, s.qkv, stride, epoch,
              [&](int c, int i, float v) { now[c * stride + i] = v; }))
    return false;
  block.sync();
  block.warps([&](int warp) {
    for (int i = warp; i < p.columns * s.heads; i += kWarps) {
      const int c = i / s.heads, h = i % s.heads;
      attend_few(s.heads, s.kv_heads, dim, head_norm_of(s, layer_of(p, s)), s.angles,
                 int(first_seen(s.window, own)), own, h, flat + (c * s.heads + h) * dim,
                 [&](int t, int at) {
                   return t == own
                              ? now[c * stride + at]
                              : value_of(peek(
                                    p.local_qkv +
                                    (size_t(t * s.layers + layer) * p.columns + c) * stride + at));
                 });
    }
  });
  return true;
}

}  // namespace uniaudio::cuda
