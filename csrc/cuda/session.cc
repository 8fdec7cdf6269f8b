// Sessions of the LM on a device: their state, and how several are stepped together.
#include <algorithm>
#include <stdexcept>

#include "lm.h"

namespace uniaudio::cuda {

Session::Session(std::shared_ptr<const Lm> lm, int64_t max_frames)
    : SessionState(lm->config(), max_frames), lm_(std::move(lm)) {
  const LmConfig& c = lm_->config();
  const size_t cache = size_t(c.global.layers) * size_t(c.global.kv_heads) *
                       size_t(lm_->held(capacity_)) * lm_->cache_row();
  keys_ = {lm_->device_, cache};
  values_ = {lm_->device_, cache};
  history_ = {lm_->device_, size_t((capacity_ + c.max_delay()) * c.num_codebooks)};
  result_ = {lm_->device_, 1};
  last_ = {lm_->device_, size_t(c.global.width)};
  reset();
}

void Session::reset() {
  const Use use(*this);
  const LmConfig& c = lm_->config();
  clear();
  unconditional_.reset();
  spoken_.reset();
  const std::vector<int32_t> start(size_t(c.num_codebooks), c.start_id);
  std::vector<float> x(size_t(c.global.width));
  lm_->embed(start.data(), x.data());
  lm_->device_->upload(last_.data(), x.data(), x.size() * sizeof(float));
}

std::vector<float> Session::input_rows(const int32_t* frames, int64_t count, const int32_t* aligned,
                                       const std::vector<ContinuousInput>& continuous) const {
  const LmConfig& c = lm_->config();
  const int64_t d = c.global.width, k = c.num_codebooks;
  const ReplacedRows replaced(continuous, count, d, [&](const ContinuousInput& in, float* out) {
    lm_->embed_continuous(in, out);
  });
  std::vector<float> rows(size_t((count + 1) * d));
  lm_->device_->download(rows.data(), last_.data(), size_t(d) * sizeof(float));
  // With delays a step has ids of earlier frames.
  const Delays delays = c.delay_rules();
  const int64_t first = std::max<int64_t>(0, now_.count - delays.most), before = now_.count - first;
  std::vector<int32_t> known(size_t(delays.slots ? (before + count) * k : 0)),
      ids(static_cast<size_t>(k));
  if (delays.slots) {
    if (before > 0)
      lm_->device_->download(known.data(), history_.data() + first * k,
                             size_t(before * k) * sizeof(int32_t));
    std::copy_n(frames, count * k, known.begin() + before * k);
  }
  for (int64_t i = 0; i < count; ++i) {
    float* const next = rows.data() + (i + 1) * d;
    if (const float* const row = replaced.row(i)) {
      std::copy_n(row, d, next);
    } else if (delays.slots) {
      step_row(delays, now_.count + i, known.data(), first, ids.data());
      lm_->embed(ids.data(), next);
    } else {
      lm_->embed(frames + i * k, next);
    }
  }
  for (int64_t i = 0; aligned && i < count; ++i) {
    for (int s = 0; s < c.aligned_slots; ++s) {
      const int32_t id = aligned[i * c.aligned_slots + s];
      for (int64_t j = 0; id >= 0 && j < d; ++j)
        rows[size_t(i * d + j)] += lm_->host_aligned_[size_t(id * d + j)];
    }
  }
  return rows;
}

void Session::prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
                      const std::vector<ContinuousInput>& continuous) {
  const Use use(*this);
  const LmConfig& c = lm_->config();
  const int64_t d = c.global.width, k = c.num_codebooks;
  check_room("prefill", count);
  check_frames(c, frames, count);
  check_aligned(c, aligned, count);
  check_continuous(c, continuous, count);
  check_prefill(count);
  if (count > 0) {
    Device& device = *lm_->device_;
    const std::vector<float> rows = input_rows(frames, count, aligned, continuous);
    device.upload(last_.data(), rows.data() + count * d, size_t(d) * sizeof(float));
    device.upload(history_.data() + now_.count * k, frames, size_t(count * k) * sizeof(int32_t));
    const int64_t most =
        std::max<int64_t>(kPrefillRounds * lm_->plan_.most_columns, lm_->most_columns());
    const DeviceBuffer<float> inputs(lm_->device_, size_t(std::min(count, most) * d));
    for (int64_t done = 0; done < count;) {
      const int64_t left = count - done;
      int columns = int(std::min<int64_t>(left, lm_->most_columns()));
      if (!lm_->batched(columns)) columns = std::min(columns, lm_->plan_.most_columns);
      const int64_t n = lm_->batched(columns) ? columns : std::min(left / columns * columns, most);
      device.upload(inputs.data(), rows.data() + done * d, size_t(n * d) * sizeof(float));
      lm_->launch_prefill(*this, inputs.data(), n, columns);
      now_.count += n, now_.steps += n;
      done += n;
    }
  }
  add_known(0);
  if (unconditional_)
    unconditional_->prefill(frames, count, guidance_aligned_ ? aligned : nullptr, continuous);
}

