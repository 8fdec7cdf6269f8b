#include "fast_fir.h"

namespace uniaudio {

namespace {
constexpr int kTaps = kFirRows - 1;
constexpr int kTilesAtOnce = 96;  // their sums and products stay in the outer caches
constexpr int kFewestRows = 64;   // of a frame
}  // namespace

bool FastFir::worth(int dilation, int rows) {
  return rows >= kFewestRows && rows >= kFirRows * dilation;
}

FastFir::FastFir(const Buffer<float>& weight, const Buffer<float>& bias, int width, int dilation,
                 int rows)
    : width_(width),
      dilation_(dilation),
      rows_(rows),
      blocks_(rows / (kFirRows * dilation)),
      bias_(size_t(width)),
      matrices_(kFirProducts) {
  std::copy_n(bias.data(), width, bias_.data());
  for (int p = 0; p < kFirProducts; ++p) {
    PackedMatrix& m = matrices_[size_t(p)];
    m.allocate(width, width);
    // digit by digit of p in base 3: the lower half of the taps, both, the upper half
    const auto has = [&](int tap) {
      for (int bit = 4, digit = p; bit >= 1; bit /= 2) {
        const int place = bit == 4 ? 9 : bit == 2 ? 3 : 1, part = digit / place;
        digit %= place;
        if (part != 1 && ((tap & bit) != 0) != (part == 2)) return false;
      }
      return true;
    };
    std::vector<int> taps;
    for (int tap = 0; tap < kTaps; ++tap)
      if (has(tap)) taps.push_back(tap);
    for (int o = 0; o < width; ++o)
      for (int i = 0; i < width; ++i) {
        const float* w = weight.data() + (size_t(o) * width + i) * kTaps;
        double sum = 0;
        for (const int tap : taps) sum += double{w[tap]};
        m.at(i, o) = static_cast<float>(sum);
      }
  }
}

size_t FastFir::work_size(int frames) const {
  return size_t(2) * kFirProducts * std::min(tiles(frames), kTilesAtOnce) * width_;
}

void FastFir::run(ThreadPool& pool, const float* x, int frames, float* y, float* work) const {
  const CodecKernels& kernels = codec_kernels();
  const int64_t width = width_, step = dilation_ * width;
  const int all = tiles(frames), of_frame = blocks_ * dilation_;
  const auto place = [&](int64_t tile) {  // of its first row
    const int64_t frame = tile / of_frame, block = tile % of_frame / dilation_;
    return (frame * rows_ + block * kFirRows * dilation_ + tile % dilation_) * width;
  };
  for (int begin = 0; begin < all; begin += kTilesAtOnce) {
    const int count = std::min(kTilesAtOnce, all - begin);
    const int64_t stride = count * width;
    float *sums = work, *products = work + kFirProducts * stride;
    split(pool, count, 100 * width, [&](int64_t a, int64_t b) {
      for (int64_t t = a; t < b; ++t)
        kernels.fir_split(x + place(begin + t), step, sums + t * width, stride, width_);
    });
    run_tasks(pool, kFirProducts, [&](int p) {
      multiply_here({.m = &matrices_[size_t(p)],
                     .a = sums + p * stride,
                     .lda = width,
                     .rows = count,
                     .c = products + p * stride,
                     .ldc = width});
    });
    split(pool, count, 100 * width, [&](int64_t a, int64_t b) {
      for (int64_t t = a; t < b; ++t)
        kernels.fir_join(products + t * width, stride, bias_.data(), y + place(begin + t), step,
                         width_);
    });
  }
}

}  // namespace uniaudio
