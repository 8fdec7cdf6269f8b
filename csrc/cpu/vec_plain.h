// 16 floats as four generic vectors of four, which compilers turn into SSE2 or NEON (or scalars).
// Same interface and same results as the other wrappers, except that `fused` rounds twice.
#pragma once

#include <cstdint>

#define UNIAUDIO_INLINE static inline __attribute__((always_inline))

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows = 2;
constexpr int kTilePanels = 1;

typedef float F4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));

struct F16 {
  F4 v[4];
};
struct I16 {
  I4 v[4];
};

#define UNIAUDIO_EACH(expression)                    \
  F16 r;                                             \
  for (int i = 0; i < 4; ++i) r.v[i] = (expression); \
  return r

UNIAUDIO_INLINE F16 load(const float* p) {
  F16 r;
  __builtin_memcpy(&r, p, 64);
  return r;
}
UNIAUDIO_INLINE F16 load_n(const float* p, int64_t n) {
  float t[16] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
UNIAUDIO_INLINE void store(float* p, F16 a) { __builtin_memcpy(p, &a, 64); }
UNIAUDIO_INLINE void store_n(float* p, F16 a, int64_t n) {
  float t[16];
  store(t, a);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
}
UNIAUDIO_INLINE F16 set1(float x) { UNIAUDIO_EACH((F4{x, x, x, x})); }
UNIAUDIO_INLINE F16 add(F16 a, F16 b) { UNIAUDIO_EACH(a.v[i] + b.v[i]); }
UNIAUDIO_INLINE F16 sub(F16 a, F16 b) { UNIAUDIO_EACH(a.v[i] - b.v[i]); }
UNIAUDIO_INLINE F16 mul(F16 a, F16 b) { UNIAUDIO_EACH(a.v[i] * b.v[i]); }
UNIAUDIO_INLINE F16 div(F16 a, F16 b) { UNIAUDIO_EACH(a.v[i] / b.v[i]); }
UNIAUDIO_INLINE F4 choose(I4 mask, F4 a, F4 b) { return (F4)((mask & (I4)a) | (~mask & (I4)b)); }
UNIAUDIO_INLINE F16 max(F16 a, F16 b) {
  UNIAUDIO_EACH(choose((I4)(a.v[i] > b.v[i]), a.v[i], b.v[i]));
}
UNIAUDIO_INLINE F16 min(F16 a, F16 b) {
  UNIAUDIO_EACH(choose((I4)(a.v[i] < b.v[i]), a.v[i], b.v[i]));
}
UNIAUDIO_INLINE F16 abs(F16 a) {
  UNIAUDIO_EACH((F4)((I4)a.v[i] & I4{0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF}));
}
UNIAUDIO_INLINE F16 fused(F16 a, F16 b, F16 c) { UNIAUDIO_EACH(a.v[i] * b.v[i] + c.v[i]); }
UNIAUDIO_INLINE F16 scale_exponent(F16 p, F16 t) {
  typedef uint32_t U4 __attribute__((vector_size(16)));
  UNIAUDIO_EACH((F4)((U4)p.v[i] + ((U4)t.v[i] << 23)));
}
UNIAUDIO_INLINE float sum(F16 a) {
  const F4 b = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
UNIAUDIO_INLINE float largest(F16 a) {
  float m = a.v[0][0];
  for (int i = 1; i < 16; ++i) m = a.v[i / 4][i % 4] > m ? a.v[i / 4][i % 4] : m;
  return m;
}
UNIAUDIO_INLINE float square_root(float x) { return __builtin_sqrtf(x); }

UNIAUDIO_INLINE I16 zero_i() { return I16{}; }
struct Quad {
  int32_t x[4];
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  return {{p[0] - 128, p[1] - 128, p[2] - 128, p[3] - 128}};
}
UNIAUDIO_INLINE I16 dot(I16 acc, Quad x, const int8_t* w) {
  for (int r = 0; r < 16; ++r) {
    acc.v[r / 4][r % 4] +=
        x.x[0] * w[4 * r] + x.x[1] * w[4 * r + 1] + x.x[2] * w[4 * r + 2] + x.x[3] * w[4 * r + 3];
  }
  return acc;
}
UNIAUDIO_INLINE F16 finish_dot(I16 acc, const int32_t*) {
  UNIAUDIO_EACH(
      (F4{float(acc.v[i][0]), float(acc.v[i][1]), float(acc.v[i][2]), float(acc.v[i][3])}));
}
UNIAUDIO_INLINE void store_quantized(uint8_t* p, F16 a) {
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even
    const volatile float rounded = t[i] + magic;
    p[i] = uint8_t(int32_t(rounded - magic) + 128);
  }
}
#undef UNIAUDIO_EACH

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE float from_bf16(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, F16& even, F16& odd) {
  float e[16], o[16];
  for (int r = 0; r < 16; ++r) e[r] = from_bf16(line[2 * r]), o[r] = from_bf16(line[2 * r + 1]);
  even = load(e), odd = load(o);
}
UNIAUDIO_INLINE F16 load_bf16(const uint16_t* p) {
  F16 f{};
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
  I4 v[4];
};  // sums over one group of 32 inputs
UNIAUDIO_INLINE G16 zero_group() { return G16{}; }
UNIAUDIO_INLINE G16 dot_group(G16 acc, Bytes w, SignedQuad x) {
  for (int r = 0; r < 16; ++r) {
    acc.v[r / 4][r % 4] += x.x[0] * w.v[4 * r] + x.x[1] * w.v[4 * r + 1] + x.x[2] * w.v[4 * r + 2] +
                           x.x[3] * w.v[4 * r + 3];
  }
  return acc;
}
UNIAUDIO_INLINE F16 finish_group(G16 acc, int32_t sum8) {
  F16 f{};
  for (int r = 0; r < 16; ++r) f.v[r / 4][r % 4] = float(acc.v[r / 4][r % 4] - sum8);
  return f;
}

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 2, kScoreBlocks = 1, kValueRows = 2, kValueVectors = 1, kAloneBlocks = 2,
              kAloneVectors = 2;

// a * b + c, rounded once, without the instruction. The product of two floats is exact in a double.
// Rounding the sum to double and then to float is right unless the first lands in the middle
// between two floats (or below their normal range): there it is rounded to odd first, which can't
// fall on a middle (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
UNIAUDIO_INLINE F16 fused_exactly(F16 a, F16 b, F16 c) {
  float x[16], y[16], z[16];
  store(x, a), store(y, b), store(z, c);
#if defined(__FP_FAST_FMAF)
  for (int i = 0; i < 16; ++i) z[i] = __builtin_fmaf(x[i], y[i], z[i]);
#else
  double s[16];
  for (int i = 0; i < 16; ++i) s[i] = double(x[i]) * double(y[i]) + double(z[i]);
  uint32_t doubtful = 0;
  for (int i = 0; i < 16; ++i) {
    uint64_t bits;
    __builtin_memcpy(&bits, &s[i], 8);
    doubtful |= uint32_t((uint32_t(bits) & 0x1FFFFFFFu) == 0x10000000u) |
                uint32_t((uint32_t(bits >> 32) & 0x7FFFFFFFu) < 0x38100000u);
  }
  if (doubtful) {
    for (int i = 0; i < 16; ++i) {
      const double p = double(x[i]) * double(y[i]), w = double(z[i]), t = s[i] - p;
      const double error = (p - (s[i] - t)) + (w - t);
      uint64_t bits;
      __builtin_memcpy(&bits, &s[i], 8);
      if ((error > 0 || error < 0) && bits % 2 == 0)
        bits += (error > 0) == (s[i] > 0) ? uint64_t{1} : ~uint64_t{0};
      __builtin_memcpy(&s[i], &bits, 8);
    }
  }
  for (int i = 0; i < 16; ++i) z[i] = float(s[i]);
#endif
  return load(z);
}
UNIAUDIO_INLINE F16 widen_i8(const int8_t* p) {
  float t[16];
  for (int i = 0; i < 16; ++i) t[i] = float(p[i]);
  return load(t);
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
