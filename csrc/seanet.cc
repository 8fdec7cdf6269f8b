#include "seanet.h"

namespace uniaudio {

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

// --- streams -------------------------------------------------------------------------------------

class SeanetEncoder final : public EncoderStream {
 public:
  explicit SeanetEncoder(std::shared_ptr<const SeanetCodec> codec)
      : codec_(std::move(codec)), states_(codec_->encoder_.make_states()) {}
  const Codec& codec() const override { return *codec_; }
  void reset() override { codec_->encoder_.reset(states_); }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<SeanetEncoder>(codec_);
    copy->num_codebooks_ = num_codebooks_;
    codec_->encoder_.copy(states_, copy->states_);
    return copy;
  }

 protected:
  void run(const float* rows, int n, bool last, std::vector<int32_t>& codes,
           std::vector<float>*) override {
    const SeanetCodec& c = *codec_;
    float* to = c.encoder_.input(states_, n);
    if (n > 0) std::copy_n(rows, size_t(n) * c.channels(), to);
    const int frames = c.encoder_.run(c.pool(), states_, n, last, latent_);
    const size_t at = codes.size();
    codes.resize(at + size_t(frames) * num_codebooks_);
    c.quantizer_->encode(c.pool(), latent_.data(), frames, num_codebooks_, codes.data() + at,
                         scores_);
  }
  void write(StateWriter& w) const override { codec_->encoder_.write(states_, w); }
  void read(StateReader& r) override { codec_->encoder_.read(states_, r); }
  void swap_state(EncoderStream& o) override {
    std::swap(states_, static_cast<SeanetEncoder&>(o).states_);
  }

 private:
  std::shared_ptr<const SeanetCodec> codec_;
  LayerChain::States states_;
  Buffer<float> latent_, scores_;
};

class SeanetDecoder final : public DecoderStream {
 public:
  explicit SeanetDecoder(std::shared_ptr<const SeanetCodec> codec)
      : codec_(std::move(codec)), states_(codec_->decoder_.make_states()) {}
  const Codec& codec() const override { return *codec_; }
  void reset() override { codec_->decoder_.reset(states_); }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<SeanetDecoder>(codec_);
    codec_->decoder_.copy(states_, copy->states_);
    return copy;
  }

 protected:
  void run(const int32_t* codes, int t, int num_codebooks, bool last, std::vector<float>& samples,
           std::span<const float>&) override {
    const SeanetCodec& c = *codec_;
    float* to = c.decoder_.input(states_, t);
    c.quantizer_->decode(codes, t, num_codebooks, to);
    const int n = c.decoder_.run(c.pool(), states_, t, last, pcm_);
    samples.insert(samples.end(), pcm_.data(), pcm_.data() + size_t(n) * c.channels());
  }
  void write(StateWriter& w) const override { codec_->decoder_.write(states_, w); }
  void read(StateReader& r) override { codec_->decoder_.read(states_, r); }
  void swap_state(DecoderStream& o) override {
    std::swap(states_, static_cast<SeanetDecoder&>(o).states_);
  }

 private:
  std::shared_ptr<const SeanetCodec> codec_;
  LayerChain::States states_;
  Buffer<float> pcm_;
};

// --- codec ---------------------------------------------------------------------------------------

SeanetCodec::SeanetCodec(const CodecConfig& config, const Weights& weights, int threads)
    : Codec(config, threads) {
  const SeanetConfig& s = *config.seanet;
  if (s.ratios.size() > 16 || (int64_t{s.filters} << s.ratios.size()) > 65536 ||
      s.filters / s.compress < 1) {
    throw std::invalid_argument(
        "config: codec.seanet: expected at most 16 ratios, at most 65536 channels and compress up "
        "to filters");
  }
  if (streams()) chunk_ = std::max(1, 40960 / config.frame_size);
  const std::vector<int64_t> codebooks = {config.num_codebooks, config.codebook_size,
                                          config.codebook_dim};
  std::vector<TensorSpec> specs;
  // first only the shapes, so that all that is wrong is said before anything is read
  build({nullptr, &specs, &s});
  specs.push_back({"quantizer.codebooks", codebooks});
  weights.check("codec", specs);
  build({&weights, nullptr, &s});
  quantizer_ =
      std::make_unique<ResidualVQ>(weights.get("quantizer.codebooks", codebooks),
                                   config.num_codebooks, config.codebook_size, config.codebook_dim);
  measure_lookahead();
}

