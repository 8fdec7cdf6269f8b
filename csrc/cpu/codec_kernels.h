// The codec's inner loops, one table per ISA. All layouts are time-major: a signal is rows of
// channels.
//
// Every output element is one fixed chain of operations that depends on neither the number of rows,
// the tile it falls into, nor the thread: that is what makes streaming equal to the one-shot result
// bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/panel.h"

namespace uniaudio {

// C[m, n] (+)= A[m, k] W[k, n] over the rows [k0, k1) of the packed weights and the panels [p0,
// p1).
struct GemmBlock {
  const float* a;  // A(0, k0); row r at a + r * lda
  ptrdiff_t lda;
  const float* w;     // panel p, row k at w + (p * k_total + k) * kPanel
  const float* bias;  // [panels * kPanel], starts the sum where first is set; may be null for zero
  float* c;           // C(0, 0)
  ptrdiff_t ldc;
  int rows;
  int columns;  // of C in all: the last panel may be partly beyond them
  int k_total, k0, k1;
  int p0, p1;
  bool first;  // start from bias instead of C
};

// One stage of a Stockham FFT of radix `radix` over `rest` groups at stride `stride`.
struct FftStage {
  int radix = 0, rest = 0, stride = 0;
  const float* twiddle = nullptr;  // [rest][radix - 1][2]
  const float* roots = nullptr;    // [radix][2], for radices without an unrolled butterfly
  // radix 4 and stride 1 or 4: [radix - 1][2][rest * stride], a twiddle for each element; else null
  const float* wide = nullptr;
};

// One step of one LSTM layer for the blocks [b0, b1) of 16 units each; the gates of a block lie
// together: [i16 f16 g16 o16].
struct LstmStep {
  const float* w = nullptr;       // [blocks][width][64]: recurrent weights
  const float* before = nullptr;  // [width]: the hidden state of the step before
  const float* gates = nullptr;   // [blocks][64]: biases and the input's part
  float* cell = nullptr;          // [width]
  float* hidden = nullptr;        // [width]: out; another row than `before`
  int width = 0, b0 = 0, b1 = 0;
  // the last block first: what the step before read last is still in cache
  bool backwards = false;
};

constexpr int kRvqRows = 12;   // rows at most in one search
constexpr int kRvqDim = 1024;  // their width at most: sums of 8-bit products stay exact as floats

// One stage of residual vector quantization for a few rows, over codewords that are also there in 8
// bits.
struct RvqSearch {
  const float* x;          // [rows][dim]
  const float* codewords;  // [size][dim]
  const uint8_t* q;        // [panels][padded / 4][16][4]: codeword / scale, rounded, + 128
  const float* scale;      // [panels * 16], and so are the following
  const float* bias;       // -e^2 / 2, where the sum of a score starts; -infinity beyond `size`
  const float* norm;       // at least |e|
  const float* error;      // at least |e - scale (q - 128)|
  const float* slack;      // at least what rounding adds because of the bias
  float* scratch;          // [rows][panels * 16]
  int32_t* best;           // row r at best + r * stride
  ptrdiff_t stride;
  int rows, dim, padded, size, panels;  // padded: dim rounded up to 4
};

// A fast filter's rows out, rows in and products; see fast_fir.h.
constexpr int kFirRows = 8, kFirInputs = 14, kFirProducts = 26;

struct CodecKernels {
  void (*gemm)(const GemmBlock&);
  void (*elu)(const float* x, float* y, size_t n);
  void (*gelu)(float* x, size_t n);
  // rows [rows, width] -> y, mean and variance over each row; y may be x
  void (*layer_norm)(const float* x, float* y, const float* weight, const float* bias, int rows,
                     int width, float eps);
  // rows [rows, width] -> y: divided by the root of their mean square, times weight; y may be x
  void (*rms_norm)(const float* x, float* y, const float* weight, int rows, int width, float eps);
  // x[i] = silu(x[i]) * w[i]
  void (*silu_multiply)(float* x, const float* w, size_t n);
  // rows [rows, width] -> y[r, c] = x + beta[c] sin(alpha[c] x)^2; y may be x
  void (*snake)(const float* x, float* y, const float* alpha, const float* beta, int rows,
                int width);
  // y[t, c] = bias[c] + sum_j w[j, c] x[t + j, c], w [taps, width]
  void (*depthwise)(const float* x, float* y, const float* w, const float* bias, int rows, int taps,
                    int width);
  // kFirInputs rows of x, `step` floats apart -> the input of product p at v + p * stride
  void (*fir_split)(const float* x, ptrdiff_t step, float* v, ptrdiff_t stride, int width);
  // product p at m + p * stride -> kFirRows rows of y, `step` floats apart, plus bias [width]
  void (*fir_join)(const float* m, ptrdiff_t stride, const float* bias, float* y, ptrdiff_t step,
                   int width);
  // sum [1] and squares [1] of n values, in double precision: sixteen chains side by side, then
  // from the left
  void (*moments)(const float* x, size_t n, double* sum, double* squares);
  // y[r, c] = x[r, c] * a[c] + b[c]; `add`: that plus what is in y; `activate`: then elu. y may be
  // x.
  void (*affine)(const float* x, const float* a, const float* b, float* y, int rows, int width,
                 bool add, bool activate);
  // y[i] += x[i]
  void (*add)(const float* x, float* y, size_t n);
  void (*subtract)(const float* x, float* y, size_t n);
  // y[i] = x[i] * w[i]
  void (*multiply)(const float* x, const float* w, float* y, size_t n);
  // y[i] += x[i] * w[i]
  void (*multiply_add)(const float* x, const float* w, float* y, size_t n);
  // 16 units: gates [i16 f16 g16 o16] -> cell and hidden state
  void (*lstm_cell)(const float* gates, float* cell, float* hidden, int units);
  void (*lstm_step)(const LstmStep&);
  // A row of scores [n], n a multiple of 16: e^(x - largest) over [from, to), which is not empty,
  // zeros elsewhere. Returns their sum: sixteen lanes side by side, then a tree.
  float (*window_softmax)(float* x, int from, int to, int n);
  // index of the first largest of n values (n >= 1); NaN never wins
  int (*argmax)(const float* x, int n);
  // first largest exact score of each row; null where the ISA has no 8-bit products that pay
  void (*rvq_search)(const RvqSearch&);
  // y = rows[0] + rows[1] + ..., from the left
  void (*sum_rows)(const float* const* rows, int n, float* y, int width);
  // The encoder's features of a spectrum X = scale (re + j im), f = |X| + floor: out [3 n] = 0.25
  // ln f + 1.25, 8 Re X / sqrt f, 8 Im X / sqrt f
  void (*spectrum_features)(const float* re, const float* im, float* out, int n, float scale,
                            float floor);
  // re + j im = exp(min(log_gain, ceiling)) * (a + j b), y [3 n] = log_gain, a, b
  void (*apply_gain)(const float* y, float ceiling, float* re, float* im, int n);
  void (*fft_stage)(const FftStage&, const float* in_re, const float* in_im, float* out_re,
                    float* out_im);
  // x[2 i], x[2 i + 1] -> re[i], im[i] for i in [0, n), and back, scaled
  void (*fft_split)(const float* x, float* re, float* im, int n);
  void (*fft_join)(const float* re, const float* im, float scale, float* x, int n);
  // Between a real signal's transform (bins 0 .. half) and the complex one of half its length;
  // cosine, sine of pi k / half.
  void (*fft_forward_end)(const float* zr, const float* zi, const float* cosine, const float* sine,
                          float* re, float* im, int half);
  void (*fft_inverse_begin)(const float* re, const float* im, const float* cosine,
                            const float* sine, float* zr, float* zi, int half);
  // Nothing but multiply-adds on registers, as many chains side by side as the ISA has registers
  // for: what a GEMM can reach at most. sink [16] takes a result. Returns how many floating-point
  // operations (a multiply-add is two) were done.
  int64_t (*fma_burn)(int64_t steps, float* sink);
};

const CodecKernels& codec_kernels();  // of the current ISA

const CodecKernels* plain_codec_kernels();
const CodecKernels* avx2_codec_kernels();  // also for AVX-VNNI: the codecs have no use for it
const CodecKernels* neon_codec_kernels();
const CodecKernels* avx512_codec_kernels();

}  // namespace uniaudio
