#include "codec.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "seanet.h"
#include "spectral.h"

namespace uniaudio::cuda {
namespace {

constexpr float kNormEps = 1e-6f, kMaxLogGain = 5.0f;  // csrc/spectral.cc

}  // namespace

DenseMatrix::DenseMatrix(const std::shared_ptr<Device>& device, const float* weight,
                         const float* bias, int out, int in)
    : in_(in), out_(out) {
  const int per = tile_inputs(Format::float32);
  row_tiles_ = (out + kTileRows - 1) / kTileRows, k_tiles_ = (in + per - 1) / per;
  std::vector<float> tiles(size_t(row_tiles_) * size_t(k_tiles_) * kTileBytes / 4, 0.0f),
      padded(size_t(row_tiles_) * kTileRows, 0.0f);
  for (int r = 0; r < out; ++r) {
    float* const row = tiles.data() + size_t(r / kTileRows) * size_t(k_tiles_) * (kTileBytes / 4) +
                       size_t(r % kTileRows) * (kTileRowBytes / 4);
    for (int k = 0; k < in; ++k)
      row[k / per * (kTileBytes / 4) + k % per] = weight[size_t(r) * size_t(in) + size_t(k)];
    if (bias) padded[size_t(r)] = bias[r];
  }
  tiles_ = {device, reinterpret_cast<const unsigned char*>(tiles.data()), tiles.size() * 4};
  if (bias) bias_ = {device, padded.data(), padded.size()};
}

Dense DenseMatrix::product(const float* x, int xstride, int rows, float* y, int ystride) const {
  Dense d{};
  d.tiles = tiles_.data(), d.bias = bias_.data(), d.row_tiles = row_tiles_, d.k_tiles = k_tiles_,
  d.in = in_, d.out = out_;
  d.x = x, d.xstride = xstride, d.rows = rows, d.y = y, d.ystride = ystride;
  d.eps = kNormEps, d.most_gain = kMaxLogGain;
  return d;
}

Conv DenseMatrix::convolution(const float* x, int channels, int taps, int stride, int dilation,
                              int rows, float* y, int ystride) const {
  Conv c{};
  c.tiles = tiles_.data(), c.bias = bias_.data(), c.row_tiles = row_tiles_, c.k_tiles = k_tiles_,
  c.out = out_, c.rows = rows;
  c.x = x, c.channels = channels, c.taps = taps, c.stride = stride, c.dilation = dilation, c.y = y,
  c.ystride = ystride;
  return c;
}

Codec::Codec(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights)
    : device_(std::move(device)),
      config_(config),
      rvq_(device_,
           weights
               .get("quantizer.codebooks",
                    {config.num_codebooks, config.codebook_size, config.codebook_dim})
               .data(),
           config.num_codebooks, config.codebook_size, config.codebook_dim) {}

std::shared_ptr<const Codec> Codec::create(std::shared_ptr<Device> device,
                                           const CodecConfig& config, const Weights& weights) {
  if (config.is(CodecFamily::spectral))
    return std::make_shared<SpectralCodec>(std::move(device), config, weights);
  if (!config.is(CodecFamily::seanet))
    throw std::invalid_argument("cuda: codecs of transformers run on the CPU; use device cpu");
  return std::make_shared<SeanetCodec>(std::move(device), config, weights);
}

std::unique_ptr<EncoderStream> Codec::encoder(int num_codebooks) const {
  if (num_codebooks < 0 || num_codebooks > config_.num_codebooks) {
    throw std::invalid_argument("num_codebooks: expected 0 to " +
                                std::to_string(config_.num_codebooks) + ", got " +
                                std::to_string(num_codebooks));
  }
  return make_encoder(num_codebooks ? num_codebooks : config_.num_codebooks);
}

void Codec::quantize(float* latent, int rows, int num_codebooks, DeviceBuffer<int32_t>& room,
                     std::vector<int32_t>& codes) const {
  if (rows == 0) return;
  device_->rvq_encode({rvq_.books(), latent, room.data(), rows, num_codebooks});
  const size_t at = codes.size(), made = size_t(rows) * size_t(num_codebooks);
  codes.resize(at + made);
  device_->download(codes.data() + at, room.data(), made * sizeof(int32_t));
}

void EncoderStream::push(const float* samples, int64_t n, std::vector<int32_t>& codes) {
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(samples[i]))
      throw std::invalid_argument("samples: expected finite values, got infinity or NaN");
  }
  take(samples, n, false, codes);
}

void EncoderStream::flush(std::vector<int32_t>& codes) {
  take(nullptr, 0, true, codes);
  reset();
}

void HostSink::from_device(Device& device, const float* samples, size_t n) {
  const size_t at = to_.size();
  to_.resize(at + n);
  if (n > 0) device.download(to_.data() + at, samples, n * sizeof(float));
}
void HostSink::from_host(Device&, const float* samples, size_t n) {
  to_.insert(to_.end(), samples, samples + n);
}

float* ArraySink::place(size_t n) {
  if ((size_ + n) * sizeof(float) > to_.bytes())
    throw std::invalid_argument("array: expected room for " + std::to_string(size_ + n) +
                                " samples");
  float* const at = reinterpret_cast<float*>(to_.data()) + size_;
  size_ += n;
  return at;
}
void ArraySink::from_device(Device& device, const float* samples, size_t n) {
  if (n > 0) device.copy(place(n), samples, 0, n * sizeof(float), 1);
}
void ArraySink::from_host(Device& device, const float* samples, size_t n) {
  if (n > 0) device.upload(place(n), samples, n * sizeof(float));
}

void DecoderStream::push(const int32_t* codes, int64_t t, int num_codebooks,
                         std::vector<float>& samples) {
  HostSink sink(samples);
  push(codes, t, num_codebooks, sink);
}
void DecoderStream::flush(std::vector<float>& samples) {
  HostSink sink(samples);
  flush(sink);
}

void DecoderStream::push(const int32_t* codes, int64_t t, int num_codebooks, Sink& out) {
  if (num_codebooks < 1 || num_codebooks > config_.num_codebooks) {
    throw std::invalid_argument("codes: expected 1 to " + std::to_string(config_.num_codebooks) +
                                " codebooks, got " + std::to_string(num_codebooks));
  }
  for (int64_t i = 0; i < t * num_codebooks; ++i) {
    if (codes[i] >= 0 && codes[i] < config_.codebook_size) continue;
    throw std::invalid_argument("codes: expected 0 to " +
                                std::to_string(config_.codebook_size - 1) + ", got " +
                                std::to_string(codes[i]));
  }
  for (int64_t at = 0; at < t; at += frames_)
    run(codes + at * num_codebooks, int(std::min<int64_t>(frames_, t - at)), num_codebooks, out);
}

}  // namespace uniaudio::cuda
