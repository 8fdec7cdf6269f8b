// What both codec families are made of: packed matrices, blocked products over the thread pool, and
// state in bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/codec_kernels.h"
#include "parallel.h"
#include "tensor.h"

namespace uniaudio {

// W [k, n] in panels of 16 columns, with a bias per column (zero where there is none).
struct PackedMatrix {
  int k = 0, n = 0;
  Buffer<float> w, bias;

  int panels() const { return (n + kPanel - 1) / kPanel; }
  void allocate(int rows, int columns);
  float& at(int row, int column) {
    return w[(size_t(column / kPanel) * k + row) * kPanel + column % kPanel];
  }
  // From a linear layer's weight [n, k] and bias [n].
  static PackedMatrix linear(const Buffer<float>& weight, const Buffer<float>& bias, int n, int k);
};

// c [rows, n] (+)= A W + bias. Row r of A is `taps` runs of k / taps floats, at a + r * lda + tap *
// tap_step: a convolution is such a product over the signal itself. Results do not depend on rows,
// tiles or threads.
struct Product {
  const PackedMatrix* m = nullptr;
  const float* a = nullptr;
  int64_t lda = 0;
  int rows = 0;
  float* c = nullptr;
  int64_t ldc = 0;
  bool add = false;  // to what is in c, instead of to the bias
  int taps = 1;
  int64_t tap_step = 0;
};
void multiply(ThreadPool& pool, const Product& p);
// The same on the calling thread alone, for columns of the panels [p0, p1) (p1 < 0: all).
void multiply_here(const Product& p, int p0 = 0, int p1 = -1);

// f(task) for each task in [0, n), shared between the threads.
template <class F>
void run_tasks(ThreadPool& pool, int n, F&& f) {
  pool.run(n, 1, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) f(static_cast<int>(i));
  });
}

// f(begin, end) over ranges that cover [0, n); on the calling thread alone when n * cost
// (multiply-adds, roughly) is small.
template <class F>
void split(ThreadPool& pool, int64_t n, int64_t cost, F&& f, int64_t align = 1) {
  if (n <= 0) return;
  const int64_t parts = std::min<int64_t>(
      (n + align - 1) / align, pool.threads() == 1 || n * cost < 60000 ? 1 : 2 * pool.threads());
  if (parts <= 1) return f(int64_t{0}, n);
  const int64_t step = round_up((n + parts - 1) / parts, align);
  const int tasks = static_cast<int>((n + step - 1) / step);
  run_tasks(pool, tasks, [&](int task) { f(task * step, std::min(n, (task + 1) * step)); });
}

// A stream's state as bytes: little-endian 64-bit integers and floats, behind a magic number and
// the codec's fingerprint.
class StateWriter {
 public:
  void integer(int64_t v) { bytes.append(reinterpret_cast<const char*>(&v), 8); }
  void floats(const float* p, size_t n) {
    integer(static_cast<int64_t>(n));
    if (n) bytes.append(reinterpret_cast<const char*>(p), 4 * n);
  }
  std::string bytes;
};

class StateReader {
 public:
  explicit StateReader(std::string_view b) : bytes_(b) {}
  int64_t integer(int64_t low, int64_t high);  // std::invalid_argument when outside
  void floats(float* p, size_t n);             // exactly n, all finite
  void end() const;                            // nothing may be left
  [[noreturn]] static void refuse();           // for values that no stream would have saved
 private:
  const char* take(size_t n);
  std::string_view bytes_;
};

}  // namespace uniaudio
