#include "snake_decoder.h"

#include "fast_fir.h"
#include "seanet_layers.h"
#include "windowed_transformer.h"

namespace uniaudio {

namespace {

constexpr int kTaps = 7;
constexpr float kNormEps = 1e-6f;

// x + beta sin(alpha x)^2, channel by channel.
class Snake {
 public:
  Snake(const LayerSource& source, const std::string& prefix, int width)
      : width_(width),
        alpha_(source.get(prefix + ".alpha", {width})),
        beta_(source.get(prefix + ".beta", {width})) {}
  // y may be x
  void run(ThreadPool& pool, const float* x, float* y, int rows) const {
    split(pool, rows, 20 * int64_t{width_}, [&](int64_t a, int64_t b) {
      codec_kernels().snake(x + a * width_, y + a * width_, alpha_.data(), beta_.data(), int(b - a),
                            width_);
    });
  }

 private:
  int width_;
  Buffer<float> alpha_, beta_;
};

class SnakeLayer final : public RowLayer {
 public:
  SnakeLayer(const LayerSource& source, const std::string& prefix, int width)
      : RowLayer(width), snake_(source, prefix, width) {}
  int run(ThreadPool& pool, LayerState& s, int n, bool, float* out) const override {
    snake_.run(pool, s.work.data(), out, n);
    s.received += n;
    return n;
  }

 private:
  Snake snake_;
};

// Samples within full scale.
class ClampLayer final : public RowLayer {
 public:
  using RowLayer::RowLayer;
  int run(ThreadPool&, LayerState& s, int n, bool, float* out) const override {
    for (int64_t i = 0; i < int64_t{n} * width_; ++i) out[i] = std::clamp(s.work[i], -1.0f, 1.0f);
    s.received += n;
    return n;
  }
};

// x + second(snake(first(snake(x)))): a dilated convolution and a pointwise one. A stream keeps the
// rows of the first one's input.
class SnakeResidual final : public Layer {
 public:
  // rows: of a frame, of which every push has a whole number
  SnakeResidual(const LayerSource& source, const std::string& prefix, int width, int dilation,
                int rows)
      : width_(width),
        rows_(rows),
        before_first_(source, prefix + ".first_snake", width),
        first_(
            source, prefix + ".first",
            {.in = width, .out = width, .kernel = kTaps, .dilation = dilation, .pad = Pad::zero}),
        before_second_(source, prefix + ".second_snake", width) {
    const Buffer<float> weight = source.get(prefix + ".second.weight", {width, width, 1}),
                        bias = source.get(prefix + ".second.bias", {width});
    if (!source.weights) return;
    second_ = PackedMatrix::linear(weight, bias, width, width);
    if (FastFir::worth(dilation, rows))
      fast_ = FastFir(source.weights->get(prefix + ".first.weight", {width, width, kTaps}),
                      source.weights->get(prefix + ".first.bias", {width}), width, dilation, rows);
  }
  std::unique_ptr<LayerState> make_state() const override { return first_.make_state(); }
  void reset(LayerState& s) const override { first_.reset(s); }
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override {
    // [rows in][between the convolutions][the fast filter's]
    s.work2.reserve(size_t(2) * n * width_ + fast_.work_size(int(n / rows_)));
    return s.work2.data();
  }
  int run(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const override {
    const float* x = s.work2.data();
    float* between = s.work2.data() + size_t(n) * width_;
    before_first_.run(pool, x, first_.input(s, n), n);
    convolve(pool, s, n, last, between);
    before_second_.run(pool, between, between, n);
    split(pool, n, width_, [&](int64_t a, int64_t b) {
      for (int64_t r = a * width_; r < b * width_; r += width_) {
        std::copy_n(x + r, width_, out + r);
        codec_kernels().add(second_.bias.data(), out + r, size_t(width_));
      }
    });
    multiply(pool, {.m = &second_,
                    .a = between,
                    .lda = width_,
                    .rows = n,
                    .c = out,
                    .ldc = width_,
                    .add = true});
    return n;
  }
  int64_t ready(int64_t received) const override { return received; }
  bool plausible(const LayerState& s) const override { return first_.plausible(s); }

 private:
  void convolve(ThreadPool& pool, LayerState& s, int n, bool last, float* out) const {
    const ConvLayer::Window window = first_.open(s, n, last);
    const int covered = fast_.covered();
    if (covered == 0) {
      first_.convolve(pool, window.first, n, out);
    } else {
      fast_.run(pool, window.first, n / rows_, out, out + size_t(n) * width_);
      for (int row = covered; row < n && covered < rows_; row += rows_) {
        const size_t at = size_t(row) * width_;
        first_.convolve(pool, window.first + at, rows_ - covered, out + at);
      }
    }
    first_.close(s, window);
  }

  int width_, rows_;
  Snake before_first_;
  ConvLayer first_;
  FastFir fast_;
  Snake before_second_;
  PackedMatrix second_;
};

// x + down(gelu(up(norm(depthwise(x))))). A stream keeps the newest rows in.
class ConvNextLayer final : public Layer {
 public:
  ConvNextLayer(const LayerSource& source, const std::string& prefix, int width)
      : width_(width), hidden_(4 * width) {
    const Buffer<float> taps = source.get(prefix + ".depthwise.weight", {width, 1, kTaps});
    depthwise_bias_ = source.get(prefix + ".depthwise.bias", {width});
    norm_weight_ = source.get(prefix + ".norm.weight", {width});
    norm_bias_ = source.get(prefix + ".norm.bias", {width});
    const auto linear = [&](const std::string& name, int n, int k) {
      const Buffer<float> weight = source.get(prefix + name + ".weight", {n, k}),
                          bias = source.get(prefix + name + ".bias", {n});
      return source.weights ? PackedMatrix::linear(weight, bias, n, k) : PackedMatrix();
    };
    up_ = linear(".up", hidden_, width);
    down_ = linear(".down", width, hidden_);
    if (!source.weights) return;
    depthwise_.allocate(taps.size());
    for (int c = 0; c < width; ++c)
      for (int j = 0; j < kTaps; ++j)
        depthwise_[size_t(j) * width + c] = taps[size_t(c) * kTaps + j];
  }
  std::unique_ptr<LayerState> make_state() const override {
    auto s = std::make_unique<LayerState>();
    s->kept.allocate(size_t(kTaps - 1) * width_);
    return s;
  }
  void reset(LayerState& s) const override {
    std::fill_n(s.kept.data(), s.kept.size(), 0.0f);
    s.received = 0;
  }
  int width_in() const override { return width_; }
  int width_out() const override { return width_; }
  int64_t bound(int64_t n) const override { return n; }
  float* input(LayerState& s, int64_t n) const override {  // [kept rows][new rows]
    s.work.reserve(size_t(n + kTaps - 1) * width_);
    return s.work.data() + size_t(kTaps - 1) * width_;
  }
  int run(ThreadPool& pool, LayerState& s, int n, bool, float* out) const override {
    const CodecKernels& kernels = codec_kernels();
    const size_t width = size_t(width_), kept = (kTaps - 1) * width;
    float* all = s.work.data();
    std::copy_n(s.kept.data(), kept, all);
    s.work2.reserve(size_t(n) * (width + hidden_));
    float *y = s.work2.data(), *hidden = y + n * width;
    split(pool, n, 16 * int64_t{width_}, [&](int64_t a, int64_t b) {
      float* to = y + a * width;
      kernels.depthwise(all + a * width, to, depthwise_.data(), depthwise_bias_.data(), int(b - a),
                        kTaps, width_);
      kernels.layer_norm(to, to, norm_weight_.data(), norm_bias_.data(), int(b - a), width_,
                         kNormEps);
      for (int64_t r = a; r < b; ++r) {
        std::copy_n(all + kept + r * width, width, out + r * width);
        kernels.add(down_.bias.data(), out + r * width, width);
      }
    });
    multiply(pool, {.m = &up_, .a = y, .lda = width_, .rows = n, .c = hidden, .ldc = hidden_});
    split(pool, n, 20 * int64_t{hidden_}, [&](int64_t a, int64_t b) {
      kernels.gelu(hidden + a * hidden_, size_t(b - a) * hidden_);
    });
    multiply(pool, {.m = &down_,
                    .a = hidden,
                    .lda = hidden_,
                    .rows = n,
                    .c = out,
                    .ldc = width_,
                    .add = true});
    std::copy_n(all + n * width, kept, s.kept.data());
    s.received += n;
    return n;
  }
  int64_t ready(int64_t received) const override { return received; }

