// Attention over the cache, for every way to hold it: against a double-precision version over the
// same rounded keys and values, and the same bits for any rows together and on every instruction
// set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "check.h"
#include "transformer.h"

#define UNIAUDIO_ISA_NAMESPACE plain_again
#include "cpu/vec_plain.h"

using namespace uniaudio;

namespace {

const KvDType kKvDTypes[] = {KvDType::float32, KvDType::bfloat16, KvDType::int8};

float bfloat16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  u = (u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000u;
  std::memcpy(&x, &u, 4);
  return x;
}

// x [rows, dim] as the cache will give it back.
std::vector<float> rounded(std::vector<float> x, int64_t dim, KvDType dtype) {
  for (size_t row = 0; row < x.size(); row += size_t(dim)) {
    float peak = 0;
    for (size_t i = row; i < row + size_t(dim); ++i) peak = std::max(peak, std::fabs(x[i]));
    const float inverse = 127.0f / peak, scale = peak * (1.0f / 127.0f);
    for (size_t i = row; i < row + size_t(dim); ++i) {
      if (dtype == KvDType::bfloat16) x[i] = bfloat16(x[i]);
      if (dtype == KvDType::int8) x[i] = std::nearbyint(x[i] * inverse) * scale;
    }
  }
  return x;
}

StackConfig stack(int64_t dim, int heads = 1) {
  StackConfig c;
  c.layers = 1, c.heads = heads, c.kv_heads = heads, c.width = int(dim) * heads, c.mlp_width = 1;
  return c;
}

// A cache with k and v [length, dim] put in by `kernel`.
KvCache filled(const Kernels& kernel, const std::vector<float>& k, const std::vector<float>& v,
               int64_t length, int64_t dim, KvDType dtype) {
  KvCache cache(stack(dim), length, dtype);
  const KvCache::Head head = cache.head(0, 0);
  std::vector<float> row(static_cast<size_t>(dim));
  for (int64_t t = 0; t < length; ++t) {
    std::copy_n(k.begin() + t * dim, dim, row.begin());
    PlaceArgs a{};
    a.k = row.data(), a.v = v.data() + t * dim, a.dim = dim, a.dtype = dtype, a.position = t;
    a.keys = head.keys, a.values = head.values, a.key_scale = head.key_scale,
    a.value_scale = head.value_scale;
    kernel.place(a);
  }
  return cache;
}

// out [rows, dim] of queries q [rows, dim], the first of which sees `first` positions and each next
// one more.
std::vector<float> attended(const Kernels& kernel, KvCache& cache, const std::vector<float>& q,
                            int64_t rows, int64_t first, int64_t dim, int64_t together) {
  const KvCache::Head head = cache.head(0, 0);
  const int64_t stride = round_up(first + rows, 16);
  std::vector<float> out(q.size(), -7.0f),
      scratch(size_t(kAttentionRows * (stride + dim)), std::numeric_limits<float>::quiet_NaN());
  for (int64_t r = 0; r < rows; r += together) {
    AttentionArgs a{};
    a.rows = std::min(together, rows - r);
    for (int64_t i = 0; i < a.rows; ++i)
      a.row[i] = {q.data() + (r + i) * dim, out.data() + (r + i) * dim, first + r + i, 0};
    a.keys = head.keys, a.values = head.values, a.key_scale = head.key_scale,
    a.value_scale = head.value_scale;
    a.dim = dim, a.dtype = cache.dtype(), a.scale = 1.0f / std::sqrt(float(dim)),
    a.scratch = scratch.data(), a.scratch_stride = stride;
    kernel.attention(a);
  }
  return out;
}

struct Case {
  int64_t dim, first, rows;
};
const Case kCases[] = {{1, 1, 1},
                       {4, 1, 3},
                       {7, 15, 9},
                       {16, 16, 5},
                       {24, 17, 13},
                       {33, 3, 8},
                       {48, 127, 4},
                       {64, 1, 20},
                       {64, 250, 16},
                       {80, 65, 7},
                       {128, 90, 2},
                       // longer than what is passed over at a time
                       {33, 501, 2},
                       {64, 389, 3},
                       {80, 311, 2},
                       {128, 257, 9}};

}  // namespace

