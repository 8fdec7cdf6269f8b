// The operations that models are written in: rows of floats in, rows of floats out; threads and
// instruction sets are hidden.
#pragma once

#include <cstdint>
#include <string>

#include "linear.h"
#include "parallel.h"
#include "tensor.h"
#include "weights.h"

namespace uniaudio {

// LayerNorm or RMSNorm over rows of `width`.
class Norm {
 public:
  Norm() = default;
  // Reads NAME.weight and, for layernorm, NAME.bias.
  Norm(const Weights& weights, const std::string& name, int64_t width, bool rmsnorm, float eps);
  void forward(ThreadPool& pool, const float* x, int64_t xstride, int64_t rows, float* y,
               int64_t ystride) const;
  size_t weight_bytes() const { return (weight_.size() + bias_.size()) * sizeof(float); }

 private:
  int64_t width_ = 0;
  bool rmsnorm_ = true;
  float eps_ = 0;
  Buffer<float> weight_, bias_;
};

// A table of embeddings [rows, width], kept as it is stored: in float32, or in bfloat16, which is
// widened, exactly, when a row is read.
class Table {
 public:
  Table() = default;
  Table(const Weights& weights, const std::string& name, int64_t rows, int64_t width);
  void copy(int64_t row, float* x) const;  // x [width] = row
  void add(int64_t row, float* x) const;   // x [width] += row
  size_t bytes() const {
    return values_.size() * sizeof(float) + halves_.size() * sizeof(uint16_t);
  }

 private:
  int64_t width_ = 0;
  Buffer<float> values_;
  Halves halves_;
};

// NAME.weight [out, in] and, when `bias`, NAME.bias [out].
Linear make_linear(const Weights& weights, const std::string& name, int64_t out, int64_t in,
                   bool bias, DType dtype, ThreadPool* pool = nullptr);

// y = gelu(x) (erf form), n values; in place when y == x.
void gelu(ThreadPool& pool, const float* x, float* y, int64_t n);

}  // namespace uniaudio