void Session::set_guidance(const Session& unconditional, double scale, bool aligned) {
  check_guidance(unconditional, scale);
  if (lm_->most_columns() < 2)
    throw std::invalid_argument(
        "cuda: this device takes one stream of this model at a time, guidance needs two; use "
        "device cpu");
  std::unique_ptr<Session> fork = unconditional.fork();
  const Use use(*this);
  unconditional_ = std::move(fork);
  guidance_ = float(scale);
  guidance_aligned_ = aligned;
}

void Session::set_words(const WordsConfig& words) {
  const Use use(*this);
  SessionState::set_words(words);
  spoken_.reset();
  auto spoken = std::make_shared<Spoken>();
  spoken->ids = {lm_->device_, words_->ids().data(), words_->ids().size()};
  spoken->places = {lm_->device_, words_->places().data(), words_->places().size()};
  spoken_ = std::move(spoken);
}

std::unique_ptr<Session> Session::fork() const {
  const Use use(*this);
  const LmConfig& c = lm_->config();
  auto s = std::make_unique<Session>(lm_, capacity_);
  s->copy_state(*this);
  s->spoken_ = spoken_;
  const size_t row = lm_->cache_row(), runs = size_t(c.global.layers) * size_t(c.global.kv_heads);
  Device& device = *lm_->device_;
  if (now_.steps > 0) {
    const int64_t held = lm_->held(capacity_);
    const size_t pitch = size_t(held) * row, width = size_t(std::min(held, now_.steps)) * row;
    device.copy(s->keys_.data(), keys_.data(), pitch, width, runs);
    device.copy(s->values_.data(), values_.data(), pitch, width, runs);
    device.copy(s->history_.data(), history_.data(), 0,
                size_t(now_.steps * c.num_codebooks) * sizeof(int32_t), 1);
  }
  device.copy(s->last_.data(), last_.data(), 0, last_.size() * sizeof(float), 1);
  if (unconditional_) s->unconditional_ = unconditional_->fork();
  return s;
}

std::shared_ptr<Array> Session::known(int64_t first, int64_t count) const {
  const Use use(*this);
  if (first < 0 || count < 0 || count > now_.count - first) {
    throw std::invalid_argument("frames: expected some of the " + std::to_string(now_.count) +
                                " known ones, got " + std::to_string(count) + " from " +
                                std::to_string(first) + " on");
  }
  const int64_t k = lm_->config().num_codebooks;
  auto array = std::make_shared<Array>(lm_->device_, std::vector<int64_t>{count, k}, true);
  if (count > 0)
    lm_->device_->copy(array->data(), history_.data() + first * k, 0, array->bytes(), 1);
  return array;
}

void Session::generate_batch(std::vector<Job>& jobs, int64_t count,
                             const std::function<bool()>& interrupted) {
  if (jobs.empty()) return;
  const std::shared_ptr<const Lm> shared = jobs[0].session->lm_;
  const Lm& lm = *shared;
  const std::vector<Use> uses = begin_generate(jobs, lm.config(), count);
  std::vector<Sampler> samplers;
  samplers.reserve(jobs.size());
  for (Job& r : jobs) {
    r.session->check_given(samplers.emplace_back(*r.sampling, lm.config()));
    r.made = 0;
  }
  std::vector<bool> stopped(jobs.size());
  while (count > 0) {
    if (interrupted && interrupted()) return;
    int64_t rounds = kRounds;
    std::vector<Lm::Step> steps;
    std::vector<size_t> owner;  // of each step: the request
    for (size_t i = 0; i < jobs.size(); ++i) {
      Session& s = *jobs[i].session;
      const int64_t made = jobs[i].made;
      if (stopped[i] || s.now_.finished || made == count || s.take_cancel()) {
        stopped[i] = true;
        continue;
      }
      rounds = std::min(rounds, s.steps_to(count - made));
      const int32_t* const aligned =
          jobs[i].aligned ? jobs[i].aligned + made * lm.config().aligned_slots : nullptr;
      steps.push_back({&s, jobs[i].sampling, &samplers[i], aligned});
      owner.push_back(i);
      if (s.guided()) {
        steps.push_back({s.unconditional_.get(), jobs[i].sampling, &samplers[i],
                         s.guidance_aligned_ ? aligned : nullptr});
        steps.back().unconditional = true;
        owner.push_back(i);
      }
    }
    if (steps.empty()) return;
    lm.launch_all(steps, rounds);
    for (size_t i = 0; i < steps.size(); ++i) {
      if (!steps[i].unconditional) take_frames(jobs[owner[i]], steps[i].made);
    }
  }
}

// The last `made` frames of a session, for its job.
void Session::take_frames(Job& job, int64_t made) {
  if (made == 0) return;
  const Session& s = *job.session;
  const int64_t k = s.lm_->config().num_codebooks;
  s.lm_->device_->download(job.out + job.made * k, s.history_.data() + (s.now_.count - made) * k,
                           size_t(made * k) * sizeof(int32_t));
  job.made += made;
}

}  // namespace uniaudio::cuda
