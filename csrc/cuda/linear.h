// y = x W^T for the block's row tiles and a few columns (streams, or positions of one), each weight
// read once for all of them.
//
// Activations (the operand) lie in shared memory in the form that the weights want:
//   float32   as they are; fused multiply-adds
//   bfloat16  as two bfloat16, the value and its remainder, 16 bits in all; tensor cores, float32
//             sums
//   int8      quantized per column as cpu/linear_body.h does; tensor cores, exact integer sums
// A column's result does not depend on the others: it has the same bits alone and in a batch.
#pragma once

#include "weight_ring.h"

namespace uniaudio::cuda {

constexpr int kMaxColumns = 8;

// Room for the operand of one product; `columns` rows, padded so that eight columns' 16-byte reads
// fall into different banks.
struct Operand {
  char* data;    // [parts][columns][stride]
  float* scale;  // int8: [kMaxColumns]
  int stride;    // bytes
  Format format;
};
UA_HD int operand_stride(int k_tiles) { return (k_tiles + k_tiles % 2) * kTileRowBytes + 64; }
UA_HD int operand_bytes(Format format, int k_tiles, int columns) {
  return operand_stride(k_tiles) * columns * (format == Format::bfloat16 ? 2 : 1);
}

UA_HD void set_float(const Operand& o, int column, int i, float v) {
  reinterpret_cast<float*>(o.data + column * o.stride)[i] = v;
}
UA_HD void set_bf16(const Operand& o, int columns, int column, int i, float v) {
  const uint32_t high = to_bf16(v);
  reinterpret_cast<uint16_t*>(o.data + column * o.stride)[i] = uint16_t(high);
  reinterpret_cast<uint16_t*>(o.data + (columns + column) * o.stride)[i] =
      uint16_t(to_bf16(v - from_bf16(high)));
}
UA_HD void set_int8(const Operand& o, int column, int i, float v, float inverse) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even
  reinterpret_cast<int8_t*>(o.data + column * o.stride)[i] =
      int8_t(int32_t((v * inverse + magic) - magic));
}

// From a column's largest value to what a unit of its integers stands for.
UA_HD float unit_of(float peak) { return peak > 1e-30f ? peak * (1.0f / 127.0f) : 0.0f; }
UA_HD void set_operand(const Operand& o, int columns, int column, int i, float v, float peak) {
  if (o.format == Format::float32) {
    set_float(o, column, i, v);
  } else if (o.format == Format::bfloat16) {
    set_bf16(o, columns, column, i, v);
  } else {
    set_int8(o, column, i, v, peak > 1e-30f ? 127.0f / peak : 0.0f);
  }
}

// What happens to x on its way into a product; without weights nothing does.
struct Norm {
  const float *weight, *bias;
  float eps;
  bool rmsnorm;
};
UA_HD float normalised(const Norm& norm, float x, int i, float mean, float inverse) {
  if (!norm.weight) return x;
  return norm.rmsnorm ? (x * inverse) * norm.weight[i]
                      : ((x - mean) * inverse) * norm.weight[i] + norm.bias[i];
}
// By one warp.
UA_HD void moments(const float* x, int n, const Norm& norm, float& mean, float& inverse) {
  mean = 0;
  if (!norm.rmsnorm) {
    Lane<float> sum;
    UA_LANES (lane) {
      float s = 0;
      for (int i = lane; i < n; i += 32) s += x[i];
      sum[lane] = s;
    }
    warp_sum(sum);
    mean = sum[0] / float(n);
  }
  Lane<float> squares;
  UA_LANES (lane) {
    float s = 0;
    for (int i = lane; i < n; i += 32) {
      const float d = x[i] - mean;
      s += d * d;
    }
    squares[lane] = s;
  }
  warp_sum(squares);
  inverse = 1.0f / square_root(squares[0] / float(n) + norm.eps);
}

// Zeros from input n to the end of the last tile.
UA_HD void pad_operand(Block& block, const Operand& o, int columns, int n, int k_tiles) {
  const int size = o.format == Format::float32 ? 4 : o.format == Format::bfloat16 ? 2 : 1;
  const int rows = o.format == Format::bfloat16 ? 2 * columns : columns, from = n * size,
            bytes = k_tiles * kTileRowBytes - from;
  block.threads([&](int tid) {
    for (int i = tid; i < rows * bytes; i += kThreads)
      o.data[i / bytes * o.stride + from + i % bytes] = 0;
  });
}

