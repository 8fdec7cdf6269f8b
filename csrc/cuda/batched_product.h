// The batched path's product: y = W f(x) for up to 64 columns, each weight read once for all of
// them. A block has 8 or 16 row tiles and one of kWarps ranges of the inputs, as a warp has in
// linear.h; the ranges' sums go to memory. The mma instructions and tiles are the same, so a
// column's bits are those of linear.h.
#pragma once

#include "linear.h"

namespace uniaudio::cuda {

constexpr int kBatchedColumns = 64;

// Of each column's x: mean, inverse deviation, the largest value that the next product reads; the
// largest attended value.
enum { kMean, kInverse, kPeak, kAttended, kStats };

// A product's result: parts [kWarps][columns][rows] of float32 or int32.
struct Totals {
  const float* parts;
  int columns, rows;
  Format format;
  const float* row_scale;  // int8
  const float* peak;       // of the operand's columns, peak_stride apart
  int peak_stride;
};
UA_HD float total_of(const Totals& t, int column, int row, int scale_row) {
  const float* p = t.parts + size_t(column) * t.rows + row;
  const size_t step = size_t(t.columns) * t.rows;
  if (t.format == Format::int8) {
    int32_t sum = 0;
    UA_UNROLL
    for (int w = 0; w < kWarps; ++w) sum += int32_t(bits_of(p[w * step]));
    return float(sum) * (t.row_scale[scale_row] * unit_of(t.peak[size_t(column) * t.peak_stride]));
  }
  float sum = 0;
  UA_UNROLL
  for (int w = 0; w < kWarps; ++w) sum += p[w * step];
  return sum;
}
UA_HD float total_of(const Totals& t, const float* bias, int column, int row) {
  const float v = total_of(t, column, row, row);
  return bias ? v + bias[row] : v;
}

struct BatchedProduct {
  Job job;
  const float* x;  // [columns][stride]
  int stride, n;
  Norm norm;
  const float* stats;
  const float* peak;  // int8
  int peak_stride;
  Format format;
  int columns;
  // row tiles a warp, 1 or 2: with two, activations are read from shared memory half as often
  int each;
  float* parts;
};
inline int batched_blocks(const BatchedProduct& p) {
  return (p.job.row_tiles + kWarps * p.each - 1) / (kWarps * p.each) * kWarps;
}
UA_HD int batched_range(int k_tiles) { return (k_tiles + kWarps - 1) / kWarps; }
inline size_t batched_smem(const BatchedProduct& p) {
  return size_t(operand_bytes(p.format, batched_range(p.job.k_tiles), p.columns));
}

// A warp's tiles of one row tile, read straight from memory.
struct TileReader {
#ifdef UA_DEVICE
  UA_HD void take(int, Lane<Vec4>& out) {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(at + (threadIdx.x & 31) * 16));
    out.value = Vec4{{v.x, v.y, v.z, v.w}};
    at += kTileBytes;
  }
#else
  void take(int, Lane<Vec4>& out) {
    for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane].v, at + lane * 16, 16);
    at += kTileBytes;
  }
#endif
  const unsigned char* at;
};

// Sums of kEach row tiles over a range's tiles, of all columns. Parts: value and rest of bfloat16
// operands, or one of integers.
template <int kEach, class Acc, int kParts, class Mma>
UA_HD void batched_tiles(TileReader* source, int tiles, const Operand& o, int columns,
                         Lane<Acc> (&acc)[kEach][kBatchedColumns / 16][2 * kParts], Mma mma) {
  constexpr int kAhead = 4;
  for (int k0 = 0; k0 < tiles; k0 += kAhead) {
    Lane<Vec4> w[kEach][kAhead];
    UA_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      UA_UNROLL
      for (int e = 0; e < kEach; ++e) {
        if (k0 + k < tiles) source[e].take(0, w[e][k]);
      }
    }
    UA_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (k0 + k >= tiles) continue;
      UA_UNROLL
      for (int g = 0; g < kBatchedColumns / 16; ++g) {
        if (16 * g >= columns) continue;
        UA_UNROLL
        for (int part = 0; part < kParts; ++part) {
          Lane<Vec4> x[2];
          UA_LANES (lane) {
            UA_UNROLL
            for (int h = 0; h < 2; ++h) {
              const int c = 16 * g + 8 * h + lane / 4;
              x[h][lane] =
                  c < columns
                      ? *reinterpret_cast<const Vec4*>(o.data + (part * columns + c) * o.stride +
                                                       (k0 + k) * kTileRowBytes + lane % 4 * 16)
                      : Vec4{{0, 0, 0, 0}};
            }
          }
          UA_UNROLL
          for (int e = 0; e < kEach; ++e) {
            mma(acc[e][g][2 * part], x[0], x[1], w[e][k], 0);
            mma(acc[e][g][2 * part + 1], x[0], x[1], w[e][k], 2);
          }
        }
      }
    }
  }
}

