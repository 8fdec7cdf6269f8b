// The quantizer against its definition, codes and residuals alike.
#include <algorithm>
#include <array>

#include "check.h"
#include "rvq.h"

using namespace uniaudio;

TEST(quantizer_equals_its_definition) {
  check::Random random(6);
  const int stages = 4, size = 50, dim = 11, rows = 77;
  Buffer<float> books(size_t(stages) * size * dim);
  for (size_t i = 0; i < books.size(); ++i) books[i] = random.normal();
  // twins: the lower index must win
  for (int d = 0; d < dim; ++d) books[size_t(33) * dim + d] = books[size_t(20) * dim + d];
  const ResidualVQ vq(books, stages, size, dim);
  std::vector<float> z = random.normals(size_t(rows) * dim);
  for (int d = 0; d < dim; ++d) z[d] = books[size_t(20) * dim + d];
  std::vector<float> plain = z;
  std::vector<int32_t> expected(size_t(rows) * stages);
  vq.encode_plain(plain.data(), rows, stages, expected.data());
  CHECK(expected[0] == 20);
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    std::vector<float> residual = z;
    std::vector<int32_t> codes(expected.size());
    Buffer<float> scratch;
    vq.encode(pool, residual.data(), rows, stages, codes.data(), scratch);
    // the plain tier rounds products before adding, so near-ties may fall otherwise
    if (current_isa() != Isa::plain) {
      CHECK(codes == expected);
      CHECK(residual == plain);
    } else {
      int64_t same = 0;
      for (size_t i = 0; i < codes.size(); ++i) same += codes[i] == expected[i];
      CHECK(same >= int64_t(codes.size()) - 2 * stages);
    }
    // what was taken away adds up to what decoding gives back
    std::vector<float> sum(z.size());
    vq.decode(codes.data(), rows, stages, sum.data());
    for (size_t i = 0; i < z.size(); ++i) CHECK(std::abs(z[i] - residual[i] - sum[i]) < 1e-5);
  }
}

// Codewords and rows that a search with rounded products could confuse: near-ties, twins, extremes
// of size.
TEST(quantizer_is_exact_in_hard_cases) {
  check::Random random(13);
  const int rows = 61;
  for (const auto& [size, dim] :
       {std::array<int, 2>{1024, 128}, {300, 64}, {17, 5}, {1, 3}, {40, 1030}}) {
    for (int kind = 0; kind < 5; ++kind) {
      const int stages = 2;
      Buffer<float> books(size_t(stages) * size * dim);
      const std::vector<float> centre = random.normals(dim);
      for (size_t i = 0; i < books.size(); ++i) {
        const float x = random.normal();
        const size_t d = i % size_t(dim), c = i / size_t(dim) % size_t(size);
        if (kind == 0) books[i] = x;                      // spread out
        if (kind == 1) books[i] = centre[d] + 1e-6f * x;  // all but equal
        // many twins of the first
        if (kind == 2) books[i] = c % 3 ? books[d] : x;
        // norms from 1e-4 to 1e4
        if (kind == 3) books[i] = x * std::pow(10.0f, float(int(c % 9) - 4));
        if (kind == 4)
          books[i] = c == 7 % size_t(size) ? 0.0f : d == c % size_t(dim) ? 1.0f : 1e-12f * x;
      }
      const ResidualVQ vq(books, stages, size, dim);
      std::vector<float> z = random.normals(size_t(rows) * dim);
      for (int d = 0; d < dim; ++d) {
        z[d] = 0;
        z[dim + d] *= 1e-20f;
        z[2 * dim + d] *= 1e-33f;
        z[3 * dim + d] *= 1e14f;
        z[4 * dim + d] *= 1e17f;  // beyond what the bounds are for
        z[5 * dim + d] = books[size_t(size / 2) * dim + d];
        z[6 * dim + d] = 0.5f * (books[d] + books[size_t(size - 1) * dim + d]);
      }
      std::vector<float> plain = z;
      std::vector<int32_t> expected(size_t(rows) * stages);
      vq.encode_plain(plain.data(), rows, stages, expected.data());
      for (int threads : {1, 2}) {
        ThreadPool pool(threads);
        for (int step : {1, 5, rows}) {
          std::vector<float> residual = z;
          std::vector<int32_t> codes(expected.size());
          Buffer<float> scratch;
          for (int r = 0; r < rows; r += step)
            vq.encode(pool, residual.data() + size_t(r) * dim, std::min(step, rows - r), stages,
                      codes.data() + size_t(r) * stages, scratch);
          if (current_isa() != Isa::plain) {
            CHECK(codes == expected);
            CHECK(residual == plain);
            continue;
          }
          // unfused sums: another code must be as near, but for what rounding moves
          for (int r = 0; r < rows; ++r) {
            const int a = codes[size_t(r) * stages], b = expected[size_t(r) * stages];
            double score[2] = {}, sizes = 0;
            for (int i = 0; i < 2; ++i)
              for (int d = 0; d < dim; ++d) {
                const double e = books[size_t(i ? b : a) * dim + d], x = z[size_t(r) * dim + d];
                score[i] += x * e - 0.5 * e * e;
                sizes += std::abs(x * e) + 0.5 * e * e;
              }
            CHECK(std::abs(score[0] - score[1]) <= 2 * (dim + 4) * 6e-8 * sizes);
          }
        }
      }
    }
  }
}

MAIN
