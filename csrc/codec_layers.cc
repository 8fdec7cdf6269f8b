#include "codec_layers.h"

namespace uniaudio {

// --- state ---------------------------------------------------------------------------------------

void LayerState::copy_from(const LayerState& o) {
  std::copy_n(o.kept.data(), o.kept.size(), kept.data());
  rows = o.rows;
  skip = o.skip;
  received = o.received;
  started = o.started;
}

void Layer::write(const LayerState& s, StateWriter& w) const {
  w.integer(s.rows);
  w.integer(s.skip);
  w.integer(s.received);
  w.integer(s.started);
  w.floats(s.kept.data(), s.kept.size());
}

void Layer::read(LayerState& s, StateReader& r) const {
  s.rows = static_cast<int>(r.integer(0, INT32_MAX));
  s.skip = static_cast<int>(r.integer(0, INT32_MAX));
  s.received = r.integer(0, INT64_MAX / 4);
  s.started = r.integer(0, 1) != 0;
  r.floats(s.kept.data(), s.kept.size());
}

Buffer<float> LayerSource::get(const std::string& name, const std::vector<int64_t>& shape) const {
  if (specs) specs->push_back({name, shape});
  return weights ? weights->get(name, shape) : Buffer<float>();
}

// --- chain ---------------------------------------------------------------------------------------

LayerChain::States LayerChain::make_states() const {
  States states;
  for (const auto& layer : layers_) states.push_back(layer->make_state());
  return states;
}

void LayerChain::reset(States& states) const {
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->reset(*states[i]);
}

void LayerChain::copy(const States& from, States& to) const {
  for (size_t i = 0; i < layers_.size(); ++i) to[i]->copy_from(*from[i]);
}

void LayerChain::write(const States& states, StateWriter& w) const {
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->write(*states[i], w);
}

void LayerChain::read(States& states, StateReader& r) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i]->read(*states[i], r);
    const int64_t expected =
        i == 0 ? states[0]->received : layers_[i - 1]->ready(states[i - 1]->received);
    if (states[i]->received != expected || !layers_[i]->plausible(*states[i]))
      StateReader::refuse();
  }
}

int LayerChain::run(ThreadPool& pool, States& states, int n, bool last, Buffer<float>& out) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (n == 0 && !last) return 0;
    const int64_t bound = layers_[i]->bound(n);
    float* to;
    if (i + 1 < layers_.size()) {
      to = layers_[i + 1]->input(*states[i + 1], bound);
    } else {
      out.reserve(size_t(bound) * layers_[i]->width_out());
      to = out.data();
    }
    n = layers_[i]->run(pool, *states[i], n, last, to);
  }
  return n;
}

int64_t LayerChain::ready(int64_t received) const {
  for (const auto& layer : layers_) received = layer->ready(received);
  return received;
}

}  // namespace uniaudio
