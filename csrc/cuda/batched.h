// The batched path: frames of up to 64 streams (or 64 positions of a prefill) as ordinary launches,
// one after the other, each weight read once for all streams.
//
// The persistent kernel (persistent.h) keeps all activations in every block's shared memory, which
// 8 columns fill. Here each block of a product holds one part of the inputs, as a warp does there:
// there are kWarps ranges of k tiles, whose sums go to memory and are added in the same order. The
// mma instructions, tiles, norms and attention are the same, so a stream's bits are those that it
// gives alone.
//
//   launch     computes                                    a block takes
//   product    x -> norm -> partial sums                   8 or 16 row tiles, one range
//   row        partial sums -> next x, its moments         one column
//   attend     partial sums -> q, k, v -> attended         one column, one key head (global stack)
//   few        the same for the local stack                one column
//   sample     partial sums -> logits -> id                one column
//
// Nothing but memory differs from frame to frame, so a device may record the launches once and play
// them again.
#pragma once

#include <variant>

#include "params.h"
#include "batched_product.h"

namespace uniaudio::cuda {

// --- the row of a column -------------------------------------------------------------------------

// A column's place in its launch, in device memory: the new ids [K], then these.
enum { kMade, kEnded, kError, kRound, kPlaces };
UA_HD int state_stride(int codebooks) { return codebooks + kPlaces; }

enum class Row : int {
  begin,   // the frame's input
  slot,    // the local stack's input: of the bridge's product, the id before, or both
  add,     // x + product
  hidden,  // gelu(product)
  hidden_tanh,
  gated,  // silu(gate) * up; a tile holds four gates and the four rows that they open
};

struct BatchedRow {
  Row how;
  int columns, width;
  Totals from;
  const float* bias;
  float* x;   // [columns][width]
  Norm norm;  // of the next product, and whether it wants the largest value
  bool peaks;
  float* stats;
  // begin, slot
  const float *positions, *aligned_embed;
  LocalTable embed;
  const Column* column;
  const int32_t* state;
  int codebooks, aligned_slots, slot, local_slot, start_id;
  bool prefill, bridged, embedded;
  // the end of a stack: what is normalised itself, and the largest values of its slices
  float *out, *slice_peaks;
  int slices;
};
inline int batched_blocks(const BatchedRow& p) { return p.columns; }
inline size_t batched_smem(const BatchedRow& p) { return size_t(p.width) * 4 + 16; }

UA_HD float batched_value(const BatchedRow& p, int c, int i) {
  const size_t at = size_t(c) * p.width + i;
  if (p.how == Row::add) return p.x[at] + total_of(p.from, p.bias, c, i);
  if (p.how == Row::hidden) return gelu_of(total_of(p.from, p.bias, c, i));
  if (p.how == Row::hidden_tanh) return gelu_tanh_of(total_of(p.from, p.bias, c, i));
  if (p.how == Row::gated) {
    const int row = i / 4 * kTileRows + i % 4;
    return silu_of(total_of(p.from, p.bias, c, row)) * total_of(p.from, p.bias, c, row + 4);
  }
  const int32_t* const ids = p.state + c * state_stride(p.codebooks);
  float v = 0;
  size_t position = size_t(p.local_slot);
  if (p.how == Row::slot) {
    if (p.embedded)
      v = local_embedding(p.embed, p.slot == 0 ? p.start_id : ids[p.slot - 1], p.width, i);
    if (p.bridged) {
      const float h = total_of(p.from, p.bias, c, i);
      v = p.embedded ? v + h : h;
    }
  } else {
    const Column& column = p.column[c];
    const int round = ids[p.codebooks + kRound];
    position = size_t(column.position + round);
    v = p.prefill ? column.rows[i] : column.last[i];
    if (!p.prefill && column.aligned) {
      for (int g = 0; g < p.aligned_slots; ++g) {
        const int32_t id = column.aligned[size_t(round) * p.aligned_slots + g];
        if (id >= 0) v = v + p.aligned_embed[size_t(id) * p.width + i];
      }
    }
  }
  return p.positions ? v + p.positions[position * p.width + i] : v;
}

UA_HD void batched_run(Block& block, const BatchedRow& p) {
  const int c = block.index;
  float* const row = reinterpret_cast<float*>(block.smem);
  float* const found = row + p.width;  // mean, inverse
  uint32_t* const peak = reinterpret_cast<uint32_t*>(found + 2);
  block.threads([&](int tid) {
    for (int i = tid; i < p.width; i += kThreads)
      p.x[size_t(c) * p.width + i] = row[i] = batched_value(p, c, i);
    if (tid == 0) found[0] = 0, found[1] = 1, *peak = 0;
    if (p.out && tid < p.slices) p.slice_peaks[c * p.slices + tid] = 0;
  });
  block.sync();
  if (p.norm.weight) {
    block.warps([&](int warp) {
      if (warp != 0) return;
      float mean, inverse;
      moments(row, p.width, p.norm, mean, inverse);
      UA_LANES (lane) {
        if (lane == 0) found[0] = mean, found[1] = inverse;
      }
    });
    block.sync();
  }
  if (p.peaks || p.out) {
    block.threads([&](int tid) {
      float most = 0;
      for (int i = tid; i < p.width; i += kThreads) {
        const float v = normalised(p.norm, row[i], i, found[0], found[1]), size = v < 0 ? -v : v;
        most = size > most ? size : most;
        if (!p.out) continue;
        p.out[size_t(c) * p.width + i] = v;
        max_shared(
            reinterpret_cast<uint32_t*>(p.slice_peaks) + c * p.slices + i / (p.width / p.slices),
            bits_of(size));
      }
      max_shared(peak, bits_of(most));
    });
    block.sync();
  }
  block.threads([&](int tid) {
    float* const s = p.stats + c * kStats;
    if (tid == 0)
      s[kMean] = found[0], s[kInverse] = found[1], s[kPeak] = float_of(*peak), s[kAttended] = 0;
  });
}

// --- attention -----------------------------------------------------------------------------------

struct BatchedAttend {
  Totals qkv;
  const float* bias;
  int columns, heads, kv_heads, dim, layer, codebooks;
  HeadNorm norm;
  const float* angles;
  const Column* column;
  const int32_t* state;
  // of positions of one stream, all are written before any is attended to
  bool half, write, attend;
  float *out, *stats;  // [columns][heads dim]
};
inline int batched_blocks(const BatchedAttend& p) { return p.columns * p.kv_heads; }
inline size_t batched_smem(const BatchedAttend& p) {
  const int padded = padded_dim(p.dim), group = p.heads / p.kv_heads;
  return size_t(2 * (group + 2) * padded + kGroups * (padded + 4) + kSplits * (p.dim + 2)) * 4;
}

UA_HD void batched_run(Block& block, const BatchedAttend& p) {
  const int c = block.index / p.kv_heads, kv = block.index % p.kv_heads, dim = p.dim,
            padded = padded_dim(dim), group = p.heads / p.kv_heads;
  // [group + 2][padded]: queries, key, value
  float* const raw = reinterpret_cast<float*>(block.smem);
  float* const ready = raw + (group + 2) * padded;     // the same, turned
  float* const subs = ready + (group + 2) * padded;    // [kGroups][padded + 4]
  float* const parts = subs + kGroups * (padded + 4);  // [kSplits][dim + 2]
  const Column& column = p.column[c];
  const int64_t t = column.position + p.state[c * state_stride(p.codebooks) + p.codebooks + kRound];
  const size_t base = (size_t(p.layer) * p.kv_heads + kv) * size_t(column.capacity);
  block.threads([&](int tid) {
    for (int i = tid; i < (group + 2) * padded; i += kThreads) {
      const int h = i / padded, at = i % padded;
      const int row = (h < group    ? kv * group + h
                       : h == group ? p.heads + kv
                                    : p.heads + p.kv_heads + kv) *
                          dim +
                      at;
      raw[i] = at < dim ? total_of(p.qkv, p.bias, c, row) : 0.0f;
    }
  });
  block.sync();
  normalise_heads(block, p.norm, raw, group + 2, group, padded, dim);
  const float scale = 1.0f / square_root(float(dim));
  block.threads([&](int tid) {
    for (int i = tid; i < (group + 2) * padded; i += kThreads) {
      const int h = i / padded, at = i % padded;
      const float v = at < dim
                          ? turned(raw + h * padded, at, dim,
                                   p.angles && h <= group ? p.angles + size_t(t) * dim : nullptr)
                          : 0.0f;
      ready[i] = h < group ? v * scale : v;
      if (p.write && h >= group)
        store_cache(h == group ? column.keys : column.values, (base + size_t(t)) * padded + at,
                    p.half, v);
    }
  });
  block.sync();
  if (!p.attend) return;
  const int splits = splits_at(t);
  for (int g = 0; g < group; ++g) {
    for (int split = 0; split < splits; ++split) {
      attend_head(block, {column.keys, column.values, base, dim, p.half}, split, t + 1,
                  ready + g * padded, subs);
      block.threads([&](int tid) {
        for (int at = tid; at < dim + 2; at += kThreads)
          parts[split * (dim + 2) + at] = of_groups(subs, padded, dim, at);
      });
      block.sync();
    }
    block.threads([&](int tid) {
      for (int at = tid; at < dim; at += kThreads) {
        float found[3][kSplits];
        UA_UNROLL
        for (int k = 0; k < kSplits; ++k) {
          const float* const part = parts + (k < splits ? k : 0) * (dim + 2);
          found[0][k] = part[dim], found[1][k] = part[dim + 1], found[2][k] = part[at];
        }
        const float v = of_splits(found, splits);
        p.out[(size_t(c) * p.heads + kv * group + g) * dim + at] = v;
        max_shared(reinterpret_cast<uint32_t*>(p.stats) + c * kStats + kAttended,
                   bits_of(v) & 0x7FFFFFFFu);
      }
    });
    block.sync();
  }
}

struct BatchedAttendFew {
  Totals qkv;
  const float* bias;
  int columns, heads, kv_heads, dim, width, layer, layers, slot;
  HeadNorm norm;
  const float* angles;
  float* known;        // [slots][layers][columns][qkv]: of this frame's slots
  float *out, *stats;  // [columns][heads dim]
};
inline int batched_blocks(const BatchedAttendFew& p) { return p.columns; }
inline size_t batched_smem(const BatchedAttendFew&) { return 16; }

UA_HD void batched_run(Block& block, const BatchedAttendFew& p) {
  const int c = block.index;
  const auto of_slot = [&](int t) {
    return p.known + (size_t(t * p.layers + p.layer) * p.columns + c) * p.width;
  };
  block.threads([&](int tid) {
    for (int i = tid; i < p.width; i += kThreads)
      of_slot(p.slot)[i] = total_of(p.qkv, p.bias, c, i);
  });
  block.sync();
  float* const out = p.out + size_t(c) * p.heads * p.dim;
  block.warps([&](int warp) {
    for (int h = warp; h < p.heads; h += kWarps)
      attend_few(p.heads, p.kv_heads, p.dim, p.norm, p.angles, p.slot, h, out + h * p.dim,
                 [&](int t, int i) { return of_slot(t)[i]; });
  });
  block.sync();
  block.threads([&](int tid) {
    float most = 0;
    for (int i = tid; i < p.heads * p.dim; i += kThreads) {
      const float size = out[i] < 0 ? -out[i] : out[i];
      most = size > most ? size : most;
    }
    max_shared(reinterpret_cast<uint32_t*>(p.stats) + c * kStats + kAttended, bits_of(most));
  });
}

// --- ids -----------------------------------------------------------------------------------------

struct BatchedSample {
  Totals logits;
  const int32_t* list;
  int start;  // the id of the head's first row
  int columns, vocab, codebooks, slot, width;
  bool last;
  const Column* column;
  int32_t* state;
  Embedding embed;
};
inline int batched_blocks(const BatchedSample& p) { return p.columns; }
inline size_t batched_smem(const BatchedSample& p) {
  return size_t(kSampleBytes + (p.vocab + 31) / 32 * 4 + p.logits.rows * 4);
}

UA_HD void batched_run(Block& block, const BatchedSample& p) {
  const int c = block.index, n = p.logits.rows;
  const Column& column = p.column[c];
  if (column.conditional >= 0) return;
  SampleScratch& scratch = *reinterpret_cast<SampleScratch*>(block.smem);
  uint32_t* const marks = reinterpret_cast<uint32_t*>(block.smem + kSampleBytes);
  float* const v = reinterpret_cast<float*>(marks + (p.vocab + 31) / 32);
  block.threads([&](int tid) {
    for (int i = tid; i < n; i += kThreads) {
      const int row = p.list[i / kTileRows] * kTileRows + i % kTileRows;
      v[i] = total_of(p.logits, c, i, row);
      if (column.unconditional >= 0) {
        const float x = total_of(p.logits, column.unconditional, i, row);
        v[i] = x + column.guidance * (v[i] - x);
      }
    }
  });
  block.sync();
  int32_t* const own = p.state + c * state_stride(p.codebooks);
  const int round = own[p.codebooks + kRound];
  const int64_t t = column.position + round, generated = column.generated + round;
  const bool tied = column.sampling.tie && p.slot > 0;
  int32_t id = tied ? own[0] : 0;
  uint32_t bad = 0;
  bool over = false;
  if (!tied) {
    id = sample(block, scratch, marks, p.vocab, v, n, p.list, p.start, column.sampling, p.slot,
                uint64_t(column.key_frame + t),
                column.history + (t - generated) * p.codebooks + p.slot, p.codebooks, generated);
    bad = scratch.bad;
    over = ends(column.sampling, p.slot, id);
    id = final_id(column.sampling, p.slot, id);
  }
  block.sync();  // round and id are read
  const int both = column.unconditional >= 0 ? 2 : 1;
  block.threads([&](int tid) {
    if (tid >= both) return;
    const int to = tid == 0 ? c : column.unconditional;
    const Column& whose = p.column[to];
    int32_t* const ids = p.state + to * state_stride(p.codebooks);
    int32_t* const place = ids + p.codebooks;
    int32_t* const past = whose.history + (whose.position + round) * p.codebooks;
    for (int k = p.slot; k < (column.sampling.tie ? p.codebooks : p.slot + 1); ++k)
      ids[k] = past[k] = id;
    if (bad && place[kError] == 0) place[kError] = int32_t(bad);
    if (over && place[kEnded] == kGoesOn) place[kEnded] = kEndsHere;
    if (!p.last) return;
    if (takes_frame(place[kEnded], column.sampling.keep_end != 0) && !place[kError]) ++place[kMade];
    if (place[kEnded] == kEndsHere) place[kEnded] = kEndedBefore;
    ++place[kRound];
    for (int i = 0; i < 3; ++i) whose.result[i] = place[i];
  });
  block.sync();
  if (!p.last) return;
  for (int i = 0; i < both; ++i) {
    const int to = i == 0 ? c : column.unconditional;
    const int32_t* const ids = p.state + to * state_stride(p.codebooks);
    if (ids[p.codebooks + kMade] != ids[p.codebooks + kRound]) continue;  // this frame was not made
    block.threads([&](int tid) {
      for (int at = tid; at < p.width; at += kThreads)
        p.column[to].last[at] = embedding(p.embed, ids, at);
    });
  }
}

using BatchedOp =
    std::variant<BatchedProduct, BatchedRow, BatchedAttend, BatchedAttendFew, BatchedSample>;

}  // namespace uniaudio::cuda
