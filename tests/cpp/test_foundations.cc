// JSON, safetensors, configs, weights, thread pool, kernels against double-precision loops.
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include <unistd.h>

#include "check.h"
#include "config.h"
#include "json.h"
#include "ops.h"
#include "safetensors.h"

using namespace uniaudio;

TEST(json_values) {
  const Json j =
      parse_json(R"( {"a": [1, -2.5e1, true, null], "b": {"c": "x\u00e9\ud83d\ude00\n"}} )");
  CHECK(j.find("a")->array[0].integer == 1);
  CHECK(j.find("a")->array[1].real == -25.0);
  CHECK(j.find("a")->array[2].boolean);
  CHECK(j.find("a")->array[3].is(Json::Kind::null));
  CHECK(j.find("b")->find("c")->string == "x\xc3\xa9\xf0\x9f\x98\x80\n");
}

TEST(json_refuses) {
  for (const char* bad : {"", "{", "{\"a\":1,}", "[1 2]", "01", "1.", "-", "nul", "\"a", "\"\\x\"",
                          "\"\\ud800\"", "[1]x", "{\"a\":1,\"a\":2}", "99999999999999999999",
                          "1e999", "\"\t\"", "{1:2}", "+1", "NaN"}) {
    CHECK_THROWS(std::invalid_argument, parse_json(bad), "JSON");
  }
  CHECK_THROWS(std::invalid_argument, parse_json(std::string(100000, '[')), "nested");
}

TEST(config_reads_and_refuses) {
  const std::string stack = R"({"layers":2,"width":8,"heads":2})";
  const LmConfig c = parse_lm_config(R"({"vocab_size":10,"num_codebooks":2,"global":)" + stack +
                                     R"(,"local":)" + stack + "}");
  CHECK(c.global.kv_heads == 2 && c.global.mlp_width == 32 && c.global.rmsnorm &&
        c.global.gated() && c.global.rope && !c.concat);
  const auto lm = [&](const std::string& more) {
    return parse_lm_config(R"({"vocab_size":10,"num_codebooks":2,"global":)" + stack +
                           R"(,"local":)" + stack + more + "}");
  };
  CHECK_THROWS(std::invalid_argument, lm(R"(,"x":1)"), "unknown key \"x\"");
  CHECK_THROWS(std::invalid_argument, lm(R"(,"start_id":10)"),
               "lm.start_id: expected 0 to 9, got 10");
  CHECK_THROWS(std::invalid_argument, lm(R"(,"embedding":"mean")"), "lm.embedding");
  CHECK_THROWS(std::invalid_argument, lm(R"(,"guide_slots":2)"), "lm.guide_vocab");
  CHECK_THROWS(std::invalid_argument, lm(R"(,"max_frames":1e9)"), "lm.max_frames");
  CHECK_THROWS(std::invalid_argument, parse_lm_config("[]"), "expected an object");
  CHECK_THROWS(std::invalid_argument, parse_lm_config(R"({"vocab_size":10,"num_codebooks":2})"),
               "lm.global is missing");
  const CodecConfig codec =
      parse_codec_config(R"({"family":"spectral","spectral":{"log_floor":0.01}})");
  CHECK(codec.is(CodecFamily::spectral) && codec.frame_size == 320 &&
        codec.spectral->log_floor == 0.01f);
  CHECK_THROWS(std::invalid_argument, parse_codec_config(R"({"family":"seanet"})"), "codec.seanet");
  CHECK_THROWS(std::invalid_argument,
               parse_codec_config(R"({"family":"seanet","seanet":{"ratios":[8,5,4]}})"), "product");
}

