// The quantizer's kernels against the CPU's: equal codes, equal residuals, equal sums.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cuda/rvq_device.h"
#include "rvq.h"

using namespace uniaudio;

namespace {

struct Books {
  int k, c, e;
  std::vector<float> values;
  Books(int k, int c, int e, uint64_t seed, bool ties)
      : k(k), c(c), e(e), values(check::Random(seed).normals(size_t(k) * c * e)) {
    if (!ties) return;
    // Whole numbers and repeated codewords: many scores are equal to the last bit.
    for (float& v : values) v = std::round(v);
    for (int s = 0; s < k; ++s) {
      for (int i = c / 2; i < c; ++i)
        std::copy_n(&values[(size_t(s) * c + i - c / 2) * e], e, &values[(size_t(s) * c + i) * e]);
    }
  }
  ResidualVQ plain() const {
    Buffer<float> b(values.size());
    std::copy(values.begin(), values.end(), b.data());
    return {b, k, c, e};
  }
};

}  // namespace

TEST(rvq_codes_are_the_cpus_ties_included) {
  for (bool ties : {false, true}) {
    for (const auto& [k, c, e, rows] : {std::tuple{3, 40, 5, 11}, std::tuple{8, 1024, 64, 37},
                                        std::tuple{2, 600, 7, 8}, std::tuple{12, 33, 3, 1}}) {
      const Books books(k, c, e, uint64_t(c), ties);
      std::vector<float> z = check::Random(9).normals(size_t(rows) * size_t(e));
      if (ties) std::for_each(z.begin(), z.end(), [](float& v) { v = std::round(v); });
      const ResidualVQ cpu = books.plain();
      const cuda::Rvq gpu(cuda::open_device(0), books.values.data(), k, c, e);
      for (int stages : {1, k}) {
        std::vector<float> rest = z, residual(z.size());
        std::vector<int32_t> expected(size_t(rows) * size_t(stages)), codes(expected.size());
        cpu.encode_plain(rest.data(), rows, stages, expected.data());
        gpu.encode(z.data(), rows, stages, codes.data(), residual.data());
        CHECK(codes == expected);
        CHECK(residual == rest);
        std::vector<float> sum(z.size()), gpu_sum(z.size()), turned(z.size());
        cpu.decode(codes.data(), rows, stages, sum.data());
        gpu.decode(codes.data(), rows, stages, false, gpu_sum.data());
        CHECK(gpu_sum == sum);
        gpu.decode(codes.data(), rows, stages, true, turned.data());
        bool same = true;
        for (int r = 0; r < rows; ++r) {
          for (int d = 0; d < e; ++d)
            same = same && turned[size_t(d) * size_t(rows) + size_t(r)] ==
                               sum[size_t(r) * size_t(e) + size_t(d)];
        }
        CHECK(same);
      }
    }
  }
  const Books books(2, 8, 4, 1, false);
  const cuda::Rvq gpu(cuda::open_device(0), books.values.data(), 2, 8, 4);
  const int32_t wrong[] = {0, 8};
  float z[4];
  CHECK_THROWS(std::invalid_argument, gpu.decode(wrong, 1, 2, false, z), "8");
  CHECK_THROWS(std::invalid_argument, gpu.encode(z, 1, 3, nullptr, nullptr), "stages");
}

MAIN
