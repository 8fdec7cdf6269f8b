#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>

#include "matrix.h"

namespace uniaudio {
namespace {

// The shape in which a tensor of logical shape `shape` is stored as `type`, and that of its scales
// (empty: none).
struct StoredShape {
  std::vector<int64_t> tensor, scale;
};
StoredShape stored_shape(StoredType type, const std::vector<int64_t>& shape) {
  if (shape.size() != 2) return {shape, {}};
  const int64_t groups = (shape[1] + kGroup - 1) / kGroup;
  if (type == StoredType::int8) return {shape, {shape[0]}};
  if (type == StoredType::int4) return {{shape[0], groups * kGroup / 2}, {shape[0], groups}};
  return {shape, {}};
}

bool integer(StoredType type) { return type == StoredType::int8 || type == StoredType::int4; }

[[noreturn]] void not_finite(const std::string& name) {
  throw std::invalid_argument("tensor " + name + ": expected finite values, got infinity or NaN");
}

}  // namespace

void Weights::add(const std::string& name, StoredTensor tensor) {
  if (!tensors_.emplace(name, std::move(tensor)).second)
    throw std::invalid_argument("tensor " + name + " is there twice");
}

void Weights::check(const std::string& what, const std::vector<TensorSpec>& specs) const {
  std::string missing, misshapen, left_over;
  const auto append = [](std::string& list, const std::string& item) {
    list += (list.empty() ? "" : ", ") + item;
  };
  std::set<std::string> known;
  for (const TensorSpec& spec : specs) {
    known.insert(spec.name);
    const auto it = tensors_.find(spec.name);
    if (it == tensors_.end()) {
      append(missing, spec.name + " " + shape_string(spec.shape));
      continue;
    }
    const StoredShape expected = stored_shape(it->second.type, spec.shape);
    if (integer(it->second.type) && expected.scale.empty()) {
      append(misshapen, spec.name + " (expected floats, got integers)");
    } else if (it->second.shape != expected.tensor) {
      append(misshapen, spec.name + " (expected " + shape_string(expected.tensor) + ", got " +
                            shape_string(it->second.shape) + ")");
    }
    if (expected.scale.empty()) continue;
    const std::string scale_name = spec.name + "_scale";
    known.insert(scale_name);
    const auto scale = tensors_.find(scale_name);
    const StoredType type =
        it->second.type == StoredType::int8 ? StoredType::float32 : StoredType::bfloat16;
    if (scale == tensors_.end()) {
      append(missing, scale_name + " " + shape_string(expected.scale));
    } else if (scale->second.shape != expected.scale || scale->second.type != type) {
      append(misshapen,
             scale_name + " (expected " + (type == StoredType::float32 ? "float32 " : "bfloat16 ") +
                 shape_string(expected.scale) + ", got " + shape_string(scale->second.shape) + ")");
    }
  }
  for (const auto& [name, tensor] : tensors_) {
    if (!known.count(name)) append(left_over, name + " " + shape_string(tensor.shape));
  }
  if (missing.empty() && misshapen.empty() && left_over.empty()) return;
  std::string message = what + " weights do not fit config.json;";
  if (!missing.empty()) message += " missing: " + missing + ";";
  if (!misshapen.empty()) message += " wrong shape: " + misshapen + ";";
  if (!left_over.empty()) message += " left over: " + left_over + ";";
  throw std::invalid_argument(message + " use the weights that were saved with this config");
}

const StoredTensor& Weights::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw std::invalid_argument("tensor " + name + " is missing");
  return it->second;
}

Matrix Weights::quantized(const std::string& name, const StoredTensor& t, int64_t out,
                          int64_t in) const {
  const StoredShape expected = stored_shape(t.type, {out, in});
  if (t.shape != expected.tensor) {
    throw std::invalid_argument("tensor " + name + ": expected shape " +
                                shape_string(expected.tensor) + ", got " + shape_string(t.shape));
  }
  Matrix m;
  m.dtype = t.type == StoredType::int8 ? DType::int8 : DType::int4;
  m.out = out, m.in = in;
  m.scale = get(name + "_scale", expected.scale);
  m.q.allocate(size_t(out * in));
  const auto* bytes = static_cast<const uint8_t*>(t.data);
  for (int64_t r = 0; r < out; ++r) {
    const uint8_t* row = bytes + r * expected.tensor[1];
    int8_t* q = m.q.data() + r * in;
    if (m.dtype == DType::int4) {
      for (int64_t k = 0; k < in; ++k) q[k] = int8_t((row[k / 2] >> (k % 2 * 4) & 15) - 8);
      continue;
    }
    std::memcpy(q, row, size_t(in));
    // The product of quantized numbers is exact because no sum of it can overflow, which -128 would
    // break.
    if (std::memchr(q, 0x80, size_t(in)))
      throw std::invalid_argument("tensor " + name +
                                  ": expected int8 values from -127 to 127, got -128");
  }
  return m;
}

