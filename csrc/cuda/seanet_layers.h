// The layers of the SEANet codec on a device: csrc/seanet_layers.h is the reference. The host
// decides from counts alone which rows are kept, mirrored and padded; the rows never leave the
// device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec.h"

namespace uniaudio::cuda {

// Device memory that grows; what was in it is lost when it does.
class Room {
 public:
  float* reserve(const std::shared_ptr<Device>& device, size_t size) {
    if (buffer_.size() < size) buffer_ = DeviceBuffer<float>(device, size + size / 4);
    return buffer_.data();
  }
  float* data() const { return buffer_.data(); }
  size_t size() const { return buffer_.size(); }

 private:
  DeviceBuffer<float> buffer_;
};

// One layer's memory in one stream, as uniaudio::LayerState, and its working space.
struct LayerState {
  DeviceBuffer<float> kept;
  int rows = 0, skip = 0;
  int64_t received = 0;
  bool started = false;
  Room work, work2;
};

class Layer {
 public:
  virtual ~Layer() = default;
  virtual LayerState make_state() const = 0;
  virtual void reset(LayerState& s) const = 0;
  virtual int width_out() const = 0;
  // most rows out for n rows in
  virtual int64_t bound(int64_t n) const = 0;
  // where the next (at most) n rows go, before run
  virtual float* input(LayerState& s, int64_t n) const = 0;
  virtual int run(LayerState& s, int n, bool last, float* out) const = 0;  // rows written
};

class LayerChain {
 public:
  using States = std::vector<LayerState>;
  void add(std::unique_ptr<Layer> layer) { layers_.push_back(std::move(layer)); }
  States make_states() const;
  void reset(States& states) const;
  void copy(Device& device, const States& from, States& to) const;
  float* input(States& states, int64_t n) const { return layers_[0]->input(states[0], n); }
  // Takes n rows from there; `out` grows as needed and starts with the returned number of rows.
  int run(const std::shared_ptr<Device>& device, States& states, int n, bool last, Room& out) const;

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

struct LayerSource {
  const std::shared_ptr<Device>& device;
  const Weights& weights;
  const SeanetConfig& config;
};
// As the layers of csrc/seanet_layers.h.
std::unique_ptr<Layer> conv_layer(const LayerSource& source, const std::string& name, int in,
                                  int out, int kernel, int stride, bool elu_first);
std::unique_ptr<Layer> upsample_layer(const LayerSource& source, const std::string& name, int in,
                                      int out, int stride, bool elu_first);
std::unique_ptr<Layer> residual_layer(const LayerSource& source, const std::string& name, int width,
                                      int dilation, bool elu_after);
std::unique_ptr<Layer> lstm_layer(const LayerSource& source, const std::string& name, int width,
                                  int layers);

}  // namespace uniaudio::cuda
