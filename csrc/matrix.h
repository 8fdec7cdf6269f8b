// Weight matrices before they are packed for the kernels: float32, or quantized in a plain
// row-major form, which is also how a model folder stores them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernel_table.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {

const char* dtype_name(DType dtype);
// "float32", "bfloat16", "int8" or "int4"; nothing on another name
std::optional<DType> find_dtype(std::string_view name);
DType parse_dtype(const std::string& name);  // the same; std::invalid_argument on another name

// int8: w = q * scale[row], q in [-127, 127]. int4: w = q * scale[row, column / 32], q in [-8, 7],
// scales representable in bfloat16.
struct Matrix {
  DType dtype = DType::float32;  // float32, int8 or int4
  int64_t out = 0, in = 0;
  Buffer<float> values;  // float32: [out, in]
  Buffer<int8_t> q;      // else [out, in]
  Buffer<float> scale;   // int8 [out], int4 [out, ceil(in / 32)]

  int64_t groups() const { return (in + kGroup - 1) / kGroup; }
};

// Rounds values [out, in] to the nearest; int4 also searches each group's scale for the least
// squared error.
Matrix quantize_matrix(const float* values, int64_t out, int64_t in, DType dtype,
                       ThreadPool* pool = nullptr);
Buffer<float> dequantize_matrix(const Matrix& m);  // [out, in]

// q of an int4 matrix as a model folder stores it (csrc/weights.h): [out, 16 ceil(in / 32)].
Buffer<uint8_t> stored_nibbles(const Matrix& m);

// `x` to the nearest bfloat16 (ties to even), as its 16 bits.  x is finite.
uint16_t to_bfloat16(float x);

}  // namespace uniaudio
