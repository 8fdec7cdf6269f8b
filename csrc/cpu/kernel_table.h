// The compute kernels as plain function pointers over raw arrays: checking is done above, threading
// too. Included by the per-ISA files, so it holds nothing but plain structs (an inline function
// here could leak wide instructions into other files).
//
// Determinism: every reduction has one fixed order that depends on nothing but its length, so
// results are the same for any batch size, thread count or chunking. All kernels but the float32
// and bfloat16 products give the same bits on every ISA: they round after each multiply and add,
// except that attention fuses them, which the plain path imitates exactly. Those two products fuse
// where the ISA can, so avx2 and avx512 agree with each other only.
#pragma once

#include <cstdint>

#include "cpu/panel.h"

namespace uniaudio {

enum class Epilogue : int {
  store,      // y = v
  add,        // y += v
  gelu,       // y = gelu(v), erf form
  gelu_tanh,  // its approximation by tanh
  swiglu,     // panels alternate gate, up: y = silu(gate) * up, and y has half as many columns
};

// How weights are held.
enum class DType : int { float32, bfloat16, int8, int4 };

constexpr int kGroup = 32;        // inputs that share a scale in int4
constexpr int kGroupBytes = 288;  // of one panel: 16 x 32 nibbles and 16 scales
constexpr int kSplitGroup = 16;   // inputs whose int8 products are summed in 16 bits

// Four quantized x from input `at` on, one a byte, that are multiplied apart.
struct Rest {
  int32_t at, x;
};
// What is multiplied apart in one row: the number of Rest, and the value that their sum starts from.
struct Apart {
  int32_t count, start;
};

// y[rows, n] = epilogue(x[rows, k] . w^T + bias) for panels [panel_begin, panel_end) of w. Per
// panel of 16 output rows:
//   float32   [k][16]
//   bfloat16  [k / 2][16][2], k even
//   int8      [k / 4][16][4], k a multiple of 16, each the value + Kernels::weight_offset; x is
//             quantized to q (signed), or to q + 128 where the ISA multiplies x unsigned
//   int4      [k / 64] of { two groups of [4][16][4] bytes, whose low nibbles are inputs
//             8 i .. 8 i + 3 and high ones the next four, each the value + 8; then 2 x 16 bfloat16
//             scales }, k a multiple of 64; x is quantized to q, signed
struct LinearArgs {
  const float* x;       // float32 and bfloat16
  const uint8_t* xq;    // int8 and int4
  const float* xscale;  // int8 and int4: one per row
  // int4 [rows][k / 32], int8 that is split [rows][k / 16]: where a group's sum starts
  const int32_t* xsum;
  const Rest* rest;    // int8 that is split: [rows][k / 2], of which
  const Apart* apart;  // row r has apart[r].count
  int64_t xstride;     // elements from row to row of x or xq
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
  // the weights come from memory and won't be wanted again soon: leave the outer caches to others
  bool stream;
};

// How keys and values are held. One (layer, key head) of the cache is
//   float32:  keys [T / 16][dim][16], values [T][dim rounded up to 16]
//   bfloat16: keys [T / 16][dim / 2][16][2], values [T][dim / 32][16][2], whose pair (i, h) is
//             element 16 h + i: one load of 32 values is two vectors after a shift and a mask
//   int8:     as float32, and one scale for each position's key and value: element = q * scale,
//             scale = max|x| / 127
// Sixteen keys side by side, so that scores need no sums across lanes; padding is zero.
enum class KvDType : int { float32, bfloat16, int8 };

// Puts one position's key and value of one key head into the cache, after normalising and turning
// (rope) the key and the queries that use it.
struct PlaceArgs {
  float* q;  // [query_heads][dim]
  float* k;  // [dim]
  const float* v;
  int64_t query_heads;
  const float *q_norm, *k_norm;  // RMSNorm's weights [dim], or null
  float eps;
  const float* angles;  // cos [dim / 2], sin [dim / 2], of pairs (i, i + dim / 2); null: no rope
  int64_t dim;
  KvDType dtype;
  int64_t position;
  void *keys, *values;             // of this layer and head, from position 0 on
  float *key_scale, *value_scale;  // int8 only
};

constexpr int kAttentionRows = 8;

struct AttentionRow {
  const float* q;
  float* out;             // [dim]
  int64_t length, begin;  // sees positions [begin, length), at least one
};

// Up to kAttentionRows queries that share one head's keys and values: these are read once for all.
struct AttentionArgs {
  AttentionRow row[kAttentionRows];
  int64_t rows;
  const void *keys, *values;
  const float *key_scale, *value_scale;  // int8 only
  const void* then;                      // the keys of the next call, to be brought near
  int64_t dim;
  KvDType dtype;
  float scale;
  float* scratch;          // kAttentionRows * (scratch_stride + dim) floats
  int64_t scratch_stride;  // at least the longest row's length rounded up to 16
};

struct LinearKernels {  // by the weights' DType
  void (*float32)(const LinearArgs&);
  void (*bfloat16)(const LinearArgs&);
  void (*int8)(const LinearArgs&);
  void (*int4)(const LinearArgs&);
};

struct Kernels {
  LinearKernels linear;
  // q[i] = round(x[i] * 127 / max|x|), signed or + 128 as int8 products of this ISA take it, and
  // zeros up to k_padded. Returns the scale max|x| / 127.
  float (*quantize)(const float* x, int64_t k, int64_t k_padded, uint8_t* q);
  // For int4: q becomes signed in place, and sums[g] is where the sum over group g starts: minus 8 x
  // the sum of its q, as the ISA holds it. k is a multiple of 32.
  void (*group_sums)(uint8_t* q, int64_t k, int32_t* sums);
  // For int8, where the ISA keeps sums in 16 bits; null elsewhere. Moves what could overflow from q
  // to `rest` [k / 2]; sums [k / 16] is where the sums start. limits [k / 16][2]: the largest sums
  // of squares over the first and the last two of every four inputs of a group, see Linear::pack.
  Apart (*split)(uint8_t* q, int64_t k, const int32_t* limits, int32_t* sums, Rest* rest);
  uint8_t weight_offset;  // of stored int8 weights
  void (*layernorm)(const float* x, const float* weight, const float* bias, float eps, float* y,
                    int64_t n);
  void (*rmsnorm)(const float* x, const float* weight, float eps, float* y, int64_t n);
  void (*gelu)(const float* x, float* y, int64_t n);
  void (*add)(const float* x, float* y, int64_t n);  // y += x
  void (*place)(const PlaceArgs&);
  void (*attention)(const AttentionArgs&);
  float (*max)(const float* x, int64_t n);  // n >= 1
  // y = exp(x - shift); returns the sum of y
  float (*exp_sum)(const float* x, float shift, float* y, int64_t n);
  // Nothing but products of bytes on registers: what an integer product can reach at most. sink
  // [16] takes a result. Returns how many operations (a multiply-add is two) were done.
  int64_t (*byte_burn)(int64_t steps, float* sink);
  // Reads `bytes`, a multiple of 512; returns their exclusive or, so that none is left out.
  uint32_t (*read)(const void* p, int64_t bytes);
};

const Kernels& kernels();  // of the current ISA

const Kernels* plain_kernels();
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* neon_kernels();
const Kernels* avx512_kernels();

}  // namespace uniaudio
