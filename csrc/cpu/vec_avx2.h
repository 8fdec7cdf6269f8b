// AVX2 and, where it is compiled for AVX-VNNI, its dot products of bytes.
#pragma once

#include <immintrin.h>

#define UNIAUDIO_LANES 8
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

// Of a product with several rows: rows by DType (12 or 8 accumulators of the 16 registers), panels.
constexpr int kTileRows[] = {6, 6, 4, 4}, kTilePanels = 1;
constexpr int kAlonePanels = 4;  // of a row that is alone
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
UNIAUDIO_INLINE Vec to_float(NativeInt a, NativeInt b) {
  return {{__builtin_convertvector(a, Native), __builtin_convertvector(b, Native)}};
}

#if defined(__AVXVNNI__)
constexpr int kOffset = 128, kWeightOffset = 0;  // of quantized x, of int8 weights
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
using DotSum = IntVec;
UNIAUDIO_INLINE void dot(DotSum& acc, Quad x, const int8_t* w) {
  UNIAUDIO_EACH acc.v[i] =
      (NativeInt)_mm256_dpbusd_avx_epi32((__m256i)acc.v[i], x.v, load_bytes(w + 32 * i));
}
UNIAUDIO_INLINE Vec finish_dot(DotSum acc, const int32_t* wsum) {
  return to_float(acc.v[0] - (NativeInt)load_bytes(wsum),
                  acc.v[1] - (NativeInt)load_bytes(wsum + 8));
}
#else
#define UNIAUDIO_SPLIT_INT8  // see int8_avx2.h
constexpr int kOffset = 0, kWeightOffset = 127;
#endif
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec x) {
  // the low bytes of each half of four: those of v[0], then those of v[1]
  const __m256i low = _mm256_set1_epi64x(0x80808080'0C080400),
                high = _mm256_set1_epi64x(0x0C080400'80808080);
  const __m256i bytes = _mm256_or_si256(_mm256_shuffle_epi8(_mm256_cvtps_epi32(x.v[0]), low),
                                        _mm256_shuffle_epi8(_mm256_cvtps_epi32(x.v[1]), high));
  const __m256i ordered =
      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_add_epi8(_mm256_castsi256_si128(ordered), _mm_set1_epi8(int8_t(kOffset))));
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
// Sums over one group of 32 inputs; even, odd: over the first and the last two of every four.
#if defined(__AVXVNNI__)
using GroupSum = NativeInt;
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return -offset * (even + odd);
}
UNIAUDIO_INLINE GroupSum dot(GroupSum acc, __m256i w, SignedQuad x) {
  return (GroupSum)_mm256_dpbusd_avx_epi32((__m256i)acc, w, x.v);
}
UNIAUDIO_INLINE NativeInt whole(GroupSum acc) { return acc; }
#else
// Two sums a row, in 16 bits: in int4 each is at most 16 x 8 x 127 = 16256 in the end; what comes
// before may wrap around.
typedef uint16_t GroupSum __attribute__((vector_size(32), may_alias));
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return int32_t((uint32_t(-offset * even) & 0xFFFFu) | uint32_t(-offset * odd) << 16);
}
UNIAUDIO_INLINE GroupSum dot(GroupSum acc, __m256i w, SignedQuad x) {
  acc = acc + (GroupSum)_mm256_maddubs_epi16(w, x.v);
  // Otherwise GCC adds in another order: it computes many products first, and spills them.
  asm("" : "+x"(acc));
  return acc;
}
UNIAUDIO_INLINE NativeInt whole(GroupSum acc) {
  return (NativeInt)_mm256_madd_epi16((__m256i)acc, _mm256_set1_epi16(1));
}
#endif
struct G16 {
  GroupSum a, b;
};
UNIAUDIO_INLINE G16 start_group(int32_t sum) {
  const GroupSum s = (GroupSum)_mm256_set1_epi32(sum);
  return {s, s};
}
UNIAUDIO_INLINE void dot_group(G16& acc, Bytes w, SignedQuad x) {
  acc.a = dot(acc.a, w.a, x), acc.b = dot(acc.b, w.b, x);
}
UNIAUDIO_INLINE Vec finish_group(G16 acc) { return to_float(whole(acc.a), whole(acc.b)); }

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
