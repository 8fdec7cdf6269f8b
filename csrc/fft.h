// Real FFT of any even length, for windows of a codec (512, 640, 1280, ...): a Stockham mixed-radix
// transform of half the length with unrolled radices 2, 3, 4 and 5; other primes run as plain sums
// (correct, slow).
#pragma once

#include <vector>

#include "cpu/codec_kernels.h"
#include "tensor.h"

namespace uniaudio {

Buffer<float> hann(int length);  // periodic, as torch.hann_window

class RealFft {
 public:
  explicit RealFft(int length);  // even, at least 2; std::invalid_argument otherwise

  int length() const { return 2 * half_; }
  int bins() const { return half_ + 1; }
  size_t scratch_size() const { return 4 * static_cast<size_t>(half_); }  // floats

  // x [length] -> re, im [bins]; not scaled.
  void forward(const CodecKernels& k, const float* x, float* re, float* im, float* scratch) const;
  // re, im [bins] -> x [length], scaled by 1 / length; the imaginary parts of the first and last
  // bin count as zero.
  void inverse(const CodecKernels& k, const float* re, const float* im, float* x,
               float* scratch) const;

 private:
  // In scratch: re, im at [0, 2 half) -> returns where the result lies (re; im is half_ behind it).
  float* transform(const CodecKernels& k, float* scratch) const;

  int half_;
  std::vector<FftStage> stages_;
  std::vector<std::vector<float>> tables_;
  std::vector<float> cos_, sin_;  // cos, sin of 2 pi k / length, k = 0 .. half
};

}  // namespace uniaudio
