#include <algorithm>

#include "seanet_layers.h"

namespace uniaudio {

LstmLayer::LstmLayer(const LayerSource& source, const std::string& prefix, int width, int layers)
    : width_(width),
      layers_(layers),
      blocks_((width + kPanel - 1) / kPanel),
      input_(layers),
      recurrent_(layers) {
  for (int l = 0; l < layers; ++l) {
    const std::string end = "_l" + std::to_string(l);
    const Buffer<float> wi = source.get(prefix + ".weight_ih" + end, {4 * width, width}),
                        wh = source.get(prefix + ".weight_hh" + end, {4 * width, width});
    const Buffer<float> bi = source.get(prefix + ".bias_ih" + end, {4 * width}),
                        bh = source.get(prefix + ".bias_hh" + end, {4 * width});
    if (!source.weights) continue;
    input_[l].allocate(width, blocks_ * 4 * kPanel);
    recurrent_[l].allocate(size_t(blocks_) * width * 4 * kPanel);
    for (int gate = 0; gate < 4; ++gate)
      for (int u = 0; u < width; ++u) {
        const size_t row = size_t(gate) * width + u;
        const int column = (u / kPanel * 4 + gate) * kPanel + u % kPanel;
        for (int i = 0; i < width; ++i) {
          input_[l].at(i, column) = wi[row * width + i];
          recurrent_[l][(size_t(u / kPanel) * width + i) * 4 * kPanel + gate * kPanel +
                        u % kPanel] = wh[row * width + i];
        }
        input_[l].bias[column] = bi[row] + bh[row];
      }
  }
}

std::unique_ptr<LayerState> LstmLayer::make_state() const {
  auto s = std::make_unique<LayerState>();
  s->kept.allocate(size_t(2) * layers_ * width_);  // per layer: hidden, cell
  return s;
}

void LstmLayer::reset(LayerState& s) const {
  std::fill_n(s.kept.data(), s.kept.size(), 0.0f);
  s.received = 0;
}

float* LstmLayer::input(LayerState& s, int64_t n) const {
  s.work.reserve(size_t(n) * width_ * 2);  // input rows, then the rows between layers
  s.work2.reserve(size_t(n) * blocks_ * 4 * kPanel);
  return s.work.data();
}

int LstmLayer::run(ThreadPool& pool, LayerState& s, int n, bool, float* out) const {
  const CodecKernels& kernels = codec_kernels();
  const int64_t wide = int64_t{blocks_} * 4 * kPanel;
  float *x = s.work.data(), *gates = s.work2.data();
  const float* from = x;
  s.received += n;
  if (n == 0) return 0;
  for (int l = 0; l < layers_; ++l) {
    // rows between layers alternate between `out` and the second half of `work`, so that the last
    // ones land in `out`
    float* to = (layers_ - 1 - l) % 2 == 0 ? out : x + int64_t{n} * width_;
    float *hidden = s.kept.data() + size_t(2) * l * width_, *cell = hidden + width_;
    multiply(pool, {.m = &input_[l], .a = from, .lda = width_, .rows = n, .c = gates, .ldc = wide});
    // Every step reads all recurrent weights. A thread keeps its share of them and reads it to and
    // fro, so that the end of one step is in its cache at the start of the next.
    const int threads =
        pool.threads() > 1 && int64_t{width_} * width_ >= 16384 ? pool.threads() : 1;
    const int pieces = 2 * threads, size = (blocks_ + pieces - 1) / pieces;
    LstmStep step{.w = recurrent_[l].data(), .cell = cell, .width = width_};
    for (int t = 0; t < n; ++t) {
      step.before = t == 0 ? hidden : to + int64_t{t - 1} * width_;
      step.gates = gates + t * wide;
      step.hidden = to + int64_t{t} * width_;
      step.backwards = (s.received + t) % 2 != 0;
      const auto piece = [&](int task) {
        LstmStep part = step;
        const int index = step.backwards ? task ^ 1 : task;  // the two pieces of a thread in turn
        part.b0 = std::min(blocks_, index * size);
        part.b1 = std::min(blocks_, part.b0 + size);
        kernels.lstm_step(part);
      };
      if (threads > 1) {
        run_tasks(pool, pieces, piece);
      } else {
        for (int task = 0; task < pieces; ++task) piece(task);
      }
    }
    std::copy_n(to + int64_t{n - 1} * width_, width_, hidden);
    from = to;
  }
  kernels.add(x, out, size_t(n) * width_);
  return n;
}

}  // namespace uniaudio
