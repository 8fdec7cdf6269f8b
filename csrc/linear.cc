#include "linear.h"

#include <algorithm>
#include <cstring>

namespace uniaudio {
namespace {

// Handing a chunk to another thread costs about a microsecond, in which one thread streams this
// many bytes.
constexpr int64_t kGrainBytes = 48 * 1024;

// How a DType packs a panel: inputs are padded to a multiple of `multiple`, and `inputs` of them
// take `bytes`. `run` multiplies.
struct Packing {
  int64_t multiple, inputs, bytes;
  void (*LinearKernels::*run)(const LinearArgs&);
};
Packing packing(DType dtype) {
  switch (dtype) {
    case DType::float32: return {1, 1, 4 * kPanel, &LinearKernels::float32};
    case DType::bfloat16: return {2, 1, 2 * kPanel, &LinearKernels::bfloat16};
    case DType::int8: return {kSplitGroup, 1, kPanel, &LinearKernels::int8};
    case DType::int4: break;
  }
  return {2 * kGroup, kGroup, kGroupBytes, &LinearKernels::int4};
}

// Raises norms[k / 16][2] to the sums of squares of a row's weights: over the first and the last two
// of every four inputs of a group, which one lane sums.
void raise_norms(const int8_t* q, int64_t in, int32_t* norms) {
  for (int64_t g = 0; g < in; g += kSplitGroup, norms += 2) {
    int32_t lane[2] = {};
    for (int64_t k = g; k < std::min(in, g + kSplitGroup); ++k) lane[k / 2 % 2] += q[k] * q[k];
    for (int h = 0; h < 2; ++h) norms[h] = std::max(norms[h], lane[h]);
  }
}

// The values of a panel's int8 rows [in] in fours, those of all rows next to each other. A few cache
// lines are filled at a time: row by row each line would be fetched once per row.
void interleave(const int8_t* const (&rows)[kPanel], uint8_t offset, int64_t in, uint8_t* panel) {
  constexpr int64_t kBlock = 32;
  for (int64_t begin = 0; begin < in; begin += kBlock) {
    const int64_t n = std::min(kBlock, in - begin);
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      if (!rows[lane]) continue;
      uint8_t block[kBlock];
      for (int64_t k = 0; k < n; ++k) block[k] = uint8_t(rows[lane][begin + k] + offset);
      uint8_t* const to = panel + begin * kPanel + 4 * lane;
      for (int64_t k = 0; k < n; k += 4) {
        if (n - k >= 4) {
          std::memcpy(to + k * kPanel, block + k, 4);
        } else {
          std::copy_n(block + k, n - k, to + k * kPanel);
        }
      }
    }
  }
}

}  // namespace

void LinearScratch::reserve(int64_t rows, int64_t max_in) {
  const int64_t width = round_up(max_in, 2 * kGroup);
  q.reserve(size_t(rows * (width + 16)));
  scale.reserve(size_t(rows));
  const bool split = kernels().split != nullptr;
  sums.reserve(size_t(rows * width / (split ? kSplitGroup : kGroup)));
  if (split) rest.reserve(size_t(rows * width / 2)), apart.reserve(size_t(rows));
}

Linear::Linear(const std::vector<Part>& parts, DType dtype)
    : dtype_(dtype), in_(parts.at(0).weight->in) {
  std::vector<Row> rows;
  bool bias = false;
  for (const Part& p : parts) {
    append(p, 0, p.rows(), rows);
    out_ += p.rows();
    bias = bias || p.bias;
  }
  pack(rows, bias);
}

Linear::Linear(const float* weight, const float* bias, int64_t out, int64_t in, DType dtype) {
  Matrix m;
  m.out = out, m.in = in;
  m.values.allocate(size_t(out * in));
  std::copy_n(weight, size_t(out * in), m.values.data());
  if (dtype == DType::int8 || dtype == DType::int4) m = quantize_matrix(weight, out, in, dtype);
  *this = Linear({{&m, bias}}, dtype);
}

