// The compute kernels as plain function pointers over raw arrays: checking is done above, threading too.  Included by the per-ISA
// files, so it holds nothing but plain structs (an inline function here could leak wide instructions into other files).
//
// Determinism: every reduction has one fixed order that depends on nothing but its length, so results are the same for any
// batch size, thread count or chunking.  All kernels but the float32 and bfloat16 products round after each multiply and add (nothing
// is fused), so they give the same bits on every ISA; those two fuse where the ISA can, so avx2 and avx512 agree with each other only.
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

// How weights are held.
enum class DType : int { float32, bfloat16, int8, int4 };
constexpr int kDTypes = 4;

constexpr int kGroup = 32;         // inputs that share a scale in int4
constexpr int kGroupBytes = 288;   // of one panel: 16 x 32 nibbles and 16 scales

// y[rows, n] = epilogue(x[rows, k] . w^T + bias) for panels [panel_begin, panel_end) of w.  Per panel of 16 output rows:
//   float32   [k][16]
//   bfloat16  [k / 2][16][2], k even
//   int8      [k / 4][16][4], k a multiple of 4; x is quantized to q + 128
//   int4      [k / 64] of { two groups of [4][16][4] bytes, whose low nibbles are inputs 8 i .. 8 i + 3 and high ones the next four,
//             each the value + 8; then 2 x 16 bfloat16 scales }, k a multiple of 64; x is quantized to q, signed
struct LinearArgs {
  const float* x;       // float32 and bfloat16
  const uint8_t* xq;    // int8 and int4
  const float* xscale;  // int8 and int4: one per row
  const int32_t* xsum;  // int4: [rows][k / 32], 8 x the sum of a group's q
  int64_t xstride;      // elements from row to row of x or xq
  const void* w;
  const float* wscale;  // int8 only: one per output row, padded to whole panels
  const int32_t* wsum;  // int8 only: 128 x the sum of each output row's weights
  const float* bias;    // padded to whole panels; may be null
  float* y;
  int64_t ystride;
  int64_t rows;
  int64_t k;       // padded
  int64_t k_used;  // before padding
  int64_t n;       // columns of y; panels beyond are cut
  int64_t panel_begin, panel_end;
  Epilogue epilogue;
  bool stream;  // the weights come from memory and won't be wanted again soon: leave the outer caches to others
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
  void (*linear[kDTypes])(const LinearArgs&);
  // q[i] = round(x[i] * 127 / max|x|) + 128; q is padded with 128 to k_padded.  Returns the scale max|x| / 127.
  float (*quantize)(const float* x, int64_t k, int64_t k_padded, uint8_t* q);
  // For int4: q + 128 becomes q in place, and sums[g] = 8 x the sum of group g.  k is a multiple of 32.
  void (*group_sums)(uint8_t* q, int64_t k, int32_t* sums);
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
