// Codebooks on a device, and whole clips through them.
#pragma once

#include <memory>
#include <vector>

#include "device.h"

namespace uniaudio::cuda {

class Rvq {
 public:
  // codebooks [K, C, E]; std::invalid_argument on sizes that make no sense.
  Rvq(std::shared_ptr<Device> device, const float* codebooks, int num_codebooks, int codebook_size,
      int dim);

  // z [rows, E] -> codes [rows, stages]; residual [rows, E] or null.
  void encode(const float* z, int64_t rows, int stages, int32_t* codes, float* residual) const;
  // codes [rows, stages] -> z [rows, E], or [E, rows]. std::invalid_argument on a code out of
  // range.
  void decode(const int32_t* codes, int64_t rows, int stages, bool channel_major, float* z) const;

  const RvqBooks& books() const { return books_; }  // for a caller's own launches

  // Microseconds of the encoding kernel alone, the median of `repeats`.
  double time_encode(const float* z, int64_t rows, int stages, int repeats) const;

 private:
  void check(int64_t rows, int stages) const;
  std::shared_ptr<Device> device_;
  DeviceBuffer<float> table_, transposed_, bias_;
  RvqBooks books_{};
};

}  // namespace uniaudio::cuda
