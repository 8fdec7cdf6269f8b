#include "spectral.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

constexpr float kNormEps = 1e-6f;  // csrc/spectral.cc
constexpr double kEnvelopeFloor = 0.1;
constexpr int kFramesAtOnce = 128;

std::vector<float> hann(int n) {  // periodic
  std::vector<float> w(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i)
    w[size_t(i)] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::numbers::pi * i / n));
  return w;
}

DeviceBuffer<float> floats(const std::shared_ptr<Device>& device, const Buffer<float>& b) {
  return {device, b.data(), b.size()};
}

// Rows are frames in both; csrc/spectral.cc has the same.
Network::Shape encoder_shape(const CodecConfig& c) {
  const SpectralConfig& s = *c.spectral;
  return {(s.encoder_window / 2 + 1) * (s.encoder_phases ? 3 : 1) * s.encoder_subframes,
          s.encoder_width,
          s.encoder_hidden,
          s.encoder_blocks,
          c.codebook_dim,
          s.kernel_size};
}
Network::Shape decoder_shape(const CodecConfig& c) {
  const SpectralConfig& s = *c.spectral;
  return {c.codebook_dim,
          s.decoder_width,
          s.decoder_hidden,
          s.decoder_blocks,
          (s.decoder_window / 2 + 1) * 3 * s.decoder_subframes,
          s.kernel_size};
}

// The transform of a window as one matrix, the window's shape in it: real parts, then imaginary
// ones.
DenseMatrix forward_matrix(const std::shared_ptr<Device>& device, int window) {
  const int bins = window / 2 + 1;
  const std::vector<float> shape = hann(window);
  std::vector<float> m(size_t(2 * bins) * size_t(window));
  for (int b = 0; b < bins; ++b) {
    for (int n = 0; n < window; ++n) {
      const double angle = 2 * std::numbers::pi * double(int64_t(b) * n % window) / window,
                   v = shape[size_t(n)];
      m[size_t(b) * size_t(window) + size_t(n)] = float(v * std::cos(angle));
      m[size_t(bins + b) * size_t(window) + size_t(n)] = float(-v * std::sin(angle));
    }
  }
  return {device, m.data(), nullptr, 2 * bins, window};
}

// And back, without a shape; the imaginary parts of the first and last bin count as zero.
DenseMatrix inverse_matrix(const std::shared_ptr<Device>& device, int window) {
  const int bins = window / 2 + 1;
  std::vector<float> m(size_t(window) * size_t(2 * bins));
  for (int n = 0; n < window; ++n) {
    for (int b = 0; b < bins; ++b) {
      const bool edge = b == 0 || b == bins - 1;
      const double angle = 2 * std::numbers::pi * double(int64_t(b) * n % window) / window,
                   scale = (edge ? 1.0 : 2.0) / window;
      m[size_t(n) * size_t(2 * bins) + size_t(b)] = float(scale * std::cos(angle));
      m[size_t(n) * size_t(2 * bins) + size_t(bins + b)] =
          edge ? 0.0f : float(-scale * std::sin(angle));
    }
  }
  return {device, m.data(), nullptr, window, 2 * bins};
}

}  // namespace

// --- networks ------------------------------------------------------------------------------------

Network::Network(const std::shared_ptr<Device>& device, const Weights& weights,
                 const std::string& p, const Shape& s)
    : shape_(s) {
  const auto linear = [&](const std::string& name, int n, int k) {
    return DenseMatrix(device, weights.get(name + ".weight", {n, k}).data(),
                       weights.get(name + ".bias", {n}).data(), n, k);
  };
  const auto norm = [&](const std::string& name) {
    return Norm{floats(device, weights.get(name + ".weight", {s.width})),
                floats(device, weights.get(name + ".bias", {s.width}))};
  };
  input_ = linear(p + ".input", s.width, s.in);
  input_norm_ = norm(p + ".input_norm");
  for (int i = 0; i < s.blocks; ++i) {
    const std::string name = p + ".blocks." + std::to_string(i);
    const Buffer<float> w = weights.get(name + ".depthwise.weight", {s.width, 1, s.taps});
    std::vector<float> turned(w.size());
    for (int c = 0; c < s.width; ++c) {
      for (int j = 0; j < s.taps; ++j) turned[size_t(j * s.width + c)] = w[size_t(c * s.taps + j)];
    }
    blocks_.push_back({{device, turned.data(), turned.size()},
                       floats(device, weights.get(name + ".depthwise.bias", {s.width})),
                       norm(name + ".norm"),
                       linear(name + ".up", s.hidden, s.width),
                       linear(name + ".down", s.width, s.hidden)});
  }
  norm_ = norm(p + ".norm");
  output_ = linear(p + ".output", s.out, s.width);
}

