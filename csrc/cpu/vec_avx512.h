// AVX-512 with dot products of bytes (VNNI).
#pragma once

#include <immintrin.h>

#define UNIAUDIO_LANES 16
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

// Of a product with several rows: rows by DType (16 accumulators of the 32 registers), panels.
constexpr int kTileRows[] = {8, 8, 8, 8}, kTilePanels = 2;
constexpr int kAlonePanels = 4;  // of a row that is alone
// Tiles of the codecs' products: most rows x panels, most rows, and most rows of a tile that is 8,
// 4 or 2 panels wide.
constexpr int kTile = 24, kTallRows = 12, kRowsOf8 = 2, kRowsOf4 = 6, kRowsOf2 = 12;
constexpr int kLstmBlocks = 2, kLstmGates = 4;  // of a recurrent product, side by side

UNIAUDIO_INLINE Native splat(float x) { return _mm512_set1_ps(x); }
UNIAUDIO_INLINE Native fma(Native a, Native b, Native c) { return _mm512_fmadd_ps(a, b, c); }
UNIAUDIO_INLINE Native fma_exactly(Native a, Native b, Native c) { return fma(a, b, c); }
UNIAUDIO_INLINE Native min(Native a, Native b) { return _mm512_min_ps(a, b); }
UNIAUDIO_INLINE Native max(Native a, Native b) { return _mm512_max_ps(a, b); }
UNIAUDIO_INLINE Native sqrt(Native a) { return _mm512_sqrt_ps(a); }

constexpr int kOffset = 128, kWeightOffset = 0;  // of quantized x, of int8 weights
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
using DotSum = IntVec;
UNIAUDIO_INLINE void dot(DotSum& acc, Quad x, const int8_t* w) {
  acc.v[0] = (NativeInt)_mm512_dpbusd_epi32((__m512i)acc.v[0], x.v, _mm512_loadu_si512(w));
}
UNIAUDIO_INLINE Vec finish_dot(DotSum acc, const int32_t* wsum) {
  return {{_mm512_cvtepi32_ps(_mm512_sub_epi32((__m512i)acc.v[0], _mm512_loadu_si512(wsum)))}};
}
// Rounds to nearest even, adds 128, stores 16 bytes.
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec a) {
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(a.v[0]), _mm512_set1_epi32(kOffset));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(i));
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, Vec& even, Vec& odd) {
  const __m512i w = _mm512_loadu_si512(line);
  even = {{(Native)_mm512_slli_epi32(w, 16)}};
  odd = {{(Native)_mm512_and_epi32(w, _mm512_set1_epi32(int(0xFFFF0000)))}};
}
UNIAUDIO_INLINE Vec load_bf16(const uint16_t* p) {
  return {{(Native)_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16)}};
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
// Sums over one group of 32 inputs; even, odd: over the first and the last two of every four.
using G16 = IntVec;
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return -offset * (even + odd);
}
UNIAUDIO_INLINE G16 start_group(int32_t sum) { return {{(NativeInt)_mm512_set1_epi32(sum)}}; }
UNIAUDIO_INLINE void dot_group(G16& acc, Bytes w, SignedQuad x) {
  acc.v[0] = (NativeInt)_mm512_dpbusd_epi32((__m512i)acc.v[0], w.v, x.v);
}
UNIAUDIO_INLINE Vec finish_group(G16 acc) { return {{_mm512_cvtepi32_ps((__m512i)acc.v[0])}}; }

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 8, kScoreBlocks = 2, kValueRows = 4, kValueVectors = 2, kAloneBlocks = 8,
              kAloneVectors = 4;

UNIAUDIO_INLINE Vec widen_i8(const int8_t* p) {
  return {{_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))}};
}

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
