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

struct SamplingConfig {
  double temperature = 1.0;  // 0: greedy
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  bool greedy = false;  // the largest logit, the lowest id among equals
  // generated frames that the repetition guard looks back on, slot by slot; 0: off
  int64_t repetition_window = 0;
  // logits of ids in the window are divided by it where positive, multiplied where negative
  double repetition_penalty = 1.0;
  uint64_t seed = 0;
  std::vector<std::vector<IdRange>> allowed;  // per slot; empty: everything everywhere
  int64_t end_id = -1;                        // -1: none
  EndSlots end_slots = EndSlots::first;       // the slots in which the end id may come
  // frames to be generated (since the last prefill) before the end id is allowed
  int64_t min_frames = 0;
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
  };
  SamplingConfig config_;
  int num_codebooks_;
  std::vector<Slot> slots_;
};

}  // namespace uniaudio
