// The spectral codec on a device: csrc/spectral.h is the reference. Without decoder blocks it ends
// at the codes: the semantic tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec.h"

namespace uniaudio::cuda {

// Linear in, norm, causal ConvNeXt blocks, norm, linear out, as ConvNeXt of csrc/spectral.h. Rows
// are frames.
class Network {
 public:
  struct Shape {
    int in, width, hidden, blocks, out, taps;
  };
  // What one stream remembers (now, and as the next call will find it) and computes in.
  struct State {
    DeviceBuffer<float> history[2], x, hidden;
  };
  Network() = default;
  Network(const std::shared_ptr<Device>& device, const Weights& weights, const std::string& prefix,
          const Shape& shape);
  State state(const std::shared_ptr<Device>& device, int rows) const;
  void reset(Device& device, State& state) const;
  void copy(Device& device, State& to, const State& from) const;
  // in [rows][in] -> out [rows][out]
  void run(Device& device, State& state, const float* in, int rows, float* out) const;

 private:
  struct Norm {
    DeviceBuffer<float> weight, bias;
  };
  struct Block {
    DeviceBuffer<float> depthwise, depthwise_bias;
    Norm norm;
    DenseMatrix up, down;
  };
  Shape shape_{};
  DenseMatrix input_, output_;
  Norm input_norm_, norm_;
  std::vector<Block> blocks_;
};

class SpectralCodec final : public Codec {
 public:
  SpectralCodec(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights);
  std::unique_ptr<DecoderStream> decoder() const override;

 protected:
  std::unique_ptr<EncoderStream> make_encoder(int num_codebooks) const override;

 private:
  friend class SpectralEncoder;
  friend class SpectralDecoder;
  int encoder_hop_, hop_ = 0;
  Network encoder_, decoder_;
  // forward_: window -> spectrum [2 bins], Hann window included; inverse_: spectrum -> window
  DenseMatrix forward_, inverse_;
  DeviceBuffer<float> shape_, steady_;
  std::vector<float> tail_;
};

}  // namespace uniaudio::cuda
