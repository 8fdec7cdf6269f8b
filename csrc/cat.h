// The CAT codec ("causal audio tokenizer with transformers"; MOSS-Audio-Tokenizer): patches of
// samples and windowed transformers, without convolutions. Channels are interleaved to one signal.
#pragma once

#include "chain_codec.h"

namespace uniaudio {

class CatCodec final : public ChainCodec {
 public:
  CatCodec(const CodecConfig& config, const Weights& weights, int threads);

 protected:
  void build(const LayerSource& source) override;
};

}  // namespace uniaudio
