// A dilated convolution of 7 taps in 26 products of matrices for every 8 rows, instead of 56.
//
// Two outputs of two taps take three products: with a = (x0 - x1) h0, b = x1 (h0 + h1) and
// c = (x1 - x2) h1, the outputs are a + b and b - c. Halves, quarters and eighths of 8 taps and 8 rows
// are such pairs, which makes 3 x 3 x 3 products; the last one is that of the eighth tap, which is
// zero. All factors are sums, so that rounding grows little.
//
// Rows are taken frame by frame and in the same places in each, so that results do not depend on how
// many frames there are.
#pragma once

#include <vector>

#include "codec_ops.h"

namespace uniaudio {

class FastFir {
 public:
  FastFir() = default;
  // weight [width, width, 7], bias [width]; rows of a frame
  FastFir(const Buffer<float>& weight, const Buffer<float>& bias, int width, int dilation,
          int rows);

  // Whether it is faster for frames of so many rows: with few, reading the weights takes longer than
  // the products that are saved.
  static bool worth(int dilation, int rows);

  // Rows of each frame that `run` writes: the first ones.
  int covered() const { return blocks_ * kFirRows * dilation_; }
  // Floats of `work` for so many frames.
  size_t work_size(int frames) const;
  // Output row t is made of the rows t + tap * dilation of x.
  void run(ThreadPool& pool, const float* x, int frames, float* y, float* work) const;

 private:
  int tiles(int frames) const { return frames * blocks_ * dilation_; }

  int width_ = 0, dilation_ = 1, rows_ = 0, blocks_ = 0;
  Buffer<float> bias_;
  std::vector<PackedMatrix> matrices_;
};

}  // namespace uniaudio