namespace {

std::string write_file(const std::string& header, size_t data_bytes, uint64_t stated = UINT64_MAX) {
  static int count = 0;
  const auto path = std::filesystem::temp_directory_path() /
                    ("uniaudio_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
  std::ofstream f(path, std::ios::binary);
  const uint64_t n = stated == UINT64_MAX ? header.size() : stated;
  f.write(reinterpret_cast<const char*>(&n), 8);
  f << header << std::string(data_bytes, '\0');
  f.close();
  return path.string();
}

}  // namespace

TEST(safetensors_checked) {
  const auto open = [](const std::string& header, size_t bytes, uint64_t stated = UINT64_MAX) {
    const std::string path = write_file(header, bytes, stated);
    try {
      SafetensorsFile f(path);
      std::filesystem::remove(path);
      return f.entries().size();
    } catch (...) {
      std::filesystem::remove(path);
      throw;
    }
  };
  CHECK(open(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}})",
             8) == 1);
  CHECK_THROWS(std::invalid_argument, open("{}", 0, 3), "header of 3 bytes");
  CHECK_THROWS(std::invalid_argument, open("{}", 0, uint64_t{1} << 63), "header of");
  CHECK_THROWS(std::invalid_argument, open("{", 0), "JSON");
  CHECK_THROWS(std::invalid_argument, open("[]", 0), "not a JSON object");
  const auto one = [&](const std::string& body) { return open("{\"a\":" + body + "}", 8); };
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,12]})"),
               "outside");
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
               "do not fit");
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
               "do not fit");
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
               "bad shape");
  CHECK_THROWS(std::invalid_argument,
               one(R"({"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,8]})"),
               "larger than");
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})"),
               "unknown dtype");
  CHECK_THROWS(std::invalid_argument, one(R"({"dtype":"F32","shape":[2]})"), "lacks");
  CHECK_THROWS(std::invalid_argument,
               open(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                    R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    12),
               "overlap");
  CHECK_THROWS(std::runtime_error, SafetensorsFile("/nonexistent/file"), "/nonexistent/file");
}

TEST(weights_lists_everything) {
  const float values[4] = {1, 2, 3, 4};
  const uint16_t halves[2] = {0x3F80, 0xC000};
  Weights w;
  w.add("a", {StoredType::float32, {2, 2}, values});
  w.add("b", {StoredType::bfloat16, {2}, halves});
  w.check("lm", {{"a", {2, 2}}, {"b", {2}}});
  const Buffer<float> b = w.get("b", {2});
  CHECK(b[0] == 1.0f && b[1] == -2.0f);
  CHECK_THROWS(std::invalid_argument, w.check("lm", {{"a", {4}}, {"c", {1}}}),
               "missing: c [1]; wrong shape: a (expected [4], got [2, 2]); left over: b [2];");
  const float bad[1] = {NAN};
  w.add("n", {StoredType::float32, {1}, bad});
  CHECK_THROWS(std::invalid_argument, w.get("n", {1}), "finite");
}

TEST(pool_covers_every_index_once) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (int64_t n : {1, 2, 5, 64, 1000}) {
      for (int repeat = 0; repeat < 50; ++repeat) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        pool.run(n, 1 + repeat % 4, [&](int64_t b, int64_t e) {
          for (int64_t i = b; i < e; ++i) seen[size_t(i)].fetch_add(1);
        });
        bool once = true;
        for (const auto& s : seen) once = once && s.load() == 1;
        CHECK(once);
      }
    }
  }
}

TEST(pool_shared_by_callers) {
  ThreadPool pool(3);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i)
        pool.run(16, 1, [&](int64_t b, int64_t e) { total.fetch_add(e - b); });
    });
  }
  for (auto& t : callers) t.join();
  CHECK(total.load() == 4 * 500 * 16);
}

// A pool may end at any moment of its workers, also between the sight of a loop and a part in it.
TEST(pool_ends_after_a_loop) {
  check::Random random(2);
  for (int i = 0; i < 2000; ++i) {
    ThreadPool pool(3);
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // the workers sleep, too
    pool.run(3, 1, [](int64_t, int64_t) {});
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::nanoseconds(random.below(40000));
    while (std::chrono::steady_clock::now() < end) {
    }
  }
}

