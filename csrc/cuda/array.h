// Results that stay on the device for other libraries to read, as DLPack's structures of version
// 0.8 (https://github.com/dmlc/dlpack), which every consumer takes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"

namespace uniaudio::cuda {

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

class Array {
 public:
  Array(std::shared_ptr<Device> device, std::vector<int64_t> shape, bool integers);
  const std::shared_ptr<Device>& device() const { return device_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  bool integers() const { return integers_; }  // int32, else float32
  char* data() const { return data_.data(); }
  size_t bytes() const;
  void shorten(int64_t first);  // what was allocated with room to spare
  // Keeps the array alive until its deleter is called.
  static DLManagedTensor* share(std::shared_ptr<Array> array);

 private:
  std::shared_ptr<Device> device_;
  std::vector<int64_t> shape_;
  bool integers_;
  DeviceBuffer<char> data_;
};

}  // namespace uniaudio::cuda
