// Codebook search with 8-bit products (AVX-512 VNNI).
//
// A first pass scores every codeword with the residual and the codewords rounded to 8 bits. What
// that may be off by is bounded for each codeword (Cauchy-Schwarz over both rounding errors, plus
// the rounding of the float32 chain itself), so only codewords whose upper bound reaches the best
// lower bound can win; those get the exact score. The result is that of the full search, ties
// included.
#include "cpu/codec_kernels.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

struct SearchRow {
  // x = scale * q + error; the bound is alpha |e| + beta |e's error| + slack
  float scale, alpha, beta;
  int start;   // takes away the codewords' offset of 128
  bool whole;  // too large to bound, or not finite: every codeword is scored exactly
};

SearchRow quantize_row(const float* x, int dim, int padded, int8_t* q) {
  __m512 peak = _mm512_setzero_ps(), squares = peak;
  const auto lanes = [&](int i) {
    return dim - i >= 16 ? __mmask16(0xffff) : __mmask16((1u << (dim - i)) - 1);
  };
  for (int i = 0; i < dim; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes(i), x + i);
    peak = _mm512_max_ps(_mm512_abs_ps(v), peak);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float most = _mm512_reduce_max_ps(peak), norm2 = _mm512_reduce_add_ps(squares);
  SearchRow row{0, 0, 0, 0, !(norm2 < 1e30f)};
  for (int i = dim; i < padded; ++i) q[i] = 0;
  if (row.whole) {
    for (int i = 0; i < dim; ++i) q[i] = 0;
    return row;
  }
  row.scale = most > 1e-30f ? most / 127.0f : 0.0f;
  const __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 127.0f / most : 0.0f),
               scale = _mm512_set1_ps(row.scale);
  __m512 errors = _mm512_setzero_ps();
  __m512i total = _mm512_setzero_si512();
  for (int i = 0; i < dim; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes(i), x + i);
    const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
    const __m512 e = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(n), scale, v);
    errors = _mm512_fmadd_ps(e, e, errors);
    total = _mm512_add_epi32(total, n);
    _mm512_mask_cvtsepi32_storeu_epi8(q + i, lanes(i), n);
  }
  // The added constants cover squares that underflow; the factors cover the rounding of these few
  // lines.
  const float norm = __builtin_sqrtf(norm2) * 1.001f + 1e-17f,
              error = __builtin_sqrtf(_mm512_reduce_add_ps(errors)) * 1.001f + 1e-17f;
  row.alpha = error + norm * (static_cast<float>(dim + 24) * 6.0e-8f);
  row.beta = norm + error;
  row.start = -128 * _mm512_reduce_add_epi32(total);
  return row;
}

// R rows by P panels of 16 codewords: upper bounds to s.scratch, and the best lower bounds, lane by
// lane, into `best`.
template <int R, int P>
void search_tile(const RvqSearch& s, int panel, const int8_t* q, const SearchRow* rows,
                 float (*best)[16]) {
  const int quads = s.padded / 4;
  const uint8_t* w = s.q + static_cast<ptrdiff_t>(panel) * quads * 64;
  __m512i acc[R][P];
  UNIAUDIO_UNROLL
  for (int r = 0; r < R; ++r) UNIAUDIO_UNROLL
  for (int p = 0; p < P; ++p) acc[r][p] = _mm512_set1_epi32(rows[r].start);
  for (int k = 0; k < quads; ++k) {
    __m512i e[P];
    UNIAUDIO_UNROLL
    for (int p = 0; p < P; ++p) {
      const uint8_t* from = w + (static_cast<ptrdiff_t>(p) * quads + k) * 64;
      e[p] = _mm512_loadu_si512(from);
      __builtin_prefetch(from + 16 * 64);
    }
    UNIAUDIO_UNROLL
    for (int r = 0; r < R; ++r) {
      int four;
      __builtin_memcpy(&four, q + r * s.padded + 4 * k, 4);
      const __m512i x = _mm512_set1_epi32(four);
      // Not the intrinsic: GCC 12 copies and spills the sums around it.
      UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) asm("vpdpbusd %2, %1, %0" : "+v"(acc[r][p]) : "v"(e[p]), "v"(x));
    }
  }
  UNIAUDIO_UNROLL
  for (int p = 0; p < P; ++p) {
    const int at = (panel + p) * 16;
    const __m512 scale = _mm512_loadu_ps(s.scale + at), bias = _mm512_loadu_ps(s.bias + at),
                 norm = _mm512_loadu_ps(s.norm + at);
    const __m512 error = _mm512_loadu_ps(s.error + at), slack = _mm512_loadu_ps(s.slack + at);
    UNIAUDIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512 score = _mm512_fmadd_ps(
          _mm512_cvtepi32_ps(acc[r][p]), _mm512_mul_ps(scale, _mm512_set1_ps(rows[r].scale)), bias);
      const __m512 bound =
          _mm512_fmadd_ps(_mm512_set1_ps(rows[r].alpha), norm,
                          _mm512_fmadd_ps(_mm512_set1_ps(rows[r].beta), error, slack));
      _mm512_storeu_ps(best[r],
                       _mm512_max_ps(_mm512_sub_ps(score, bound), _mm512_loadu_ps(best[r])));
      _mm512_storeu_ps(s.scratch + static_cast<ptrdiff_t>(r) * s.panels * 16 + at,
                       _mm512_add_ps(score, bound));
    }
  }
}

