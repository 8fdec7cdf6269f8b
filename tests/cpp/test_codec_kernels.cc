// The codec's kernels, filters and FFT against their definitions.
#include <algorithm>
#include <complex>
#include <numbers>

#include "check.h"
#include "codec_ops.h"
#include "fast_fir.h"
#include "fft.h"

using namespace uniaudio;

namespace {

// Largest |f(x) - truth(x)| over many x, in units of `scale` or of |truth| where that is larger.
template <class F, class G>
double worst(double low, double high, double scale, F&& f, G&& truth) {
  std::vector<float> x, y(20003);
  for (size_t i = 0; i < y.size(); ++i)
    x.push_back(float(low + (high - low) * double(i) / double(y.size() - 1)));
  f(x.data(), y.data(), x.size());
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double t = truth(double{x[i]});
    error = std::max(error, std::abs(y[i] - t) / std::max(scale, std::abs(t)));
  }
  return error;
}

}  // namespace

TEST(elementwise) {
  const CodecKernels& k = codec_kernels();
  const double eps = 1.2e-7;
  CHECK(worst(-100, 20, 1e-3, k.elu, [](double x) { return x > 0 ? x : std::expm1(x); }) < 4 * eps);
  CHECK(worst(-1e-3, 1e-3, 1e-12, k.elu, [](double x) { return x > 0 ? x : std::expm1(x); }) <
        4 * eps);
  const auto gelu = [&](const float* x, float* y, size_t n) {
    std::copy(x, x + n, y);
    k.gelu(y, n);
  };
  CHECK(worst(-12, 12, 1.0, gelu,
              [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }) < 8 * eps);
  for (double top : {2.0, 300.0}) {  // of a snake's sine: some periods, and many
    const auto snake = [&](const float* x, float* y, size_t n) {
      const float alpha = 1.7f, beta = 0.6f;
      k.snake(x, y, &alpha, &beta, int(n), 1);
    };
    CHECK(worst(-top, top, 1.0, snake, [](double x) {
            const double s = std::sin(double{float(x) * 1.7f});
            return x + double{0.6f} * s * s;
          }) < 4 * eps);
  }
  const auto silu = [&](const float* x, float* y, size_t n) {
    std::copy(x, x + n, y);
    k.silu_multiply(y, x, n);
  };
  CHECK(worst(-30, 30, 1.0, silu, [](double x) { return x * x / (1 + std::exp(-x)); }) < 4 * eps);
  // features of spectra from silence to far beyond full scale: the log, and the two parts that keep
  // the phase
  for (double top : {4.0, 4000.0}) {
    for (int part : {0, 1, 2}) {
      const auto features = [&](const float* x, float* y, size_t n) {
        std::vector<float> re(n), im(n), out(3 * n);
        for (size_t i = 0; i < n; ++i) re[i] = 0.6f * x[i], im[i] = -0.8f * x[i];
        k.spectrum_features(re.data(), im.data(), out.data(), int(n), 0.5f, 1e-3f);
        std::copy_n(out.data() + part * n, n, y);
      };
      CHECK(worst(0, top, 1.0, features, [&](double x) {
              const double f = 0.5 * x + double{1e-3f};
              return part == 0 ? 0.25 * std::log(f) + 1.25
                               : (part == 1 ? 0.6 : -0.8) * x * 0.5 * 8 / std::sqrt(f);
            }) < 6 * eps);
    }
  }
  for (int part : {0, 1}) {  // gains from nothing to the ceiling and beyond
    const auto gain = [&](const float* x, float* y, size_t n) {
      std::vector<float> in(3 * n), other(n);
      std::copy_n(x, n, in.data());
      std::fill_n(in.data() + n, n, 0.5f);
      std::fill_n(in.data() + 2 * n, n, -3.0f);
      k.apply_gain(in.data(), 5.0f, part ? other.data() : y, part ? y : other.data(), int(n));
    };
    CHECK(worst(-30, 9, 1e-12, gain, [&](double x) {
            return std::exp(std::min(x, 5.0)) * (part ? -3.0 : 0.5);
          }) < 6 * eps);
  }
}

TEST(lstm_cell) {
  check::Random random(1);
  for (int units : {16, 5}) {
    std::vector<float> gates = random.normals(64), cell = random.normals(16), hidden(16, 7.0f);
    for (float& g : gates) g *= 4;
    const std::vector<float> before = cell;
    codec_kernels().lstm_cell(gates.data(), cell.data(), hidden.data(), units);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (int u = 0; u < 16; ++u) {
      const double c =
          sigmoid(gates[16 + u]) * before[u] + sigmoid(gates[u]) * std::tanh(gates[32 + u]);
      CHECK(std::abs(cell[u] - (u < units ? c : before[u])) < 1e-6);
      CHECK(std::abs(hidden[u] - (u < units ? sigmoid(gates[48 + u]) * std::tanh(c) : 7.0)) < 1e-6);
    }
  }
}

