// The body of the codec kernels, compiled once per ISA inside that ISA's namespace; see
// codec_kernels.h for what each one does.
#include "cpu/codec_fft.h"
#include "cpu/codec_fir.h"
#include "cpu/codec_kernels.h"
#include "cpu/gemm_body.h"
#include "cpu/math_body.h"
#if UNIAUDIO_LANES == 16
#include "cpu/codec_vnni.h"
#endif

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// One tile: R rows by P panels. The sums run over k in order, each a chain of fused multiply-adds.
// `fetch`: these weights were not read just now by another tile, and the hardware's prefetchers
// leave a fifth of the outer caches' bandwidth.
template <int R, int P, bool fetch>
void gemm_tile(const GemmBlock& g, int panel, int row) {
  const float *a = g.a + row * g.lda,
              *w = g.w + (static_cast<ptrdiff_t>(panel) * g.k_total + g.k0) * kPanel;
  const float* bias = g.bias ? g.bias + panel * kPanel : nullptr;
  float* c = g.c + row * g.ldc + panel * kPanel;
  const int columns = g.columns - panel * kPanel;
  const ptrdiff_t panel_step = static_cast<ptrdiff_t>(g.k_total) * kPanel;
  Vec acc[R][P];
  const bool whole = columns >= P * kPanel;
  UNIAUDIO_UNROLL
  for (int p = 0; p < P; ++p) {
    if (g.first) {
      const Vec start = bias ? load(bias + p * kPanel) : set(0.0f);
      UNIAUDIO_UNROLL
      for (int r = 0; r < R; ++r) acc[r][p] = start;
    } else if (whole || p < P - 1) {
      UNIAUDIO_UNROLL
      for (int r = 0; r < R; ++r) acc[r][p] = load(c + r * g.ldc + p * kPanel);
    } else {
      UNIAUDIO_UNROLL
      for (int r = 0; r < R; ++r)
        acc[r][p] = load_n(c + r * g.ldc + p * kPanel, columns - p * kPanel);
    }
  }
  multiply_panels(a, g.lda, w, panel_step, g.k1 - g.k0, acc,
                  [&](int64_t k, int p) __attribute__((always_inline)) {
                    if constexpr (fetch) __builtin_prefetch(w + p * panel_step + (k + 16) * kPanel);
                  });
  UNIAUDIO_UNROLL
  for (int p = 0; p < P; ++p) {
    if (whole || p < P - 1) {
      UNIAUDIO_UNROLL
      for (int r = 0; r < R; ++r) store(c + r * g.ldc + p * kPanel, acc[r][p]);
    } else {
      UNIAUDIO_UNROLL
      for (int r = 0; r < R; ++r)
        store_n(c + r * g.ldc + p * kPanel, acc[r][p], columns - p * kPanel);
    }
  }
}

using GemmTile = void (*)(const GemmBlock&, int panel, int row);

// The tile of R rows by P panels, or null where it would need more registers than there are.
template <int R, int P, bool fetch>
constexpr GemmTile tile_of() {
  if constexpr (R * P <= kTile)
    return gemm_tile<R, P, fetch>;
  else
    return nullptr;
}
#define UNIAUDIO_TILES_3(R, P) {tile_of<R, P, false>(), tile_of<R, P, true>()}
#define UNIAUDIO_TILES_2(R) \
  {UNIAUDIO_TILES_3(R, 1), UNIAUDIO_TILES_3(R, 2), UNIAUDIO_TILES_3(R, 4), UNIAUDIO_TILES_3(R, 8)}
constexpr GemmTile kTiles[13][4][2] = {{},
                                       UNIAUDIO_TILES_2(1),
                                       UNIAUDIO_TILES_2(2),
                                       UNIAUDIO_TILES_2(3),
                                       UNIAUDIO_TILES_2(4),
                                       UNIAUDIO_TILES_2(5),
                                       UNIAUDIO_TILES_2(6),
                                       UNIAUDIO_TILES_2(7),
                                       UNIAUDIO_TILES_2(8),
                                       UNIAUDIO_TILES_2(9),
                                       UNIAUDIO_TILES_2(10),
                                       UNIAUDIO_TILES_2(11),
                                       UNIAUDIO_TILES_2(12)};

