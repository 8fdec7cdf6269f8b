#include "fft.h"

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace uniaudio {

RealFft::RealFft(int length) : half_(length / 2) {
  if (length < 2 || length % 2) throw std::invalid_argument("FFT length: expected an even number from 2, got " + std::to_string(length));
  int rest = half_, stride = 1;
  tables_.reserve(64);
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
    std::vector<float> twiddle, roots;
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
    tables_.push_back(std::move(twiddle));
    tables_.push_back(std::move(roots));
    stages_.push_back({radix, groups, stride, tables_[tables_.size() - 2].data(), tables_.back().data()});
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

void RealFft::forward(const CodecKernels& kernels, const float* x, float* re, float* im, float* scratch) const {
  for (int k = 0; k < half_; ++k) {
    scratch[k] = x[2 * k];
    scratch[half_ + k] = x[2 * k + 1];
  }
  const float* zr = transform(kernels, scratch);
  const float* zi = zr + half_;
  re[0] = zr[0] + zi[0], im[0] = 0;
  re[half_] = zr[0] - zi[0], im[half_] = 0;
  for (int k = 1; k < half_; ++k) {
    // even part (Z[k] + conj Z[h-k]) / 2; odd part (Z[k] - conj Z[h-k]) / 2j, turned by exp(-2 pi j k / length)
    const float er = 0.5f * (zr[k] + zr[half_ - k]), ei = 0.5f * (zi[k] - zi[half_ - k]);
    const float odd_re = 0.5f * (zi[k] + zi[half_ - k]), odd_im = 0.5f * (zr[half_ - k] - zr[k]);
    re[k] = er + (odd_re * cos_[k] + odd_im * sin_[k]);
    im[k] = ei + (odd_im * cos_[k] - odd_re * sin_[k]);
  }
}

void RealFft::inverse(const CodecKernels& kernels, const float* re, const float* im, float* x, float* scratch) const {
  // The inverse transform is the forward one with real and imaginary parts exchanged on both sides.
  float *zi = scratch, *zr = scratch + half_;
  zr[0] = re[0] + re[half_], zi[0] = re[0] - re[half_];
  for (int k = 1; k < half_; ++k) {
    const float er = re[k] + re[half_ - k], ei = im[k] - im[half_ - k];
    const float dr = re[k] - re[half_ - k], di = im[k] + im[half_ - k];
    // odd part d exp(+2 pi j k / length); Z = even + j odd
    const float odd_re = dr * cos_[k] - di * sin_[k], odd_im = dr * sin_[k] + di * cos_[k];
    zr[k] = er - odd_im;
    zi[k] = ei + odd_re;
  }
  const float* result = transform(kernels, scratch);
  const float scale = 1.0f / static_cast<float>(2 * half_);
  for (int k = 0; k < half_; ++k) {
    x[2 * k] = result[half_ + k] * scale;
    x[2 * k + 1] = result[k] * scale;
  }
}

}  // namespace uniaudio
