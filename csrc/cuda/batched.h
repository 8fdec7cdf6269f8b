// The batched path: frames of up to 64 streams (or 64 positions of a prefill) as ordinary launches,
// one after the other, each weight read once for all streams.
//
// The persistent kernel (persistent.h) keeps all activations in every block's shared memory, which
// 8 columns fill. Here each block of a product holds one part of the inputs, as a warp does there:
// there are kWarps ranges of k tiles, whose sums go to memory and are added in the same order. The
// mma instructions, tiles, norms and attention are the same, so a stream's bits are those that it
// gives alone.
//
//   launch     computes                                    a block takes
//   product    x -> norm -> partial sums                   8 or 16 row tiles, one range
//   row        partial sums -> next x, its moments         one column
//   attend     partial sums -> q, k, v -> attended         one column, one key head (global stack)
//   few        the same for the local stack                one column
//   sample     partial sums -> logits -> id                one column
//
// Nothing but memory differs from frame to frame, so a device may record the launches once and play
// them again.
#pragma once

#include <variant>

#include "params.h"
#include "batched_product.h"

namespace uniaudio::cuda {

// --- the row of a column -------------------------------------------------------------------------

// Of the columns, in device memory: the step's ids [columns][K], and where each one is.
struct Streams {
  const Column* column;
  StreamState* state;
  int32_t* ids;
  SlotRules rules;

