// The spectral codec: STFT -> causal ConvNeXt -> RVQ -> causal ConvNeXt -> ISTFT, all at frame
// rate. With `decoder_blocks` 0 it ends at the codes: the semantic tokenizer. Reference:
// training/uniaudio_training/models/spectral.py; the heads follow Vocos (arXiv 2306.00814).
#pragma once

#include <memory>
#include <vector>

#include "codec.h"
#include "codec_ops.h"
#include "fft.h"
#include "rvq.h"

namespace uniaudio {

// Linear in, norm, causal ConvNeXt blocks (arXiv 2201.03545), norm, linear out.  Rows are frames.
class ConvNeXt {
 public:
  struct Shape {
    int in, width, hidden, blocks, out, taps;
  };
  struct Norm {
    Buffer<float> weight, bias;
  };
  // One stream's state and working memory.
  struct State {
    Buffer<float> history;  // [blocks][taps - 1][width]
  };
  struct Scratch {
    Buffer<float> x, y, hidden;
  };

  ConvNeXt(const Weights& weights, const std::string& prefix, const Shape& shape);
  static void specs(const std::string& prefix, const Shape& shape, std::vector<TensorSpec>& out);

  size_t history_size() const { return size_t(shape_.blocks) * (shape_.taps - 1) * shape_.width; }
  // The norms of the input and of each block, with FiLM (arXiv 1709.07871) folded into them: factors
  // [blocks + 1][2][width], what is added to a scale of 1, and a shift.
  std::vector<Norm> modulated(const float* factors) const;
  // in [rows, shape.in] -> out [rows, shape.out]. norms: those of modulated(), or null for its own.
  void run(ThreadPool& pool, State& state, Scratch& scratch, const float* in, int rows, float* out,
           const std::vector<Norm>* norms = nullptr) const;

 private:
  struct Block {
    Buffer<float> depthwise, depthwise_bias;  // [taps][width], [width]
    Norm norm;
    PackedMatrix up, down;
  };
  void normalise(ThreadPool& pool, const Norm& norm, const float* x, float* y, int rows) const;

  Shape shape_;
  PackedMatrix input_, output_;
  Norm input_norm_, norm_;
  std::vector<Block> blocks_;
};

class SpectralCodec final : public Codec {
 public:
  SpectralCodec(const CodecConfig& config, const Weights& weights, int threads);

 protected:
  std::unique_ptr<EncoderStream> make_encoder() const override;
  std::unique_ptr<DecoderStream> make_decoder() const override;

 private:
  friend class SpectralEncoder;
  friend class SpectralDecoder;

  int encoder_hop_, decoder_hop_;
  RealFft encoder_fft_, decoder_fft_;
  std::unique_ptr<ConvNeXt> encoder_, decoder_;  // no decoder where config has none
  std::unique_ptr<ResidualVQ> quantizer_;
  Buffer<float> encoder_window_, decoder_window_;
  Buffer<float> steady_;  // [hop]: 1 / envelope where every window is there
  Buffer<float> tail_;    // [window - hop]: 1 / envelope at the end of a clip
};

}  // namespace uniaudio
