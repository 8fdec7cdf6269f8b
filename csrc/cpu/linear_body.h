// y = x W^T in every weight format, compiled once per ISA inside that ISA's namespace; see
// kernel_table.h for the layouts. A tile is M rows of x against P panels of 16 output rows, one
// accumulator a (row, panel): the weights of a panel are read once for all rows of the tile. Each
// output's sum has one order (k ascending), whatever M and P are, so a row's result never depends
// on the rows beside it. No include guard: each ISA's kernel file includes it once.
#include "cpu/gemm_body.h"
#include "cpu/kernel_table.h"
#include "cpu/math_body.h"
#include "cpu/prefetch_body.h"
#if defined(UNIAUDIO_SPLIT_INT8)
#include "cpu/int8_avx2.h"
#endif

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// rows of x that stay in the second-level cache while the weights pass by
constexpr int kRowBlock = 96;

// What passes through the first-level cache alone: most of 32 KiB.
constexpr int64_t kPassing = 24 << 10;

// A format of weights has kRows x kPanels for its tiles, and the bytes of a panel. kShares: tiles of
// several rows ask for the next panels by turns. int4 has few bytes, and no registers to spare.
struct Float32 {
  static constexpr int kRows = kTileRows[0], kPanels = kTilePanels;
  static constexpr bool kShares = true;
  static int64_t panel_size(const LinearArgs& a) { return a.k * kPanel * 4; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn,
                            Vec (&out)[M][P]) {
    const float* x = a.x + row * a.xstride;
    const float* w = static_cast<const float*>(a.w) + panel * a.k * kPanel;
    const Ahead<P, kReuse> next(w, panel_size(a), turn);
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < P; ++p) out[m][p] = set(0.0f);
    }
    multiply_panels(x, a.xstride, w, a.k * kPanel, a.k, out,
                    [&](int64_t k, int p) __attribute__((always_inline)) { next.line(k * 64, p); });
  }
};

// The same sums as Float32 over the rounded weights: where they were stored as bfloat16 the results
// are float32's, bit for bit.
struct Bfloat16 {
  static constexpr int kRows = kTileRows[1], kPanels = kTilePanels;
  static constexpr bool kShares = true;
  static int64_t panel_size(const LinearArgs& a) { return a.k * kPanel * 2; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn,
                            Vec (&out)[M][P]) {
    const float* x = a.x + row * a.xstride;
    const uint16_t* w = static_cast<const uint16_t*>(a.w) + panel * a.k * kPanel;
    const Ahead<P, kReuse> next(w, panel_size(a), turn);
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < P; ++p) out[m][p] = set(0.0f);
    }
    for (int64_t k = 0; k < a.k; k += 2) {
      Vec even[P] = {}, odd[P] = {};
      for (int p = 0; p < P; ++p) {
        const uint16_t* line = w + (p * a.k + k) * kPanel;
        next.line(k * 32, p);
        load_bf16_pairs(line, even[p], odd[p]);
      }
      for (int m = 0; m < M; ++m) {
        const float* xm = x + m * a.xstride + k;
        // An odd width ends in a zero weight, whose x must not be read.
        const Vec x0 = set(xm[0]), x1 = set(k + 1 < a.k_used ? xm[1] : 0.0f);
        for (int p = 0; p < P; ++p) out[m][p] = fma(x1, odd[p], fma(x0, even[p], out[m][p]));
      }
    }
  }
};

#if !defined(UNIAUDIO_SPLIT_INT8)
constexpr Apart (*split)(uint8_t*, int64_t, const int32_t*, int32_t*, Rest*) = nullptr;

struct Int8 {
  static constexpr int kRows = kTileRows[2], kPanels = kTilePanels;
  static constexpr bool kShares = true;
  static int64_t panel_size(const LinearArgs& a) { return a.k * kPanel; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn,
                            Vec (&out)[M][P]) {
    const uint8_t* x = a.xq + row * a.xstride;
    const int8_t* w = static_cast<const int8_t*>(a.w) + panel * a.k * kPanel;
    const Ahead<P, kReuse> next(w, panel_size(a), turn);
    DotSum acc[M][P] = {};
    for (int64_t k = 0; k < a.k; k += 4) {
      for (int p = 0; p < P; ++p) next.line(k * 16, p);
      for (int m = 0; m < M; ++m) {
        const Quad xk = load_quad(x + m * a.xstride + k);
        for (int p = 0; p < P; ++p) dot(acc[m][p], xk, w + (p * a.k + k) * kPanel);
      }
    }
    for (int p = 0; p < P; ++p) {
      const Vec wscale = load(a.wscale + (panel + p) * kPanel);
      for (int m = 0; m < M; ++m) {
        out[m][p] = finish_dot(acc[m][p], a.wsum + (panel + p) * kPanel) *
                    (wscale * set(a.xscale[row + m]));
      }
    }
  }
};
#endif

