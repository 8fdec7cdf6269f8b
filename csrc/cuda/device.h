// What the engine needs from a device: memory and launches. device_cuda.cu is a GPU; device_host.cc
// is the CPU emulator, for tests.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dense.h"
#include "persistent.h"
#include "plan.h"
#include "rvq.h"
#include "tensor.h"
#include "batched.h"

namespace uniaudio::cuda {

// Why a device is unavailable or a call failed, in one line.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  virtual DeviceLimits limits() const = 0;
  virtual int index() const = 0;
  virtual int dlpack_type() const = 0;  // kDLCUDA; kDLCPU in the emulator
  virtual size_t free_bytes() const = 0;

  virtual void* allocate(size_t bytes) = 0;  // DeviceError: bytes wanted and free
  virtual void release(void* p) = 0;
  // These run in the order of the calls. A download has finished when it returns.
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* p, size_t bytes) = 0;
  // Later work on another stream (its handle; 1 and 2 are DLPack's default streams) waits for
  // everything queued here so far.
  virtual void order(uint64_t stream) = 0;
  // `rows` runs of `width` bytes, `pitch` apart.
  virtual void copy(void* to, const void* from, size_t pitch, size_t width, size_t rows) = 0;

  virtual void frames(const FrameParams& params, int blocks, int depth, int shared_bytes) = 0;
  // Runs the list in order, `times` times.
  virtual void sequence(const std::vector<BatchedOp>& ops, int times) = 0;
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
