// One sequence of an LM: known frames in, generated frames out. A session owns its KV cache, which
// grows with its frames, and its history. Calls allocate before they begin; the frame loop
// allocates nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "multiscale_lm.h"
#include "sampling.h"
#include "session_rules.h"

namespace uniaudio {

class LmSession final : public SessionState {
 public:
  // Room for `max_frames` frames in all. std::invalid_argument unless 1 <= max_frames <= the
  // model's own limit.
  LmSession(std::shared_ptr<const MultiScaleLm> lm, int64_t max_frames);

  const MultiScaleLm& lm() const { return *lm_; }
  std::shared_ptr<const MultiScaleLm> shared_lm() const { return lm_; }

  // Appends `count` known frames [count, K] with aligned rows [count, S] or null. Nothing changes
  // when it throws.
  void prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
               const std::vector<ContinuousInput>& continuous);

  // Generates up to `count` frames into out [count, K] and returns how many. Fewer come when the
  // end id was drawn, whose frame is left out unless the sampling keeps it, or `cancel` was called.
  // aligned: rows [count, S], or null. `interrupted` (may be empty) is called between frames, at
  // most every 10 ms; it returns true to stop.
  int64_t generate(int64_t count, const SamplingConfig& sampling, const int32_t* aligned,
                   int32_t* out, const std::function<bool()>& interrupted = {});

  // Classifier-free guidance (arXiv 2207.12598): from now on ids are drawn from
  // u + scale (own - u), logit by logit, where u are the logits of the unconditional sequence.
  // `unconditional` holds the same sequence without the conditions. This session keeps a fork of
  // it, which takes in every frame that this one does, and its aligned row if `aligned`.
  // std::invalid_argument on another LM's session, one that is guided itself, or a scale outside
  // 0 .. 100.
  void set_guidance(const LmSession& unconditional, double scale, bool aligned = true);

  // From now on the row [D] is added to every input of the global stack, as a speaker's embedding
  // is. std::invalid_argument where there are frames already, or a value is not finite.
  void set_condition(const float* row);
  bool conditioned() const { return condition_.size() > 0; }

  // From now on slot 0, and a given slot 1, follow the words; what is drawn in slot 0 is when the
  // next one begins. Under guidance the unconditional session gets `none` in place of the text, and
  // slot 0 is not guided. std::invalid_argument on ids out of range, on a model whose slot 0 has a
  // delay, or with `ahead` and no given slot.
  void set_words(const WordsConfig& words);

  // Frames that the cache of a session with this many frames has room for; with delays, as many
  // steps more as the largest.
  static int64_t held_frames(int64_t frames, int64_t capacity);

  void reset();  // to no frames, no guidance and no condition, same capacity
  std::unique_ptr<LmSession> fork() const;
  std::string save() const;  // std::invalid_argument where it is guided
  // Ends guidance. std::invalid_argument, and no change, when the bytes are damaged, of another
  // model, or more than this capacity.
  void restore(const std::string& bytes);

  struct Job {  // one session's share of generate_batch
    LmSession* session;
    const SamplingConfig* sampling;
    const int32_t* aligned;
    int32_t* out;
    int64_t made = 0;
  };
  // Steps distinct sessions of one LM together; each one's frames are the same as alone.
  static void generate_batch(std::vector<Job>& jobs, int64_t count,
                             const std::function<bool()>& interrupted = {});

 private:
  class FrameLoop;
  const void* model() const override { return lm_.get(); }
  const LmSession* unconditional() const override { return unconditional_.get(); }
  void embed_last(const int32_t* ids) { lm_->embed_frame(ids, last_.data()); }
  const LmConfig& config() const override { return lm_->config(); }
  // Takes in the ids [K] of a step. row [K] becomes those that the next step hears.
  void take_ids(const int32_t* ids, int32_t* row);
  // The unconditional half: the same, of a step that may be part of the sequence and may have
  // completed frames.
  void follow(const int32_t* ids, bool taken, int64_t frames);
  // x [D]: the global stack's next input, with the aligned row [S] or null.
  void input_row(const int32_t* aligned, float* x) const;
  void make_room(int64_t count);               // in the caches, for `count` more frames
  int64_t held(int64_t frames) const;          // positions that the cache has room for then
  size_t history_bytes(int64_t frames) const;  // of these and what is drawn of later ones
  // Slides the cache, if need be, so that `rows` positions from `position` on fit.
  void slide(int64_t position, int64_t rows);

  std::shared_ptr<const MultiScaleLm> lm_;
  KvCache cache_;
  Buffer<int32_t> history_;       // [capacity + max_delay, K]
  Buffer<float> last_;            // embedding of the last step's ids, the next step's input
  std::vector<float> condition_;  // [D], or empty
  Sampler::Scratch sampling_;
  std::unique_ptr<LmSession> unconditional_;  // under guidance
};

}  // namespace uniaudio