Network::State Network::state(const std::shared_ptr<Device>& device, int rows) const {
  const size_t history = size_t(shape_.blocks) * size_t(shape_.taps - 1) * size_t(shape_.width);
  return {{{device, history}, {device, history}},
          {device, size_t(rows) * size_t(shape_.width)},
          {device, size_t(rows) * size_t(shape_.hidden)}};
}

void Network::reset(Device& device, State& state) const {
  if (state.history[0].size())
    device.zero(state.history[0].data(), state.history[0].size() * sizeof(float));
}

void Network::copy(Device& device, State& to, const State& from) const {
  if (to.history[0].size())
    device.copy(to.history[0].data(), from.history[0].data(), 0,
                to.history[0].size() * sizeof(float), 1);
}

void Network::run(Device& d, State& state, const float* in, int rows, float* out) const {
  const int width = shape_.width, hidden = shape_.hidden;
  const size_t kept = size_t(shape_.taps - 1) * size_t(width);
  float *const x = state.x.data(), *const h = state.hidden.data();
  d.dense(input_.product(in, shape_.in, rows, x, width));
  d.row_norm({x, input_norm_.weight.data(), input_norm_.bias.data(), rows, width, kNormEps});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    Dense up = block.up.product(x, width, rows, h, hidden);
    up.load = Load::convolved, up.store = Store::gelu, up.taps = shape_.taps;
    up.norm = block.norm.weight.data(), up.norm_bias = block.norm.bias.data();
    up.depthwise = block.depthwise.data(), up.depthwise_bias = block.depthwise_bias.data();
    up.history = state.history[0].data() + i * kept,
    up.next_history = state.history[1].data() + i * kept;
    d.dense(up);
    Dense down = block.down.product(h, hidden, rows, x, width);
    down.store = Store::add;
    d.dense(down);
  }
  Dense last = output_.product(x, width, rows, out, shape_.out);
  last.load = Load::norm, last.norm = norm_.weight.data(), last.norm_bias = norm_.bias.data();
  d.dense(last);
  std::swap(state.history[0], state.history[1]);
}

SpectralCodec::SpectralCodec(std::shared_ptr<Device> device, const CodecConfig& config,
                             const Weights& weights)
    : Codec(std::move(device), config, weights),
      encoder_hop_(config.frame_size / config.spectral->encoder_subframes),
      encoder_(device_, weights, "encoder", encoder_shape(config)),
      forward_(forward_matrix(device_, config.spectral->encoder_window)) {
  const SpectralConfig& s = *config.spectral;
  if (!s.has_decoder()) return;
  const int window = s.decoder_window;
  hop_ = config.frame_size / s.decoder_subframes;
  decoder_ = Network(device_, weights, "decoder", decoder_shape(config));
  inverse_ = inverse_matrix(device_, window);
  // Window and envelopes: csrc/spectral.cc.
  const std::vector<float> shape = hann(window);
  std::vector<float> steady(static_cast<size_t>(hop_));
  double mean = 0;
  for (float v : shape) mean += double{v} * v / hop_;
  const auto over = [&](int first) {
    double sum = 0;
    for (int i = first; i < window; i += hop_) sum += double{shape[size_t(i)]} * shape[size_t(i)];
    return static_cast<float>(1.0 / std::max(sum, kEnvelopeFloor * mean));
  };
  for (int p = 0; p < hop_; ++p) steady[size_t(p)] = over((window - hop_ + p) % hop_);
  for (int i = 0; i < window - hop_; ++i) tail_.push_back(over(hop_ + i));
  shape_ = {device_, shape.data(), shape.size()};
  steady_ = {device_, steady.data(), steady.size()};
}

// --- samples in ----------------------------------------------------------------------------------

