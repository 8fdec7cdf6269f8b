// A frame's slots in the persistent kernel: the bridge from the global stack, the output head,
// sampling, and the ids that every block has to know before the next slot.
#pragma once

#include "persistent_frames.h"

namespace uniaudio::cuda {

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::bridge(Block& block, const FrameParams& p) {
  if (p.add || slot == 0) {
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, p.head_format, j);
    const int n = p.global.width / p.slices, stride = even(p.local.width);
    const float* const h =
        reinterpret_cast<const float*>(block.smem + p.at_x) + slot % p.slices * n;
    const BridgeParams& bridge = p.bridge[p.slot_bridges ? local_slot(p) : 0];
    fill(block, p, o, j, h, p.global.width, n, Norm{});
    multiply(block, p, j, o, bridge.scale, p.local.width, [&](int c, int row, float v) {
      put(p.bridged + c * stride + row, v + bridge.bias[row], epoch + 1);
    });
  }
  phase = Phase::kQkv;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::head(Block& block, const FrameParams& p) {
  const StackParams& s = p.local;
  const bool global = p.global_head && slot == 0;
  const HeadParams& head = p.heads[slot > 0];
  float* const x = x_of(block, p);
  const int d = s.width;
  // Where kEnd was the last phase, it has gathered what there was.
  if (slot >= p.first_local && !gather(block, p.x2, p.columns, d, even(d), epoch,
                                       [&](int c, int i, float v) { x[c * d + i] = v; }))
    return false;
  block.sync();
  const Job j = p.jobs[job];
  const Operand o = operand(block, p, p.head_format, j);
  if (global) {
    const int n = p.global.width;
    fill(block, p, o, j, reinterpret_cast<const float*>(block.smem + p.at_x), n, n, Norm{});
  } else {
    fill(block, p, o, j, x, d, d, norm_of(s, s.norm, s.norm_bias));
  }
  const int n = j.row_tiles * kTileRows;
  // scales lie by row, logits by their place in the list
  const float* const parts = parts_of(block, p);
  const int first = range_begin(block.index, block.count, j.row_tiles) * kTileRows;
  multiply(block, p, j, o, nullptr, 0, [](int, int, float) {});
  const int count = range_begin(block.index + 1, block.count, j.row_tiles) * kTileRows - first;
  block.threads([&](int tid) {
    for (int i = tid; i < count * p.columns; i += kThreads) {
      const int c = i / count, r = i % count, at = first + r;
      put(p.logits + size_t(c) * n + at,
          total<kColumns>(parts, o, r, c, head.scale,
                          j.list[at / kTileRows] * kTileRows + at % kTileRows),
          epoch);
    }
  });
  block.sync();
  phase = Phase::kSample;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::sample_slot(Block& block, const FrameParams& p) {
  const Job& j = p.jobs[job - 1];
  const int n = j.row_tiles * kTileRows;
  SampleScratch& scratch = *reinterpret_cast<SampleScratch*>(block.smem + p.at_operand);
  uint32_t* const marks = reinterpret_cast<uint32_t*>(block.smem + p.at_operand + kSampleBytes);
  float* const v = reinterpret_cast<float*>(marks + (p.vocab + 31) / 32);
  int32_t *const ids = fresh(block, p), *const state = made(block, p);
  const bool alone = p.columns == 1;  // then every block samples, which saves an exchange
  // Nothing below may run twice: all of a block's columns have to be there.
  const auto here = [&](int c) {
    return p.column[c].conditional < 0 && (alone || c % block.count == block.index);
  };
  for (int c = 0; c < p.columns; ++c) {
    if (!here(c)) continue;
#ifndef UA_DEVICE
    for (int i = 0; i < n; ++i) {
      if (!host_ready(block.host, p.logits[size_t(c) * n + i], epoch)) return false;
      if (p.column[c].unconditional >= 0 &&
          !host_ready(block.host, p.logits[size_t(p.column[c].unconditional) * n + i], epoch))
        return false;
    }
#endif
  }
  for (int c = 0; c < p.columns; ++c) {
    if (!here(c)) continue;
    const Column& column = p.column[c];
    gather(block, p.logits + size_t(c) * n, 1, n, n, epoch, [&](int, int i, float x) { v[i] = x; });
    block.sync();
    if (column.unconditional >= 0) {
      const float scale = column.guidance;
      gather(block, p.logits + size_t(column.unconditional) * n, 1, n, n, epoch,
             [&](int, int i, float x) { v[i] = x + scale * (v[i] - x); });
      block.sync();
    }
    const int64_t t = position(p, c), generated = column.generated + round;
    int32_t* const history = column.history + t * p.codebooks;
    const bool tied = column.sampling.tie && slot > 0;
    int32_t id = tied ? ids[c * p.codebooks] : 0;
    uint32_t said = 0;  // what went wrong, and kEndSaid
    if (column.forced) {
      id = column.forced[size_t(round) * p.codebooks + slot];
      float* const out =
          column.logits + (size_t(round) * p.codebooks + slot) * column.logits_stride;
      block.threads([&](int tid) {
        for (int i = tid; i < n; i += kThreads) out[i] = v[i];
      });
    } else if (!tied) {
      id = sample(block, scratch, marks, p.vocab, v, n, j.list, p.heads[slot > 0].start,
                  column.sampling, slot, uint64_t(column.key_frame + t),
                  history - generated * p.codebooks + slot, p.codebooks, generated);
      said = scratch.bad | (ends(column.sampling, slot, id) ? kEndSaid : 0u);
      id = final_id(column.sampling, slot, id);
    }
    block.threads([&](int tid) {
      if (tid != 0) return;
      const auto tell = [&](int to, int32_t* past) {
        if (alone) {
          ids[slot] = id;
          hear(state, said);
        } else {
          put(p.ids + 2 * to, float_of(uint32_t(id)), epoch + 1);
          put(p.ids + 2 * to + 1, float_of(said), epoch + 1);
        }
        past[slot] = id;
        if (column.sampling.tie) {
          for (int k = slot; k < p.codebooks; ++k) past[k] = id;
        }
      };
      tell(c, history);
      if (column.unconditional >= 0)
        tell(column.unconditional, p.column[column.unconditional].history +
                                       position(p, column.unconditional) * p.codebooks);
    });
    block.sync();
  }
  if (!alone) ++epoch;
  phase = Phase::kIds;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::gather_ids(Block& block, const FrameParams& p) {
  int32_t *const ids = fresh(block, p), *const state = made(block, p);
  if (p.columns > 1) {
    if (!gather(block, p.ids, p.columns, 2, 2, epoch, [&](int c, int i, float v) {
          if (i == 0) ids[c * p.codebooks + slot] = int32_t(bits_of(v));
          if (i == 1) hear(state + 3 * c, bits_of(v));
        })) {
      return false;
    }
    block.sync();
  }
  const bool last = slot + 1 == p.slots;
  block.threads([&](int tid) {
    if (tid >= p.columns) return;
    const int c = tid;
    const Sampling& s = p.column[c].sampling;
    const int32_t id = ids[c * p.codebooks + slot];
    if (s.tie && slot == 0) {
      for (int k = 1; k < p.codebooks; ++k) ids[c * p.codebooks + k] = id;
    }
    if (!last) return;
    int32_t* const own = state + 3 * c;
    const bool made_now = takes_frame(own[1], s.keep_end != 0) && !own[2];
    if (own[1] == kEndsHere) own[1] = kEndedBefore;
    if (!made_now) return;
    for (int k = 0; k < p.codebooks; ++k)
      codes(block, p)[c * p.codebooks + k] = ids[c * p.codebooks + k];
    ++own[0];
  });
  block.sync();
  if (!last) {
    ++slot;
    phase = Phase::kBridge;
    return true;
  }
  const bool finished = round + 1 == p.rounds;
  if (finished && block.index == 0) {
    const int d = p.global.width;
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * d; i += kThreads) {
        if (state[i / d * 3] > 0)
          p.column[i / d].last[i % d] =
              embedding(p.embed, codes(block, p) + i / d * p.codebooks, i % d);
      }
      for (int i = tid; i < p.columns * 3; i += kThreads) p.column[i / 3].result[i % 3] = state[i];
    });
  }
  return next_round();
}

}  // namespace uniaudio::cuda