namespace {

// y and a bound on its rounding error, in double.
struct Reference {
  double y, bound;
};
Reference reference(const std::vector<float>& x, const std::vector<float>& w,
                    const std::vector<float>& b, int64_t row, int64_t n, int64_t k) {
  double y = b[size_t(n)], m = std::fabs(y);
  for (int64_t i = 0; i < k; ++i) {
    const double p = double(x[size_t(row * k + i)]) * double(w[size_t(n * k + i)]);
    y += p;
    m += std::fabs(p);
  }
  return {y, m};
}
double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_exact(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

}  // namespace

TEST(linear_float32) {
  check::Random random(1);
  ThreadPool pool(2);
  for (int64_t k : {1, 5, 16, 67}) {
    for (int64_t n : {1, 16, 17, 100}) {
      const auto w = random.normals(size_t(n * k)), b = random.normals(size_t(n));
      const Linear l(w.data(), b.data(), n, k, DType::float32);
      for (int64_t rows : {1, 2, 9, 100}) {
        const auto x = random.normals(size_t(rows * k));
        std::vector<float> y(size_t(rows * n), 1.0f);
        l.forward(pool, nullptr, x.data(), k, rows, y.data(), n, Epilogue::add);
        bool close = true, alone_same = true;
        std::vector<float> alone(static_cast<size_t>(n));
        for (int64_t r = 0; r < rows; ++r) {
          std::fill(alone.begin(), alone.end(), 1.0f);
          l.forward(pool, nullptr, x.data() + r * k, k, 1, alone.data(), n, Epilogue::add);
          for (int64_t i = 0; i < n; ++i) {
            const Reference ref = reference(x, w, b, r, i, k);
            close = close && std::fabs(double(y[size_t(r * n + i)]) - (ref.y + 1)) <=
                                 6e-8 * double(k + 2) * (ref.bound + 1);
            alone_same = alone_same && alone[size_t(i)] == y[size_t(r * n + i)];
          }
        }
        CHECK(close);
        CHECK(alone_same);
      }
    }
  }
}

// Whole numbers from -127 to 127 with peak 127 in every row, so that quantization is exact: extreme
// values, nothing but the most extreme in several patterns of signs, or normally distributed ones.
std::vector<float> whole_numbers(check::Random& random, int kind, int64_t rows, int64_t k) {
  std::vector<float> v = random.normals(size_t(rows * k));
  for (size_t i = 0; i < v.size(); ++i) {
    const int64_t row = int64_t(i) / k;
    if (kind == 0 && random.below(3) > 0) v[i] = float(random.below(255) - 127);
    if (kind == 0 && random.below(3) == 0) v[i] = random.below(2) ? 127.0f : -127.0f;
    if (kind == 1) {
      const bool positive[] = {i % 4 < 2, true, false, i % 2 == 0, i % 2 == 1};
      v[i] = positive[row % 5] ? 127.0f : -127.0f;
    }
    if (kind == 2) v[i] = 40.0f * v[i];
    v[i] = std::rint(std::min(127.0f, std::max(-127.0f, v[i])));
    if (int64_t(i) % k == 0) v[i] = 127.0f;
  }
  return v;
}

TEST(linear_int8_is_exact_integers) {
  check::Random random(2);
  ThreadPool pool(2);
  for (int64_t k : {3, 16, 70, 1000}) {
    for (int kind = 0; kind < 9; ++kind) {
      const int64_t n = 37, rows = 11;
      const auto w = whole_numbers(random, kind / 3, n, k),
                 x = whole_numbers(random, kind % 3, rows, k);
      const Linear l(w.data(), nullptr, n, k, DType::int8);
      LinearScratch scratch;
      scratch.reserve(rows, k);
      std::vector<float> exact(size_t(rows * n));
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < n; ++i) {
          int64_t dot = 0;
          for (int64_t j = 0; j < k; ++j)
            dot += int64_t(x[size_t(r * k + j)]) * int64_t(w[size_t(i * k + j)]);
          exact[size_t(r * n + i)] = float(dot);
        }
      }
      for (int64_t count = 1; count <= rows; ++count) {  // each has its own tiles
        std::vector<float> y(size_t(count * n));
        l.forward(pool, &scratch, x.data(), k, count, y.data(), n);
        CHECK(std::equal(y.begin(), y.end(), exact.begin()));
      }
    }
  }
}

