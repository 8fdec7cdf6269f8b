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
  if (slot >= p.rules.first_local && !gather(block, p.x2, p.columns, d, even(d), epoch,
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
  int32_t* const ids = fresh(block, p);
  const bool alone = p.columns == 1;
  const int told = told_ids(p);
  // Nothing below may run twice: all of a block's columns have to be there.
  const auto here = [&](int c) { return p.column[c].conditional < 0 && draws(block, p, c); };
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
    StreamState& state = states(block, p)[c];
    const bool tied = column.sampling.tie && slot > 0;
    const int32_t fixed = column.forced ? column.forced[size_t(round) * p.codebooks + slot]
                          : tied        ? ids[c * p.codebooks]
                                        : fixed_id(p.rules, column, state, slot);
    int32_t id = fixed;
    uint32_t bad = 0;
    if (fixed < 0 || column.forced) {
      gather(block, p.logits + size_t(c) * n, 1, n, n, epoch,
             [&](int, int i, float x) { v[i] = x; });
      block.sync();
    }
    if (column.forced) {
      float* const out =
          column.logits + (size_t(round) * p.codebooks + slot) * column.logits_stride;
      block.threads([&](int tid) {
        for (int i = tid; i < n; i += kThreads) out[i] = v[i];
      });
    } else if (fixed < 0) {
      // slot 0 is not guided where it only says when words begin
      if (column.unconditional >= 0 && !(column.speaks && slot == 0)) {
        const float scale = column.guidance;
        gather(block, p.logits + size_t(column.unconditional) * n, 1, n, n, epoch,
               [&](int, int i, float x) { v[i] = x + scale * (v[i] - x); });
        block.sync();
      }
      const int64_t known = known_frames(column.now),
                    frame = frame_at(p.rules.delays, position(p, c), slot);
      id = sample(block, scratch, marks, p.vocab, v, n, j.list, p.heads[slot > 0].start,
                  column.sampling, slot, uint64_t(column.key_frame + frame),
                  column.history + known * p.codebooks + slot, p.codebooks, frame - known);
      bad = scratch.bad;
    }
    block.threads([&](int tid) {
      if (tid != 0) return;
      if (bad && state.error == 0) state.error = int32_t(bad);
      for (int i = 0; i < told; ++i) {
        int32_t own = id;
        if (i == 0 && fixed < 0) own = settle(p.rules, column, state, slot, id);
        if (i > 0 && column.forced) own = column.forced[size_t(round) * p.codebooks + i];
        if (i > 0 && !column.forced) own = fixed_id(p.rules, column, state, i);
        if (alone) {
          ids[slot + i] = own;
          continue;
        }
        put(p.ids + even(told) * c + i, float_of(uint32_t(own)), epoch + 1);
        if (column.unconditional >= 0)
          put(p.ids + even(told) * column.unconditional + i, float_of(uint32_t(own)), epoch + 1);
      }
    });
    block.sync();
  }
  if (!alone) ++epoch;
  phase = Phase::kIds;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::gather_ids(Block& block, const FrameParams& p) {
  int32_t* const ids = fresh(block, p);
  if (p.columns > 1) {
    const int told = told_ids(p);
    if (!gather(block, p.ids, p.columns, told, even(told), epoch, [&](int c, int i, float v) {
          ids[c * p.codebooks + slot + i] = int32_t(bits_of(v));
        })) {
      return false;
    }
    block.sync();
  }
  if (slot == 0) {
    block.threads([&](int tid) {
      if (tid >= p.columns || !p.column[tid].sampling.tie) return;
      for (int k = 1; k < p.codebooks; ++k) ids[tid * p.codebooks + k] = ids[tid * p.codebooks];
    });
    block.sync();
  }
  if (slot + 1 < p.slots) {
    slot = p.rules.next(slot);
    phase = Phase::kBridge;
    return true;
  }
  finish_frame(block, p);
  return next_round();
}

// All ids of the step are known to all blocks.
template <int kColumns, int kDepth>
UA_HD void Frames<kColumns, kDepth>::finish_frame(Block& block, const FrameParams& p) {
  int32_t *const heard = codes(block, p), *const ids = fresh(block, p);
  StreamState* const state = states(block, p);
  const int k = p.codebooks, d = p.global.width;
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * k; i += kThreads) {
      const int c = i / k, lead = lead_of(p, c);
      const bool keep = draws(block, p, c) && !state[lead].now.finished;
      ids[i] = hear(p.rules, p.column[c], p.column[lead], round, i % k, ids[i], keep);
    }
  });
  block.sync();
  block.threads([&](int tid) {
    if (tid >= p.columns || p.column[tid].conditional >= 0 || !draws(block, p, tid)) return;
    const Column& column = p.column[tid];
    finish_step(p.rules, column, state[tid],
                column.unconditional >= 0 ? state + column.unconditional : nullptr,
                round + 1 == p.rounds);
  });
  block.sync();
  block.threads([&](int tid) {
    for (int c = 0; c < p.columns; ++c) {
      const Column& column = p.column[c];
      const bool writes = p.columns == 1 ? block.index == 0 : draws(block, p, c);
      if (!writes || !state[c].closes) continue;
      if (tid == 0) *column.result = state[c];
      if (state[c].now.steps == column.now.steps) continue;
      const int32_t* const row = (state[c].taken ? ids : heard) + c * k;
      for (int i = tid; i < d; i += kThreads) column.last[i] = embedding(p.embed, row, i);
    }
  });
  block.sync();
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * k; i += kThreads) heard[i] = ids[i];
  });
  block.sync();
}

}  // namespace uniaudio::cuda
