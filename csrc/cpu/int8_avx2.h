// int8 products where bytes are multiplied by maddubs: unsigned by signed, added in pairs in 16
// bits, which saturate. Weights are stored as w + 127, from 0 to 254. Sums stay in 16 bits for
// groups of 16 inputs (a lane sums two of every four): one multiplication and one addition for 32
// products.
//
// This is exact because x is split beforehand. What remains of it obeys two bounds:
//   |x0 + x1| <= 129 for each pair. Inputs of the same sign then add up to at most 254 * 129 =
//   32766, and inputs of different signs partly cancel: no pair saturates;
//   the squares over a lane's eight inputs add up to at most 32767^2 / norm, where `norm` is the
//   largest such sum over the weights that meet these inputs: by the Cauchy-Schwarz inequality the
//   lane's sum of w x is at most 32767. Intermediate sums may wrap around.
// What breaks a bound is taken out and multiplied apart: also by maddubs, in pairs that obey the
// first bound, and each product is widened to 32 bits. Where 768 inputs are normally distributed,
// that is five of a hundred fours.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/prefetch_body.h"
#include "cpu/vec_avx2.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

constexpr int kPairs = kSplitGroup / 2, kPairMost = 32767 / (127 + kWeightOffset);

UNIAUDIO_INLINE __m256i add_pairs(__m256i x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }
// Of eight pairs' values, the sums over even and over odd pairs: the first two of the result.
UNIAUDIO_INLINE __m128i fold_pairs(__m256i v) {
  const __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
}
// 16 numbers from -128 to 127 as bytes.
UNIAUDIO_INLINE __m128i to_bytes(__m256i x) {
  return _mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

// What is multiplied apart in one row.
struct Collected {
  Rest* rest;
  int64_t count = 0;
  __m256i sum = _mm256_setzero_si256();

  // the fours of x that aren't zero
  UNIAUDIO_MEMBER void add(__m256i x, int64_t at) {
    alignas(16) int32_t fours[kSplitGroup / 4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours), to_bytes(x));
    for (int i = 0; i < kSplitGroup / 4; ++i) {
      rest[count] = {int32_t(at + 4 * i), fours[i]};
      count += fours[i] != 0;
    }
    sum = _mm256_add_epi32(sum, add_pairs(x));
  }
};

// Takes the largest pairs out of x until a lane's squares add up to at most its limit.
inline __m256i lighten(__m256i x, const int32_t* limits, int64_t at, Collected& taken) {
  alignas(32) int32_t pairs[kPairs], out[kPairs] = {}, squares[kPairs];
  _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), x);
  _mm256_store_si256(reinterpret_cast<__m256i*>(squares), _mm256_madd_epi16(x, x));
  for (int h = 0; h < 2; ++h) {
    for (;;) {
      int32_t sum = 0;
      int largest = h;
      for (int p = h; p < kPairs; p += 2) {
        sum += squares[p];
        largest = squares[p] > squares[largest] ? p : largest;
      }
      if (sum <= limits[h]) break;
      out[largest] = pairs[largest];
      pairs[largest] = squares[largest] = 0;
    }
  }
  taken.add(load_bytes(out), at);
  return load_bytes(pairs);
}

// Splits one group; returns where its sum starts.
UNIAUDIO_INLINE int32_t split_group(uint8_t* q, const int32_t* limits, int64_t at,
                                    Collected& taken) {
  const __m256i most = _mm256_set1_epi32(kPairMost), least = _mm256_set1_epi32(-kPairMost);
  __m128i* const bytes = reinterpret_cast<__m128i*>(q);
  const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes)), sums = add_pairs(x);
  // Of a pair that breaks its bound, only what exceeds it remains, in place of the second input.
  const __m256i excess =
      _mm256_sub_epi32(sums, _mm256_max_epi32(_mm256_min_epi32(sums, most), least));
  const __m256i whole = _mm256_cmpeq_epi32(excess, _mm256_setzero_si256());
  const __m256i rest = _mm256_slli_epi32(excess, 16);
  __m256i kept = _mm256_blendv_epi8(rest, x, whole);
  const __m128i squares = fold_pairs(_mm256_madd_epi16(kept, kept));
  const __m128i limit = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(limits));
  const bool heavy = _mm_movemask_epi8(_mm_cmpgt_epi32(squares, limit)) & 0xFF;
  if (heavy || _mm256_movemask_epi8(whole) != -1) {
    taken.add(_mm256_andnot_si256(whole, _mm256_sub_epi16(x, rest)), at);
    if (heavy) kept = lighten(kept, limits, at, taken);
    _mm_storeu_si128(bytes, to_bytes(kept));
  }
  const __m128i s = fold_pairs(add_pairs(kept));
  return group_start(kWeightOffset, _mm_cvtsi128_si32(s), _mm_extract_epi32(s, 1));
}

Apart split(uint8_t* q, int64_t k, const int32_t* limits, int32_t* sums, Rest* rest) {
  Collected taken{rest};
  for (int64_t at = 0; at < k; at += kSplitGroup, limits += 2)
    *sums++ = split_group(q + at, limits, at, taken);
  const __m128i s = fold_pairs(taken.sum);
  const int32_t sum = _mm_cvtsi128_si32(s) + _mm_extract_epi32(s, 1);
  return {int32_t(taken.count), -kWeightOffset * sum};
}

struct Int8 {
  static constexpr int kRows = kTileRows[2], kPanels = kTilePanels;
  static constexpr bool kShares = true;
  static int64_t panel_size(const LinearArgs& a) { return a.k * kPanel; }
  template <int M, int P, Reuse kReuse>
  UNIAUDIO_INLINE void tile(const LinearArgs& a, int64_t row, int64_t panel, Turn turn,
                            Vec (&out)[M][P]) {
    const uint8_t* x = a.xq + row * a.xstride;
    const int64_t panel_bytes = panel_size(a), groups = a.k / kSplitGroup;
    const int32_t* start = a.xsum + row * groups;
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + panel * panel_bytes;
    const Ahead<P, kReuse> next(w, panel_bytes, turn);
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
      const Apart apart = a.apart[row + m];
      const Rest* rest = a.rest + (row + m) * (a.k / 2);
      IntVec sum[P];
      UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) UNIAUDIO_EACH
      sum[p].v[i] = sums[m][p].v[i] + (NativeInt)_mm256_set1_epi32(apart.start);
      for (const Rest* const end = rest + apart.count; rest < end; ++rest) {
        UNIAUDIO_UNROLL
        for (int p = 0; p < P; ++p)
          add_apart(sum[p], rest->x, w + p * panel_bytes + int64_t{rest->at} * kPanel);
      }
      UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) sums[m][p] = sum[p];
    }
    for (int p = 0; p < P; ++p) {
      const Vec wscale = load(a.wscale + (panel + p) * kPanel);
      for (int m = 0; m < M; ++m) {
        out[m][p] = to_float(sums[m][p].v[0], sums[m][p].v[1]) * (wscale * set(a.xscale[row + m]));
      }
    }
  }

 private:
  UNIAUDIO_INLINE void add_apart(IntVec& sum, int32_t four, const uint8_t* line) {
    const __m256i x = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    UNIAUDIO_EACH sum.v[i] =
        sum.v[i] +
        (NativeInt)_mm256_madd_epi16(_mm256_maddubs_epi16(load_bytes(line + 32 * i), x), ones);
  }
};

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
