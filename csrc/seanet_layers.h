// The layers of the SEANet codec. Padding rules are those of EnCodec (arXiv 2210.13438): every layer
// pads its own input, so the right edge is handled layer by layer when the clip ends.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codec_layers.h"

namespace uniaudio {

// GroupNorm over all rows and channels of a clip; absent with weight norm.
struct ClipNorm {
  Buffer<float> weight, bias;
  bool present() const { return weight.size() != 0; }
  void load(const LayerSource& source, const std::string& prefix, int width);
  // x [rows, width] -> y (which may be x); `add`: to what is in y; `activate`: then elu. Works with
  // its norm only.
  void run(ThreadPool& pool, const float* x, int64_t rows, int width, float* y, bool add = false,
           bool activate = false) const;
};

// How a convolution extends its input: zeros, a reflection, or the row at the end repeated.
enum class Pad { zero, reflect, replicate };

struct ConvShape {
  int in = 0, out = 0, kernel = 1, stride = 1, dilation = 1;
  bool elu_first = false, bias = true;
  std::optional<Pad> pad = std::nullopt;  // else the configuration's
};

class ConvLayer final : public Layer {
 public:
  ConvLayer(const LayerSource& source, const std::string& prefix, const ConvShape& shape);
  std::unique_ptr<LayerState> make_state() const override;
  void reset(LayerState& s) const override;
  int width_in() const override { return in_; }
  int width_out() const override { return out_; }
  int64_t bound(int64_t n) const override { return (n + capacity_ + left_ + right_) / stride_ + 2; }
  float* input(LayerState& s, int64_t n) const override;
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override;
  bool plausible(const LayerState& s) const override;

  // The outputs that one push completes: output i is a product over the rows from `first` + i *
  // stride on.
  struct Window {
    const float* base = nullptr;  // padded rows that are there
    int64_t rows = 0;
    const float* first = nullptr;
    int count = 0;
  };
  // Takes in n new rows (see `input`) and pads; `close` then remembers what later outputs need.
  Window open(LayerState& s, int n, bool last) const;
  void close(LayerState& s, const Window& window) const;
  // The outputs themselves, from rows of one such window; with the norm, if there is one, and elu
  // where `activate`.
  void convolve(ThreadPool& pool, const float* first, int count, float* out,
                bool activate = false) const;
  // The same on the calling thread; without norm.
  void convolve_here(const float* first, int count, float* out) const;

  int left() const { return left_; }
  int span() const { return span_; }

 private:
  int in_, out_, kernel_, stride_, dilation_, span_, left_, right_;
  bool elu_first_;
  Pad pad_;
  int capacity_;  // rows kept at most
  int retain_;    // rows kept at least, for reflection at the right edge
  PackedMatrix matrix_;
  // Few output channels leave most of a panel idle, so `group_` steps are computed as one row of a
  // banded matrix.
  PackedMatrix banded_;
  int group_ = 1;
  ClipNorm norm_;
};

// Transposed convolution of kernel 2 x stride: output rows u * stride .. are x[u] W0 + x[u-1] W1.
class UpsampleLayer final : public Layer {
 public:
  UpsampleLayer(const LayerSource& source, const std::string& prefix, int in, int out, int stride,
                bool elu_first);
  std::unique_ptr<LayerState> make_state() const override;
  void reset(LayerState& s) const override;
  int width_in() const override { return in_; }
  int width_out() const override { return out_; }
  int64_t bound(int64_t n) const override { return (n + 1) * stride_; }
  float* input(LayerState& s, int64_t n) const override;
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override {
    return received * stride_ > trim_left_ ? received * stride_ - trim_left_ : 0;
  }
  bool plausible(const LayerState& s) const override;

 private:
  int in_, out_, stride_, trim_left_;
  bool elu_first_;
  PackedMatrix matrix_;  // [2 in, stride x out]
  ClipNorm norm_;
};

// The same with one filter for each channel, without bias; nothing is trimmed but the last row's
// tail.
class DepthwiseUpsample final : public Layer {
 public:
  DepthwiseUpsample(const LayerSource& source, const std::string& prefix, int width, int stride);
  std::unique_ptr<LayerState> make_state() const override;
  void reset(LayerState& s) const override;
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n * stride_; }
  float* input(LayerState& s, int64_t n) const override;
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override { return received * stride_; }

 private:
  int width_, stride_;
  Buffer<float> weight_;  // [2 stride][width]
};

// shortcut(x) + second(elu(first(elu(x)))), with a last elu where the next layer starts with one.
// Rows go through the whole block in tiles that stay in cache. A stream's state is the input of the
// first convolution, before its elu.
class ResidualLayer final : public Layer {
 public:
  ResidualLayer(const LayerSource& source, const std::string& prefix, int width, int dilation,
                bool elu_after);
  std::unique_ptr<LayerState> make_state() const override { return first_.make_state(); }
  void reset(LayerState& s) const override { first_.reset(s); }
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return first_.bound(n); }
  float* input(LayerState& s, int64_t n) const override { return first_.input(s, n); }
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override { return first_.ready(received); }
  bool plausible(const LayerState& s) const override { return first_.plausible(s); }

 private:
  void tiles(ThreadPool& pool, LayerState& s, const float* first, int count, float* out) const;
  void columns(ThreadPool& pool, LayerState& s, const float* first, int count, float* out) const;

  int width_, hidden_;
  ConvLayer first_;
  PackedMatrix second_, shortcut_;
  ClipNorm second_norm_, shortcut_norm_;
  bool conv_shortcut_, elu_after_;
};

// lstm(x) + x over all layers of the LSTM; one row after the other.
class LstmLayer final : public Layer {
 public:
  LstmLayer(const LayerSource& source, const std::string& prefix, int width, int layers);
  std::unique_ptr<LayerState> make_state() const override;
  void reset(LayerState& s) const override;
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override;
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override;
  int64_t ready(int64_t received) const override { return received; }
  bool plausible(const LayerState& s) const override { return s.rows == 0 && s.skip == 0; }

 private:
  // blocks of 16 units; gates of one block lie together: [i16 f16 g16 o16]
  int width_, layers_, blocks_;
  std::vector<PackedMatrix> input_;
  std::vector<Buffer<float>> recurrent_;  // [blocks][width][64]
};

}  // namespace uniaudio
