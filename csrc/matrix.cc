#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio {
namespace {

// Adding 1.5 * 2^23 rounds to nearest even; nearbyint is a call on the x86-64 baseline.
inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

float widen(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

void row_to_int8(const float* row, int64_t in, int8_t* q, float* scale) {
  float peak = 0;
  for (int64_t k = 0; k < in; ++k) peak = std::max(peak, std::fabs(row[k]));
  const float inverse = peak > 1e-30f ? 127.0f / peak : 0.0f;
  for (int64_t k = 0; k < in; ++k) q[k] = int8_t(nearest(row[k] * inverse));
  *scale = peak / 127.0f;
}

struct Fit {
  float wq, qq;  // sums of w q and q q
};

// q of the group at w / scale, padded to whole groups with zeros.
Fit round_group(const float (&w)[kGroup], float inverse, float (&q)[kGroup]) {
  Fit f{0, 0};
  for (int i = 0; i < kGroup; ++i) {
    q[i] = std::min(7.0f, std::max(-8.0f, nearest(w[i] * inverse)));
    f.wq += w[i] * q[i];
    f.qq += q[i] * q[i];
  }
  return f;
}

// The scale with the least squared error, of those that put the group's peak at -8 or a little
// beyond either end of the range.
void group_to_int4(const float* row, int64_t n, int8_t* out, float* scale) {
  float w[kGroup] = {}, q[kGroup];
  std::copy_n(row, n, w);
  float peak = 0;
  for (float v : w) peak = std::fabs(v) > std::fabs(peak) ? v : peak;
  float best = 0, best_gain = 0;
  if (std::fabs(peak) > 1e-30f) {
    for (const float at : {-8.0f, -7.25f, -7.75f, -8.5f, -9.0f, 7.0f, 7.5f}) {
      const Fit f = round_group(w, at / peak, q);
      // With the best scale for these q, the error is w w - (w q)^2 / (q q).
      if (f.qq > 0 && f.wq * f.wq > best_gain * f.qq)
        best_gain = f.wq * f.wq / f.qq, best = f.wq / f.qq;
    }
  }
  const float stored = widen(to_bfloat16(best));
  round_group(w, std::fabs(stored) > 0 ? 1.0f / stored : 0.0f, q);
  for (int64_t i = 0; i < n; ++i) out[i] = int8_t(q[i]);
  *scale = stored;
}

}  // namespace

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::bfloat16: return "bfloat16";
    case DType::int8: return "int8";
    case DType::int4: break;
  }
  return "int4";
}

std::optional<DType> find_dtype(std::string_view name) {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::int8, DType::int4}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

DType parse_dtype(const std::string& name) {
  if (const std::optional<DType> dtype = find_dtype(name)) return *dtype;
  throw std::invalid_argument("dtype: expected float32, bfloat16, int8 or int4, got \"" + name +
                              "\"");
}

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

Matrix quantize_matrix(const float* values, int64_t out, int64_t in, DType dtype,
                       ThreadPool* pool) {
  if (dtype != DType::int8 && dtype != DType::int4)
    throw std::invalid_argument(std::string("quantize: expected int8 or int4, got ") +
                                dtype_name(dtype));
  Matrix m;
  m.dtype = dtype, m.out = out, m.in = in;
  const int64_t groups = dtype == DType::int8 ? 1 : m.groups();
  m.q.allocate(size_t(out * in));
  m.scale.allocate(size_t(out * groups));
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (dtype == DType::int8) {
        row_to_int8(values + r * in, in, m.q.data() + r * in, m.scale.data() + r);
        continue;
      }
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t at = r * in + g * kGroup;
        group_to_int4(values + at, std::min<int64_t>(kGroup, in - g * kGroup), m.q.data() + at,
                      m.scale.data() + r * groups + g);
      }
    }
  };
  if (pool) {
    pool->run(out, 16, rows);
  } else {
    rows(0, out);
  }
  return m;
}

Buffer<float> dequantize_matrix(const Matrix& m) {
  Buffer<float> w(size_t(m.out * m.in));
  if (m.dtype == DType::float32) {
    std::copy_n(m.values.data(), w.size(), w.data());
    return w;
  }
  for (int64_t r = 0; r < m.out; ++r) {
    for (int64_t k = 0; k < m.in; ++k) {
      const float scale = m.dtype == DType::int8 ? m.scale[size_t(r)]
                                                 : m.scale[size_t(r * m.groups() + k / kGroup)];
      w[size_t(r * m.in + k)] = float(m.q[size_t(r * m.in + k)]) * scale;
    }
  }
  return w;
}

Buffer<uint8_t> stored_nibbles(const Matrix& m) {
  const int64_t width = m.groups() * kGroup / 2;
  Buffer<uint8_t> bytes(size_t(m.out * width));
  std::fill_n(bytes.data(), bytes.size(), uint8_t{0x88});  // zeros
  for (int64_t r = 0; r < m.out; ++r) {
    for (int64_t k = 0; k < m.in; ++k) {
      uint8_t& b = bytes[size_t(r * width + k / 2)];
      const uint8_t nibble = uint8_t(m.q[size_t(r * m.in + k)] + 8);
      b = k % 2 ? uint8_t((b & 0x0F) | nibble << 4) : uint8_t((b & 0xF0) | nibble);
    }
  }
  return bytes;
}

}  // namespace uniaudio
