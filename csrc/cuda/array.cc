#include "array.h"

namespace uniaudio::cuda {
namespace {

constexpr uint8_t kInt = 0, kFloat = 2;  // kDLInt, kDLFloat

size_t bytes_of(const std::vector<int64_t>& shape) {
  size_t n = 4;
  for (int64_t s : shape) n *= size_t(s);
  return n;
}

struct Shared {
  DLManagedTensor managed{};
  std::shared_ptr<Array> array;
  std::vector<int64_t> shape;
};

}  // namespace

Array::Array(std::shared_ptr<Device> device, std::vector<int64_t> shape, bool integers)
    : device_(std::move(device)),
      shape_(std::move(shape)),
      integers_(integers),
      data_(device_, bytes_of(shape_)) {}

size_t Array::bytes() const { return bytes_of(shape_); }

void Array::shorten(int64_t first) { shape_[0] = first; }

DLManagedTensor* Array::share(std::shared_ptr<Array> array) {
  auto* const s = new Shared;
  s->shape = array->shape_;
  DLTensor& t = s->managed.tensor;
  t.data = array->data_.data();
  t.device_type = array->device_->dlpack_type(), t.device_id = array->device_->index();
  t.ndim = int32_t(s->shape.size()), t.shape = s->shape.data(), t.strides = nullptr;  // packed
  t.code = array->integers_ ? kInt : kFloat, t.bits = 32, t.lanes = 1;
  s->array = std::move(array);
  s->managed.context = s;
  s->managed.deleter = [](DLManagedTensor* m) { delete static_cast<Shared*>(m->context); };
  return &s->managed;
}

}  // namespace uniaudio::cuda
