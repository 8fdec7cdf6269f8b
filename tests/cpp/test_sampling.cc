// Philox against published vectors; sampling against a plain sorted version.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>

#include "check.h"
#include "sampling.h"

using namespace uniaudio;

namespace {

LmConfig model(int vocab, int codebooks) {
  LmConfig c;
  c.vocab_size = vocab;
  c.num_codebooks = codebooks;
  return c;
}

struct Sampled {
  Sampler::Scratch scratch;
  explicit Sampled(int vocab) { scratch.reserve(vocab); }
  int32_t operator()(const Sampler& s, std::vector<float> logits, int slot = 0, uint64_t frame = 0,
                     const std::vector<int32_t>& history = {}, int64_t generated = 0) {
    return s.sample(scratch, logits.data(), slot, frame, history.data(), generated);
  }
};

// The ids that top-k, then top-p leave, by a full sort; ties go to lower ids.
std::set<int32_t> kept_by_sorting(const std::vector<float>& logits, double temperature,
                                  int64_t top_k, double top_p) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
  if (top_k > 0 && size_t(top_k) < order.size()) order.resize(size_t(top_k));
  double total = 0, mass = 0;
  const auto p = [&](int32_t id) {
    return std::exp((double(logits[size_t(id)]) - double(logits[size_t(order[0])])) / temperature);
  };
  for (int32_t id : order) total += p(id);
  std::set<int32_t> kept;
  for (int32_t id : order) {
    kept.insert(id);
    mass += p(id);
    if (mass >= top_p * total) break;
  }
  return kept;
}

}  // namespace

