#include "rvq_device.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace uniaudio::cuda {

Rvq::Rvq(std::shared_ptr<Device> device, const float* codebooks, int num_codebooks,
         int codebook_size, int dim)
    : device_(std::move(device)) {
  if (num_codebooks < 1 || codebook_size < 1 || dim < 1 || dim > 4096) {
    throw std::invalid_argument(
        "rvq: expected codebooks [K, C, E] of at least one codeword and at most 4096 dimensions, "
        "got " +
        shape_string({num_codebooks, codebook_size, dim}));
  }
  const size_t k = size_t(num_codebooks), c = size_t(codebook_size), e = size_t(dim);
  std::vector<float> transposed(k * c * e), bias(k * c);
  for (size_t s = 0; s < k; ++s) {
    for (size_t i = 0; i < c; ++i) {
      double norm = 0;  // as csrc/rvq.cc
      for (size_t d = 0; d < e; ++d) {
        const float v = codebooks[(s * c + i) * e + d];
        transposed[(s * e + d) * c + i] = v;
        norm += double{v} * v;
      }
      bias[s * c + i] = float(-0.5 * norm);
    }
  }
  table_ = {device_, codebooks, k * c * e};
  transposed_ = {device_, transposed.data(), transposed.size()};
  bias_ = {device_, bias.data(), bias.size()};
  books_ = {table_.data(), transposed_.data(), bias_.data(), num_codebooks, codebook_size, dim};
}

void Rvq::check(int64_t rows, int stages) const {
  if (rows < 0 || rows > (1 << 26))
    throw std::invalid_argument("rvq: expected 0 to 67108864 rows, got " + std::to_string(rows));
  if (stages < 1 || stages > books_.codebooks)
    throw std::invalid_argument("rvq: expected 1 to " + std::to_string(books_.codebooks) +
                                " stages, got " + std::to_string(stages));
}

void Rvq::encode(const float* z, int64_t rows, int stages, int32_t* codes, float* residual) const {
  check(rows, stages);
  if (rows == 0) return;
  const size_t n = size_t(rows) * size_t(books_.dim);
  const DeviceBuffer<float> x(device_, z, n);
  const DeviceBuffer<int32_t> out(device_, size_t(rows) * size_t(stages));
  device_->rvq_encode({books_, x.data(), out.data(), int(rows), stages});
  device_->download(codes, out.data(), out.size() * sizeof(int32_t));
  if (residual) device_->download(residual, x.data(), n * sizeof(float));
}

double Rvq::time_encode(const float* z, int64_t rows, int stages, int repeats) const {
  check(rows, stages);
  const size_t n = size_t(rows) * size_t(books_.dim);
  const DeviceBuffer<float> x(device_, n);
  const DeviceBuffer<int32_t> out(device_, size_t(rows) * size_t(stages));
  std::vector<double> times;
  for (int i = 0; i < std::max(1, repeats) + 1; ++i) {  // the first is not counted
    device_->upload(x.data(), z, n * sizeof(float));    // the kernel leaves residuals there
    times.push_back(device_->timed(
        [&] { device_->rvq_encode({books_, x.data(), out.data(), int(rows), stages}); }));
  }
  std::sort(times.begin() + 1, times.end());
  return times[1 + (times.size() - 1) / 2];
}

void Rvq::decode(const int32_t* codes, int64_t rows, int stages, bool channel_major,
                 float* z) const {
  check(rows, stages);
  if (rows == 0) return;
  for (int64_t i = 0; i < rows * stages; ++i) {
    if (codes[i] < 0 || codes[i] >= books_.size) {
      throw std::invalid_argument("codes: expected 0 to " + std::to_string(books_.size - 1) +
                                  ", got " + std::to_string(codes[i]));
    }
  }
  const DeviceBuffer<int32_t> in(device_, codes, size_t(rows) * size_t(stages));
  const DeviceBuffer<float> out(device_, size_t(rows) * size_t(books_.dim));
  device_->rvq_decode({books_, in.data(), out.data(), int(rows), stages, channel_major});
  device_->download(z, out.data(), out.size() * sizeof(float));
}

}  // namespace uniaudio::cuda
