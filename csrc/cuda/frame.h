// Frames of the multi-scale LM by one kernel that stays: blocks hold their rows of every matrix,
// weights stream in (stream.h), activations go round by exchanges (exchange.h), and every block
// keeps the residual of its own. docs/cuda.md says why.
//
// `Frames::step` runs one phase and says whether it could; the device calls it until the launch is
// done, the host calls it for blocks in random order. Phases of a layer, each beginning with the
// gather of what the one before put:
//
//   kQkv     x (in: the frame's embedding, or x of the layer before) -> norm -> q, k, v            all blocks: rows of W
//   kAttend  global stack: positions of one key head in kSplits parts -> partial sums              a block for each (head, split)
//   kO       partial sums, or the local stack's few positions -> attended -> x + o                  all blocks
//   kUp      x -> norm -> hidden                                                                    all blocks
//   kDown    hidden -> x                                                                            all blocks
//
// After the global layers kEnd (final norm); for each slot kBridge (where the slot takes h in), the
// local layers, kHead (logits of the rows that the slot may emit), kSample and, with several
// columns, kIds.
//
// Exchange buffers and who may still read them: kO and kDown have at least one row tile for every
// block (plan.h), so a block that has gathered x knows that all others have put theirs, and so have
// read all that came before. Each buffer's next use lies behind such a gather.
#pragma once

#include "params.h"

namespace uniaudio::cuda {

enum class Phase : int { kQkv, kAttend, kO, kUp, kDown, kEnd, kBridge, kHead, kSample, kIds };

template <int kColumns, int kDepth>
struct Frames {
  Ring<kDepth> ring;
  uint32_t epoch;               // of the latest exchange
  int round, slot, layer, job;  // slot -1: global stack; job: the next product of this round
  Phase phase;

  UA_HD void start(Block& block, const FrameParams& p) {
    ring.start(block.smem + p.at_ring, p.jobs, p.job_count, p.rounds, block.index, block.count);
    epoch = p.epoch;
    round = 0, slot = -1, layer = 0, job = 0;
    phase = Phase::kQkv;
    int32_t* const state = codes(block, p);
    block.threads([&](int tid) {
      for (int i = tid; i < state_size(p); i += kThreads) state[i] = 0;
    });
    block.sync();
  }
  UA_HD bool done(const FrameParams& p) const { return round == p.rounds; }

  UA_HD bool step(Block& block, const FrameParams& p) {
    const StackParams& s = slot < 0 ? p.global : p.local;
    switch (phase) {
      case Phase::kQkv: return qkv(block, p, s);
      case Phase::kAttend: return attend(block, p);
      case Phase::kO: return output(block, p, s);
      case Phase::kUp: return up(block, p, s);
      case Phase::kDown: return down(block, p, s);
      case Phase::kEnd: return end(block, p);
      case Phase::kBridge: return bridge(block, p);
      case Phase::kHead: return head(block, p);
      case Phase::kSample: return sample_slot(block, p);
      case Phase::kIds: return gather_ids(block, p);
    }
    return true;
  }

 private:
  // --- shared memory -----------------------------------------------------------------------------
  // codes [columns][K] of the last frame that counts, then new ones [columns][K], then per column:
  // made, ended, error
  static UA_HD int32_t* codes(Block& b, const FrameParams& p) {
    return reinterpret_cast<int32_t*>(b.smem + p.at_codes);
  }
  static UA_HD int32_t* fresh(Block& b, const FrameParams& p) {
    return codes(b, p) + p.columns * p.codebooks;
  }
  static UA_HD int32_t* made(Block& b, const FrameParams& p) {
    return fresh(b, p) + p.columns * p.codebooks;
  }
  static UA_HD int state_size(const FrameParams& p) { return p.columns * (2 * p.codebooks + 3); }
  UA_HD float* x_of(Block& b, const FrameParams& p) const {
    return reinterpret_cast<float*>(b.smem + (slot < 0 ? p.at_x : p.at_local_x));
  }
  static UA_HD float* parts_of(Block& b, const FrameParams& p) {
    return reinterpret_cast<float*>(b.smem + p.at_parts);
  }
  // [3][kMaxColumns]
  static UA_HD float* scale_of(Block& b, const FrameParams& p) {
    return reinterpret_cast<float*>(b.smem + p.at_scale);
  }

