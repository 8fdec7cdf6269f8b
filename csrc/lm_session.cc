#include "lm_session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(10);

}  // namespace

LmSession::LmSession(std::shared_ptr<const MultiScaleLm> lm, int64_t max_frames)
    : SessionState(lm->config(), max_frames), lm_(std::move(lm)) {
  const LmConfig& c = lm_->config();
  cache_ = KvCache(c.global, 0, lm_->kv_dtype());
  history_.allocate(size_t((capacity_ + c.max_delay()) * c.num_codebooks));
  std::fill_n(history_.data(), history_.size(), 0);
  last_.allocate(size_t(c.global.width));
  sampling_.reserve(c.vocab_size);
  lm_->embed_start(last_.data());
}

int64_t LmSession::held_frames(int64_t frames, int64_t capacity) {
  return std::min(capacity, round_up(frames + frames / 4 + 96, 16));
}

void LmSession::make_room(int64_t count) {
  const int64_t frames = now_.count + count, steps = frames + lm_->config().max_delay();
  if (std::min(steps, lm_->most_held()) > cache_.capacity()) cache_.grow(held(frames));
  if (unconditional_) unconditional_->make_room(count);
}

int64_t LmSession::held(int64_t frames) const {
  return std::min(held_frames(frames, capacity_) + lm_->config().max_delay(), lm_->most_held());
}

void LmSession::slide(int64_t position, int64_t rows) {
  if (position + rows - cache_.base() > cache_.capacity()) cache_.slide(position);
}

void LmSession::take_ids(const int32_t* ids, int32_t* row) {
  const Delays delays = config().delay_rules();
  for (int slot = 0; slot < delays.codebooks; ++slot)
    row[slot] = take_id(delays, now_, slot, ids[slot], true, history_.data());
}

void LmSession::follow(const int32_t* ids, bool taken, int64_t frames) {
  if (!taken) return;
  int32_t row[64];
  take_ids(ids, row);
  embed_last(row);
  ++now_.steps;
  now_.count += frames, now_.generated += frames;
}

void LmSession::input_row(const int32_t* aligned, float* x) const {
  std::memcpy(x, last_.data(), last_.size() * sizeof(float));
  if (aligned) lm_->add_aligned(aligned, x);
  for (size_t i = 0; i < condition_.size(); ++i) x[i] += condition_[i];
}

void LmSession::set_condition(const float* row) {
  const Use use(*this);
  if (now_.count > 0) {
    throw std::invalid_argument("set_condition: expected a session without frames, got " +
                                std::to_string(now_.count) + "; set it before the first prefill");
  }
  const auto d = size_t(lm_->config().global.width);
  if (!std::all_of(row, row + d, [](float v) { return std::isfinite(v); }))
    throw std::invalid_argument("set_condition: expected finite values, got infinity or NaN");
  condition_.assign(row, row + d);
}

void LmSession::set_words(const WordsConfig& words) {
  const Use use(*this);
  SessionState::set_words(words);
}

void LmSession::set_guidance(const LmSession& unconditional, double scale, bool aligned) {
  check_guidance(unconditional, scale);
  std::unique_ptr<LmSession> fork = unconditional.fork();
  const Use use(*this);
  unconditional_ = std::move(fork);
  guidance_ = float(scale);
  guidance_aligned_ = aligned;
}

void LmSession::prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
                        const std::vector<ContinuousInput>& continuous) {
  const Use use(*this);
  const LmConfig& c = lm_->config();
  const int64_t d = c.global.width, k = c.num_codebooks;
  check_room("prefill", count);
  check_frames(c, frames, count);
  check_aligned(c, aligned, count);
  check_continuous(c, continuous, count);
  check_prefill(count);
  const ReplacedRows replaced(continuous, count, d, [&](const ContinuousInput& in, float* out) {
    lm_->embed_continuous(in, out);
  });
  make_room(count);
  if (count > 0)
    std::memcpy(history_.data() + now_.count * k, frames, size_t(count * k) * sizeof(int32_t));
  {  // the unconditional session below borrows the same scratch
    const ScratchPool::Loan loan(lm_->scratch());
    LmScratch& scratch = *loan;
    const int64_t chunk = std::min(kPrefillRows, count);
    scratch.reserve(*lm_, chunk, 1, capacity_);
    const ThreadPool::Stretch stretch(lm_->pool());
    for (int64_t begin = 0; begin < count; begin += chunk) {
      const int64_t n = std::min(chunk, count - begin);
      slide(now_.count + begin, n);
      for (int64_t i = 0; i < n; ++i) {
        float* x = scratch.x.data() + i * d;
        input_row(aligned ? aligned + (begin + i) * c.aligned_slots : nullptr, x);
        scratch.rows[size_t(i)] = {&cache_, now_.count + begin + i};
        if (const float* const row = replaced.row(begin + i)) {
          std::memcpy(last_.data(), row, size_t(d) * sizeof(float));
        } else if (c.delays.empty()) {
          embed_last(frames + (begin + i) * k);
        } else {
          int32_t row[64];
          step_row(c.delay_rules(), now_.count + begin + i, history_.data(), 0, row);
          embed_last(row);
        }
      }
      lm_->global_pass(scratch, n, true);
    }
  }
  add_known(count);
  if (unconditional_)
    unconditional_->prefill(frames, count, guidance_aligned_ ? aligned : nullptr, continuous);
}