TEST(norm_and_depthwise) {
  check::Random random(2);
  for (int width : {1, 7, 16, 40}) {
    const int rows = 3, taps = 4;
    const std::vector<float> x = random.normals(size_t(rows + taps) * width),
                             w = random.normals(size_t(taps) * width), b = random.normals(width);
    std::vector<float> y(size_t(rows) * width);
    codec_kernels().depthwise(x.data(), y.data(), w.data(), b.data(), rows, taps, width);
    for (int t = 0; t < rows; ++t)
      for (int c = 0; c < width; ++c) {
        double sum = b[c];
        for (int j = 0; j < taps; ++j) sum += double{w[j * width + c]} * x[(t + j) * width + c];
        CHECK(std::abs(y[t * width + c] - sum) < 1e-5);
      }
    codec_kernels().layer_norm(x.data(), y.data(), w.data(), b.data(), rows, width, 1e-6f);
    for (int t = 0; t < rows; ++t) {
      double mean = 0, variance = 0;
      for (int c = 0; c < width; ++c) mean += x[t * width + c] / double(width);
      for (int c = 0; c < width; ++c)
        variance += (x[t * width + c] - mean) * (x[t * width + c] - mean) / width;
      for (int c = 0; c < width; ++c)
        CHECK(std::abs(y[t * width + c] -
                       ((x[t * width + c] - mean) / std::sqrt(variance + 1e-6) * w[c] + b[c])) <
              2e-5);
    }
  }
}

TEST(fast_filter) {
  check::Random random(5);
  struct Case {
    int width, dilation, rows, frames;
  };
  // one block of a frame and rows that are left; several; more tiles than are taken at once
  for (const Case c : {Case{3, 1, 8, 1}, {16, 3, 50, 3}, {20, 9, 160, 2}, {7, 1, 400, 3}}) {
    const int taps = 7, rows = c.rows * c.frames;
    const size_t width = size_t(c.width);
    Buffer<float> w(width * width * taps), b(width), x((rows + 6 * c.dilation) * width);
    for (Buffer<float>* filled : {&w, &b, &x}) {
      const std::vector<float> values = random.normals(filled->size());
      std::copy(values.begin(), values.end(), filled->data());
    }
    const FastFir fast(w, b, c.width, c.dilation, c.rows);
    CHECK(fast.covered() == c.rows / (8 * c.dilation) * 8 * c.dilation);
    std::vector<float> y(rows * width, 99.0f), alone(y);
    Buffer<float> work(fast.work_size(c.frames));
    ThreadPool two(2), one(1);
    fast.run(two, x.data(), c.frames, y.data(), work.data());
    for (int f = 0; f < c.frames; ++f)  // frame by frame: the same to the bit
      fast.run(one, x.data() + f * c.rows * width, 1, alone.data() + f * c.rows * width,
               work.data());
    CHECK(y == alone);
    for (int t = 0; t < rows; ++t)
      for (size_t o = 0; o < width; ++o) {
        double sum = b[o], size = 1;
        for (int j = 0; j < taps; ++j)
          for (size_t i = 0; i < width; ++i) {
            const double product =
                double{w[(o * width + i) * taps + j]} * x[(t + j * c.dilation) * width + i];
            sum += product;
            size += std::abs(product);
          }
        const float got = y[t * width + o];
        if (t % c.rows < fast.covered())
          CHECK(std::abs(got - sum) < 1e-6 * size);
        else
          CHECK(got == 99.0f);  // not written
      }
  }
}

TEST(moments_and_affine) {
  check::Random random(9);
  const CodecKernels& k = codec_kernels();
  for (size_t n : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{1000}}) {
    std::vector<float> x = random.normals(n);
    for (float& v : x) v += 100;
    double sum = -1, squares = -1, s = 0, q = 0;
    k.moments(x.data(), n, &sum, &squares);
    for (const float v : x) s += v, q += double{v} * v;
    CHECK(std::abs(sum - s) <= 1e-12 * s && std::abs(squares - q) <= 1e-12 * q);
  }
  for (int width : {1, 2, 16, 19, 64}) {
    const int rows = 5;
    const size_t n = size_t(rows) * width;
    const std::vector<float> x = random.normals(n), a = random.normals(width),
                             b = random.normals(width), before = random.normals(n);
    for (bool add : {false, true})
      for (bool activate : {false, true}) {
        std::vector<float> y = before, in_place = x;
        k.affine(x.data(), a.data(), b.data(), y.data(), rows, width, add, activate);
        for (size_t i = 0; i < n; ++i) {
          double v = double{x[i]} * a[i % width] + b[i % width] + (add ? double{before[i]} : 0.0);
          if (activate && v < 0) v = std::expm1(v);
          CHECK(std::abs(y[i] - v) < 2e-6);
        }
        if (add) continue;
        k.affine(in_place.data(), a.data(), b.data(), in_place.data(), rows, width, false,
                 activate);
        CHECK(in_place == y);
      }
  }
}

