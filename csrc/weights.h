// Checked weight lookup.  A model first states every tensor it needs (name and shape); `check` then reports all that is missing,
// misshapen or left over in one error, and only then are tensors read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tensor.h"

namespace uniaudio {

enum class StoredType { float32, bfloat16 };

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
  void add(const std::string& name, StoredTensor tensor);  // std::invalid_argument when the name is there already
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  // std::invalid_argument listing every missing, misshapen and left-over tensor; `what` names the model ("lm", "codec").
  void check(const std::string& what, const std::vector<TensorSpec>& specs) const;

  // Widened to float32 (bfloat16 exactly).  std::invalid_argument when absent, of another shape, or not finite.
  Buffer<float> get(const std::string& name, const std::vector<int64_t>& shape) const;

 private:
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace uniaudio
