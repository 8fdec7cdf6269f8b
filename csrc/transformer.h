// A stack of pre-norm transformer blocks over rows, and its key-value cache. Used by the global and
// the local stack. Reference: Stack in uniaudio_training/models/lm.py (without its embedding).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"
#include "ops.h"

namespace uniaudio {

const char* kv_dtype_name(KvDType dtype);
// std::invalid_argument unless "float32", "bfloat16" or "int8"
KvDType parse_kv_dtype(const char* name);

// Keys and values of one sequence for every layer.  Layouts: kernel_table.h.
class KvCache {
 public:
  // Where one key head's keys and values are; scales are null but for int8.
  struct Head {
    void *keys, *values;
    float *key_scale, *value_scale;
  };

  KvCache() = default;
  KvCache(const StackConfig& config, int64_t capacity, KvDType dtype = KvDType::float32);

  int64_t capacity() const { return capacity_; }
  // The first position that it has, a multiple of 16. Later ones lie at their distance from it.
  int64_t base() const { return base_; }
  // Drops the positions that queries from `position` on do not see, where the stack has a window.
  // Those that are there end before `position`.
  void slide(int64_t position);
  // Where it is after sliding to `position` from anywhere before it.
  static int64_t base_of(const StackConfig& config, int64_t position);
  KvDType dtype() const { return dtype_; }
  // Room for `length` positions; those that are there stay. Allocates where there is less.
  void grow(int64_t length);
  Head head(int layer, int head);
  // From `positions` later on, a multiple of 16.
  Head skip(Head head, int64_t positions) const;

  static size_t bytes(const StackConfig& config, int64_t capacity,
                      KvDType dtype = KvDType::float32);

  // Its first `length` positions as one run of bytes, for save, restore and fork.
  size_t packed_bytes(int64_t length) const;
  void pack(int64_t length, char* out) const;
  void unpack(int64_t length, const char* in);
  bool all_finite(int64_t length, const char* packed) const;
  void copy_from(const KvCache& other, int64_t length);  // of the same stack and dtype
  void set_base(int64_t base) { base_ = base; }

 private:
  // Bytes of one head's first `length` positions.
  struct Run {
    size_t keys, values, scales;
    size_t sum() const { return keys + values + 2 * scales; }
  };
  static Run run(const StackConfig& config, int64_t length, KvDType dtype);
  Run run(int64_t length) const { return run(config_, length, dtype_); }
  size_t heads() const { return size_t(config_.layers) * size_t(config_.kv_heads); }

  StackConfig config_;
  KvDType dtype_ = KvDType::float32;
  int64_t capacity_ = 0, base_ = 0;
  Run size_{};  // of one head, in memory
  Buffer<char> keys_, values_;
  Buffer<float> key_scale_, value_scale_;
};

// One row of a pass: the next position of some sequence. Rows of one sequence must be neighbours,
// in order of position.
struct SequenceRow {
  KvCache* cache;
  int64_t position;
};

// Buffers for one pass; reserved outside the frame loop.
struct TransformerScratch {
  // Rows of a pass that follow each other in one sequence and are attended to together.
  struct Block {
    int64_t first, rows;
  };
  Buffer<float> normed, qkv, attended, hidden, attention, angles;
  LinearScratch linear;
  std::vector<Block> blocks;
  int64_t block_count = 0;
  bool alone = false;  // each sequence has one row in this pass
  int64_t scores_stride = 0, attention_stride = 0;
  void reserve(const StackConfig& config, int64_t rows, int64_t capacity, int threads);
};

class Transformer {
 public:
  // `sets`: of projections, of which a pass uses one.
  Transformer(const Weights& weights, const std::string& prefix, const StackConfig& config,
              int64_t max_positions, DType dtype, ThreadPool* pool = nullptr, int sets = 1);
  static void add_tensors(std::vector<TensorSpec>& specs, const std::string& prefix,
                          const StackConfig& config, int64_t max_positions, int sets = 1);

  const StackConfig& config() const { return config_; }
  size_t weight_bytes() const;   // of all sets
  void set_stream(bool stream);  // see Linear::set_stream

  // x [rows, width] holds the rows' inputs; learned positions are added here. On return it holds
  // the hidden rows after the final norm, or, when only the cache is wanted (`cache_only`), nothing
  // of use. Each row sees the positions of its cache up to its own.
  void forward(ThreadPool& pool, TransformerScratch& scratch, const SequenceRow* rows,
               int64_t count, float* x, bool cache_only, int set = 0) const;

 private:
  struct Projections {
    Linear qkv, o, up, down;
  };
  struct Layer {
    Norm attn_norm, mlp_norm;
    Buffer<float> q_norm, k_norm;  // [head_dim], or nothing
    std::vector<Projections> sets;
  };
  void make_blocks(TransformerScratch& scratch, const SequenceRow* rows, int64_t count) const;
  void place(TransformerScratch& scratch, int layer, const SequenceRow* rows, int64_t row,
             int head) const;
  void attend(ThreadPool& pool, TransformerScratch& scratch, int layer, const SequenceRow* rows,
              int64_t count, bool cache_only) const;

  StackConfig config_;
  int64_t qkv_width_ = 0;
  std::vector<Layer> layers_;
  Norm norm_;                                       // with final_norm
  std::vector<double> frequencies_;                 // rope
  Buffer<float> positions_;                         // learned: [max_positions, width]
  int64_t table_rows_ = 0;                          // rope: positions whose cos and sin are kept
  Buffer<float> table_;                             // [table_rows][2][head_dim / 2]
  void angles(int64_t position, float* out) const;  // cos then sin
};

}  // namespace uniaudio
