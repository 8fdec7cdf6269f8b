// The compute kernels as plain function pointers over raw arrays: checking is done above, threading too.  Included by the per-ISA
// files, so it holds nothing but plain structs (an inline function here could leak wide instructions into other files).
//
// Determinism: every reduction has one fixed order that depends on nothing but its length, so results are the same for any
// batch size, thread count or chunking.  All kernels but linear_f32 round after each multiply and add (nothing is fused), so they
// give the same bits on every ISA; linear_f32 fuses where the ISA can, so avx2 and avx512 agree with each other only.
#pragma once

#include <cstdint>

namespace uniaudio {

constexpr int kPanel = 16;  // output rows that one packed weight panel holds, and lanes of the vector wrapper

enum class Epilogue : int {
  store,   // y = v
  add,     // y += v
  gelu,    // y = gelu(v), erf form
  swiglu,  // panels alternate gate, up: y = silu(gate) * up, and y has half as many columns
};

// y[rows, n] = epilogue(x[rows, k] . w^T + bias) for panels [panel_begin, panel_end) of w.
// float32: w is [panels][k][16].  int8: w is [panels][k/4][16][4], k a multiple of 4; x is quantized to q + 128.
struct LinearArgs {
  const float* x;       // float32 only
  const uint8_t* xq;    // int8 only
  const float* xscale;  // int8 only: one per row
  int64_t xstride;      // elements from row to row of x or xq
  const void* w;
  const float* wscale;  // int8 only: one per output row, padded to whole panels
  const int32_t* wsum;  // int8 only: 128 x the sum of each output row's weights
  const float* bias;    // padded to whole panels; may be null
  float* y;
  int64_t ystride;
  int64_t rows;
  int64_t k;
  int64_t n;  // columns of y; panels beyond are cut
  int64_t panel_begin, panel_end;
  Epilogue epilogue;
};

// One head of one query over positions [0, length).  keys: [ceil(length/16)][dim][16]; values: [length][value_stride].
struct AttentionArgs {
  const float* q;
  const float* keys;
  const float* values;
  int64_t value_stride;  // a multiple of 16, at least dim, padded with zeros
  int64_t length;
  int64_t dim;
  float scale;
  float* scores;  // scratch [length rounded up to 16]
  float* out;     // [dim]
};

struct Kernels {
  void (*linear_f32)(const LinearArgs&);
  void (*linear_i8)(const LinearArgs&);
  // q[i] = round(x[i] * 127 / max|x|) + 128; q is padded with 128 to k_padded.  Returns the scale max|x| / 127.
  float (*quantize)(const float* x, int64_t k, int64_t k_padded, uint8_t* q);
  void (*layernorm)(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n);
  void (*rmsnorm)(const float* x, const float* weight, float eps, float* y, int64_t n);
  void (*gelu)(const float* x, float* y, int64_t n);
  void (*add)(const float* x, float* y, int64_t n);                 // y += x
  void (*rope)(float* x, const float* cos, const float* sin, int64_t half);  // pairs (i, i + half)
  void (*attention)(const AttentionArgs&);
  float (*max)(const float* x, int64_t n);                          // n >= 1
  float (*exp_sum)(const float* x, float shift, float* y, int64_t n);  // y = exp(x - shift); returns the sum of y
};

const Kernels& kernels();  // of the current ISA

const Kernels* plain_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace uniaudio
