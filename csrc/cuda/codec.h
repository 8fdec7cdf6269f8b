// The spectral codec on a device: csrc/spectral.h is its truth.  Samples go in and codes come out, or the other way; all between stays on the
// device.  Without decoder blocks it ends at the codes: the semantic tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "device.h"
#include "rvq_device.h"
#include "weights.h"

namespace uniaudio::cuda {

// A matrix in the tiles of dense.h, with its bias if it has one.
class DenseMatrix {
 public:
  DenseMatrix() = default;
  DenseMatrix(const std::shared_ptr<Device>& device, const float* weight, const float* bias, int out, int in);
  // y [rows][ystride] = W x + b of x [rows][xstride]
  Dense product(const float* x, int xstride, int rows, float* y, int ystride) const;
  int in() const { return in_; }
  int out() const { return out_; }

 private:
  DeviceBuffer<unsigned char> tiles_;
  DeviceBuffer<float> bias_;
  int row_tiles_ = 0, k_tiles_ = 0, in_ = 0, out_ = 0;
};

// Linear in, norm, causal ConvNeXt blocks, norm, linear out, as ConvNeXt of csrc/spectral.h.  Rows are frames.
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
  Network(const std::shared_ptr<Device>& device, const Weights& weights, const std::string& prefix, const Shape& shape);
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

class SpectralCodec {
 public:
  // Reads encoder.*, decoder.* and quantizer.codebooks.  std::invalid_argument on other codecs and on weights that do not fit.
  SpectralCodec(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights);
  const CodecConfig& config() const { return config_; }

 private:
  friend class EncoderStream;
  friend class DecoderStream;
  std::shared_ptr<Device> device_;
  CodecConfig config_;
  int encoder_hop_, hop_ = 0;
  Rvq rvq_;
  Network encoder_, decoder_;
  DenseMatrix forward_, inverse_;  // forward_: window -> spectrum [2 bins], Hann window and scale included; inverse_: spectrum -> window
  DeviceBuffer<float> shape_, steady_;
  std::vector<float> tail_;
};

// One clip, samples in.  One call at a time.
class EncoderStream {
 public:
  // num_codebooks 0: all.  std::invalid_argument out of range.
  EncoderStream(std::shared_ptr<const SpectralCodec> codec, int num_codebooks);
  int num_codebooks() const { return num_codebooks_; }
  // samples [n] -> the frames [t][num_codebooks] that are complete, appended.  std::invalid_argument on NaN or infinity.
  void push(const float* samples, int64_t n, std::vector<int32_t>& codes);
  void flush(std::vector<int32_t>& codes);  // the rest, zeros after it; a new clip begins
  void reset();
  std::unique_ptr<EncoderStream> fork() const;

 private:
  void run(int frames, std::vector<int32_t>& codes);
  std::shared_ptr<const SpectralCodec> codec_;
  int num_codebooks_;
  size_t past_;
  std::vector<float> held_;  // the `past_` samples before the next frame, then those that no frame has used yet
  Network::State state_;
  DeviceBuffer<float> samples_, spectrum_, features_, latent_;
  DeviceBuffer<int32_t> codes_;
};

// One clip, codes in.  One call at a time.
class DecoderStream {
 public:
  explicit DecoderStream(std::shared_ptr<const SpectralCodec> codec);  // std::invalid_argument where it has no decoder
  // codes [t][num_codebooks] -> the samples that are complete, appended.  std::invalid_argument on a code out of range.
  void push(const int32_t* codes, int64_t t, int num_codebooks, std::vector<float>& samples);
  void flush(std::vector<float>& samples);  // what was held back; a new clip begins
  void reset();
  std::unique_ptr<DecoderStream> fork() const;

 private:
  void run(const int32_t* codes, int t, int num_codebooks, std::vector<float>& samples);
  std::shared_ptr<const SpectralCodec> codec_;
  int past_;
  int64_t position_ = 0;  // samples of whole frames so far
  Network::State state_;
  DeviceBuffer<float> overlap_[2];  // now, and as the next call will find it
  DeviceBuffer<float> latent_, head_, segment_, out_;
  DeviceBuffer<int32_t> codes_;
};

}  // namespace uniaudio::cuda