 private:
  int width_, hidden_;
  Buffer<float> depthwise_, depthwise_bias_, norm_weight_, norm_bias_;
  PackedMatrix up_, down_;
};

}  // namespace

void build_snake_decoder(LayerChain& chain, const LayerSource& source,
                         const SnakeDecoderConfig& c) {
  const auto conv = [&](const std::string& name, int in, int out, int kernel) {
    chain.add(std::make_unique<ConvLayer>(
        source, name, ConvShape{.in = in, .out = out, .kernel = kernel, .pad = Pad::zero}));
  };
  conv("decoder.input", c.latent_dim, c.width, 3);
  chain.add(std::make_unique<WindowedTransformer>(source, "decoder.transformer", c.transformer,
                                                  c.width, c.width, true));
  for (size_t i = 0; i < c.upsample.size(); ++i) {
    const std::string name = "decoder.upsample." + std::to_string(i);
    conv(name + ".rows", c.width, c.upsample[i] * c.width, 1);
    chain.add(std::make_unique<SplitRows>(c.upsample[i] * c.width, c.upsample[i]));
    chain.add(std::make_unique<ConvNextLayer>(source, name, c.width));
  }
  int width = c.filters, rows = 1;
  for (const int ratio : c.upsample) rows *= ratio;
  conv("decoder.widen", c.width, width, kTaps);
  for (size_t i = 0; i < c.ratios.size(); ++i, width /= 2) {
    const std::string name = "decoder.stages." + std::to_string(i);
    chain.add(std::make_unique<SnakeLayer>(source, name + ".snake", width));
    chain.add(std::make_unique<UpsampleLayer>(source, name + ".up", width, width / 2, c.ratios[i],
                                              false));
    rows *= c.ratios[i];
    int dilation = 1;
    for (int j = 0; j < 3; ++j, dilation *= 3)
      chain.add(std::make_unique<SnakeResidual>(source, name + ".blocks." + std::to_string(j),
                                                width / 2, dilation, rows));
  }
  chain.add(std::make_unique<SnakeLayer>(source, "decoder.snake", width));
  conv("decoder.output", width, 1, kTaps);
  chain.add(std::make_unique<ClampLayer>(1));
}

}  // namespace uniaudio
