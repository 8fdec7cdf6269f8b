// Sixteen floats as one value, whatever the instruction set: one AVX-512 register, two of AVX2, or
// four of SSE2 or NEON. Every tier does the same operations in the same order on the same sixteen
// lanes, so tiers with fused multiply-add agree bit for bit.
//
// Included by vec_<isa>.h, which defines UNIAUDIO_LANES (floats per register) beforehand, and
// afterwards the functions on registers that are only declared here. Everything here is in the
// instruction set's own namespace and internal to one file: an inline function shared with other
// files could be kept by the linker in its wide version and crash older machines.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/panel.h"

#define UNIAUDIO_MEMBER inline __attribute__((always_inline))
#define UNIAUDIO_INLINE static UNIAUDIO_MEMBER
#if defined(__clang__)
#define UNIAUDIO_UNROLL _Pragma("clang loop unroll(full)")
#define UNIAUDIO_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNIAUDIO_UNROLL _Pragma("GCC unroll 32")
#define UNIAUDIO_ROLLED _Pragma("GCC unroll 1")
#endif
// For each register of a Vec; the loop is unrolled, so that arrays of Vec stay in registers.
#define UNIAUDIO_EACH \
  UNIAUDIO_UNROLL     \
  for (int i = 0; i < kParts; ++i)

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kLanes = UNIAUDIO_LANES, kParts = kPanel / kLanes;

typedef float Native __attribute__((vector_size(UNIAUDIO_LANES * 4), may_alias));
typedef int32_t NativeInt __attribute__((vector_size(UNIAUDIO_LANES * 4), may_alias));
typedef float NativeLoose __attribute__((vector_size(UNIAUDIO_LANES * 4), may_alias, aligned(4)));

struct Vec {
  Native v[kParts];
};
struct IntVec {
  NativeInt v[kParts];
};
// From here on what `p` points to is in memory, not in registers, whatever the compiler prefers.
template <class T>
UNIAUDIO_INLINE void in_memory(T*& p) {
  asm("" : "+r"(p) : : "memory");
}

// x has been computed from here on. Where registers are few, GCC would widen many numbers first, and
// spill the sums that wait for them.
UNIAUDIO_INLINE void settle(Vec& x) {
#if UNIAUDIO_LANES == 8
  UNIAUDIO_EACH asm("" : "+x"(x.v[i]));
#else
  (void)x;
#endif
}

// What vec_<isa>.h defines. min and max are those of x86: the second where the comparison fails.
UNIAUDIO_INLINE Native splat(float x);
UNIAUDIO_INLINE Native fma(Native a, Native b, Native c);          // a * b + c
UNIAUDIO_INLINE Native fma_exactly(Native a, Native b, Native c);  // rounded once on every tier
UNIAUDIO_INLINE Native min(Native a, Native b);
UNIAUDIO_INLINE Native max(Native a, Native b);
UNIAUDIO_INLINE Native sqrt(Native a);

UNIAUDIO_INLINE Native load_native(const float* p) {
  return *reinterpret_cast<const NativeLoose*>(p);
}
UNIAUDIO_INLINE void store_native(float* p, Native x) { *reinterpret_cast<NativeLoose*>(p) = x; }

UNIAUDIO_INLINE Vec load(const float* p) {
  Vec r;
  UNIAUDIO_EACH
  r.v[i] = load_native(p + i * kLanes);
  return r;
}
UNIAUDIO_INLINE void store(float* p, Vec x) {
  UNIAUDIO_EACH
  store_native(p + i * kLanes, x.v[i]);
}
// The first n of 16 lanes, zeros after them.
UNIAUDIO_INLINE Vec load_n(const float* p, int64_t n) {
#if UNIAUDIO_LANES == 16
  return {{_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)}};
#else
  float t[16] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
#endif
}
UNIAUDIO_INLINE void store_n(float* p, Vec x, int64_t n) {
#if UNIAUDIO_LANES == 16
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x.v[0]);
#else
  float t[16];
  store(t, x);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
#endif
}
UNIAUDIO_INLINE Vec set(float x) {
  const Native s = splat(x);
  Vec r;
  UNIAUDIO_EACH
  r.v[i] = s;
  return r;
}

