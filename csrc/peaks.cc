#include "peaks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/codec_kernels.h"
#include "linear.h"
#include "parallel.h"
#include "tensor.h"
#include "transformer.h"

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

// Sums of four uniform numbers are close enough to normal ones.
class Normals {
 public:
  std::vector<float> operator()(int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) {
      for (int i = 0; i < 4; ++i) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        x += float(state_ >> 40) * 0x1p-24f - 0.5f;
      }
    }
    return v;
  }

 private:
  uint64_t state_ = 1;
};

// Median seconds of `work(turn)`, whose turns take `count` things in order, over at least `seconds`
// seconds after the first turn of each.
double median(size_t count, double seconds, const auto& work) {
  std::vector<double> times;
  double total = 0;
  for (size_t i = 0; total < seconds || times.size() < count + 3; ++i) {
    const double t = timed([&] { work(i % count); });
    if (i >= count) times.push_back(t);
    total += t;
  }
  std::nth_element(times.begin(), times.begin() + ptrdiff_t(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void expect_turns(int megabytes, double seconds) {
  expect(megabytes >= 0 && megabytes <= 16384, "megabytes: expected 0 to 16384", megabytes);
  expect(seconds > 0 && seconds <= 60, "seconds: expected more than 0 and at most 60", seconds);
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
  expect_turns(megabytes, seconds);
  ThreadPool pool(threads);
  Normals normals;
  const std::vector<float> w = normals(out * in), x = normals(rows * in);
  std::vector<float> y(static_cast<size_t>(rows * out));
  std::vector<Linear> layers;
  size_t bytes = 0;
  do {
    layers.emplace_back(w.data(), nullptr, out, in, dtype);
    bytes += layers.back().weight_bytes();
  } while (bytes < size_t(megabytes) << 20);
  LinearScratch scratch;
  scratch.reserve(rows, in);
  return median(layers.size(), seconds, [&](size_t i) {
    layers[i].forward(pool, &scratch, x.data(), in, rows, y.data(), out);
  });
}

double attention_seconds(int threads, KvDType dtype, int64_t positions, int64_t heads, int64_t dim,
                         int megabytes, double seconds) {
  expect(positions >= 1 && positions <= 65536, "positions: expected 1 to 65536", double(positions));
  expect(heads >= 1 && heads <= 256, "heads: expected 1 to 256", double(heads));
  expect(dim >= 1 && dim <= 512, "dim: expected 1 to 512", double(dim));
  expect_turns(megabytes, seconds);
  ThreadPool pool(threads);
  StackConfig config;
  config.heads = config.kv_heads = int(heads);
  config.width = int(heads * dim);
  config.layers = 1;
  const size_t bytes = KvCache::bytes(config, positions, dtype);
  config.layers = 1 + int((size_t(megabytes) << 20) / bytes);
  KvCache cache(config, positions, dtype);
  Normals normals;
  const std::vector<float> q = normals(heads * dim), rows = normals(2 * positions * dim);
  std::vector<float> out(q.size());
  const auto at = [&](int layer, int head, int64_t position) {
    const KvCache::Head to = cache.head(layer, head);
    PlaceArgs a{};
    std::vector<float> k(rows.begin() + 2 * position * dim,
                         rows.begin() + (2 * position + 1) * dim);
    a.k = k.data(), a.v = rows.data() + (2 * position + 1) * dim;
    a.dim = dim, a.dtype = dtype, a.position = position;
    a.keys = to.keys, a.values = to.values;
    a.key_scale = to.key_scale, a.value_scale = to.value_scale;
    kernels().place(a);
  };
  for (int i = 0; i < config.layers; ++i) {
    for (int h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < positions; ++t) at(i, h, t);
    }
  }
  const int64_t stride = round_up(positions, 32) + 16,
                scratch_size = kAttentionRows * (stride + dim);
  Buffer<float> scratch(size_t(threads * scratch_size));
  return median(size_t(config.layers), seconds, [&](size_t layer) {
    pool.run(heads, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t h = begin; h < end; ++h) {
        const KvCache::Head from = cache.head(int(layer), int(h));
        AttentionArgs a{};
        a.keys = from.keys, a.values = from.values;
        a.key_scale = from.key_scale, a.value_scale = from.value_scale;
        a.then = cache.head(int(layer), int(h + 1 < end ? h + 1 : h)).keys;
        a.dim = dim, a.dtype = dtype, a.scale = 1.0f / std::sqrt(float(dim));
        a.scratch = scratch.data() + thread * scratch_size, a.scratch_stride = stride;
        a.rows = 1;
        a.row[0] = {q.data() + h * dim, out.data() + h * dim, positions, 0};
        kernels().attention(a);
      }
    });
  });
}

}  // namespace uniaudio