  UA_HD Operand operand(Block& b, const FrameParams& p, Format format, const Job& j) const {
    return {b.smem + p.at_operand, scale_of(b, p), operand_stride(format, j.k_tiles), format};
  }

  // --- operands ----------------------------------------------------------------------------------
  // x [columns][stride] -> operand.  Ends with a barrier.
  UA_HD void fill(Block& block, const FrameParams& p, const Operand& o, const Job& j,
                  const float* x, int stride, int n, const Norm& norm) {
    float* const stats = scale_of(block, p);  // scale, mean, inverse
    pad_operand(block, o, p.columns, n, j.k_tiles);
    if (norm.weight || o.format == Format::int8) {
      block.warps([&](int warp) {
        for (int c = warp; c < p.columns; c += kWarps) {
          const float* from = x + c * stride;
          float mean = 0, inverse = 1;
          if (norm.weight) moments(from, n, norm, mean, inverse);
          Lane<float> most;
          if (o.format == Format::int8) {
            UA_LANES (lane) {
              float m = 0;
              for (int i = lane; i < n; i += 32) {
                const float v = normalised(norm, from[i], i, mean, inverse), size = v < 0 ? -v : v;
                m = size > m ? size : m;
              }
              most[lane] = m;
            }
            warp_max(most);
          }
          UA_LANES (lane) {
            if (lane == 0) {
              stats[kMaxColumns + c] = mean, stats[2 * kMaxColumns + c] = inverse;
              if (o.format == Format::int8) stats[c] = most[lane];
            }
          }
        }
      });
      block.sync();
    }
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * n; i += kThreads) {
        const int c = i / n, at = i % n;
        const float v = normalised(norm, x[c * stride + at], at, stats[kMaxColumns + c],
                                   stats[2 * kMaxColumns + c]);
        set_operand(o, p.columns, c, at, v, stats[c]);
      }
    });
    block.sync();
    if (o.format == Format::int8) finish_scales(block, p, stats);
  }
  // From the largest value to what a unit of the integers stands for.
  static UA_HD void finish_scales(Block& block, const FrameParams& p, float* stats) {
    block.threads([&](int tid) {
      if (tid < p.columns) stats[tid] = unit_of(stats[tid]);
    });
    block.sync();
  }

  // --- products ----------------------------------------------------------------------------------
  // Calls out(column, row, sum) for the block's rows below `rows`, from any thread, and goes on to
  // the next job. `parts` is free again after.
  template <class F>
  UA_HD void multiply(Block& block, const FrameParams& p, const Job& j, const Operand& o,
                      const float* scale, int rows, F out) {
    float* const parts = parts_of(block, p);
    product<kColumns>(block, ring, j, o, p.columns, parts);
    const int begin = range_begin(block.index, block.count, j.row_tiles) * kTileRows,
              end = range_begin(block.index + 1, block.count, j.row_tiles) * kTileRows;
    const int count = (end < rows ? end : rows) - begin;
    block.threads([&](int tid) {
      for (int i = tid; i < count * p.columns; i += kThreads)
        out(i / count, begin + i % count,
            total<kColumns>(parts, o, i % count, i / count, scale, begin + i % count));
    });
    ++job;
    ++epoch;
    block.sync();
  }

  // --- phases ------------------------------------------------------------------------------------
  UA_HD bool qkv(Block& block, const FrameParams& p, const StackParams& s) {
    float* const x = x_of(block, p);
    const int d = s.width;
    if (layer > 0) {
      if (!gather(block, p.x2, p.columns, d, even(d), epoch,
                  [&](int c, int i, float v) { x[c * d + i] = v; }))
        return false;
    } else if (slot < 0) {
      begin_frame(block, p, x);
    } else if (!begin_slot(block, p, x)) {
      return false;
    }
    block.sync();
    const LayerParams& l = s.layer[layer];
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, s.format, j);
    fill(block, p, o, j, x, d, d, norm_of(s, l.attn_norm, l.attn_norm_bias));
    const int stride = even(s.qkv);
    Word* const to =
        slot < 0 ? p.qkv : p.local_qkv + size_t(slot * s.layers + layer) * p.columns * stride;
    multiply(block, p, j, o, l.qkv_scale, s.qkv, [&](int c, int row, float v) {
      put(to + c * stride + row, l.qkv_bias ? v + l.qkv_bias[row] : v, epoch + 1);
    });
    phase = slot < 0 ? Phase::kAttend : Phase::kO;
    return true;
  }

  // The input of the global stack: x [columns][D].
  UA_HD void begin_frame(Block& block, const FrameParams& p, float* x) {
    const int d = p.global.width;
    const int32_t* const ids = codes(block, p);
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * d; i += kThreads) {
        const int c = i / d, at = i % d;
        const Column& column = p.column[c];
        if (p.slots == 0) {
          x[i] = column.rows[size_t(round) * p.columns * d + at];
        } else {
          float v = round == 0 || made(block, p)[3 * c] == 0
                        ? column.last[at]
                        : embedding(p.embed, ids + c * p.codebooks, at);
          if (column.aligned) {
            for (int g = 0; g < p.aligned_slots; ++g) {
              const int32_t id = column.aligned[size_t(round) * p.aligned_slots + g];
              if (id >= 0) v = v + p.aligned_embed[size_t(id) * d + at];
            }
          }
          x[i] = v;
        }
        if (p.global.positions) x[i] = x[i] + p.global.positions[size_t(position(p, c)) * d + at];
      }
    });
  }
  UA_HD int64_t position(const FrameParams& p, int c) const {
    return p.column[c].position + int64_t(round) * (p.slots == 0 ? p.columns : 1);
  }

  // The input of the local stack at this slot.
  UA_HD bool begin_slot(Block& block, const FrameParams& p, float* x) {
    const int d = p.local.width;
    const bool bridged = p.add || slot == 0, embedded = p.add || slot > 0;
    const int32_t* const ids = fresh(block, p);
    if (bridged && !gather(block, p.bridged, p.columns, d, even(d), epoch,
                           [&](int c, int i, float v) { x[c * d + i] = v; }))
      return false;
    block.sync();
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * d; i += kThreads) {
        const int c = i / d, at = i % d;
        float v = 0;
        if (embedded)
          v = p.local_embed[size_t(slot == 0 ? p.local_start : ids[c * p.codebooks + slot - 1]) *
                                d +
                            at];
        if (bridged) v = embedded ? v + x[i] : x[i];
        if (p.local.positions) v = v + p.local.positions[size_t(slot) * d + at];
        x[i] = v;
      }
    });
    return true;
  }

  // --- attention of the global stack -------------------------------------------------------------
  UA_HD bool attend(Block& block, const FrameParams& p) {
    const StackParams& s = p.global;
    const int dim = s.dim, wide = padded_dim(dim), group = s.heads / s.kv_heads,
              units = s.kv_heads * kSplits, stride = even(s.qkv), part = even(dim + 2);
    // [columns][group + 2][wide]: queries, key, value as they come
    float* const raw = reinterpret_cast<float*>(block.smem + p.at_operand);
    float* const ready = raw + p.columns * (group + 2) * wide;  // the same, turned
    // [kGroups][wide + 4]
    float* const subs = ready + p.columns * (group + 2) * wide;
    for (int unit = block.index; unit < units; unit += block.count) {
      const int kv = unit / kSplits, split = unit % kSplits;
      // Three runs of each column's q, k, v.
      const int from[3] = {kv * group * dim, s.heads * dim + kv * dim,
                           (s.heads + s.kv_heads) * dim + kv * dim};
      for (int run = 0; run < 3; ++run) {
        const int count = run == 0 ? group * dim : dim,
                  to = run == 0 ? 0 : (group + run - 1) * wide;
        if (!gather_run(block, p.qkv + from[run], p.columns, count, stride,
                        [&](int c, int i, float v) {
                          raw[c * (group + 2) * wide + to + i / dim * wide + i % dim] = v;
                        })) {
          return false;
        }
      }
      block.sync();
      const float scale = 1.0f / square_root(float(dim));
      block.threads([&](int tid) {
        for (int i = tid; i < p.columns * (group + 2) * wide; i += kThreads) {
          const int c = i / ((group + 2) * wide), h = i / wide % (group + 2), at = i % wide;
          const float* angles =
              s.angles && h <= group ? s.angles + size_t(position(p, c)) * dim : nullptr;
          float v =
              at < dim ? turned(raw + c * (group + 2) * wide + h * wide, at, dim, angles) : 0.0f;
          ready[i] = h < group ? v * scale : v;
        }
      });
      block.sync();
      // The newest positions go into the cache by the block that reads them back: no other ever
      // does.
      block.threads([&](int tid) {
        for (int i = tid; i < p.columns * 2 * wide; i += kThreads) {
          const int c = i / (2 * wide), which = i / wide % 2, at = i % wide;
          const int64_t t = position(p, c);
          if (t / kChunk % kSplits != split) continue;
          const Column& column = p.column[c];
          const size_t to =
              ((size_t(layer) * s.kv_heads + kv) * size_t(column.capacity) + size_t(t)) * wide + at;
          store_cache(which ? column.values : column.keys, to, p.kv_half,
                      ready[c * (group + 2) * wide + (group + which) * wide + at]);
        }
      });
      block.sync();
      for (int c = 0; c < p.columns; ++c) {
        const int64_t t = position(p, c);
        if (split >= splits_at(t)) continue;
        for (int g = 0; g < group; ++g) {
          const size_t base = (size_t(layer) * s.kv_heads + kv) * size_t(p.column[c].capacity);
          attend_head(block, {p.column[c].keys, p.column[c].values, base, dim, p.kv_half}, split,
                      t + 1, ready + (c * (group + 2) + g) * wide, subs);
          Word* const to = p.part + (size_t(c * s.heads + kv * group + g) * kSplits + split) * part;
          block.threads([&](int tid) {
            for (int at = tid; at < dim + 2; at += kThreads)
              put(to + at, of_groups(subs, wide, dim, at), epoch + 1);
          });
          block.sync();
        }
      }
    }
    ++epoch;
    phase = Phase::kO;
    return true;
  }

  // As gather, for runs that begin and end anywhere.
  template <class F>
  UA_HD bool gather_run(Block& block, const Word* from, int columns, int n, int stride, F sink) {
#ifdef UA_DEVICE
    for (int i = int(threadIdx.x); i < columns * n; i += kThreads) {
      Word w = peek(from + i / n * stride + i % n);
      for (Patience patience; !arrived(w, epoch); patience.more())
        w = peek(from + i / n * stride + i % n);
      sink(i / n, i % n, value_of(w));
    }
    return true;
#else
    return gather(block, from, columns, n, stride, epoch, sink);
#endif
  }

  // --- the rest of a layer -----------------------------------------------------------------------
  UA_HD bool output(Block& block, const FrameParams& p, const StackParams& s) {
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, s.format, j);
    // [columns][width], attended
    float* const flat = reinterpret_cast<float*>(block.smem + p.at_flat);
    if (slot < 0 ? !join(block, p, flat) : !attend_local(block, p, flat)) return false;
    block.sync();
    fill(block, p, o, j, flat, s.width, s.width, Norm{});
    return add(block, p, s, j, o, s.layer[layer].o_scale, s.layer[layer].o_bias, p.x1, Phase::kUp);
  }

  // Puts x + product.
  UA_HD bool add(Block& block, const FrameParams& p, const StackParams& s, const Job& j,
                 const Operand& o, const float* scale, const float* bias, Word* to, Phase next) {
    const float* const x = x_of(block, p);
    const int d = s.width, stride = even(d);
    multiply(block, p, j, o, scale, d, [&](int c, int row, float v) {
      put(to + c * stride + row, x[c * d + row] + (bias ? v + bias[row] : v), epoch + 1);
    });
    phase = next;
    return true;
  }

  // The splits' partial sums -> attended.
  UA_HD bool join(Block& block, const FrameParams& p, float* flat) {
    const StackParams& s = p.global;
    const int dim = s.dim, part = even(dim + 2), n = s.heads * dim;
#ifndef UA_DEVICE
    for (int c = 0; c < p.columns; ++c) {
      for (int i = 0; i < s.heads * kSplits; ++i) {
        for (int at = 0; i % kSplits < splits_at(position(p, c)) && at < dim + 2; ++at) {
          if (!host_ready(block.host, p.part[size_t(c * s.heads * kSplits + i) * part + at], epoch))
            return false;
        }
      }
    }
#endif
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * n; i += kThreads) {
        const int c = i / n, h = i % n / dim, at = i % dim, splits = splits_at(position(p, c));
        const Word* from = p.part + size_t(c * s.heads + h) * kSplits * part;
        Word most[kSplits], sum[kSplits], value[kSplits];
        bool again = true;
        for (Patience patience; again; patience.more()) {
          again = false;
          UA_UNROLL
          for (int k = 0; k < kSplits; ++k) {
            if (k < splits)
              most[k] = peek(from + k * part + dim), sum[k] = peek(from + k * part + dim + 1),
              value[k] = peek(from + k * part + at);
          }
          UA_UNROLL
          for (int k = 0; k < kSplits; ++k)
            again = again || (k < splits && !(arrived(most[k], epoch) && arrived(sum[k], epoch) &&
                                              arrived(value[k], epoch)));
        }
        float parts[3][kSplits];
        UA_UNROLL
        for (int k = 0; k < kSplits; ++k) {
          if (k < splits)
            parts[0][k] = value_of(most[k]), parts[1][k] = value_of(sum[k]),
            parts[2][k] = value_of(value[k]);
        }
        flat[i] = of_splits(parts, splits);
      }
    });
    return true;
  }

  // The local stack sees at most K positions: each block attends to all of them by itself, out of
  // the exchanges of this frame's slots.
  UA_HD bool attend_local(Block& block, const FrameParams& p, float* flat) {
    const StackParams& s = p.local;
    const int dim = s.dim, stride = even(s.qkv);
    float* const now = reinterpret_cast<float*>(block.smem + p.at_operand);  // [columns][stride]
    const Word* const here = p.local_qkv + size_t(slot * s.layers + layer) * p.columns * stride;
    if (!gather(block, here, p.columns, s.qkv, stride, epoch,
                [&](int c, int i, float v) { now[c * stride + i] = v; }))
      return false;
    block.sync();
    block.warps([&](int warp) {
      for (int i = warp; i < p.columns * s.heads; i += kWarps) {
        const int c = i / s.heads, h = i % s.heads;
        attend_few(
            s.heads, s.kv_heads, dim, s.angles, slot, h, flat + c * s.width + h * dim,
            [&](int t, int at) {
              return t == slot ? now[c * stride + at]
                               : value_of(peek(
                                     p.local_qkv +
                                     (size_t(t * s.layers + layer) * p.columns + c) * stride + at));
            });
      }
    });
    return true;
  }

  UA_HD bool up(Block& block, const FrameParams& p, const StackParams& s) {
    float* const x = x_of(block, p);
    const int d = s.width, stride = even(s.hidden);
    if (!gather(block, p.x1, p.columns, d, even(d), epoch,
                [&](int c, int i, float v) { x[c * d + i] = v; }))
      return false;
    block.sync();
    const LayerParams& l = s.layer[layer];
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, s.format, j);
    fill(block, p, o, j, x, d, d, norm_of(s, l.mlp_norm, l.mlp_norm_bias));
    if (!s.swiglu) {
      multiply(block, p, j, o, l.up_scale, s.hidden, [&](int c, int row, float v) {
        put(p.hidden + c * stride + row, gelu_of(l.up_bias ? v + l.up_bias[row] : v), epoch + 1);
      });
    } else {
      // A tile holds four gates and the four rows that they open.
      const float* const parts = parts_of(block, p);
      const int first = range_begin(block.index, block.count, j.row_tiles) * kTileRows;
      multiply(block, p, j, o, l.up_scale, s.up_rows, [&](int c, int row, float v) {
        const int unit = row / kTileRows * 4 + row % 4;
        if (row % kTileRows >= 4 || unit >= s.hidden) return;
        const float u = total<kColumns>(parts, o, row + 4 - first, c, l.up_scale, row + 4);
        const float gate = l.up_bias ? v + l.up_bias[row] : v,
                    open = l.up_bias ? u + l.up_bias[row + 4] : u;
        put(p.hidden + c * stride + unit, silu_of(gate) * open, epoch + 1);
      });
    }
    phase = Phase::kDown;
    return true;
  }

  UA_HD bool down(Block& block, const FrameParams& p, const StackParams& s) {
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, s.format, j);
    const int n = s.hidden;
    float* const stats = scale_of(block, p);
    const auto read = [&](auto sink) {
      return gather(block, p.hidden, p.columns, n, even(n), epoch, sink);
    };
    // the largest has to be known first; what has come is read again for that rather than kept
    if (o.format == Format::int8) {
      uint32_t* const most = reinterpret_cast<uint32_t*>(stats);
      block.threads([&](int tid) {
        if (tid < p.columns) most[tid] = 0;
      });
      block.sync();
      if (!read([&](int c, int, float v) { max_shared(&most[c], bits_of(v) & 0x7FFFFFFFu); }))
        return false;
      block.sync();
    }
    if (!read([&](int c, int i, float v) { set_operand(o, p.columns, c, i, v, stats[c]); }))
      return false;
    pad_operand(block, o, p.columns, n, j.k_tiles);
    block.sync();
    if (o.format == Format::int8) finish_scales(block, p, stats);
    const LayerParams& l = s.layer[layer];
    add(block, p, s, j, o, l.down_scale, l.down_bias, p.x2, Phase::kQkv);
    if (++layer == s.layers) layer = 0, phase = slot < 0 ? Phase::kEnd : Phase::kHead;
    return true;
  }

  UA_HD bool end(Block& block, const FrameParams& p) {
    const StackParams& s = p.global;
    float* const x = x_of(block, p);
    const int d = s.width;
    if (!gather(block, p.x2, p.columns, d, even(d), epoch,
                [&](int c, int i, float v) { x[c * d + i] = v; }))
      return false;
    block.sync();
    if (p.slots == 0) return next_round(p);
    normalise(block, p, s, x);
    slot = 0;
    phase = Phase::kBridge;
    return true;
  }
  // The final norm of a stack, in place.
  UA_HD void normalise(Block& block, const FrameParams& p, const StackParams& s, float* x) {
    const int d = s.width;
    float* const stats = scale_of(block, p);
    block.warps([&](int warp) {
      for (int c = warp; c < p.columns; c += kWarps) {
        float mean, inverse;
        moments(x + c * d, d, norm_of(s, s.norm, s.norm_bias), mean, inverse);
        UA_LANES (lane) {
          if (lane == 0) stats[kMaxColumns + c] = mean, stats[2 * kMaxColumns + c] = inverse;
        }
      }
    });
    block.sync();
    block.threads([&](int tid) {
      for (int i = tid; i < p.columns * d; i += kThreads)
        x[i] = normalised(norm_of(s, s.norm, s.norm_bias), x[i], i % d, stats[kMaxColumns + i / d],
                          stats[2 * kMaxColumns + i / d]);
    });
    block.sync();
  }
  UA_HD bool next_round(const FrameParams&) {
    ++round;
    slot = -1, layer = 0, job = 0;
    phase = Phase::kQkv;
    return true;
  }

  UA_HD bool bridge(Block& block, const FrameParams& p) {
    if (p.add || slot == 0) {
      const Job j = p.jobs[job];
      const Operand o = operand(block, p, p.head_format, j);
      const int n = p.add ? p.global.width / p.codebooks : p.global.width,
                stride = even(p.local.width);
      const float* const h =
          reinterpret_cast<const float*>(block.smem + p.at_x) + (p.add ? slot * n : 0);
      fill(block, p, o, j, h, p.global.width, n, Norm{});
      multiply(block, p, j, o, p.bridge_scale, p.local.width, [&](int c, int row, float v) {
        put(p.bridged + c * stride + row, v + p.bridge_bias[row], epoch + 1);
      });
    }
    phase = Phase::kQkv;
    return true;
  }

  UA_HD bool head(Block& block, const FrameParams& p) {
    const StackParams& s = p.local;
    float* const x = x_of(block, p);
    const int d = s.width;
    if (!gather(block, p.x2, p.columns, d, even(d), epoch,
                [&](int c, int i, float v) { x[c * d + i] = v; }))
      return false;
    block.sync();
    const Job j = p.jobs[job];
    const Operand o = operand(block, p, p.head_format, j);
    fill(block, p, o, j, x, d, d, norm_of(s, s.norm, s.norm_bias));
    const int n = j.row_tiles * kTileRows;
    // scales lie by id, logits by their place in the list
    const float* const parts = parts_of(block, p);
    const int first = range_begin(block.index, block.count, j.row_tiles) * kTileRows;
    multiply(block, p, j, o, nullptr, 0, [](int, int, float) {});
    const int count = range_begin(block.index + 1, block.count, j.row_tiles) * kTileRows - first;
    block.threads([&](int tid) {
      for (int i = tid; i < count * p.columns; i += kThreads) {
        const int c = i / count, r = i % count, at = first + r;
        put(p.logits + size_t(c) * n + at,
            total<kColumns>(parts, o, r, c, p.head_scale,
                            j.list[at / kTileRows] * kTileRows + at % kTileRows),
            epoch);
      }
    });
    block.sync();
    phase = Phase::kSample;
    return true;
  }

  UA_HD bool sample_slot(Block& block, const FrameParams& p) {
    const Job& j = p.jobs[job - 1];
    const int n = j.row_tiles * kTileRows;
    SampleScratch& scratch = *reinterpret_cast<SampleScratch*>(block.smem + p.at_operand);
    uint32_t* const marks = reinterpret_cast<uint32_t*>(block.smem + p.at_operand + kSampleBytes);
    float* const v = reinterpret_cast<float*>(marks + (p.vocab + 31) / 32);
    int32_t *const ids = fresh(block, p), *const state = made(block, p);
    const bool alone = p.columns == 1;  // then every block samples, which saves an exchange
    // Nothing below may run twice: all of a block's columns have to be there.
    const auto here = [&](int c) {
      return p.column[c].lead < 0 && (alone || c % block.count == block.index);
    };
    for (int c = 0; c < p.columns; ++c) {
      if (!here(c)) continue;
#ifndef UA_DEVICE
      for (int i = 0; i < n; ++i) {
        if (!host_ready(block.host, p.logits[size_t(c) * n + i], epoch)) return false;
        if (p.column[c].plain >= 0 &&
            !host_ready(block.host, p.logits[size_t(p.column[c].plain) * n + i], epoch))
          return false;
      }
#endif
    }
    for (int c = 0; c < p.columns; ++c) {
      if (!here(c)) continue;
      const Column& column = p.column[c];
      gather(block, p.logits + size_t(c) * n, 1, n, n, epoch,
             [&](int, int i, float x) { v[i] = x; });
      block.sync();
      if (column.plain >= 0) {
        const float scale = column.guidance;
        gather(block, p.logits + size_t(column.plain) * n, 1, n, n, epoch,
               [&](int, int i, float x) { v[i] = x + scale * (v[i] - x); });
        block.sync();
      }
      const int64_t t = position(p, c), generated = column.generated + round;
      int32_t* const history = column.history + t * p.codebooks;
      const bool tied = column.sampling.tie && slot > 0;
      int32_t id = tied ? ids[c * p.codebooks] : 0;
      uint32_t bad = 0;
      if (column.forced) {
        id = column.forced[size_t(round) * p.codebooks + slot];
        float* const out = column.logits + (size_t(round) * p.codebooks + slot) * n;
        block.threads([&](int tid) {
          for (int i = tid; i < n; i += kThreads) out[i] = v[i];
        });
      } else if (!tied) {
        id = sample(block, scratch, marks, p.vocab, v, n, j.list, column.sampling, slot,
                    uint64_t(column.key_frame + t), history - generated * p.codebooks + slot,
                    p.codebooks, generated);
        bad = scratch.bad;
      }
      block.threads([&](int tid) {
        if (tid != 0) return;
        const auto tell = [&](int to, int32_t* past) {
          if (alone) {
            ids[slot] = id;
            if (bad && state[2] == 0) state[2] = int32_t(bad);
          } else {
            put(p.ids + 2 * to, float_of(uint32_t(id)), epoch + 1);
            put(p.ids + 2 * to + 1, float_of(bad), epoch + 1);
          }
          past[slot] = id;
          if (column.sampling.tie) {
            for (int k = slot; k < p.codebooks; ++k) past[k] = id;
          }
        };
        tell(c, history);
        if (column.plain >= 0)
          tell(column.plain,
               p.column[column.plain].history + position(p, column.plain) * p.codebooks);
      });
      block.sync();
    }
    if (!alone) ++epoch;
    phase = Phase::kIds;
    return true;
  }

  UA_HD bool gather_ids(Block& block, const FrameParams& p) {
    int32_t *const ids = fresh(block, p), *const state = made(block, p);
    if (p.columns > 1) {
      if (!gather(block, p.ids, p.columns, 2, 2, epoch, [&](int c, int i, float v) {
            if (i == 0) ids[c * p.codebooks + slot] = int32_t(bits_of(v));
            if (i == 1 && bits_of(v) && state[3 * c + 2] == 0)
              state[3 * c + 2] = int32_t(bits_of(v));
          })) {
        return false;
      }
      block.sync();
    }
    const bool last = slot + 1 == p.slots;
    block.threads([&](int tid) {
      if (tid >= p.columns) return;
      const int c = tid;
      const Sampling& s = p.column[c].sampling;
      const int32_t id = ids[c * p.codebooks + slot];
      if (s.tie && slot == 0) {
        for (int k = 1; k < p.codebooks; ++k) ids[c * p.codebooks + k] = id;
      }
      if (id == s.end_id && s.end_slot[slot] && (slot == 0 || !s.tie)) state[3 * c + 1] = 1;
      if (!last || state[3 * c + 1] || state[3 * c + 2]) return;
      for (int k = 0; k < p.codebooks; ++k)
        codes(block, p)[c * p.codebooks + k] = ids[c * p.codebooks + k];
      ++state[3 * c];
    });
    block.sync();
    if (!last) {
      ++slot;
      phase = Phase::kBridge;
      return true;
    }
    const bool finished = round + 1 == p.rounds;
    if (finished && block.index == 0) {
      const int d = p.global.width;
      block.threads([&](int tid) {
        for (int i = tid; i < p.columns * d; i += kThreads) {
          if (state[i / d * 3] > 0)
            p.column[i / d].last[i % d] =
                embedding(p.embed, codes(block, p) + i / d * p.codebooks, i % d);
        }
        for (int i = tid; i < p.columns * 3; i += kThreads)
          p.column[i / 3].result[i % 3] = state[i];
      });
    }
    return next_round(p);
  }
};

}  // namespace uniaudio::cuda