template <int R>
void search_rows(const RvqSearch& s, const int8_t* q, const SearchRow* rows, float (*best)[16]) {
  constexpr int P = R <= 2 ? 8 : R <= 6 ? 4 : 2;
  int panel = 0;
  for (; panel + P <= s.panels; panel += P) search_tile<R, P>(s, panel, q, rows, best);
  for (; panel < s.panels; ++panel) search_tile<R, 1>(s, panel, q, rows, best);
}

// Exact scores of a few (row, codeword) pairs side by side, each the chain that the full search
// computes.
struct SearchPairs {
  static constexpr int kMost = 8;
  const RvqSearch& s;
  int n = 0, row[kMost], code[kMost];
  float best[kRvqRows];

  explicit SearchPairs(const RvqSearch& search) : s(search) {
    for (int r = 0; r < kRvqRows; ++r) best[r] = -__builtin_inff();
  }
  void add(int r, int c) {
    row[n] = r, code[n] = c;
    if (++n == kMost) finish();
  }
  void finish() {  // codewords of one row come in rising order, so the lowest index wins ties
    if (n == 0) return;
    const float *x[kMost], *e[kMost];
    float score[kMost];
    for (int j = 0; j < kMost; ++j) {
      const int i = j < n ? j : 0;
      x[j] = s.x + static_cast<ptrdiff_t>(row[i]) * s.dim;
      e[j] = s.codewords + static_cast<ptrdiff_t>(code[i]) * s.dim;
      score[j] = s.bias[code[i]];
    }
    for (int d = 0; d < s.dim; ++d) UNIAUDIO_UNROLL
    for (int j = 0; j < kMost; ++j) score[j] = __builtin_fmaf(x[j][d], e[j][d], score[j]);
    for (int j = 0; j < n; ++j)
      if (score[j] > best[row[j]]) best[row[j]] = score[j], s.best[row[j] * s.stride] = code[j];
    n = 0;
  }
};

void rvq_search(const RvqSearch& s) {
  using Rows = void (*)(const RvqSearch&, const int8_t*, const SearchRow*, float(*)[16]);
  static constexpr Rows table[kRvqRows + 1] = {
      nullptr,         search_rows<1>,  search_rows<2>, search_rows<3>, search_rows<4>,
      search_rows<5>,  search_rows<6>,  search_rows<7>, search_rows<8>, search_rows<9>,
      search_rows<10>, search_rows<11>, search_rows<12>};
  int8_t q[kRvqRows * kRvqDim];
  SearchRow rows[kRvqRows];
  float best[kRvqRows][16];
  for (int r = 0; r < s.rows; ++r) {
    rows[r] =
        quantize_row(s.x + static_cast<ptrdiff_t>(r) * s.dim, s.dim, s.padded, q + r * s.padded);
    for (int i = 0; i < 16; ++i) best[r][i] = -__builtin_inff();
  }
  table[s.rows](s, q, rows, best);
  SearchPairs pairs(s);
  for (int r = 0; r < s.rows; ++r) {
    int32_t* to = s.best + r * s.stride;
    *to = 0;
    if (rows[r].whole) {
      for (int c = 0; c < s.size; ++c) pairs.add(r, c);
      continue;
    }
    const __m512 least = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_loadu_ps(best[r])));
    const float* upper = s.scratch + static_cast<ptrdiff_t>(r) * s.panels * 16;
    int first = -1;  // a candidate that is alone needs no exact score
    bool several = false;
    for (int p = 0; p < s.panels; ++p) {
      for (unsigned mask = _mm512_cmp_ps_mask(_mm512_loadu_ps(upper + p * 16), least, _CMP_GE_OQ);
           mask; mask &= mask - 1) {
        const int c = p * 16 + __builtin_ctz(mask);
        if (first < 0) {
          first = c;
          continue;
        }
        if (!several) pairs.add(r, first);
        several = true;
        pairs.add(r, c);
      }
    }
    if (!several) *to = first < 0 ? 0 : first;
  }
  pairs.finish();
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
