// The SEANet codec on a device: csrc/seanet.h is the reference.
#pragma once

#include <memory>

#include "codec.h"
#include "seanet_layers.h"

namespace uniaudio::cuda {

class SeanetCodec final : public Codec {
 public:
  // std::invalid_argument on several channels, chunks, group norm and loudness: those look at whole
  // clips and stay on the CPU.
  SeanetCodec(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights);
  std::unique_ptr<DecoderStream> decoder() const override;

 protected:
  std::unique_ptr<EncoderStream> make_encoder(int num_codebooks) const override;

 private:
  friend class SeanetEncoder;
  friend class SeanetDecoder;
  LayerChain encoder_, decoder_;
  int frames_;  // at once
};

}  // namespace uniaudio::cuda
