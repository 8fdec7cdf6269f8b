// The rules that every session of an LM keeps, on any device: how many frames it has room for,
// which inputs it takes, when it may be guided, and that one thread at a time uses it.
// LmSession (lm_session.h) and cuda::Session (cuda/lm.h) build on these.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "step_rules.h"
#include "words.h"

namespace uniaudio {

// Continuous inputs of one name: values [count, width] that replace the embeddings of the frames
// `index` (distinct).
struct ContinuousInput {
  std::string name;
  const float* values;
  const int32_t* index;
  int64_t count;
};

// std::invalid_argument, in one line, on inputs that a model of this configuration does not take.
void check_frames(const LmConfig& config, const int32_t* frames, int64_t count);
// aligned: rows [count, S], or null.
void check_aligned(const LmConfig& config, const int32_t* aligned, int64_t count);
void check_continuous(const LmConfig& config, const std::vector<ContinuousInput>& inputs,
                      int64_t frames);
// Of teacher-forced logits: ids, aligned rows, and at most max_frames frames.
void check_logits(const LmConfig& config, const int32_t* frames, int64_t count,
                  const int32_t* aligned);

// The embeddings that continuous inputs put in place of frames' own.
class ReplacedRows {
 public:
  // embed(input, out) fills out [count, width] with one input's embeddings.
  template <class Embed>
  ReplacedRows(const std::vector<ContinuousInput>& inputs, int64_t frames, int64_t width,
               const Embed& embed)
      : rows_(inputs.empty() ? 0 : size_t(frames), nullptr) {
    for (const ContinuousInput& in : inputs) {
      float* const out = values_.emplace_back(size_t(in.count * width)).data();
      embed(in, out);
      for (int64_t i = 0; i < in.count; ++i) rows_[size_t(in.index[i])] = out + i * width;
    }
  }
  // [width], or null where frame `i` keeps its own embedding.
  const float* row(int64_t i) const { return rows_.empty() ? nullptr : rows_[size_t(i)]; }

 private:
  std::vector<std::vector<float>> values_;
  std::vector<const float*> rows_;
};

class Sampler;

// What a session counts, and its rules. Derived sessions hold the caches.
class SessionState {
 public:
  SessionState(const SessionState&) = delete;
  SessionState& operator=(const SessionState&) = delete;

  int64_t frames() const { return now_.count; }         // known and generated so far
  int64_t generated() const { return now_.generated; }  // since the last prefill
  int64_t capacity() const { return capacity_; }
  bool finished() const { return now_.finished; }  // the end came; prefill or reset starts anew
  bool guided() const { return unconditional() != nullptr; }
  int64_t frame_offset() const { return frame_offset_; }
  // Added to the frame index that keys the random numbers; std::invalid_argument below 0.
  void set_frame_offset(int64_t offset);

  // Stops a running `generate` before its next frame (on a device: its next launch). Where none is
  // running, the next one stops at once. That call takes the request back. Any thread.
  void cancel() { cancel_.store(true, std::memory_order_relaxed); }

 protected:
  // Room for `max_frames` frames in all. std::invalid_argument unless 1 <= max_frames <= the
  // model's own limit.
  SessionState(const LmConfig& config, int64_t max_frames);
  virtual ~SessionState() = default;

  virtual const void* model() const = 0;                  // sessions of one LM have the same
  virtual const SessionState* unconditional() const = 0;  // the other half under guidance, or null
  virtual const LmConfig& config() const = 0;

  // A call in progress. std::invalid_argument where another thread is in one.
  class Use {
   public:
    explicit Use(const SessionState& session);
    Use(Use&& o) noexcept : session_(o.session_) { o.session_ = nullptr; }
    Use& operator=(Use&&) = delete;
    ~Use();

   private:
    const SessionState* session_;
  };

  // std::invalid_argument where `count` more frames do not fit into this session or the
  // unconditional one.
  void check_room(const char* what, int64_t count) const;
  void check_guidance(const SessionState& unconditional, double scale) const;
  // std::invalid_argument where `count` frames are given after others were generated, and slots have
  // delays.
  void check_prefill(int64_t count) const;
  // std::invalid_argument where a given slot has neither words nor a forced id.
  void check_given(const Sampler& sampler) const;
  // std::invalid_argument on words that the model cannot be given.
  void set_words(const WordsConfig& words);
  void clear();                   // no frames, no words, no offset, no pending cancel
  void add_known(int64_t count);  // frames, after which the sequence goes on
  void copy_state(const SessionState& from);
  // Steps until there are `count` more frames.
  int64_t steps_to(int64_t count) const {
    return now_.count + count + config().max_delay() - now_.steps;
  }
  bool take_cancel() { return cancel_.exchange(false, std::memory_order_relaxed); }

  // What a call has to satisfy that generates `count` frames in each job's session: distinct
  // sessions of one LM, in no other use, with room, and with aligned rows that the model takes.
  // The sessions are in use until the result goes.
  template <class Job>
  static std::vector<Use> begin_generate(const std::vector<Job>& jobs, const LmConfig& config,
                                         int64_t count) {
    std::vector<const SessionState*> sessions;
    for (const Job& job : jobs) sessions.push_back(job.session);
    std::vector<Use> uses = begin_generate(sessions, count);
    for (const Job& job : jobs) check_aligned(config, job.aligned, count);
    return uses;
  }

  int64_t capacity_, frame_offset_ = 0;
  Progress now_;
  std::unique_ptr<Words> words_;  // where text is spoken word by word
  float guidance_ = 1.0f;
  bool guidance_aligned_ = true;  // whether the unconditional session takes in aligned rows too

 private:
  static std::vector<Use> begin_generate(const std::vector<const SessionState*>& sessions,
                                         int64_t count);

  std::atomic<bool> cancel_{false};
  mutable std::atomic<bool> in_use_{false};
};

}  // namespace uniaudio
