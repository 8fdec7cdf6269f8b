#include "cat.h"

#include "windowed_transformer.h"

namespace uniaudio {

namespace {

// Joins `ratio` rows to one. The clip's end is padded with zeros to a multiple of `whole` rows.
class JoinRows final : public Layer {
 public:
  JoinRows(int width, int ratio, int whole) : width_(width), ratio_(ratio), whole_(whole) {}
  std::unique_ptr<LayerState> make_state() const override {
    auto s = std::make_unique<LayerState>();
    s->kept.allocate(size_t(ratio_) * width_);
    return s;
  }
  void reset(LayerState& s) const override {
    s.rows = 0;
    s.received = 0;
  }
  int width_in() const override { return width_; }
  int width_out() const override { return width_ * ratio_; }
  int64_t bound(int64_t n) const override { return (n + ratio_ + whole_) / ratio_; }
  float* input(LayerState& s, int64_t n) const override {
    s.work.reserve(size_t(n + ratio_ + whole_) * width_);
    return s.work.data() + size_t(s.rows) * width_;
  }
  int run(ThreadPool&, LayerState& s, int n, bool last, float* out) const override {
    float* x = s.work.data();
    std::copy_n(s.kept.data(), size_t(s.rows) * width_, x);
    s.received += n;
    int64_t rows = s.rows + int64_t{n};
    if (last) {
      const int64_t missing = round_up(s.received, whole_) - s.received;
      std::fill_n(x + rows * width_, missing * width_, 0.0f);
      rows += missing;
    }
    const int64_t count = rows / ratio_;
    std::copy_n(x, count * ratio_ * width_, out);
    s.rows = static_cast<int>(rows - count * ratio_);
    std::copy_n(x + count * ratio_ * width_, size_t(s.rows) * width_, s.kept.data());
    return static_cast<int>(count);
  }
  int64_t ready(int64_t received) const override { return received / ratio_; }
  bool plausible(const LayerState& s) const override {
    return s.rows == s.received % ratio_ && s.skip == 0 && !s.started;
  }

 private:
  int width_, ratio_, whole_;
};

}  // namespace

CatCodec::CatCodec(const CodecConfig& config, const Weights& weights, int threads)
    : ChainCodec(config, threads) {
  chunk_ = std::max(1, 96000 / (config.frame_size * config.cat->channels));
  load(weights);
  measure_lookahead();
}

void CatCodec::build(const LayerSource& source) {
  const CatConfig& c = *config_.cat;
  const auto stage = [&](LayerChain& chain, const std::string& side, size_t i,
                         const CatSide::Stage& s, int width) {
    chain.add(std::make_unique<WindowedTransformer>(source, side + ".stages." + std::to_string(i),
                                                    s.transformer, width, s.output));
    return s.output;
  };
  int width = c.channels;
  for (size_t i = 0; i < c.encoder.patches.size(); ++i) {
    // The rows of the first patch are samples of all channels; it pads whole frames.
    const int ratio = i == 0 ? c.encoder.patches[0] / c.channels : c.encoder.patches[i];
    if (ratio > 1)
      encoder_.add(std::make_unique<JoinRows>(width, ratio, i == 0 ? config_.frame_size : 1));
    width *= ratio;
    if (i < c.encoder.stages.size())
      width = stage(encoder_, "encoder", i, c.encoder.stages[i], width);
  }
  width = config_.latent_dim();
  for (size_t i = 0; i < c.decoder.patches.size(); ++i) {
    const bool last = i == c.decoder.stages.size();
    const int ratio = last ? c.decoder.patches[i] / c.channels : c.decoder.patches[i];
    if (ratio > 1) decoder_.add(std::make_unique<SplitRows>(width, ratio));
    width /= ratio;
    if (!last) width = stage(decoder_, "decoder", i, c.decoder.stages[i], width);
  }
}

}  // namespace uniaudio
