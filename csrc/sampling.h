// Choosing ids from logits. Random numbers are a pure function of (seed, frame, codebook), so that
// the same seed gives the same ids alone, in a batch, streamed or resumed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "multiscale_lm.h"
#include "tensor.h"

namespace uniaudio {

// Philox4x32-10 (Salmon et al., SC 2011).
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

enum class EndSlots { first, last, any };

// How an id is drawn from a slot's logits.
struct Drawing {
  double temperature = 1.0;  // 0: greedy
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  bool greedy = false;  // the largest logit, the lowest id among equals
  // generated frames that the repetition guard looks back on, slot by slot; 0: off
  int64_t repetition_window = 0;
  // logits of ids in the window are divided by it where positive, multiplied where negative
  double repetition_penalty = 1.0;

  bool is_greedy() const { return greedy || temperature == 0 || top_k == 1; }
};

struct SamplingConfig : Drawing {
  std::vector<Drawing> slots;  // of each slot; empty: the one above for all
  uint64_t seed = 0;
  std::vector<std::vector<IdRange>> allowed;  // per slot; empty: everything everywhere
  int64_t end_id = -1;                        // -1: none
  EndSlots end_slots = EndSlots::first;       // the slots in which the end id may come
  // frames to be generated (since the last prefill) before the end id is allowed
  int64_t min_frames = 0;
  // the frame in which the end id is drawn is completed, and is the last one
  bool keep_end_frame = false;
  // per slot the id that it has, whatever is drawn, or -1: the one drawn; empty: all drawn. Where
  // the end id may come, it is drawn nevertheless, and ends the sequence.
  std::vector<int32_t> forced;
  // per slot the id, or -1 for any: a frame with these ids ends the sequence as end_id does, once
  // there are min_frames; empty: none does
  std::vector<int32_t> end_frame;
  bool tie_slots = false;  // sample slot 0 only and repeat its id in all slots
};

// A checked SamplingConfig for one model.  std::invalid_argument when values are out of range.
class Sampler {
 public:
  Sampler(const SamplingConfig& config, const LmConfig& lm);

  const SamplingConfig& config() const { return config_; }
  // Ids whose logits slot `slot` may need (end id included), ascending and disjoint.
  const std::vector<IdRange>& needed(int slot) const { return slots_[size_t(slot)].with_end; }
  bool may_end(int slot, int64_t generated) const;
  bool ends(int slot, int32_t id) const { return id == config_.end_id && slots_[size_t(slot)].end; }
  // Whether the frame [K] that follows `generated` others ends the sequence by all of its ids.
  bool ends_frame(const int32_t* frame, int64_t generated) const;
  // Whether the slot's id is known without its logits.
  bool is_fixed(int slot) const {
    return slots_[size_t(slot)].forced >= 0 && !slots_[size_t(slot)].end;
  }
  // The id that a slot has where `id` was drawn.
  int32_t final_id(int slot, int32_t id) const {
    const int32_t forced = slots_[size_t(slot)].forced;
    return forced < 0 ? id : forced;
  }
  const Drawing& drawing(int slot) const {
    return config_.slots.empty() ? config_ : config_.slots[size_t(slot)];
  }

  // Buffers for `sample`, owned by the session.
  struct Scratch {
    Buffer<float> value, copy;
    Buffer<int32_t> id;
    Buffer<uint16_t> bucket;  // of each value in the histogram that finds where top_k or top_p cuts
    Buffer<uint32_t> count;
    Buffer<double> mass;
    std::vector<std::pair<float, int32_t>> order;
    Buffer<uint32_t> stamp;
    uint32_t stamp_now = 0;
    void reserve(int64_t vocab_size);
  };

  // The id of slot `slot` of frame `frame` from logits [V] (changed by the repetition guard).
  // history: the last `generated` frames [generated, K]. std::runtime_error when a logit that may
  // be emitted is not finite.
  int32_t sample(Scratch& scratch, float* logits, int slot, uint64_t frame, const int32_t* history,
                 int64_t generated) const;

 private:
  struct Slot {
    std::vector<IdRange> without_end, with_end;
    bool end = false;
    int32_t forced = -1;
  };
  SamplingConfig config_;
  int num_codebooks_;
  std::vector<Slot> slots_;
};

}  // namespace uniaudio