TEST(attention_is_softmax_of_the_rounded_keys_and_values) {
  check::Random random(4);
  for (KvDType dtype : kKvDTypes) {
    for (const Case c : kCases) {
      const int64_t length = c.first + c.rows - 1;
      const auto q = random.normals(size_t(c.rows * c.dim)),
                 k = random.normals(size_t(length * c.dim)),
                 v = random.normals(size_t(length * c.dim));
      KvCache cache = filled(kernels(), k, v, length, c.dim, dtype);
      const auto out = attended(kernels(), cache, q, c.rows, c.first, c.dim, 1);
      const auto rk = rounded(k, c.dim, dtype), rv = rounded(v, c.dim, dtype);
      double worst = 0;
      for (int64_t r = 0; r < c.rows; ++r) {
        std::vector<double> ref(size_t(c.dim), 0.0);
        double total = 0;
        for (int64_t t = 0; t < c.first + r; ++t) {
          double s = 0;
          for (int64_t d = 0; d < c.dim; ++d)
            s += double(q[size_t(r * c.dim + d)]) * double(rk[size_t(t * c.dim + d)]) /
                 std::sqrt(double(c.dim));
          total += std::exp(s);
          for (int64_t d = 0; d < c.dim; ++d)
            ref[size_t(d)] += std::exp(s) * double(rv[size_t(t * c.dim + d)]);
        }
        for (int64_t d = 0; d < c.dim; ++d)
          worst = std::max(worst,
                           std::fabs(double(out[size_t(r * c.dim + d)]) - ref[size_t(d)] / total));
      }
      CHECK(worst < 2e-6);
    }
  }
}

TEST(rows_together_are_as_alone_on_every_instruction_set) {
  check::Random random(5);
  std::vector<const Kernels*> tables;
  for (Isa isa : available_isas()) {
    if (isa == Isa::plain) tables.push_back(plain_kernels());
#if defined(UNIAUDIO_X86)
    if (isa == Isa::avx2) tables.push_back(avx2_kernels());
    if (isa == Isa::avxvnni) tables.push_back(avxvnni_kernels());
    if (isa == Isa::avx512) tables.push_back(avx512_kernels());
#endif
  }
  for (KvDType dtype : kKvDTypes) {
    for (const Case c : kCases) {
      const int64_t length = c.first + c.rows - 1;
      const auto q = random.normals(size_t(c.rows * c.dim)),
                 k = random.normals(size_t(length * c.dim)),
                 v = random.normals(size_t(length * c.dim));
      KvCache cache = filled(*plain_kernels(), k, v, length, c.dim, dtype);
      const auto expected = attended(*plain_kernels(), cache, q, c.rows, c.first, c.dim, 1);
      std::string packed(size_t(cache.packed_bytes(length)), '\0'), other = packed;
      cache.pack(length, packed.data());
      for (const Kernels* kernel : tables) {
        KvCache mine = filled(*kernel, k, v, length, c.dim, dtype);
        mine.pack(length, other.data());
        CHECK(other == packed);
        for (int64_t together : {1, 2, 3, 4, 5, 7, 8})
          CHECK(attended(*kernel, mine, q, c.rows, c.first, c.dim, together) == expected);
      }
    }
  }
}

TEST(place_turns_keys_and_queries) {
  check::Random random(6);
  for (int64_t dim : {2, 6, 64}) {
    const int64_t half = dim / 2;
    const auto q = random.normals(size_t(2 * dim)), k = random.normals(size_t(dim)),
               v = random.normals(size_t(dim));
    std::vector<float> angles(static_cast<size_t>(dim)), tq = q, tk = k;
    for (int64_t i = 0; i < half; ++i)
      angles[size_t(i)] = float(std::cos(double(i))),
      angles[size_t(half + i)] = float(std::sin(double(i)));
    KvCache cache(stack(dim), 20);
    const KvCache::Head head = cache.head(0, 0);
    PlaceArgs a{};
    a.q = tq.data(), a.k = tk.data(), a.v = v.data(), a.query_heads = 2, a.angles = angles.data(),
    a.dim = dim, a.position = 18;
    a.keys = head.keys, a.values = head.values;
    kernels().place(a);
    double worst = 0;
    for (int64_t i = 0; i < half; ++i) {
      const double c = double(angles[size_t(i)]), s = double(angles[size_t(half + i)]);
      for (const float* from : {q.data(), q.data() + dim, k.data()}) {
        const float* to = from == k.data() ? tk.data() : tq.data() + (from - q.data());
        worst = std::max(
            worst, std::fabs(double(to[i]) - (double(from[i]) * c - double(from[half + i]) * s)));
        worst = std::max(worst, std::fabs(double(to[half + i]) -
                                          (double(from[half + i]) * c + double(from[i]) * s)));
      }
      CHECK(static_cast<const float*>(head.keys)[(dim + i) * 16 + 2] == tk[size_t(i)]);
      CHECK(static_cast<const float*>(head.values)[18 * round_up(dim, 16) + i] == v[size_t(i)]);
    }
    CHECK(worst < 1e-6);
  }
}