Matrix Weights::matrix(const std::string& name, int64_t out, int64_t in, DType dtype,
                       ThreadPool* pool) const {
  const StoredTensor& t = find(name);
  if ((t.type == StoredType::int8 && dtype == DType::int8) ||
      (t.type == StoredType::int4 && dtype == DType::int4))
    return quantized(name, t, out, in);
  if (dtype == DType::int8 || dtype == DType::int4) return rounded(name, t, out, in, dtype, pool);
  Matrix m;
  m.out = out, m.in = in;
  m.values = get(name, {out, in});
  return m;
}

// Some rows at a time: a large vocabulary's table in float32 would be the peak of memory.
Matrix Weights::rounded(const std::string& name, const StoredTensor& t, int64_t out, int64_t in,
                        DType dtype, ThreadPool* pool) const {
  constexpr int64_t kRows = 4096;
  if (integer(t.type) || t.shape != std::vector<int64_t>{out, in} || out <= kRows)
    return quantize_matrix(get(name, {out, in}).data(), out, in, dtype, pool);
  const size_t row_bytes = size_t(in) * (t.type == StoredType::float32 ? 4 : 2);
  Matrix m;
  for (int64_t begin = 0; begin < out; begin += kRows) {
    const int64_t n = std::min(kRows, out - begin);
    Weights rows;
    rows.add(name, {t.type, {n, in}, static_cast<const char*>(t.data) + size_t(begin) * row_bytes});
    const Matrix part = quantize_matrix(rows.get(name, {n, in}).data(), n, in, dtype, pool);
    const size_t scales = part.scale.size() / size_t(n);
    if (begin == 0) {
      m.dtype = dtype, m.out = out, m.in = in;
      m.q.allocate(size_t(out * in));
      m.scale.allocate(size_t(out) * scales);
    }
    std::copy_n(part.q.data(), part.q.size(), m.q.data() + begin * in);
    std::copy_n(part.scale.data(), part.scale.size(), m.scale.data() + size_t(begin) * scales);
  }
  return m;
}

Buffer<uint16_t> Weights::halves(const std::string& name, const std::vector<int64_t>& shape) const {
  const StoredTensor& t = find(name);
  if (t.type != StoredType::bfloat16 || t.shape != shape) return {};
  size_t count = 1;
  for (int64_t d : shape) count *= size_t(d);
  Buffer<uint16_t> out(count);
  if (count) std::memcpy(out.data(), t.data, count * sizeof(uint16_t));
  int worst = 0;
  for (size_t i = 0; i < count; ++i) worst = std::max(worst, out[i] & 0x7F80);
  if (worst == 0x7F80) not_finite(name);
  return out;
}

Buffer<float> Weights::get(const std::string& name, const std::vector<int64_t>& shape) const {
  const StoredTensor& t = find(name);
  if (integer(t.type)) {
    if (shape.size() != 2)
      throw std::invalid_argument("tensor " + name + ": expected floats, got integers");
    Buffer<float> out = dequantize_matrix(quantized(name, t, shape[0], shape[1]));
    for (size_t i = 0; i < out.size(); ++i) {
      if (!std::isfinite(out[i])) not_finite(name);
    }
    return out;
  }
  if (t.shape != shape) {
    throw std::invalid_argument("tensor " + name + ": expected shape " + shape_string(shape) +
                                ", got " + shape_string(t.shape));
  }
  size_t count = 1;
  for (int64_t d : shape) count *= size_t(d);
  Buffer<float> out(count);
  uint32_t worst = 0;  // the largest exponent field seen: all ones means infinity or NaN
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    if (t.type == StoredType::float32) {
      std::memcpy(&bits, static_cast<const char*>(t.data) + 4 * i, 4);
    } else {
      uint16_t half;
      std::memcpy(&half, static_cast<const char*>(t.data) + 2 * i, 2);
      bits = uint32_t(half) << 16;
    }
    worst = std::max(worst, bits & 0x7F800000u);
    std::memcpy(&out[i], &bits, 4);
  }
  if (worst == 0x7F800000u) not_finite(name);
  return out;
}

}  // namespace uniaudio