// By one warp: `count` of kEach row tiles from `tile` on, over `tiles` k tiles, to parts
// [columns][rows] of this range.
template <int kEach>
UA_HD void batched_warp(const BatchedProduct& p, const Operand& o, int tile, int count, int first,
                        int tiles, float* parts) {
  const int rows = p.job.row_tiles * kTileRows;
  TileReader source[kEach];
  UA_UNROLL
  for (int e = 0; e < kEach; ++e) {
    const int r = tile + (e < count ? e : 0);
    source[e].at = p.job.tiles + (size_t(p.job.list ? p.job.list[r] : r) * size_t(p.job.k_tiles) +
                                  size_t(first)) *
                                     kTileBytes;
  }
  constexpr int kGroups16 = kBatchedColumns / 16;
  const auto store = [&](int e, int g, int lane, const float(&v)[4]) {
    UA_UNROLL
    for (int h = 0; h < 4; ++h) {
      const int c = 16 * g + 8 * (h / 2) + lane / 4;
      if (e < count && c < p.columns)
        parts[size_t(c) * rows + (tile + e) * kTileRows + 2 * (lane % 4) + h % 2] = v[h];
    }
  };
  if (p.format == Format::float32) {
    UA_ROLLED
    for (int e = 0; e < count; ++e) {
      UA_ROLLED
      for (int c = 0; c < p.columns; c += kMaxColumns) {
        TileReader again = source[e];
        const Operand some = {o.data + c * o.stride, nullptr, o.stride, o.format};
        warp_tile<kMaxColumns>(again, 0, tiles, 0, some,
                               p.columns - c < kMaxColumns ? p.columns - c : kMaxColumns,
                               parts + size_t(c) * rows + (tile + e) * kTileRows, rows);
      }
    }
  } else if (p.format == Format::bfloat16) {
    Lane<Acc4> acc[kEach][kGroups16][4];
    UA_UNROLL
    for (int i = 0; i < kEach * kGroups16 * 4; ++i)
      UA_LANES (lane) acc[i / (4 * kGroups16)][i / 4 % kGroups16][i % 4][lane] = Acc4{{0, 0, 0, 0}};
    batched_tiles<kEach, Acc4, 2>(source, tiles, o, p.columns, acc,
                                  [](auto& c, const auto& a, const auto& a8, const auto& b,
                                     int at) { mma_bf16(c, a, a8, b, at); });
    UA_UNROLL
    for (int i = 0; i < kEach * kGroups16; ++i) {
      UA_LANES (lane) {
        const auto& s = acc[i / kGroups16][i % kGroups16];
        float v[4];
        UA_UNROLL
        for (int h = 0; h < 4; ++h)
          v[h] = (s[0][lane].v[h] + s[1][lane].v[h]) + (s[2][lane].v[h] + s[3][lane].v[h]);
        store(i / kGroups16, i % kGroups16, lane, v);
      }
    }
  } else {
    Lane<AccI4> acc[kEach][kGroups16][2];
    UA_UNROLL
    for (int i = 0; i < kEach * kGroups16 * 2; ++i)
      UA_LANES (lane)
        acc[i / (2 * kGroups16)][i / 2 % kGroups16][i % 2][lane] = AccI4{{0, 0, 0, 0}};
    batched_tiles<kEach, AccI4, 1>(source, tiles, o, p.columns, acc,
                                   [](auto& c, const auto& a, const auto& a8, const auto& b,
                                      int at) { mma_int8(c, a, a8, b, at); });
    UA_UNROLL
    for (int i = 0; i < kEach * kGroups16; ++i) {
      UA_LANES (lane) {
        const auto& s = acc[i / kGroups16][i % kGroups16];
        float v[4];
        UA_UNROLL
        for (int h = 0; h < 4; ++h) v[h] = float_of(uint32_t(s[0][lane].v[h] + s[1][lane].v[h]));
        store(i / kGroups16, i % kGroups16, lane, v);
      }
    }
  }
}

UA_HD void batched_run(Block& block, const BatchedProduct& p) {
  const int range = block.index % kWarps, group = block.index / kWarps;
  const int first = range_begin(range, kWarps, p.job.k_tiles),
            tiles = range_begin(range + 1, kWarps, p.job.k_tiles) - first;
  const int per = tile_inputs(p.format), begin = first * per, inputs = tiles * per;
  const Operand o = {block.smem, nullptr, operand_stride(batched_range(p.job.k_tiles)), p.format};
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * inputs; i += kThreads) {
      const int c = i / inputs, at = i % inputs, k = begin + at;
      const float* const s = p.stats + c * kStats;
      const float v =
          k < p.n ? normalised(p.norm, p.x[size_t(c) * p.stride + k], k, s[kMean], s[kInverse])
                  : 0.0f;
      set_operand(o, p.columns, c, at, v, p.peak[size_t(c) * p.peak_stride]);
    }
  });
  block.sync();
  float* const parts = p.parts + size_t(range) * p.columns * p.job.row_tiles * kTileRows;
  block.warps([&](int warp) {
    const int tile = (group * kWarps + warp) * p.each, left = p.job.row_tiles - tile;
    if (left <= 0) return;
    if (p.each == 1) {
      batched_warp<1>(p, o, tile, 1, first, tiles, parts);
    } else {
      batched_warp<2>(p, o, tile, left < 2 ? left : 2, first, tiles, parts);
    }
  });
}

}  // namespace uniaudio::cuda
