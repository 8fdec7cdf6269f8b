#include "fft.h"

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace uniaudio {

Buffer<float> hann(int length) {
  Buffer<float> w(length);
  for (int i = 0; i < length; ++i)
    w[i] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::numbers::pi * i / length));
  return w;
}

RealFft::RealFft(int length) : half_(length / 2) {
  if (length < 2 || length % 2)
    throw std::invalid_argument("FFT length: expected an even number from 2, got " +
                                std::to_string(length));
  int rest = half_, stride = 1;
  tables_.reserve(96);
  while (rest > 1) {
    int radix = 0;
    for (int r : {4, 5, 3, 2})
      if (rest % r == 0) {
        radix = r;
        break;
      }
    for (int r = 7; radix == 0; r += 2)
      if (rest % r == 0) radix = r;
    const int groups = rest / radix;
    std::vector<float> twiddle, roots, wide;
    const double turn = -2 * std::numbers::pi;
    for (int q = 0; q < groups; ++q)
      for (int j = 1; j < radix; ++j) {
        const double angle = turn * (static_cast<double>(q) * j) / rest;
        twiddle.push_back(static_cast<float>(std::cos(angle)));
        twiddle.push_back(static_cast<float>(std::sin(angle)));
      }
    for (int e = 0; e < radix; ++e) {
      roots.push_back(static_cast<float>(std::cos(turn * e / radix)));
      roots.push_back(static_cast<float>(std::sin(turn * e / radix)));
    }
    if (radix == 4 && (stride == 1 || stride == 4))
      for (int part = 0; part < 2 * (radix - 1); ++part)
        for (int i = 0; i < groups * stride; ++i)
          wide.push_back(twiddle[static_cast<size_t>(i / stride) * 2 * (radix - 1) + part]);
    FftStage stage{.radix = radix, .rest = groups, .stride = stride};
    const auto keep = [&](std::vector<float>& table) {
      tables_.push_back(std::move(table));
      return tables_.back().data();
    };
    stage.twiddle = keep(twiddle);
    stage.roots = keep(roots);
    stage.wide = wide.empty() ? nullptr : keep(wide);
    stages_.push_back(stage);
    rest = groups;
    stride *= radix;
  }
  for (int k = 0; k <= half_; ++k) {
    cos_.push_back(static_cast<float>(std::cos(std::numbers::pi * k / half_)));
    sin_.push_back(static_cast<float>(std::sin(std::numbers::pi * k / half_)));
  }
}

float* RealFft::transform(const CodecKernels& kernels, float* scratch) const {
  float *from = scratch, *to = scratch + 2 * static_cast<size_t>(half_);
  for (const FftStage& stage : stages_) {
    kernels.fft_stage(stage, from, from + half_, to, to + half_);
    std::swap(from, to);
  }
  return from;
}

void RealFft::forward(const CodecKernels& kernels, const float* x, float* re, float* im,
                      float* scratch) const {
  kernels.fft_split(x, scratch, scratch + half_, half_);
  const float* z = transform(kernels, scratch);
  kernels.fft_forward_end(z, z + half_, cos_.data(), sin_.data(), re, im, half_);
}

void RealFft::inverse(const CodecKernels& kernels, const float* re, const float* im, float* x,
                      float* scratch) const {
  // The inverse transform is the forward one with real and imaginary parts exchanged on both sides.
  kernels.fft_inverse_begin(re, im, cos_.data(), sin_.data(), scratch + half_, scratch, half_);
  const float* z = transform(kernels, scratch);
  kernels.fft_join(z + half_, z, 1.0f / static_cast<float>(2 * half_), x, half_);
}

}  // namespace uniaudio
