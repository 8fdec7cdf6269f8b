// The persistent kernel's state. One launch computes several frames: each block owns its rows of
// every matrix, weights stream in through the ring (weight_ring.h), activations pass between blocks
// by exchanges (exchange.h), and every block keeps its own copy of the residual. docs/cuda.md gives
// the reasons.
//
// `Frames::step` runs one phase and returns whether its inputs had arrived. The device calls it
// until the launch is done; the host calls it for blocks in random order. Each phase begins by
// gathering what the phase before it put. The phases of a layer:
//
//   kQkv     x (the stack's input, or x of the layer before) -> norm -> q, k, v   all blocks
//   kAttend  global stack only: one key head's positions in kSplits parts ->
//            partial sums                                                         one (head, split)
//                                                                                 for each block
//   kO       partial sums, or the local stack's few positions -> attended ->
//            x + o                                                                all blocks
//   kUp      x -> norm -> hidden                                                  all blocks
//   kDown    hidden -> x                                                          all blocks
//
// After the global layers: kEnd (final norm). Then, for each slot: kBridge (where the slot takes h
// in), the local layers, kHead (logits of the ids that the slot may emit), kSample and, with
// several columns, kIds. Slot 0 may begin at kHead (`first_local`).
//
// Who may still read an exchange buffer: kO and kDown have at least one row tile for every block
// (plan.h). A block that has gathered x therefore knows that all others have put theirs, and so
// have read everything before it. Such a gather lies between any two uses of a buffer.
#pragma once

#include "params.h"

namespace uniaudio::cuda {

enum class Phase : int { kQkv, kAttend, kO, kUp, kDown, kEnd, kBridge, kHead, kSample, kIds };

template <int kColumns, int kDepth>
struct Frames {
  WeightRing<kDepth> ring;
  uint32_t epoch;               // of the latest exchange
  int round, slot, layer, job;  // slot -1: global stack; job: the next product of this round
  Phase phase;

  UA_HD void start(Block& block, const FrameParams& p) {
    ring.start(block.smem + p.at_ring, p.jobs, p.job_count, p.rounds, block.index, block.count);
    epoch = p.epoch;
    round = 0, slot = -1, layer = 0, job = 0;
    phase = Phase::kQkv;
    int32_t* const state = codes(block, p);
    block.threads([&](int tid) {
      for (int i = tid; i < state_size(p); i += kThreads) state[i] = 0;
    });
    block.sync();
  }
  UA_HD bool done(const FrameParams& p) const { return round == p.rounds; }

  UA_HD bool step(Block& block, const FrameParams& p) {
    const StackParams& s = slot < 0 ? p.global : p.local;
    switch (phase) {
      case Phase::kQkv: return qkv(block, p, s);
      case Phase::kAttend: return attend(block, p);
      case Phase::kO: return output(block, p, s);
      case Phase::kUp: return up(block, p, s);
      case Phase::kDown: return down(block, p, s);
      case Phase::kEnd: return end(block, p);
      case Phase::kBridge: return bridge(block, p);
      case Phase::kHead: return head(block, p);
      case Phase::kSample: return sample_slot(block, p);
      case Phase::kIds: return gather_ids(block, p);
    }
    return true;
  }

