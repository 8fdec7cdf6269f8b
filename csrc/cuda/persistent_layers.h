// The layers of the persistent kernel: operands, products and the phases of a transformer layer,
// with the inputs of both stacks.
#pragma once

#include "persistent_frames.h"

namespace uniaudio::cuda {

// x [columns][stride] -> operand.  Ends with a barrier.
template <int kColumns, int kDepth>
UA_HD void Frames<kColumns, kDepth>::fill(Block& block, const FrameParams& p, const Operand& o,
                                          const Job& j, const float* x, int stride, int n,
                                          const Norm& norm) {
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
template <int kColumns, int kDepth>
UA_HD void Frames<kColumns, kDepth>::finish_scales(Block& block, const FrameParams& p,
                                                   float* stats) {
  block.threads([&](int tid) {
    if (tid < p.columns) stats[tid] = unit_of(stats[tid]);
  });
  block.sync();
}

// Calls out(column, row, sum) for the block's rows below `rows`, from any thread, and goes on to
// the next job. `parts` is free again after.
template <int kColumns, int kDepth>
template <class F>
UA_HD void Frames<kColumns, kDepth>::multiply(Block& block, const FrameParams& p, const Job& j,
                                              const Operand& o, const float* scale, int rows,
                                              F out) {
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

// The input of the global stack: x [columns][D].
template <int kColumns, int kDepth>
UA_HD void Frames<kColumns, kDepth>::begin_frame(Block& block, const FrameParams& p, float* x) {
  const int d = p.global.width;
  const int32_t* const ids = codes(block, p);
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * d; i += kThreads) {
      const int c = i / d, at = i % d;
      const Column& column = p.column[c];
      if (p.slots == 0) {
        x[i] = column.rows[size_t(round) * p.columns * d + at];
      } else {
        float v = round == 0 ? column.last[at] : embedding(p.embed, ids + c * p.codebooks, at);
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

// The input of the local stack at this slot.
template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::begin_slot(Block& block, const FrameParams& p, float* x) {
  const int d = p.local.width;
  const bool bridged = p.add || slot == 0, embedded = p.add || slot > 0;
  const int32_t* const ids = fresh(block, p);
  const int previous = p.rules.previous(slot);
  if (bridged && !gather(block, p.bridged, p.columns, d, even(d), epoch,
                         [&](int c, int i, float v) { x[c * d + i] = v; }))
    return false;
  block.sync();
  block.threads([&](int tid) {
    for (int i = tid; i < p.columns * d; i += kThreads) {
      const int c = i / d, at = i % d;
      float v = 0;
      if (embedded)
        v = slot == 0 ? local_embedding(p.local_table, p.local_start, d, at)
                      : local_embedding(p.local_table, ids + c * p.codebooks + slot - previous,
                                        previous, d, at);
      if (bridged) v = embedded ? v + x[i] : x[i];
      if (p.local.positions) v = v + p.local.positions[size_t(local_slot(p)) * d + at];
      x[i] = v;
    }
  });
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::qkv(Block& block, const FrameParams& p, const StackParams& s) {
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
  const LayerParams& l = layer_of(p, s);
  const Job j = p.jobs[job];
  const Operand o = operand(block, p, s.format, j);
  fill(block, p, o, j, x, d, d, norm_of(s, l.attn_norm, l.attn_norm_bias));
  const int stride = even(s.qkv);
  Word* const to =
      slot < 0 ? p.qkv
               : p.local_qkv + size_t(local_slot(p) * s.layers + layer) * p.columns * stride;
  multiply(block, p, j, o, l.qkv_scale, s.qkv, [&](int c, int row, float v) {
    put(to + c * stride + row, l.qkv_bias ? v + l.qkv_bias[row] : v, epoch + 1);
  });
  phase = slot < 0 ? Phase::kAttend : Phase::kO;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::output(Block& block, const FrameParams& p,
                                            const StackParams& s) {
  const Job j = p.jobs[job];
  const Operand o = operand(block, p, s.format, j);
  // [columns][heads * dim], attended
  float* const flat = reinterpret_cast<float*>(block.smem + p.at_flat);
  if (slot < 0 ? !join(block, p, flat) : !attend_local(block, p, flat)) return false;
  block.sync();
  fill(block, p, o, j, flat, s.heads * s.dim, s.heads * s.dim, Norm{});
  const LayerParams& l = layer_of(p, s);
  return add(block, p, s, j, o, l.o_scale, l.o_bias, p.x1, Phase::kUp);
}

// Puts x + product.
template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::add(Block& block, const FrameParams& p, const StackParams& s,
                                         const Job& j, const Operand& o, const float* scale,
                                         const float* bias, Word* to, Phase next) {
  const float* const x = x_of(block, p);
  const int d = s.width, stride = even(d);
  multiply(block, p, j, o, scale, d, [&](int c, int row, float v) {
    put(to + c * stride + row, x[c * d + row] + (bias ? v + bias[row] : v), epoch + 1);
  });
  phase = next;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::up(Block& block, const FrameParams& p, const StackParams& s) {
  float* const x = x_of(block, p);
  const int d = s.width, stride = even(s.hidden);
  if (!gather(block, p.x1, p.columns, d, even(d), epoch,
              [&](int c, int i, float v) { x[c * d + i] = v; }))
    return false;
  block.sync();
  const LayerParams& l = layer_of(p, s);
  const Job j = p.jobs[job];
  const Operand o = operand(block, p, s.format, j);
  fill(block, p, o, j, x, d, d, norm_of(s, l.mlp_norm, l.mlp_norm_bias));
  if (!s.swiglu) {
    multiply(block, p, j, o, l.up_scale, s.hidden, [&](int c, int row, float v) {
      const float x = l.up_bias ? v + l.up_bias[row] : v;
      put(p.hidden + c * stride + row, s.gelu_tanh ? gelu_tanh_of(x) : gelu_of(x), epoch + 1);
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

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::down(Block& block, const FrameParams& p,
                                          const StackParams& s) {
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
  const LayerParams& l = layer_of(p, s);
  add(block, p, s, j, o, l.down_scale, l.down_bias, p.x2, Phase::kQkv);
  if (++layer == s.layers) layer = 0, phase = slot < 0 ? Phase::kEnd : Phase::kHead;
  return true;
}

template <int kColumns, int kDepth>
UA_HD bool Frames<kColumns, kDepth>::end(Block& block, const FrameParams& p) {
  const StackParams& s = p.global;
  float* const x = x_of(block, p);
  const int d = s.width;
  if (!gather(block, p.x2, p.columns, d, even(d), epoch,
              [&](int c, int i, float v) { x[c * d + i] = v; }))
    return false;
  block.sync();
  if (p.slots == 0) return next_round();
  normalise(block, p, s, x);
  slot = 0;
  phase = p.rules.first_local > 0 ? Phase::kHead : Phase::kBridge;
  return true;
}

// The final norm of a stack, in place.
template <int kColumns, int kDepth>
UA_HD void Frames<kColumns, kDepth>::normalise(Block& block, const FrameParams& p,
                                               const StackParams& s, float* x) {
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

}  // namespace uniaudio::cuda