UNIAUDIO_INLINE Vec operator+(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = a.v[i] + b.v[i];
  return a;
}
UNIAUDIO_INLINE Vec operator-(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = a.v[i] - b.v[i];
  return a;
}
UNIAUDIO_INLINE Vec operator*(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = a.v[i] * b.v[i];
  return a;
}
UNIAUDIO_INLINE Vec operator/(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = a.v[i] / b.v[i];
  return a;
}
UNIAUDIO_INLINE Vec fma(Vec a, Vec b, Vec c) {
  UNIAUDIO_EACH
  a.v[i] = fma(a.v[i], b.v[i], c.v[i]);
  return a;
}
UNIAUDIO_INLINE Vec fma_exactly(Vec a, Vec b, Vec c) {
  UNIAUDIO_EACH
  a.v[i] = fma_exactly(a.v[i], b.v[i], c.v[i]);
  return a;
}
UNIAUDIO_INLINE Vec min(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = min(a.v[i], b.v[i]);
  return a;
}
UNIAUDIO_INLINE Vec max(Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = max(a.v[i], b.v[i]);
  return a;
}
UNIAUDIO_INLINE Vec sqrt(Vec a) {
  UNIAUDIO_EACH
  a.v[i] = sqrt(a.v[i]);
  return a;
}
UNIAUDIO_INLINE Vec abs(Vec a) {
  UNIAUDIO_EACH
  a.v[i] = (Native)((NativeInt)a.v[i] & 0x7FFFFFFF);
  return a;
}
// a where x > 0, else b
UNIAUDIO_INLINE Vec where_positive(Vec x, Vec a, Vec b) {
  UNIAUDIO_EACH
  a.v[i] = x.v[i] > Native{} ? a.v[i] : b.v[i];
  return a;
}
// Bits of p plus (bits of t << 23): multiplies p by 2^n where t = n + 1.5 * 2^23.
UNIAUDIO_INLINE Vec scale_exponent(Vec p, Vec t) {
  UNIAUDIO_EACH
  p.v[i] = (Native)((NativeInt)p.v[i] + ((NativeInt)t.v[i] << 23));
  return p;
}

// The fixed tree of a reduction: lanes i and i + 8, then + 4, + 2, + 1.
template <class Join>
UNIAUDIO_INLINE float reduce(Vec x, Join join) {
  UNIAUDIO_UNROLL
  for (int half = kParts / 2; half >= 1; half /= 2) {
    UNIAUDIO_UNROLL
    for (int i = 0; i < half; ++i) x.v[i] = join(x.v[i], x.v[i + half]);
  }
  float t[kLanes];
  store_native(t, x.v[0]);
  UNIAUDIO_UNROLL
  for (int step = kLanes / 2; step >= 1; step /= 2) {
    UNIAUDIO_UNROLL
    for (int i = 0; i < step; ++i) t[i] = join(t[i], t[i + step]);
  }
  return t[0];
}
struct Plus {
  UNIAUDIO_MEMBER float operator()(float a, float b) const { return a + b; }
  UNIAUDIO_MEMBER Native operator()(Native a, Native b) const { return a + b; }
};
struct Larger {
  UNIAUDIO_MEMBER float operator()(float a, float b) const { return a > b ? a : b; }
  UNIAUDIO_MEMBER Native operator()(Native a, Native b) const { return max(a, b); }
};
UNIAUDIO_INLINE float sum(Vec x) { return reduce(x, Plus{}); }
UNIAUDIO_INLINE float largest(Vec x) { return reduce(x, Larger{}); }

// f(offset, lanes) over [0, n): whole vectors, then the rest.
template <class F>
UNIAUDIO_INLINE void each(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kPanel <= n; i += kPanel) f(i, int64_t{kPanel});
  if (i < n) f(i, n - i);
}
UNIAUDIO_INLINE Vec get(const float* p, int64_t n) { return n == kPanel ? load(p) : load_n(p, n); }
UNIAUDIO_INLINE void put(float* p, Vec x, int64_t n) {
  if (n == kPanel) {
    store(p, x);
  } else {
    store_n(p, x, n);
  }
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
