// Checked weight lookup. A model first lists every tensor it needs (name and shape). `check` then
// reports all missing, misshapen and left-over tensors in one error before any is read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor.h"

namespace uniaudio {

enum class DType : int;
struct Matrix;
class ThreadPool;

// float32 and bfloat16 stand alone. int8 [out, in] and int4 (uint8 [out, 16 ceil(in / 32)]: byte j
// of a row holds inputs 2 j and 2 j + 1, low nibble first, each the value + 8, padded with 8) have
// their scales in NAME_scale: float32 [out] or bfloat16 [out, ceil(in / 32)].
enum class StoredType { float32, bfloat16, int8, int4 };

// A tensor as it is stored; the bytes belong to whoever made the map (an mmap, a NumPy array).
struct StoredTensor {
  StoredType type = StoredType::float32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};

class Weights {
 public:
  // std::invalid_argument when the name is there already
  void add(const std::string& name, StoredTensor tensor);
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  // std::invalid_argument listing every missing, misshapen and left-over tensor; `what` names the
  // model ("lm", "codec").
  void check(const std::string& what, const std::vector<TensorSpec>& specs) const;

  // Widened to float32 (bfloat16 exactly, quantized ones to what they stand for).
  // std::invalid_argument when absent, of another shape, or not finite.
  Buffer<float> get(const std::string& name, const std::vector<int64_t>& shape) const;
  // A bfloat16 tensor as it is stored; nothing for one of another type. Throws as get does.
  Buffer<uint16_t> halves(const std::string& name, const std::vector<int64_t>& shape) const;
  // [out, in] for a layer of `dtype`: as stored where that is its type, else rounded to it. Throws
  // as get does.
  Matrix matrix(const std::string& name, int64_t out, int64_t in, DType dtype,
                ThreadPool* pool = nullptr) const;

 private:
  const StoredTensor& find(const std::string& name) const;
  Matrix quantized(const std::string& name, const StoredTensor& tensor, int64_t out,
                   int64_t in) const;
  Matrix rounded(const std::string& name, const StoredTensor& tensor, int64_t out, int64_t in,
                 DType dtype, ThreadPool* pool) const;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace uniaudio