Linear Linear::gated(const Part& gate, const Part& up, DType dtype) {
  Linear l;
  l.dtype_ = dtype;
  l.in_ = gate.weight->in;
  l.out_ = gate.rows();
  l.gated_ = true;
  std::vector<Row> rows;
  for (int64_t begin = 0; begin < l.out_; begin += kPanel) {
    append(gate, begin, begin + kPanel, rows);
    append(up, begin, begin + kPanel, rows);
  }
  l.pack(rows, gate.bias || up.bias);
  return l;
}

// Rows [begin, end) of a part; those beyond its last are zeros.
void Linear::append(const Part& part, int64_t begin, int64_t end, std::vector<Row>& rows) {
  for (int64_t i = begin; i < end; ++i) {
    if (i < part.rows()) {
      rows.push_back({part.weight, part.first + i, part.bias ? part.bias[i] : 0.0f});
    } else {
      rows.push_back({});
    }
  }
}

int64_t Linear::panel_bytes() const {
  const Packing p = packing(dtype_);
  return padded_in_ / p.inputs * p.bytes;
}

void Linear::pack(const std::vector<Row>& rows, bool bias) {
  const int64_t count = int64_t(rows.size());
  panels_ = round_up(count, kPanel) / kPanel;
  padded_in_ = round_up(in_, packing(dtype_).multiple);
  packed_.allocate(size_t(panels_ * panel_bytes()));
  const size_t padded = size_t(panels_ * kPanel);
  if (bias) bias_.allocate(padded);
  // Zeros; int4's scales are set below.
  const uint8_t offset = dtype_ == DType::int8 ? kernels().weight_offset : 0;
  const uint8_t zero = dtype_ == DType::int4 ? 0x88 : offset;
  if (zero) std::fill_n(packed_.data(), packed_.size(), zero);
  if (dtype_ == DType::int8) scale_.allocate(padded), sum_.allocate(padded);
  // norms, until all rows are seen
  if (dtype_ == DType::int8 && kernels().split)
    limits_.allocate(size_t(padded_in_ / kSplitGroup * 2));
  const int8_t* first[kPanel];  // of a panel's rows in int8, or null
  for (int64_t r = 0; r < panels_ * kPanel; ++r) {
    const Row row = r < count ? rows[size_t(r)] : Row{};
    if (bias) bias_[size_t(r)] = row.bias;
    uint8_t* const panel = packed_.data() + r / kPanel * panel_bytes();
    const int64_t lane = r % kPanel, in = row.matrix ? in_ : 0;
    const float* w =
        row.matrix && !integer() ? row.matrix->values.data() + row.index * in_ : nullptr;
    const int8_t* q = row.matrix && integer() ? row.matrix->q.data() + row.index * in_ : nullptr;
    first[lane] = q;
    if (dtype_ == DType::float32) {
      float* to = reinterpret_cast<float*>(panel) + lane;
      for (int64_t k = 0; k < in; ++k) to[k * kPanel] = w[k];
    } else if (dtype_ == DType::bfloat16) {
      uint16_t* to = reinterpret_cast<uint16_t*>(panel) + 2 * lane;
      for (int64_t k = 0; k < in; ++k) to[k / 2 * 2 * kPanel + k % 2] = to_bfloat16(w[k]);
    } else if (dtype_ == DType::int8) {
      int32_t sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += q[k];
      if (limits_.size()) raise_norms(q, in, limits_.data());
      scale_[size_t(r)] = row.matrix ? row.matrix->scale[size_t(row.index)] : 0.0f;
      sum_[size_t(r)] = 128 * sum;
      if (lane == kPanel - 1) interleave(first, offset, in_, panel);
    } else {
      for (int64_t k = 0; k < in; ++k) {
        uint8_t& to = panel[k / 64 * 2 * kGroupBytes + k % 64 / 8 * 64 + 4 * lane + k % 4];
        const uint8_t nibble = uint8_t(q[k] + 8);
        to = k % 8 < 4 ? uint8_t((to & 0xF0) | nibble) : uint8_t((to & 0x0F) | nibble << 4);
      }
      for (int64_t g = 0; g < padded_in_ / kGroup; ++g) {
        const bool used = row.matrix && g < row.matrix->groups();
        const uint16_t scale =
            used ? to_bfloat16(row.matrix->scale[size_t(row.index * row.matrix->groups() + g)]) : 0;
        std::memcpy(panel + g / 2 * 2 * kGroupBytes + 512 + g % 2 * 32 + 2 * lane, &scale, 2);
      }
    }
  }
  for (size_t i = 0; i < limits_.size(); ++i)
    limits_.data()[i] = 32767 * 32767 / std::max(limits_.data()[i], 1);
}