  UA_HD int32_t* ids_of(int c) const { return ids + c * rules.codebooks; }
  UA_HD int64_t step(int c) const { return step_of(column[c], state[c].round); }
};

enum class Row : int {
  begin,   // the frame's input
  slot,    // the local stack's input: of the bridge's product, the id before, or both
  add,     // x + product
  hidden,  // gelu(product)
  hidden_tanh,
  gated,  // silu(gate) * up; a tile holds four gates and the four rows that they open
};

struct BatchedRow {
  Row how;
  int columns, width;
  Totals from;
  const float* bias;
  float* x;   // [columns][width]
  Norm norm;  // of the next product, and whether it wants the largest value
  bool peaks;
  float* stats;
  // begin, slot
  const float *positions, *aligned_embed;
  LocalTable embed;
  Streams streams;
  int aligned_slots, slot, local_slot, start_id;
  bool prefill, bridged, embedded;
  // the end of a stack: what is normalised itself, and the largest values of its slices
  float *out, *slice_peaks;
  int slices;
};
inline int batched_blocks(const BatchedRow& p) { return p.columns; }
inline size_t batched_smem(const BatchedRow& p) { return size_t(p.width) * 4 + 16; }

UA_HD float batched_value(const BatchedRow& p, int c, int i) {
  const size_t at = size_t(c) * p.width + i;
  if (p.how == Row::add) return p.x[at] + total_of(p.from, p.bias, c, i);
  if (p.how == Row::hidden) return gelu_of(total_of(p.from, p.bias, c, i));
  if (p.how == Row::hidden_tanh) return gelu_tanh_of(total_of(p.from, p.bias, c, i));
  if (p.how == Row::gated) {
    const int row = i / 4 * kTileRows + i % 4;
    return silu_of(total_of(p.from, p.bias, c, row)) * total_of(p.from, p.bias, c, row + 4);
  }
  float v = 0;
  size_t position = size_t(p.local_slot);
  if (p.how == Row::slot) {
    const int previous = p.streams.rules.previous(p.slot);
    if (p.embedded)
      v = p.slot == 0 ? local_embedding(p.embed, p.start_id, p.width, i)
                      : local_embedding(p.embed, p.streams.ids_of(c) + p.slot - previous, previous,
                                        p.width, i);
    if (p.bridged) {
      const float h = total_of(p.from, p.bias, c, i);
      v = p.embedded ? v + h : h;
    }
  } else {
    const Column& column = p.streams.column[c];
    const int round = p.streams.state[c].round;
    position = size_t(p.streams.step(c));
    v = p.prefill ? column.rows[i] : column.last[i];
    if (!p.prefill && column.aligned) {
      for (int g = 0; g < p.aligned_slots; ++g) {
        const int32_t id = column.aligned[size_t(round) * p.aligned_slots + g];
        if (id >= 0) v = v + p.aligned_embed[size_t(id) * p.width + i];
      }
    }
  }
  return p.positions ? v + p.positions[position * p.width + i] : v;
}

UA_HD void batched_run(Block& block, const BatchedRow& p) {
  const int c = block.index;
  float* const row = reinterpret_cast<float*>(block.smem);
  float* const found = row + p.width;  // mean, inverse
  uint32_t* const peak = reinterpret_cast<uint32_t*>(found + 2);
  block.threads([&](int tid) {
    for (int i = tid; i < p.width; i += kThreads)
      p.x[size_t(c) * p.width + i] = row[i] = batched_value(p, c, i);
    if (tid == 0) found[0] = 0, found[1] = 1, *peak = 0;
    if (p.out && tid < p.slices) p.slice_peaks[c * p.slices + tid] = 0;
  });
  block.sync();
  if (p.norm.weight) {
    block.warps([&](int warp) {
      if (warp != 0) return;
      float mean, inverse;
      moments(row, p.width, p.norm, mean, inverse);
      UA_LANES (lane) {
        if (lane == 0) found[0] = mean, found[1] = inverse;
      }
    });
    block.sync();
  }
  if (p.peaks || p.out) {
    block.threads([&](int tid) {
      float most = 0;
      for (int i = tid; i < p.width; i += kThreads) {
        const float v = normalised(p.norm, row[i], i, found[0], found[1]), size = v < 0 ? -v : v;
        most = size > most ? size : most;
        if (!p.out) continue;
        p.out[size_t(c) * p.width + i] = v;
        max_shared(
            reinterpret_cast<uint32_t*>(p.slice_peaks) + c * p.slices + i / (p.width / p.slices),
            bits_of(size));
      }
      max_shared(peak, bits_of(most));
    });
    block.sync();
  }
  block.threads([&](int tid) {
    float* const s = p.stats + c * kStats;
    if (tid == 0)
      s[kMean] = found[0], s[kInverse] = found[1], s[kPeak] = float_of(*peak), s[kAttended] = 0;
  });
}

// --- attention -----------------------------------------------------------------------------------

struct BatchedAttend {
  Totals qkv;
  const float* bias;
  int columns, heads, kv_heads, dim, layer, window;
  HeadNorm norm;
  const float* angles;
  Streams streams;
  // of positions of one stream, all are written before any is attended to
  bool half, write, attend;
  float *out, *stats;  // [columns][heads dim]
};
inline int batched_blocks(const BatchedAttend& p) { return p.columns * p.kv_heads; }
inline size_t batched_smem(const BatchedAttend& p) {
  const int padded = padded_dim(p.dim), group = p.heads / p.kv_heads;
  return size_t(2 * (group + 2) * padded + kGroups * (padded + 4) + kSplits * (p.dim + 2)) * 4;
}

UA_HD void batched_run(Block& block, const BatchedAttend& p) {
  const int c = block.index / p.kv_heads, kv = block.index % p.kv_heads, dim = p.dim,
            padded = padded_dim(dim), group = p.heads / p.kv_heads;
  // [group + 2][padded]: queries, key, value
  float* const raw = reinterpret_cast<float*>(block.smem);
  float* const ready = raw + (group + 2) * padded;     // the same, turned
  float* const subs = ready + (group + 2) * padded;    // [kGroups][padded + 4]
  float* const parts = subs + kGroups * (padded + 4);  // [kSplits][dim + 2]
  const Column& column = p.streams.column[c];
  const int64_t t = p.streams.step(c);
  const size_t base = (size_t(p.layer) * p.kv_heads + kv) * size_t(column.held);
  block.threads([&](int tid) {
    for (int i = tid; i < (group + 2) * padded; i += kThreads) {
      const int h = i / padded, at = i % padded;
      const int row = (h < group    ? kv * group + h
                       : h == group ? p.heads + kv
                                    : p.heads + p.kv_heads + kv) *
                          dim +
                      at;
      raw[i] = at < dim ? total_of(p.qkv, p.bias, c, row) : 0.0f;
    }
  });
  block.sync();
  normalise_heads(block, p.norm, raw, group + 2, group, padded, dim);
  const float scale = 1.0f / square_root(float(dim));
  block.threads([&](int tid) {
    for (int i = tid; i < (group + 2) * padded; i += kThreads) {
      const int h = i / padded, at = i % padded;
      const float v = at < dim
                          ? turned(raw + h * padded, at, dim,
                                   p.angles && h <= group ? p.angles + size_t(t) * dim : nullptr)
                          : 0.0f;
      ready[i] = h < group ? v * scale : v;
      if (p.write && h >= group)
        store_cache(h == group ? column.keys : column.values,
                    (base + size_t(t % column.held)) * padded + at, p.half, v);
    }
  });
  block.sync();
  if (!p.attend) return;
  const int splits = splits_at(t);
  for (int g = 0; g < group; ++g) {
    for (int split = 0; split < splits; ++split) {
      attend_head(block, {column.keys, column.values, base, column.held, dim, p.half}, split,
                  first_seen(p.window, t), t + 1, ready + g * padded, subs);
      block.threads([&](int tid) {
        for (int at = tid; at < dim + 2; at += kThreads)
          parts[split * (dim + 2) + at] = of_groups(subs, padded, dim, at);
      });
      block.sync();
    }
    block.threads([&](int tid) {
      for (int at = tid; at < dim; at += kThreads) {
        float found[3][kSplits];
        UA_UNROLL
        for (int k = 0; k < kSplits; ++k) {
          const float* const part = parts + (k < splits ? k : 0) * (dim + 2);
          found[0][k] = part[dim], found[1][k] = part[dim + 1], found[2][k] = part[at];
        }
        const float v = of_splits(found, splits);
        p.out[(size_t(c) * p.heads + kv * group + g) * dim + at] = v;
        max_shared(reinterpret_cast<uint32_t*>(p.stats) + c * kStats + kAttended,
                   bits_of(v) & 0x7FFFFFFFu);
      }
    });
    block.sync();
  }
}

struct BatchedAttendFew {
  Totals qkv;
  const float* bias;
  int columns, heads, kv_heads, dim, width, layer, layers, window, slot;
  HeadNorm norm;
  const float* angles;
  float* known;        // [slots][layers][columns][qkv]: of this frame's slots
  float *out, *stats;  // [columns][heads dim]
};
inline int batched_blocks(const BatchedAttendFew& p) { return p.columns; }
inline size_t batched_smem(const BatchedAttendFew&) { return 16; }

UA_HD void batched_run(Block& block, const BatchedAttendFew& p) {
  const int c = block.index;
  const auto of_slot = [&](int t) {
    return p.known + (size_t(t * p.layers + p.layer) * p.columns + c) * p.width;
  };
  block.threads([&](int tid) {
    for (int i = tid; i < p.width; i += kThreads)
      of_slot(p.slot)[i] = total_of(p.qkv, p.bias, c, i);
  });
  block.sync();
  float* const out = p.out + size_t(c) * p.heads * p.dim;
  block.warps([&](int warp) {
    for (int h = warp; h < p.heads; h += kWarps)
      attend_few(p.heads, p.kv_heads, p.dim, p.norm, p.angles, int(first_seen(p.window, p.slot)),
                 p.slot, h, out + h * p.dim, [&](int t, int i) { return of_slot(t)[i]; });
  });
  block.sync();
  block.threads([&](int tid) {
    float most = 0;
    for (int i = tid; i < p.heads * p.dim; i += kThreads) {
      const float size = out[i] < 0 ? -out[i] : out[i];
      most = size > most ? size : most;
    }
    max_shared(reinterpret_cast<uint32_t*>(p.stats) + c * kStats + kAttended, bits_of(most));
  });
}

// --- ids -----------------------------------------------------------------------------------------

struct BatchedSample {
  Totals logits;
  const int32_t* list;
  int start;  // the id of the head's first row
  int columns, vocab, slot, width;
  bool last;
  Streams streams;
  Embedding embed;
};
inline int batched_blocks(const BatchedSample& p) { return p.columns; }
inline size_t batched_smem(const BatchedSample& p) {
  return size_t(kSampleBytes + (p.vocab + 31) / 32 * 4 + p.logits.rows * 4);
}

UA_HD void batched_run(Block& block, const BatchedSample& p) {
  const int c = block.index, n = p.logits.rows;
  const Streams& streams = p.streams;
  const SlotRules& rules = streams.rules;
  const Column& column = streams.column[c];
  if (column.conditional >= 0) return;
  SampleScratch& scratch = *reinterpret_cast<SampleScratch*>(block.smem);
  uint32_t* const marks = reinterpret_cast<uint32_t*>(block.smem + kSampleBytes);
  float* const v = reinterpret_cast<float*>(marks + (p.vocab + 31) / 32);
  StreamState& state = streams.state[c];
  const int k = rules.codebooks, round = state.round;
  const int32_t fixed = column.sampling.tie && p.slot > 0 ? streams.ids_of(c)[0]
                                                          : fixed_id(rules, column, state, p.slot);
  int32_t id = fixed;
  uint32_t bad = 0;
  if (fixed < 0) {
    // slot 0 is not guided where it only says when words begin
    const bool guided = column.unconditional >= 0 && !(column.speaks && p.slot == 0);
    block.threads([&](int tid) {
      for (int i = tid; i < n; i += kThreads) {
        const int row = p.list[i / kTileRows] * kTileRows + i % kTileRows;
        v[i] = total_of(p.logits, c, i, row);
        if (guided) {
          const float x = total_of(p.logits, column.unconditional, i, row);
          v[i] = x + column.guidance * (v[i] - x);
        }
      }
    });
    block.sync();
    const int64_t known = known_frames(column.now),
                  frame = frame_at(rules.delays, streams.step(c), p.slot);
    id = sample(block, scratch, marks, p.vocab, v, n, p.list, p.start, column.sampling, p.slot,
                uint64_t(column.key_frame + frame), column.history + known * k + p.slot, k,
                frame - known);
    bad = scratch.bad;
  }
  block.sync();  // the state is read
  const int both = column.unconditional >= 0 ? 2 : 1;
  const auto column_at = [&](int i) { return i == 0 ? c : column.unconditional; };
  block.threads([&](int tid) {
    if (tid != 0) return;
    if (bad && state.error == 0) state.error = int32_t(bad);
    const int32_t own = fixed < 0 ? settle(rules, column, state, p.slot, id) : id;
    const int end = column.sampling.tie ? k : rules.next(p.slot);
    for (int slot = p.slot; slot < end; ++slot) {
      const int32_t here =
          slot == p.slot || column.sampling.tie ? own : fixed_id(rules, column, state, slot);
      for (int i = 0; i < both; ++i) streams.ids_of(column_at(i))[slot] = here;
    }
  });
  block.sync();
  if (!p.last) return;
  const bool keep = !state.now.finished;
  block.threads([&](int tid) {
    for (int i = tid; i < both * k; i += kThreads) {
      const int to = column_at(i / k);
      int32_t* const ids = streams.ids_of(to);
      ids[i % k] = hear(rules, streams.column[to], column, round, i % k, ids[i % k], keep);
    }
  });
  block.sync();
  block.threads([&](int tid) {
    if (tid != 0) return;
    finish_step(rules, column, state, both > 1 ? streams.state + column.unconditional : nullptr,
                false);
    // Which round is the last one is not known here.
    for (int i = 0; i < both; ++i)
      *streams.column[column_at(i)].result = streams.state[column_at(i)];
  });
  block.sync();
  if (!state.taken) return;
  block.threads([&](int tid) {
    for (int i = tid; i < both * p.width; i += kThreads) {
      const int to = column_at(i / p.width);
      streams.column[to].last[i % p.width] = embedding(p.embed, streams.ids_of(to), i % p.width);
    }
  });
}

using BatchedOp =
    std::variant<BatchedProduct, BatchedRow, BatchedAttend, BatchedAttendFew, BatchedSample>;

}  // namespace uniaudio::cuda
