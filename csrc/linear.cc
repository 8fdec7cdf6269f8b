#include "linear.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace uniaudio {
namespace {

// Handing a chunk to another thread costs about a microsecond, in which one thread streams this many bytes.
constexpr int64_t kGrainBytes = 48 * 1024;

}  // namespace

const char* dtype_name(DType dtype) { return dtype == DType::int8 ? "int8" : "float32"; }

DType parse_dtype(const char* name) {
  const std::string s = name;
  if (s == "float32") return DType::float32;
  if (s == "int8") return DType::int8;
  throw std::invalid_argument("dtype: expected \"float32\" or \"int8\", got \"" + s + "\"");
}

Linear::Linear(const std::vector<Part>& parts, int64_t in, DType dtype) : dtype_(dtype), in_(in) {
  std::vector<const float*> rows;
  std::vector<const float*> biases;
  for (const Part& p : parts) {
    out_ += p.out;
    for (int64_t i = 0; i < p.out; ++i) {
      rows.push_back(p.weight + i * in);
      biases.push_back(p.bias ? p.bias + i : nullptr);
    }
  }
  pack(rows, biases);
}

Linear Linear::gated(const Part& gate, const Part& up, int64_t in, DType dtype) {
  Linear l;
  l.dtype_ = dtype;
  l.in_ = in;
  l.out_ = gate.out;
  l.gated_ = true;
  std::vector<const float*> rows;
  std::vector<const float*> biases;
  for (int64_t begin = 0; begin < gate.out; begin += kPanel) {
    for (const Part* p : {&gate, &up}) {
      for (int64_t i = begin; i < begin + kPanel; ++i) {
        rows.push_back(i < p->out ? p->weight + i * in : nullptr);
        biases.push_back(i < p->out && p->bias ? p->bias + i : nullptr);
      }
    }
  }
  l.pack(rows, biases);
  return l;
}

void Linear::pack(const std::vector<const float*>& rows, const std::vector<const float*>& biases) {
  const int64_t count = int64_t(rows.size());
  panels_ = round_up(count, kPanel) / kPanel;
  const int64_t padded = panels_ * kPanel;
  padded_in_ = dtype_ == DType::int8 ? round_up(in_, 4) : in_;
  if (std::any_of(biases.begin(), biases.end(), [](const float* b) { return b != nullptr; })) {
    bias_.allocate(size_t(padded));
    for (int64_t r = 0; r < count; ++r) bias_[size_t(r)] = biases[size_t(r)] ? *biases[size_t(r)] : 0.0f;
  }
  if (dtype_ == DType::float32) {
    f32_.allocate(size_t(padded * in_));
    for (int64_t r = 0; r < count; ++r) {
      if (!rows[size_t(r)]) continue;
      float* w = f32_.data() + r / kPanel * in_ * kPanel + r % kPanel;
      for (int64_t k = 0; k < in_; ++k) w[k * kPanel] = rows[size_t(r)][k];
    }
    return;
  }
  i8_.allocate(size_t(padded * padded_in_));
  scale_.allocate(size_t(padded));
  sum_.allocate(size_t(padded));
  for (int64_t r = 0; r < count; ++r) {
    const float* row = rows[size_t(r)];
    if (!row) continue;
    float peak = 0;
    for (int64_t k = 0; k < in_; ++k) peak = std::max(peak, std::fabs(row[k]));
    const float scale = peak / 127.0f, inverse = peak > 1e-30f ? 127.0f / peak : 0.0f;
    int8_t* w = i8_.data() + r / kPanel * padded_in_ * kPanel + r % kPanel * 4;
    int32_t sum = 0;
    for (int64_t k = 0; k < in_; ++k) {
      // Adding 1.5 * 2^23 rounds to nearest even; nearbyint is a call on the x86-64 baseline.
      const int q = int((row[k] * inverse + 12582912.0f) - 12582912.0f);
      w[k / 4 * 4 * kPanel + k % 4] = int8_t(q);
      sum += q;
    }
    scale_[size_t(r)] = scale;
    sum_[size_t(r)] = 128 * sum;
  }
}

size_t Linear::weight_bytes() const {
  const size_t row = bytes_per_row() + (dtype_ == DType::int8 ? 8 : 0) + (bias_.size() ? 4 : 0);
  return row * size_t(out_) * (gated_ ? 2 : 1);
}

void Linear::quantize(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows) const {
  if (dtype_ != DType::int8) return;
  const Kernels& kernel = kernels();
  uint8_t* q = scratch->q.data();
  float* scale = scratch->scale.data();
  pool.run(rows, 1 + 16384 / in_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) scale[r] = kernel.quantize(x + r * xstride, in_, padded_in_, q + r * padded_in_);
  });
}

void Linear::forward_quantized(ThreadPool& pool, const LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows,
                               float* y, int64_t ystride, int64_t begin, int64_t end, Epilogue epilogue) const {
  const bool int8 = dtype_ == DType::int8;
  LinearArgs args{};
  args.x = x;
  args.xstride = int8 ? padded_in_ : xstride;
  args.w = int8 ? static_cast<const void*>(i8_.data()) : f32_.data();
  if (int8) {
    args.xq = scratch->q.data();
    args.xscale = scratch->scale.data();
    args.wscale = scale_.data();
    args.wsum = sum_.data();
  }
  args.bias = bias_.size() ? bias_.data() : nullptr;
  args.y = y;
  args.ystride = ystride;
  args.rows = rows;
  args.k = padded_in_;
  args.n = out_;
  args.epilogue = epilogue;
  const Kernels& kernel = kernels();
  const auto run = int8 ? kernel.linear_i8 : kernel.linear_f32;
  // A unit is what may not be split: a panel, or a gate with its up panel.
  const int64_t unit = gated_ ? 2 : 1;
  const int64_t first = begin / kPanel, last = (end + kPanel - 1) / kPanel;
  const int64_t unit_bytes = unit * kPanel * int64_t(bytes_per_row());
  const int64_t cost = unit_bytes + unit_bytes * (rows - 1) / (int8 ? 4 : 8);
  pool.run(last - first, 1 + kGrainBytes / cost, [&](int64_t b, int64_t e) {
    LinearArgs part = args;
    part.panel_begin = (first + b) * unit;
    part.panel_end = (first + e) * unit;
    run(part);
  });
}

void Linear::forward_range(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows, float* y,
                           int64_t ystride, int64_t begin, int64_t end, Epilogue epilogue) const {
  quantize(pool, scratch, x, xstride, rows);
  forward_quantized(pool, scratch, x, xstride, rows, y, ystride, begin, end, epilogue);
}

void Linear::forward(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride, int64_t rows, float* y,
                     int64_t ystride, Epilogue epilogue) const {
  forward_range(pool, scratch, x, xstride, rows, y, ystride, 0, out_, epilogue);
}

}  // namespace uniaudio
