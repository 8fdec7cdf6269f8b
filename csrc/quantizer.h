// From a codec's latent rows to codes and back.
//
// Plain: residual vector quantization of the latent itself. Split (Mimi): the first codebooks and
// the others each quantize a projection of the latent, and their projections back are summed.
// Factorised (arXiv 2306.06546): each stage projects the residual to a few dimensions, picks the
// codeword of the largest cosine there, and subtracts that codeword's projection back.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "codec_layers.h"
#include "config.h"

namespace uniaudio {

class Quantizer {
 public:
  // Working memory of one stream.
  struct Scratch {
    Buffer<float> rows, projected, scores;
    std::vector<int32_t> codes;
  };

  virtual ~Quantizer() = default;
  // z [rows, latent] -> codes [rows, stages]; z is overwritten
  virtual void encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
                      Scratch& scratch) const = 0;
  // codes [rows, stages] -> z [rows, latent]
  virtual void decode(ThreadPool& pool, const int32_t* codes, int rows, int stages, float* z,
                      Scratch& scratch) const = 0;
};

// Notes the shapes; null where the source has no weights.
std::unique_ptr<Quantizer> make_quantizer(const CodecConfig& config, const LayerSource& source);

}  // namespace uniaudio
