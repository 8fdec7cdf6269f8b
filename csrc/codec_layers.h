// Layers of a codec as streams over rows (time-major). A chain hands each layer its rows; a layer
// keeps the rows that later outputs need and returns how many it wrote.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec_ops.h"
#include "config.h"
#include "weights.h"

namespace uniaudio {

// One layer's state in one stream, and its working memory.
struct LayerState {
  Buffer<float> kept;  // rows that later outputs need
  int rows = 0;        // how many of them there are
  // rows of `kept` before the next output's first one; upsampling: output rows still to trim
  int skip = 0;
  int64_t received = 0;       // input rows so far
  bool started = false;       // the left padding is there
  Buffer<float> work, work2;  // not state

  void copy_from(const LayerState& o);
};

class Layer {
 public:
  virtual ~Layer() = default;
  virtual std::unique_ptr<LayerState> make_state() const = 0;
  virtual void reset(LayerState& s) const = 0;
  virtual int width_in() const = 0;
  virtual int width_out() const = 0;
  // Most rows that `run` may write for n rows.
  virtual int64_t bound(int64_t n) const = 0;
  // Where to write the next (at most) n input rows before calling run.
  virtual float* input(LayerState& s, int64_t n) const = 0;
  // Takes n rows from there, writes the outputs that are complete; last: pads the right edge and
  // writes all that is left.
  virtual int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const = 0;
  // Rows out after `received` rows in, before the end of the clip.
  virtual int64_t ready(int64_t received) const = 0;
  // Whether a restored state could have been left by `run`; here that of a layer that keeps no rows.
  virtual bool plausible(const LayerState& s) const {
    return s.rows == 0 && s.skip == 0 && !s.started;
  }

  virtual void write(const LayerState& s, StateWriter& w) const;
  virtual void read(LayerState& s, StateReader& r) const;
};

// What a layer is made from: names are looked up under `prefix`, shapes are noted for the check
// that comes first.
struct LayerSource {
  const Weights* weights = nullptr;  // null: only note the shapes
  std::vector<TensorSpec>* specs = nullptr;
  const SeanetConfig* config = nullptr;

  Buffer<float> get(const std::string& name, const std::vector<int64_t>& shape) const;
};

// A layer whose rows depend on nothing but one row in each; no row is kept.
class RowLayer : public Layer {
 public:
  explicit RowLayer(int width) : width_(width) {}
  std::unique_ptr<LayerState> make_state() const override { return std::make_unique<LayerState>(); }
  void reset(LayerState& s) const override { s.received = 0; }
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override {
    s.work.reserve(size_t(n) * width_);
    return s.work.data();
  }
  int64_t ready(int64_t received) const override { return received; }

 protected:
  int width_;
};

// Splits each row into `ratio` rows.
class SplitRows final : public RowLayer {
 public:
  SplitRows(int width, int ratio) : RowLayer(width), ratio_(ratio) {}
  int width_out() const override { return width_ / ratio_; }
  int64_t bound(int64_t n) const override { return n * ratio_; }
  int run(ThreadPool&, LayerState& s, int n, bool, float* out) const override {
    std::copy_n(s.work.data(), size_t(n) * width_, out);
    s.received += n;
    return n * ratio_;
  }
  int64_t ready(int64_t received) const override { return received * ratio_; }

 private:
  int ratio_;
};

// Layers in a row, and their states in one stream.
class LayerChain {
 public:
  using States = std::vector<std::unique_ptr<LayerState>>;

  void add(std::unique_ptr<Layer> layer) { layers_.push_back(std::move(layer)); }
  States make_states() const;
  void reset(States& states) const;
  void copy(const States& from, States& to) const;
  void write(const States& states, StateWriter& w) const;
  void read(States& states, StateReader& r) const;

  float* input(States& states, int64_t n) const { return layers_[0]->input(*states[0], n); }
  // Takes n rows from there; `out` grows as needed and starts with the returned number of rows.
  int run(ThreadPool& pool, States& states, int n, bool last, Buffer<float>& out) const;
  int64_t ready(int64_t received) const;

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace uniaudio
