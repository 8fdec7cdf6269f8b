#include "ops.h"

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