TEST(fft) {
  check::Random random(3);
  for (int n : {2, 4, 6, 10, 14, 50, 60, 480, 512, 640, 1280, 2 * 7 * 11, 2 * 97}) {
    const RealFft fft(n);
    const std::vector<float> x = random.normals(n);
    std::vector<float> re(fft.bins()), im(fft.bins()), scratch(fft.scratch_size()), back(n);
    fft.forward(codec_kernels(), x.data(), re.data(), im.data(), scratch.data());
    double error = 0;
    for (int k = 0; k < fft.bins(); ++k) {
      std::complex<double> sum = 0;
      for (int i = 0; i < n; ++i)
        sum += double{x[i]} * std::polar(1.0, -2 * std::numbers::pi * (int64_t{k} * i % n) / n);
      error = std::max(error, std::abs(sum - std::complex<double>(re[k], im[k])));
    }
    CHECK(error < 1e-6 * n);
    fft.inverse(codec_kernels(), re.data(), im.data(), back.data(), scratch.data());
    for (int i = 0; i < n; ++i) CHECK(std::abs(back[i] - x[i]) < 1e-5);
    // what a real signal can't have in its first and last bin counts as zero
    im[0] += 5, im[n / 2] -= 3;
    std::vector<float> again(n);
    fft.inverse(codec_kernels(), re.data(), im.data(), again.data(), scratch.data());
    CHECK(again == back);
  }
  CHECK_THROWS(std::invalid_argument, RealFft(7), "even");
}

TEST(product_is_one_chain_per_element) {
  check::Random random(4);
  ThreadPool one(1), three(3);
  for (const auto& [rows, k, n] : {std::array<int, 3>{1, 5, 3},
                                   {1, 700, 200},
                                   {2, 300, 257},
                                   {5, 64, 48},
                                   {7, 3, 16},
                                   {64, 520, 130},
                                   {200, 96, 16}}) {
    PackedMatrix m;
    m.allocate(k, n);
    std::vector<float> w = random.normals(size_t(k) * n), a = random.normals(size_t(rows) * k);
    for (int c = 0; c < n; ++c) {
      for (int r = 0; r < k; ++r) m.at(r, c) = w[size_t(r) * n + c];
      m.bias[c] = random.normal();
    }
    std::vector<float> y(size_t(rows) * n, -1.0f), z = y;
    multiply(one, {.m = &m, .a = a.data(), .lda = k, .rows = rows, .c = y.data(), .ldc = n});
    multiply(three, {.m = &m, .a = a.data(), .lda = k, .rows = rows, .c = z.data(), .ldc = n});
    CHECK(y == z);
    double error = 0;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < n; ++c) {
        double sum = m.bias[c];
        for (int i = 0; i < k; ++i) sum += double{a[size_t(r) * k + i]} * w[size_t(i) * n + c];
        error = std::max(error, std::abs(sum - y[size_t(r) * n + c]));
      }
    CHECK(error < 1e-6 * k);
    // a row alone gives the same bits as among others
    std::vector<float> alone(n);
    for (int r : {0, rows / 2, rows - 1}) {
      multiply(one, {.m = &m,
                     .a = a.data() + size_t(r) * k,
                     .lda = k,
                     .rows = 1,
                     .c = alone.data(),
                     .ldc = n});
      CHECK(std::equal(alone.begin(), alone.end(), y.begin() + int64_t{r} * n));
    }
    // added to what is there: twice the product without bias
    multiply(
        three,
        {.m = &m, .a = a.data(), .lda = k, .rows = rows, .c = z.data(), .ldc = n, .add = true});
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < n; ++c)
        CHECK(std::abs(z[size_t(r) * n + c] - (2 * y[size_t(r) * n + c] - m.bias[c])) < 4e-6 * k);
  }
}

