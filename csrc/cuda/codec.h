// The spectral codec's decoder on a device: csrc/spectral.h is its truth.  Codes go in, samples come out; all between stays on the device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "device.h"
#include "weights.h"

namespace uniaudio::cuda {

class DecoderStream;

class SpectralDecoder {
 public:
  // Reads decoder.* and quantizer.codebooks.  std::invalid_argument on other codecs and on weights that do not fit.
  SpectralDecoder(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights);
  const CodecConfig& config() const { return config_; }

 private:
  friend class DecoderStream;
  struct Matrix {
    DeviceBuffer<unsigned char> tiles;
    DeviceBuffer<float> bias;
    int row_tiles = 0, k_tiles = 0, in = 0, out = 0;
  };
  struct Norm {
    DeviceBuffer<float> weight, bias;
  };
  struct Stage {
    DeviceBuffer<float> depthwise, depthwise_bias;
    Norm norm;
    Matrix up, down;
  };
  Matrix matrix(const float* weight, const float* bias, int out, int in) const;
  Dense product(const Matrix& m, const float* x, int xstride, int rows, float* y, int ystride) const;

  std::shared_ptr<Device> device_;
  CodecConfig config_;
  int hop_, window_;
  Matrix input_, output_, inverse_;  // inverse_: spectrum [2 bins] -> window
  Norm input_norm_, norm_;
  std::vector<Stage> stages_;
  DeviceBuffer<float> shape_, steady_, table_;
  std::vector<float> tail_;
};

// One clip.  One call at a time.
class DecoderStream {
 public:
  explicit DecoderStream(std::shared_ptr<const SpectralDecoder> codec);
  // codes [t][num_codebooks] -> the samples that are complete, appended.  std::invalid_argument on a code out of range.
  void push(const int32_t* codes, int64_t t, int num_codebooks, std::vector<float>& samples);
  void flush(std::vector<float>& samples);  // what was held back; a new clip begins
  void reset();
  std::unique_ptr<DecoderStream> fork() const;

 private:
  void run(const int32_t* codes, int t, int num_codebooks, std::vector<float>& samples);
  std::shared_ptr<const SpectralDecoder> codec_;
  int past_;
  int64_t position_ = 0;  // samples of whole frames so far
  DeviceBuffer<float> history_[2], overlap_[2];  // now, and as the next call will find them
  DeviceBuffer<float> latent_, x_, hidden_, head_, segment_, out_;
  DeviceBuffer<int32_t> codes_;
};

}  // namespace uniaudio::cuda
