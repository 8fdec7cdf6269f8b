// 16 floats in four registers of 64-bit ARM with dot products (ARMv8.2). Same interface and same
// results as vec_avx2.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#define UNIAUDIO_INLINE static inline __attribute__((always_inline))

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

constexpr int kTileRows = 4;  // 4 rows x 1 panel: 16 accumulators of the 32 registers
constexpr int kTilePanels = 1;

struct F16 {
  float32x4_t v[4];
};
struct I16 {
  int32x4_t v[4];
};

#define UNIAUDIO_EACH(type, expression)              \
  type r;                                            \
  for (int i = 0; i < 4; ++i) r.v[i] = (expression); \
  return r

UNIAUDIO_INLINE F16 load(const float* p) { UNIAUDIO_EACH(F16, vld1q_f32(p + 4 * i)); }
UNIAUDIO_INLINE F16 load_n(const float* p, int64_t n) {
  float t[16] = {};
  for (int64_t i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
UNIAUDIO_INLINE void store(float* p, F16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
UNIAUDIO_INLINE void store_n(float* p, F16 a, int64_t n) {
  float t[16];
  store(t, a);
  for (int64_t i = 0; i < n; ++i) p[i] = t[i];
}
UNIAUDIO_INLINE F16 set1(float x) { UNIAUDIO_EACH(F16, vdupq_n_f32(x)); }
UNIAUDIO_INLINE F16 add(F16 a, F16 b) { UNIAUDIO_EACH(F16, vaddq_f32(a.v[i], b.v[i])); }
UNIAUDIO_INLINE F16 sub(F16 a, F16 b) { UNIAUDIO_EACH(F16, vsubq_f32(a.v[i], b.v[i])); }
UNIAUDIO_INLINE F16 mul(F16 a, F16 b) { UNIAUDIO_EACH(F16, vmulq_f32(a.v[i], b.v[i])); }
UNIAUDIO_INLINE F16 div(F16 a, F16 b) { UNIAUDIO_EACH(F16, vdivq_f32(a.v[i], b.v[i])); }
// As the x86 instructions: the second where the comparison fails.
UNIAUDIO_INLINE F16 max(F16 a, F16 b) {
  UNIAUDIO_EACH(F16, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
UNIAUDIO_INLINE F16 min(F16 a, F16 b) {
  UNIAUDIO_EACH(F16, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]));
}
UNIAUDIO_INLINE F16 abs(F16 a) { UNIAUDIO_EACH(F16, vabsq_f32(a.v[i])); }
// a * b + c
UNIAUDIO_INLINE F16 fused(F16 a, F16 b, F16 c) {
  UNIAUDIO_EACH(F16, vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
UNIAUDIO_INLINE F16 fused_exactly(F16 a, F16 b, F16 c) { return fused(a, b, c); }
UNIAUDIO_INLINE F16 scale_exponent(F16 p, F16 t) {
  UNIAUDIO_EACH(F16,
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p.v[i]),
                                                vshlq_n_s32(vreinterpretq_s32_f32(t.v[i]), 23))));
}
// Lanes i and i + 8, then + 4, + 2, + 1.
UNIAUDIO_INLINE float sum(F16 a) {
  const float32x4_t b = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
  return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
}
UNIAUDIO_INLINE float largest(F16 a) {
  const F16 b = max(F16{{a.v[0], a.v[1], a.v[0], a.v[1]}}, F16{{a.v[2], a.v[3], a.v[2], a.v[3]}});
  float t[8];
  vst1q_f32(t, b.v[0]), vst1q_f32(t + 4, b.v[1]);
  float m = t[0];
  for (int i = 1; i < 8; ++i) m = t[i] > m ? t[i] : m;
  return m;
}
UNIAUDIO_INLINE float square_root(float x) { return vgetq_lane_f32(vsqrtq_f32(vdupq_n_f32(x)), 0); }

UNIAUDIO_INLINE int8x16_t four_times(const uint8_t* p) {
  int32_t raw;
  __builtin_memcpy(&raw, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(raw));
}

UNIAUDIO_INLINE I16 zero_i() { UNIAUDIO_EACH(I16, vdupq_n_s32(0)); }
// Four consecutive activations (stored + 128), repeated; signed again, since that is what the
// instruction takes.
struct Quad {
  int8x16_t v;
};
UNIAUDIO_INLINE Quad load_quad(const uint8_t* p) {
  return {veorq_s8(four_times(p), vdupq_n_s8(-128))};
}
UNIAUDIO_INLINE I16 dot(I16 acc, Quad x, const int8_t* w) {
  UNIAUDIO_EACH(I16, vdotq_s32(acc.v[i], vld1q_s8(w + 16 * i), x.v));
}
UNIAUDIO_INLINE F16 finish_dot(I16 acc, const int32_t*) {
  UNIAUDIO_EACH(F16, vcvtq_f32_s32(acc.v[i]));
}
// Rounds to nearest even, adds 128, stores 16 bytes.
UNIAUDIO_INLINE void store_quantized(uint8_t* p, F16 a) {
  int32_t t[16];
  for (int i = 0; i < 4; ++i) vst1q_s32(t + 4 * i, vcvtnq_s32_f32(a.v[i]));
  for (int i = 0; i < 16; ++i) p[i] = uint8_t(t[i] + 128);
}

// bfloat16 is the upper half of a float32.  `line` holds 16 pairs.
UNIAUDIO_INLINE void load_bf16_pairs(const uint16_t* line, F16& even, F16& odd) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t w = vreinterpretq_u32_u16(vld1q_u16(line + 8 * i));
    even.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
    odd.v[i] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF0000u)));
  }
}
UNIAUDIO_INLINE F16 load_bf16(const uint16_t* p) {
  UNIAUDIO_EACH(F16, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
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
UNIAUDIO_INLINE G16 zero_group() { UNIAUDIO_EACH(G16, vdupq_n_s32(0)); }
UNIAUDIO_INLINE G16 dot_group(G16 acc, Bytes w, SignedQuad x) {
  UNIAUDIO_EACH(G16, vdotq_s32(acc.v[i], w.v[i], x.v));
}
UNIAUDIO_INLINE F16 finish_group(G16 acc, int32_t sum8) {
  UNIAUDIO_EACH(F16, vcvtq_f32_s32(vsubq_s32(acc.v[i], vdupq_n_s32(sum8))));
}

// --- attention: what a tile takes: rows of queries and blocks of 16 keys, rows and vectors of
// values; then the same for a single row
constexpr int kScoreRows = 4, kScoreBlocks = 1, kValueRows = 4, kValueVectors = 1, kAloneBlocks = 4,
              kAloneVectors = 4;

UNIAUDIO_INLINE F16 widen_i8(const int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(x)), high = vmovl_s8(vget_high_s8(x));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

#undef UNIAUDIO_EACH

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
