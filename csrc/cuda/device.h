// What the engine asks of a device: memory and launches. device_cuda.cu is a GPU; device_host.cc
// plays one on the CPU, for tests.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dense.h"
#include "frame.h"
#include "plan.h"
#include "rvq.h"
#include "tensor.h"
#include "wide.h"

namespace uniaudio::cuda {

// Why a device cannot be had or a call failed, in one line.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  virtual DeviceLimits limits() const = 0;
  virtual int index() const = 0;
  virtual int dlpack_type() const = 0;  // kDLCUDA, or kDLCPU where the CPU plays it
  virtual size_t free_bytes() const = 0;

  virtual void* allocate(size_t bytes) = 0;  // DeviceError, with what was asked and what is free
  virtual void release(void* p) = 0;
  // All in the order of the calls; what a download gives is there when it returns.
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* p, size_t bytes) = 0;
  // Work that comes to another stream (its handle, or 1 and 2 as DLPack names the default ones)
  // waits for all that was asked for here so far.
  virtual void order(uint64_t stream) = 0;
  // `rows` runs of `width` bytes, `pitch` apart.
  virtual void copy(void* to, const void* from, size_t pitch, size_t width, size_t rows) = 0;

  virtual void frames(const FrameParams& params, int blocks, int depth, int shared_bytes) = 0;
  // One after the other, all of them `times` times.
  virtual void sequence(const std::vector<WideOp>& ops, int times) = 0;
  virtual void rvq_encode(const RvqEncode& params) = 0;
  virtual void rvq_decode(const RvqDecode& params) = 0;
  virtual void dense(const Dense& params) = 0;
  virtual void row_norm(const RowNorm& params) = 0;
  virtual void overlap_add(const OverlapAdd& params) = 0;
  virtual void features(const Features& params) = 0;
  virtual void conv(const Conv& params) = 0;
  virtual void lstm_cell(const LstmCell& params) = 0;
  virtual void add(const Add& params) = 0;

  // Microseconds that `work` took on the device.
  virtual double timed(const std::function<void()>& work) = 0;
};

// Device number `index`. DeviceError: no driver, too old a driver, no such device, too old a
// device.
std::shared_ptr<Device> open_device(int index);
int device_count();     // DeviceError as above
const char* backend();  // "cuda" or "host"

// Memory of a device.
template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::shared_ptr<Device> device, size_t size)
      : device_(std::move(device)), size_(size) {
    if (size) data_ = static_cast<T*>(device_->allocate(size * sizeof(T)));
  }
  DeviceBuffer(std::shared_ptr<Device> device, const T* from, size_t size)
      : DeviceBuffer(std::move(device), size) {
    if (size) device_->upload(data_, from, size * sizeof(T));
  }
  DeviceBuffer(DeviceBuffer&& o) noexcept { *this = std::move(o); }
  DeviceBuffer& operator=(DeviceBuffer&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_) device_->release(data_);
  }
  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::shared_ptr<Device> device_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace uniaudio::cuda
