#include "lm_session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(10);

struct SavedHeader {
  char magic[8];
  uint64_t fingerprint, bytes;
  int64_t count, generated, frame_offset, flags;
};
constexpr int64_t kFinished = 1, kConditioned = 2;  // flags
constexpr char kMagic[8] = {'U', 'A', 'S', 'E', 'S', 'S', '0', '1'};

uint64_t checksum(const char* data, size_t size) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t v;
    std::memcpy(&v, data + i, 8);
    h = (h ^ v) * 0x100000001B3ull;
    h ^= h >> 32;
  }
  for (size_t i = size / 8 * 8; i < size; ++i)
    h = (h ^ uint64_t(uint8_t(data[i]))) * 0x100000001B3ull;
  return h;
}

}  // namespace

LmSession::LmSession(std::shared_ptr<const MultiScaleLm> lm, int64_t max_frames)
    : SessionState(lm->config(), max_frames), lm_(std::move(lm)) {
  const LmConfig& c = lm_->config();
  cache_ = KvCache(c.global, 0, lm_->kv_dtype());
  history_.allocate(size_t(capacity_ * c.num_codebooks));
  last_.allocate(size_t(c.global.width));
  sampling_.reserve(c.vocab_size);
  lm_->embed_start(last_.data());
}

int64_t LmSession::held_frames(int64_t frames, int64_t capacity) {
  return std::min(capacity, round_up(frames + frames / 4 + 96, 16));
}

void LmSession::make_room(int64_t count) {
  const int64_t frames = count_ + count;
  if (std::min(frames, lm_->most_held()) > cache_.capacity()) cache_.grow(held(frames));
  if (unconditional_) unconditional_->make_room(count);
}

int64_t LmSession::held(int64_t frames) const {
  return std::min(held_frames(frames, capacity_), lm_->most_held());
}

void LmSession::slide(int64_t position, int64_t rows) {
  if (position + rows - cache_.base() > cache_.capacity()) cache_.slide(position);
}

void LmSession::append(const int32_t* frame) {
  const int64_t k = lm_->config().num_codebooks;
  embed_last(frame);
  std::memcpy(history_.data() + count_ * k, frame, size_t(k) * sizeof(int32_t));
  ++count_;
  ++generated_;
}

void LmSession::input_row(const int32_t* aligned, float* x) const {
  std::memcpy(x, last_.data(), last_.size() * sizeof(float));
  if (aligned) lm_->add_aligned(aligned, x);
  for (size_t i = 0; i < condition_.size(); ++i) x[i] += condition_[i];
}

