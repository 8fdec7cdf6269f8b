// A codec made of two chains of layers with a quantizer between them.
#pragma once

#include <memory>

#include "codec.h"
#include "codec_layers.h"
#include "quantizer.h"

namespace uniaudio {

class ChainCodec : public Codec {
 protected:
  using Codec::Codec;
  std::unique_ptr<EncoderStream> make_encoder() const override;
  std::unique_ptr<DecoderStream> make_decoder() const override;

  // Adds the layers of both chains; called twice, see `load`.
  virtual void build(const LayerSource& source) = 0;
  // Checks all weights against what `build` and the quantizer ask for, then reads them.
  // std::invalid_argument
  void load(const Weights& weights);
  // Sets both look-aheads from what the chains have ready.
  void measure_lookahead();

  LayerChain encoder_, decoder_;

 private:
  friend class ChainEncoder;
  friend class ChainDecoder;

  // codes [rows, stages] -> z [rows, width] that the decoder begins with
  void decode_rows(const int32_t* codes, int rows, int stages, float* z,
                   Quantizer::Scratch& scratch) const;

  std::unique_ptr<Quantizer> quantizer_;
  Buffer<float> codewords_;  // [K, C, D] of a decoder that has its own
};

}  // namespace uniaudio
