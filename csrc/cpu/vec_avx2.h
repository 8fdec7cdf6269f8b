// 16 floats in two registers, for AVX2 and, where it is compiled for AVX-VNNI, with its dot
// products. Same interface and same results as vec_avx512.h and vec_plain.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define UNIAUDIO_INLINE static inline __attribute__((always_inline))

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows = 4;  // 4 rows x 1 panel: 8 accumulators of the 16 registers
constexpr int kTilePanels = 1;

struct F16 {
  __m256 a, b;
};
struct I16 {
  __m256i a, b;
};

UNIAUDIO_INLINE F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
UNIAUDIO_INLINE F16 load_n(const float* p, int64_t n) {
  alignas(32) float t[16] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return {_mm256_load_ps(t), _mm256_load_ps(t + 8)};
}
UNIAUDIO_INLINE void store(float* p, F16 x) {
  _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b);
}
UNIAUDIO_INLINE void store_n(float* p, F16 x, int64_t n) {
  alignas(32) float t[16];
  _mm256_store_ps(t, x.a), _mm256_store_ps(t + 8, x.b);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
}
UNIAUDIO_INLINE F16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
UNIAUDIO_INLINE F16 add(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 sub(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 mul(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 div(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 min(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
UNIAUDIO_INLINE F16 abs(F16 x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
UNIAUDIO_INLINE F16 fused(F16 x, F16 y, F16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
UNIAUDIO_INLINE __m256 scale_exponent_half(__m256 p, __m256 t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
UNIAUDIO_INLINE F16 scale_exponent(F16 p, F16 t) {
  return {scale_exponent_half(p.a, t.a), scale_exponent_half(p.b, t.b)};
}
UNIAUDIO_INLINE float sum(F16 x) {
  const __m256 b = _mm256_add_ps(x.a, x.b);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
UNIAUDIO_INLINE float largest(F16 x) {
  const __m256 b = _mm256_max_ps(x.a, x.b);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
UNIAUDIO_INLINE float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

UNIAUDIO_INLINE I16 zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
#if defined(__AVXVNNI__)
// Four consecutive x (stored + 128), repeated for all 16 output rows; the 128 is taken out again by
// finish_dot.
struct Quad {
  __m256i v;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x)};
}
UNIAUDIO_INLINE __m256i dot_half(__m256i acc, Quad x, const int8_t* w) {
  return _mm256_dpbusd_avx_epi32(acc, x.v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
}
UNIAUDIO_INLINE __m256 finish_half(__m256i acc, const int32_t* wsum) {
  return _mm256_cvtepi32_ps(
      _mm256_sub_epi32(acc, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(wsum))));
}
UNIAUDIO_INLINE F16 finish_dot(I16 acc, const int32_t* wsum) {
  return {finish_half(acc.a, wsum), finish_half(acc.b, wsum + 8)};
}
#else
// |x| and x of four consecutive activations. maddubs adds two products in 16 bits; with |x|, |w| <=
// 127 that is at most 32258, so nothing saturates, as x + 128 (up to 255) would.
struct Quad {
  __m256i magnitude, x;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  int32_t raw;
  __builtin_memcpy(&raw, p, 4);
  const __m256i x = _mm256_xor_si256(_mm256_set1_epi32(raw), _mm256_set1_epi8(-128));
  return {_mm256_abs_epi8(x), x};
}
UNIAUDIO_INLINE __m256i dot_half(__m256i acc, Quad x, const int8_t* w) {
  const __m256i signed_w =
      _mm256_sign_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), x.x);
  const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, signed_w);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
UNIAUDIO_INLINE F16 finish_dot(I16 acc, const int32_t*) {
  return {_mm256_cvtepi32_ps(acc.a), _mm256_cvtepi32_ps(acc.b)};
}
#endif
UNIAUDIO_INLINE I16 dot(I16 acc, Quad x, const int8_t* w) {
  return {dot_half(acc.a, x, w), dot_half(acc.b, x, w + 32)};
}
UNIAUDIO_INLINE void store_quantized(uint8_t* p, F16 x) {
  alignas(32) int32_t t[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(t), _mm256_cvtps_epi32(x.a));
  _mm256_store_si256(reinterpret_cast<__m256i*>(t + 8), _mm256_cvtps_epi32(x.b));
  for (int i = 0; i < 16; ++i) p[i] = uint8_t(t[i] + 128);
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, F16& even, F16& odd) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line)),
                b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 16));
  const __m256i mask = _mm256_set1_epi32(int(0xFFFF0000));
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(a, mask)),
         _mm256_castsi256_ps(_mm256_and_si256(b, mask))};
}
UNIAUDIO_INLINE __m256 load_bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
UNIAUDIO_INLINE F16 load_bf16(const uint16_t* p) {
  return {load_bf16_half(p), load_bf16_half(p + 8)};
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  __m256i a, b;
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
  const __m256i mask = _mm256_set1_epi8(15);
  low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
struct SignedQuad {
  __m256i v;
};
UNIAUDIO_INLINE SignedQuad load_signed_quad(const uint8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x)};
}
#if defined(__AVXVNNI__)
struct G16 {
  __m256i a, b;
};  // sums over one group of 32 inputs
UNIAUDIO_INLINE G16 zero_group() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
UNIAUDIO_INLINE G16 dot_group(G16 acc, Bytes w, SignedQuad x) {
  return {_mm256_dpbusd_avx_epi32(acc.a, w.a, x.v), _mm256_dpbusd_avx_epi32(acc.b, w.b, x.v)};
}
UNIAUDIO_INLINE F16 finish_group(G16 acc, int32_t sum8) {
  const __m256i s = _mm256_set1_epi32(sum8);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(acc.a, s)),
          _mm256_cvtepi32_ps(_mm256_sub_epi32(acc.b, s))};
}
#else
// Sums over one group of 32 inputs, two a row, in 16 bits: at most 8 x 2 x 15 x 127 = 30480.
struct G16 {
  __m256i a, b;
};
UNIAUDIO_INLINE G16 zero_group() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
UNIAUDIO_INLINE G16 dot_group(G16 acc, Bytes w, SignedQuad x) {
  return {_mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, x.v)),
          _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, x.v))};
}
UNIAUDIO_INLINE F16 finish_group(G16 acc, int32_t sum8) {
  const __m256i one = _mm256_set1_epi16(1), s = _mm256_set1_epi32(sum8);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_madd_epi16(acc.a, one), s)),
          _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_madd_epi16(acc.b, one), s))};
}
#endif

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 4, kScoreBlocks = 1, kValueRows = 2, kValueVectors = 1, kAloneBlocks = 4,
              kAloneVectors = 2;

UNIAUDIO_INLINE F16 fused_exactly(F16 a, F16 b, F16 c) { return fused(a, b, c); }
UNIAUDIO_INLINE __m256 widen_i8_half(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
UNIAUDIO_INLINE F16 widen_i8(const int8_t* p) { return {widen_i8_half(p), widen_i8_half(p + 8)}; }

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