TEST(linear_bfloat16_is_float32_over_rounded_weights) {
  check::Random random(12);
  ThreadPool pool(2);
  for (int64_t k : {1, 5, 16, 67}) {
    const int64_t n = 37, rows = 11;
    const auto w = random.normals(size_t(n * k)), b = random.normals(size_t(n)),
               x = random.normals(size_t(rows * k));
    std::vector<float> rounded(w.size());
    for (size_t i = 0; i < w.size(); ++i) {
      const uint32_t bits = uint32_t(to_bfloat16(w[i])) << 16;
      std::memcpy(&rounded[i], &bits, 4);
      CHECK(std::fabs(rounded[i] - w[i]) <= std::fabs(w[i]) / 256);
    }
    const Linear half(w.data(), b.data(), n, k, DType::bfloat16),
        full(rounded.data(), b.data(), n, k, DType::float32);
    std::vector<float> y(size_t(rows * n)), z(size_t(rows * n));
    half.forward(pool, nullptr, x.data(), k, rows, y.data(), n);
    full.forward(pool, nullptr, x.data(), k, rows, z.data(), n);
    CHECK(y == z);
    half.forward(pool, nullptr, x.data(), k, 1, z.data(), n);
    CHECK(std::equal(y.begin(), y.begin() + n, z.begin()));
  }
}

TEST(linear_int4_sums_groups_exactly) {
  check::Random random(13);
  ThreadPool pool(2);
  for (int64_t k : {3, 32, 64, 70, 160}) {
    const int64_t n = 37, rows = 11, groups = (k + kGroup - 1) / kGroup;
    // Whole numbers from -8 to 7 times a power of two that differs from group to group; every group
    // has a -8.
    std::vector<float> w(size_t(n * k)), x(size_t(rows * k));
    for (size_t i = 0; i < w.size(); ++i) {
      const int64_t column = int64_t(i) % k;
      w[i] = (column % kGroup == 0 ? -8.0f : float(random.below(16)) - 8.0f) *
             std::ldexp(1.0f, int(column / kGroup) - 1);
    }
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = i % size_t(k) == 0 ? 127.0f
                                : float(random.below(3) == 0 ? (random.below(2) ? 127 : -127)
                                                             : random.below(255) - 127);
    const Matrix m = quantize_matrix(w.data(), n, k, DType::int4);
    const Buffer<float> back = dequantize_matrix(m);
    CHECK(std::equal(w.begin(), w.end(), back.data()));
    CHECK(int64_t(m.scale.size()) == n * groups);
    const Linear l(w.data(), nullptr, n, k, DType::int4);
    LinearScratch scratch;
    scratch.reserve(rows, k);
    std::vector<float> y(size_t(rows * n)), alone(static_cast<size_t>(n));
    l.forward(pool, &scratch, x.data(), k, rows, y.data(), n);
    bool exact = true, same = true;
    for (int64_t r = 0; r < rows; ++r) {
      l.forward(pool, &scratch, x.data() + r * k, k, 1, alone.data(), n);
      for (int64_t i = 0; i < n; ++i) {
        double dot = 0;
        for (int64_t j = 0; j < k; ++j)
          dot += double(x[size_t(r * k + j)]) * double(w[size_t(i * k + j)]);
        exact = exact && double(y[size_t(r * n + i)]) == dot;
        same = same && y[size_t(r * n + i)] == alone[size_t(i)];
      }
    }
    CHECK(exact);
    CHECK(same);
  }
}

