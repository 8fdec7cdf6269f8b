// The post-filter against itself: pieces, threads, copies, hostile input. Its values: the torch
// module, in tests/engine/test_postfilter.py.
#include "postfilter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <list>

#include "check.h"

using namespace uniaudio;

namespace {

// Random weights by name, and the memory behind them.
struct Net {
  PostFilterConfig config;
  std::list<std::vector<float>> memory;
  Weights weights;

  explicit Net(const std::string& json) : config(parse_postfilter_config(json)) {
    check::Random random(7);
    for (const TensorSpec& spec : PostFilter::specs(config)) {
      size_t size = 1;
      for (int64_t d : spec.shape) size *= size_t(d);
      memory.push_back(random.normals(size));
      for (float& x : memory.back()) x *= 0.3f;
      StoredTensor t;
      t.shape = spec.shape;
      t.data = memory.back().data();
      weights.add(spec.name, t);
    }
  }
  std::shared_ptr<PostFilter> filter(int threads) const {
    return std::make_shared<PostFilter>(config, weights, threads);
  }
};

const char* const kConfigs[] = {
    R"({"window": 64, "hop": 20, "width": 12, "hidden": 16, "blocks": 2, "kernel_size": 3})",
    R"({"window": 32, "hop": 16, "width": 8, "hidden": 8, "blocks": 1, "lookahead": 0})",
    R"({"window": 14, "hop": 3, "width": 8, "hidden": 9, "blocks": 1, "kernel_size": 9, "lookahead": 5})",
    R"({"window": 64, "hop": 20, "width": 12, "hidden": 16, "blocks": 2, "voice": 6})",
};

std::vector<float> noise(size_t n, int seed) {
  check::Random random(uint64_t(seed) + 100);
  std::vector<float> v = random.normals(n);
  for (float& x : v) x *= 0.3f;
  return v;
}

// What a filter makes of some voice.
std::vector<float> voice_of(const PostFilter& f) {
  const std::vector<float> x = noise(3000, 3);
  return f.voice(x.data(), x.size());
}

std::vector<float> whole(const PostFilter& f, const std::vector<float>& x, float least_gain = 0) {
  std::vector<float> out;
  const auto stream = f.stream(least_gain, voice_of(f));
  stream->push(x.data(), x.size(), out);
  stream->flush(out);
  return out;
}

}  // namespace

TEST(pieces_threads_and_copies_change_nothing) {
  for (const char* json : kConfigs) {
    const Net net(json);
    for (size_t n : {size_t(0), size_t(1), size_t(63), size_t(5000)}) {
      const std::vector<float> x = noise(n, 1);
      const auto one = net.filter(1), three = net.filter(3);
      const std::vector<float> expected = whole(*one, x);
      CHECK(expected.size() == n);
      CHECK(whole(*three, x) == expected);
      check::Random random(n);
      const auto stream = three->stream(0, voice_of(*one));
      std::vector<float> got;
      for (size_t at = 0; at < n;) {
        const size_t m = std::min(n - at, size_t(random.below(200)));
        stream->push(x.data() + at, m, got);
        at += m;
        CHECK(int64_t(got.size()) >= int64_t(at) - three->delay() - net.config.hop);
        if (random.below(9) == 0) {
          std::vector<float> rest = got;
          const auto copy = stream->fork();
          copy->push(x.data() + at, n - at, rest);
          copy->flush(rest);
          CHECK(rest == expected);
        }
      }
      stream->flush(got);
      CHECK(got == expected);
      got.clear();  // the next clip
      stream->push(x.data(), n, got);
      stream->flush(got);
      CHECK(got == expected);
    }
  }
}

TEST(a_least_gain_mixes_the_source_in) {
  const std::vector<float> x = noise(700, 1);
  for (const char* json : kConfigs) {
    const auto filter = Net(json).filter(2);
    const std::vector<float> filtered = whole(*filter, x), mixed = whole(*filter, x, 0.25f);
    for (size_t i = 0; i < x.size(); ++i)
      CHECK(std::abs(mixed[i] - (0.75f * filtered[i] + 0.25f * x[i])) < 1e-5f);
    for (float wrong : {-0.1f, 1.1f, std::numeric_limits<float>::quiet_NaN()})
      CHECK_THROWS(std::invalid_argument, filter->stream(wrong, voice_of(*filter)),
                   "least_gain: expected 0 to 1");
  }
}

TEST(a_voice_is_a_vector_of_finite_numbers) {
  const auto filter = Net(kConfigs[3]).filter(1);
  std::vector<float> vector = voice_of(*filter);
  CHECK(vector.size() == 6);
  CHECK(Net(kConfigs[3]).filter(3)->voice(noise(3000, 3).data(), 3000) == vector);
  CHECK(filter->voice(nullptr, 0).size() == 6);  // silence
  CHECK_THROWS(std::invalid_argument, filter->stream(), "expected a vector of 6 numbers, got 0");
  CHECK_THROWS(std::invalid_argument, Net(kConfigs[0]).filter(1)->stream(0, vector),
               "expected a vector of 0 numbers, got 6");
  vector[2] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS(std::invalid_argument, filter->stream(0, vector), "voice: expected finite");
  CHECK_THROWS(std::invalid_argument, filter->voice(vector.data(), 6), "voice: expected finite");
}

TEST(hostile_input_changes_nothing) {
  const Net net(kConfigs[0]);
  const auto filter = net.filter(1);
  const std::vector<float> x = noise(900, 1);
  std::vector<float> bad = x, got;
  const auto stream = filter->stream();
  stream->push(x.data(), 500, got);
  for (float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    bad[700] = value;
    const std::vector<float> before = got;
    CHECK_THROWS(std::invalid_argument, stream->push(bad.data() + 500, 400, got),
                 "expected finite samples");
    CHECK(got == before);
  }
  stream->push(x.data() + 500, 400, got);
  stream->flush(got);
  CHECK(got == whole(*filter, x));
}

TEST(configurations_and_weights_that_do_not_fit) {
  for (const char* json :
       {R"({"window": 63})", R"({"hop": 400})", R"({"hop": 0})", R"({"blocks": 0})",
        R"({"log_floor": 0})", R"({"kernel": 3})", R"({"voice": -1})", R"({"voice_blocks": 0})",
        R"({"answer": true})", "[]", "{"})
    CHECK_THROWS(std::invalid_argument, parse_postfilter_config(json), "");
  const Net net(kConfigs[0]);
  PostFilterConfig other = net.config;
  other.width = 16;
  CHECK_THROWS(std::invalid_argument, PostFilter(other, net.weights, 1), "postfilter");
}

MAIN
