// The body of all kernels, compiled once per ISA inside that ISA's namespace; see kernel_table.h for what each one does.
// Includes nothing but plain structs and the vector wrapper: an inline function shared with other files could be kept by the
// linker in its wide version and crash older machines.
#include "cpu/kernel_table.h"
#include "cpu/math_body.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

constexpr int kRowBlock = 96;  // rows of x that stay in the second-level cache while the weights pass by

// --- linear ------------------------------------------------------------------------------------------------------------

// One panel or several against M rows: out[m][p] = the 16 dot products, one accumulator each, k ascending.
template <int M, int P>
UNIAUDIO_INLINE void tile_f32(const LinearArgs& a, const float* x, int64_t panel, F16 (&out)[M][P]) {
  const float* w = static_cast<const float*>(a.w) + panel * a.k * kPanel;
  for (int m = 0; m < M; ++m) {
    for (int p = 0; p < P; ++p) out[m][p] = set1(0.0f);
  }
  for (int64_t k = 0; k < a.k; ++k) {
    F16 wk[P];
    for (int p = 0; p < P; ++p) wk[p] = load(w + (p * a.k + k) * kPanel);
    for (int m = 0; m < M; ++m) {
      const F16 xk = set1(x[m * a.xstride + k]);
      for (int p = 0; p < P; ++p) out[m][p] = fused(xk, wk[p], out[m][p]);
    }
  }
}

template <int M, int P>
UNIAUDIO_INLINE void tile_i8(const LinearArgs& a, const uint8_t* x, const float* xscale, int64_t panel, F16 (&out)[M][P]) {
  const int8_t* w = static_cast<const int8_t*>(a.w) + panel * a.k * kPanel;
  I16 acc[M][P];
  for (int m = 0; m < M; ++m) {
    for (int p = 0; p < P; ++p) acc[m][p] = zero_i();
  }
  for (int64_t k = 0; k < a.k; k += 4) {
    for (int m = 0; m < M; ++m) {
      const Quad xk = load_quad(x + m * a.xstride + k);
      for (int p = 0; p < P; ++p) acc[m][p] = dot(acc[m][p], xk, w + (p * a.k + k) * kPanel);
    }
  }
  for (int p = 0; p < P; ++p) {
    const F16 wscale = load(a.wscale + (panel + p) * kPanel);
    for (int m = 0; m < M; ++m) {
      out[m][p] = mul(finish_dot(acc[m][p], a.wsum + (panel + p) * kPanel), mul(wscale, set1(xscale[m])));
    }
  }
}

UNIAUDIO_INLINE void write(const LinearArgs& a, float* y, int64_t column, F16 v) {
  const int64_t left = a.n - column;
  if (left >= kPanel) {
    store(y + column, a.epilogue == Epilogue::add ? add(load(y + column), v) : v);
  } else if (left > 0) {
    store_n(y + column, a.epilogue == Epilogue::add ? add(load_n(y + column, left), v) : v, left);
  }
}

// P panels from `panel` on, for M rows from `row` on.
template <bool kInt8, int M, int P>
UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel) {
  F16 out[M][P];
  if constexpr (kInt8) {
    tile_i8<M, P>(a, a.xq + row * a.xstride, a.xscale + row, panel, out);
  } else {
    tile_f32<M, P>(a, a.x + row * a.xstride, panel, out);
  }
  for (int m = 0; m < M; ++m) {
    float* y = a.y + (row + m) * a.ystride;
    for (int p = 0; p < P; ++p) {
      if (a.bias) out[m][p] = add(out[m][p], load(a.bias + (panel + p) * kPanel));
      if (a.epilogue == Epilogue::gelu) out[m][p] = gelu16(out[m][p]);
      if (a.epilogue != Epilogue::swiglu) write(a, y, (panel + p) * kPanel, out[m][p]);
    }
    if constexpr (P % 2 == 0) {
      if (a.epilogue == Epilogue::swiglu) {
        for (int p = 0; p < P; p += 2) write(a, y, (panel + p) / 2 * kPanel, mul(silu16(out[m][p]), out[m][p + 1]));
      }
    }
  }
}

