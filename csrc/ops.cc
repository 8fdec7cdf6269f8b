#include "ops.h"

#include <cstring>

namespace uniaudio {

Norm::Norm(const Weights& weights, const std::string& name, int64_t width, bool rmsnorm, float eps)
    : width_(width), rmsnorm_(rmsnorm), eps_(eps), weight_(weights.get(name + ".weight", {width})) {
  if (!rmsnorm) bias_ = weights.get(name + ".bias", {width});
}

void Norm::forward(ThreadPool& pool, const float* x, int64_t xstride, int64_t rows, float* y,
                   int64_t ystride) const {
  const Kernels& kernel = kernels();
  pool.run(rows, 1 + 16384 / width_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (rmsnorm_) {
        kernel.rmsnorm(x + r * xstride, weight_.data(), eps_, y + r * ystride, width_);
      } else {
        kernel.layernorm(x + r * xstride, weight_.data(), bias_.data(), eps_, y + r * ystride,
                         width_);
      }
    }
  });
}

Table::Table(const Weights& weights, const std::string& name, int64_t rows, int64_t width)
    : width_(width), halves_(weights.halves(name + ".weight", {rows, width})) {
  if (halves_.size() == 0) values_ = weights.get(name + ".weight", {rows, width});
}

namespace {

float widened(uint16_t half) {
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

void Table::copy(int64_t row, float* x) const {
  if (halves_.size() == 0) {
    std::memcpy(x, values_.data() + row * width_, size_t(width_) * sizeof(float));
    return;
  }
  const uint16_t* const from = halves_.data() + row * width_;
  for (int64_t i = 0; i < width_; ++i) x[i] = widened(from[i]);
}

void Table::add(int64_t row, float* x) const {
  if (halves_.size() == 0) return kernels().add(values_.data() + row * width_, x, width_);
  const uint16_t* const from = halves_.data() + row * width_;
  for (int64_t i = 0; i < width_; ++i) x[i] += widened(from[i]);
}

Linear make_linear(const Weights& weights, const std::string& name, int64_t out, int64_t in,
                   bool bias, DType dtype, ThreadPool* pool) {
  const Matrix w = weights.matrix(name + ".weight", out, in, dtype, pool);
  const Buffer<float> b = bias ? weights.get(name + ".bias", {out}) : Buffer<float>();
  return Linear({{&w, b.data()}}, dtype);
}

void gelu(ThreadPool& pool, const float* x, float* y, int64_t n) {
  const Kernels& kernel = kernels();
  // Cut at multiples of 16, so that no value changes its place in a vector.
  pool.run((n + 15) / 16, 512, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * 16, last = end * 16 < n ? end * 16 : n;
    kernel.gelu(x + first, y + first, last - first);
  });
}

}  // namespace uniaudio