int64_t LmSession::generate(int64_t count, const SamplingConfig& sampling, const int32_t* aligned,
                            int32_t* out, const std::function<bool()>& interrupted) {
  std::vector<Job> jobs{{this, &sampling, aligned, out, 0}};
  generate_batch(jobs, count, interrupted);
  return jobs[0].made;
}

// The frames of one generate_batch. Every buffer is allocated here, before the loop; the stages of
// a frame allocate and lock nothing. Rows of a pass are the streams' sessions, then the
// unconditional sessions of those that are guided.
class LmSession::FrameLoop {
 public:
  FrameLoop(std::vector<Job>& jobs, int64_t count)
      : count_(count),
        lm_(jobs[0].session->lm()),
        c_(lm_.config()),
        loan_(lm_.scratch()),
        scratch_(*loan_) {
    size_t rows = jobs.size(), ranges = 0;
    int64_t longest = 0;
    samplers_.reserve(jobs.size());
    streams_.reserve(jobs.size());
    for (Job& job : jobs) {
      const LmSession& s = *job.session;
      const Sampler& sampler = samplers_.emplace_back(*job.sampling, c_);
      streams_.push_back({&job, &sampler});
      s.check_given(sampler);
      longest = std::max(longest, s.capacity_ + c_.max_delay());
      if (s.guided())
        ++rows, longest = std::max(longest, s.unconditional_->capacity_ + c_.max_delay());
      size_t most = 0;
      for (int slot = 0; slot < c_.num_codebooks; ++slot)
        most = std::max(most, sampler.needed(slot).size());
      ranges += most;
      job.made = 0;
    }
    scratch_.reserve(lm_, int64_t(rows), int64_t(rows), longest);
    codes_.resize(jobs.size() * size_t(c_.num_codebooks));
    which_.resize(rows);
    previous_.resize(rows * size_t(1 + c_.given_slots));
    needed_.reserve(ranges);
  }

  // Frame `frame` of the call. False, and nothing generated, when every session is done.
  bool step(int64_t frame) {
    drop_finished();
    if (streams_.empty()) return false;
    drawn_slots_ = c_.num_codebooks;
    while (drawn_slots_ > 0 && all_fixed(drawn_slots_ - 1)) --drawn_slots_;
    const int64_t rows = embed(frame);
    lm_.global_pass(scratch_, rows, false);
    lm_.bridge(scratch_, rows);
    for (int slot = 0; slot < c_.num_codebooks; ++slot) {
      const SlotRows slot_rows = choose_rows(slot);
      if (slot_rows.own == 0) break;
      merge_needed();
      if (slot >= c_.first_local() && slot < drawn_slots_)
        lm_.local_pass(scratch_, slot, slot_rows.all, which_.data(), previous_.data());
      const auto count = int64_t(needed_.size());
      if (count == 0) {
        // every stream's id is fixed
      } else if (slot == 0 && lm_.has_first_head()) {
        // Rows are those of the global pass, in its order.
        lm_.first_head(scratch_, slot_rows.all, needed_.data(), count, scratch_.logits.data());
      } else {
        lm_.head(scratch_, slot_rows.all, needed_.data(), count, scratch_.logits.data());
      }
      sample(slot, slot_rows.own);
    }
    append();
    return true;
  }

 private:
  struct Stream {
    Job* job;
    const Sampler* sampler;
    int32_t unconditional_row = -1;  // in the global pass; -1: not guided
  };
  struct SlotRows {
    int64_t own, all;  // rows of the local pass: the streams', and with the unconditional ones
  };

  void drop_finished() {
    size_t kept = 0;
    for (const Stream& stream : streams_) {
      LmSession& s = *stream.job->session;
      if (s.now_.finished || stream.job->made == count_ || s.take_cancel()) continue;
      streams_[kept++] = stream;
    }
    streams_.resize(kept, Stream{});
  }

  // The id that the slot has whatever is drawn, or -1.
  int32_t fixed_id(const Stream& stream, int slot) const {
    const Sampler& sampler = *stream.sampler;
    const LmSession& s = *stream.job->session;
    const int32_t known =
        known_id(delays_, s.now_, slot, sampler.config().keep_end_frame, s.history_.data());
    if (known >= 0) return known;
    if (c_.is_given(slot) && s.words_) return s.words_->state.second;
    return sampler.is_fixed(slot) ? sampler.final_id(slot, -1) : -1;
  }
  bool all_fixed(int slot) const {
    return std::all_of(streams_.begin(), streams_.end(),
                       [&](const Stream& s) { return fixed_id(s, slot) >= 0; });
  }