 private:
  // --- shared memory -----------------------------------------------------------------------------
  // int32: the last finished frame's ids [columns][K], the new frame's [columns][K], and for each
  // column: frames made, ended, error.
  static UA_HD int32_t* codes(Block& b, const FrameParams& p) {
    return reinterpret_cast<int32_t*>(b.smem + p.at_codes);
  }
  static UA_HD int32_t* fresh(Block& b, const FrameParams& p) {
    return codes(b, p) + p.columns * p.codebooks;
  }
  static UA_HD int32_t* made(Block& b, const FrameParams& p) {
    return fresh(b, p) + p.columns * p.codebooks;
  }
  // What was said beside an id, into a column's (frames made, ended, error).
  static UA_HD void hear(int32_t* state, uint32_t said) {
    if (said & kEndSaid && state[1] == kGoesOn) state[1] = kEndsHere;
    const int32_t error = int32_t(said & ~kEndSaid);
    if (error && state[2] == 0) state[2] = error;
  }
  static UA_HD int state_size(const FrameParams& p) { return p.columns * (2 * p.codebooks + 3); }
  // The slot's place among those that pass through the local stack.
  UA_HD int local_slot(const FrameParams& p) const { return slot - p.first_local; }
  UA_HD const LayerParams& layer_of(const FrameParams& p, const StackParams& s) const {
    return s.layer[layer + (slot < 0 ? 0 : local_slot(p) * s.slot_layers)];
  }
  UA_HD float* x_of(Block& b, const FrameParams& p) const {
    return reinterpret_cast<float*>(b.smem + (slot < 0 ? p.at_x : p.at_local_x));
  }
  static UA_HD float* parts_of(Block& b, const FrameParams& p) {
    return reinterpret_cast<float*>(b.smem + p.at_parts);
  }
  // [3][kMaxColumns]
  static UA_HD float* scale_of(Block& b, const FrameParams& p) {
    return reinterpret_cast<float*>(b.smem + p.at_scale);
  }

  UA_HD Operand operand(Block& b, const FrameParams& p, Format format, const Job& j) const {
    return {b.smem + p.at_operand, scale_of(b, p), operand_stride(j.k_tiles), format};
  }

  UA_HD int64_t position(const FrameParams& p, int c) const {
    return p.column[c].position + int64_t(round) * (p.slots == 0 ? p.columns : 1);
  }
  UA_HD bool next_round() {
    ++round;
    slot = -1, layer = 0, job = 0;
    phase = Phase::kQkv;
    return true;
  }

  // --- in persistent_layers.h --------------------------------------------------------------------
  UA_HD void fill(Block& block, const FrameParams& p, const Operand& o, const Job& j,
                  const float* x, int stride, int n, const Norm& norm);
  static UA_HD void finish_scales(Block& block, const FrameParams& p, float* stats);
  template <class F>
  UA_HD void multiply(Block& block, const FrameParams& p, const Job& j, const Operand& o,
                      const float* scale, int rows, F out);
  UA_HD void begin_frame(Block& block, const FrameParams& p, float* x);
  UA_HD bool begin_slot(Block& block, const FrameParams& p, float* x);
  UA_HD bool qkv(Block& block, const FrameParams& p, const StackParams& s);
  UA_HD bool output(Block& block, const FrameParams& p, const StackParams& s);
  UA_HD bool add(Block& block, const FrameParams& p, const StackParams& s, const Job& j,
                 const Operand& o, const float* scale, const float* bias, Word* to, Phase next);
  UA_HD bool up(Block& block, const FrameParams& p, const StackParams& s);
  UA_HD bool down(Block& block, const FrameParams& p, const StackParams& s);
  UA_HD bool end(Block& block, const FrameParams& p);
  UA_HD void normalise(Block& block, const FrameParams& p, const StackParams& s, float* x);

  // --- in persistent_attention.h -----------------------------------------------------------------
  UA_HD bool attend(Block& block, const FrameParams& p);
  template <class F>
  UA_HD bool gather_run(Block& block, const Word* from, int columns, int n, int stride, F sink);
  UA_HD bool join(Block& block, const FrameParams& p, float* flat);
  UA_HD bool attend_local(Block& block, const FrameParams& p, float* flat);

  // --- in persistent_slots.h ---------------------------------------------------------------------
  UA_HD bool bridge(Block& block, const FrameParams& p);
  UA_HD bool head(Block& block, const FrameParams& p);
  UA_HD bool sample_slot(Block& block, const FrameParams& p);
  UA_HD bool gather_ids(Block& block, const FrameParams& p);
};

}  // namespace uniaudio::cuda