template <bool kInt8, int P, int M>
UNIAUDIO_INLINE void rows_tail(const LinearArgs& a, int64_t row, int64_t rows, int64_t panel) {
  if constexpr (M > 0) {
    if (rows == M) return tile<kInt8, M, P>(a, row, panel);
    rows_tail<kInt8, P, M - 1>(a, row, rows, panel);
  }
}

template <bool kInt8, int P>
UNIAUDIO_INLINE void all_rows(const LinearArgs& a, int64_t row, int64_t row_end, int64_t panel) {
  for (; row + kTileRows <= row_end; row += kTileRows) tile<kInt8, kTileRows, P>(a, row, panel);
  rows_tail<kInt8, P, kTileRows - 1>(a, row, row_end - row, panel);
}

template <bool kInt8>
void linear(const LinearArgs& a) {
  int64_t panel = a.panel_begin;
  if (a.rows == 1) {
    for (; panel + 4 <= a.panel_end; panel += 4) tile<kInt8, 1, 4>(a, 0, panel);
    for (; panel + 2 <= a.panel_end; panel += 2) tile<kInt8, 1, 2>(a, 0, panel);
    if (panel < a.panel_end) tile<kInt8, 1, 1>(a, 0, panel);
    return;
  }
  constexpr int kPairs = kTilePanels == 2 ? 2 : 1;
  for (int64_t row = 0; row < a.rows; row += kRowBlock) {
    const int64_t row_end = row + kRowBlock < a.rows ? row + kRowBlock : a.rows;
    panel = a.panel_begin;
    if (kPairs == 2 || a.epilogue == Epilogue::swiglu) {
      for (; panel + 2 <= a.panel_end; panel += 2) all_rows<kInt8, 2>(a, row, row_end, panel);
    }
    for (; panel < a.panel_end; ++panel) all_rows<kInt8, 1>(a, row, row_end, panel);
  }
}

void linear_f32(const LinearArgs& a) { linear<false>(a); }
void linear_i8(const LinearArgs& a) { linear<true>(a); }

float quantize(const float* x, int64_t k, int64_t k_padded, uint8_t* q) {
  F16 most = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) most = max(most, abs(load(x + i)));
  if (i < k) most = max(most, abs(load_n(x + i, k - i)));
  const float peak = largest(most);
  const F16 inverse = set1(peak > 1e-30f ? 127.0f / peak : 0.0f);
  for (i = 0; i + 16 <= k; i += 16) store_quantized(q + i, mul(load(x + i), inverse));
  if (i < k) {
    uint8_t t[16];
    store_quantized(t, mul(load_n(x + i, k - i), inverse));
    for (int64_t j = 0; i < k; ++i, ++j) q[i] = t[j];
  }
  for (; i < k_padded; ++i) q[i] = 128;
  return peak > 1e-30f ? peak * (1.0f / 127.0f) : 0.0f;
}

// --- norms and elementwise ---------------------------------------------------------------------------------------------

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

void layernorm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
  F16 s = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) s = add(s, load(x + i));
  if (i < n) s = add(s, load_n(x + i, n - i));
  const float mean = sum(s) / float(n);
  const F16 m = set1(mean), r = set1(1.0f / square_root(sum_of_squares(x, mean, n) / float(n) + eps));
  for (i = 0; i + 16 <= n; i += 16) store(y + i, add(mul(mul(sub(load(x + i), m), r), load(weight + i)), load(bias + i)));
  if (i < n) {
    const int64_t left = n - i;
    store_n(y + i, add(mul(mul(sub(load_n(x + i, left), m), r), load_n(weight + i, left)), load_n(bias + i, left)), left);
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

const Kernels table = {linear_f32, linear_i8, quantize, layernorm, rmsnorm, gelu, add_to, place, attention, max_of, exp_sum};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
