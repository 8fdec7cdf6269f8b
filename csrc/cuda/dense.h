// y = W f(x) + b over the rows (frames) of a codec's network. f is applied while the operand is
// loaded, so a ConvNeXt block is two launches: convolved -> up -> gelu, and down -> added. Weights
// and sums are float32: codecs are small, and their errors would be heard.
//
// A block takes one row tile of the matrix (8 outputs) for kDenseRows rows. Blocks run in any
// order.
#pragma once

#include "linear.h"

namespace uniaudio::cuda {

constexpr int kDenseRows = 8;

enum class Load : int {
  plain,
  norm,       // layer norm
  convolved,  // causal depthwise convolution, then layer norm
  spectrum,   // log-gains and two parts [3][in / 2] -> real and imaginary parts [2][in / 2]
};
enum class Store : int { plain, gelu, add };

struct Dense {
  const unsigned char* tiles;  // weight_ring.h's, float32
  const float* bias;           // [8 row tiles] or null
  int row_tiles, k_tiles, in, out, rows;
  const float* x;  // [rows][xstride]
  int xstride;
  Load load;
  const float *norm, *norm_bias;
  float eps;
  const float *depthwise, *depthwise_bias;  // [taps][in], [in]
  const float* history;                     // [taps - 1][in]: the rows before x
  float* next_history;                      // what it will be: written by the first block
  int taps;
  float most_gain;
  float* y;
  int ystride;
  Store store;
};

inline int dense_blocks(const Dense& p) {
  return p.row_tiles * ((p.rows + kDenseRows - 1) / kDenseRows);
}
inline size_t dense_smem(const Dense& p) {
  return size_t(operand_stride(p.k_tiles) * kDenseRows + kWarps * kDenseRows * kTileRows * 4);
}

// A matrix's tiles straight from memory, one after the other.
struct Direct {
#ifdef UA_DEVICE
  const unsigned char* at;
  // `tiles` from the row's first one on, shared out among the warps
  UA_HD void start(const unsigned char* tiles, int count) {
    at = tiles + size_t(range_begin(int(threadIdx.x) >> 5, kWarps, count)) * kTileBytes +
         (threadIdx.x & 31) * 16;
  }
  UA_HD void take(int, Lane<Vec4>& out) {
    const uint4 v = __ldg(reinterpret_cast<const uint4*>(at));
    out.value = Vec4{{v.x, v.y, v.z, v.w}};
    at += kTileBytes;
  }
#else
  const unsigned char* at[kWarps];
  void start(const unsigned char* tiles, int count) {
    for (int w = 0; w < kWarps; ++w)
      at[w] = tiles + size_t(range_begin(w, kWarps, count)) * kTileBytes;
  }
  void take(int warp, Lane<Vec4>& out) {
    for (int lane = 0; lane < 32; ++lane) std::memcpy(out[lane].v, at[warp] + lane * 16, 16);
    at[warp] += kTileBytes;
  }
#endif
};

UA_HD float convolved_at(const Dense& p, int row, int i) {
  float sum = p.depthwise_bias[i];
  for (int j = 0; j < p.taps; ++j) {
    const int r = row + j - (p.taps - 1);
    const float x =
        r < 0 ? p.history[size_t(p.taps - 1 + r) * p.in + i] : p.x[size_t(r) * p.xstride + i];
    sum = fused(p.depthwise[size_t(j) * p.in + i], x, sum);
  }
  return sum;
}

// Layer norm of a row of shared memory, in place, by one warp.
UA_HD void warp_norm(float* x, int n, const float* weight, const float* bias, float eps) {
  Lane<float> sum;
  UA_LANES (lane) {
    float s = 0;
    for (int i = lane; i < n; i += 32) s += x[i];
    sum[lane] = s;
  }
  warp_sum(sum);
  const float mean = sum[0] / float(n);
  Lane<float> squares;
  UA_LANES (lane) {
    float s = 0;
    for (int i = lane; i < n; i += 32) s = fused(x[i] - mean, x[i] - mean, s);
    squares[lane] = s;
  }
  warp_sum(squares);
  const float inverse = 1.0f / square_root(squares[0] / float(n) + eps);
  UA_LANES (lane) {
    for (int i = lane; i < n; i += 32) x[i] = ((x[i] - mean) * inverse) * weight[i] + bias[i];
  }
}

UA_HD void dense(Block& block, const Dense& p) {
  const int tile = block.index % p.row_tiles, first = block.index / p.row_tiles * kDenseRows;
  const int rows = p.rows - first < kDenseRows ? p.rows - first : kDenseRows;
  const Operand o = {block.smem, nullptr, operand_stride(p.k_tiles), Format::float32};
  float* const parts = reinterpret_cast<float*>(block.smem + o.stride * kDenseRows);
  pad_operand(block, o, rows, p.in, p.k_tiles);
  block.threads([&](int tid) {
    for (int i = tid; i < rows * p.in; i += kThreads) {
      const int r = i / p.in, at = i % p.in;
      const float* x = p.x + size_t(first + r) * p.xstride;
      float v;
      if (p.load == Load::convolved) {
        v = convolved_at(p, first + r, at);
      } else if (p.load == Load::spectrum) {
        const int bins = p.in / 2, bin = at % bins;
        const float gain = x[bin] < p.most_gain ? x[bin] : p.most_gain;
        v = exp_of(gain) * x[bins + at];
      } else {
        v = x[at];
      }
      set_float(o, r, at, v);
    }
    // The convolution's past for the next rows: the last taps - 1 of history and x.
    if (p.load == Load::convolved && block.index == 0) {
      for (int i = tid; i < (p.taps - 1) * p.in; i += kThreads) {
        const int r = i / p.in + p.rows - (p.taps - 1);
        p.next_history[i] = r < 0 ? p.history[size_t(p.taps - 1 + r) * p.in + i % p.in]
                                  : p.x[size_t(r) * p.xstride + i % p.in];
      }
    }
  });
  block.sync();
  if (p.load == Load::norm || p.load == Load::convolved) {
    block.warps([&](int warp) {
      for (int r = warp; r < rows; r += kWarps)
        warp_norm(reinterpret_cast<float*>(o.data + r * o.stride), p.in, p.norm, p.norm_bias,
                  p.eps);
    });
    block.sync();
  }
  Direct source;
  source.start(p.tiles + size_t(tile) * size_t(p.k_tiles) * kTileBytes, p.k_tiles);
  block.warps([&](int warp) {
    const int from = range_begin(warp, kWarps, p.k_tiles),
              tiles = range_begin(warp + 1, kWarps, p.k_tiles) - from;
    warp_tile<kDenseRows>(source, warp, tiles, from, o, rows,
                          parts + warp * kDenseRows * kTileRows);
  });
  block.sync();
  block.threads([&](int tid) {
    const int r = tid / kTileRows, at = tile * kTileRows + tid % kTileRows;
    if (r >= rows || at >= p.out) return;
    float v = total<kDenseRows>(parts, o, tid % kTileRows, r, nullptr, 0);
    if (p.bias) v += p.bias[at];
    float& y = p.y[size_t(first + r) * p.ystride + at];
    y = p.store == Store::gelu ? gelu_of(v) : p.store == Store::add ? y + v : v;
  });
}

// y = W x + b where row r of x is `taps` rows of a signal [..][channels], `dilation` apart, from r
// * stride on: a convolution, and with one tap of two neighbours a transposed one. Inputs go
// through shared memory in parts, so that any kernel fits.
struct Conv {
  const unsigned char* tiles;
  const float* bias;
  int row_tiles, k_tiles, out, rows;
  const float* x;
  int channels, taps, stride, dilation;
  bool elu_in, elu_out;
  float* y;
  int ystride;
  bool add;  // to what is in y
};
constexpr int kConvTiles = 64;  // inputs at once: 1024
constexpr size_t kConvSmem = size_t(kConvTiles * kTileRowBytes + 64) * kDenseRows +
                             (kWarps + 1) * kDenseRows * kTileRows * 4;
inline int conv_blocks(const Conv& p) {
  return p.row_tiles * ((p.rows + kDenseRows - 1) / kDenseRows);
}

UA_HD float elu_of(float x) { return x > 0 ? x : exp_of(x) - 1.0f; }

UA_HD void conv(Block& block, const Conv& p) {
  const int tile = block.index % p.row_tiles, first = block.index / p.row_tiles * kDenseRows;
  const int rows = p.rows - first < kDenseRows ? p.rows - first : kDenseRows,
            in = p.taps * p.channels;
  const Operand o = {block.smem, nullptr, operand_stride(kConvTiles), Format::float32};
  float* const parts = reinterpret_cast<float*>(block.smem + o.stride * kDenseRows);
  float* const sums = parts + kWarps * kDenseRows * kTileRows;
  block.threads([&](int tid) {
    if (tid < kDenseRows * kTileRows) sums[tid] = 0;
  });
  for (int begin = 0; begin < p.k_tiles; begin += kConvTiles) {
    const int count = p.k_tiles - begin < kConvTiles ? p.k_tiles - begin : kConvTiles,
              inputs = count * tile_inputs(Format::float32);
    block.threads([&](int tid) {
      for (int i = tid; i < rows * inputs; i += kThreads) {
        const int r = i / inputs, at = begin * tile_inputs(Format::float32) + i % inputs;
        float v = 0;
        if (at < in) {
          v = p.x[(size_t(first + r) * p.stride + size_t(at / p.channels) * p.dilation) *
                      p.channels +
                  at % p.channels];
          if (p.elu_in) v = elu_of(v);
        }
        set_float(o, r, i % inputs, v);
      }
    });
    block.sync();
    Direct source;
    source.start(p.tiles + (size_t(tile) * size_t(p.k_tiles) + size_t(begin)) * kTileBytes, count);
    block.warps([&](int warp) {
      const int from = range_begin(warp, kWarps, count),
                tiles = range_begin(warp + 1, kWarps, count) - from;
      warp_tile<kDenseRows>(source, warp, tiles, from, o, rows,
                            parts + warp * kDenseRows * kTileRows);
    });
    block.sync();
    block.threads([&](int tid) {
      if (tid < rows * kTileRows)
        sums[tid] += total<kDenseRows>(parts, o, tid % kTileRows, tid / kTileRows, nullptr, 0);
    });
    block.sync();
  }
  block.threads([&](int tid) {
    const int r = tid / kTileRows, at = tile * kTileRows + tid % kTileRows;
    if (r >= rows || at >= p.out) return;
    float v = sums[tid];
    if (p.bias) v += p.bias[at];
    float& y = p.y[size_t(first + r) * p.ystride + at];
    if (p.add) v += y;
    y = p.elu_out ? elu_of(v) : v;
  });
}

// One step of an LSTM: gates [4 width] (in, forget, new, out) -> cell and hidden [width].
struct LstmCell {
  const float* gates;
  float *cell, *hidden;
  int width;
};
inline int lstm_cell_blocks(const LstmCell& p) { return (p.width + kThreads - 1) / kThreads; }
UA_HD void lstm_cell(Block& block, const LstmCell& p) {
  block.threads([&](int tid) {
    const int i = block.index * kThreads + tid;
    if (i >= p.width) return;
    const float in = 1.0f / (1.0f + exp_of(-p.gates[i])),
                forget = 1.0f / (1.0f + exp_of(-p.gates[p.width + i]));
    const float fresh = tanh_of(p.gates[2 * p.width + i]),
                out = 1.0f / (1.0f + exp_of(-p.gates[3 * p.width + i]));
    const float cell = forget * p.cell[i] + in * fresh;
    p.cell[i] = cell;
    p.hidden[i] = out * tanh_of(cell);
  });
}

// y += x
struct Add {
  const float* x;
  float* y;
  int count;
};
inline int add_blocks(const Add& p) { return (p.count + kThreads - 1) / kThreads; }
UA_HD void add_all(Block& block, const Add& p) {
  block.threads([&](int tid) {
    const int i = block.index * kThreads + tid;
    if (i < p.count) p.y[i] += p.x[i];
  });
}

// Layer norm of rows in place, a warp each.
struct RowNorm {
  float* x;
  const float *weight, *bias;
  int rows, width;
  float eps;
};
inline int row_norm_blocks(const RowNorm& p) { return (p.rows + kWarps - 1) / kWarps; }
UA_HD void row_norm(Block& block, const RowNorm& p) {
  block.warps([&](int warp) {
    const int r = block.index * kWarps + warp;
    if (r < p.rows) warp_norm(p.x + size_t(r) * p.width, p.width, p.weight, p.bias, p.eps);
  });
}

// A spectrum's rows [2 bins] -> what an encoder reads of it, [3 bins], or [bins] without phases:
// csrc/cpu/codec_kernels.h's spectrum_features.
struct Features {
  const float* spectrum;
  float* out;
  int rows, bins;
  bool phases;
  float scale, floor;
};
inline int features_blocks(const Features& p) {
  return (p.rows * p.bins + kThreads - 1) / kThreads;
}
UA_HD void features(Block& block, const Features& p) {
  block.threads([&](int tid) {
    const int i = block.index * kThreads + tid;
    if (i >= p.rows * p.bins) return;
    const int row = i / p.bins, bin = i % p.bins;
    const float re = p.spectrum[size_t(row) * 2 * p.bins + bin],
                im = p.spectrum[size_t(row) * 2 * p.bins + p.bins + bin];
    const float f = fused(square_root(fused(re, re, im * im)), p.scale, p.floor);
    float* const out = p.out + size_t(row) * (p.phases ? 3 : 1) * p.bins + bin;
    out[0] = fused(0.25f, log_of(f), 1.25f);
    if (!p.phases) return;
    const float c = 8.0f * p.scale / square_root(f);
    out[p.bins] = re * c;
    out[2 * size_t(p.bins)] = im * c;
  });
}

// Windows, one every `hop` samples, over what the last call left: out [length - first], and what
// the next call will find.
struct OverlapAdd {
  const float* segment;  // [windows][window]
  const float* shape;    // [window]
  const float* steady;   // [hop]
  const float* overlap;  // [past]
  float* next_overlap;   // [past]
  float* out;
  int windows, window, hop, past, length, first, phase;
};
inline int overlap_blocks(const OverlapAdd& p) {
  return (p.past + p.length + kThreads - 1) / kThreads;
}
UA_HD void overlap_add(Block& block, const OverlapAdd& p) {
  block.threads([&](int tid) {
    const int i = block.index * kThreads + tid;
    if (i >= p.past + p.length) return;
    float sum = i < p.past ? p.overlap[i] : 0.0f;
    for (int w = i < p.window ? 0 : (i - p.window) / p.hop; w < p.windows && w * p.hop <= i; ++w) {
      const int at = i - w * p.hop;
      if (at < p.window) sum = fused(p.segment[size_t(w) * p.window + at], p.shape[at], sum);
    }
    if (i >= p.first && i < p.length) p.out[i - p.first] = sum * p.steady[(p.phase + i) % p.hop];
    if (i >= p.length) p.next_overlap[i - p.length] = sum;
  });
}

}  // namespace uniaudio::cuda
