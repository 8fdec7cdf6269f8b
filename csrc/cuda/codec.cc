#include "codec.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

constexpr float kNormEps = 1e-6f, kMaxLogGain = 5.0f;  // csrc/spectral.cc
constexpr double kEnvelopeFloor = 0.1;
constexpr int kFramesAtOnce = 128;  // frames at once

}  // namespace

SpectralDecoder::Matrix SpectralDecoder::matrix(const float* weight, const float* bias, int out, int in) const {
  Matrix m;
  const int per = tile_inputs(Format::float32);
  m.in = in, m.out = out, m.row_tiles = (out + kTileRows - 1) / kTileRows, m.k_tiles = (in + per - 1) / per;
  std::vector<float> tiles(size_t(m.row_tiles) * size_t(m.k_tiles) * kTileBytes / 4, 0.0f), padded(size_t(m.row_tiles) * kTileRows, 0.0f);
  for (int r = 0; r < out; ++r) {
    float* const row = tiles.data() + size_t(r / kTileRows) * size_t(m.k_tiles) * (kTileBytes / 4) + size_t(r % kTileRows) * (kTileRowBytes / 4);
    for (int k = 0; k < in; ++k) row[k / per * (kTileBytes / 4) + k % per] = weight[size_t(r) * size_t(in) + size_t(k)];
    if (bias) padded[size_t(r)] = bias[r];
  }
  m.tiles = {device_, reinterpret_cast<const unsigned char*>(tiles.data()), tiles.size() * 4};
  if (bias) m.bias = {device_, padded.data(), padded.size()};
  return m;
}

Dense SpectralDecoder::product(const Matrix& m, const float* x, int xstride, int rows, float* y, int ystride) const {
  Dense d{};
  d.tiles = m.tiles.data(), d.bias = m.bias.data(), d.row_tiles = m.row_tiles, d.k_tiles = m.k_tiles, d.in = m.in, d.out = m.out;
  d.x = x, d.xstride = xstride, d.rows = rows, d.y = y, d.ystride = ystride;
  d.eps = kNormEps, d.most_gain = kMaxLogGain;
  return d;
}

SpectralDecoder::SpectralDecoder(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights) : device_(std::move(device)), config_(config) {
  if (!config.is_spectral || !config.spectral->has_decoder()) throw std::invalid_argument("cuda: expected a spectral codec with a decoder; use device cpu");
  const SpectralConfig& s = *config.spectral;
  const int width = s.decoder_width, hidden = s.decoder_hidden, bins = s.decoder_window / 2 + 1, out = 3 * bins * s.decoder_subframes;
  window_ = s.decoder_window, hop_ = config.frame_size / s.decoder_subframes;
  const auto vector = [&](const std::string& name, int n) {
    const Buffer<float> b = weights.get("decoder." + name, {n});
    return DeviceBuffer<float>(device_, b.data(), b.size());
  };
  const auto linear = [&](const std::string& name, int n, int k) {
    const Buffer<float> w = weights.get("decoder." + name + ".weight", {n, k}), b = weights.get("decoder." + name + ".bias", {n});
    return matrix(w.data(), b.data(), n, k);
  };
  const auto norm = [&](const std::string& name) { return Norm{vector(name + ".weight", width), vector(name + ".bias", width)}; };
  input_ = linear("input", width, config.codebook_dim);
  input_norm_ = norm("input_norm");
  for (int i = 0; i < s.decoder_blocks; ++i) {
    const std::string name = "blocks." + std::to_string(i);
    const Buffer<float> w = weights.get("decoder." + name + ".depthwise.weight", {width, 1, s.kernel_size});
    std::vector<float> turned(w.size());
    for (int c = 0; c < width; ++c) {
      for (int j = 0; j < s.kernel_size; ++j) turned[size_t(j * width + c)] = w[size_t(c * s.kernel_size + j)];
    }
    Stage stage;
    stage.depthwise = {device_, turned.data(), turned.size()};
    stage.depthwise_bias = vector(name + ".depthwise.bias", width);
    stage.norm = norm(name + ".norm");
    stage.up = linear(name + ".up", hidden, width);
    stage.down = linear(name + ".down", width, hidden);
    stages_.push_back(std::move(stage));
  }
  norm_ = norm("norm");
  output_ = linear("output", out, width);
  const Buffer<float> books = weights.get("quantizer.codebooks", {config.num_codebooks, config.codebook_size, config.codebook_dim});
  table_ = {device_, books.data(), books.size()};

  // The inverse transform as one matrix; the imaginary parts of the first and last bin count as zero.
  std::vector<float> inverse(size_t(window_) * size_t(2 * bins));
  for (int n = 0; n < window_; ++n) {
    for (int b = 0; b < bins; ++b) {
      const bool edge = b == 0 || b == bins - 1;
      const double angle = 2 * std::numbers::pi * double(int64_t(b) * n % window_) / window_, scale = (edge ? 1.0 : 2.0) / window_;
      inverse[size_t(n) * size_t(2 * bins) + size_t(b)] = float(scale * std::cos(angle));
      inverse[size_t(n) * size_t(2 * bins) + size_t(bins + b)] = edge ? 0.0f : float(-scale * std::sin(angle));
    }
  }
  inverse_ = matrix(inverse.data(), nullptr, window_, 2 * bins);

  // Window and envelopes: csrc/spectral.cc.
  std::vector<float> shape(static_cast<size_t>(window_)), steady(static_cast<size_t>(hop_));
  for (int i = 0; i < window_; ++i) shape[size_t(i)] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::numbers::pi * i / window_));
  double mean = 0;
  for (float v : shape) mean += double{v} * v / hop_;
  const auto over = [&](int first) {
    double sum = 0;
    for (int i = first; i < window_; i += hop_) sum += double{shape[size_t(i)]} * shape[size_t(i)];
    return static_cast<float>(1.0 / std::max(sum, kEnvelopeFloor * mean));
  };
  for (int p = 0; p < hop_; ++p) steady[size_t(p)] = over((window_ - hop_ + p) % hop_);
  for (int i = 0; i < window_ - hop_; ++i) tail_.push_back(over(hop_ + i));
  shape_ = {device_, shape.data(), shape.size()};
  steady_ = {device_, steady.data(), steady.size()};
}

