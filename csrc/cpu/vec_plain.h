// Plain C++: generic vectors of four, which compilers turn into SSE2, NEON or scalars. `fma` rounds
// twice, since there is no instruction to rely on.
#pragma once

#define UNIAUDIO_LANES 4
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows[] = {2, 2, 1, 2}, kTilePanels = 1;  // of a product: rows by DType, panels
constexpr int kAlonePanels = 2;                             // of a row that is alone
// Tiles of the codecs' products: most rows x panels, most rows, and most rows of a tile that is 8,
// 4 or 2 panels wide.
constexpr int kTile = 2, kTallRows = 2, kRowsOf8 = 0, kRowsOf4 = 0, kRowsOf2 = 1;
constexpr int kLstmBlocks = 1, kLstmGates = 2;  // of a recurrent product, side by side

UNIAUDIO_INLINE Native splat(float x) { return Native{x, x, x, x}; }
UNIAUDIO_INLINE Native fma(Native a, Native b, Native c) { return a * b + c; }
UNIAUDIO_INLINE Native choose(NativeInt mask, Native a, Native b) {
  return (Native)((mask & (NativeInt)a) | (~mask & (NativeInt)b));
}
UNIAUDIO_INLINE Native min(Native a, Native b) { return choose((NativeInt)(a < b), a, b); }
UNIAUDIO_INLINE Native max(Native a, Native b) { return choose((NativeInt)(a > b), a, b); }
UNIAUDIO_INLINE Native sqrt(Native a) {
  return Native{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
                __builtin_sqrtf(a[3])};
}

// What is right where the first rounding of `fma_exactly` may have landed in the middle between two
// floats (or below their normal range): there the sum is rounded to odd first, which can't fall on
// a middle (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). Rare, so out
// of line.
[[gnu::noinline, gnu::cold]] static void fma_to_odd(const float* x, const float* y, float* z) {
  for (int i = 0; i < kLanes; ++i) {
    const double p = double(x[i]) * double(y[i]), w = double(z[i]), t = p + w, u = t - p;
    const double error = (p - (t - u)) + (w - u);
    uint64_t bits;
    __builtin_memcpy(&bits, &t, 8);
    if ((error > 0 || error < 0) && bits % 2 == 0)
      bits += (error > 0) == (t > 0) ? uint64_t{1} : ~uint64_t{0};
    double odd;
    __builtin_memcpy(&odd, &bits, 8);
    z[i] = float(odd);
  }
}

// a * b + c, rounded once, without the instruction: the product of two floats is exact in a double,
// and rounding the sum to double and then to float is right but for what `fma_to_odd` does.
UNIAUDIO_INLINE Native fma_exactly(Native x, Native y, Native z) {
#if defined(__FP_FAST_FMAF)
  UNIAUDIO_UNROLL
  for (int i = 0; i < 4; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
  return z;
#else
  typedef double Doubles __attribute__((vector_size(32)));
  typedef int32_t Words __attribute__((vector_size(32)));  // of doubles, the lower one first
  const Doubles s = __builtin_convertvector(x, Doubles) * __builtin_convertvector(y, Doubles) +
                    __builtin_convertvector(z, Doubles);
  const Words half = {0x1FFFFFFF, 0, 0x1FFFFFFF, 0, 0x1FFFFFFF, 0, 0x1FFFFFFF, 0},
              middle = {0x10000000, -1, 0x10000000, -1, 0x10000000, -1, 0x10000000, -1},
              size = {0, 0x7FFFFFFF, 0, 0x7FFFFFFF, 0, 0x7FFFFFFF, 0, 0x7FFFFFFF},
              least = {0, 0x38100000, 0, 0x38100000, 0, 0x38100000, 0, 0x38100000};
  const Words bits = (Words)s;
  const Words doubtful = ((bits & half) == middle) | ((bits & size) < least);
  uint64_t any[4];
  __builtin_memcpy(any, &doubtful, 32);
  if ((any[0] | any[1] | any[2] | any[3]) == 0) return __builtin_convertvector(s, Native);
  float a[4], b[4], c[4];
  store_native(a, x), store_native(b, y), store_native(c, z);
  fma_to_odd(a, b, c);
  return load_native(c);
#endif
}

// Products of bytes fit into 16 bits, and so does the sum of two: |x|, |w| <= 127.
typedef int16_t Shorts __attribute__((vector_size(16), may_alias));
typedef int8_t EightBytes __attribute__((vector_size(8), may_alias, aligned(1)));
typedef uint8_t LineBytes __attribute__((vector_size(16), may_alias, aligned(1)));

UNIAUDIO_INLINE Shorts widen(const int8_t* p) {
  return __builtin_convertvector(*reinterpret_cast<const EightBytes*>(p), Shorts);
}
UNIAUDIO_INLINE Shorts twice(const uint8_t* p) {
  const int16_t a = int8_t(p[0]), b = int8_t(p[1]), c = int8_t(p[2]), d = int8_t(p[3]);
  return Shorts{a, b, c, d, a, b, c, d};
}
// Sums of neighbours: four of eight, and four of four and four.
UNIAUDIO_INLINE NativeInt add_pairs(Shorts v) {
  const NativeInt pairs = (NativeInt)v;
  return (pairs << 16 >> 16) + (pairs >> 16);
}
UNIAUDIO_INLINE Native join_pairs(NativeInt a, NativeInt b) {
  return __builtin_convertvector(
      __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7),
      Native);
}