TEST(int4_scales_are_searched) {
  check::Random random(14);
  const int64_t out = 8, in = 320;
  const auto w = random.normals(size_t(out * in));
  const Buffer<float> back = dequantize_matrix(quantize_matrix(w.data(), out, in, DType::int4));
  double error = 0, plain = 0;
  for (int64_t g = 0; g < out * in / kGroup; ++g) {
    float peak = 0;
    for (int64_t i = 0; i < kGroup; ++i)
      peak =
          std::fabs(w[size_t(g * kGroup + i)]) > std::fabs(peak) ? w[size_t(g * kGroup + i)] : peak;
    for (int64_t i = 0; i < kGroup; ++i) {  // the peak at -8, as simple quantizers have it
      const float v = w[size_t(g * kGroup + i)], scale = -peak / 8;
      const double p = double(v - scale * std::min(7.0f, std::round(v / scale))),
                   e = double(v - back[size_t(g * kGroup + i)]);
      plain += p * p, error += e * e;
    }
  }
  CHECK(error < 0.93 * plain);
  CHECK(error / double(out * in) < 0.0095);  // of variance 1
}

TEST(stored_quantized_weights) {
  check::Random random(15);
  const int64_t out = 5, in = 40;
  const auto w = random.normals(size_t(out * in));
  for (DType dtype : {DType::int8, DType::int4}) {
    const Matrix m = quantize_matrix(w.data(), out, in, dtype);
    const int64_t width = dtype == DType::int8 ? in : 32;
    std::vector<uint8_t> bytes(size_t(out * width), 0x88);
    std::vector<uint16_t> halves(m.scale.size());
    for (size_t i = 0; i < m.scale.size(); ++i) halves[i] = to_bfloat16(m.scale[i]);
    for (int64_t r = 0; r < out; ++r) {
      for (int64_t k = 0; k < in; ++k) {
        const int8_t q = m.q[size_t(r * in + k)];
        uint8_t& b = bytes[size_t(r * width + (dtype == DType::int8 ? k : k / 2))];
        b = dtype == DType::int8 ? uint8_t(q)
            : k % 2              ? uint8_t((b & 0x0F) | (q + 8) << 4)
                                 : uint8_t((b & 0xF0) | (q + 8));
      }
    }
    Weights stored;
    const StoredTensor scale = dtype == DType::int8
                                   ? StoredTensor{StoredType::float32, {out}, m.scale.data()}
                                   : StoredTensor{StoredType::bfloat16, {out, 2}, halves.data()};
    stored.add(
        "a",
        {dtype == DType::int8 ? StoredType::int8 : StoredType::int4, {out, width}, bytes.data()});
    CHECK_THROWS(std::invalid_argument, stored.check("lm", {{"a", {out, in}}}), "missing: a_scale");
    stored.add("a_scale", scale);
    stored.check("lm", {{"a", {out, in}}});
    CHECK_THROWS(std::invalid_argument, stored.check("lm", {{"a", {out, in + 32}}}),
                 "wrong shape: a");
    CHECK_THROWS(std::invalid_argument, stored.check("lm", {{"a", {out * in}}}),
                 "expected floats, got integers");
    const Matrix as_stored = stored.matrix("a", out, in, dtype);
    CHECK(as_stored.dtype == dtype &&
          std::equal(m.q.data(), m.q.data() + m.q.size(), as_stored.q.data()));
    CHECK(std::equal(m.scale.data(), m.scale.data() + m.scale.size(), as_stored.scale.data()));
    const Buffer<float> expected = dequantize_matrix(m), got = stored.get("a", {out, in});
    CHECK(std::equal(expected.data(), expected.data() + expected.size(), got.data()));
    const Matrix widened = stored.matrix("a", out, in, DType::float32);
    CHECK(widened.dtype == DType::float32 && widened.values[7] == expected[7]);
    bytes[0] = 0x80;
    if (dtype == DType::int8)
      CHECK_THROWS(std::invalid_argument, stored.matrix("a", out, in, dtype), "-128");
  }
}

