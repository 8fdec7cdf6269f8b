// The parts below the language model: plan, streams of weights, sampling arithmetic.
#include <algorithm>
#include <set>

#include "check.h"
#include "cuda/plan.h"
#include "sampling.h"

using namespace uniaudio;

TEST(every_tile_goes_to_one_warp_of_one_block) {
  check::Random random(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<cuda::Job> jobs(size_t(1 + random.below(5)));
    std::vector<std::vector<int32_t>> lists(jobs.size());
    std::set<const unsigned char*> expected;
    const unsigned char* base = reinterpret_cast<const unsigned char*>(uintptr_t{1} << 20);
    for (size_t i = 0; i < jobs.size(); ++i) {
      cuda::Job& j = jobs[i];
      j = {base, 1 + random.below(40), 1 + random.below(30), nullptr};
      std::vector<int32_t> rows;
      for (int32_t r = 0; r < j.row_tiles; ++r) rows.push_back(r);
      if (random.below(3) == 0) {  // some of the rows
        rows.erase(
            std::remove_if(rows.begin(), rows.end(), [&](int32_t) { return random.below(2) == 0; }),
            rows.end());
        if (rows.empty()) rows.push_back(0);
        lists[i] = rows;
        j.list = lists[i].data();
      }
      for (int32_t r : rows) {
        for (int k = 0; k < j.k_tiles; ++k)
          expected.insert(base + (size_t(r) * size_t(j.k_tiles) + size_t(k)) * cuda::kTileBytes);
      }
      base += size_t(j.row_tiles) * size_t(j.k_tiles) * cuda::kTileBytes;
      j.row_tiles = int32_t(rows.size());
    }
    const int blocks = 1 + random.below(20), rounds = 1 + random.below(3);
    std::multiset<const unsigned char*> seen;
    for (int b = 0; b < blocks; ++b) {
      for (int w = 0; w < cuda::kWarps; ++w) {
        cuda::Cursor c;
        c.start(jobs.data(), int(jobs.size()), rounds, b, blocks, w);
        while (const unsigned char* tile = c.next()) seen.insert(tile);
        CHECK(c.next() == nullptr);
      }
    }
    CHECK(seen.size() == expected.size() * size_t(rounds));
    for (const unsigned char* t : expected) CHECK(seen.count(t) == size_t(rounds));
  }
}

namespace {

LmConfig shape(int layers, int local_layers, int width, int heads, int codebooks, int vocabulary) {
  LmConfig c;
  c.vocab_size = vocabulary, c.num_codebooks = codebooks;
  for (StackConfig* s : {&c.global, &c.local})
    s->width = width, s->heads = s->kv_heads = heads, s->mlp_width = 4 * width,
    s->activation = Activation::gelu;
  c.global.layers = layers, c.local.layers = local_layers;
  return c;
}

}  // namespace

TEST(plans_fit_and_are_balanced) {
  using cuda::Format;
  struct Case {
    const char* name;
    LmConfig config;
    double balance;
    int columns;
  };
  const Case cases[] = {{"v1", shape(16, 8, 768, 12, 3, 4212), 0.9, 8},
                        {"1B", shape(24, 8, 1536, 16, 3, 4212), 0.9, 4},
                        {"small", shape(6, 3, 256, 4, 4, 4280), 0.9, 8}};
  for (const Case& c : cases) {
    for (Format f : {Format::bfloat16, Format::int8}) {
      const cuda::Formats formats{f, f, f};
      for (const cuda::DeviceLimits& limits :
           {cuda::DeviceLimits{132, 227 * 1024}, cuda::DeviceLimits{108, 163 * 1024},
            cuda::DeviceLimits{84, 99 * 1024}}) {
        const cuda::Plan plan = cuda::make_plan(c.config, formats, limits);
        CHECK(plan.blocks <= limits.blocks &&
              plan.blocks * cuda::kTileRows <= c.config.local.width);
        CHECK(plan.balance >= c.balance || limits.blocks < 96);
        CHECK(cuda::ring_depth(c.config, formats, limits, plan.blocks, 1, 140) > 0);
        if (limits.blocks == 132) CHECK(plan.most_columns >= c.columns);
        int64_t total = 0;
        for (int64_t b : cuda::block_bytes(c.config, formats, plan.blocks)) total += b;
        int64_t alone = cuda::block_bytes(c.config, formats, 1)[0];
        CHECK(total == alone);
      }
    }
  }
  CHECK_THROWS(
      std::invalid_argument,
      cuda::make_plan(shape(1, 1, 1536, 16, 3, 4212),
                      {Format::float32, Format::float32, Format::float32}, {132, 16 * 1024}),
      "shared memory");
}

TEST(random_numbers_and_orders_are_the_cpus) {
  const auto a = philox({1, 2, 3, 4}, {5, 6});
  const cuda::Philox b = cuda::philox4(1, 2, 3, 4, 5, 6);
  CHECK(std::equal(a.begin(), a.end(), b.v));
  CHECK(cuda::ordered(-0.0f) == cuda::ordered(0.0f));
  CHECK(cuda::ordered(-1.0f) < cuda::ordered(-0.5f) && cuda::ordered(-0.5f) < cuda::ordered(0.0f) &&
        cuda::ordered(1.0f) < cuda::ordered(1.5f));
  CHECK(cuda::mass_of(1.0f) == uint64_t{1} << 43 && cuda::mass_of(0.75f) == uint64_t{3} << 41 &&
        cuda::mass_of(0.0f) == 0 && cuda::mass_of(1e-30f) == 0);
}

MAIN
