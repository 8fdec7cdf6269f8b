// y = x W^T + b over packed weights, float32 or int8 (one scale per output row; x is quantized per row on the fly).
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel_table.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {

enum class DType { float32, int8 };

const char* dtype_name(DType dtype);
DType parse_dtype(const char* name);  // std::invalid_argument unless "float32" or "int8"

// Where int8 layers put quantized activations: reserve once, outside the frame loop, for the most rows and the widest input.
struct LinearScratch {
  Buffer<uint8_t> q;
  Buffer<float> scale;
  void reserve(int64_t rows, int64_t max_in) {
    q.reserve(size_t(rows * (round_up(max_in, 4) + 16)));
    scale.reserve(size_t(rows));
  }
};

class Linear {
 public:
  // One block of output rows; several are fused into one product.  Row-major weight [out, in]; bias [out] or null.
  struct Part {
    const float* weight;
    const float* bias;
    int64_t out;
  };

  Linear() = default;
  Linear(const std::vector<Part>& parts, int64_t in, DType dtype);
  Linear(const float* weight, const float* bias, int64_t out, int64_t in, DType dtype) : Linear({{weight, bias, out}}, in, dtype) {}
  // For Epilogue::swiglu: y = silu(gate x) * (up x); both parts have the same number of rows, which is `out()`.
  static Linear gated(const Part& gate, const Part& up, int64_t in, DType dtype);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }  // columns of y
  DType dtype() const { return dtype_; }
  size_t weight_bytes() const;  // read for each use (weights, scales)
  size_t bytes_per_row() const { return size_t(padded_in_) * (dtype_ == DType::int8 ? 1 : 4); }

  // x [rows, in] with xstride elements from row to row, y [rows, out] likewise.  Each row's result depends on that row only.
  // The epilogue must be swiglu exactly for gated layers; `add` accumulates into y.  scratch may be null for float32.
  void forward(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows, float* y, int64_t ystride,
               Epilogue epilogue = Epilogue::store) const;
  // As forward, but only output columns [begin, end), widened to multiples of 16.
  void forward_range(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows, float* y,
                     int64_t ystride, int64_t begin, int64_t end, Epilogue epilogue = Epilogue::store) const;
  // The same in two steps, for several ranges over one input: `quantize` fills the scratch (nothing to do for float32).
  void quantize(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows) const;
  void forward_quantized(ThreadPool& pool, const LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows, float* y,
                         int64_t ystride, int64_t begin, int64_t end, Epilogue epilogue = Epilogue::store) const;

 private:
  void pack(const std::vector<const float*>& rows, const std::vector<const float*>& biases);

  DType dtype_ = DType::float32;
  int64_t in_ = 0, out_ = 0, padded_in_ = 0, panels_ = 0;
  bool gated_ = false;
  Buffer<float> f32_;
  Buffer<int8_t> i8_;
  Buffer<float> scale_, bias_;
  Buffer<int32_t> sum_;
};

}  // namespace uniaudio