void gemm(const GemmBlock& g) {
  // Tiles of equal height, as few as the registers allow; few rows: wide tiles, so that enough sums
  // run side by side, many rows: tall ones, so that weights are reused.
  const int tiles = (g.rows + kTallRows - 1) / kTallRows, height = g.rows / tiles,
            taller = g.rows % tiles;
  const int most = taller ? height + 1 : height;
  int wide = most <= kRowsOf8 ? 3 : most <= kRowsOf4 ? 2 : most <= kRowsOf2 ? 1 : 0;
  for (int panel = g.p0; panel < g.p1; panel += 1 << wide) {
    while (panel + (1 << wide) > g.p1) --wide;
    int row = 0;
    for (int t = 0; t < tiles; ++t) {
      const int rows = t < taller ? height + 1 : height;
      kTiles[rows][wide][t == 0](g, panel, row);
      row += rows;
    }
  }
}

void elu_all(const float* x, float* y, size_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, elu(get(x + i, k)), k); });
}
void gelu_all(float* x, size_t n) {
  each(n, [&](int64_t i, int64_t k) { put(x + i, gelu<Fused>(get(x + i, k)), k); });
}
void add_all(const float* x, float* y, size_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, get(y + i, k) + get(x + i, k), k); });
}
void subtract_all(const float* x, float* y, size_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, get(y + i, k) - get(x + i, k), k); });
}
void multiply_all(const float* x, const float* w, float* y, size_t n) {
  each(n, [&](int64_t i, int64_t k) { put(y + i, get(x + i, k) * get(w + i, k), k); });
}
void multiply_add_all(const float* x, const float* w, float* y, size_t n) {
  each(n, [&](int64_t i, int64_t k) {
    put(y + i, fma(get(x + i, k), get(w + i, k), get(y + i, k)), k);
  });
}

void layer_norm(const float* x, float* y, const float* weight, const float* bias, int rows,
                int width, float eps) {
  for (int r = 0; r < rows; ++r, x += width, y += width)
    normalize<Fused>(x, y, weight, bias, width, eps);
}

void rms_norm(const float* x, float* y, const float* weight, int rows, int width, float eps) {
  for (int r = 0; r < rows; ++r, x += width, y += width) {
    Vec squares = set(0.0f);
    each(width, [&](int64_t i, int64_t k) {
      const Vec v = get(x + i, k);
      squares = fma(v, v, squares);
    });
    const Vec scale = set(1.0f / __builtin_sqrtf(sum(squares) / float(width) + eps));
    each(width,
         [&](int64_t i, int64_t k) { put(y + i, get(x + i, k) * scale * get(weight + i, k), k); });
  }
}

void silu_multiply(float* x, const float* w, size_t n) {
  each(n, [&](int64_t i, int64_t k) {
    const Vec v = get(x + i, k);
    put(x + i, v * sigmoid(v) * get(w + i, k), k);
  });
}

void snake(const float* x, float* y, const float* alpha, const float* beta, int rows, int width) {
  for (int r = 0; r < rows; ++r, x += width, y += width)
    each(width, [&](int64_t i, int64_t k) {
      const Vec v = get(x + i, k), s = sine_up_to_sign(v * get(alpha + i, k));
      put(y + i, fma(get(beta + i, k), s * s, v), k);
    });
}

void moments(const float* x, size_t n, double* sum, double* squares) {
  typedef double Doubles __attribute__((vector_size(64)));
  typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
  Doubles s[2] = {}, q[2] = {};
  float rest[16] = {};
  for (size_t i = n - n % 16; i < n; ++i) rest[i % 16] = x[i];
  for (size_t i = 0; i < n; i += 16) {
    const float* from = i + 16 <= n ? x + i : rest;
    for (int h = 0; h < 2; ++h) {
      const Doubles d =
          __builtin_convertvector(*reinterpret_cast<const Floats*>(from + 8 * h), Doubles);
      s[h] += d;
      q[h] += d * d;  // exact: 48 bits
    }
  }
  *sum = *squares = 0;
  for (int j = 0; j < 16; ++j) {
    *sum += s[j / 8][j % 8];
    *squares += q[j / 8][j % 8];
  }
}

template <bool add, bool activate>
void affine_rows(const float* x, const float* a, const float* b, float* y, int rows, int width) {
  for (int r = 0; r < rows; ++r, x += width, y += width)
    each(width, [&](int64_t i, int64_t k) {
      Vec v = fma(get(x + i, k), get(a + i, k), get(b + i, k));
      if constexpr (add) v = get(y + i, k) + v;
      if constexpr (activate) v = elu(v);
      put(y + i, v, k);
    });
}
void affine(const float* x, const float* a, const float* b, float* y, int rows, int width, bool add,
            bool activate) {
  const auto run = add        ? activate ? affine_rows<true, true> : affine_rows<true, false>
                          : activate ? affine_rows<false, true>
                              : affine_rows<false, false>;
  run(x, a, b, y, rows, width);
}