TEST(fused_without_the_instruction) {
  check::Random random(7);
  int differs = 0, rounds_otherwise = 0;
  for (int trial = 0; trial < 50000; ++trial) {
    float a[16], b[16], c[16], y[16];
    const int kind = trial % 5;
    for (int i = 0; i < 16; ++i) {
      // Few significant bits make sums that lie in the middle between two floats, and beside it;
      // small ones make subnormal results.
      const int bits = kind == 0 ? 24 : 1 + random.below(kind == 3 ? 24 : 13),
                low = kind == 2 ? -75 : -3;
      a[i] = std::ldexp(float(random.below(1 << bits)), low - random.below(4)) *
             (random.below(2) ? 1.0f : -1.0f);
      b[i] = std::ldexp(float(random.below(1 << bits) | 1), low - random.below(4));
      c[i] = std::ldexp(float(random.below(1 << 24) | 1 << 23),
                        2 * low + random.below(kind == 1 ? 60 : 26) - 30) *
             (random.below(2) ? 1.0f : -1.0f);
      if (kind == 4) {  // half of c's last place, but for less than a double keeps
        const float tiny = std::ldexp(float(random.below(200)), -23),
                    sign = c[i] < 0 ? -1.0f : 1.0f;
        a[i] = sign + tiny, b[i] = 0.5f - sign * 0.5f * tiny,
        c[i] = sign * float(random.below(1 << 24) | 1 << 23);
      }
    }
    plain_again::store(y, plain_again::fma_exactly(plain_again::load(a), plain_again::load(b),
                                                   plain_again::load(c)));
    for (int i = 0; i < 16; ++i) {
      differs += y[i] != std::fma(a[i], b[i], c[i]);
      rounds_otherwise += y[i] != float(double(a[i]) * double(b[i]) + double(c[i]));
    }
  }
  CHECK(differs == 0);
  CHECK(rounds_otherwise > 0);  // the doubtful cases came up
  const float huge = 3e38f, infinity = std::numeric_limits<float>::infinity();
  float y[16];
  const auto all = [](float x) { return plain_again::set(x); };
  plain_again::store(y, plain_again::fma_exactly(all(huge), all(huge), all(1.0f)));
  CHECK(y[3] == infinity);
  plain_again::store(y, plain_again::fma_exactly(all(infinity), all(1.0f), all(-infinity)));
  CHECK(std::isnan(y[3]));
}

TEST(caches_pack_and_check_what_they_hold) {
  check::Random random(8);
  const int64_t dim = 24, length = 21;
  size_t last = SIZE_MAX;
  for (KvDType dtype : kKvDTypes) {
    CHECK(parse_kv_dtype(kv_dtype_name(dtype)) == dtype);
    KvCache cache = filled(kernels(), random.normals(size_t(length * dim)),
                           random.normals(size_t(length * dim)), length, dim, dtype);
    std::string packed(size_t(cache.packed_bytes(length)), '\0'), again = packed;
    cache.pack(length, packed.data());
    CHECK(cache.all_finite(length, packed.data()));
    KvCache larger(stack(dim), 50, dtype), copy(stack(dim), 33, dtype);
    larger.unpack(length, packed.data());
    larger.pack(length, again.data());
    CHECK(again == packed);
    copy.copy_from(larger, length);
    copy.pack(length, again.data());
    CHECK(again == packed);
    CHECK(KvCache::bytes(stack(dim), 1000, dtype) < last);
    last = KvCache::bytes(stack(dim), 1000, dtype);
    // The last value, or an int8 cache's last scale, becomes a NaN.
    std::memset(again.data() + again.size() - 4, 0xFF, 4);
    CHECK(!cache.all_finite(length, again.data()));
  }
  CHECK_THROWS(std::invalid_argument, parse_kv_dtype("int4"), "got \"int4\"");
}

MAIN
