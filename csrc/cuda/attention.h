// Attention to a stream's cache, by one block a key head (or a part of its positions), and to the
// local stack's few positions, by one warp a head.
//
// Positions are dealt to kSplits parts in chunks, a part's to kGroups groups of eight lanes; each
// keeps (largest score, sum, weighted values), and these meet in a fixed order: the same bits
// however the parts are laid over blocks.
#pragma once

#include "linear.h"

namespace uniaudio::cuda {

// of a head's positions: fixed, so that a sum's order is the same on every device
constexpr int kSplits = 4;
constexpr int kChunk = 16;  // neighbouring positions of one split
constexpr int kMaxHeadDim = 128;
constexpr int kGroups = kThreads / 8;

UA_HD int padded_dim(int dim) { return (dim + 7) / 8 * 8; }

UA_HD int splits_at(int64_t position) {  // that hold any of the positions up to this one
  const int64_t chunks = position / kChunk + 1;
  return chunks < kSplits ? int(chunks) : kSplits;
}
UA_HD int64_t owned(int64_t length, int split) {  // positions below `length` of a split
  const int64_t chunks = length / kChunk, rest = length % kChunk,
                whole = chunks > split ? (chunks - split + kSplits - 1) / kSplits : 0;
  return whole * kChunk + (chunks % kSplits == split ? rest : 0);
}
UA_HD float turned(const float* x, int i, int dim, const float* angles) {  // rope
  if (!angles) return x[i];
  const int half = dim / 2;
  return i < half ? x[i] * angles[i] - x[half + i] * angles[half + i]
                  : x[i] * angles[i - half] + x[i - half] * angles[i];
}

// RMSNorm over each head's query and key, before they are turned: weights [dim], or null for none.
struct HeadNorm {
  const float *q, *k;
  float eps;
};
// In place, rows of `padded`: groups of `group` queries, a key and a value.
UA_HD void normalise_heads(Block& block, const HeadNorm& norm, float* raw, int rows, int group,
                           int padded, int dim) {
  if (!norm.q) return;
  block.warps([&](int warp) {
    for (int r = warp; r < rows; r += kWarps) {
      const int h = r % (group + 2);
      if (h > group) continue;
      float* const x = raw + r * padded;
      const Norm own = {h < group ? norm.q : norm.k, nullptr, norm.eps, true};
      float mean, inverse;
      moments(x, dim, own, mean, inverse);
      UA_LANES (lane) {
        for (int i = lane; i < dim; i += 32) x[i] = normalised(own, x[i], i, mean, inverse);
      }
    }
  });
  block.sync();
}

// Keys and values of one head, from element base * padded_dim(dim) on.
struct HeadCache {
  const char *keys, *values;
  size_t base;
  int64_t held;  // positions of it; position t lies at t % held
  int dim;
  bool half;  // bfloat16
};
UA_HD void store_cache(char* cache, size_t at, bool half, float v) {
  if (half) {
    reinterpret_cast<uint16_t*>(cache)[at] = uint16_t(to_bf16(v));
  } else {
    reinterpret_cast<float*>(cache)[at] = v;
  }
}
// Four neighbours, at a multiple of four.
UA_HD void load_cache4(const char* at, size_t i, bool half, float (&v)[4]) {
  if (half) {
    struct alignas(8) Two {
      uint32_t v[2];
    };
    const Two u = *reinterpret_cast<const Two*>(at + 2 * i);
    v[0] = from_bf16(u.v[0] & 0xFFFFu), v[1] = from_bf16(u.v[0] >> 16),
    v[2] = from_bf16(u.v[1] & 0xFFFFu), v[3] = from_bf16(u.v[1] >> 16);
  } else {
    const Vec4 u = *reinterpret_cast<const Vec4*>(at + 4 * i);
    UA_UNROLL
    for (int e = 0; e < 4; ++e) v[e] = float_of(u.v[e]);
  }
}

// The first position that a query at position t sees.
UA_HD int64_t first_seen(int window, int64_t t) {
  return window > 0 && t >= window ? t + 1 - window : 0;
}

// One query [padded_dim] over a split's positions from `first` on and below `length`: subs
// [kGroups][4 + padded_dim] = (largest score, sum, -, -, weighted values). Ends with a barrier.
UA_HD void attend_head(Block& block, const HeadCache& cache, int split, int64_t first,
                       int64_t length, const float* query, float* subs) {
  const int padded = padded_dim(cache.dim);
  const int64_t begin = owned(first, split), count = owned(length, split);
  const int64_t newest = (length - 1) / cache.held * cache.held;  // of the latest time round
  constexpr int kVectors = kMaxHeadDim / 32;                      // of four values, a lane
  block.warps([&](int warp) {
    Lane<float> most, sum, q[kVectors][4], o[kVectors][4];
    UA_LANES (lane) {
      most[lane] = -infinity(), sum[lane] = 0;
      UA_UNROLL
      for (int j = 0; j < kVectors; ++j) {
        const int at = 32 * j + 4 * (lane % 8);
        UA_UNROLL
        for (int e = 0; e < 4; ++e)
          q[j][e][lane] = at < padded ? query[at + e] : 0.0f, o[j][e][lane] = 0.0f;
      }
    }
    UA_ROLLED
    for (int64_t i0 = begin + warp * 4; i0 < count; i0 += kGroups) {
      Lane<float> score, val[kVectors][4];
      UA_LANES (lane) {
        const int64_t i = i0 + lane / 8 < count ? i0 + lane / 8 : count - 1;
        const int64_t t = (i / kChunk * kSplits + split) * kChunk + i % kChunk - newest,
                      place = t < 0 ? t + cache.held : t;
        float dot = 0;
        UA_UNROLL
        for (int j = 0; j < kVectors; ++j) {
          const int at = 32 * j + 4 * (lane % 8);
          float k4[4] = {0, 0, 0, 0}, v4[4] = {0, 0, 0, 0};
          if (at < padded) {
            load_cache4(cache.keys, (cache.base + size_t(place)) * padded + at, cache.half, k4);
            load_cache4(cache.values, (cache.base + size_t(place)) * padded + at, cache.half, v4);
          }
          UA_UNROLL
          for (int e = 0; e < 4; ++e)
            dot = fused(q[j][e][lane], k4[e], dot), val[j][e][lane] = v4[e];
        }
        score[lane] = dot;
      }
      warp_sum(score, 1, 8);
      UA_LANES (lane) {
        if (i0 + lane / 8 < count) {
          const float next = score[lane] > most[lane] ? score[lane] : most[lane];
          const float keep = most[lane] > -infinity() ? exp_of(most[lane] - next) : 0.0f,
                      weight = exp_of(score[lane] - next);
          most[lane] = next;
          sum[lane] = sum[lane] * keep + weight;
          UA_UNROLL
          for (int j = 0; j < kVectors; ++j) {
            UA_UNROLL
            for (int e = 0; e < 4; ++e)
              o[j][e][lane] = fused(weight, val[j][e][lane], o[j][e][lane] * keep);
          }
        }
      }
    }
    UA_LANES (lane) {
      float* const sub = subs + (warp * 4 + lane / 8) * (padded + 4);
      if (lane % 8 == 0) sub[0] = most[lane], sub[1] = sum[lane];
      UA_UNROLL
      for (int j = 0; j < kVectors; ++j) {
        const int at = 32 * j + 4 * (lane % 8);
        if (at < padded) {
          UA_UNROLL
          for (int e = 0; e < 4; ++e) sub[4 + at + e] = o[j][e][lane];
        }
      }
    }
  });
  block.sync();
}

// Element `at` of what a split's groups have together: weighted values [dim], the largest score,
// the sum.
UA_HD float of_groups(const float* subs, int padded, int dim, int at) {
  float most = -infinity(), sum = 0;
  for (int i = 0; i < kGroups; ++i)
    most = subs[i * (padded + 4)] > most ? subs[i * (padded + 4)] : most;
  if (at == dim) return most;
  for (int i = 0; i < kGroups; ++i) {
    const float* sub = subs + i * (padded + 4);
    if (sub[1] > 0) sum += exp_of(sub[0] - most) * (at < dim ? sub[4 + at] : sub[1]);
  }
  return sum;
}

// What is attended, from each split's largest score, sum, and value.
UA_HD float of_splits(const float (&parts)[3][kSplits], int splits) {
  float top = -infinity(), below = 0, above = 0;
  UA_UNROLL
  for (int k = 0; k < kSplits; ++k) top = k < splits && parts[0][k] > top ? parts[0][k] : top;
  UA_UNROLL
  for (int k = 0; k < kSplits; ++k) {
    if (k >= splits) continue;
    const float weight = exp_of(parts[0][k] - top);
    below += weight * parts[1][k];
    above = fused(weight, parts[2][k], above);
  }
  return above / below;
}

// Head h of position `slot` over positions `first` to slot, by one warp: fetch(t, i) is element i of
// position t's q, k, v (neither normalised nor turned).
template <class Fetch>
UA_HD void attend_few(int heads, int kv_heads, int dim, const HeadNorm& norm,
                      const float* all_angles, int first, int slot, int h, float* out,
                      Fetch fetch) {
  constexpr int kVectors = kMaxHeadDim / 32;
  const float scale = 1.0f / square_root(float(dim));
  const int key = (heads + h / (heads / kv_heads)) * dim, val = key + kv_heads * dim,
            half = dim / 2;
  const auto inverse_at = [&](int t, int from) {  // of a vector's deviation
    if (!norm.q) return 1.0f;
    Lane<float> squares;
    UA_LANES (lane) {
      float s = 0;
      for (int i = lane; i < dim; i += 32) {
        const float x = fetch(t, from + i);
        s += x * x;
      }
      squares[lane] = s;
    }
    warp_sum(squares);
    return 1.0f / square_root(squares[0] / float(dim) + norm.eps);
  };
  // element i of a vector, normalised and turned
  const auto at_angle = [&](int t, int from, int i, const float* weight, float inverse) {
    const auto value = [&](int at) {
      const float v = fetch(t, from + at);
      return weight ? (v * inverse) * weight[at] : v;
    };
    const float x = value(i);
    if (!all_angles) return x;
    const float* const angles = all_angles + t * dim;
    const float other = value(i < half ? i + half : i - half);
    return i < half ? x * angles[i] - other * angles[half + i]
                    : x * angles[i - half] + other * angles[i];
  };
  Lane<float> q[kVectors], o[kVectors];
  const float q_inverse = inverse_at(slot, h * dim);
  UA_LANES (lane) {
    UA_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      const int at = lane + 32 * j;
      q[j][lane] = at < dim ? at_angle(slot, h * dim, at, norm.q, q_inverse) * scale : 0.0f;
      o[j][lane] = 0.0f;
    }
  }
  float most = -infinity(), sum = 0;
  UA_ROLLED
  for (int t = first; t <= slot; ++t) {
    Lane<float> score;
    Lane<float> v[kVectors];
    const float k_inverse = inverse_at(t, key);
    UA_LANES (lane) {
      float dot = 0;
      UA_UNROLL
      for (int j = 0; j < kVectors; ++j) {
        const int at = lane + 32 * j;
        v[j][lane] = 0.0f;
        if (at >= dim) continue;
        v[j][lane] = fetch(t, val + at);
        dot = fused(q[j][lane], at_angle(t, key, at, norm.k, k_inverse), dot);
      }
      score[lane] = dot;
    }
    warp_sum(score);
    const float next = score[0] > most ? score[0] : most;
    const float keep = t > first ? exp_of(most - next) : 0.0f, weight = exp_of(score[0] - next);
    most = next;
    sum = sum * keep + weight;
    UA_LANES (lane) {
      UA_UNROLL
      for (int j = 0; j < kVectors; ++j) o[j][lane] = fused(weight, v[j][lane], o[j][lane] * keep);
    }
  }
  UA_LANES (lane) {
    UA_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      if (lane + 32 * j < dim) out[lane + 32 * j] = o[j][lane] / sum;
    }
  }
}

}  // namespace uniaudio::cuda
