#include "lm_session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio {
namespace {

constexpr int64_t kPrefillRows = 128;  // known frames that go through the global stack together
constexpr auto kPollEvery = std::chrono::milliseconds(10);

struct SavedHeader {
  char magic[8];
  uint64_t fingerprint, bytes;
  int64_t count, generated, frame_offset, finished;
};
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

class LmSession::Use {
 public:
  explicit Use(const LmSession& s) : s_(s) {
    if (s.in_use_.exchange(true, std::memory_order_acquire)) {
      throw std::runtime_error(
          "session: expected one call at a time, but another thread is using it; fork it or wait");
    }
  }
  ~Use() { s_.in_use_.store(false, std::memory_order_release); }
  Use(const Use&) = delete;

 private:
  const LmSession& s_;
};

LmSession::LmSession(std::shared_ptr<const MultiScaleLm> lm, int64_t max_frames)
    : lm_(std::move(lm)), capacity_(max_frames) {
  const LmConfig& c = lm_->config();
  if (max_frames < 1 || max_frames > c.max_frames) {
    throw std::invalid_argument("max_frames: expected 1 to the model's limit " +
                                std::to_string(c.max_frames) + ", got " +
                                std::to_string(max_frames));
  }
  cache_ = KvCache(c.global, capacity_, lm_->kv_dtype());
  history_.allocate(size_t(capacity_ * c.num_codebooks));
  last_.allocate(size_t(c.global.width));
  scratch_.reserve(*lm_, std::min(kPrefillRows, capacity_), 1, capacity_);
  sampling_.reserve(c.vocab_size);
  lm_->embed_start(last_.data());
}

void LmSession::set_frame_offset(int64_t offset) {
  if (offset < 0)
    throw std::invalid_argument("frame_offset: expected 0 or more, got " + std::to_string(offset));
  const Use use(*this);
  frame_offset_ = offset;
}

void LmSession::check_room(const char* what, int64_t count) const {
  if (count > capacity_ - count_) {
    throw std::invalid_argument(
        std::string(what) + ": expected at most " + std::to_string(capacity_ - count_) +
        " more frames (capacity " + std::to_string(capacity_) + ", " + std::to_string(count_) +
        " used), got " + std::to_string(count) + "; make the session with a larger max_frames");
  }
  if (plain_) plain_->check_room(what, count);
}

void LmSession::append(const int32_t* frame) {
  const int64_t k = lm_->config().num_codebooks;
  embed_last(frame);
  std::memcpy(history_.data() + count_ * k, frame, size_t(k) * sizeof(int32_t));
  ++count_;
  ++generated_;
}

void LmSession::set_guidance(const LmSession& plain, double scale) {
  if (&plain == this || plain.lm_ != lm_ || plain.plain_) {
    throw std::invalid_argument(
        "set_guidance: expected another session of the same LM that is not guided itself");
  }
  if (!(scale >= 0 && scale <= 100))
    throw std::invalid_argument("set_guidance: expected a scale from 0 to 100, got " +
                                std::to_string(scale));
  std::unique_ptr<LmSession> fork = plain.fork();
  const Use use(*this);
  plain_ = std::move(fork);
  guidance_ = float(scale);
}

void LmSession::prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
                        const std::vector<ContinuousInput>& continuous) {
  const Use use(*this);
  const LmConfig& c = lm_->config();
  const int64_t d = c.global.width, k = c.num_codebooks;
  check_room("prefill", count);
  lm_->check_frames(frames, count);
  lm_->check_aligned(aligned, count);
  lm_->check_continuous(continuous, count);
  std::vector<std::vector<float>> mapped;
  std::vector<const float*> replaced(continuous.empty() ? 0 : size_t(count), nullptr);
  for (const ContinuousInput& in : continuous) {
    mapped.emplace_back(size_t(in.count * d));
    lm_->embed_continuous(in, mapped.back().data());
    for (int64_t i = 0; i < in.count; ++i)
      replaced[size_t(in.index[i])] = mapped.back().data() + i * d;
  }
  const int64_t chunk = std::min(kPrefillRows, capacity_);
  const ThreadPool::Stretch stretch(lm_->pool());
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    for (int64_t i = 0; i < n; ++i) {
      float* x = scratch_.x.data() + i * d;
      std::memcpy(x, last_.data(), size_t(d) * sizeof(float));
      if (aligned) lm_->add_aligned(aligned + (begin + i) * c.aligned_slots, x);
      scratch_.rows[size_t(i)] = {&cache_, count_ + begin + i};
      if (!replaced.empty() && replaced[size_t(begin + i)]) {
        std::memcpy(last_.data(), replaced[size_t(begin + i)], size_t(d) * sizeof(float));
      } else {
        embed_last(frames + (begin + i) * k);
      }
    }
    lm_->global_pass(scratch_, n, true);
  }
  if (count > 0)
    std::memcpy(history_.data() + count_ * k, frames, size_t(count * k) * sizeof(int32_t));
  count_ += count;
  generated_ = 0;
  finished_ = false;
  if (plain_) plain_->prefill(frames, count, aligned, continuous);
}

