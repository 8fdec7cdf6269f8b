#include "peaks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/codec_kernels.h"
#include "linear.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {
namespace {

double timed(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void expect(bool ok, const char* what, double got) {
  if (!ok)
    throw std::invalid_argument(std::string(what) + ", got " +
                                std::to_string(static_cast<long long>(got)));
}

// Operations per nanosecond of all threads together, of `burn(sink)`, which returns how many it
// did; the best of several passes.
double peak(int threads, const auto& burn) {
  ThreadPool pool(threads);
  std::atomic<int64_t> done{0};
  double best = 0;
  for (int pass = 0; pass < 12; ++pass) {
    done = 0;
    const double seconds = timed([&] {
      pool.run(threads * 64, 1, [&](int64_t begin, int64_t end) {
        float sink[16] = {0.999f, 0.001f};
        for (int64_t i = begin; i < end; ++i) done += burn(sink);
      });
    });
    best = std::max(best, double(done.load()) / seconds / 1e9);
  }
  return best;
}

}  // namespace

double read_bandwidth(int threads, int megabytes) {
  expect(megabytes >= 1 && megabytes <= 16384, "megabytes: expected 1 to 16384", megabytes);
  ThreadPool pool(threads);
  const int64_t bytes = int64_t(megabytes) << 20, block = 65536;
  Buffer<uint8_t> data(static_cast<size_t>(bytes));
  for (int64_t i = 0; i < bytes; i += 4096) data[size_t(i)] = uint8_t(i >> 12);
  std::atomic<uint32_t> sink{0};  // keeps the loads
  double best = 0;
  const int passes = std::max(5, 256 / megabytes);
  for (int pass = 0; pass < passes; ++pass) {
    const double seconds = timed([&] {
      pool.run(bytes / block, 1, [&](int64_t begin, int64_t end) {
        sink.fetch_xor(kernels().read(data.data() + begin * block, (end - begin) * block));
      });
    });
    best = std::max(best, double(bytes) / seconds / 1e9);
  }
  return best;
}

double fma_peak(int threads) {
  return peak(threads, [](float* sink) { return codec_kernels().fma_burn(5000, sink); });
}

double byte_peak(int threads) {
  return peak(threads, [](float* sink) { return kernels().byte_burn(5000, sink); });
}

double product_seconds(int threads, DType dtype, int64_t rows, int64_t in, int64_t out,
                       int megabytes, double seconds) {
  expect(rows >= 1 && rows <= 4096, "rows: expected 1 to 4096", double(rows));
  expect(in >= 1 && in <= 65536, "in: expected 1 to 65536", double(in));
  expect(out >= 1 && out <= 65536, "out: expected 1 to 65536", double(out));
  expect(megabytes >= 0 && megabytes <= 16384, "megabytes: expected 0 to 16384", megabytes);
  expect(seconds > 0 && seconds <= 60, "seconds: expected more than 0 and at most 60", seconds);
  ThreadPool pool(threads);
  // Sums of four uniform numbers are close enough to normal ones.
  uint64_t state = 1;
  const auto fill = [&](std::vector<float>& v) {
    for (float& x : v) {
      x = 0;
      for (int i = 0; i < 4; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x += float(state >> 40) * 0x1p-24f - 0.5f;
      }
    }
  };
  std::vector<float> w(static_cast<size_t>(out * in)), x(static_cast<size_t>(rows * in)),
      y(static_cast<size_t>(rows * out));
  fill(w), fill(x);
  std::vector<Linear> layers;
  size_t bytes = 0;
  do {
    layers.emplace_back(w.data(), nullptr, out, in, dtype);
    bytes += layers.back().weight_bytes();
  } while (bytes < size_t(megabytes) << 20);
  LinearScratch scratch;
  scratch.reserve(rows, in);
  std::vector<double> times;
  double total = 0;
  for (size_t i = 0; total < seconds || times.size() < layers.size() + 3; ++i) {
    const double t = timed([&] {
      layers[i % layers.size()].forward(pool, &scratch, x.data(), in, rows, y.data(), out);
    });
    if (i >= layers.size()) times.push_back(t);  // the first turns warm up
    total += t;
  }
  std::nth_element(times.begin(), times.begin() + ptrdiff_t(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace uniaudio
