// The body of all kernels, compiled once per ISA inside that ISA's namespace; see kernel_table.h
// for what each one does. Includes nothing but plain structs and the vector wrapper: an inline
// function shared with other files could be kept by the linker in its wide version and crash older
// machines.
#include "cpu/kernel_table.h"
#include "cpu/linear_body.h"
#include "cpu/peaks_body.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// --- norms and elementwise -----------------------------------------------------------------------

void layernorm(const float* x, const float* weight, const float* bias, float eps, float* y,
               int64_t n) {
  normalize<Separate>(x, y, weight, bias, n, eps);
}

void rmsnorm(const float* x, const float* weight, float eps, float* y, int64_t n) {
  const Vec scale =
      set(1.0f / __builtin_sqrtf(sum(square_sum<Separate>(x, 0.0f, n)) / float(n) + eps));
  each(n, [&](int64_t i, int64_t k) { put(y + i, get(x + i, k) * scale * get(weight + i, k), k); });
}

void gelu_all(const float* x, float* y, int64_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, gelu<Separate>(get(x + i, k)), k); });
}

void add_all(const float* x, float* y, int64_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, get(y + i, k) + get(x + i, k), k); });
}

float max_of(const float* x, int64_t n) {
  Vec m = set(x[0]);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) m = max(m, load(x + i));
  float best = largest(m);
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

float exp_sum(const float* x, float shift, float* y, int64_t n) {
  const Vec s = set(shift);
  Vec total = set(0.0f);
  each(n, [&](int64_t i, int64_t k) {
    put(y + i, exp<Separate>(get(x + i, k) - s), k);
    total = total + get(y + i, k);  // lanes beyond the end are zero
  });
  return sum(total);
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE

#include "cpu/attention_body.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

const Kernels table = {
    .linear = {.float32 = linear<Float32>,
               .bfloat16 = linear<Bfloat16>,
               .int8 = linear<Int8>,
               .int4 = linear<Int4>},
    .quantize = quantize,
    .group_sums = group_sums,
    .split = split,
    .weight_offset = kWeightOffset,
    .layernorm = layernorm,
    .rmsnorm = rmsnorm,
    .gelu = gelu_all,
    .add = add_all,
    .place = place,
    .attention = attention,
    .max = max_of,
    .exp_sum = exp_sum,
    .byte_burn = byte_burn,
    .read = read,
};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
