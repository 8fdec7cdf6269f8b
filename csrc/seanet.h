// The SEANet codec (SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438) in the time domain.
// The reference, with the tensor names, is training/uniaudio_training/models/seanet.py.
#pragma once

#include "chain_codec.h"
#include "seanet_layers.h"

namespace uniaudio {

class SeanetCodec final : public ChainCodec {
 public:
  SeanetCodec(const CodecConfig& config, const Weights& weights, int threads);

 protected:
  void build(const LayerSource& source) override;
  // Group norm and loudness look at whole clips, but a chunk is a clip.
  bool streams() const override {
    return config_.seanet->chunk_size > 0 ||
           !(config_.seanet->group_norm || config_.seanet->normalize);
  }
};

}  // namespace uniaudio