void LmSession::set_condition(const float* row) {
  const Use use(*this);
  if (count_ > 0) {
    throw std::invalid_argument("set_condition: expected a session without frames, got " +
                                std::to_string(count_) + "; set it before the first prefill");
  }
  const auto d = size_t(lm_->config().global.width);
  if (!std::all_of(row, row + d, [](float v) { return std::isfinite(v); }))
    throw std::invalid_argument("set_condition: expected finite values, got infinity or NaN");
  condition_.assign(row, row + d);
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
  const ReplacedRows replaced(continuous, count, d, [&](const ContinuousInput& in, float* out) {
    lm_->embed_continuous(in, out);
  });
  make_room(count);
  {  // the unconditional session below borrows the same scratch
    const ScratchPool::Loan loan(lm_->scratch());
    LmScratch& scratch = *loan;
    const int64_t chunk = std::min(kPrefillRows, count);
    scratch.reserve(*lm_, chunk, 1, capacity_);
    const ThreadPool::Stretch stretch(lm_->pool());
    for (int64_t begin = 0; begin < count; begin += chunk) {
      const int64_t n = std::min(chunk, count - begin);
      slide(count_ + begin, n);
      for (int64_t i = 0; i < n; ++i) {
        float* x = scratch.x.data() + i * d;
        input_row(aligned ? aligned + (begin + i) * c.aligned_slots : nullptr, x);
        scratch.rows[size_t(i)] = {&cache_, count_ + begin + i};
        if (const float* const row = replaced.row(begin + i)) {
          std::memcpy(last_.data(), row, size_t(d) * sizeof(float));
        } else {
          embed_last(frames + (begin + i) * k);
        }
      }
      lm_->global_pass(scratch, n, true);
    }
  }
  if (count > 0)
    std::memcpy(history_.data() + count_ * k, frames, size_t(count * k) * sizeof(int32_t));
  count_ += count;
  generated_ = 0;
  finished_ = false;
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
  explicit FrameLoop(std::vector<Job>& jobs)
      : lm_(jobs[0].session->lm()), c_(lm_.config()), loan_(lm_.scratch()), scratch_(*loan_) {
    size_t rows = jobs.size(), ranges = 0;
    int64_t longest = 0;
    samplers_.reserve(jobs.size());
    streams_.reserve(jobs.size());
    for (Job& job : jobs) {
      const LmSession& s = *job.session;
      const Sampler& sampler = samplers_.emplace_back(*job.sampling, c_);
      streams_.push_back({&job, &sampler});
      longest = std::max(longest, s.capacity_);
      if (s.guided()) ++rows, longest = std::max(longest, s.unconditional_->capacity_);
      size_t most = 0;
      for (int slot = 0; slot < c_.num_codebooks; ++slot)
        most = std::max(most, sampler.needed(slot).size());
      ranges += most;
      job.made = 0;
      for (int slot = drawn_slots_; slot < c_.num_codebooks; ++slot)
        if (!sampler.is_fixed(slot)) drawn_slots_ = slot + 1;
    }
    scratch_.reserve(lm_, int64_t(rows), int64_t(rows), longest);
    codes_.resize(jobs.size() * size_t(c_.num_codebooks));
    which_.resize(rows);
    previous_.resize(rows);
    needed_.reserve(ranges);
  }

  // Frame `frame` of the call. False, and nothing generated, when every session is done.
  bool step(int64_t frame) {
    drop_finished();
    if (streams_.empty()) return false;
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
    bool ended = false;              // the end id came in this frame
  };
  struct SlotRows {
    int64_t own, all;  // rows of the local pass: the streams', and with the unconditional ones
  };

  void drop_finished() {
    size_t kept = 0;
    for (const Stream& stream : streams_) {
      LmSession& s = *stream.job->session;
      if (s.finished_ || s.take_cancel()) continue;
      streams_[kept++] = stream;
    }
    streams_.resize(kept, Stream{});
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
      stream.ended = false;
    }
    return rows;
  }
  void embed_row(LmSession& s, const int32_t* aligned, int64_t frame, int64_t row) {
    const int64_t d = c_.global.width;
    float* x = scratch_.x.data() + row * d;
    s.input_row(aligned ? aligned + frame * c_.aligned_slots : nullptr, x);
    s.slide(s.count_, 1);
    scratch_.rows[size_t(row)] = {&s.cache_, s.count_};
  }

  // The rows that draw an id at this slot, the ids before theirs, and the ids they may draw.
  SlotRows choose_rows(int slot) {
    const int64_t k = c_.num_codebooks;
    int64_t own = 0;
    needed_.clear();
    for (size_t i = 0; i < streams_.size(); ++i) {
      const Stream& stream = streams_[i];
      const SamplingConfig& c = stream.sampler->config();
      if ((stream.ended && !c.keep_end_frame) || (slot > 0 && c.tie_slots)) continue;
      which_[size_t(own)] = int32_t(i);
      if (slot > 0) previous_[size_t(own)] = codes_[i * size_t(k) + size_t(slot) - 1];
      ++own;
      if (stream.sampler->is_fixed(slot)) continue;
      const auto& ranges = stream.sampler->needed(slot);
      needed_.insert(needed_.end(), ranges.begin(), ranges.end());
    }
    int64_t all = own;  // the unconditional rows follow, in the same order
    for (int64_t j = 0; j < own; ++j) {
      if (const int32_t row = streams_[size_t(which_[size_t(j)])].unconditional_row; row >= 0) {
        which_[size_t(all)] = row;
        previous_[size_t(all++)] = previous_[size_t(j)];
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
      if (sampler.is_fixed(slot)) {
        codes_[i * size_t(k) + size_t(slot)] = sampler.final_id(slot, -1);
        if (s.guided()) ++unconditional;
        continue;
      }
      float* logits = scratch_.logits.data() + j * v;
      if (s.guided())
        guide(logits, scratch_.logits.data() + unconditional++ * v, s.guidance_,
              sampler.needed(slot));
      const int32_t* history = s.history_.data() + (s.count_ - s.generated_) * k;
      const int32_t id = sampler.sample(
          s.sampling_, logits, slot, uint64_t(s.frame_offset_ + s.count_), history, s.generated_);
      int32_t* const codes = codes_.data() + i * size_t(k);
      codes[slot] = sampler.final_id(slot, id);
      if (sampler.config().tie_slots) std::fill_n(codes, k, id);
      if (sampler.ends(slot, id)) stream.ended = true;
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
      const int32_t* frame = codes_.data() + i * size_t(k);
      if (streams_[i].ended || sampler.ends_frame(frame, s.generated_)) {
        s.finished_ = true;
        if (!sampler.config().keep_end_frame) continue;
      }
      std::memcpy(job.out + job.made * k, frame, size_t(k) * sizeof(int32_t));
      ++job.made;
      s.append(frame);
      if (s.guided()) s.unconditional_->append(frame);
    }
  }

  const MultiScaleLm& lm_;
  const LmConfig& c_;
  const ScratchPool::Loan loan_;
  LmScratch& scratch_;
  std::vector<Sampler> samplers_;
  std::vector<Stream> streams_;            // sessions still generating
  std::vector<int32_t> codes_;             // [streams, K]: the frame's ids
  std::vector<int32_t> which_, previous_;  // by row of the local pass: row of the global pass, id
  std::vector<IdRange> needed_;
  int drawn_slots_ = 0;  // from this slot on, all streams' ids are fixed
};

