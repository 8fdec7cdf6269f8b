// Codecs on a device: samples in and codes out, or the reverse; everything between stays on the
// device. csrc/codec.h describes the streams.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "array.h"
#include "config.h"
#include "device.h"
#include "rvq_device.h"
#include "weights.h"

namespace uniaudio::cuda {

class DecoderStream;

// One clip, samples in.  One call at a time.
class EncoderStream {
 public:
  virtual ~EncoderStream() = default;
  int num_codebooks() const { return num_codebooks_; }
  // samples [n] -> the frames [t][num_codebooks] that are complete, appended. std::invalid_argument
  // on NaN or infinity.
  void push(const float* samples, int64_t n, std::vector<int32_t>& codes);
  // the rest, by the clip's padding rule; a new clip begins
  void flush(std::vector<int32_t>& codes);
  virtual void reset() = 0;
  virtual std::unique_ptr<EncoderStream> fork() const = 0;

 protected:
  explicit EncoderStream(int num_codebooks) : num_codebooks_(num_codebooks) {}
  virtual void take(const float* samples, int64_t n, bool last, std::vector<int32_t>& codes) = 0;
  int num_codebooks_;
};

// Immutable, shared by its streams.
class Codec : public std::enable_shared_from_this<Codec> {
 public:
  // std::invalid_argument on weights that do not fit, and on codecs that do not run on a device:
  // those with chunks, group norm or several channels.
  static std::shared_ptr<const Codec> create(std::shared_ptr<Device> device,
                                             const CodecConfig& config, const Weights& weights);
  virtual ~Codec() = default;
  const CodecConfig& config() const { return config_; }
  const std::shared_ptr<Device>& device() const { return device_; }
  // num_codebooks 0: all. std::invalid_argument where it is out of range
  std::unique_ptr<EncoderStream> encoder(int num_codebooks) const;
  // std::invalid_argument where the codec has no decoder
  virtual std::unique_ptr<DecoderStream> decoder() const = 0;

 protected:
  Codec(std::shared_ptr<Device> device, const CodecConfig& config, const Weights& weights);
  virtual std::unique_ptr<EncoderStream> make_encoder(int num_codebooks) const = 0;
  // Appends the codes of latent [rows][dim], which becomes the residual. `room`: device memory for
  // them.
  void quantize(float* latent, int rows, int num_codebooks, DeviceBuffer<int32_t>& room,
                std::vector<int32_t>& codes) const;
  std::shared_ptr<Device> device_;
  CodecConfig config_;
  Rvq rvq_;
};

// Takes a decoder's samples, piece by piece.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void from_device(Device& device, const float* samples, size_t n) = 0;
  virtual void from_host(Device& device, const float* samples, size_t n) = 0;
};
class HostSink final : public Sink {
 public:
  explicit HostSink(std::vector<float>& to) : to_(to) {}
  void from_device(Device& device, const float* samples, size_t n) override;
  void from_host(Device& device, const float* samples, size_t n) override;

 private:
  std::vector<float>& to_;
};
class ArraySink final : public Sink {  // std::invalid_argument where the array is full
 public:
  explicit ArraySink(Array& to) : to_(to) {}
  void from_device(Device& device, const float* samples, size_t n) override;
  void from_host(Device& device, const float* samples, size_t n) override;
  size_t size() const { return size_; }

 private:
  float* place(size_t n);
  Array& to_;
  size_t size_ = 0;
};

// One clip, codes in.  One call at a time.
class DecoderStream {
 public:
  virtual ~DecoderStream() = default;
  // codes [t][num_codebooks] -> the samples that are complete, appended. std::invalid_argument on a
  // code out of range.
  void push(const int32_t* codes, int64_t t, int num_codebooks, Sink& out);
  void push(const int32_t* codes, int64_t t, int num_codebooks, std::vector<float>& samples);
  virtual void flush(Sink& out) = 0;  // samples that were held back; a new clip begins
  void flush(std::vector<float>& samples);
  virtual void reset() = 0;
  virtual std::unique_ptr<DecoderStream> fork() const = 0;
  const std::shared_ptr<Device>& device() const { return device_; }

 protected:
  DecoderStream(const Codec& codec, int frames)
      : config_(codec.config()), device_(codec.device()), frames_(frames) {}
  virtual void run(const int32_t* codes, int t, int num_codebooks, Sink& out) = 0;
  const CodecConfig& config_;
  std::shared_ptr<Device> device_;
  int frames_;  // at most at once
};

// A matrix in the tiles of dense.h, with its bias if it has one.
class DenseMatrix {
 public:
  DenseMatrix() = default;
  DenseMatrix(const std::shared_ptr<Device>& device, const float* weight, const float* bias,
              int out, int in);
  // y [rows][ystride] = W x + b of x [rows][xstride]
  Dense product(const float* x, int xstride, int rows, float* y, int ystride) const;
  // y [rows][ystride] of `taps` rows [channels] of a signal each (see Conv); in() is taps *
  // channels
  Conv convolution(const float* x, int channels, int taps, int stride, int dilation, int rows,
                   float* y, int ystride) const;
  int in() const { return in_; }
  int out() const { return out_; }

 private:
  DeviceBuffer<unsigned char> tiles_;
  DeviceBuffer<float> bias_;
  int row_tiles_ = 0, k_tiles_ = 0, in_ = 0, out_ = 0;
};

}  // namespace uniaudio::cuda
