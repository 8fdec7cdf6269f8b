// The arguments of a launch of frames: the model's weights, its streams, the exchange buffers. The
// host fills them in (launch.cc); the persistent kernel (persistent.h) and the batched path
// (batched.h) read them.
#pragma once

#include "attention.h"
#include "exchange.h"
#include "linear.h"
#include "sample.h"
#include "stream.h"

namespace uniaudio::cuda {

struct LayerParams {
  const float *attn_norm, *attn_norm_bias, *mlp_norm, *mlp_norm_bias;
  const float *q_norm, *k_norm;  // [dim] or null
  // or null; of gated layers in the order of the tiles
  const float *qkv_bias, *o_bias, *up_bias, *down_bias;
  const float *qkv_scale, *o_scale, *up_scale, *down_scale;  // int8
};

struct StackParams {
  const LayerParams* layer;  // [layers], or [K][layers]
  const float *norm, *norm_bias;
  const float* positions;   // learned: [max][width], or null
  const float* angles;      // rope: [max][dim], cosines then sines, or null
  int layers, slot_layers;  // slot_layers: from one slot's to the next one's; 0: they share them
  int width, heads, kv_heads, dim, hidden, qkv, up_rows, window;
  float eps;
  bool rmsnorm, swiglu, gelu_tanh;
  Format format;
};

UA_HD HeadNorm head_norm_of(const StackParams& s, const LayerParams& l) {
  return {l.q_norm, l.k_norm, s.eps};
}
UA_HD Norm norm_of(const StackParams& s, const float* weight, const float* bias) {
  return {weight, bias, s.eps, s.rmsnorm};
}

// Of a frame's ids, for the global stack.
struct Embedding {
  const float* table;  // [V][width]
  int width, codebooks;
  bool concat;
};
UA_HD float embedding(const Embedding& e, const int32_t* ids, int at) {
  if (e.concat) return e.table[size_t(ids[at / e.width]) * e.width + at % e.width];
  float v = e.table[size_t(ids[0]) * e.width + at];
  for (int k = 1; k < e.codebooks; ++k) v = v + e.table[size_t(ids[k]) * e.width + at];
  return v;
}

// The local stack's, which may have rows for some ids only; any other has zeros.
struct LocalTable {
  const float* rows;
  int start, count;
};
UA_HD float local_embedding(const LocalTable& t, int32_t id, int width, int at) {
  const int row = id - t.start;
  return row >= 0 && row < t.count ? t.rows[size_t(row) * width + at] : 0.0f;
}

// Of several ids, the sum of their rows.
UA_HD float local_embedding(const LocalTable& t, const int32_t* ids, int count, int width, int at) {
  float v = local_embedding(t, ids[0], width, at);
  for (int i = 1; i < count; ++i) v = v + local_embedding(t, ids[i], width, at);
  return v;
}

// An output head, whose first row is that of id `start`.
struct HeadParams {
  const float* scale;
  int start;
};

// Of the map from the global stack to the local one: of all slots, or of one.
struct BridgeParams {
  const float *bias, *scale;
};

struct FrameParams {
  StackParams global, local;
  Embedding embed;
  LocalTable local_table;
  HeadParams heads[2];  // slot 0's, and that of all others
  const float* aligned_embed;
  const BridgeParams* bridge;
  int slices;  // of h, one for each slot; 1: each takes in all of it
  int vocab, codebooks, aligned_slots, local_start;
  SlotRules rules;
  bool add, slot_bridges, kv_half;
  bool global_head;  // slot 0 is predicted from the global stack's output
  Format head_format;

  const Job* jobs;  // of a round
  // slots: 0 for prefill, 1 where all ids of a frame are tied, else K
  int job_count, rounds, columns, slots;
  const Column* column;
  uint32_t epoch;

  Word *qkv, *part, *x1, *hidden, *x2, *local_qkv, *bridged, *logits, *ids;
  // bytes from the start of shared memory
  // attention and sampling work in the operand's place
  int at_x, at_local_x, at_operand, at_flat, at_parts, at_scale, at_codes, at_ring;
};

UA_HD int even(int n) { return n + n % 2; }

}  // namespace uniaudio::cuda