void depthwise(const float* x, float* y, const float* w, const float* bias, int rows, int taps,
               int width) {
  for (int t = 0; t < rows; ++t, x += width, y += width)
    each(width, [&](int64_t i, int64_t k) {
      Vec acc = get(bias + i, k);
      for (int j = 0; j < taps; ++j)
        acc = fma(get(w + static_cast<size_t>(j) * width + i, k),
                  get(x + static_cast<size_t>(j) * width + i, k), acc);
      put(y + i, acc, k);
    });
}

void lstm_cell(const float* gates, float* cell, float* hidden, int units) {
  const Vec in = sigmoid(load(gates)), forget = sigmoid(load(gates + 16));
  const Vec candidate = tanh(load(gates + 32)), out = sigmoid(load(gates + 48));
  const Vec c = fma(forget, get(cell, units), in * candidate);
  put(cell, c, units);
  put(hidden, out * tanh(c), units);
}

// The recurrent products of B blocks at once, so that enough sums run side by side, G of their
// gates at a time.
template <int B, int G>
UNIAUDIO_INLINE void lstm_blocks(const LstmStep& s, int block) {
  const ptrdiff_t block_size = static_cast<ptrdiff_t>(s.width) * 64;
  const float *w = s.w + block * block_size, *start = s.gates + block * 64;
  float gates[B * 64];
  for (int g = 0; g < 4; g += G) {
    Vec acc[B][G];
    UNIAUDIO_UNROLL
    for (int b = 0; b < B; ++b) UNIAUDIO_UNROLL
    for (int j = 0; j < G; ++j) acc[b][j] = load(start + b * 64 + (g + j) * 16);
    for (int k = 0; k < s.width; ++k) {
      const Native x = splat(s.before[k]);
      // The hardware's prefetchers leave a fifth of the cache's bandwidth; the end of a block is
      // followed by the next one.
      UNIAUDIO_UNROLL
      for (int b = 0; b < B; ++b) UNIAUDIO_UNROLL
      for (int j = 0; j < G; ++j)
        __builtin_prefetch(w + b * block_size + (k + 12) * 64 + (g + j) * 16);
      UNIAUDIO_UNROLL
      for (int b = 0; b < B; ++b) UNIAUDIO_UNROLL
      for (int j = 0; j < G; ++j) {
        const Vec v = load(w + b * block_size + k * 64 + (g + j) * 16);
        UNIAUDIO_EACH
        acc[b][j].v[i] = fma(x, v.v[i], acc[b][j].v[i]);
      }
    }
    UNIAUDIO_UNROLL
    for (int b = 0; b < B; ++b) UNIAUDIO_UNROLL
    for (int j = 0; j < G; ++j) store(gates + b * 64 + (g + j) * 16, acc[b][j]);
  }
  for (int b = 0; b < B; ++b) {
    const int unit = (block + b) * 16, units = s.width - unit < 16 ? s.width - unit : 16;
    lstm_cell(gates + b * 64, s.cell + unit, s.hidden + unit, units);
  }
}

void lstm_step(const LstmStep& s) {
  const int n = s.b1 - s.b0, groups = n / kLstmBlocks;
  for (int i = 0; i < groups; ++i)
    lstm_blocks<kLstmBlocks, kLstmGates>(s,
                                         s.b0 + (s.backwards ? groups - 1 - i : i) * kLstmBlocks);
  for (int block = s.b0 + groups * kLstmBlocks; block < s.b1; ++block)
    lstm_blocks<1, kLstmGates>(s, block);
}

int argmax(const float* x, int n) {
  Vec best = set(-__builtin_inff());
  each(n, [&](int64_t i, int64_t k) {
    Vec v;
    if (k == 16) {
      v = load(x + i);
    } else {
      float t[16];
      for (int j = 0; j < 16; ++j) t[j] = j < k ? x[i + j] : -__builtin_inff();
      v = load(t);
    }
    best = max(v, best);
  });
  float t[16];
  store(t, best);
  for (int j = 1; j < 16; ++j) t[0] = t[j] > t[0] ? t[j] : t[0];
  for (int i = 0; i < n; ++i)
    if (x[i] == t[0]) return i;
  return 0;
}