TEST(philox_known_answers) {  // Random123's kat_vectors for philox4x32-10
  using V = std::array<uint32_t, 4>;
  CHECK((philox({0, 0, 0, 0}, {0, 0}) == V{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  CHECK((philox({f, f, f, f}, {f, f}) == V{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         V{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(greedy_takes_the_lowest_of_equals) {
  Sampled sample(8);
  SamplingConfig c;
  c.greedy = true;
  CHECK(sample(Sampler(c, model(8, 1)), {0, 3, 1, 3, 2, -1, 3, 0}) == 1);
  c.allowed = {{{5, 8}, {2, 4}}};
  CHECK(sample(Sampler(c, model(8, 1)), {9, 9, 1, 3, 9, -1, 3, 0}) == 3);
  c.greedy = false;
  c.temperature = 0;
  CHECK(sample(Sampler(c, model(8, 1)), {9, 9, 1, 3, 9, -1, 3, 0}) == 3);
}

TEST(top_k_and_top_p_keep_what_sorting_keeps) {
  check::Random random(1);
  const int v = 500;
  Sampled sample(v);
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<float> logits(v);
    // every third has many ties
    for (float& x : logits) x = trial % 3 == 0 ? float(random.below(6)) : 3 * random.normal();
    SamplingConfig c;
    c.temperature = trial % 2 ? 0.7 : 1.5;
    c.top_k = trial % 5 == 0 ? 0 : 1 + random.below(trial < 15 ? 10 : 300);
    c.top_p = trial % 4 == 0 ? 1.0 : 0.05 + 0.9 * random.uniform();
    const std::set<int32_t> kept = kept_by_sorting(logits, c.temperature, c.top_k, c.top_p);
    const Sampler s(c, model(v, 1));
    std::set<int32_t> seen;
    bool inside = true;
    for (uint64_t frame = 0; frame < 2000; ++frame) {
      const int32_t id = sample(s, logits, 0, frame);
      inside = inside && kept.count(id);
      seen.insert(id);
    }
    CHECK(inside);
    CHECK(kept.size() > 20 || seen.size() * 2 >= kept.size());
  }
}

TEST(frequencies_follow_the_distribution) {
  Sampled sample(4);
  SamplingConfig c;
  c.seed = 5;
  const Sampler s(c, model(4, 2));
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(3.0f), std::log(4.0f)};
  std::map<int32_t, int> count;
  const int n = 20000;
  for (uint64_t frame = 0; frame < n; ++frame) ++count[sample(s, logits, int(frame % 2), frame)];
  // over four standard deviations
  for (int i = 0; i < 4; ++i) CHECK(std::fabs(count[i] / double(n) - (i + 1) / 10.0) < 0.015);
}

TEST(numbers_depend_on_seed_frame_and_slot_alone) {
  Sampled sample(64);
  const std::vector<float> flat(64, 1.0f);
  SamplingConfig a, b;
  a.seed = 1;
  b.seed = uint64_t{1} << 32;
  const Sampler s(a, model(64, 3)), t(b, model(64, 3));
  std::vector<int32_t> first, again, slots, seeds, far;
  for (uint64_t f = 0; f < 40; ++f) {
    first.push_back(sample(s, flat, 0, f));
    slots.push_back(sample(s, flat, 1, f));
    seeds.push_back(sample(t, flat, 0, f));
    far.push_back(sample(s, flat, 0, f + (uint64_t{1} << 32)));
  }
  for (uint64_t f = 40; f-- > 0;) again.insert(again.begin(), sample(s, flat, 0, f));
  CHECK(first == again);
  CHECK(first != slots && first != seeds && first != far && slots != seeds);
}

TEST(repetition_guard_looks_back_on_its_slot_only) {
  Sampled sample(4);
  SamplingConfig c;
  c.greedy = true;
  c.repetition_window = 2;
  c.repetition_penalty = 2.0;
  const Sampler s(c, model(4, 2));
  const std::vector<int32_t> history = {3, 0, 2, 0, 2, 1};  // three frames of two slots
  // 2 is halved once, though it is there twice; 3 is out of the window
  CHECK(sample(s, {1.0f, 0, 1.5f, 1.4f}, 0, 3, history, 3) == 3);
  CHECK(sample(s, {1.6f, 0, 1.5f, 1.4f}, 1, 3, history, 3) == 2);   // slot 1 has seen 0 and 1
  CHECK(sample(s, {-1.0f, -1.1f, -3, -3}, 1, 3, history, 3) == 0);  // -2, -2.2
}

TEST(end_id_in_season_only) {
  Sampled sample(4);
  SamplingConfig c;
  c.greedy = true;
  c.allowed = {{{2, 4}}, {{2, 4}}};
  c.end_id = 0;
  c.min_frames = 2;
  const std::vector<float> logits = {9, 8, 1, 2};
  const Sampler first(c, model(4, 2));
  CHECK(sample(first, logits, 0, 0, {3, 3}, 1) == 3);
  CHECK(sample(first, logits, 0, 0, {3, 3, 3, 3}, 2) == 0);
  CHECK(sample(first, logits, 1, 0, {3, 3, 3, 3}, 2) == 3);
  CHECK(first.ends(0, 0) && !first.ends(1, 0) && !first.ends(0, 3));
  c.end_slots = EndSlots::last;
  const Sampler last(c, model(4, 2));
  CHECK(sample(last, logits, 0, 0, {3, 3, 3, 3}, 2) == 3);
  CHECK(sample(last, logits, 1, 0, {3, 3, 3, 3}, 2) == 0);
}

TEST(refuses_bad_values_and_logits) {
  Sampled sample(4);
  SamplingConfig c;
  const Sampler s(c, model(4, 1));
  CHECK_THROWS(std::runtime_error, sample(s, {0, NAN, 0, 0}), "infinite or NaN");
  CHECK_THROWS(std::runtime_error, sample(s, {0, INFINITY, 0, 0}), "infinite or NaN");
  c.top_p = 2;
  CHECK_THROWS(std::invalid_argument, Sampler(c, model(4, 1)),
               "top_p: expected above 0, at most 1");
  c.top_p = 1;
  c.allowed = {{{0, 5}}};
  CHECK_THROWS(std::invalid_argument, Sampler(c, model(4, 1)), "allowed[0]");
}

MAIN