void LmSession::generate_batch(std::vector<Job>& jobs, int64_t count,
                               const std::function<bool()>& interrupted) {
  if (jobs.empty()) return;
  const MultiScaleLm& lm = jobs[0].session->lm();
  const std::vector<Use> uses = begin_generate(jobs, lm.config(), count);
  for (const Job& job : jobs) job.session->make_room(count);
  FrameLoop loop(jobs);
  const ThreadPool::Stretch stretch(lm.pool());
  auto polled = std::chrono::steady_clock::now();
  for (int64_t f = 0; f < count; ++f) {
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
  cache_.set_base(0);
  unconditional_.reset();
  condition_.clear();
  lm_->embed_start(last_.data());
}

std::unique_ptr<LmSession> LmSession::fork() const {
  const Use use(*this);
  auto s = std::make_unique<LmSession>(lm_, capacity_);
  s->copy_counts(*this);
  s->cache_.grow(held(count_));
  s->cache_.copy_from(cache_, count_ - cache_.base());
  s->cache_.set_base(cache_.base());
  std::memcpy(s->history_.data(), history_.data(),
              size_t(count_ * lm_->config().num_codebooks) * sizeof(int32_t));
  std::memcpy(s->last_.data(), last_.data(), last_.size() * sizeof(float));
  s->condition_ = condition_;
  if (unconditional_) s->unconditional_ = unconditional_->fork();
  return s;
}

// Header, history, last embedding, condition if any, cache, checksum of all before it.
std::string LmSession::save() const {
  const Use use(*this);
  if (guided())
    throw std::invalid_argument(
        "save: expected a session without guidance; save it before set_guidance");
  const size_t history = size_t(count_ * lm_->config().num_codebooks) * sizeof(int32_t),
               last = last_.size() * sizeof(float);
  // As it is where it has slid to this frame, which restore knows too.
  KvCache slid;
  const int64_t base = KvCache::base_of(lm_->config().global, count_), packed = count_ - base;
  if (base > cache_.base()) {
    slid = KvCache(lm_->config().global, count_ - cache_.base(), lm_->kv_dtype());
    slid.copy_from(cache_, count_ - cache_.base());
    slid.set_base(cache_.base());
    slid.slide(count_);
  }
  const KvCache& kept = base > cache_.base() ? slid : cache_;
  const size_t cache = kept.packed_bytes(packed), condition = condition_.size() * sizeof(float);
  SavedHeader h{};
  std::memcpy(h.magic, kMagic, 8);
  h.fingerprint = lm_->fingerprint();
  h.bytes = sizeof h + history + last + condition + cache + 8;
  h.count = count_, h.generated = generated_, h.frame_offset = frame_offset_,
  h.flags = (finished_ ? kFinished : 0) | (conditioned() ? kConditioned : 0);
  std::string out(h.bytes, '\0');
  char* p = out.data();
  std::memcpy(p, &h, sizeof h);
  std::memcpy(p + sizeof h, history_.data(), history);
  std::memcpy(p + sizeof h + history, last_.data(), last);
  if (condition) std::memcpy(p + sizeof h + history + last, condition_.data(), condition);
  kept.pack(packed, p + sizeof h + history + last + condition);
  const uint64_t sum = checksum(p, h.bytes - 8);
  std::memcpy(p + h.bytes - 8, &sum, 8);
  return out;
}

void LmSession::restore(const std::string& bytes) {
  const Use use(*this);
  const auto refuse = [](const std::string& why) {
    throw std::invalid_argument("restore: " + why);
  };
  SavedHeader h;
  if (bytes.size() < sizeof h + 8)
    refuse("expected a saved session, got " + std::to_string(bytes.size()) +
           " bytes; save it again");
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::memcmp(h.magic, kMagic, 8) != 0)
    refuse("expected a session saved by this version, got other bytes; save it again");
  if (h.fingerprint != lm_->fingerprint())
    refuse("expected a session of this model and dtype, got another's; load that model");
  if (h.count < 0 || h.count > capacity_) {
    refuse("expected at most " + std::to_string(capacity_) + " frames, got " +
           std::to_string(h.count) + "; make the session with a larger max_frames");
  }
  const LmConfig& c = lm_->config();
  const size_t history = size_t(h.count * c.num_codebooks) * sizeof(int32_t),
               last = last_.size() * sizeof(float), condition = h.flags & kConditioned ? last : 0;
  const int64_t base = KvCache::base_of(c.global, h.count), held_positions = h.count - base;
  const size_t cache = cache_.packed_bytes(held_positions);
  const size_t expected = sizeof h + history + last + condition + cache + 8;
  uint64_t sum = 0;
  if (bytes.size() == expected) std::memcpy(&sum, bytes.data() + expected - 8, 8);
  if (bytes.size() != expected || h.bytes != expected ||
      sum != checksum(bytes.data(), expected - 8))
    refuse("the saved session is cut short or damaged; save it again");
  if (h.generated < 0 || h.generated > h.count || h.frame_offset < 0 ||
      (h.flags & ~(kFinished | kConditioned)))
    refuse("the saved session has impossible counts; save it again");
  std::vector<int32_t> ids(history / sizeof(int32_t));
  if (history) std::memcpy(ids.data(), bytes.data() + sizeof h, history);
  check_frames(c, ids.data(), h.count);
  const char* const packed = bytes.data() + sizeof h + history + last + condition;
  std::vector<float> embedding((last + condition) / sizeof(float));  // and the condition
  std::memcpy(embedding.data(), bytes.data() + sizeof h + history, last + condition);
  if (!cache_.all_finite(held_positions, packed) ||
      !std::all_of(embedding.begin(), embedding.end(), [](float v) { return std::isfinite(v); })) {
    refuse("the saved session holds infinite or NaN values; save it again");
  }
  if (history) std::memcpy(history_.data(), ids.data(), history);
  std::memcpy(last_.data(), embedding.data(), last);
  cache_.grow(held(h.count));
  cache_.set_base(base);
  cache_.unpack(held_positions, packed);
  clear();
  count_ = h.count, generated_ = h.generated, frame_offset_ = h.frame_offset,
  finished_ = (h.flags & kFinished) != 0;
  unconditional_.reset();
  condition_.assign(embedding.begin() + int64_t(last_.size()), embedding.end());
}

}  // namespace uniaudio
