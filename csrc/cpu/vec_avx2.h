// AVX2 and, where it is compiled for AVX-VNNI, its dot products of bytes.
#pragma once

#include <immintrin.h>

#define UNIAUDIO_LANES 8
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows = 4;  // 4 rows x 1 panel: 8 accumulators of the 16 registers
constexpr int kTilePanels = 1;
// Tiles of the codecs' products: most rows x panels, most rows, and most rows of a tile that is 8,
// 4 or 2 panels wide.
constexpr int kTile = 6, kTallRows = 6, kRowsOf8 = 0, kRowsOf4 = 1, kRowsOf2 = 2;
constexpr int kLstmBlocks = 1, kLstmGates = 4;  // of a recurrent product, side by side

UNIAUDIO_INLINE Native splat(float x) { return _mm256_set1_ps(x); }
UNIAUDIO_INLINE Native fma(Native a, Native b, Native c) { return _mm256_fmadd_ps(a, b, c); }
UNIAUDIO_INLINE Native fma_exactly(Native a, Native b, Native c) { return fma(a, b, c); }
UNIAUDIO_INLINE Native min(Native a, Native b) { return _mm256_min_ps(a, b); }
UNIAUDIO_INLINE Native max(Native a, Native b) { return _mm256_max_ps(a, b); }
UNIAUDIO_INLINE Native sqrt(Native a) { return _mm256_sqrt_ps(a); }

UNIAUDIO_INLINE __m256i load_bytes(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
UNIAUDIO_INLINE Vec to_float(__m256i a, __m256i b) {
  return {{_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)}};
}

struct I16 {
  __m256i a, b;
};
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
  return _mm256_dpbusd_avx_epi32(acc, x.v, load_bytes(w));
}
UNIAUDIO_INLINE __m256 finish_half(__m256i acc, const int32_t* wsum) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(acc, load_bytes(wsum)));
}
UNIAUDIO_INLINE Vec finish_dot(I16 acc, const int32_t* wsum) {
  return {{finish_half(acc.a, wsum), finish_half(acc.b, wsum + 8)}};
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
  const __m256i signed_w = _mm256_sign_epi8(load_bytes(w), x.x);
  const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, signed_w);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
UNIAUDIO_INLINE Vec finish_dot(I16 acc, const int32_t*) { return to_float(acc.a, acc.b); }
#endif
UNIAUDIO_INLINE I16 dot(I16 acc, Quad x, const int8_t* w) {
  return {dot_half(acc.a, x, w), dot_half(acc.b, x, w + 32)};
}
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec x) {
  alignas(32) int32_t t[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(t), _mm256_cvtps_epi32(x.v[0]));
  _mm256_store_si256(reinterpret_cast<__m256i*>(t + 8), _mm256_cvtps_epi32(x.v[1]));
  for (int i = 0; i < 16; ++i) p[i] = uint8_t(t[i] + 128);
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, Vec& even, Vec& odd) {
  const __m256i a = load_bytes(line), b = load_bytes(line + 16);
  const __m256i mask = _mm256_set1_epi32(int(0xFFFF0000));
  even = {{(Native)_mm256_slli_epi32(a, 16), (Native)_mm256_slli_epi32(b, 16)}};
  odd = {{(Native)_mm256_and_si256(a, mask), (Native)_mm256_and_si256(b, mask)}};
}
UNIAUDIO_INLINE __m256 load_bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
UNIAUDIO_INLINE Vec load_bf16(const uint16_t* p) {
  return {{load_bf16_half(p), load_bf16_half(p + 8)}};
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  __m256i a, b;
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  const __m256i a = load_bytes(p), b = load_bytes(p + 32);
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
UNIAUDIO_INLINE Vec finish_group(G16 acc, int32_t sum8) {
  const __m256i s = _mm256_set1_epi32(sum8);
  return to_float(_mm256_sub_epi32(acc.a, s), _mm256_sub_epi32(acc.b, s));
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
UNIAUDIO_INLINE Vec finish_group(G16 acc, int32_t sum8) {
  const __m256i one = _mm256_set1_epi16(1), s = _mm256_set1_epi32(sum8);
  return to_float(_mm256_sub_epi32(_mm256_madd_epi16(acc.a, one), s),
                  _mm256_sub_epi32(_mm256_madd_epi16(acc.b, one), s));
}
#endif

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 4, kScoreBlocks = 1, kValueRows = 2, kValueVectors = 1, kAloneBlocks = 4,
              kAloneVectors = 2;

UNIAUDIO_INLINE __m256 widen_i8_half(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
UNIAUDIO_INLINE Vec widen_i8(const int8_t* p) { return {{widen_i8_half(p), widen_i8_half(p + 8)}}; }

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