TEST(any_number_of_rows) {  // every height and width of tile: each row alone, alike to the bit
  check::Random random(11);
  ThreadPool one(1), two(2);
  for (int n : {5, 16, 100, 144}) {
    const int k = 300, most = 27;
    PackedMatrix m;
    m.allocate(k, n);
    for (int r = 0; r < k; ++r)
      for (int c = 0; c < n; ++c) m.at(r, c) = random.normal();
    const std::vector<float> a = random.normals(size_t(most) * k);
    std::vector<float> alone(size_t(most) * n);
    for (int r = 0; r < most; ++r)
      multiply(one, {.m = &m,
                     .a = a.data() + size_t(r) * k,
                     .lda = k,
                     .rows = 1,
                     .c = alone.data() + size_t(r) * n,
                     .ldc = n});
    for (int c = 0; c < n; ++c) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += double{a[size_t(i)]} * m.at(i, c);
      CHECK(std::abs(alone[size_t(c)] - sum) < 1e-6 * k);
    }
    for (int rows = 1; rows <= most; ++rows) {
      std::vector<float> y(size_t(rows) * n);
      multiply(rows % 2 ? one : two,
               {.m = &m, .a = a.data(), .lda = k, .rows = rows, .c = y.data(), .ldc = n});
      CHECK(std::equal(y.begin(), y.end(), alone.begin()));
    }
  }
}

TEST(lstm_step) {
  check::Random random(12);
  for (int width : {5, 16, 40, 100}) {
    const int blocks = (width + 15) / 16;
    std::vector<float> w(size_t(blocks) * width * 64), gates = random.normals(size_t(blocks) * 64);
    for (int u = 0; u < width; ++u)
      for (int k = 0; k < width; ++k)
        for (int g = 0; g < 4; ++g)
          w[(size_t(u / 16) * width + k) * 64 + g * 16 + u % 16] = 0.3f * random.normal();
    const std::vector<float> before = random.normals(width), cell = random.normals(width);
    std::vector<float> first(width), c1 = cell;
    codec_kernels().lstm_step({.w = w.data(),
                               .before = before.data(),
                               .gates = gates.data(),
                               .cell = c1.data(),
                               .hidden = first.data(),
                               .width = width,
                               .b0 = 0,
                               .b1 = blocks,
                               .backwards = false});
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (int u = 0; u < width; ++u) {
      double g[4];
      for (int i = 0; i < 4; ++i) {
        g[i] = gates[size_t(u / 16) * 64 + i * 16 + u % 16];
        for (int k = 0; k < width; ++k)
          g[i] += double{w[(size_t(u / 16) * width + k) * 64 + i * 16 + u % 16]} * before[k];
      }
      const double c = sigmoid(g[1]) * cell[u] + sigmoid(g[0]) * std::tanh(g[2]);
      CHECK(std::abs(c1[u] - c) < 1e-5);
      CHECK(std::abs(first[u] - sigmoid(g[3]) * std::tanh(c)) < 1e-5);
    }
    // block by block, and the other way round: the same bits
    std::vector<float> second(width), c2 = cell;
    for (int b = blocks; b-- > 0;)
      codec_kernels().lstm_step({.w = w.data(),
                                 .before = before.data(),
                                 .gates = gates.data(),
                                 .cell = c2.data(),
                                 .hidden = second.data(),
                                 .width = width,
                                 .b0 = b,
                                 .b1 = b + 1,
                                 .backwards = true});
    CHECK(first == second);
    CHECK(c1 == c2);
    c2 = cell;
    codec_kernels().lstm_step({.w = w.data(),
                               .before = before.data(),
                               .gates = gates.data(),
                               .cell = c2.data(),
                               .hidden = second.data(),
                               .width = width,
                               .b0 = 0,
                               .b1 = blocks,
                               .backwards = true});
    CHECK(first == second);
    CHECK(c1 == c2);
  }
}

TEST(dilated_taps) {
  check::Random random(5);
  ThreadPool pool(2);
  const int in = 6, out = 9, taps = 3, dilation = 4, rows = 20;
  PackedMatrix m;
  m.allocate(taps * in, out);
  for (int r = 0; r < taps * in; ++r)
    for (int c = 0; c < out; ++c) m.at(r, c) = random.normal();
  const std::vector<float> x = random.normals(size_t(rows + (taps - 1) * dilation) * in);
  std::vector<float> y(size_t(rows) * out);
  multiply(pool, {.m = &m,
                  .a = x.data(),
                  .lda = in,
                  .rows = rows,
                  .c = y.data(),
                  .ldc = out,
                  .taps = taps,
                  .tap_step = dilation * in});
  for (int t = 0; t < rows; ++t)
    for (int c = 0; c < out; ++c) {
      double sum = 0;
      for (int j = 0; j < taps; ++j)
        for (int i = 0; i < in; ++i)
          sum += double{x[(t + j * dilation) * in + i]} * m.at(j * in + i, c);
      CHECK(std::abs(y[t * out + c] - sum) < 1e-5);
    }
}

MAIN
