// 64-bit ARM with dot products of bytes (ARMv8.2).
#pragma once

#include <arm_neon.h>

#define UNIAUDIO_LANES 4
#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

// Of a product with several rows: rows by DType (24 or 16 accumulators of the 32 registers), panels.
constexpr int kTileRows[] = {6, 4, 4, 4}, kTilePanels = 1;
constexpr int kAlonePanels = 4;  // of a row that is alone
// Tiles of the codecs' products: most rows x panels (24 of the 32 registers), most rows, and most
// rows of a tile that is 8, 4 or 2 panels wide.
constexpr int kTile = 6, kTallRows = 6, kRowsOf8 = 0, kRowsOf4 = 1, kRowsOf2 = 3;
constexpr int kLstmBlocks = 1, kLstmGates = 4;  // of a recurrent product, side by side

UNIAUDIO_INLINE Native splat(float x) { return vdupq_n_f32(x); }
UNIAUDIO_INLINE Native fma(Native a, Native b, Native c) { return vfmaq_f32(c, a, b); }
UNIAUDIO_INLINE Native fma_exactly(Native a, Native b, Native c) { return fma(a, b, c); }
UNIAUDIO_INLINE Native min(Native a, Native b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
UNIAUDIO_INLINE Native max(Native a, Native b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
UNIAUDIO_INLINE Native sqrt(Native a) { return vsqrtq_f32(a); }

#define UNIAUDIO_EACH_OF(type, expression) \
  type r;                                  \
  UNIAUDIO_EACH                            \
  r.v[i] = (expression);                   \
  return r

UNIAUDIO_INLINE int8x16_t four_times(const uint8_t* p) {
  int32_t raw;
  __builtin_memcpy(&raw, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(raw));
}

constexpr int kOffset = 0, kWeightOffset = 0;  // of quantized x, of int8 weights
// Four consecutive x, repeated.
struct Quad {
  int8x16_t v;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) { return {four_times(p)}; }
using DotSum = IntVec;
UNIAUDIO_INLINE void dot(DotSum& acc, Quad x, const int8_t* w) {
  UNIAUDIO_EACH acc.v[i] = vdotq_s32(acc.v[i], vld1q_s8(w + 16 * i), x.v);
}
UNIAUDIO_INLINE Vec finish_dot(DotSum acc, const int32_t*) {
  UNIAUDIO_EACH_OF(Vec, vcvtq_f32_s32(acc.v[i]));
}
// Rounds to nearest even, stores 16 bytes.
UNIAUDIO_INLINE void store_quantized(uint8_t* p, Vec a) {
  int32_t t[16];
  for (int i = 0; i < 4; ++i) vst1q_s32(t + 4 * i, vcvtnq_s32_f32(a.v[i]));
  for (int i = 0; i < 16; ++i) p[i] = uint8_t(t[i] + kOffset);
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, Vec& even, Vec& odd) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16(line + 8 * i));
    even.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
    odd.v[i] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF0000u)));
  }
}
UNIAUDIO_INLINE Vec load_bf16(const uint16_t* p) {
  UNIAUDIO_EACH_OF(Vec, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}

// int4: 16 rows x 4 inputs of unsigned nibbles, one a byte.
struct Bytes {
  int8x16_t v[4];
};
UNIAUDIO_INLINE void load_nibbles(const uint8_t* p, Bytes& low, Bytes& high) {
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t raw = vld1q_u8(p + 16 * i);
    low.v[i] = vreinterpretq_s8_u8(vandq_u8(raw, vdupq_n_u8(15)));
    high.v[i] = vreinterpretq_s8_u8(vshrq_n_u8(raw, 4));
  }
}
struct SignedQuad {
  int8x16_t v;
};
UNIAUDIO_INLINE SignedQuad load_signed_quad(const uint8_t* p) { return {four_times(p)}; }
struct G16 {
  int32x4_t v[4];
};  // sums over one group of 32 inputs
// even, odd: over the first and the last two of every four inputs
UNIAUDIO_INLINE int32_t group_start(int32_t offset, int32_t even, int32_t odd) {
  return -offset * (even + odd);
}
UNIAUDIO_INLINE G16 start_group(int32_t sum) { UNIAUDIO_EACH_OF(G16, vdupq_n_s32(sum)); }
UNIAUDIO_INLINE void dot_group(G16& acc, Bytes w, SignedQuad x) {
  UNIAUDIO_EACH acc.v[i] = vdotq_s32(acc.v[i], w.v[i], x.v);
}
UNIAUDIO_INLINE Vec finish_group(G16 acc) { UNIAUDIO_EACH_OF(Vec, vcvtq_f32_s32(acc.v[i])); }

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 4, kScoreBlocks = 1, kValueRows = 4, kValueVectors = 1, kAloneBlocks = 4,
              kAloneVectors = 4;

UNIAUDIO_INLINE Vec widen_i8(const int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

#undef UNIAUDIO_EACH_OF

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