constexpr int kOffset = 0, kWeightOffset = 0;  // of quantized x, of int8 weights
struct Quad {
  Shorts v;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) { return {twice(p)}; }
// Two sums for each of 16 outputs: over the first and the last two of every four inputs.
struct DotSum {
  NativeInt v[8];
};
UNIAUDIO_INLINE void dot(DotSum& acc, Quad x, const int8_t* w) {
  UNIAUDIO_UNROLL
  for (int i = 0; i < 8; ++i) acc.v[i] = acc.v[i] + add_pairs(widen(w + 8 * i) * x.v);
}
UNIAUDIO_INLINE Vec finish_dot(DotSum acc, const int32_t*) {
  Vec f;
  UNIAUDIO_EACH
  f.v[i] = join_pairs(acc.v[2 * i], acc.v[2 * i + 1]);
  return f;
}
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec a) {
  const Native magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to nearest even
  UNIAUDIO_EACH {
    // the whole number is in the low bits
    const NativeInt bits = (NativeInt)(a.v[i] + magic);
    UNIAUDIO_UNROLL
    for (int j = 0; j < 4; ++j) p[4 * i + j] = uint8_t(bits[j]);
  }
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, Vec& even, Vec& odd) {
  UNIAUDIO_EACH {
    const NativeInt w = (NativeInt)load_native(reinterpret_cast<const float*>(line) + kLanes * i);
    even.v[i] = (Native)(w << 16);
    odd.v[i] = (Native)(w & int32_t(0xFFFF0000));
  }
}
UNIAUDIO_INLINE Vec load_bf16(const uint16_t* p) {
  typedef uint16_t FourShorts __attribute__((vector_size(8), may_alias, aligned(2)));
  Vec f;
  UNIAUDIO_EACH
  f.v[i] =
      (Native)(__builtin_convertvector(*reinterpret_cast<const FourShorts*>(p + 4 * i), NativeInt)
               << 16);
  return f;
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  Shorts v[8];
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  UNIAUDIO_UNROLL
  for (int i = 0; i < 8; ++i) {
    const Shorts both = widen(reinterpret_cast<const int8_t*>(p) + 8 * i);
    low.v[i] = both & 15;
    high.v[i] = both >> 4 & 15;
  }
}
struct SignedQuad {
  Shorts v;
};
UNIAUDIO_INLINE SignedQuad load_signed_quad(const uint8_t* p) { return {twice(p)}; }
// Sums over one group of 32 inputs, four for each output: each is at most 8 x 15 x 127 = 15240.
struct G16 {
  Shorts v[8];
  int32_t start;
};
// even, odd: over the first and the last two of every four inputs
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return -offset * (even + odd);
}
UNIAUDIO_INLINE G16 start_group(int32_t sum) { return {{}, sum}; }
UNIAUDIO_INLINE void dot_group(G16& acc, Bytes w, SignedQuad x) {
  UNIAUDIO_UNROLL
  for (int i = 0; i < 8; ++i) acc.v[i] = acc.v[i] + w.v[i] * x.v;
}
UNIAUDIO_INLINE Vec finish_group(G16 acc) {
  Vec f;
  UNIAUDIO_EACH
  f.v[i] =
      join_pairs(add_pairs(acc.v[2 * i]), add_pairs(acc.v[2 * i + 1])) + splat(float(acc.start));
  return f;
}

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 2, kScoreBlocks = 1, kValueRows = 2, kValueVectors = 1, kAloneBlocks = 2,
              kAloneVectors = 2;

UNIAUDIO_INLINE Vec widen_i8(const int8_t* p) {
  typedef int8_t FourBytes __attribute__((vector_size(4), may_alias, aligned(1)));
  Vec f;
  UNIAUDIO_EACH
  f.v[i] = __builtin_convertvector(*reinterpret_cast<const FourBytes*>(p + 4 * i), Native);
  return f;
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