// The lanes of v, which is at x + i, that are in [from, to), and `other` in place of the rest.
UNIAUDIO_INLINE Vec within(Vec v, int i, int from, int to, float other) {
  if (i >= from && i + 16 <= to) return v;
  float t[16];
  store(t, v);
  for (int j = 0; j < 16; ++j)
    if (i + j < from || i + j >= to) t[j] = other;
  return load(t);
}

float window_softmax(float* x, int from, int to, int n) {
  const int low = from & ~15, high = (to + 15) & ~15;  // the vectors that the window touches
  Vec top = set(-__builtin_inff()), total = set(0.0f);
  for (int i = low; i < high; i += 16)
    top = max(within(load(x + i), i, from, to, -__builtin_inff()), top);
  const Vec shift = set(largest(top));
  for (int i = 0; i < low; i += 16) store(x + i, total);
  for (int i = high; i < n; i += 16) store(x + i, total);
  for (int i = low; i < high; i += 16) {
    const Vec v = within(exp<Fused>(load(x + i) - shift), i, from, to, 0.0f);
    store(x + i, v);
    total = total + v;
  }
  return sum(total);
}

void sum_rows(const float* const* rows, int n, float* y, int width) {
  each(width, [&](int64_t i, int64_t k) {
    Vec total = get(rows[0] + i, k);
    for (int r = 1; r < n; ++r) total = total + get(rows[r] + i, k);
    put(y + i, total, k);
  });
}

void spectrum_features(const float* re, const float* im, float* out, int n, float scale,
                       float floor) {
  each(n, [&](int64_t i, int64_t k) {
    const Vec a = get(re + i, k), b = get(im + i, k);
    const Vec magnitude = sqrt(fma(a, a, b * b));
    const Vec f = fma(magnitude, set(scale), set(floor));
    const Vec c = set(8.0f * scale) / sqrt(f);
    put(out + i, fma(set(0.25f), log(f), set(1.25f)), k);
    put(out + n + i, a * c, k);
    put(out + 2 * size_t(n) + i, b * c, k);
  });
}

void apply_gain(const float* y, float ceiling, float* re, float* im, int n) {
  each(n, [&](int64_t i, int64_t k) {
    const Vec gain = exp<Fused>(min(get(y + i, k), set(ceiling)));
    put(re + i, gain * get(y + n + i, k), k);
    put(im + i, gain * get(y + 2 * size_t(n) + i, k), k);
  });
}

int64_t fma_burn(int64_t steps, float* sink) {
  constexpr int kChains = kLanes == 16 ? 24 : 12;
  Native chain[kChains], x = splat(sink[0]), y = splat(sink[1]);
  _Pragma("GCC unroll 24")
  for (int i = 0; i < kChains; ++i) chain[i] = splat(static_cast<float>(i));
  for (int64_t step = 0; step < steps; ++step) {
    _Pragma("GCC unroll 24")
    for (int i = 0; i < kChains; ++i) chain[i] = fma(chain[i], x, y);
  }
  for (int i = 1; i < kChains; ++i) chain[0] = chain[0] + chain[i];
  store_native(sink, chain[0]);
  return steps * kChains * kLanes * 2;
}

const CodecKernels codec_table = {
    .gemm = gemm,
    .elu = elu_all,
    .gelu = gelu_all,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .silu_multiply = silu_multiply,
    .snake = snake,
    .depthwise = depthwise,
    .fir_split = fir_split,
    .fir_join = fir_join,
    .moments = moments,
    .affine = affine,
    .add = add_all,
    .subtract = subtract_all,
    .multiply = multiply_all,
    .multiply_add = multiply_add_all,
    .lstm_cell = lstm_cell,
    .lstm_step = lstm_step,
    .window_softmax = window_softmax,
    .argmax = argmax,
#if UNIAUDIO_LANES == 16
    .rvq_search = rvq_search,
#else
    .rvq_search = nullptr,
#endif
    .sum_rows = sum_rows,
    .spectrum_features = spectrum_features,
    .apply_gain = apply_gain,
    .fft_stage = fft_stage,
    .fft_split = fft_split,
    .fft_join = fft_join,
    .fft_forward_end = fft_forward_end,
    .fft_inverse_begin = fft_inverse_begin,
    .fma_burn = fma_burn,
};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
