// Causal transformer layers whose attention sees a window of the newest positions, as one layer of a
// codec. Rotary positions, no biases. LayerNorm or RMSNorm before each half, and after the last
// layer where the configuration says so; an MLP with gelu (erf) or swiglu.
//
// A stream keeps the keys and values of the window in a ring of absolute positions. Keys lie as the
// panels of a packed matrix [dim, positions], values as those of [positions, dim]: both products of
// attention are the codec's own GEMM over the ring. Each row's sums run over the positions in their
// order; positions outside of its window add exact zeros. So neither chunks nor tiles change a bit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec_layers.h"

namespace uniaudio {

class WindowedTransformer final : public Layer {
 public:
  // in, out: the widths of projections before and after the layers, with biases where `biased`; 0:
  // none
  WindowedTransformer(const LayerSource& source, const std::string& prefix,
                      const TransformerConfig& config, int in = 0, int out = 0,
                      bool biased = false);
  std::unique_ptr<LayerState> make_state() const override;
  void reset(LayerState& s) const override;
  int width_in() const override { return in_ ? in_ : c_.width; }
  int width_out() const override { return out_ ? out_ : c_.width; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override;
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override { return received; }
  // The ring's positions that a later row may see, oldest first.
  void write(const LayerState& s, StateWriter& w) const override;
  void read(LayerState& s, StateReader& r) const override;

 private:
  struct Norm {
    Buffer<float> weight, bias;
  };
  struct Block {
    Norm attention_norm, mlp_norm;
    PackedMatrix qkv, o, up, down;  // up of swiglu: [gate, up]
  };
  // Where in a state: the keys of one head of one block, and its values head_size() behind them.
  size_t head_at(int block, int h) const {
    return (size_t(block) * c_.heads + h) * 2 * head_size();
  }
  size_t head_size() const { return size_t(panels_) * kPanel * capacity_; }
  // From there: dimension d of a position's key, and of its value.
  size_t key_at(int64_t position, int d) const {
    const size_t at = size_t(position % capacity_);
    return (at / kPanel * dim_ + d) * kPanel + at % kPanel;
  }
  size_t value_at(int64_t position, int d) const {
    return head_size() + (size_t(d) / kPanel * capacity_ + size_t(position % capacity_)) * kPanel +
           size_t(d) % kPanel;
  }
  // f(index in the state) for all that a row after the `received` ones may see, oldest first
  template <class F>
  void each_kept(int64_t received, F&& f) const;
  size_t kept_count(int64_t received) const;

  void normalise(ThreadPool& pool, const Norm& norm, const float* x, float* y, int rows) const;
  // Puts the rows' keys and values into the ring and turns queries and keys; qkv [rows][3 queries].
  void place(LayerState& s, int block, float* qkv, const float* angles, int64_t position,
             int rows) const;
  // The same rows' attention, out [rows][queries].
  void attend(ThreadPool& pool, LayerState& s, int block, const float* qkv, int64_t position,
              int rows, float* out) const;
  void attend_rows(const float* head, const float* q, int64_t position, int rows, float* scores,
                   float* out) const;
  void mlp(ThreadPool& pool, const Block& block, float* x, float* y, float* hidden, int rows) const;

  TransformerConfig c_;
  int in_, out_, dim_, panels_, capacity_;
  int query_width_, wide_;  // of a row of queries; of the first product of the MLP
  int64_t stride_;          // of a row of scores
  std::vector<double> frequencies_;
  PackedMatrix input_, output_;
  std::vector<Block> blocks_;
  Norm norm_;  // after the last layer
};

}  // namespace uniaudio
