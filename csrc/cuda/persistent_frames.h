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
    block.threads([&](int tid) {
      if (tid >= p.columns) return;
      StreamState state;
      state.now = p.column[tid].now, state.words = p.column[tid].word_state;
      states(block, p)[tid] = state;
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
  // Of each column: where its stream is (known to the block that samples it); the ids that this
  // step hears [columns][K], and those that it makes [columns][K].
  static UA_HD StreamState* states(Block& b, const FrameParams& p) {
    return reinterpret_cast<StreamState*>(b.smem + p.at_codes);
  }
  static UA_HD int32_t* codes(Block& b, const FrameParams& p) {
    return reinterpret_cast<int32_t*>(states(b, p) + p.columns);
  }
  static UA_HD int32_t* fresh(Block& b, const FrameParams& p) {
    return codes(b, p) + p.columns * p.codebooks;
  }
  // The column that draws a column's ids, and whether this block does: with one column every block
  // does, which saves an exchange.
  static UA_HD int lead_of(const FrameParams& p, int c) {
    return p.column[c].conditional < 0 ? c : p.column[c].conditional;
  }
  static UA_HD bool draws(const Block& b, const FrameParams& p, int c) {
    return p.columns == 1 || lead_of(p, c) % b.count == b.index;
  }
  // The slot's place among those that pass through the local stack.
  UA_HD int local_slot(const FrameParams& p) const { return slot - p.rules.first_local; }
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

  // Ids that the sampling of this slot gives: those of given slots come with slot 0's.
  UA_HD int told_ids(const FrameParams& p) const { return slot == 0 ? 1 + p.rules.given : 1; }

  UA_HD int64_t position(const FrameParams& p, int c) const {
    return step_of(p.column[c], round * (p.slots == 0 ? p.columns : 1));
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
  UA_HD void finish_frame(Block& block, const FrameParams& p);
};

}  // namespace uniaudio::cuda
