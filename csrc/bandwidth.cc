#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>

#include "cpu/codec_kernels.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {

double read_bandwidth(int threads, int megabytes) {
  if (megabytes < 1 || megabytes > 16384)
    throw std::invalid_argument("megabytes: expected 1 to 16384, got " + std::to_string(megabytes));
  ThreadPool pool(threads);
  const int64_t words = int64_t(megabytes) << 17;
  Buffer<uint64_t> data(static_cast<size_t>(words));
  for (int64_t i = 0; i < words; i += 512) data[size_t(i)] = uint64_t(i);
  std::atomic<uint64_t> sink{0};
  double best = 0;
  const int passes = std::max(5, 256 / megabytes);
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(words / 8192, 1, [&](int64_t begin, int64_t end) {
      uint64_t s[8] = {};
      const uint64_t* p = data.data();
      for (int64_t i = begin * 8192; i < end * 8192; i += 8) {
        for (int j = 0; j < 8; ++j) s[j] ^= p[i + j];
      }
      sink.fetch_xor(s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]);
    });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, double(words) * 8 / seconds / 1e9);
  }
  return sink.load() == 1 ? best * 1.0000001 : best;  // keeps the loads
}

double fma_peak(int threads) {
  ThreadPool pool(threads);
  const CodecKernels& kernels = codec_kernels();
  std::atomic<int64_t> done{0};
  double best = 0;
  for (int pass = 0; pass < 12; ++pass) {
    done = 0;
    const auto start = std::chrono::steady_clock::now();
    pool.run(threads * 64, 1, [&](int64_t begin, int64_t end) {
      float sink[16] = {0.999f, 0.001f};
      for (int64_t i = begin; i < end; ++i) done += kernels.fma_burn(5000, sink);
    });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, double(done.load()) / seconds / 1e9);
  }
  return best;
}

}  // namespace uniaudio
