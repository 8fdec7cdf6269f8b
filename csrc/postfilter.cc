#include "postfilter.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "codec_ops.h"
#include "config_object.h"

namespace uniaudio {

namespace {

// frames at once: enough to read each weight for many rows, few enough to stay in cache
constexpr int kChunk = 128;

ConvNeXt::Shape net_shape(const PostFilterConfig& c) {
  return {c.bins(), c.width, c.hidden, c.blocks, c.bins(), c.kernel_size};
}

// frames that the network of the voice sees at once (storage/weight_shapes.py)
constexpr int kVoiceTaps = 7;

ConvNeXt::Shape voice_shape(const PostFilterConfig& c) {
  return {c.bins(), c.voice, 2 * c.voice, c.voice_blocks, c.voice, kVoiceTaps};
}

// numbers that a voice's vector makes: a scale and a shift for the input and each block
int factors(const PostFilterConfig& c) { return 2 * (c.blocks + 1) * c.width; }

void check_finite(const float* x, size_t n, const char* name) {
  for (size_t i = 0; i < n; ++i)
    if (!std::isfinite(x[i]))
      throw std::invalid_argument(std::string(name) +
                                  ": expected finite samples, got NaN or "
                                  "infinity at sample " +
                                  std::to_string(i));
}

}  // namespace

PostFilterConfig parse_postfilter_config(std::string_view text) {
  const Json root = parse_json(text);
  PostFilterConfig c;
  Object o(root, "postfilter");
  o.integer("window", c.window, 4, 16384);
  o.integer("hop", c.hop, 1, 8192);
  o.integer("width", c.width, 1, 16384);
  o.integer("hidden", c.hidden, 1, 16384);
  o.integer("blocks", c.blocks, 1, 64);
  o.integer("kernel_size", c.kernel_size, 1, 63);
  o.integer("lookahead", c.lookahead, 0, 64);
  o.real("log_floor", c.log_floor);
  o.integer("voice", c.voice, 0, 16384);
  o.integer("voice_blocks", c.voice_blocks, 1, 64);
  o.done();
  o.require(c.window % 2 == 0, "window", "an even number", std::to_string(c.window));
  o.require(c.hop <= c.window / 2, "hop", "at most half of window", std::to_string(c.hop));
  o.require(c.log_floor > 0, "log_floor", "above 0", number(double(c.log_floor)));
  return c;
}

std::vector<TensorSpec> PostFilter::specs(const PostFilterConfig& c) {
  std::vector<TensorSpec> specs;
  ConvNeXt::specs("net", net_shape(c), specs);
  if (c.voice > 0) {
    ConvNeXt::specs("voice", voice_shape(c), specs);
    specs.push_back({"modulation.weight", {factors(c), c.voice}});
    specs.push_back({"modulation.bias", {factors(c)}});
  }
  return specs;
}

PostFilter::PostFilter(const PostFilterConfig& config, const Weights& weights, int threads)
    : config_(config), pool_(threads), fft_(config.window), window_(hann(config.window)) {
  weights.check("postfilter", specs(config));
  net_ = std::make_unique<ConvNeXt>(weights, "net", net_shape(config));
  if (config.voice > 0) {
    const int n = factors(config), k = config.voice;
    voice_ = std::make_unique<ConvNeXt>(weights, "voice", voice_shape(config));
    modulation_ = PackedMatrix::linear(weights.get("modulation.weight", {n, k}),
                                       weights.get("modulation.bias", {n}), n, k);
  }
  steady_.allocate(config.hop);
  for (int p = 0; p < config.hop; ++p) {
    double sum = 0;
    for (int i = p; i < config.window; i += config.hop) sum += double{window_[i]} * window_[i];
    steady_[p] = float(1 / sum);
  }
}

size_t PostFilter::work() const {
  const size_t bins = size_t(config_.bins());
  return size_t(config_.window) + std::max<size_t>(fft_.scratch_size(), 3 * bins);
}

void PostFilter::hear(const float* samples, float* re, float* im, float* features,
                      float* work) const {
  const CodecKernels& kernels = codec_kernels();
  const int bins = config_.bins(), window = config_.window;
  float* scratch = work + window;
  kernels.multiply(samples, window_.data(), work, window);
  fft_.forward(kernels, work, re, im, scratch);
  kernels.spectrum_features(re, im, scratch, bins, 4.0f / float(window), config_.log_floor);
  std::copy_n(scratch, bins, features);
}

std::vector<float> PostFilter::voice(const float* samples, size_t n) const {
  check_finite(samples, n, "voice");
  std::vector<float> mean(size_t(config_.voice));
  if (!voice_) return mean;
  const int bins = config_.bins(), hop = config_.hop;
  const int64_t past = config_.past(), frames = (int64_t(n) + past + hop - 1) / hop;
  std::vector<float> x(size_t(frames * hop + past));  // silence around the samples
  std::copy_n(samples, n, x.data() + past);
  Buffer<float> spectrum, free, features, out;
  spectrum.allocate(2 * size_t(bins));
  free.allocate(work());
  features.allocate(size_t(kChunk) * bins);
  out.allocate(size_t(kChunk) * mean.size());
  ConvNeXt::State state;
  state.history.allocate(voice_->history_size());
  std::fill_n(state.history.data(), state.history.size(), 0.0f);
  ConvNeXt::Scratch scratch;
  std::vector<double> sums(mean.size());
  for (int64_t from = 0; from < frames; from += kChunk) {
    const int rows = int(std::min<int64_t>(kChunk, frames - from));
    for (int t = 0; t < rows; ++t)
      hear(x.data() + (from + t) * hop, spectrum.data(), spectrum.data() + bins,
           features.data() + size_t(t) * bins, free.data());
    voice_->run(pool_, state, scratch, features.data(), rows, out.data());
    for (int t = 0; t < rows; ++t)
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += out[size_t(t) * sums.size() + i];
  }
  for (size_t i = 0; i < sums.size(); ++i) mean[i] = float(sums[i] / double(frames));
  return mean;
}

std::unique_ptr<PostFilterStream> PostFilter::stream(float least_gain,
                                                     std::span<const float> vector) const {
  return std::make_unique<PostFilterStream>(shared_from_this(), least_gain, vector);
}

// What the vector of a voice makes of the norms; null for a filter that hears none.
std::shared_ptr<const std::vector<ConvNeXt::Norm>> PostFilter::norms(
    std::span<const float> vector) const {
  if (vector.size() != size_t(config_.voice))
    throw std::invalid_argument("voice: expected a vector of " + std::to_string(config_.voice) +
                                " numbers, got " + std::to_string(vector.size()));
  check_finite(vector.data(), vector.size(), "voice");
  if (!voice_) return nullptr;
  const int n = factors(config_);
  std::vector<float> made(static_cast<size_t>(n));
  multiply(pool_, {.m = &modulation_,
                   .a = vector.data(),
                   .lda = config_.voice,
                   .rows = 1,
                   .c = made.data(),
                   .ldc = n});
  return std::make_shared<const std::vector<ConvNeXt::Norm>>(net_->modulated(made.data()));
}

PostFilterStream::PostFilterStream(std::shared_ptr<const PostFilter> filter, float least_gain,
                                   std::span<const float> vector)
    : PostFilterStream(filter, least_gain, filter->norms(vector)) {}

PostFilterStream::PostFilterStream(std::shared_ptr<const PostFilter> filter, float least_gain,
                                   Norms norms)
    : filter_(std::move(filter)), least_gain_(least_gain), norms_(std::move(norms)) {
  if (!(least_gain >= 0 && least_gain <= 1))
    throw std::invalid_argument("least_gain: expected 0 to 1, got " + number(double{least_gain}));
  const PostFilterConfig& c = filter_->config();
  held_.allocate(c.window);
  spectra_.allocate(size_t(c.lookahead) * 2 * c.bins());
  overlap_.allocate(c.window);
  state_.history.allocate(filter_->net_->history_size());
  reset();
}

void PostFilterStream::reset() {
  for (Buffer<float>* b : {&held_, &spectra_, &overlap_, &state_.history})
    std::fill_n(b->data(), b->size(), 0.0f);
  pending_ = 0;
  pushed_ = given_ = frames_ = 0;
}

std::unique_ptr<PostFilterStream> PostFilterStream::fork() const {
  std::unique_ptr<PostFilterStream> copy(new PostFilterStream(filter_, least_gain_, norms_));
  const auto same = [](const Buffer<float>& from, Buffer<float>& to) {
    std::copy_n(from.data(), from.size(), to.data());
  };
  same(held_, copy->held_);
  same(spectra_, copy->spectra_);
  same(overlap_, copy->overlap_);
  same(state_.history, copy->state_.history);
  copy->pending_ = pending_;
  copy->pushed_ = pushed_;
  copy->given_ = given_;
  copy->frames_ = frames_;
  return copy;
}

void PostFilterStream::push(const float* source, size_t n, std::vector<float>& out) {
  check_finite(source, n, "source");
  pushed_ += int64_t(n);
  const size_t most = size_t(kChunk) * filter_->config().hop;
  for (size_t at = 0; at < n; at += most) run(source + at, int(std::min(most, n - at)), out);
}

void PostFilterStream::flush(std::vector<float>& out) {
  const PostFilterConfig& c = filter_->config();
  const int64_t wanted = pushed_;
  // the frames with all samples, then those that the network hears early
  const int64_t frames = (wanted + c.past() + c.hop - 1) / c.hop + c.lookahead;
  const std::vector<float> silence(size_t(frames * c.hop - wanted));
  const size_t before = out.size();
  const int64_t missing = wanted - given_;
  run(silence.data(), int(silence.size()), out);
  out.resize(before + size_t(missing));
  reset();
}

void PostFilterStream::run(const float* samples, int n, std::vector<float>& out) {
  const PostFilterConfig& c = filter_->config();
  const int total = pending_ + n, frames = total / c.hop, before = c.past() + pending_;
  work_.reserve(size_t(before) + n);
  std::copy_n(held_.data(), before, work_.data());
  std::copy_n(samples, n, work_.data() + before);
  if (frames > 0) {
    analyse(frames);
    filter_->net_->run(filter_->pool_, state_, scratch_, features_.data(), frames, gains_.data(),
                       norms_.get());
    synthesize(frames, out);
  }
  pending_ = total - frames * c.hop;
  std::copy_n(work_.data() + size_t(frames) * c.hop, c.past() + pending_, held_.data());
}

// work_ -> features_ [frames][bins], and spectra behind those that wait
void PostFilterStream::analyse(int frames) {
  const PostFilter& f = *filter_;
  const PostFilterConfig& c = f.config();
  const int bins = c.bins();
  const size_t waiting = size_t(c.lookahead) * 2 * bins, each = f.work();
  waiting_.reserve(waiting + size_t(frames) * 2 * bins);
  std::copy_n(spectra_.data(), waiting, waiting_.data());
  features_.reserve(size_t(frames) * bins);
  gains_.reserve(size_t(frames) * bins);
  segments_.reserve(each * frames);
  split(f.pool_, frames, 60 * c.window, [&](int64_t a, int64_t b) {
    float* free = segments_.data() + a * each;
    for (int64_t t = a; t < b; ++t) {
      float* re = waiting_.data() + waiting + t * 2 * bins;
      f.hear(work_.data() + t * c.hop, re, re + bins, features_.data() + t * bins, free);
    }
  });
  std::copy_n(waiting_.data() + size_t(frames) * 2 * bins, waiting, spectra_.data());
}

// waiting_ and gains_ -> samples
void PostFilterStream::synthesize(int frames, std::vector<float>& out) {
  const PostFilter& f = *filter_;
  const PostFilterConfig& c = f.config();
  const CodecKernels& kernels = codec_kernels();
  const int bins = c.bins(), window = c.window;
  const size_t each = 2 * size_t(bins) + f.fft_.scratch_size();
  made_.reserve(size_t(frames) * window);
  segments_.reserve(each * frames);
  split(f.pool_, frames, 60 * window, [&](int64_t a, int64_t b) {
    float *re = segments_.data() + a * each, *im = re + bins, *scratch = im + bins;
    for (int64_t t = a; t < b; ++t) {
      float* gains = gains_.data() + t * bins;
      for (int i = 0; i < bins; ++i)
        gains[i] = least_gain_ + (1.0f - least_gain_) / (1.0f + std::exp(-gains[i]));
      const float* spectrum = waiting_.data() + t * 2 * bins;
      kernels.multiply(spectrum, gains, re, bins);
      kernels.multiply(spectrum + bins, gains, im, bins);
      f.fft_.inverse(kernels, re, im, made_.data() + t * window, scratch);
    }
  });
  for (int t = 0; t < frames; ++t, ++frames_) {
    const int64_t frame = frames_ - c.lookahead;
    if (frame < 0) continue;  // the network has not yet heard what comes after the first one
    kernels.multiply_add(made_.data() + size_t(t) * window, f.window_.data(), overlap_.data(),
                         size_t(window));
    const int64_t begin = (frame + 1) * c.hop - window;
    for (int i = 0; i < c.hop; ++i)
      if (begin + i >= 0) {
        out.push_back(overlap_[i] * f.steady_[i]);
        ++given_;
      }
    std::copy_n(overlap_.data() + c.hop, c.past(), overlap_.data());
    std::fill_n(overlap_.data() + c.past(), c.hop, 0.0f);
  }
}

}  // namespace uniaudio