// Groups of 32 inputs: exact integer sums within, one multiply and one add of floats across.
struct Int4 {
  static constexpr int kRows = kTileRows[3], kPanels = kTilePanels;
  static constexpr bool kShares = false;
  static int64_t panel_size(const LinearArgs& a) { return a.k / kGroup * kGroupBytes; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn,
                            Vec (&out)[M][P]) {
    const uint8_t* x = a.xq + row * a.xstride;
    const int64_t groups = a.k / kGroup, panel_bytes = panel_size(a);
    const int32_t* xsum = a.xsum + row * groups;
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + panel * panel_bytes;
    const Ahead<P, kReuse> next(w, panel_bytes, turn);
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < P; ++p) out[m][p] = set(0.0f);
    }
    for (int64_t g = 0; g < groups; ++g) {
      // Two groups share nine lines: four and four of nibbles, one of scales.
      const int64_t at = g / 2 * 2 * kGroupBytes;
      const uint8_t* base = w + at + g % 2 * 256;
      G16 acc[M][P] = {};
      for (int m = 0; m < M; ++m) {
        for (int p = 0; p < P; ++p) acc[m][p] = start_group(xsum[m * groups + g]);
      }
      UNIAUDIO_UNROLL
      for (int line = 0; line < 4; ++line) {
        Bytes low[P] = {}, high[P] = {};
        for (int p = 0; p < P; ++p) {
          next.line(at + g % 2 * 256 + line * 64, p);
          load_nibbles(base + p * panel_bytes + line * 64, low[p], high[p]);
        }
        for (int m = 0; m < M; ++m) {
          const uint8_t* xm = x + m * a.xstride + g * kGroup + line * 8;
          const SignedQuad x0 = load_signed_quad(xm), x1 = load_signed_quad(xm + 4);
          for (int p = 0; p < P; ++p)
            dot_group(acc[m][p], low[p], x0), dot_group(acc[m][p], high[p], x1);
        }
      }
      for (int p = 0; p < P; ++p) {
        const Vec scale = load_bf16(
            reinterpret_cast<const uint16_t*>(w + at + p * panel_bytes + 512 + g % 2 * 32));
        for (int m = 0; m < M; ++m) out[m][p] = out[m][p] + finish_group(acc[m][p]) * scale;
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int p = 0; p < P; ++p) out[m][p] = out[m][p] * set(a.xscale[row + m]);
    }
  }
};

UNIAUDIO_INLINE void write(const LinearArgs& a, float* y, int64_t column, Vec v) {
  const int64_t left = a.n - column;
  if (left >= kPanel) {
    store(y + column, a.epilogue == Epilogue::add ? load(y + column) + v : v);
  } else if (left > 0) {
    store_n(y + column, a.epilogue == Epilogue::add ? load_n(y + column, left) + v : v, left);
  }
}

// P panels from `panel` on, for M rows from `row` on.
template <class Format, int M, int P, Reuse kReuse>
UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn = {}) {
  Vec out[M][P];
  // more sums than registers: panel by panel
  if constexpr (M > 1 && M * P > Format::kRows * Format::kPanels) {
    for (int p = 0; p < P; ++p) {
      Vec one[M][1];
      Format::template tile<M, 1, kReuse>(a, row, panel + p, turn, one);
      for (int m = 0; m < M; ++m) out[m][p] = one[m][0];
    }
  } else {
    Format::template tile<M, P, kReuse>(a, row, panel, turn, out);
  }
  for (int m = 0; m < M; ++m) {
    float* y = a.y + (row + m) * a.ystride;
    for (int p = 0; p < P; ++p) {
      if (a.bias) out[m][p] = out[m][p] + load(a.bias + (panel + p) * kPanel);
      if (a.epilogue == Epilogue::gelu) out[m][p] = gelu<Separate>(out[m][p]);
      if (a.epilogue == Epilogue::gelu_tanh) out[m][p] = gelu_tanh(out[m][p]);
      if (a.epilogue != Epilogue::swiglu) write(a, y, (panel + p) * kPanel, out[m][p]);
    }
    if constexpr (P % 2 == 0) {
      if (a.epilogue == Epilogue::swiglu) {
        for (int p = 0; p < P; p += 2)
          write(a, y, (panel + p) / 2 * kPanel, silu(out[m][p]) * out[m][p + 1]);
      }
    }
  }
}

