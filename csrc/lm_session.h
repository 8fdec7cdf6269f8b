// One sequence of an LM: known frames in, generated frames out. Owns its KV cache, history and
// scratch; everything is allocated when it is made, and nothing is while it generates.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "multiscale_lm.h"
#include "sampling.h"

namespace uniaudio {

class LmSession {
 public:
  // Room for `max_frames` frames in all. std::invalid_argument unless 1 <= max_frames <= the
  // model's own limit.
  LmSession(std::shared_ptr<const MultiScaleLm> lm, int64_t max_frames);
  LmSession(const LmSession&) = delete;

  const MultiScaleLm& lm() const { return *lm_; }
  std::shared_ptr<const MultiScaleLm> shared_lm() const { return lm_; }
  int64_t frames() const { return count_; }         // known and generated so far
  int64_t generated() const { return generated_; }  // since the last prefill
  int64_t capacity() const { return capacity_; }
  // the end id came; prefill or reset go on from there
  bool finished() const { return finished_; }
  int64_t frame_offset() const { return frame_offset_; }
  // added to the frame index that keys the random numbers; 0 or more
  void set_frame_offset(int64_t offset);

  // Appends `count` known frames [count, K] with aligned rows [count, S] or null. Nothing changes
  // when it throws.
  void prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
               const std::vector<ContinuousInput>& continuous);

  // Generates up to `count` frames into out [count, K] and returns how many: fewer when the end id
  // came or `cancel` was called. aligned rows [count, S] or null; `interrupted` (may be empty) is
  // asked at most every 10 ms between frames, and true stops too.
  int64_t generate(int64_t count, const SamplingConfig& sampling, const int32_t* aligned,
                   int32_t* out, const std::function<bool()>& interrupted = {});

  // Stops a running `generate` before its next frame, or the next one at once; that call takes the
  // request back. Any thread.
  void cancel() { cancel_.store(true, std::memory_order_relaxed); }

  // Classifier-free guidance (arXiv 2207.12598): from here on ids are drawn from plain + scale (own
  // - plain), logit by logit. `plain` has the same sequence without what is to be followed; a fork
  // of it goes along and takes in all that this session does. std::invalid_argument on another LM's
  // session, one that is guided itself, or a scale outside 0 .. 100.
  void set_guidance(const LmSession& plain, double scale);
  bool guided() const { return plain_ != nullptr; }

  void reset();  // to no frames and no guidance, same capacity
  std::unique_ptr<LmSession> fork() const;
  std::string save() const;  // std::invalid_argument where it is guided
  // Ends guidance. std::invalid_argument, and no change, when the bytes are damaged, of another
  // model, or more than this capacity.
  void restore(const std::string& bytes);

  struct Job {
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
  class Use;  // one call at a time
  void embed_last(const int32_t* ids) { lm_->embed_frame(ids, last_.data()); }
  void append(const int32_t* frame);  // one that was generated
  // std::invalid_argument where `count` more frames do not fit into this session or the one that
  // goes along.
  void check_room(const char* what, int64_t count) const;

  std::shared_ptr<const MultiScaleLm> lm_;
  int64_t capacity_, count_ = 0, generated_ = 0, frame_offset_ = 0;
  bool finished_ = false;
  KvCache cache_;
  Buffer<int32_t> history_;  // [capacity, K]
  Buffer<float> last_;       // embedding of the last known frame, which the next step takes in
  LmScratch scratch_;
  Sampler::Scratch sampling_;
  std::unique_ptr<LmSession> plain_;  // under guidance: what goes along
  float guidance_ = 1.0f;
  std::atomic<bool> cancel_{false};
  mutable std::atomic<bool> in_use_{false};
};

}  // namespace uniaudio
