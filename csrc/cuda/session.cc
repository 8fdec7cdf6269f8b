// Sessions of the LM on a device: their state, and which of them go together.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "lm.h"

namespace uniaudio::cuda {

Session::Session(std::shared_ptr<const Lm> lm, int64_t max_frames)
    : lm_(std::move(lm)), capacity_(max_frames) {
  const LmConfig& c = lm_->config();
  if (max_frames < 1 || max_frames > c.max_frames) {
    throw std::invalid_argument("max_frames: expected 1 to the model's limit " +
                                std::to_string(c.max_frames) + ", got " +
                                std::to_string(max_frames));
  }
  const size_t cache =
      size_t(c.global.layers) * size_t(c.global.kv_heads) * size_t(capacity_) * lm_->cache_row();
  keys_ = {lm_->device_, cache};
  values_ = {lm_->device_, cache};
  history_ = {lm_->device_, size_t(capacity_ * c.num_codebooks)};
  result_ = {lm_->device_, 4};
  last_ = {lm_->device_, size_t(c.global.width)};
  reset();
}

void Session::set_frame_offset(int64_t offset) {
  if (offset < 0)
    throw std::invalid_argument("frame_offset: expected 0 or more, got " + std::to_string(offset));
  frame_offset_ = offset;
}

void Session::reset() {
  const LmConfig& c = lm_->config();
  count_ = generated_ = frame_offset_ = 0;
  finished_ = false;
  plain_.reset();
  cancel_.store(false);
  const std::vector<int32_t> start(size_t(c.num_codebooks), c.start_id);
  std::vector<float> x(size_t(c.global.width));
  lm_->embed(start.data(), x.data());
  lm_->device_->upload(last_.data(), x.data(), x.size() * sizeof(float));
}

void Session::prefill(const int32_t* frames, int64_t count, const int32_t* aligned,
                      const std::vector<ContinuousInput>& continuous) {
  const LmConfig& c = lm_->config();
  const int64_t d = c.global.width, k = c.num_codebooks;
  check_room("prefill", count);
  const int64_t all = count;
  lm_->check_frames(frames, count);
  lm_->check_aligned(aligned, count);
  std::vector<std::vector<float>> mapped;
  std::vector<const float*> replaced(size_t(count), nullptr);
  for (const ContinuousInput& in : continuous) {
    const std::string where = "continuous[\"" + in.name + "\"]";
    if (!c.continuous.count(in.name))
      throw std::invalid_argument(where + ": expected one of this model's inputs");
    for (int64_t i = 0; i < in.count; ++i) {
      if (in.index[i] < 0 || in.index[i] >= count) {
        throw std::invalid_argument(where + ": expected frame indices from 0 to " +
                                    std::to_string(count - 1) + ", got " +
                                    std::to_string(in.index[i]));
      }
      if (replaced[size_t(in.index[i])])
        throw std::invalid_argument(where + ": frame " + std::to_string(in.index[i]) +
                                    " is given twice; give each frame one input");
      replaced[size_t(in.index[i])] = in.values;  // marks it; the row comes below
    }
    for (int64_t i = 0; i < in.count * c.continuous.at(in.name); ++i) {
      if (!std::isfinite(in.values[i]))
        throw std::invalid_argument(where + ": expected finite values, got infinity or NaN");
    }
    mapped.push_back(lm_->embed_continuous(in));
    for (int64_t i = 0; i < in.count; ++i)
      replaced[size_t(in.index[i])] = mapped.back().data() + i * d;
  }
  if (count > 0) {
    // The inputs of the steps: each frame's is what was known before it, and the last frame's
    // embedding waits for the next step.
    std::vector<float> rows(size_t((count + 1) * d));
    lm_->device_->download(rows.data(), last_.data(), size_t(d) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
      float* const next = rows.data() + (i + 1) * d;
      if (replaced[size_t(i)]) {
        std::copy_n(replaced[size_t(i)], d, next);
      } else {
        lm_->embed(frames + i * k, next);
      }
    }
    lm_->device_->upload(last_.data(), rows.data() + count * d, size_t(d) * sizeof(float));
    for (int64_t i = 0; aligned && i < count; ++i) {
      for (int s = 0; s < c.aligned_slots; ++s) {
        const int32_t id = aligned[i * c.aligned_slots + s];
        for (int64_t j = 0; id >= 0 && j < d; ++j)
          rows[size_t(i * d + j)] += lm_->host_aligned_[size_t(id * d + j)];
      }
    }
    lm_->device_->upload(history_.data() + count_ * k, frames, size_t(count * k) * sizeof(int32_t));
    const int64_t most =
        std::max<int64_t>(kPrefillRounds * lm_->plan_.most_columns, lm_->most_columns());
    const DeviceBuffer<float> inputs(lm_->device_, size_t(std::min(count, most) * d));
    while (count > 0) {
      int columns = int(std::min<int64_t>(count, lm_->most_columns()));
      if (!lm_->wide(columns)) columns = std::min(columns, lm_->plan_.most_columns);
      const int64_t n = lm_->wide(columns) ? columns : std::min(count / columns * columns, most);
      lm_->device_->upload(inputs.data(), rows.data(), size_t(n * d) * sizeof(float));
      lm_->launch_prefill(*this, inputs.data(), n, columns);
      rows.erase(rows.begin(), rows.begin() + std::ptrdiff_t(n * d));
      count_ += n;
      count -= n;
    }
  }
  generated_ = 0;
  finished_ = false;
  if (plain_) plain_->prefill(frames, all, aligned, continuous);
}

void Session::check_room(const char* what, int64_t count) const {
  if (count > capacity_ - count_) {
    throw std::invalid_argument(
        std::string(what) + ": expected at most " + std::to_string(capacity_ - count_) +
        " more frames (capacity " + std::to_string(capacity_) + ", " + std::to_string(count_) +
        " used), got " + std::to_string(count) + "; make the session with a larger max_frames");
  }
  if (plain_) plain_->check_room(what, count);
}

void Session::set_guidance(const Session& plain, double scale) {
  if (&plain == this || plain.lm_ != lm_ || plain.plain_) {
    throw std::invalid_argument(
        "set_guidance: expected another session of the same LM that is not guided itself");
  }
  if (!(scale >= 0 && scale <= 100))
    throw std::invalid_argument("set_guidance: expected a scale from 0 to 100, got " +
                                std::to_string(scale));
  if (lm_->most_columns() < 2)
    throw std::invalid_argument(
        "cuda: this device takes one stream of this model at a time, guidance needs two; use "
        "device cpu");
  plain_ = plain.fork();
  guidance_ = float(scale);
}

std::unique_ptr<Session> Session::fork() const {
  const LmConfig& c = lm_->config();
  auto s = std::make_unique<Session>(lm_, capacity_);
  s->count_ = count_, s->generated_ = generated_, s->frame_offset_ = frame_offset_,
  s->finished_ = finished_;
  const size_t row = lm_->cache_row(), runs = size_t(c.global.layers) * size_t(c.global.kv_heads);
  Device& device = *lm_->device_;
  if (count_ > 0) {
    device.copy(s->keys_.data(), keys_.data(), size_t(capacity_) * row, size_t(count_) * row, runs);
    device.copy(s->values_.data(), values_.data(), size_t(capacity_) * row, size_t(count_) * row,
                runs);
    device.copy(s->history_.data(), history_.data(), 0,
                size_t(count_ * c.num_codebooks) * sizeof(int32_t), 1);
  }
  device.copy(s->last_.data(), last_.data(), 0, last_.size() * sizeof(float), 1);
  if (plain_) s->plain_ = plain_->fork();
  s->guidance_ = guidance_;
  return s;
}

std::shared_ptr<Array> Session::known(int64_t first, int64_t count) const {
  if (first < 0 || count < 0 || count > count_ - first) {
    throw std::invalid_argument("frames: expected some of the " + std::to_string(count_) +
                                " known ones, got " + std::to_string(count) + " from " +
                                std::to_string(first) + " on");
  }
  const int64_t k = lm_->config().num_codebooks;
  auto array = std::make_shared<Array>(lm_->device_, std::vector<int64_t>{count, k}, true);
  if (count > 0)
    lm_->device_->copy(array->data(), history_.data() + first * k, 0, array->bytes(), 1);
  return array;
}

void Session::generate(std::vector<Request>& requests, int64_t count,
                       const std::function<bool()>& interrupted) {
  if (requests.empty()) return;
  const std::shared_ptr<const Lm> shared = requests[0].session->lm_;
  const Lm& lm = *shared;
  std::vector<Sampler> samplers;
  samplers.reserve(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    Session& s = *requests[i].session;
    if (s.lm_ != shared)
      throw std::invalid_argument("generate_batch: expected sessions of one model, got several");
    for (size_t j = 0; j < i; ++j) {
      if (requests[j].session == &s)
        throw std::invalid_argument("generate_batch: expected distinct sessions, got one twice");
    }
    samplers.emplace_back(*requests[i].sampling, lm.config());
    s.check_room("generate", count);
    lm.check_aligned(requests[i].aligned, count);
    requests[i].made = 0;
  }
  const int k = lm.config().num_codebooks;
  std::vector<bool> stopped(requests.size());
  for (int64_t f = 0; f < count;) {
    if (interrupted && interrupted()) return;
    const int64_t rounds = std::min(kRounds, count - f);
    std::vector<Lm::Step> steps;
    std::vector<size_t> whose;
    for (size_t i = 0; i < requests.size(); ++i) {
      Session& s = *requests[i].session;
      if (stopped[i] || s.finished_ || s.cancel_.exchange(false)) {
        stopped[i] = true;
        continue;
      }
      const int32_t* const aligned =
          requests[i].aligned ? requests[i].aligned + f * lm.config().aligned_slots : nullptr;
      steps.push_back({&s, requests[i].sampling, &samplers[i], aligned});
      whose.push_back(i);
      if (s.plain_) {
        steps.push_back({s.plain_.get(), requests[i].sampling, &samplers[i], aligned});
        steps.back().goes_along = true;
        whose.push_back(i);
      }
    }
    if (steps.empty()) return;
    for (size_t first = 0; first < steps.size();) {
      std::vector<Lm::Step*> together;
      const size_t left = steps.size() - first,
                   together_at_most = lm.wide(int64_t(left)) ? size_t(lm.most_columns())
                                                             : size_t(lm.plan_.most_columns);
      for (size_t most = first + std::min(left, together_at_most); first < most; ++first) {
        // a pair stays together
        if (first + 1 == most && most < steps.size() && steps[most].goes_along) break;
        together.push_back(&steps[first]);
      }
      lm.launch(together, rounds);
    }
    for (size_t i = 0; i < steps.size(); ++i) {
      if (steps[i].goes_along) continue;
      Request& r = requests[whose[i]];
      const int64_t made = steps[i].made;
      if (made > 0) {
        lm.device_->download(r.out + r.made * k,
                             r.session->history_.data() + (r.session->count_ - made) * k,
                             size_t(made * k) * sizeof(int32_t));
      }
      r.made += made;
    }
    f += rounds;
  }
}

}  // namespace uniaudio::cuda
