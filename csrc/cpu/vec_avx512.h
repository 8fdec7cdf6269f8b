// 16 floats in one register.  Same interface and same results as vec_avx2.h and vec_plain.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define UNIAUDIO_INLINE static inline __attribute__((always_inline))

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows = 8;    // rows of x that one pass over a weight panel serves
constexpr int kTilePanels = 2;  // panels at a time when there are several rows

struct F16 {
  __m512 v;
};
struct I16 {
  __m512i v;
};

UNIAUDIO_INLINE F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
UNIAUDIO_INLINE F16 load_n(const float* p, int64_t n) {
  return {_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p)};
}
UNIAUDIO_INLINE void store(float* p, F16 a) { _mm512_storeu_ps(p, a.v); }
UNIAUDIO_INLINE void store_n(float* p, F16 a, int64_t n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), a.v);
}
UNIAUDIO_INLINE F16 set1(float x) { return {_mm512_set1_ps(x)}; }
UNIAUDIO_INLINE F16 add(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 sub(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 mul(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 div(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
UNIAUDIO_INLINE F16 abs(F16 a) {
  return {_mm512_castsi512_ps(
      _mm512_and_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7FFFFFFF)))};
}
// a * b + c
UNIAUDIO_INLINE F16 fused(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Bits of p plus (bits of t << 23): multiplies p by 2^n where t = n + 1.5 * 2^23.
UNIAUDIO_INLINE F16 scale_exponent(F16 p, F16 t) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
}
// Lanes i and i + 8, then + 4, + 2, + 1.
UNIAUDIO_INLINE float sum(F16 a) {
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
UNIAUDIO_INLINE float largest(F16 a) {
  const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
UNIAUDIO_INLINE float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }

UNIAUDIO_INLINE I16 zero_i() { return {_mm512_setzero_si512()}; }
// Four consecutive x (stored + 128), repeated for all 16 output rows.
struct Quad {
  __m512i v;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return {_mm512_set1_epi32(x)};
}
// acc[row] += sum over the four of (x + 128) * w: the 128 is taken out again by finish_dot.
UNIAUDIO_INLINE I16 dot(I16 acc, Quad x, const int8_t* w) {
  return {_mm512_dpbusd_epi32(acc.v, x.v, _mm512_loadu_si512(w))};
}
UNIAUDIO_INLINE F16 finish_dot(I16 acc, const int32_t* wsum) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(acc.v, _mm512_loadu_si512(wsum)))};
}
// Rounds to nearest even, adds 128, stores 16 bytes.
UNIAUDIO_INLINE void store_quantized(uint8_t* p, F16 a) {
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(128));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(i));
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, F16& even, F16& odd) {
  const __m512i w = _mm512_loadu_si512(line);
  even = {_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))};
  odd = {_mm512_castsi512_ps(_mm512_and_epi32(w, _mm512_set1_epi32(int(0xFFFF0000))))};
}
UNIAUDIO_INLINE F16 load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  __m512i v;
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  const __m512i raw = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  low = {_mm512_and_si512(raw, mask)};
  high = {_mm512_and_si512(_mm512_srli_epi16(raw, 4), mask)};
}
struct SignedQuad {
  __m512i v;
};
UNIAUDIO_INLINE SignedQuad load_signed_quad(const uint8_t* p) {
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return {_mm512_set1_epi32(x)};
}
struct G16 {
  __m512i v;
};  // sums over one group of 32 inputs
UNIAUDIO_INLINE G16 zero_group() { return {_mm512_setzero_si512()}; }
UNIAUDIO_INLINE G16 dot_group(G16 acc, Bytes w, SignedQuad x) {
  return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)};
}
UNIAUDIO_INLINE F16 finish_group(G16 acc, int32_t sum8) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(acc.v, _mm512_set1_epi32(sum8)))};
}

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 8, kScoreBlocks = 2, kValueRows = 4, kValueVectors = 2, kAloneBlocks = 8,
              kAloneVectors = 4;

UNIAUDIO_INLINE F16 fused_exactly(F16 a, F16 b, F16 c) { return fused(a, b, c); }
UNIAUDIO_INLINE F16 widen_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