TEST(epilogues_and_ranges) {
  check::Random random(3);
  ThreadPool pool(3);
  const int64_t n = 50, k = 24, rows = 5;
  const auto gate = random.normals(size_t(n * k)), up = random.normals(size_t(n * k)),
             b = random.normals(size_t(n)), x = random.normals(size_t(rows * k));
  const std::vector<float> none(size_t(n), 0.0f);
  const auto matrix = [&](const std::vector<float>& values) {
    Matrix m;
    m.out = n, m.in = k;
    m.values.allocate(values.size());
    std::copy(values.begin(), values.end(), m.values.data());
    return m;
  };
  const Matrix gate_matrix = matrix(gate), up_matrix = matrix(up);
  const Linear g = Linear::gated({&gate_matrix, b.data()}, {&up_matrix, nullptr}, DType::float32);
  const Linear u(up.data(), b.data(), n, k, DType::float32);
  std::vector<float> y(size_t(rows * n)), z(size_t(rows * n)), s(size_t(rows * n), -7.0f),
      full(size_t(rows * n));
  g.forward(pool, nullptr, x.data(), k, rows, y.data(), n, Epilogue::swiglu);
  u.forward(pool, nullptr, x.data(), k, rows, z.data(), n, Epilogue::gelu);
  u.forward(pool, nullptr, x.data(), k, rows, full.data(), n);
  u.forward_range(pool, nullptr, x.data(), k, rows, s.data(), n, 20, 30);
  double worst = 0;
  bool sliced = true;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      const size_t at = size_t(r * n + i);
      worst = std::max(worst, std::fabs(double(y[at]) - silu(reference(x, gate, b, r, i, k).y) *
                                                            reference(x, up, none, r, i, k).y));
      worst =
          std::max(worst, std::fabs(double(z[at]) - gelu_exact(reference(x, up, b, r, i, k).y)));
      sliced = sliced && (i >= 16 && i < 32 ? s[at] == full[at] : s[at] == -7.0f);
    }
  }
  CHECK(worst < 5e-5);
  CHECK(sliced);
}

TEST(norms_softmax) {
  check::Random random(4);
  const Kernels& kernel = kernels();
  for (int64_t n : {1, 7, 16, 45}) {
    const auto x = random.normals(size_t(n)), w = random.normals(size_t(n)),
               b = random.normals(size_t(n));
    std::vector<float> y(static_cast<size_t>(n)), z(static_cast<size_t>(n)),
        e(static_cast<size_t>(n));
    kernel.layernorm(x.data(), w.data(), b.data(), 1e-5f, y.data(), n);
    kernel.rmsnorm(x.data(), w.data(), 1e-5f, z.data(), n);
    const float peak = kernel.max(x.data(), n), total = kernel.exp_sum(x.data(), peak, e.data(), n);
    double mean = 0, var = 0, square = 0, sum = 0, most = -1e9;
    for (float v : x)
      mean += double(v) / double(n), square += double(v) * double(v) / double(n),
          most = std::max(most, double(v));
    for (float v : x)
      var += (double(v) - mean) * (double(v) - mean) / double(n), sum += std::exp(double(v) - most);
    double worst = 0;
    for (size_t i = 0; i < size_t(n); ++i) {
      worst = std::max(
          worst,
          std::fabs(double(y[i]) -
                    ((double(x[i]) - mean) / std::sqrt(var + 1e-5) * double(w[i]) + double(b[i]))));
      worst = std::max(
          worst, std::fabs(double(z[i]) - double(x[i]) / std::sqrt(square + 1e-5) * double(w[i])));
      worst = std::max(worst, std::fabs(double(e[i]) - std::exp(double(x[i]) - most)));
    }
    CHECK(double(peak) == most);
    CHECK(std::fabs(double(total) - sum) < 1e-5);
    CHECK(n == 1 || worst < 2e-5);
  }
}

MAIN