int64_t LmSession::generate(int64_t count, const SamplingConfig& sampling, const int32_t* aligned,
                            int32_t* out, const std::function<bool()>& interrupted) {
  std::vector<Job> jobs{{this, &sampling, aligned, out, 0}};
  generate_batch(jobs, count, interrupted);
  return jobs[0].made;
}

void LmSession::generate_batch(std::vector<Job>& jobs, int64_t count,
                               const std::function<bool()>& interrupted) {
  if (count < 0)
    throw std::invalid_argument("generate: expected 0 or more frames, got " +
                                std::to_string(count));
  if (jobs.empty()) return;
  const MultiScaleLm& lm = jobs[0].session->lm();
  const LmConfig& c = lm.config();
  const int64_t d = c.global.width, k = c.num_codebooks, v = c.vocab_size;
  std::vector<std::unique_ptr<Use>> uses;
  std::vector<Sampler> samplers;
  for (Job& job : jobs) {
    LmSession& s = *job.session;
    if (&s.lm() != &lm)
      throw std::invalid_argument("generate_batch: expected sessions of one LM, got several");
    uses.push_back(std::make_unique<Use>(s));
    samplers.emplace_back(*job.sampling, c);
    s.check_room("generate", count);
    lm.check_aligned(job.aligned, count);
    job.made = 0;
  }
  // One session's buffers serve all; they grow here, before the loop. Rows: the jobs' sessions,
  // then those that go along with them.
  int64_t most = int64_t(jobs.size()), longest = 0;
  LmScratch& scratch = jobs[0].session->scratch_;
  for (const Job& job : jobs) {
    const LmSession& s = *job.session;
    longest = std::max({longest, s.capacity_, s.plain_ ? s.plain_->capacity_ : 0});
    most += s.plain_ ? 1 : 0;
  }
  scratch.reserve(lm, std::max(most, std::min(kPrefillRows, jobs[0].session->capacity_)), most,
                  longest);
  std::vector<Job*> active;             // sessions still generating
  std::vector<const Sampler*> sampler;  // theirs
  std::vector<int32_t> codes(jobs.size() * size_t(k)), which(static_cast<size_t>(most)),
      previous(static_cast<size_t>(most)), along(jobs.size());
  std::vector<char> ended(jobs.size());
  std::vector<IdRange> needed;
  active.reserve(jobs.size());
  sampler.reserve(jobs.size());
  size_t most_ranges = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    active.push_back(&jobs[i]);
    sampler.push_back(&samplers[i]);
    size_t ranges = 0;
    for (int slot = 0; slot < k; ++slot) ranges = std::max(ranges, samplers[i].needed(slot).size());
    most_ranges += ranges;
  }
  needed.reserve(most_ranges);

  const ThreadPool::Stretch stretch(lm.pool());
  auto polled = std::chrono::steady_clock::now();
  for (int64_t f = 0; f < count; ++f) {
    if (interrupted && std::chrono::steady_clock::now() - polled >= kPollEvery) {
      if (interrupted()) return;
      polled = std::chrono::steady_clock::now();
    }
    size_t kept = 0;
    for (size_t i = 0; i < active.size(); ++i) {
      LmSession& s = *active[i]->session;
      if (s.finished_ || s.cancel_.exchange(false, std::memory_order_relaxed)) continue;
      active[kept] = active[i];
      sampler[kept++] = sampler[i];
    }
    active.resize(kept);
    sampler.resize(kept);
    if (kept == 0) return;

    const int64_t n = int64_t(kept);
    int64_t rows = n;
    const auto feed = [&](LmSession& s, const Job& job, int64_t row) {
      float* x = scratch.x.data() + row * d;
      std::memcpy(x, s.last_.data(), size_t(d) * sizeof(float));
      if (job.aligned) lm.add_aligned(job.aligned + f * c.aligned_slots, x);
      scratch.rows[size_t(row)] = {&s.cache_, s.count_};
    };
    for (int64_t i = 0; i < n; ++i) {
      const Job& job = *active[size_t(i)];
      feed(*job.session, job, i);
      along[size_t(i)] = job.session->plain_ ? int32_t(rows) : -1;
      if (job.session->plain_) feed(*job.session->plain_, job, rows++);
      ended[size_t(i)] = 0;
    }
    lm.global_pass(scratch, rows, false);
    lm.bridge(scratch, rows);
    for (int slot = 0; slot < k; ++slot) {
      int64_t m = 0;
      needed.clear();
      for (int64_t i = 0; i < n; ++i) {
        if (ended[size_t(i)] || (slot > 0 && sampler[size_t(i)]->config().tie_slots)) continue;
        which[size_t(m)] = int32_t(i);
        if (slot > 0) previous[size_t(m)] = codes[size_t(i * k + slot - 1)];
        ++m;
        const auto& ranges = sampler[size_t(i)]->needed(slot);
        needed.insert(needed.end(), ranges.begin(), ranges.end());
      }
      if (m == 0) break;
      int64_t pass = m;  // and those that go along, in the same order
      for (int64_t j = 0; j < m; ++j) {
        if (const int32_t row = along[size_t(which[size_t(j)])]; row >= 0) {
          which[size_t(pass)] = row;
          previous[size_t(pass++)] = previous[size_t(j)];
        }
      }
      if (m > 1) {  // the union: one pass over the head serves all
        std::sort(needed.begin(), needed.end(),
                  [](IdRange a, IdRange b) { return a.begin < b.begin; });
        size_t last = 0;
        for (size_t i = 1; i < needed.size(); ++i) {
          if (needed[i].begin <= needed[last].end) {
            needed[last].end = std::max(needed[last].end, needed[i].end);
          } else {
            needed[++last] = needed[i];
          }
        }
        needed.resize(last + 1);
      }
      lm.local_pass(scratch, slot, pass, which.data(), previous.data());
      lm.head(scratch, pass, needed.data(), int64_t(needed.size()), scratch.logits.data());
      int64_t other = m;
      for (int64_t j = 0; j < m; ++j) {
        const int64_t i = which[size_t(j)];
        LmSession& s = *active[size_t(i)]->session;
        if (s.plain_) {
          float* own = scratch.logits.data() + j * v;
          const float* plain = scratch.logits.data() + other++ * v;
          for (const IdRange& range : sampler[size_t(i)]->needed(slot)) {
            for (int32_t id = range.begin; id < range.end; ++id)
              own[id] = plain[id] + s.guidance_ * (own[id] - plain[id]);
          }
        }
        const int32_t* history = s.history_.data() + (s.count_ - s.generated_) * k;
        const int32_t id =
            sampler[size_t(i)]->sample(s.sampling_, scratch.logits.data() + j * v, slot,
                                       uint64_t(s.frame_offset_ + s.count_), history, s.generated_);
        codes[size_t(i * k + slot)] = id;
        if (sampler[size_t(i)]->config().tie_slots) std::fill_n(codes.begin() + i * k, k, id);
        if (sampler[size_t(i)]->ends(slot, id)) ended[size_t(i)] = 1;
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      Job& job = *active[size_t(i)];
      LmSession& s = *job.session;
      if (ended[size_t(i)]) {
        s.finished_ = true;
        continue;
      }
      const int32_t* frame = codes.data() + i * k;
      std::memcpy(job.out + job.made * k, frame, size_t(k) * sizeof(int32_t));
      ++job.made;
      s.append(frame);
      if (s.plain_) s.plain_->append(frame);
    }
  }
}