class SpectralEncoder final : public EncoderStream {
 public:
  SpectralEncoder(std::shared_ptr<const SpectralCodec> codec, int num_codebooks)
      : EncoderStream(num_codebooks),
        codec_(std::move(codec)),
        past_(size_t(codec_->config().spectral->encoder_window - codec_->encoder_hop_)) {
    const CodecConfig& c = codec_->config();
    const SpectralConfig& s = *c.spectral;
    const std::shared_ptr<Device>& d = codec_->device_;
    const size_t rows = kFramesAtOnce, windows = rows * size_t(s.encoder_subframes),
                 bins = size_t(s.encoder_window / 2 + 1);
    state_ = codec_->encoder_.state(d, kFramesAtOnce);
    samples_ = {d, past_ + rows * size_t(c.frame_size)}, spectrum_ = {d, windows * 2 * bins},
    features_ = {d, windows * (s.encoder_phases ? 3 : 1) * bins};
    latent_ = {d, rows * size_t(c.codebook_dim)}, codes_ = {d, rows * size_t(num_codebooks)};
    reset();
  }
  void reset() override {
    held_.assign(past_, 0.0f);
    codec_->encoder_.reset(*codec_->device_, state_);
  }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<SpectralEncoder>(codec_, num_codebooks_);
    copy->held_ = held_;
    codec_->encoder_.copy(*codec_->device_, copy->state_, state_);
    return copy;
  }

 protected:
  void take(const float* samples, int64_t n, bool last, std::vector<int32_t>& codes) override {
    if (n > 0) held_.insert(held_.end(), samples, samples + n);
    const size_t frame = size_t(codec_->config().frame_size), rest = (held_.size() - past_) % frame;
    if (last && rest) held_.resize(held_.size() + frame - rest, 0.0f);
    size_t at = 0;  // of held_, which gives up what is behind it
    while (held_.size() - at >= past_ + frame) {
      const int frames = int(std::min<size_t>(kFramesAtOnce, (held_.size() - at - past_) / frame));
      run(held_.data() + at, frames, codes);
      at += size_t(frames) * frame;
    }
    held_.erase(held_.begin(), held_.begin() + std::ptrdiff_t(at));
  }

 private:
  void run(const float* samples, int frames, std::vector<int32_t>& codes) {
    const SpectralCodec& m = *codec_;
    const CodecConfig& c = m.config();
    const SpectralConfig& s = *c.spectral;
    Device& d = *m.device_;
    const int windows = frames * s.encoder_subframes, bins = s.encoder_window / 2 + 1;
    d.upload(samples_.data(), samples,
             (past_ + size_t(frames) * size_t(c.frame_size)) * sizeof(float));
    d.dense(
        m.forward_.product(samples_.data(), m.encoder_hop_, windows, spectrum_.data(), 2 * bins));
    d.features({spectrum_.data(), features_.data(), windows, bins, s.encoder_phases,
                4.0f / static_cast<float>(s.encoder_window), s.log_floor});
    m.encoder_.run(d, state_, features_.data(), frames, latent_.data());
    m.quantize(latent_.data(), frames, num_codebooks_, codes_, codes);
  }

  std::shared_ptr<const SpectralCodec> codec_;
  size_t past_;
  // the `past_` samples before the next frame, then those that no frame has used yet
  std::vector<float> held_;
  Network::State state_;
  DeviceBuffer<float> samples_, spectrum_, features_, latent_;
  DeviceBuffer<int32_t> codes_;
};

// --- codes in ------------------------------------------------------------------------------------

