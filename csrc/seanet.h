// The SEANet codec (SoundStream, arXiv 2107.03312; EnCodec, arXiv 2210.13438) in the time domain.
// The truth, and the tensor names, are in training/uniaudio_training/models/seanet.py.
#pragma once

#include <memory>
#include <vector>

#include "codec.h"
#include "rvq.h"
#include "seanet_layers.h"

namespace uniaudio {

// Layers in a row, and their states in one stream.
class LayerChain {
 public:
  using States = std::vector<std::unique_ptr<LayerState>>;

  void add(std::unique_ptr<Layer> layer) { layers_.push_back(std::move(layer)); }
  States make_states() const;
  void reset(States& states) const;
  void copy(const States& from, States& to) const;
  void write(const States& states, StateWriter& w) const;
  void read(States& states, StateReader& r) const;

  float* input(States& states, int64_t n) const { return layers_[0]->input(*states[0], n); }
  // Takes n rows from there; `out` grows as needed and starts with the returned number of rows.
  int run(ThreadPool& pool, States& states, int n, bool last, Buffer<float>& out) const;
  int64_t ready(int64_t received) const;

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

class SeanetCodec final : public Codec {
 public:
  SeanetCodec(const CodecConfig& config, const Weights& weights, int threads);

 protected:
  std::unique_ptr<EncoderStream> make_encoder() const override;
  std::unique_ptr<DecoderStream> make_decoder() const override;
  // Group norm and loudness look at whole clips, but a chunk is a clip.
  bool streams() const override {
    return config_.seanet->chunk_size > 0 ||
           !(config_.seanet->group_norm || config_.seanet->normalize);
  }

 private:
  friend class SeanetEncoder;
  friend class SeanetDecoder;
  void build(const LayerSource& source);
  void measure_lookahead();

  LayerChain encoder_, decoder_;
  std::unique_ptr<ResidualVQ> quantizer_;
};

}  // namespace uniaudio