DecoderStream::DecoderStream(std::shared_ptr<const SpectralDecoder> codec) : codec_(std::move(codec)), past_(codec_->window_ - codec_->hop_) {
  const CodecConfig& c = codec_->config();
  const SpectralConfig& s = *c.spectral;
  const size_t history = size_t(s.decoder_blocks) * size_t(s.kernel_size - 1) * size_t(s.decoder_width), rows = kFramesAtOnce, windows = rows * size_t(s.decoder_subframes);
  const std::shared_ptr<Device>& d = codec_->device_;
  for (int i = 0; i < 2; ++i) history_[i] = {d, history}, overlap_[i] = {d, size_t(past_)};
  latent_ = {d, rows * size_t(c.codebook_dim)}, x_ = {d, rows * size_t(s.decoder_width)}, hidden_ = {d, rows * size_t(s.decoder_hidden)};
  head_ = {d, rows * size_t(codec_->output_.out)}, segment_ = {d, windows * size_t(codec_->window_)}, out_ = {d, rows * size_t(c.frame_size)};
  codes_ = {d, rows * size_t(c.num_codebooks)};
  reset();
}

void DecoderStream::reset() {
  Device& d = *codec_->device_;
  if (history_[0].size()) d.zero(history_[0].data(), history_[0].size() * sizeof(float));
  if (past_) d.zero(overlap_[0].data(), overlap_[0].size() * sizeof(float));
  position_ = 0;
}

void DecoderStream::push(const int32_t* codes, int64_t t, int num_codebooks, std::vector<float>& samples) {
  const CodecConfig& c = codec_->config();
  if (num_codebooks < 1 || num_codebooks > c.num_codebooks) {
    throw std::invalid_argument("codes: expected 1 to " + std::to_string(c.num_codebooks) + " codebooks, got " + std::to_string(num_codebooks));
  }
  for (int64_t i = 0; i < t * num_codebooks; ++i) {
    if (codes[i] >= 0 && codes[i] < c.codebook_size) continue;
    throw std::invalid_argument("codes: expected 0 to " + std::to_string(c.codebook_size - 1) + ", got " + std::to_string(codes[i]));
  }
  for (int64_t at = 0; at < t; at += kFramesAtOnce) run(codes + at * num_codebooks, int(std::min<int64_t>(kFramesAtOnce, t - at)), num_codebooks, samples);
}

