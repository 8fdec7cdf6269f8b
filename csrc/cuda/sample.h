// Choosing an id from a slot's logits by one block: the rules of csrc/sampling.cc, the same random
// numbers.
//
// Sums of probabilities are sums of integers (units of 2^-43), so that threads may add them in any
// order. The CPU adds doubles; the two can differ where a random number falls within 1e-12 of a
// border, and nowhere else.
#pragma once

#include "simt.h"

namespace uniaudio::cuda {

struct Range {
  int32_t begin, end;
};

// How an id is drawn from a slot's logits.
struct SlotSampling {
  double top_p;
  float temperature, penalty;  // temperature 1 where greedy
  int32_t top_k, greedy, window;
  int32_t forced;  // the id that the slot has, whatever is drawn, or -1
  int32_t fixed;   // the same where nothing need be drawn
};

// A checked SamplingConfig, for the device.
struct Sampling {
  const SlotSampling* slots;  // [K]
  uint64_t seed;
  int32_t end_id, min_frames, tie, keep_end;
  const Range* ranges;         // all slots', end id included
  const int32_t* range_begin;  // [K + 1]
  const uint8_t* end_slot;     // [K]: whether the end id may come there
  const int32_t* end_frame;    // [K] or null: SamplingConfig::end_frame
};

UA_HD bool ends(const Sampling& c, int slot, int32_t id) {
  return id == c.end_id && c.end_slot[slot];
}
UA_HD int32_t final_id(const Sampling& c, int slot, int32_t id) {
  const int32_t forced = c.slots[slot].forced;
  return forced < 0 ? id : forced;
}

struct SampleScratch {
  uint64_t weights[kThreads];  // a histogram, or what each thread holds
  uint64_t above, total;
  float peak[kWarps];
  uint32_t digit, chosen, bad, allowed;
};
// then the marks, one bit an id
constexpr int kSampleBytes = (int(sizeof(SampleScratch)) + 15) / 16 * 16;

struct Philox {
  uint32_t v[4];
};
UA_HD Philox philox4(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t key0, uint32_t key1) {
  Philox x = {{a, b, c, d}};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t{0xD2511F53u} * x.v[0], q = uint64_t{0xCD9E8D57u} * x.v[2];
    x = {{uint32_t(q >> 32) ^ x.v[1] ^ key0, uint32_t(q), uint32_t(p >> 32) ^ x.v[3] ^ key1,
          uint32_t(p)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}
UA_HD double uniform_of(uint64_t seed, uint64_t frame, int codebook) {
  const Philox r = philox4(uint32_t(frame), uint32_t(frame >> 32), uint32_t(codebook), 0,
                           uint32_t(seed), uint32_t(seed >> 32));
  return (double(r.v[0] >> 5) * 67108864.0 + double(r.v[1] >> 6)) / 9007199254740992.0;
}

// Rises with x.
UA_HD uint32_t ordered(float x) {
  const uint32_t u = bits_of(x + 0.0f);  // no -0, which is not below 0
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
// A probability of at most 1 in units of 2^-43.
UA_HD uint64_t mass_of(float p) {
  const uint32_t u = bits_of(p);
  const int shift = int(u >> 23) - 107;
  const uint64_t m = (u & 0x7FFFFFu) | 0x800000u;
  return u < 0x00800000u || shift < -40 ? 0 : shift >= 0 ? m << shift : m >> -shift;
}

// In place: s.weights[i] becomes the sum of those before i, s.total the sum of all.
UA_HD void exclusive_sums(Block& block, SampleScratch& s) {
  block.sync();
  block.warps([&](int warp) {
    if (warp != 0) return;
    constexpr int kEach = kThreads / 32;
    Lane<uint64_t> sum;
    UA_LANES (lane) {
      sum[lane] = 0;
      for (int i = 0; i < kEach; ++i) sum[lane] += s.weights[lane * kEach + i];
    }
    warp_exclusive(sum);
    UA_LANES (lane) {
      uint64_t before = sum[lane];
      for (int i = 0; i < kEach; ++i) {
        const uint64_t own = s.weights[lane * kEach + i];
        s.weights[lane * kEach + i] = before;
        before += own;
      }
      if (lane == 31) s.total = before;
    }
  });
  block.sync();
}

// Keeps the values with the largest keys, lowest index first among equals, until their weights
// reach `wanted` (at least 1); drop(i) is called for the others. Equal keys have equal weights; a
// weight of 0 takes no part.
template <class Key, class Weight, class Drop>
UA_HD void keep_top(Block& block, SampleScratch& s, int n, uint64_t wanted, Key key, Weight weight,
                    Drop drop) {
  uint32_t prefix = 0;
  uint64_t above = 0, here = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    block.sync();
    block.threads([&](int tid) { s.weights[tid] = 0; });
    block.sync();
    block.threads([&](int tid) {
      for (int i = tid; i < n; i += kThreads) {
        const uint32_t k = key(i);
        const uint64_t w = weight(i);
        if (w && (shift == 24 || k >> (shift + 8) == prefix))
          add_shared(&s.weights[255 - (k >> shift & 255u)], w);
      }
    });
    block.sync();
    block.threads([&](int tid) {
      if (tid == 0) s.digit = 256;
    });
    block.sync();
    block.warps([&](int warp) {
      if (warp != 0) return;
      Lane<uint64_t> sum;
      UA_LANES (lane) {
        sum[lane] = 0;
        for (int i = 0; i < 8; ++i) sum[lane] += s.weights[lane * 8 + i];
      }
      Lane<uint64_t> before = sum;
      warp_exclusive(before);
      UA_LANES (lane) {
        uint64_t w = above + before[lane];
        if (w < wanted && w + sum[lane] >= wanted) {
          int i = 0;
          while (w + s.weights[lane * 8 + i] < wanted) w += s.weights[lane * 8 + i++];
          s.digit = uint32_t(lane * 8 + i), s.above = w;
        }
      }
    });
    block.sync();
    if (s.digit == 256) return;  // all of them: rounding kept their sum below
    above = s.above;
    here = s.weights[s.digit];
    prefix = prefix << 8 | (255u - s.digit);
  }
  block.sync();
  // The block's threads take neighbouring values each, so that ranks among equals follow the index.
  const int each = (n + kThreads - 1) / kThreads;
  block.threads([&](int tid) {
    uint64_t equals = 0;
    for (int i = tid * each; i < n && i < (tid + 1) * each; ++i)
      equals += key(i) == prefix && weight(i);
    s.weights[tid] = equals;
  });
  exclusive_sums(block, s);
  const uint64_t one = s.total ? here / s.total : 1, most = (wanted - above + one - 1) / one;
  block.threads([&](int tid) {
    uint64_t rank = s.weights[tid];
    for (int i = tid * each; i < n && i < (tid + 1) * each; ++i) {
      const uint32_t k = key(i);
      const bool equal = k == prefix && weight(i);
      if (k < prefix || (equal && rank >= most)) drop(i);
      rank += equal;
    }
  });
  block.sync();
}

// The id of slot `slot` of frame `frame`. v [n]: logits of the ids start + 8 list[i / 8] + i % 8
// (changed); history: ids of this slot in the `generated` frames so far, `stride` apart. marks
// [(vocab + 31) / 32]. All threads get the id; s.bad says that a logit was not finite, or that
// nothing may be emitted.
UA_HD int32_t sample(Block& block, SampleScratch& s, uint32_t* marks, int vocab, float* v, int n,
                     const int32_t* list, int start, const Sampling& c, int slot, uint64_t frame,
                     const int32_t* history, int stride, int64_t generated) {
  const auto id_at = [&](int i) { return int32_t(start + list[i / 8] * 8 + i % 8); };
  const SlotSampling own = c.slots[slot];
  const bool guard = own.window > 0 && own.penalty != 1.0f;
  const bool skip_end = c.end_id >= 0 && c.end_slot[slot] && generated < c.min_frames;
  block.threads([&](int tid) {
    if (guard) {
      for (int i = tid; i < (vocab + 31) / 32; i += kThreads) marks[i] = 0;
    }
    if (tid == 0) s.bad = 0, s.allowed = 0, s.chosen = 0xFFFFFFFFu;
  });
  block.sync();
  if (guard) {
    block.threads([&](int tid) {
      for (int64_t i = (generated > own.window ? generated - own.window : 0) + tid; i < generated;
           i += kThreads) {
        const int32_t id = history[i * stride];
        or_shared(&marks[id / 32], 1u << (id % 32));
      }
    });
    block.sync();
  }
  block.threads([&](int tid) {
    uint32_t count = 0, bad = 0;
    for (int i = tid; i < n; i += kThreads) {
      const int32_t id = id_at(i);
      bool in = false;
      for (int r = c.range_begin[slot]; r < c.range_begin[slot + 1]; ++r)
        in = in || (c.ranges[r].begin <= id && id < c.ranges[r].end);
      if (!in || (skip_end && id == c.end_id)) {
        v[i] = -infinity();
        continue;
      }
      float x = v[i];
      if (guard && (marks[id / 32] >> (id % 32) & 1u))
        x = x > 0 ? x / own.penalty : x * own.penalty;
      x = x / own.temperature;
      v[i] = x;
      bad |= (bits_of(x) & 0x7F800000u) == 0x7F800000u;
      ++count;
    }
    if (count) add_shared(&s.allowed, count);
    if (bad) or_shared(&s.bad, 1u);
  });
  block.sync();
  if (s.bad || s.allowed == 0) {
    block.sync();
    block.threads([&](int tid) {
      if (tid == 0 && !s.bad) s.bad = 2u;
    });
    block.sync();
    return c.ranges[c.range_begin[slot]].begin;
  }
  const uint32_t allowed = s.allowed;
  block.warps([&](int warp) {
    Lane<float> most;
    UA_LANES (lane) {
      float m = -infinity();
      for (int i = warp * 32 + lane; i < n; i += kThreads) m = v[i] > m ? v[i] : m;
      most[lane] = m;
    }
    warp_max(most);
    UA_LANES (lane) {
      if (lane == 0) s.peak[warp] = most[lane];
    }
  });
  block.sync();
  float peak = s.peak[0];
  for (int w = 1; w < kWarps; ++w) peak = s.peak[w] > peak ? s.peak[w] : peak;
  if (own.greedy) {
    block.threads([&](int tid) {
      for (int i = tid; i < n; i += kThreads) {
        if (v[i] == peak) min_shared(&s.chosen, uint32_t(i));
      }
    });
    block.sync();
    const int i = int(s.chosen);
    block.sync();
    return id_at(i);
  }
  if (own.top_k > 0 && uint32_t(own.top_k) < allowed) {
    keep_top(
        block, s, n, uint64_t(own.top_k), [&](int i) { return ordered(v[i]); },
        [&](int i) { return uint64_t(v[i] > -infinity()); }, [&](int i) { v[i] = -infinity(); });
  }
  block.threads([&](int tid) {
    for (int i = tid; i < n; i += kThreads) v[i] = v[i] > -infinity() ? exp_of(v[i] - peak) : 0.0f;
  });
  block.sync();
  const int each = (n + kThreads - 1) / kThreads;
  const auto add_up = [&] {
    block.threads([&](int tid) {
      uint64_t sum = 0;
      for (int i = tid * each; i < n && i < (tid + 1) * each; ++i) sum += mass_of(v[i]);
      s.weights[tid] = sum;
    });
    exclusive_sums(block, s);
  };
  if (own.top_p < 1) {
    add_up();
    const double wanted = own.top_p * double(s.total);
    const uint64_t whole = uint64_t(wanted), least = whole + (double(whole) < wanted ? 1 : 0);
    keep_top(
        block, s, n, least ? least : 1, [&](int i) { return bits_of(v[i]); },
        [&](int i) { return mass_of(v[i]); }, [&](int i) { v[i] = 0.0f; });
  }
  add_up();
  const uint64_t all = s.total;
  double mark = uniform_of(c.seed, frame, slot) * double(all);
  if (!(mark < double(all))) mark = double(all - 1);
  block.threads([&](int tid) {
    uint64_t sum = s.weights[tid];
    for (int i = tid * each; i < n && i < (tid + 1) * each; ++i) {
      const bool before = !(mark < double(sum));
      sum += mass_of(v[i]);
      if (before && mark < double(sum)) s.chosen = uint32_t(i);  // of one thread only
    }
  });
  block.sync();
  const int i = int(s.chosen);
  block.sync();
  return id_at(i);
}

}  // namespace uniaudio::cuda
