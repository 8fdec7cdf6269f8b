// y = x W^T + b over packed weights: float32, bfloat16, int8 (one scale per output row) or int4
// (one per 32 inputs). For the two integer types x is quantized per row on the fly.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel_table.h"
#include "matrix.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {

// Room for quantized activations: reserve it once, outside the frame loop, for the most rows and
// the widest input.
struct LinearScratch {
  Buffer<uint8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sums;
  Buffer<Rest> rest;
  Buffer<Apart> apart;
  void reserve(int64_t rows, int64_t max_in);
};

class Linear {
 public:
  // One block of output rows; several are fused into one product.  bias [out] or null.
  struct Part {
    const Matrix* weight;           // float32, or of the layer's own dtype
    const float* bias;              // [rows()], or null
    int64_t first = 0, count = -1;  // rows of the matrix; -1: all from the first on
    int64_t rows() const { return count < 0 ? weight->out - first : count; }
  };

  Linear() = default;
  Linear(const std::vector<Part>& parts, DType dtype);
  // weight [out, in]
  Linear(const float* weight, const float* bias, int64_t out, int64_t in, DType dtype);
  // For Epilogue::swiglu: y = silu(gate x) * (up x); both parts have the same number of rows, which
  // is `out()`.
  static Linear gated(const Part& gate, const Part& up, DType dtype);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }  // columns of y
  DType dtype() const { return dtype_; }
  size_t weight_bytes() const;  // read for each use (weights, scales)
  // For weights that are read rarely: keeps them from evicting others from the outer caches.
  void set_stream(bool stream) { stream_ = stream; }

  // x [rows, in] with xstride elements from row to row, y [rows, out] likewise. Each row's result
  // depends on that row only. The epilogue must be swiglu exactly for gated layers; `add`
  // accumulates into y. scratch may be null for float32 and bfloat16.
  void forward(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride,
               int64_t rows, float* y, int64_t ystride, Epilogue epilogue = Epilogue::store) const;
  // As forward, but only output columns [begin, end), widened to multiples of 16.
  void forward_range(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride,
                     int64_t rows, float* y, int64_t ystride, int64_t begin, int64_t end,
                     Epilogue epilogue = Epilogue::store) const;
  // The same in two steps, for several ranges over one input: `quantize` fills the scratch (nothing
  // to do for floats).
  void quantize(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride,
                int64_t rows) const;
  void forward_quantized(ThreadPool& pool, const LinearScratch* scratch, const float* x,
                         int64_t xstride, int64_t rows, float* y, int64_t ystride, int64_t begin,
                         int64_t end, Epilogue epilogue = Epilogue::store) const;

 private:
  struct Row {  // of a matrix, or nothing: zeros
    const Matrix* matrix = nullptr;
    int64_t index = 0;
    float bias = 0;
  };
  static void append(const Part& part, int64_t begin, int64_t end, std::vector<Row>& rows);
  void pack(const std::vector<Row>& rows, bool bias);
  bool integer() const { return dtype_ == DType::int8 || dtype_ == DType::int4; }
  int64_t panel_bytes() const;

  DType dtype_ = DType::float32;
  int64_t in_ = 0, out_ = 0, padded_in_ = 0, panels_ = 0;
  bool gated_ = false, stream_ = false;
  Buffer<uint8_t> packed_;
  Buffer<float> scale_, bias_;
  Buffer<int32_t> sum_;
  Buffer<int32_t> limits_;  // int8 where x is split: see Kernels::split
};

}  // namespace uniaudio