void SeanetCodec::build(const LayerSource& source) {
  const SeanetConfig& s = *source.config;
  encoder_ = LayerChain();
  decoder_ = LayerChain();
  const auto conv = [&](LayerChain& chain, const std::string& name, int in, int out, int kernel,
                        int stride, bool elu_first) {
    chain.add(std::make_unique<ConvLayer>(source, name, in, out, kernel, stride, 1, elu_first));
  };
  // With residual blocks the last one of a stage does the elu that its resampling (or the output)
  // starts with.
  const bool elu_inside = s.residual_layers > 0;
  const auto blocks = [&](LayerChain& chain, const std::string& stage, int width, bool elu_after) {
    int dilation = 1;
    for (int j = 0; j < s.residual_layers; ++j, dilation *= s.dilation_base) {
      if (int64_t{dilation} * s.residual_kernel_size > 1 << 20)
        throw std::invalid_argument(
            "config: codec.seanet: the dilation grows beyond 1048576 samples");
      chain.add(std::make_unique<ResidualLayer>(source, stage + ".blocks." + std::to_string(j),
                                                width, dilation,
                                                elu_after && j + 1 == s.residual_layers));
    }
  };
  const auto lstm = [&](LayerChain& chain, const std::string& name, int width) {
    if (s.lstm_layers > 0)
      chain.add(std::make_unique<LstmLayer>(source, name, width, s.lstm_layers));
  };
  const int stages = static_cast<int>(s.ratios.size());
  int width = s.filters;
  conv(encoder_, "encoder.input", s.channels, width, s.kernel_size, 1, false);
  for (int i = 0; i < stages; ++i, width *= 2) {
    const std::string name = "encoder.stages." + std::to_string(i);
    const int ratio = s.ratios[stages - 1 - i];
    blocks(encoder_, name, width, true);
    conv(encoder_, name + ".down", width, 2 * width, 2 * ratio, ratio, !elu_inside);
  }
  lstm(encoder_, "encoder.lstm", width);
  conv(encoder_, "encoder.output", width, config_.codebook_dim, s.last_kernel_size, 1, true);

  conv(decoder_, "decoder.input", config_.codebook_dim, width, s.kernel_size, 1, false);
  lstm(decoder_, "decoder.lstm", width);
  for (int i = 0; i < stages; ++i, width /= 2) {
    const std::string name = "decoder.stages." + std::to_string(i);
    decoder_.add(std::make_unique<UpsampleLayer>(source, name + ".up", width, width / 2,
                                                 s.ratios[i], i == 0 || !elu_inside));
    blocks(decoder_, name, width / 2, true);
  }
  conv(decoder_, "decoder.output", width, s.channels, s.last_kernel_size, 1,
       stages == 0 || !elu_inside);
}

void SeanetCodec::measure_lookahead() {
  const int64_t frame = config_.frame_size, limit = int64_t{1} << 40;
  // chunk by chunk; what a clip's end completes is not waited for
  if (const int64_t size = config_.seanet->chunk_size; size > 0) {
    const int64_t length = chunk_frames() * frame;
    encoder_lookahead_ = std::max<int64_t>(0, size - frame);
    decoder_lookahead_ = std::max(length - frame, length - config_.seanet->chunk_stride);
    return;
  }
  // the smallest count in [1, limit] whose f is at least `wanted`; f never falls
  const auto smallest = [&](const LayerChain& chain, int64_t wanted) {
    int64_t low = 1, high = limit;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (chain.ready(middle) >= wanted)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  };
  // Reflection at the start holds the first outputs back for longer than any later one, so the
  // first frames decide.
  for (int64_t t = 1; t <= 16; ++t)
    encoder_lookahead_ = std::max(encoder_lookahead_, smallest(encoder_, t) - t * frame);
  const int64_t first = smallest(decoder_, 1);
  for (int64_t t = first - 1; t <= first + 16; ++t)
    decoder_lookahead_ = std::max(decoder_lookahead_, t * frame - decoder_.ready(t));
}

std::unique_ptr<EncoderStream> SeanetCodec::make_encoder() const {
  return std::make_unique<SeanetEncoder>(
      std::static_pointer_cast<const SeanetCodec>(shared_from_this()));
}
std::unique_ptr<DecoderStream> SeanetCodec::make_decoder() const {
  return std::make_unique<SeanetDecoder>(
      std::static_pointer_cast<const SeanetCodec>(shared_from_this()));
}

}  // namespace uniaudio