  // The inputs of the global pass; returns its rows.
  int64_t embed(int64_t frame) {
    int64_t rows = int64_t(streams_.size());
    for (size_t i = 0; i < streams_.size(); ++i) {
      Stream& stream = streams_[i];
      LmSession& s = *stream.job->session;
      embed_row(s, stream.job->aligned, frame, int64_t(i));
      stream.unconditional_row = s.guided() ? int32_t(rows) : -1;
      if (s.guided()) {
        embed_row(*s.unconditional_, s.guidance_aligned_ ? stream.job->aligned : nullptr, frame,
                  rows++);
      }
    }
    return rows;
  }
  void embed_row(LmSession& s, const int32_t* aligned, int64_t frame, int64_t row) {
    const int64_t d = c_.global.width;
    float* x = scratch_.x.data() + row * d;
    s.input_row(aligned ? aligned + frame * c_.aligned_slots : nullptr, x);
    s.slide(s.now_.steps, 1);
    scratch_.rows[size_t(row)] = {&s.cache_, s.now_.steps};
  }

  // The rows that draw an id at this slot, the ids before theirs, and the ids they may draw.
  SlotRows choose_rows(int slot) {
    const int64_t k = c_.num_codebooks;
    const int64_t ids = c_.previous_ids(slot);
    int64_t own = 0;
    needed_.clear();
    for (size_t i = 0; i < streams_.size(); ++i) {
      const Stream& stream = streams_[i];
      const SamplingConfig& c = stream.sampler->config();
      // without delays, the rest of a frame that is left out is not wanted
      const bool over = c_.delays.empty() && stream.job->session->now_.end >= 0;
      if ((over && !c.keep_end_frame) || (slot > 0 && c.tie_slots)) continue;
      which_[size_t(own)] = int32_t(i);
      for (int64_t j = 0; slot > 0 && j < ids; ++j)
        previous_[size_t(own * ids + j)] = codes_[i * size_t(k) + size_t(slot - ids + j)];
      ++own;
      if (fixed_id(stream, slot) >= 0) continue;
      const auto& ranges = stream.sampler->needed(slot);
      needed_.insert(needed_.end(), ranges.begin(), ranges.end());
    }
    int64_t all = own;  // the unconditional rows follow, in the same order
    for (int64_t j = 0; j < own; ++j) {
      if (const int32_t row = streams_[size_t(which_[size_t(j)])].unconditional_row; row >= 0) {
        which_[size_t(all)] = row;
        for (int64_t i = 0; i < ids; ++i)
          previous_[size_t(all * ids + i)] = previous_[size_t(j * ids + i)];
        ++all;
      }
    }
    return {own, all};
  }

  // The union of what the streams need: one pass over the head serves all.
  void merge_needed() {
    if (needed_.size() < 2) return;
    std::sort(needed_.begin(), needed_.end(),
              [](IdRange a, IdRange b) { return a.begin < b.begin; });
    size_t last = 0;
    for (size_t i = 1; i < needed_.size(); ++i) {
      if (needed_[i].begin <= needed_[last].end) {
        needed_[last].end = std::max(needed_[last].end, needed_[i].end);
      } else {
        needed_[++last] = needed_[i];
      }
    }
    needed_.resize(last + 1);
  }

  void sample(int slot, int64_t own) {
    const int64_t k = c_.num_codebooks, v = c_.vocab_size;
    int64_t unconditional = own;
    for (int64_t j = 0; j < own; ++j) {
      const size_t i = size_t(which_[size_t(j)]);
      Stream& stream = streams_[i];
      const Sampler& sampler = *stream.sampler;
      LmSession& s = *stream.job->session;
      if (const int32_t fixed = fixed_id(stream, slot); fixed >= 0) {
        codes_[i * size_t(k) + size_t(slot)] = fixed;
        if (s.guided()) ++unconditional;
        continue;
      }
      float* logits = scratch_.logits.data() + j * v;
      if (s.guided()) {
        const float* other = scratch_.logits.data() + unconditional++ * v;
        if (slot > 0 || !s.words_) guide(logits, other, s.guidance_, sampler.needed(slot));
      }
      const int64_t frame = frame_at(delays_, s.now_.steps, slot), known = known_frames(s.now_);
      const int32_t id =
          sampler.sample(s.sampling_, logits, slot, uint64_t(s.frame_offset_ + frame),
                         s.history_.data() + known * k, frame - known);
      int32_t* const codes = codes_.data() + i * size_t(k);
      codes[slot] = sampler.final_id(slot, id);
      if (slot == 0 && s.words_) codes[0] = next_id(s.words_->rules(), s.words_->state, id, frame);
      if (sampler.config().tie_slots) std::fill_n(codes, k, id);
      if (sampler.ends(slot, id)) note_end(s.now_, frame);
    }
  }
  static void guide(float* own, const float* unconditional, float scale,
                    const std::vector<IdRange>& needed) {
    for (const IdRange& range : needed) {
      for (int32_t id = range.begin; id < range.end; ++id)
        own[id] = unconditional[id] + scale * (own[id] - unconditional[id]);
    }
  }

