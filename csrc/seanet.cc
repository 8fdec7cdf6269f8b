#include "seanet.h"

#include "snake_decoder.h"
#include "windowed_transformer.h"

namespace uniaudio {

SeanetCodec::SeanetCodec(const CodecConfig& config, const Weights& weights, int threads)
    : ChainCodec(config, threads) {
  const SeanetConfig& s = *config.seanet;
  if (s.ratios.size() > 16 || (int64_t{s.filters} << s.ratios.size()) > 65536 ||
      s.filters / s.compress < 1) {
    throw std::invalid_argument(
        "config: codec.seanet: expected at most 16 ratios, at most 65536 channels and compress up "
        "to filters");
  }
  if (streams()) chunk_ = std::max(1, 40960 / config.frame_size);
  load(weights);
  // chunk by chunk; what a clip's end completes is not waited for
  if (const int64_t size = s.chunk_size; size > 0) {
    const int64_t length = chunk_frames() * int64_t{config.frame_size};
    encoder_lookahead_ = std::max<int64_t>(0, size - config.frame_size);
    decoder_lookahead_ = std::max(length - config.frame_size, length - s.chunk_stride);
  } else {
    measure_lookahead();
  }
}

void SeanetCodec::build(const LayerSource& source) {
  const SeanetConfig& s = *source.config;
  const auto conv = [&](LayerChain& chain, const std::string& name, int in, int out, int kernel,
                        int stride, bool elu_first) {
    chain.add(std::make_unique<ConvLayer>(
        source, name,
        ConvShape{
            .in = in, .out = out, .kernel = kernel, .stride = stride, .elu_first = elu_first}));
  };
  const int latent = config_.latent_dim();
  // With residual blocks the last one of a stage does the elu that its resampling (or the output)
  // starts with.
  const bool elu_inside = s.residual_layers > 0;
  const auto blocks = [&](LayerChain& chain, const std::string& stage, int width, bool elu_after) {
    int dilation = 1;
    for (int j = 0; j < s.residual_layers; ++j, dilation *= s.dilation_base) {
      if (int64_t{dilation} * s.residual_kernel_size > 1 << 20)
        throw std::invalid_argument(
            "config: codec.seanet: the dilation grows beyond 1048576 samples");
      chain.add(std::make_unique<ResidualLayer>(source, stage + ".blocks." + std::to_string(j),
                                                width, dilation,
                                                elu_after && j + 1 == s.residual_layers));
    }
  };
  const auto lstm = [&](LayerChain& chain, const std::string& name, int width) {
    if (s.lstm_layers > 0)
      chain.add(std::make_unique<LstmLayer>(source, name, width, s.lstm_layers));
  };
  const int stages = static_cast<int>(s.ratios.size());
  int width = s.filters;
  conv(encoder_, "encoder.input", s.channels, width, s.kernel_size, 1, false);
  for (int i = 0; i < stages; ++i, width *= 2) {
    const std::string name = "encoder.stages." + std::to_string(i);
    const int ratio = s.ratios[stages - 1 - i];
    blocks(encoder_, name, width, true);
    conv(encoder_, name + ".down", width, 2 * width, 2 * ratio, ratio, !elu_inside);
  }
  lstm(encoder_, "encoder.lstm", width);
  conv(encoder_, "encoder.output", width, latent, s.last_kernel_size, 1, true);
  if (s.bottleneck) {
    const BottleneckConfig& b = *s.bottleneck;
    if (b.transformer.width != latent)
      throw std::invalid_argument(
          "config: codec.seanet.bottleneck.transformer.width: expected the latent's " +
          std::to_string(latent) + ", got " + std::to_string(b.transformer.width));
    const auto transformer = [&](LayerChain& chain, const std::string& name) {
      chain.add(std::make_unique<WindowedTransformer>(source, name, b.transformer));
    };
    transformer(encoder_, "encoder.transformer");
    encoder_.add(std::make_unique<ConvLayer>(source, "encoder.down",
                                             ConvShape{.in = latent,
                                                       .out = latent,
                                                       .kernel = 2 * b.stride,
                                                       .stride = b.stride,
                                                       .bias = false,
                                                       .pad = Pad::replicate}));
    if (s.decoder) return build_snake_decoder(decoder_, source, *s.decoder);
    decoder_.add(std::make_unique<DepthwiseUpsample>(source, "decoder.up", latent, b.stride));
    transformer(decoder_, "decoder.transformer");
  }

  conv(decoder_, "decoder.input", latent, width, s.kernel_size, 1, false);
  lstm(decoder_, "decoder.lstm", width);
  for (int i = 0; i < stages; ++i, width /= 2) {
    const std::string name = "decoder.stages." + std::to_string(i);
    decoder_.add(std::make_unique<UpsampleLayer>(source, name + ".up", width, width / 2,
                                                 s.ratios[i], i == 0 || !elu_inside));
    blocks(decoder_, name, width / 2, true);
  }
  conv(decoder_, "decoder.output", width, s.channels, s.last_kernel_size, 1,
       stages == 0 || !elu_inside);
}

}  // namespace uniaudio