class SpectralDecoder final : public DecoderStream {
 public:
  explicit SpectralDecoder(std::shared_ptr<const SpectralCodec> codec)
      : DecoderStream(*codec, kFramesAtOnce), codec_(std::move(codec)) {
    const CodecConfig& c = codec_->config();
    const SpectralConfig& s = *c.spectral;
    past_ = s.decoder_window - codec_->hop_;
    const size_t rows = kFramesAtOnce, windows = rows * size_t(s.decoder_subframes),
                 bins = size_t(s.decoder_window / 2 + 1);
    const std::shared_ptr<Device>& d = codec_->device_;
    state_ = codec_->decoder_.state(d, kFramesAtOnce);
    for (DeviceBuffer<float>& overlap : overlap_) overlap = {d, size_t(past_)};
    latent_ = {d, rows * size_t(c.codebook_dim)}, head_ = {d, windows * 3 * bins},
    segment_ = {d, windows * size_t(s.decoder_window)};
    out_ = {d, rows * size_t(c.frame_size)}, codes_ = {d, rows * size_t(c.num_codebooks)};
    reset();
  }
  void reset() override {
    Device& d = *codec_->device_;
    codec_->decoder_.reset(d, state_);
    if (past_) d.zero(overlap_[0].data(), overlap_[0].size() * sizeof(float));
    position_ = 0;
  }
  using DecoderStream::flush;
  void flush(Sink& out) override {
    std::vector<float> rest(static_cast<size_t>(past_));
    if (past_)
      codec_->device_->download(rest.data(), overlap_[0].data(), rest.size() * sizeof(float));
    for (size_t i = 0; i < rest.size(); ++i) rest[i] *= codec_->tail_[i];
    const size_t first = size_t(std::max<int64_t>(0, past_ - position_));
    out.from_host(*codec_->device_, rest.data() + first, rest.size() - first);
    reset();
  }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<SpectralDecoder>(codec_);
    Device& d = *codec_->device_;
    codec_->decoder_.copy(d, copy->state_, state_);
    if (past_)
      d.copy(copy->overlap_[0].data(), overlap_[0].data(), 0, overlap_[0].size() * sizeof(float),
             1);
    copy->position_ = position_;
    return copy;
  }

 protected:
  void run(const int32_t* codes, int t, int num_codebooks, Sink& out) override {
    const SpectralCodec& m = *codec_;
    const CodecConfig& c = m.config();
    const SpectralConfig& s = *c.spectral;
    Device& d = *m.device_;
    const int window = s.decoder_window, bins = window / 2 + 1, windows = t * s.decoder_subframes,
              length = t * c.frame_size;
    d.upload(codes_.data(), codes, size_t(t) * size_t(num_codebooks) * sizeof(int32_t));
    d.rvq_decode({m.rvq_.books(), codes_.data(), latent_.data(), t, num_codebooks, false});
    m.decoder_.run(d, state_, latent_.data(), t, head_.data());
    Dense inverse = m.inverse_.product(head_.data(), 3 * bins, windows, segment_.data(), window);
    inverse.load = Load::spectrum;
    d.dense(inverse);
    OverlapAdd o{};
    o.segment = segment_.data(), o.shape = m.shape_.data(), o.steady = m.steady_.data(),
    o.overlap = overlap_[0].data(), o.next_overlap = overlap_[1].data(), o.out = out_.data();
    o.windows = windows, o.window = window, o.hop = m.hop_, o.past = past_, o.length = length;
    o.first = int(std::min<int64_t>(length, std::max<int64_t>(0, past_ - position_)));
    o.phase = int((position_ + int64_t{past_} * (m.hop_ - 1)) % m.hop_);
    d.overlap_add(o);
    std::swap(overlap_[0], overlap_[1]);
    position_ += length;
    out.from_device(d, out_.data(), size_t(length - o.first));
  }

 private:
  std::shared_ptr<const SpectralCodec> codec_;
  int past_;
  int64_t position_ = 0;  // samples of whole frames so far
  Network::State state_;
  DeviceBuffer<float> overlap_[2];  // now, and as the next call will find it
  DeviceBuffer<float> latent_, head_, segment_, out_;
  DeviceBuffer<int32_t> codes_;
};

std::unique_ptr<EncoderStream> SpectralCodec::make_encoder(int num_codebooks) const {
  return std::make_unique<SpectralEncoder>(
      std::static_pointer_cast<const SpectralCodec>(shared_from_this()), num_codebooks);
}
std::unique_ptr<DecoderStream> SpectralCodec::decoder() const {
  if (!config_.spectral->has_decoder())
    throw std::invalid_argument(
        "this is an encoder without a decoder: its codes are units, not sound; decode with a "
        "codec");
  return std::make_unique<SpectralDecoder>(
      std::static_pointer_cast<const SpectralCodec>(shared_from_this()));
}

}  // namespace uniaudio::cuda