// Partial sums of one warp over its k tiles of one row tile: 8 rows x `columns` of kColumns, float
// or int32 by format. `source` hands out the warp's tiles in order (WeightRing, TileReader).
template <int kColumns, class Tiles>
UA_HD void warp_tile(Tiles& source, int warp, int tiles, int first, const Operand& o, int columns,
                     float* out, int out_stride = kTileRows) {
  if (o.format == Format::float32) {
    Lane<float> acc[kColumns];
    UA_UNROLL
    for (int c = 0; c < kColumns; ++c)
      UA_LANES (lane) acc[c][lane] = 0.0f;
    for (int k = 0; k < tiles; ++k) {
      Lane<Vec4> w;
      source.take(warp, w);
      UA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        if (c >= columns) continue;
        UA_LANES (lane) {
          const Vec4 x = *reinterpret_cast<const Vec4*>(
              o.data + c * o.stride + (first + k) * kTileRowBytes + lane % 4 * 16);
          float sum = acc[c][lane];
          UA_UNROLL
          for (int i = 0; i < 4; ++i) sum = fused(float_of(x.v[i]), float_of(w[lane].v[i]), sum);
          acc[c][lane] = sum;
        }
      }
    }
    UA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      warp_sum(acc[c], 1, 4);
      UA_LANES (lane) {
        if (lane % 4 == 0 && c < columns) out[c * out_stride + lane / 4] = acc[c][lane];
      }
    }
  } else if (o.format == Format::bfloat16) {
    // value and rest, each of two halves of a tile: four sums that do not wait for each other
    Lane<Acc4> acc[4];
    UA_UNROLL
    for (int i = 0; i < 4; ++i)
      UA_LANES (lane) acc[i][lane] = Acc4{{0, 0, 0, 0}};
    const int rest = columns * o.stride;
    Lane<Vec4> none;  // columns 8 to 15
    UA_LANES (lane) none[lane] = Vec4{{0, 0, 0, 0}};
    for (int k = 0; k < tiles; ++k) {
      Lane<Vec4> w, high, low;
      source.take(warp, w);
      UA_LANES (lane) {
        const char* x = o.data + lane / 4 * o.stride + (first + k) * kTileRowBytes + lane % 4 * 16;
        const bool real = lane / 4 < columns;
        high[lane] = real ? *reinterpret_cast<const Vec4*>(x) : Vec4{{0, 0, 0, 0}};
        low[lane] = real ? *reinterpret_cast<const Vec4*>(x + rest) : Vec4{{0, 0, 0, 0}};
      }
      mma_bf16(acc[0], high, none, w, 0);
      mma_bf16(acc[1], high, none, w, 2);
      mma_bf16(acc[2], low, none, w, 0);
      mma_bf16(acc[3], low, none, w, 2);
    }
    UA_LANES (lane) {
      if (lane / 4 < kColumns) {
        UA_UNROLL
        for (int h = 0; h < 2; ++h) {
          out[lane / 4 * out_stride + 2 * (lane % 4) + h] =
              (acc[0][lane].v[h] + acc[1][lane].v[h]) + (acc[2][lane].v[h] + acc[3][lane].v[h]);
        }
      }
    }
  } else {
    Lane<AccI4> acc[2];
    UA_UNROLL
    for (int i = 0; i < 2; ++i)
      UA_LANES (lane) acc[i][lane] = AccI4{{0, 0, 0, 0}};
    Lane<Vec4> none;
    UA_LANES (lane) none[lane] = Vec4{{0, 0, 0, 0}};
    for (int k = 0; k < tiles; ++k) {
      Lane<Vec4> w, x;
      source.take(warp, w);
      UA_LANES (lane) {
        const char* from =
            o.data + lane / 4 * o.stride + (first + k) * kTileRowBytes + lane % 4 * 16;
        x[lane] = lane / 4 < columns ? *reinterpret_cast<const Vec4*>(from) : Vec4{{0, 0, 0, 0}};
      }
      mma_int8(acc[0], x, none, w, 0);
      mma_int8(acc[1], x, none, w, 2);
    }
    UA_LANES (lane) {
      if (lane / 4 < kColumns) {
        UA_UNROLL
        for (int h = 0; h < 2; ++h)
          out[lane / 4 * out_stride + 2 * (lane % 4) + h] =
              float_of(uint32_t(acc[0][lane].v[h] + acc[1][lane].v[h]));
      }
    }
  }
}

// The block's part of a product: partial sums to parts [row tiles of this
// block][kWarps][kColumns][8], then a barrier.
template <int kColumns, class Tiles>
UA_HD void product(Block& block, Tiles& source, const Job& job, const Operand& o, int columns,
                   float* parts) {
  const int begin = range_begin(block.index, block.count, job.row_tiles),
            end = range_begin(block.index + 1, block.count, job.row_tiles);
  block.warps([&](int warp) {
    const int first = range_begin(warp, kWarps, job.k_tiles),
              tiles = range_begin(warp + 1, kWarps, job.k_tiles) - first;
    UA_ROLLED
    for (int r = begin; r < end; ++r) {
      warp_tile<kColumns>(source, warp, tiles, first, o, columns,
                          parts + ((r - begin) * kWarps + warp) * (kColumns * kTileRows));
    }
  });
  block.sync();
}

// Sum over the warps, in their order, of row `r` (counted from the block's first) and one column.
template <int kColumns>
UA_HD float total(const float* parts, const Operand& o, int r, int column, const float* row_scale,
                  int row) {
  const float* p = parts + (r / kTileRows * kWarps * kColumns + column) * kTileRows + r % kTileRows;
  if (o.format == Format::int8) {
    int32_t sum = 0;
    UA_UNROLL
    for (int w = 0; w < kWarps; ++w) sum += int32_t(bits_of(p[w * kColumns * kTileRows]));
    return float(sum) * (row_scale[row] * o.scale[column]);
  }
  float sum = 0;
  UA_UNROLL
  for (int w = 0; w < kWarps; ++w) sum += p[w * kColumns * kTileRows];
  return sum;
}

}  // namespace uniaudio::cuda
