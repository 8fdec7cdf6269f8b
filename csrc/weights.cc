#include "weights.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace uniaudio {

void Weights::add(const std::string& name, StoredTensor tensor) {
  if (!tensors_.emplace(name, std::move(tensor)).second) throw std::invalid_argument("tensor " + name + " is there twice");
}

void Weights::check(const std::string& what, const std::vector<TensorSpec>& specs) const {
  std::string missing, misshapen, left_over;
  const auto append = [](std::string& list, const std::string& item) { list += (list.empty() ? "" : ", ") + item; };
  std::set<std::string> known;
  for (const TensorSpec& spec : specs) {
    known.insert(spec.name);
    const auto it = tensors_.find(spec.name);
    if (it == tensors_.end()) {
      append(missing, spec.name + " " + shape_string(spec.shape));
    } else if (it->second.shape != spec.shape) {
      append(misshapen, spec.name + " (expected " + shape_string(spec.shape) + ", got " + shape_string(it->second.shape) + ")");
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

Buffer<float> Weights::get(const std::string& name, const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw std::invalid_argument("tensor " + name + " is missing");
  const StoredTensor& t = it->second;
  if (t.shape != shape) {
    throw std::invalid_argument("tensor " + name + ": expected shape " + shape_string(shape) + ", got " + shape_string(t.shape));
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
  if (worst == 0x7F800000u) throw std::invalid_argument("tensor " + name + ": expected finite values, got infinity or NaN");
  return out;
}

}  // namespace uniaudio
