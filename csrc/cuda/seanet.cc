#include "seanet.h"

#include <algorithm>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

constexpr int kSamplesAtOnce = 40960;

const CodecConfig& supported(const CodecConfig& c) {
  const SeanetConfig& s = *c.seanet;
  if (s.bottleneck || s.channels != 1 || s.group_norm || s.normalize || s.chunk_size > 0) {
    throw std::invalid_argument(
        "cuda: expected a mono codec without transformer, chunks, group norm and loudness; use "
        "device cpu");
  }
  return c;
}

}  // namespace

// --- streams -------------------------------------------------------------------------------------

class SeanetEncoder final : public EncoderStream {
 public:
  SeanetEncoder(std::shared_ptr<const SeanetCodec> codec, int num_codebooks)
      : EncoderStream(num_codebooks),
        codec_(std::move(codec)),
        states_(codec_->encoder_.make_states()),
        codes_(codec_->device_, size_t(codec_->frames_ + 64) * size_t(num_codebooks)) {}
  void reset() override { codec_->encoder_.reset(states_); }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<SeanetEncoder>(codec_, num_codebooks_);
    codec_->encoder_.copy(*codec_->device_, states_, copy->states_);
    return copy;
  }

 protected:
  void take(const float* samples, int64_t n, bool last, std::vector<int32_t>& codes) override {
    const int64_t most = int64_t{codec_->frames_} * codec_->config().frame_size;
    for (int64_t at = 0; at < n; at += most)
      run(samples + at, int(std::min(most, n - at)), false, codes);
    if (last) run(nullptr, 0, true, codes);
  }

 private:
  void run(const float* samples, int n, bool last, std::vector<int32_t>& codes) {
    const SeanetCodec& c = *codec_;
    float* const to = c.encoder_.input(states_, n);
    if (n > 0) c.device_->upload(to, samples, size_t(n) * sizeof(float));
    const int frames = c.encoder_.run(c.device_, states_, n, last, latent_);
    if (size_t(frames) * size_t(num_codebooks_) > codes_.size())
      codes_ = DeviceBuffer<int32_t>(c.device_, size_t(frames) * size_t(num_codebooks_));
    c.quantize(latent_.data(), frames, num_codebooks_, codes_, codes);
  }

  std::shared_ptr<const SeanetCodec> codec_;
  LayerChain::States states_;
  DeviceBuffer<int32_t> codes_;
  Room latent_;
};

class SeanetDecoder final : public DecoderStream {
 public:
  explicit SeanetDecoder(std::shared_ptr<const SeanetCodec> codec)
      : DecoderStream(*codec, codec->frames_),
        codec_(std::move(codec)),
        states_(codec_->decoder_.make_states()),
        codes_(codec_->device_, size_t(codec_->frames_) * size_t(codec_->config().num_codebooks)) {}
  void reset() override { codec_->decoder_.reset(states_); }
  using DecoderStream::flush;
  void flush(Sink& out) override {
    synthesize(0, true, out);
    reset();
  }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<SeanetDecoder>(codec_);
    codec_->decoder_.copy(*codec_->device_, states_, copy->states_);
    return copy;
  }

 protected:
  void run(const int32_t* codes, int t, int num_codebooks, Sink& out) override {
    const SeanetCodec& c = *codec_;
    float* const to = c.decoder_.input(states_, t);
    c.device_->upload(codes_.data(), codes, size_t(t) * size_t(num_codebooks) * sizeof(int32_t));
    c.device_->rvq_decode({c.rvq_.books(), codes_.data(), to, t, num_codebooks, false});
    synthesize(t, false, out);
  }

 private:
  void synthesize(int t, bool last, Sink& out) {
    const SeanetCodec& c = *codec_;
    if (last) c.decoder_.input(states_, 0);
    const int n = c.decoder_.run(c.device_, states_, t, last, pcm_);
    out.from_device(*c.device_, pcm_.data(), size_t(n));
  }

  std::shared_ptr<const SeanetCodec> codec_;
  LayerChain::States states_;
  DeviceBuffer<int32_t> codes_;
  Room pcm_;
};

// --- codec ---------------------------------------------------------------------------------------

SeanetCodec::SeanetCodec(std::shared_ptr<Device> device, const CodecConfig& config,
                         const Weights& weights)
    : Codec(std::move(device), supported(config), weights),
      frames_(std::max(1, kSamplesAtOnce / config.frame_size)) {
  const SeanetConfig& s = *config.seanet;
  const LayerSource source{device_, weights, s};
  const auto conv = [&](LayerChain& chain, const std::string& name, int in, int out, int kernel,
                        int stride, bool elu_first) {
    chain.add(conv_layer(source, name, in, out, kernel, stride, elu_first));
  };
  // the last residual block of a stage does the elu that its resampling starts with
  const bool elu_inside = s.residual_layers > 0;
  const auto blocks = [&](LayerChain& chain, const std::string& stage, int width) {
    for (int j = 0, dilation = 1; j < s.residual_layers; ++j, dilation *= s.dilation_base) {
      chain.add(residual_layer(source, stage + ".blocks." + std::to_string(j), width, dilation,
                               j + 1 == s.residual_layers));
    }
  };
  const auto lstm = [&](LayerChain& chain, const std::string& name, int width) {
    if (s.lstm_layers > 0) chain.add(lstm_layer(source, name, width, s.lstm_layers));
  };
  const int stages = int(s.ratios.size());
  int width = s.filters;
  conv(encoder_, "encoder.input", 1, width, s.kernel_size, 1, false);
  for (int i = 0; i < stages; ++i, width *= 2) {
    const std::string name = "encoder.stages." + std::to_string(i);
    const int ratio = s.ratios[size_t(stages - 1 - i)];
    blocks(encoder_, name, width);
    conv(encoder_, name + ".down", width, 2 * width, 2 * ratio, ratio, !elu_inside);
  }
  lstm(encoder_, "encoder.lstm", width);
  conv(encoder_, "encoder.output", width, config.codebook_dim, s.last_kernel_size, 1, true);

  conv(decoder_, "decoder.input", config.codebook_dim, width, s.kernel_size, 1, false);
  lstm(decoder_, "decoder.lstm", width);
  for (int i = 0; i < stages; ++i, width /= 2) {
    const std::string name = "decoder.stages." + std::to_string(i);
    decoder_.add(upsample_layer(source, name + ".up", width, width / 2, s.ratios[size_t(i)],
                                i == 0 || !elu_inside));
    blocks(decoder_, name, width / 2);
  }
  conv(decoder_, "decoder.output", width, 1, s.last_kernel_size, 1, stages == 0 || !elu_inside);
}

std::unique_ptr<EncoderStream> SeanetCodec::make_encoder(int num_codebooks) const {
  return std::make_unique<SeanetEncoder>(
      std::static_pointer_cast<const SeanetCodec>(shared_from_this()), num_codebooks);
}
std::unique_ptr<DecoderStream> SeanetCodec::decoder() const {
  return std::make_unique<SeanetDecoder>(
      std::static_pointer_cast<const SeanetCodec>(shared_from_this()));
}

}  // namespace uniaudio::cuda