void DecoderStream::run(const int32_t* codes, int t, int num_codebooks, std::vector<float>& samples) {
  const SpectralDecoder& m = *codec_;
  const CodecConfig& c = m.config();
  const SpectralConfig& s = *c.spectral;
  Device& d = *m.device_;
  const int width = s.decoder_width, hidden = s.decoder_hidden, bins = m.window_ / 2 + 1;
  d.upload(codes_.data(), codes, size_t(t) * size_t(num_codebooks) * sizeof(int32_t));
  d.rvq_decode({{m.table_.data(), nullptr, nullptr, c.num_codebooks, c.codebook_size, c.codebook_dim}, codes_.data(), latent_.data(), t, num_codebooks, false});
  d.dense(m.product(m.input_, latent_.data(), c.codebook_dim, t, x_.data(), width));
  d.row_norm({x_.data(), m.input_norm_.weight.data(), m.input_norm_.bias.data(), t, width, kNormEps});
  const size_t kept = size_t(s.kernel_size - 1) * size_t(width);
  for (size_t i = 0; i < m.stages_.size(); ++i) {
    const SpectralDecoder::Stage& stage = m.stages_[i];
    Dense up = m.product(stage.up, x_.data(), width, t, hidden_.data(), hidden);
    up.load = Load::convolved, up.store = Store::gelu, up.taps = s.kernel_size;
    up.norm = stage.norm.weight.data(), up.norm_bias = stage.norm.bias.data();
    up.depthwise = stage.depthwise.data(), up.depthwise_bias = stage.depthwise_bias.data();
    up.history = history_[0].data() + i * kept, up.next_history = history_[1].data() + i * kept;
    d.dense(up);
    Dense down = m.product(stage.down, hidden_.data(), hidden, t, x_.data(), width);
    down.store = Store::add;
    d.dense(down);
  }
  Dense head = m.product(m.output_, x_.data(), width, t, head_.data(), m.output_.out);
  head.load = Load::norm, head.norm = m.norm_.weight.data(), head.norm_bias = m.norm_.bias.data();
  d.dense(head);
  const int windows = t * s.decoder_subframes, length = t * c.frame_size;
  Dense inverse = m.product(m.inverse_, head_.data(), 3 * bins, windows, segment_.data(), m.window_);
  inverse.load = Load::spectrum;
  d.dense(inverse);
  OverlapAdd o{};
  o.segment = segment_.data(), o.shape = m.shape_.data(), o.steady = m.steady_.data(), o.overlap = overlap_[0].data(), o.next_overlap = overlap_[1].data(), o.out = out_.data();
  o.windows = windows, o.window = m.window_, o.hop = m.hop_, o.past = past_, o.length = length;
  o.first = int(std::min<int64_t>(length, std::max<int64_t>(0, past_ - position_)));
  o.phase = int((position_ + int64_t{past_} * (m.hop_ - 1)) % m.hop_);
  d.overlap_add(o);
  std::swap(history_[0], history_[1]);
  std::swap(overlap_[0], overlap_[1]);
  position_ += length;
  const size_t at = samples.size(), made = size_t(length - o.first);
  samples.resize(at + made);
  if (made) d.download(samples.data() + at, out_.data(), made * sizeof(float));
}

void DecoderStream::flush(std::vector<float>& samples) {
  std::vector<float> rest(static_cast<size_t>(past_));
  if (past_) codec_->device_->download(rest.data(), overlap_[0].data(), rest.size() * sizeof(float));
  for (int64_t i = std::max<int64_t>(0, past_ - position_); i < past_; ++i) samples.push_back(rest[size_t(i)] * codec_->tail_[size_t(i)]);
  reset();
}

std::unique_ptr<DecoderStream> DecoderStream::fork() const {
  auto copy = std::make_unique<DecoderStream>(codec_);
  Device& d = *codec_->device_;
  if (history_[0].size()) d.copy(copy->history_[0].data(), history_[0].data(), 0, history_[0].size() * sizeof(float), 1);
  if (past_) d.copy(copy->overlap_[0].data(), overlap_[0].data(), 0, overlap_[0].size() * sizeof(float), 1);
  copy->position_ = position_;
  return copy;
}

}  // namespace uniaudio::cuda
