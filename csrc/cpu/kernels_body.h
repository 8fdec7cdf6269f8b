// The body of all kernels, compiled once per ISA inside that ISA's namespace; see kernel_table.h
// for what each one does. Includes nothing but plain structs and the vector wrapper: an inline
// function shared with other files could be kept by the linker in its wide version and crash older
// machines.
#include "cpu/kernel_table.h"
#include "cpu/linear_body.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// --- norms and elementwise -----------------------------------------------------------------------

float sum_of_squares(const float* x, float mean, int64_t n) {
  F16 s = set1(0.0f);
  const F16 m = set1(mean);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F16 d = sub(load(x + i), m);
    s = add(s, mul(d, d));
  }
  if (i < n) {
    float t[16];
    store(t, sub(load_n(x + i, n - i), m));
    const F16 d = load_n(t, n - i);  // lanes beyond the end are zero again
    s = add(s, mul(d, d));
  }
  return sum(s);
}

void layernorm(const float* x, const float* weight, const float* bias, float eps, float* y,
               int64_t n) {
  F16 s = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) s = add(s, load(x + i));
  if (i < n) s = add(s, load_n(x + i, n - i));
  const float mean = sum(s) / float(n);
  const F16 m = set1(mean),
            r = set1(1.0f / square_root(sum_of_squares(x, mean, n) / float(n) + eps));
  for (i = 0; i + 16 <= n; i += 16)
    store(y + i, add(mul(mul(sub(load(x + i), m), r), load(weight + i)), load(bias + i)));
  if (i < n) {
    const int64_t left = n - i;
    store_n(y + i,
            add(mul(mul(sub(load_n(x + i, left), m), r), load_n(weight + i, left)),
                load_n(bias + i, left)),
            left);
  }
}

void rmsnorm(const float* x, const float* weight, float eps, float* y, int64_t n) {
  const F16 r = set1(1.0f / square_root(sum_of_squares(x, 0.0f, n) / float(n) + eps));
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, mul(mul(load(x + i), r), load(weight + i)));
  if (i < n) store_n(y + i, mul(mul(load_n(x + i, n - i), r), load_n(weight + i, n - i)), n - i);
}

void gelu(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, gelu16(load(x + i)));
  if (i < n) store_n(y + i, gelu16(load_n(x + i, n - i)), n - i);
}

void add_to(const float* x, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, add(load(y + i), load(x + i)));
  if (i < n) store_n(y + i, add(load_n(y + i, n - i), load_n(x + i, n - i)), n - i);
}

float max_of(const float* x, int64_t n) {
  F16 m = set1(x[0]);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) m = max(m, load(x + i));
  float best = largest(m);
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

float exp_sum(const float* x, float shift, float* y, int64_t n) {
  const F16 s = set1(shift);
  F16 total = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F16 e = exp16(sub(load(x + i), s));
    store(y + i, e);
    total = add(total, e);
  }
  if (i < n) {
    store_n(y + i, exp16(sub(load_n(x + i, n - i), s)), n - i);
    total = add(total, load_n(y + i, n - i));
  }
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
    .layernorm = layernorm,
    .rmsnorm = rmsnorm,
    .gelu = gelu,
    .add = add_to,
    .place = place,
    .attention = attention,
    .max = max_of,
    .exp_sum = exp_sum,
};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
