// The sums before and after the products of a fast filter; see fast_fir.h. No include guard: each
// ISA's kernel file includes it once, inside its own namespace.
#include "cpu/codec_kernels.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// Inputs x [2 n - 1] of n outputs of n taps -> those of the products from `first` on.
template <int n, int first, class Put>
UNIAUDIO_INLINE void split_inputs(const Vec* x, Put put) {
  if constexpr (n == 1) {
    if constexpr (first < kFirProducts) put(first, x[0]);
  } else {
    constexpr int half = n / 2, count = 2 * half - 1, step = half == 4 ? 9 : half == 2 ? 3 : 1;
    Vec part[count];
    UNIAUDIO_UNROLL
    for (int i = 0; i < count; ++i) part[i] = x[i] - x[half + i];
    split_inputs<half, first>(part, put);
    split_inputs<half, first + step>(x + half, put);
    UNIAUDIO_UNROLL
    for (int i = 0; i < count; ++i) part[i] = x[half + i] - x[2 * half + i];
    split_inputs<half, first + 2 * step>(part, put);
  }
}

// The products from `first` on -> y [n].
template <int n, int first, class Get>
UNIAUDIO_INLINE void join_products(Vec* y, Get get) {
  if constexpr (n == 1) {
    y[0] = first < kFirProducts ? get(first) : set(0.0f);
  } else {
    constexpr int half = n / 2, step = half == 4 ? 9 : half == 2 ? 3 : 1;
    Vec both[half], other[half];
    join_products<half, first + step>(both, get);
    join_products<half, first>(other, get);
    UNIAUDIO_UNROLL
    for (int i = 0; i < half; ++i) y[i] = other[i] + both[i];
    join_products<half, first + 2 * step>(other, get);
    UNIAUDIO_UNROLL
    for (int i = 0; i < half; ++i) y[half + i] = both[i] - other[i];
  }
}

void fir_split(const float* x, ptrdiff_t step, float* v, ptrdiff_t stride, int width) {
  each(width, [&](int64_t i, int64_t k) {
    Vec rows[2 * kFirRows - 1];
    UNIAUDIO_UNROLL
    for (int r = 0; r < kFirInputs; ++r) rows[r] = get(x + r * step + i, k);
    rows[kFirInputs] = set(0.0f);  // of the tap that there is not
    split_inputs<kFirRows, 0>(rows, [&](int p, Vec value) __attribute__((always_inline)) {
      put(v + p * stride + i, value, k);
    });
  });
}

void fir_join(const float* m, ptrdiff_t stride, const float* bias, float* y, ptrdiff_t step,
              int width) {
  each(width, [&](int64_t i, int64_t k) {
    Vec rows[kFirRows];
    join_products<kFirRows, 0>(
        rows, [&](int p) __attribute__((always_inline)) { return get(m + p * stride + i, k); });
    const Vec start = get(bias + i, k);
    UNIAUDIO_UNROLL
    for (int r = 0; r < kFirRows; ++r) put(y + r * step + i, rows[r] + start, k);
  });
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
