// int8 products where bytes are multiplied by maddubs: unsigned by signed, added in pairs in 16
// bits, which saturate. Weights are stored as w + 128. Sums stay in 16 bits for groups of 16 inputs
// (a lane sums two of every four): one multiplication and one addition for 32 products.
//
// This is exact because x is split beforehand. What remains of it obeys two bounds:
//   |x0| + |x1| <= 128 for each pair, so that (w0 + 128) x0 + (w1 + 128) x1 never saturates;
//   the squares over a lane's eight inputs add up to at most 32767^2 / `norm`, where `norm` is the
//   largest such sum of the weights: by the Cauchy-Schwarz inequality the lane's sum of w x is at
//   most 32767. Intermediate sums may wrap around.
// Pairs that break a bound are set to zero and multiplied apart, in 32 bits: where x is normally
// distributed, they are in seven of a hundred fours.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/prefetch_body.h"
#include "cpu/vec_avx2.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

constexpr int kPairs = kSplitGroup / 2;

// Moves the pairs of one group that break a bound to `rest`; returns the number of its entries.
inline int64_t take_out(int8_t* x, int64_t at, int32_t most, Rest* rest) {
  int8_t taken[kSplitGroup] = {};
  int32_t squares[kPairs], lane[2] = {};
  const auto take = [&](int p) {
    for (int i = 2 * p; i < 2 * p + 2; ++i) taken[i] = x[i], x[i] = 0;
    lane[p % 2] -= squares[p];
    squares[p] = 0;
  };
  for (int p = 0; p < kPairs; ++p) {
    const int32_t a = x[2 * p], b = x[2 * p + 1];
    squares[p] = a * a + b * b;
    lane[p % 2] += squares[p];
    if ((a < 0 ? -a : a) + (b < 0 ? -b : b) > 128) take(p);
  }
  for (int h = 0; h < 2; ++h) {
    while (lane[h] > most) {
      int largest = h;
      for (int p = h; p < kPairs; p += 2) largest = squares[p] > squares[largest] ? p : largest;
      take(largest);
    }
  }
  int64_t count = 0;
  for (int i = 0; i < kSplitGroup; i += 4) {
    Rest r{int32_t(at + i), 0};
    __builtin_memcpy(&r.x, taken + i, 4);
    if (r.x) rest[count++] = r;
  }
  return count;
}

// Of eight pairs' values, the sums over even and over odd pairs: the first two of the result.
UNIAUDIO_INLINE __m128i fold_pairs(__m256i v) {
  const __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
}

int64_t split(uint8_t* q, int64_t k, int32_t norm, int32_t* sums, Rest* rest) {
  const int32_t most = 32767 * 32767 / (norm > 0 ? norm : 1);
  const __m256i ones = _mm256_set1_epi16(1);
  int64_t count = 0, at = 0;
  for (; at + kSplitGroup <= k; at += kSplitGroup) {
    __m128i* const bytes = reinterpret_cast<__m128i*>(q + at);
    __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
    const __m256i sizes = _mm256_madd_epi16(_mm256_abs_epi16(x), ones);
    const __m128i squares = fold_pairs(_mm256_madd_epi16(x, x));
    const int broken = _mm256_movemask_epi8(_mm256_cmpgt_epi32(sizes, _mm256_set1_epi32(128))) |
                       _mm_movemask_epi8(_mm_cmpgt_epi32(squares, _mm_set1_epi32(most)));
    if (broken) {
      count += take_out(reinterpret_cast<int8_t*>(q + at), at, most, rest + count);
      x = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
    }
    const __m128i s = fold_pairs(_mm256_madd_epi16(x, ones));
    sums[at / kSplitGroup] = group_start(128, _mm_cvtsi128_si32(s), _mm_extract_epi32(s, 1));
  }
  for (; at < k; at += 4) {  // no whole group
    rest[count].at = int32_t(at);
    __builtin_memcpy(&rest[count++].x, q + at, 4);
  }
  return count;
}

struct Int8 {
  static constexpr int kRows = kTileRows[2], kPanels = kTilePanels;
  static int64_t panel_size(const LinearArgs& a) { return a.k * kPanel; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Vec (&out)[M][P]) {
    const uint8_t* x = a.xq + row * a.xstride;
    const int64_t panel_bytes = panel_size(a), groups = a.k / kSplitGroup;
    const int32_t* start = a.xsum + row * groups;
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + panel * panel_bytes;
    const Ahead<P, kReuse> next{reinterpret_cast<const char*>(w), panel_bytes};
    IntVec room[M][P] = {};
    IntVec(*sums)[P] = room;
    in_memory(sums);  // the registers are for the sums of 16 bits
    for (int64_t g = 0; g < groups; ++g) {
      G16 acc[M][P];
      UNIAUDIO_UNROLL
      for (int m = 0; m < M; ++m) UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) acc[m][p] = start_group(start[m * groups + g]);
      UNIAUDIO_UNROLL
      for (int i = 0; i < kSplitGroup; i += 4) {
        const int64_t k = g * kSplitGroup + i;
        Bytes line[P];
        UNIAUDIO_UNROLL
        for (int p = 0; p < P; ++p) {
          next.line(k * kPanel, p);
          const uint8_t* from = w + p * panel_bytes + k * kPanel;
          line[p] = {load_bytes(from), load_bytes(from + 32)};
        }
        UNIAUDIO_UNROLL
        for (int m = 0; m < M; ++m) {
          const SignedQuad quad = load_signed_quad(x + m * a.xstride + k);
          UNIAUDIO_UNROLL
          for (int p = 0; p < P; ++p) dot_group(acc[m][p], line[p], quad);
        }
      }
      UNIAUDIO_UNROLL
      for (int m = 0; m < M; ++m) UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) {
        sums[m][p].v[0] = sums[m][p].v[0] + whole(acc[m][p].a);
        sums[m][p].v[1] = sums[m][p].v[1] + whole(acc[m][p].b);
      }
    }
    for (int m = 0; m < M; ++m) {
      const Rest* rest = a.rest + (row + m) * (a.k / 4);
      for (int64_t i = 0; i < a.rests[row + m]; ++i) {
        for (int p = 0; p < P; ++p)
          add_exactly(sums[m][p], rest[i].x, w + p * panel_bytes + int64_t{rest[i].at} * kPanel);
      }
    }
    for (int p = 0; p < P; ++p) {
      const Vec wscale = load(a.wscale + (panel + p) * kPanel);
      for (int m = 0; m < M; ++m) {
        out[m][p] = to_float(sums[m][p].v[0], sums[m][p].v[1]) * (wscale * set(a.xscale[row + m]));
      }
    }
  }

 private:
  // For any x and w from -127 to 127: a magnitude times a number that took the other's sign is at
  // most 32258 for a pair.
  UNIAUDIO_INLINE void add_exactly(IntVec& sum, int32_t four, const uint8_t* line) {
    const __m256i x = _mm256_set1_epi32(four), size = _mm256_abs_epi8(x);
    UNIAUDIO_EACH {
      const __m256i w = _mm256_xor_si256(load_bytes(line + 32 * i), _mm256_set1_epi8(int8_t(-128)));
      const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w, x));
      sum.v[i] = sum.v[i] + (NativeInt)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
  }
};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