  void append() {
    const int64_t k = c_.num_codebooks;
    for (size_t i = 0; i < streams_.size(); ++i) {
      Job& job = *streams_[i].job;
      LmSession& s = *job.session;
      const Sampler& sampler = *streams_[i].sampler;
      const int32_t* const ids = codes_.data() + i * size_t(k);
      const int64_t before = s.now_.count;
      int32_t row[64];
      s.take_ids(ids, row);
      const bool taken =
          end_step(s.now_, delays_.most, sampler.config().keep_end_frame,
                   s.words_ ? s.words_->state.end : -1, [&](int64_t frame, int64_t generated) {
                     return sampler.ends_frame(s.history_.data() + frame * k, generated);
                   });
      if (taken) s.embed_last(row);
      const int64_t made = s.now_.count - before;
      std::memcpy(job.out + job.made * k, s.history_.data() + before * k,
                  size_t(made * k) * sizeof(int32_t));
      job.made += made;
      if (s.guided()) s.unconditional_->follow(unconditional_ids(s, ids), taken, made);
    }
  }

  // What the unconditional session takes in of a step's ids [K]: without the text, where words say it.
  const int32_t* unconditional_ids(const LmSession& s, const int32_t* ids) {
    if (!s.words_) return ids;
    std::copy_n(ids, c_.num_codebooks, without_text_);
    std::fill_n(without_text_, 1 + c_.given_slots, s.words_->rules().none);
    return without_text_;
  }

  const int64_t count_;  // frames that each stream makes
  const MultiScaleLm& lm_;
  const LmConfig& c_;
  const ScratchPool::Loan loan_;
  LmScratch& scratch_;
  std::vector<Sampler> samplers_;
  const Delays delays_ = c_.delay_rules();
  std::vector<Stream> streams_;            // sessions still generating
  std::vector<int32_t> codes_;             // [streams, K]: the frame's ids
  std::vector<int32_t> which_, previous_;  // by row of the local pass: row of the global pass, id
  std::vector<IdRange> needed_;
  int32_t without_text_[64];
  int drawn_slots_ = 0;  // from this slot on, all streams' ids of this step are fixed
};

void LmSession::generate_batch(std::vector<Job>& jobs, int64_t count,
                               const std::function<bool()>& interrupted) {
  if (jobs.empty()) return;
  const MultiScaleLm& lm = jobs[0].session->lm();
  const std::vector<Use> uses = begin_generate(jobs, lm.config(), count);
  for (const Job& job : jobs) job.session->make_room(count);
  FrameLoop loop(jobs, count);
  const ThreadPool::Stretch stretch(lm.pool());
  auto polled = std::chrono::steady_clock::now();
  const int64_t steps = count > 0 ? count + lm.config().max_delay() : 0;
  for (int64_t f = 0; f < steps; ++f) {
    if (interrupted && std::chrono::steady_clock::now() - polled >= kPollEvery) {
      if (interrupted()) return;
      polled = std::chrono::steady_clock::now();
    }
    if (!loop.step(f)) return;
  }
}

void LmSession::reset() {
  const Use use(*this);
  clear();
  std::fill_n(history_.data(), history_.size(), 0);
  cache_.set_base(0);
  unconditional_.reset();
  condition_.clear();
  lm_->embed_start(last_.data());
}

std::unique_ptr<LmSession> LmSession::fork() const {
  const Use use(*this);
  auto s = std::make_unique<LmSession>(lm_, capacity_);
  s->copy_state(*this);
  s->cache_.grow(held(now_.count));
  s->cache_.copy_from(cache_, now_.steps - cache_.base());
  s->cache_.set_base(cache_.base());
  std::memcpy(s->history_.data(), history_.data(), history_bytes(now_.count));
  std::memcpy(s->last_.data(), last_.data(), last_.size() * sizeof(float));
  s->condition_ = condition_;
  if (unconditional_) s->unconditional_ = unconditional_->fork();
  return s;
}

size_t LmSession::history_bytes(int64_t frames) const {
  const LmConfig& c = lm_->config();
  return size_t((frames + c.max_delay()) * c.num_codebooks) * sizeof(int32_t);
}

}  // namespace uniaudio
