#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

namespace uniaudio {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& expected,
                         const std::string& got) {
  throw std::invalid_argument("sampling: " + what + ": expected " + expected + ", got " + got);
}

std::vector<IdRange> merged(std::vector<IdRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](IdRange a, IdRange b) { return a.begin < b.begin; });
  std::vector<IdRange> out;
  for (IdRange r : ranges) {
    if (!out.empty() && r.begin <= out.back().end) {
      out.back().end = std::max(out.back().end, r.end);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

// 53 random bits in [0, 1).
double uniform(uint64_t seed, uint64_t frame, int codebook) {
  const auto r = philox({uint32_t(frame), uint32_t(frame >> 32), uint32_t(codebook), 0},
                        {uint32_t(seed), uint32_t(seed >> 32)});
  return (double(r[0] >> 5) * 67108864.0 + double(r[1] >> 6)) / 9007199254740992.0;
}

constexpr int kBuckets = 2048;

// The k-th largest of n values, 1 <= k < n; peak is the largest. A histogram finds the few values
// among which it lies.
float kth_largest(Sampler::Scratch& s, const float* value, int64_t n, int64_t k, float peak) {
  constexpr float kPerUnit = 32.0f;  // buckets; they end 64 below the peak, where exp is 1e-28
  uint16_t* const bucket = s.bucket.data();
  for (int64_t i = 0; i < n; ++i)
    bucket[i] = uint16_t(int32_t(std::min((peak - value[i]) * kPerUnit, float(kBuckets - 1))));
  std::fill_n(s.count.data(), kBuckets, 0u);
  for (int64_t i = 0; i < n; ++i) ++s.count[bucket[i]];
  int64_t above = 0;
  uint16_t b = 0;
  while (above + s.count[b] < k) above += s.count[b++];
  int64_t here = 0;
  for (int64_t i = 0; i < n; ++i) {
    s.copy[size_t(here)] = value[i];
    here += bucket[i] == b;
  }
  float* const copy = s.copy.data();
  std::nth_element(copy, copy + (k - above - 1), copy + here, std::greater<float>());
  return copy[k - above - 1];
}

bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// What top_p keeps of n probabilities: those before a (probability, index) in falling order, that
// one included. The whole is never sorted: a histogram of their leading bits finds the few among
// which the mass is reached.
std::pair<float, int32_t> last_kept(Sampler::Scratch& s, const float* p, int64_t n, double wanted) {
  constexpr int kShift = 19;  // sign, exponent and four bits; 1, the largest, lands in 2032
  constexpr int kTop = 0x3F800000 >> kShift;
  static_assert(kTop < kBuckets);
  uint16_t* const bucket = s.bucket.data();
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, p + i, 4);
    bucket[i] = uint16_t(bits >> kShift);
  }
  std::fill_n(s.mass.data(), kBuckets, 0.0);
  for (int64_t i = 0; i < n; ++i) s.mass[bucket[i]] += double(p[i]);
  double mass = 0;
  int b = kTop;
  while (b >= 0 && mass + s.mass[size_t(b)] < wanted) mass += s.mass[size_t(b--)];
  if (b < 0) return {0.0f, int32_t(n)};  // all: rounding kept the sum below
  size_t here = 0;
  for (int64_t i = 0; i < n; ++i) {
    s.order[here] = {p[i], int32_t(i)};
    here += bucket[i] == b;
  }
  const auto begin = s.order.begin();
  std::sort(begin, begin + std::ptrdiff_t(here), before);
  size_t last = 0;
  for (mass += double(begin->first); mass < wanted && last + 1 < here;)
    mass += double(s.order[++last].first);
  return s.order[last];
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
    c = {uint32_t(b >> 32) ^ c[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ key[1],
         uint32_t(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c;
}

namespace {

void check_drawing(const Drawing& d, const std::string& where) {
  const auto number = [](double v) { return std::to_string(v); };
  if (!(d.temperature >= 0 && d.temperature <= 100))
    refuse(where + "temperature", "0 to 100", number(d.temperature));
  if (d.top_k < 0) refuse(where + "top_k", "0 (all) or more", std::to_string(d.top_k));
  if (!(d.top_p > 0 && d.top_p <= 1))
    refuse(where + "top_p", "above 0, at most 1", number(d.top_p));
  if (d.repetition_window < 0)
    refuse(where + "repetition_window", "0 (off) or more", std::to_string(d.repetition_window));
  if (!(d.repetition_penalty >= 1 && d.repetition_penalty <= 100))
    refuse(where + "repetition_penalty", "1 (off) to 100", number(d.repetition_penalty));
}

}  // namespace

Sampler::Sampler(const SamplingConfig& c, const LmConfig& lm)
    : config_(c), num_codebooks_(lm.num_codebooks) {
  check_drawing(c, "");
  for (size_t k = 0; k < c.slots.size(); ++k)
    check_drawing(c.slots[k], "slots[" + std::to_string(k) + "].");
  const auto per_slot = [&](const char* what, size_t count) {
    if (count != 0 && count != size_t(lm.num_codebooks))
      refuse(what, "one for each of " + std::to_string(lm.num_codebooks) + " slots",
             std::to_string(count));
  };
  per_slot("slots", c.slots.size());
  const auto per_slot_ids = [&](const char* what, const std::vector<int32_t>& ids) {
    per_slot(what, ids.size());
    for (int32_t id : ids) {
      if (id < -1 || id >= lm.vocab_size)
        refuse(what, "-1 (any) or an id below " + std::to_string(lm.vocab_size),
               std::to_string(id));
    }
  };
  per_slot_ids("forced", c.forced);
  per_slot_ids("end_frame", c.end_frame);
  if (!c.end_frame.empty() &&
      std::all_of(c.end_frame.begin(), c.end_frame.end(), [](int32_t id) { return id < 0; }))
    refuse("end_frame", "at least one id", "none");
  if (c.tie_slots && (!c.slots.empty() || !c.forced.empty()))
    refuse("tie_slots", "false with slots or forced", "true");
  if (c.tie_slots && !lm.delays.empty())
    refuse("tie_slots", "false with delays, which set slots apart", "true");
  if (c.end_id < -1 || c.end_id >= lm.vocab_size)
    refuse("end_id", "-1 (none) or an id below " + std::to_string(lm.vocab_size),
           std::to_string(c.end_id));
  if (c.min_frames < 0) refuse("min_frames", "0 or more", std::to_string(c.min_frames));
  if (!c.allowed.empty() && c.allowed.size() != size_t(lm.num_codebooks) &&
      !(c.tie_slots && c.allowed.size() == 1)) {
    refuse("allowed", "a list of ranges for each of " + std::to_string(lm.num_codebooks) + " slots",
           std::to_string(c.allowed.size()) + " lists");
  }
  const IdRange first{lm.global_head_start, lm.global_head_start + lm.global_head_size};
  const IdRange others{lm.local_table_start, lm.local_table_start + lm.local_rows()};
  for (int k = 0; k < num_codebooks_; ++k) {
    Slot slot;
    slot.end = c.end_id >= 0 &&
               (c.end_slots == EndSlots::any ||
                k == (c.end_slots == EndSlots::first || c.tie_slots ? 0 : num_codebooks_ - 1));
    if (!c.forced.empty()) slot.forced = c.forced[size_t(k)];
    const bool own_head = k == 0 && lm.global_head_size > 0;
    const IdRange head = own_head ? first : others;
    if (lm.is_given(k)) {
      slot.without_end = {{0, 1}};  // none of its logits are looked at
    } else if (slot.forced >= 0 && !slot.end) {
      slot.without_end = {{slot.forced, slot.forced + 1}};  // nothing else need be computed
    } else if (c.allowed.empty()) {
      slot.without_end = {head};
    } else {
      for (IdRange r : c.allowed[std::min(size_t(k), c.allowed.size() - 1)]) {
        if (r.begin < 0 || r.end > lm.vocab_size || r.begin >= r.end) {
          refuse("allowed[" + std::to_string(k) + "]",
                 "ranges within 0 to " + std::to_string(lm.vocab_size) + " of at least one id",
                 "start " + std::to_string(r.begin) + ", size " +
                     std::to_string(int64_t(r.end) - r.begin));
        }
        slot.without_end.push_back(r);
      }
      slot.without_end = merged(slot.without_end);
      if (slot.without_end.empty())
        refuse("allowed[" + std::to_string(k) + "]", "at least one id", "none");
    }
    slot.with_end = slot.without_end;
    if (slot.end) {
      slot.with_end.push_back({int32_t(c.end_id), int32_t(c.end_id) + 1});
      slot.with_end = merged(slot.with_end);
    }
    const IdRange last = slot.with_end.back();
    if (!lm.is_given(k) && (slot.forced < 0 || slot.end) &&
        (slot.with_end[0].begin < head.begin || last.end > head.end)) {
      refuse("slot " + std::to_string(k),
             "ids that its head has, " + std::to_string(head.begin) + " to " +
                 std::to_string(head.end - 1),
             std::to_string(slot.with_end[0].begin) + " to " + std::to_string(last.end - 1));
    }
    slots_.push_back(std::move(slot));
  }
}

bool Sampler::ends_frame(const int32_t* frame, int64_t generated) const {
  if (config_.end_frame.empty() || generated < config_.min_frames) return false;
  return has_ids(frame, config_.end_frame.data(), num_codebooks_);
}

bool Sampler::may_end(int slot, int64_t generated) const {
  return slots_[size_t(slot)].end && generated >= config_.min_frames;
}

void Sampler::Scratch::reserve(int64_t vocab_size) {
  value.reserve(size_t(vocab_size));
  copy.reserve(size_t(vocab_size));
  id.reserve(size_t(vocab_size));
  bucket.reserve(size_t(vocab_size));
  count.reserve(kBuckets);
  mass.reserve(kBuckets);
  stamp.reserve(size_t(vocab_size));
  order.resize(std::max(order.size(), size_t(vocab_size)));
}

int32_t Sampler::sample(Scratch& s, float* logits, int slot, uint64_t frame, const int32_t* history,
                        int64_t generated) const {
  const Drawing& c = drawing(slot);
  if (c.repetition_window > 0 && c.repetition_penalty != 1.0) {
    const float penalty = float(c.repetition_penalty);
    if (++s.stamp_now == 0) {  // wrapped around: old stamps could be taken for new ones
      std::fill_n(s.stamp.data(), s.stamp.size(), 0u);
      s.stamp_now = 1;
    }
    for (int64_t i = std::max<int64_t>(0, generated - c.repetition_window); i < generated; ++i) {
      const int32_t id = history[i * num_codebooks_ + slot];
      if (s.stamp[size_t(id)] == s.stamp_now) continue;
      s.stamp[size_t(id)] = s.stamp_now;
      logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
  }

  // Gather the ids that may be emitted. Before min_frames the end id is left out, in those slots
  // where it would end the sequence.
  const int32_t end_id = int32_t(config_.end_id);
  const bool greedy = c.is_greedy();
  const float temperature = greedy ? 1.0f : float(c.temperature);
  const bool skip_end = end_id >= 0 && !may_end(slot, generated) && slots_[size_t(slot)].end;
  float* const value = s.value.data();
  int64_t n = 0;
  bool finite = true;
  const auto gather = [&](int32_t begin, int32_t end) {
    int bad = 0;
    for (int32_t i = 0; i < end - begin; ++i) {
      const float v = logits[begin + i] / temperature;
      bad |= !(std::fabs(v) <= std::numeric_limits<float>::max());
      value[n + i] = v;
    }
    for (int32_t i = 0; i < end - begin; ++i) s.id[size_t(n + i)] = begin + i;
    finite = finite && bad == 0;
    n += end - begin;
  };
  for (const IdRange r : slots_[size_t(slot)].with_end) {
    if (skip_end && r.begin <= end_id && end_id < r.end) {
      gather(r.begin, end_id);
      gather(end_id + 1, r.end);
    } else {
      gather(r.begin, r.end);
    }
  }
  if (!finite)
    throw std::runtime_error(
        "the model gave infinite or NaN logits; its weights are damaged or the temperature is too "
        "small");
  if (n == 0)
    throw std::runtime_error(
        "sampling: nothing may be emitted before min_frames but the end id; allow more ids");
  const float peak = kernels().max(value, n);
  if (greedy) return s.id[size_t(std::find(value, value + n, peak) - value)];

  if (c.top_k > 0 && c.top_k < n) {
    // The k-th largest value; of its equals the lowest ids stay.
    const float bar = kth_largest(s, value, n, c.top_k, peak);
    int64_t above = 0;
    for (int64_t i = 0; i < n; ++i) above += value[i] > bar;
    int64_t equals = c.top_k - above, kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float v = value[i];
      const bool equal = v == bar, keep = v > bar || (equal && equals > 0);
      value[kept] = v;
      s.id[size_t(kept)] = s.id[size_t(i)];
      equals -= equal;
      kept += keep;
    }
    n = kept;
  }
  const double total = double(kernels().exp_sum(value, peak, value, n));

  if (c.top_p < 1) {
    const auto [least, last] = last_kept(s, value, n, c.top_p * total);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float v = value[i];
      value[kept] = v;
      s.id[size_t(kept)] = s.id[size_t(i)];
      kept += v > least || (v == least && i <= last);
    }
    n = kept;
  }

  double mass = 0;
  for (int64_t i = 0; i < n; ++i) mass += double(value[i]);
  const double mark = uniform(config_.seed, frame, slot) * mass;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += double(value[i]);
    if (mark < sum) return s.id[size_t(i)];
  }
  return s.id[size_t(n - 1)];
}

}  // namespace uniaudio