void LmSession::reset() {
  const Use use(*this);
  count_ = generated_ = frame_offset_ = 0;
  finished_ = false;
  plain_.reset();
  cancel_.store(false);
  lm_->embed_start(last_.data());
}

std::unique_ptr<LmSession> LmSession::fork() const {
  const Use use(*this);
  auto s = std::make_unique<LmSession>(lm_, capacity_);
  s->count_ = count_;
  s->generated_ = generated_;
  s->frame_offset_ = frame_offset_;
  s->finished_ = finished_;
  s->cache_.copy_from(cache_, count_);
  std::memcpy(s->history_.data(), history_.data(),
              size_t(count_ * lm_->config().num_codebooks) * sizeof(int32_t));
  std::memcpy(s->last_.data(), last_.data(), last_.size() * sizeof(float));
  if (plain_) s->plain_ = plain_->fork();
  s->guidance_ = guidance_;
  return s;
}

// Header, history, last embedding, cache, checksum of all before it.
std::string LmSession::save() const {
  const Use use(*this);
  if (plain_)
    throw std::invalid_argument(
        "save: expected a session without guidance; save it before set_guidance");
  const size_t history = size_t(count_ * lm_->config().num_codebooks) * sizeof(int32_t),
               last = last_.size() * sizeof(float);
  const size_t cache = cache_.packed_bytes(count_);
  SavedHeader h{};
  std::memcpy(h.magic, kMagic, 8);
  h.fingerprint = lm_->fingerprint();
  h.bytes = sizeof h + history + last + cache + 8;
  h.count = count_, h.generated = generated_, h.frame_offset = frame_offset_,
  h.finished = finished_;
  std::string out(h.bytes, '\0');
  char* p = out.data();
  std::memcpy(p, &h, sizeof h);
  std::memcpy(p + sizeof h, history_.data(), history);
  std::memcpy(p + sizeof h + history, last_.data(), last);
  cache_.pack(count_, p + sizeof h + history + last);
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
               last = last_.size() * sizeof(float);
  const size_t cache = cache_.packed_bytes(h.count);
  const size_t expected = sizeof h + history + last + cache + 8;
  uint64_t sum = 0;
  if (bytes.size() == expected) std::memcpy(&sum, bytes.data() + expected - 8, 8);
  if (bytes.size() != expected || h.bytes != expected ||
      sum != checksum(bytes.data(), expected - 8))
    refuse("the saved session is cut short or damaged; save it again");
  if (h.generated < 0 || h.generated > h.count || h.frame_offset < 0 || (h.finished & ~int64_t{1}))
    refuse("the saved session has impossible counts; save it again");
  std::vector<int32_t> ids(history / sizeof(int32_t));
  if (history) std::memcpy(ids.data(), bytes.data() + sizeof h, history);
  lm_->check_frames(ids.data(), h.count);
  const char* const packed = bytes.data() + sizeof h + history + last;
  std::vector<float> embedding(last_.size());
  std::memcpy(embedding.data(), bytes.data() + sizeof h + history, last);
  if (!cache_.all_finite(h.count, packed) ||
      !std::all_of(embedding.begin(), embedding.end(), [](float v) { return std::isfinite(v); })) {
    refuse("the saved session holds infinite or NaN values; save it again");
  }
  if (history) std::memcpy(history_.data(), ids.data(), history);
  std::memcpy(last_.data(), embedding.data(), last);
  cache_.unpack(h.count, packed);
  count_ = h.count, generated_ = h.generated, frame_offset_ = h.frame_offset,
  finished_ = h.finished != 0;
  plain_.reset();
  cancel_.store(false);
}

}  // namespace uniaudio
