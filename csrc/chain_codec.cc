#include "chain_codec.h"

namespace uniaudio {

// --- streams -------------------------------------------------------------------------------------

class ChainEncoder final : public EncoderStream {
 public:
  explicit ChainEncoder(std::shared_ptr<const ChainCodec> codec)
      : codec_(std::move(codec)), states_(codec_->encoder_.make_states()) {}
  const Codec& codec() const override { return *codec_; }
  void reset() override { codec_->encoder_.reset(states_); }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<ChainEncoder>(codec_);
    copy->num_codebooks_ = num_codebooks_;
    codec_->encoder_.copy(states_, copy->states_);
    return copy;
  }

 protected:
  void run(const float* rows, int n, bool last, std::vector<int32_t>& codes,
           std::vector<float>*) override {
    const ChainCodec& c = *codec_;
    float* to = c.encoder_.input(states_, n);
    if (n > 0) std::copy_n(rows, size_t(n) * c.channels(), to);
    const int frames = c.encoder_.run(c.pool(), states_, n, last, latent_);
    const size_t at = codes.size();
    codes.resize(at + size_t(frames) * num_codebooks_);
    c.quantizer_->encode(c.pool(), latent_.data(), frames, num_codebooks_, codes.data() + at,
                         scratch_);
  }
  void write(StateWriter& w) const override { codec_->encoder_.write(states_, w); }
  void read(StateReader& r) override { codec_->encoder_.read(states_, r); }
  void swap_state(EncoderStream& o) override {
    std::swap(states_, static_cast<ChainEncoder&>(o).states_);
  }

 private:
  std::shared_ptr<const ChainCodec> codec_;
  LayerChain::States states_;
  Buffer<float> latent_;
  Quantizer::Scratch scratch_;
};

class ChainDecoder final : public DecoderStream {
 public:
  explicit ChainDecoder(std::shared_ptr<const ChainCodec> codec)
      : codec_(std::move(codec)), states_(codec_->decoder_.make_states()) {}
  const Codec& codec() const override { return *codec_; }
  void reset() override { codec_->decoder_.reset(states_); }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<ChainDecoder>(codec_);
    codec_->decoder_.copy(states_, copy->states_);
    return copy;
  }

 protected:
  void run(const int32_t* codes, int t, int num_codebooks, bool last, std::vector<float>& samples,
           std::span<const float>&) override {
    const ChainCodec& c = *codec_;
    float* to = c.decoder_.input(states_, t);
    c.decode_rows(codes, t, num_codebooks, to, scratch_);
    const int n = c.decoder_.run(c.pool(), states_, t, last, pcm_);
    samples.insert(samples.end(), pcm_.data(), pcm_.data() + size_t(n) * c.channels());
  }
  void write(StateWriter& w) const override { codec_->decoder_.write(states_, w); }
  void read(StateReader& r) override { codec_->decoder_.read(states_, r); }
  void swap_state(DecoderStream& o) override {
    std::swap(states_, static_cast<ChainDecoder&>(o).states_);
  }

 private:
  std::shared_ptr<const ChainCodec> codec_;
  LayerChain::States states_;
  Buffer<float> pcm_;
  Quantizer::Scratch scratch_;
};

// --- codec ---------------------------------------------------------------------------------------

void ChainCodec::load(const Weights& weights) {
  const SeanetConfig* seanet = config_.seanet ? &*config_.seanet : nullptr;
  const auto all = [&](const LayerSource& source) {
    encoder_ = LayerChain();
    decoder_ = LayerChain();
    build(source);
    quantizer_ = make_quantizer(config_, source);
    if (seanet && seanet->decoder)
      codewords_ = source.get("decoder.codebooks", {config_.num_codebooks, config_.codebook_size,
                                                    seanet->decoder->latent_dim});
  };
  std::vector<TensorSpec> specs;
  // first only the shapes, so that all that is wrong is said before anything is read
  all({nullptr, &specs, seanet});
  weights.check("codec", specs);
  all({&weights, nullptr, seanet});
}

void ChainCodec::decode_rows(const int32_t* codes, int rows, int stages, float* z,
                             Quantizer::Scratch& scratch) const {
  if (!config_.seanet || !config_.seanet->decoder)
    return quantizer_->decode(pool(), codes, rows, stages, z, scratch);
  const size_t width = size_t(config_.seanet->decoder->latent_dim);
  const float* from[64];
  for (int r = 0; r < rows; ++r, z += width) {
    for (int k = 0; k < stages; ++k, ++codes)
      from[k] = codewords_.data() + (size_t(k) * config_.codebook_size + *codes) * width;
    codec_kernels().sum_rows(from, stages, z, int(width));
  }
}

void ChainCodec::measure_lookahead() {
  const int64_t frame = config_.frame_size, limit = int64_t{1} << 40;
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

std::unique_ptr<EncoderStream> ChainCodec::make_encoder() const {
  return std::make_unique<ChainEncoder>(
      std::static_pointer_cast<const ChainCodec>(shared_from_this()));
}
std::unique_ptr<DecoderStream> ChainCodec::make_decoder() const {
  return std::make_unique<ChainDecoder>(
      std::static_pointer_cast<const ChainCodec>(shared_from_this()));
}

}  // namespace uniaudio
