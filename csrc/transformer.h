// A stack of pre-norm transformer blocks over rows, and its key-value cache.  Used by the global and the local stack.
// Torch truth: Stack in uniaudio_training/models/lm.py (without its embedding).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"
#include "ops.h"

namespace uniaudio {

// Keys and values of one sequence for every layer, allocated once.
class KvCache {
 public:
  KvCache() = default;
  KvCache(const StackConfig& config, int64_t capacity);

  int64_t capacity() const { return capacity_; }
  // [capacity / 16][head_dim][16]: sixteen positions side by side, so that scores need no sums across lanes.
  float* keys(int layer, int head) { return keys_.data() + (int64_t(layer) * heads_ + head) * key_size_; }
  // [capacity][value_stride].
  float* values(int layer, int head) { return values_.data() + (int64_t(layer) * heads_ + head) * value_size_; }
  int64_t value_stride() const { return value_stride_; }

  static size_t bytes(const StackConfig& config, int64_t capacity);

  // The first `length` positions as one run of floats, for save, restore and fork.
  int64_t packed_size(int64_t length) const;
  void pack(int64_t length, float* out) const;
  void unpack(int64_t length, const float* in);
  void copy_from(const KvCache& other, int64_t length);

 private:
  int64_t key_run(int64_t length) const { return (length + 15) / 16 * 16 * head_dim_; }
  int64_t layers_ = 0, heads_ = 0, head_dim_ = 0, capacity_ = 0, value_stride_ = 0, key_size_ = 0, value_size_ = 0;
  Buffer<float> keys_, values_;
};

// One row of a pass: the next position of some sequence.  Rows of one sequence must come in order of position.
struct SequenceRow {
  KvCache* cache;
  int64_t position;
};

// Buffers for one pass; reserved outside the frame loop.
struct TransformerScratch {
  Buffer<float> normed, qkv, attended, hidden, scores, angles;
  LinearScratch linear;
  int64_t scores_stride = 0;
  void reserve(const StackConfig& config, int64_t rows, int64_t capacity, int threads);
};

class Transformer {
 public:
  Transformer(const Weights& weights, const std::string& prefix, const StackConfig& config, int64_t max_positions, DType dtype, ThreadPool* pool = nullptr);
  static void add_tensors(std::vector<TensorSpec>& specs, const std::string& prefix, const StackConfig& config, int64_t max_positions);

  const StackConfig& config() const { return config_; }
  size_t weight_bytes() const;
  void set_stream(bool stream);  // see Linear::set_stream

  // x [rows, width] holds the rows' inputs; learned positions are added here.  On return it holds the normalised hidden rows, or,
  // when only the cache is wanted (`cache_only`), nothing of use.  Each row sees the positions of its cache up to its own.
  void forward(ThreadPool& pool, TransformerScratch& scratch, const SequenceRow* rows, int64_t count, float* x, bool cache_only) const;

 private:
  struct Layer {
    Norm attn_norm, mlp_norm;
    Linear qkv, o, up, down;
  };
  void attend(ThreadPool& pool, TransformerScratch& scratch, int layer, const SequenceRow* rows, int64_t count, bool cache_only) const;

  StackConfig config_;
  int64_t qkv_width_ = 0;
  std::vector<Layer> layers_;
  Norm norm_;
  Buffer<float> positions_;                 // learned: [max_positions, width]
  int64_t table_rows_ = 0;                  // rope: positions whose cos and sin are kept
  Buffer<float> table_;                     // [table_rows][2][head_dim / 2]
  void angles(int64_t position, float* out) const;  // cos then sin
};

}  // namespace uniaudio
