// Plain C++: generic vectors of four, which compilers turn into SSE2, NEON or scalars. `fma` rounds
// twice, since there is no instruction to rely on.
#pragma once

#define UNIAUDIO_LANES 4
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows[] = {2, 2, 2, 2}, kTilePanels = 1;  // of a product: rows by DType, panels
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

// a * b + c, rounded once, without the instruction. The product of two floats is exact in a double.
// Rounding the sum to double and then to float is right unless the first lands in the middle
// between two floats (or below their normal range): there it is rounded to odd first, which can't
// fall on a middle (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
UNIAUDIO_INLINE Native fma_exactly(Native x, Native y, Native z) {
#if defined(__FP_FAST_FMAF)
  UNIAUDIO_UNROLL
  for (int i = 0; i < 4; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
#else
  double s[4];
  for (int i = 0; i < 4; ++i) s[i] = double(x[i]) * double(y[i]) + double(z[i]);
  uint32_t doubtful = 0;
  for (int i = 0; i < 4; ++i) {
    uint64_t bits;
    __builtin_memcpy(&bits, &s[i], 8);
    doubtful |= uint32_t((uint32_t(bits) & 0x1FFFFFFFu) == 0x10000000u) |
                uint32_t((uint32_t(bits >> 32) & 0x7FFFFFFFu) < 0x38100000u);
  }
  if (doubtful) {
    for (int i = 0; i < 4; ++i) {
      const double p = double(x[i]) * double(y[i]), w = double(z[i]), t = s[i] - p;
      const double error = (p - (s[i] - t)) + (w - t);
      uint64_t bits;
      __builtin_memcpy(&bits, &s[i], 8);
      if ((error > 0 || error < 0) && bits % 2 == 0)
        bits += (error > 0) == (s[i] > 0) ? uint64_t{1} : ~uint64_t{0};
      __builtin_memcpy(&s[i], &bits, 8);
    }
  }
  for (int i = 0; i < 4; ++i) z[i] = float(s[i]);
#endif
  return z;
}

constexpr int kOffset = 0, kWeightOffset = 0;  // of quantized x, of int8 weights
struct Quad {
  int32_t x[4];
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  return {{int8_t(p[0]), int8_t(p[1]), int8_t(p[2]), int8_t(p[3])}};
}
UNIAUDIO_INLINE void dot(IntVec& acc, Quad x, const int8_t* w) {
  for (int r = 0; r < 16; ++r) {
    acc.v[r / 4][r % 4] +=
        x.x[0] * w[4 * r] + x.x[1] * w[4 * r + 1] + x.x[2] * w[4 * r + 2] + x.x[3] * w[4 * r + 3];
  }
}
UNIAUDIO_INLINE Vec finish_dot(IntVec acc, const int32_t*) {
  Vec f;
  UNIAUDIO_EACH
  f.v[i] = __builtin_convertvector(acc.v[i], Native);
  return f;
}
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec a) {
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even
    const volatile float rounded = t[i] + magic;
    p[i] = uint8_t(int32_t(rounded - magic) + kOffset);
  }
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE float from_bf16(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, Vec& even, Vec& odd) {
  float e[16], o[16];
  for (int r = 0; r < 16; ++r) e[r] = from_bf16(line[2 * r]), o[r] = from_bf16(line[2 * r + 1]);
  even = load(e), odd = load(o);
}
UNIAUDIO_INLINE Vec load_bf16(const uint16_t* p) {
  Vec f{};
  for (int r = 0; r < 16; ++r) f.v[r / 4][r % 4] = from_bf16(p[r]);
  return f;
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  uint8_t v[64];
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  for (int i = 0; i < 64; ++i) low.v[i] = p[i] & 15, high.v[i] = p[i] >> 4;
}
struct SignedQuad {
  int32_t x[4];
};
UNIAUDIO_INLINE SignedQuad load_signed_quad(const uint8_t* p) {
  return {{int8_t(p[0]), int8_t(p[1]), int8_t(p[2]), int8_t(p[3])}};
}
struct G16 {
  NativeInt v[4];
};  // sums over one group of 32 inputs
// even, odd: over the first and the last two of every four inputs
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return -offset * (even + odd);
}
UNIAUDIO_INLINE G16 start_group(int32_t sum) {
  G16 r;
  UNIAUDIO_EACH r.v[i] = NativeInt{sum, sum, sum, sum};
  return r;
}
UNIAUDIO_INLINE void dot_group(G16& acc, Bytes w, SignedQuad x) {
  for (int r = 0; r < 16; ++r) {
    acc.v[r / 4][r % 4] += x.x[0] * w.v[4 * r] + x.x[1] * w.v[4 * r + 1] + x.x[2] * w.v[4 * r + 2] +
                           x.x[3] * w.v[4 * r + 3];
  }
}
UNIAUDIO_INLINE Vec finish_group(G16 acc) {
  Vec f;
  UNIAUDIO_EACH f.v[i] = __builtin_convertvector(acc.v[i], Native);
  return f;
}

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 2, kScoreBlocks = 1, kValueRows = 2, kValueVectors = 1, kAloneBlocks = 2,
              kAloneVectors = 2;

UNIAUDIO_INLINE Vec widen_i8(const int8_t* p) {
  float t[16];
  for (int i = 0; i < 16; ++i) t[i] = float(p[i]);
  return load(t);
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