template <class Format, int P, Reuse kReuse, int M = Format::kRows>
UNIAUDIO_INLINE void some_rows(const LinearArgs& a, int64_t row, int64_t rows, int64_t panel,
                               Turn turn) {
  if constexpr (M > 0) {
    if (rows == M) return tile<Format, M, P, kReuse>(a, row, panel, turn);
    some_rows<Format, P, kReuse, M - 1>(a, row, rows, panel, turn);
  }
}

// Tiles of equal height, as few as the registers allow.
template <class Format, int P, Reuse kReuse>
void all_rows(const LinearArgs& a, int64_t row, int64_t row_end, int64_t panel) {
  const int64_t tiles = (row_end - row + Format::kRows - 1) / Format::kRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t rows = (row_end - row) / (tiles - i);
    some_rows<Format, P, kReuse>(a, row, rows, panel, {i, tiles});
    row += rows;
  }
}

template <class Format, Reuse kReuse>
void one_row(const LinearArgs& a) {
  int64_t panel = a.panel_begin;
  for (; panel + kAlonePanels <= a.panel_end; panel += kAlonePanels)
    tile<Format, 1, kAlonePanels, kReuse>(a, 0, panel);
  for (; panel + 2 <= a.panel_end; panel += 2) tile<Format, 1, 2, kReuse>(a, 0, panel);
  if (panel < a.panel_end) tile<Format, 1, 1, kReuse>(a, 0, panel);
}

template <class Format, Reuse kReuse>
void several_rows(const LinearArgs& a) {
  for (int64_t row = 0; row < a.rows; row += kRowBlock) {
    const int64_t row_end = row + kRowBlock < a.rows ? row + kRowBlock : a.rows;
    int64_t panel = a.panel_begin;
    if (Format::kPanels == 2 || a.epilogue == Epilogue::swiglu ||
        2 * (row_end - row) <= Format::kRows) {
      for (; panel + 2 <= a.panel_end; panel += 2)
        all_rows<Format, 2, kReuse>(a, row, row_end, panel);
    }
    for (; panel < a.panel_end; ++panel) {
      // the odd last one: not worth code of its own for every number of rows
      if constexpr (Format::kPanels == 2) {
        for (int64_t r = row; r < row_end; ++r)
          tile<Format, 1, 1, kReuse>(a, r, panel, {r - row, row_end - row});
      } else {
        all_rows<Format, 1, kReuse>(a, row, row_end, panel);
      }
    }
  }
}

template <class Format>
void linear(const LinearArgs& a) {
  if (a.rows == 1)
    return a.stream ? one_row<Format, Reuse::stream>(a) : one_row<Format, Reuse::keep>(a);
  if constexpr (Format::kShares) {
    if (a.rows > Format::kRows) return several_rows<Format, Reuse::share>(a);
  }
  // With more rows than a tile has, the next tile reads the panels again, and wants them from a cache.
  if constexpr (Format::kPanels > 1) {
    const bool passes =
        a.rows <= Format::kRows || Format::kPanels * Format::panel_size(a) <= kPassing;
    if (a.stream && passes) return several_rows<Format, Reuse::stream>(a);
  }
  several_rows<Format, Reuse::keep>(a);
}

float quantize(const float* x, int64_t k, int64_t k_padded, uint8_t* q) {
  Vec most = set(0.0f);
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) most = max(most, abs(load(x + i)));
  if (i < k) most = max(most, abs(load_n(x + i, k - i)));
  const float peak = largest(most);
  const Vec inverse = set(peak > 1e-30f ? 127.0f / peak : 0.0f);
  for (i = 0; i + 16 <= k; i += 16) store_quantized(q + i, load(x + i) * inverse);
  if (i < k) {
    uint8_t t[16];
    store_quantized(t, load_n(x + i, k - i) * inverse);
    for (int64_t j = 0; i < k; ++i, ++j) q[i] = t[j];
  }
  for (; i < k_padded; ++i) q[i] = kOffset;
  return peak > 1e-30f ? peak * (1.0f / 127.0f) : 0.0f;
}

void group_sums(uint8_t* q, int64_t k, int32_t* sums) {
  for (int64_t g = 0; g < k / kGroup; ++g) {
    int32_t s[4] = {};
    for (int i = 0; i < kGroup; ++i) {
      q[g * kGroup + i] = uint8_t(q[g * kGroup + i] - kOffset);
      s[i % 4] += int8_t(q[g * kGroup + i]);
    }
    sums[g] = group_start(8, s[0] + s[1], s[2] + s[3]);
  }
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