size_t Linear::weight_bytes() const {
  const size_t per_panel = size_t(panel_bytes()) + (dtype_ == DType::int8 ? 8 * kPanel : 0) +
                           (bias_.size() ? 4 * kPanel : 0);
  return per_panel * size_t(out_) * (gated_ ? 2 : 1) / kPanel;
}

void Linear::quantize(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride,
                      int64_t rows) const {
  if (!integer()) return;
  const Kernels& kernel = kernels();
  uint8_t* q = scratch->q.data();
  float* scale = scratch->scale.data();
  int32_t* sums = scratch->sums.data();
  const auto split = dtype_ == DType::int8 ? kernel.split : nullptr;
  pool.run(rows, 1 + 16384 / in_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      scale[r] = kernel.quantize(x + r * xstride, in_, padded_in_, q + r * padded_in_);
      if (dtype_ == DType::int4)
        kernel.group_sums(q + r * padded_in_, padded_in_, sums + r * (padded_in_ / kGroup));
      if (split) {
        scratch->apart[size_t(r)] = split(q + r * padded_in_, padded_in_, limits_.data(),
                                          sums + r * (padded_in_ / kSplitGroup),
                                          scratch->rest.data() + r * (padded_in_ / 2));
      }
    }
  });
}

void Linear::forward_quantized(ThreadPool& pool, const LinearScratch* scratch, const float* x,
                               int64_t xstride, int64_t rows, float* y, int64_t ystride,
                               int64_t begin, int64_t end, Epilogue epilogue) const {
  LinearArgs args{};
  args.x = x;
  args.xstride = integer() ? padded_in_ : xstride;
  args.w = packed_.data();
  if (integer()) {
    args.xq = scratch->q.data();
    args.xscale = scratch->scale.data();
    args.xsum = scratch->sums.data();
    args.rest = scratch->rest.data();
    args.apart = scratch->apart.data();
    args.wscale = scale_.data();
    args.wsum = sum_.data();
  }
  args.bias = bias_.size() ? bias_.data() : nullptr;
  args.y = y;
  args.ystride = ystride;
  args.rows = rows;
  args.k = padded_in_;
  args.k_used = in_;
  args.stream = stream_;
  args.n = out_;
  args.epilogue = epilogue;
  const auto run = kernels().linear.*packing(dtype_).run;
  // Two panels are multiplied side by side, or are a gate and its up panel.
  const int64_t halves = gated_ ? 2 : 1;
  const int64_t first = halves * (begin / kPanel), last = halves * ((end + kPanel - 1) / kPanel);
  const int64_t bytes = 2 * panel_bytes();
  const int64_t cost = bytes + bytes * (rows - 1) / (integer() ? 4 : 8);
  pool.run((last - first + 1) / 2, 1 + kGrainBytes / cost, [&](int64_t b, int64_t e) {
    LinearArgs part = args;
    part.panel_begin = first + 2 * b;
    part.panel_end = std::min(first + 2 * e, last);
    run(part);
  });
}

void Linear::forward_range(ThreadPool& pool, LinearScratch* scratch, const float* x,
                           int64_t xstride, int64_t rows, float* y, int64_t ystride, int64_t begin,
                           int64_t end, Epilogue epilogue) const {
  quantize(pool, scratch, x, xstride, rows);
  forward_quantized(pool, scratch, x, xstride, rows, y, ystride, begin, end, epilogue);
}

void Linear::forward(ThreadPool& pool, LinearScratch* scratch, const float* x, int64_t xstride,
                     int64_t rows, float* y, int64_t ystride, Epilogue epilogue) const {
  forward_range(pool, scratch, x, xstride, rows, y, ystride, 0, out_, epilogue);
}

}  // namespace uniaudio
