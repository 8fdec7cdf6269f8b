// The filters of clean-up: a source times the gains that a causal ConvNeXt gives each bin of its
// spectrum. A voice filter also hears whose speech it is to keep. Reference:
// training/uniaudio_training/models/postfilter.py.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "fft.h"
#include "parallel.h"
#include "spectral.h"
#include "weights.h"

namespace uniaudio {

struct PostFilterConfig {
  int window = 512, hop = 160, width = 160, hidden = 480, blocks = 7, kernel_size = 7;
  int lookahead = 2;  // frames
  float log_floor = 1e-4f;
  int voice = 0, voice_blocks = 3;  // voice: width of the vector of a voice; 0: hears none

  int bins() const { return window / 2 + 1; }
  // samples of a window before its newest hop
  int past() const { return window - hop; }
};

PostFilterConfig parse_postfilter_config(std::string_view json);

class PostFilterStream;

// Immutable, shared between threads and streams.
class PostFilter : public std::enable_shared_from_this<PostFilter> {
 public:
  // std::invalid_argument when the weights do not fit the configuration. threads >= 1.
  PostFilter(const PostFilterConfig& config, const Weights& weights, int threads);

  static std::vector<TensorSpec> specs(const PostFilterConfig& config);
  const PostFilterConfig& config() const { return config_; }
  int threads() const { return pool_.threads(); }
  // Samples that must follow a sample before it comes out.
  int64_t delay() const { return config_.past() + int64_t{config_.lookahead} * config_.hop; }
  // samples [n] of a voice -> the vector [config().voice] that stands for it. std::invalid_argument
  // on NaN or infinity.
  std::vector<float> voice(const float* samples, size_t n) const;
  // least_gain: the gains are between it and 1. vector: of the voice to keep, of config().voice
  // numbers. std::invalid_argument when least_gain is not in 0 to 1, or the vector of another size or
  // not finite.
  std::unique_ptr<PostFilterStream> stream(float least_gain = 0,
                                           std::span<const float> vector = {}) const;

 private:
  friend class PostFilterStream;

  // Floats that `hear` works in, without the spectrum.
  size_t work() const;
  // samples [window] -> their spectrum re, im [bins], and what a network hears of it [bins]
  void hear(const float* samples, float* re, float* im, float* features, float* work) const;
  std::shared_ptr<const std::vector<ConvNeXt::Norm>> norms(std::span<const float> vector) const;

  PostFilterConfig config_;
  mutable ThreadPool pool_;
  RealFft fft_;
  std::unique_ptr<ConvNeXt> net_;
  std::unique_ptr<ConvNeXt> voice_;  // of a filter that hears a voice, as modulation_
  PackedMatrix modulation_;
  Buffer<float> window_;
  Buffer<float> steady_;  // [hop]: 1 / the sum of the squared windows over a sample
};

// A source in, filtered samples out: as many in all as went in. Chunk sizes and thread counts never
// change a sample. One stream belongs to one thread at a time.
class PostFilterStream {
 public:
  explicit PostFilterStream(std::shared_ptr<const PostFilter> filter, float least_gain = 0,
                            std::span<const float> vector = {});

  // source [n]; appends the samples that are complete. std::invalid_argument on NaN or infinity, before
  // anything changes.
  void push(const float* source, size_t n, std::vector<float>& out);
  // Appends the samples that are still missing and starts a new clip.
  void flush(std::vector<float>& out);
  void reset();
  std::unique_ptr<PostFilterStream> fork() const;

 private:
  using Norms = std::shared_ptr<const std::vector<ConvNeXt::Norm>>;

  PostFilterStream(std::shared_ptr<const PostFilter> filter, float least_gain, Norms norms);
  void run(const float* samples, int n, std::vector<float>& out);
  void analyse(int frames);
  void synthesize(int frames, std::vector<float>& out);

  std::shared_ptr<const PostFilter> filter_;
  float least_gain_;
  Norms norms_;                     // for the voice; null without one
  int pending_ = 0;                 // samples since the newest whole hop
  int64_t pushed_ = 0, given_ = 0;  // samples
  int64_t frames_ = 0;              // that the network has heard
  Buffer<float> held_;              // [past + hop]: the samples before the next frame, and pending
  Buffer<float> spectra_;           // [lookahead][2][bins]: not yet filtered
  Buffer<float> overlap_;           // [window]: sums over the next samples
  ConvNeXt::State state_;
  ConvNeXt::Scratch scratch_;
  Buffer<float> work_, segments_, features_, gains_, waiting_, made_;
};

}  // namespace uniaudio
