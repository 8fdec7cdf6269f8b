#include "spectral.h"

#include <cmath>

namespace uniaudio {

namespace {

constexpr float kNormEps = 1e-6f;
constexpr float kMaxLogGain = 5.0f;
constexpr double kEnvelopeFloor = 0.1;
// frames at once: enough to read each weight for many rows, few enough to stay in cache
constexpr int kChunk = 128;

ConvNeXt::Shape encoder_shape(const CodecConfig& c) {
  const SpectralConfig& s = *c.spectral;
  return {(s.encoder_window / 2 + 1) * (s.encoder_phases ? 3 : 1) * s.encoder_subframes,
          s.encoder_width,
          s.encoder_hidden,
          s.encoder_blocks,
          c.codebook_dim,
          s.kernel_size};
}
ConvNeXt::Shape decoder_shape(const CodecConfig& c) {
  const SpectralConfig& s = *c.spectral;
  return {c.codebook_dim,
          s.decoder_width,
          s.decoder_hidden,
          s.decoder_blocks,
          (s.decoder_window / 2 + 1) * 3 * s.decoder_subframes,
          s.kernel_size};
}

}  // namespace

// --- ConvNeXt ------------------------------------------------------------------------------------

void ConvNeXt::specs(const std::string& p, const Shape& s, std::vector<TensorSpec>& out) {
  const auto linear = [&](const std::string& name, int n, int k) {
    out.push_back({name + ".weight", {n, k}});
    out.push_back({name + ".bias", {n}});
  };
  const auto norm = [&](const std::string& name) {
    out.push_back({name + ".weight", {s.width}});
    out.push_back({name + ".bias", {s.width}});
  };
  linear(p + ".input", s.width, s.in);
  norm(p + ".input_norm");
  for (int i = 0; i < s.blocks; ++i) {
    const std::string b = p + ".blocks." + std::to_string(i);
    out.push_back({b + ".depthwise.weight", {s.width, 1, s.taps}});
    out.push_back({b + ".depthwise.bias", {s.width}});
    norm(b + ".norm");
    linear(b + ".up", s.hidden, s.width);
    linear(b + ".down", s.width, s.hidden);
  }
  norm(p + ".norm");
  linear(p + ".output", s.out, s.width);
}

ConvNeXt::ConvNeXt(const Weights& weights, const std::string& p, const Shape& s)
    : shape_(s), blocks_(s.blocks) {
  const auto linear = [&](const std::string& name, int n, int k) {
    return PackedMatrix::linear(weights.get(name + ".weight", {n, k}),
                                weights.get(name + ".bias", {n}), n, k);
  };
  const auto norm = [&](const std::string& name) {
    return Norm{weights.get(name + ".weight", {s.width}), weights.get(name + ".bias", {s.width})};
  };
  input_ = linear(p + ".input", s.width, s.in);
  input_norm_ = norm(p + ".input_norm");
  for (int i = 0; i < s.blocks; ++i) {
    const std::string b = p + ".blocks." + std::to_string(i);
    const Buffer<float> w = weights.get(b + ".depthwise.weight", {s.width, 1, s.taps});
    blocks_[i].depthwise.allocate(w.size());
    for (int c = 0; c < s.width; ++c)
      for (int j = 0; j < s.taps; ++j)
        blocks_[i].depthwise[size_t(j) * s.width + c] = w[size_t(c) * s.taps + j];
    blocks_[i].depthwise_bias = weights.get(b + ".depthwise.bias", {s.width});
    blocks_[i].norm = norm(b + ".norm");
    blocks_[i].up = linear(b + ".up", s.hidden, s.width);
    blocks_[i].down = linear(b + ".down", s.width, s.hidden);
  }
  norm_ = norm(p + ".norm");
  output_ = linear(p + ".output", s.out, s.width);
}

void ConvNeXt::normalise(ThreadPool& pool, const Norm& norm, const float* x, float* y,
                         int rows) const {
  split(pool, rows, 4 * shape_.width, [&](int64_t a, int64_t b) {
    codec_kernels().layer_norm(x + a * shape_.width, y + a * shape_.width, norm.weight.data(),
                               norm.bias.data(), int(b - a), shape_.width, kNormEps);
  });
}

std::vector<ConvNeXt::Norm> ConvNeXt::modulated(const float* factors) const {
  const int width = shape_.width;
  std::vector<Norm> norms(blocks_.size() + 1);
  for (size_t i = 0; i < norms.size(); ++i) {
    const Norm& own = i == 0 ? input_norm_ : blocks_[i - 1].norm;
    const float *scale = factors + i * 2 * width, *shift = scale + width;
    norms[i].weight.allocate(width);
    norms[i].bias.allocate(width);
    for (int c = 0; c < width; ++c) {
      norms[i].weight[c] = own.weight[c] * (1 + scale[c]);
      norms[i].bias[c] = own.bias[c] * (1 + scale[c]) + shift[c];
    }
  }
  return norms;
}

void ConvNeXt::run(ThreadPool& pool, State& state, Scratch& scratch, const float* in, int rows,
                   float* out, const std::vector<Norm>* norms) const {
  const CodecKernels& kernels = codec_kernels();
  const int width = shape_.width, hidden = shape_.hidden, past = shape_.taps - 1;
  const size_t kept = size_t(past) * width;
  scratch.x.reserve(size_t(rows + past) * width);
  scratch.y.reserve(size_t(rows) * width);
  scratch.hidden.reserve(size_t(rows) * hidden);
  float* behind = scratch.x.data();  // `past` rows of the block's history, then its input
  float *x = behind + kept, *y = scratch.y.data(), *h = scratch.hidden.data();

  multiply(pool, {.m = &input_, .a = in, .lda = shape_.in, .rows = rows, .c = x, .ldc = width});
  normalise(pool, norms ? norms->front() : input_norm_, x, x, rows);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const Norm& norm = norms ? (*norms)[i + 1] : block.norm;
    float* history = state.history.data() + i * kept;
    std::copy_n(history, kept, behind);
    split(pool, rows, int64_t{width} * (shape_.taps + 4), [&](int64_t a, int64_t b) {
      const int n = int(b - a);
      kernels.depthwise(behind + a * width, y + a * width, block.depthwise.data(),
                        block.depthwise_bias.data(), n, shape_.taps, width);
      kernels.layer_norm(y + a * width, y + a * width, norm.weight.data(), norm.bias.data(), n,
                         width, kNormEps);
    });
    std::copy_n(behind + size_t(rows) * width, kept, history);  // before x changes below
    const Product up{.m = &block.up, .a = y, .lda = width, .rows = rows, .c = h, .ldc = hidden};
    const Product down{
        .m = &block.down, .a = h, .lda = hidden, .rows = rows, .c = x, .ldc = width, .add = true};
    // The bias of `down` is added by hand: a product adds either its bias or to what is there.
    const auto add_bias = [&](int64_t a, int64_t b) {
      for (int64_t r = a; r < b; ++r) kernels.add(block.down.bias.data(), x + r * width, width);
    };
    if (rows >= 12 * pool.threads()) {  // whole rows stay with one thread through both layers
      split(pool, rows, 2 * int64_t{width} * hidden, [&](int64_t a, int64_t b) {
        Product u = up, d = down;
        u.rows = d.rows = int(b - a);
        u.a += a * width, u.c += a * hidden;
        d.a += a * hidden, d.c += a * width;
        multiply_here(u);
        kernels.gelu(u.c, size_t(b - a) * hidden);
        add_bias(a, b);
        multiply_here(d);
      });
    } else {
      multiply(pool, up);
      split(
          pool, int64_t{rows} * hidden, 20,
          [&](int64_t a, int64_t b) { kernels.gelu(h + a, size_t(b - a)); }, kPanel);
      add_bias(0, rows);
      multiply(pool, down);
    }
  }
  normalise(pool, norm_, x, y, rows);
  multiply(pool, {.m = &output_, .a = y, .lda = width, .rows = rows, .c = out, .ldc = shape_.out});
}

// --- streams -------------------------------------------------------------------------------------

class SpectralEncoder final : public EncoderStream {
 public:
  explicit SpectralEncoder(std::shared_ptr<const SpectralCodec> codec) : codec_(std::move(codec)) {
    const SpectralConfig& c = *codec_->config().spectral;
    past_ = c.encoder_window - codec_->encoder_hop_;
    held_.allocate(past_ + codec_->config().frame_size);
    state_.history.allocate(codec_->encoder_->history_size());
  }
  const Codec& codec() const override { return *codec_; }
  void reset() override {
    std::fill_n(held_.data(), held_.size(), 0.0f);
    std::fill_n(state_.history.data(), state_.history.size(), 0.0f);
    pending_ = 0;
  }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<SpectralEncoder>(codec_);
    copy->num_codebooks_ = num_codebooks_;
    std::copy_n(held_.data(), held_.size(), copy->held_.data());
    std::copy_n(state_.history.data(), state_.history.size(), copy->state_.history.data());
    copy->pending_ = pending_;
    return copy;
  }

 protected:
  void run(const float* samples, int n, bool last, std::vector<int32_t>& codes,
           std::vector<float>*) override {
    const int frame = codec_->config().frame_size;
    const int total = pending_ + n;
    const int frames = last ? (total + frame - 1) / frame : total / frame;
    // work: `past_` samples before the first frame, then the frames, zeros beyond the clip's end
    work_.reserve(size_t(past_) + std::max<int64_t>(total, int64_t{frames} * frame));
    float* work = work_.data();
    std::copy_n(held_.data(), past_ + pending_, work);
    std::copy_n(samples, n, work + past_ + pending_);
    if (frames * frame > total) std::fill_n(work + past_ + total, frames * frame - total, 0.0f);
    if (frames > 0) encode(work, frames, codes);
    pending_ = std::max(0, total - frames * frame);
    std::copy_n(work + int64_t{frames} * frame, past_ + pending_, held_.data());
  }
  void write(StateWriter& w) const override {
    w.integer(pending_);
    w.floats(held_.data(), held_.size());
    w.floats(state_.history.data(), state_.history.size());
  }
  void read(StateReader& r) override {
    pending_ = static_cast<int>(r.integer(0, codec_->config().frame_size - 1));
    r.floats(held_.data(), held_.size());
    r.floats(state_.history.data(), state_.history.size());
  }
  void swap_state(EncoderStream& o) override {
    auto& other = static_cast<SpectralEncoder&>(o);
    std::swap(held_, other.held_);
    std::swap(state_, other.state_);
    std::swap(pending_, other.pending_);
  }

 private:
  void encode(const float* work, int frames, std::vector<int32_t>& codes) {
    const SpectralCodec& c = *codec_;
    const SpectralConfig& s = *c.config().spectral;
    const CodecKernels& kernels = codec_kernels();
    const RealFft& fft = c.encoder_fft_;
    const int segments = frames * s.encoder_subframes, bins = fft.bins(), window = s.encoder_window;
    const int width = s.encoder_phases ? 3 * bins : bins;
    const size_t each =
        size_t(window) + 2 * bins + std::max<size_t>(fft.scratch_size(), 3 * size_t(bins));
    features_.reserve(size_t(segments) * width);
    latent_.reserve(size_t(frames) * c.config().codebook_dim);
    segment_.reserve(each * segments);
    split(c.pool(), segments, 30 * window, [&](int64_t a, int64_t b) {
      float *x = segment_.data() + a * each, *re = x + window, *im = re + bins,
            *scratch = im + bins;
      for (int64_t i = a; i < b; ++i) {
        kernels.multiply(work + i * c.encoder_hop_, c.encoder_window_.data(), x, window);
        fft.forward(kernels, x, re, im, scratch);
        // without phases they are computed all the same, beside the row, and left there: one kernel
        // serves both
        float* features = s.encoder_phases ? features_.data() + i * width : scratch;
        kernels.spectrum_features(re, im, features, bins, 4.0f / static_cast<float>(window),
                                  s.log_floor);
        if (!s.encoder_phases) std::copy_n(features, bins, features_.data() + i * width);
      }
    });
    c.encoder_->run(c.pool(), state_, scratch_, features_.data(), frames, latent_.data());
    const size_t at = codes.size();
    codes.resize(at + size_t(frames) * num_codebooks_);
    c.quantizer_->encode(c.pool(), latent_.data(), frames, num_codebooks_, codes.data() + at,
                         scores_);
  }

  std::shared_ptr<const SpectralCodec> codec_;
  int past_ = 0, pending_ = 0;
  Buffer<float> held_;  // the samples before the next frame, then those of it that are there
  ConvNeXt::State state_;
  ConvNeXt::Scratch scratch_;
  Buffer<float> work_, features_, latent_, segment_, scores_;
};

class SpectralDecoder final : public DecoderStream {
 public:
  explicit SpectralDecoder(std::shared_ptr<const SpectralCodec> codec) : codec_(std::move(codec)) {
    past_ = codec_->config().spectral->decoder_window - codec_->decoder_hop_;
    overlap_.allocate(past_);
    state_.history.allocate(codec_->decoder_->history_size());
  }
  const Codec& codec() const override { return *codec_; }
  void reset() override {
    std::fill_n(overlap_.data(), overlap_.size(), 0.0f);
    std::fill_n(state_.history.data(), state_.history.size(), 0.0f);
    position_ = 0;
  }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<SpectralDecoder>(codec_);
    std::copy_n(overlap_.data(), overlap_.size(), copy->overlap_.data());
    std::copy_n(state_.history.data(), state_.history.size(), copy->state_.history.data());
    copy->position_ = position_;
    return copy;
  }

 protected:
  void run(const int32_t* codes, int frames, int num_codebooks, bool last, std::vector<float>& out,
           std::span<const float>&) override {
    const SpectralCodec& c = *codec_;
    const SpectralConfig& s = *c.config().spectral;
    const int hop = c.decoder_hop_, length = frames * c.config().frame_size;
    // add[i] is sample position_ - past_ + i; what lies before sample 0 is the run-in of the first
    // windows
    add_.reserve(size_t(past_) + length);
    float* add = add_.data();
    if (frames > 0) synthesize(codes, frames, num_codebooks);
    const int segments = frames * s.decoder_subframes, window = s.decoder_window;
    const int first =
        static_cast<int>(std::min<int64_t>(length, std::max<int64_t>(0, past_ - position_)));
    const size_t at = out.size();
    out.resize(at + size_t(length - first));
    // of add[0] in a hop
    const int phase = static_cast<int>((position_ + int64_t{past_} * (hop - 1)) % hop);
    const CodecKernels& kernels = codec_kernels();
    // Each piece takes the windows over it in their order, so that pieces don't change a sum.
    split(c.pool(), (past_ + length + hop - 1) / hop, 4 * window, [&](int64_t a, int64_t b) {
      const int begin = static_cast<int>(a) * hop,
                end = std::min(past_ + length, static_cast<int>(b) * hop);
      const int old = std::clamp(past_ - begin, 0, end - begin);
      std::copy_n(overlap_.data() + begin, old, add + begin);
      std::fill_n(add + begin + old, end - begin - old, 0.0f);
      for (int i = std::max(0, (begin - window) / hop); i < segments && i * hop < end; ++i) {
        const int low = std::max(begin, i * hop), high = std::min(end, i * hop + window);
        if (low < high)
          kernels.multiply_add(segment_.data() + size_t(i) * window + (low - i * hop),
                               c.decoder_window_.data() + (low - i * hop), add + low,
                               size_t(high - low));
      }
      for (int i = std::max(begin, first); i < std::min(end, length);) {
        const int p = (phase + i) % hop, n = std::min({hop - p, end - i, length - i});
        kernels.multiply(add + i, c.steady_.data() + p, out.data() + at + (i - first), size_t(n));
        i += n;
      }
    });
    position_ += length;
    if (last) {
      const int64_t skip = std::max<int64_t>(0, past_ - position_);
      for (int64_t i = skip; i < past_; ++i) out.push_back(add[length + i] * c.tail_[i]);
    }
    std::copy_n(add + length, past_, overlap_.data());
  }
  void write(StateWriter& w) const override {
    w.integer(position_);
    w.floats(overlap_.data(), overlap_.size());
    w.floats(state_.history.data(), state_.history.size());
  }
  void read(StateReader& r) override {
    position_ = r.integer(0, INT64_MAX / 4);
    if (position_ % codec_->config().frame_size) StateReader::refuse();
    r.floats(overlap_.data(), overlap_.size());
    r.floats(state_.history.data(), state_.history.size());
  }
  void swap_state(DecoderStream& o) override {
    auto& other = static_cast<SpectralDecoder&>(o);
    std::swap(overlap_, other.overlap_);
    std::swap(state_, other.state_);
    std::swap(position_, other.position_);
  }

 private:
  // codes -> segment_ [frames * subframes][window], not windowed
  void synthesize(const int32_t* codes, int frames, int num_codebooks) {
    const SpectralCodec& c = *codec_;
    const SpectralConfig& s = *c.config().spectral;
    const CodecKernels& kernels = codec_kernels();
    const RealFft& fft = c.decoder_fft_;
    const int segments = frames * s.decoder_subframes, bins = fft.bins(), window = s.decoder_window;
    latent_.reserve(size_t(frames) * c.config().codebook_dim);
    head_.reserve(size_t(segments) * 3 * bins);
    segment_.reserve(size_t(segments) * window);
    const size_t each = 2 * size_t(bins) + fft.scratch_size();
    work_.reserve(each * segments);
    c.quantizer_->decode(codes, frames, num_codebooks, latent_.data());
    c.decoder_->run(c.pool(), state_, scratch_, latent_.data(), frames, head_.data());
    split(c.pool(), segments, 60 * window, [&](int64_t a, int64_t b) {
      float *re = work_.data() + a * each, *im = re + bins, *scratch = im + bins;
      for (int64_t i = a; i < b; ++i) {
        kernels.apply_gain(head_.data() + i * 3 * bins, kMaxLogGain, re, im, bins);
        fft.inverse(kernels, re, im, segment_.data() + i * window, scratch);
      }
    });
  }

  std::shared_ptr<const SpectralCodec> codec_;
  int past_ = 0;
  int64_t position_ = 0;   // samples of whole frames so far
  Buffer<float> overlap_;  // sums of the windows so far over the next past_ samples
  ConvNeXt::State state_;
  ConvNeXt::Scratch scratch_;
  Buffer<float> add_, latent_, head_, segment_, work_;
};

// --- codec ---------------------------------------------------------------------------------------

SpectralCodec::SpectralCodec(const CodecConfig& config, const Weights& weights, int threads)
    : Codec(config, threads),
      encoder_hop_(config.frame_size / config.spectral->encoder_subframes),
      decoder_hop_(config.frame_size / config.spectral->decoder_subframes),
      encoder_fft_(config.spectral->encoder_window),
      decoder_fft_(config.spectral->decoder_window),
      encoder_window_(hann(config.spectral->encoder_window)),
      decoder_window_(hann(config.spectral->decoder_window)) {
  chunk_ = kChunk;
  const std::vector<int64_t> codebooks = {config.num_codebooks, config.codebook_size,
                                          config.codebook_dim};
  std::vector<TensorSpec> specs;
  ConvNeXt::specs("encoder", encoder_shape(config), specs);
  if (config.spectral->has_decoder()) ConvNeXt::specs("decoder", decoder_shape(config), specs);
  specs.push_back({"quantizer.codebooks", codebooks});
  weights.check("codec", specs);
  encoder_ = std::make_unique<ConvNeXt>(weights, "encoder", encoder_shape(config));
  quantizer_ =
      std::make_unique<ResidualVQ>(weights.get("quantizer.codebooks", codebooks),
                                   config.num_codebooks, config.codebook_size, config.codebook_dim);
  encoder_lookahead_ = 0;
  if (!config.spectral->has_decoder()) return;
  decoder_ = std::make_unique<ConvNeXt>(weights, "decoder", decoder_shape(config));

  // Envelope: the sum of the squared windows over a sample, floored at a share of its mean.
  const int window = config.spectral->decoder_window, hop = decoder_hop_;
  double steady_mean = 0;
  for (int i = 0; i < window; ++i)
    steady_mean += double{decoder_window_[i]} * decoder_window_[i] / hop;
  const auto inverse = [&](double envelope) {
    return static_cast<float>(1.0 / std::max(envelope, kEnvelopeFloor * steady_mean));
  };
  steady_.allocate(hop);
  tail_.allocate(window - hop);
  // the windows that have their samples first, first + hop, ... over this sample
  const auto over = [&](int first) {
    double sum = 0;
    for (int i = first; i < window; i += hop)
      sum += double{decoder_window_[i]} * decoder_window_[i];
    return inverse(sum);
  };
  // Sample n = s hop + p is sample window - hop + p of window s, and later ones of those before;
  // the newest window over sample i of the tail is the clip's last one, at its sample hop + i.
  for (int p = 0; p < hop; ++p) steady_[p] = over((window - hop + p) % hop);
  for (int i = 0; i < window - hop; ++i) tail_[i] = over(hop + i);
  decoder_lookahead_ = window - hop;
}

std::unique_ptr<EncoderStream> SpectralCodec::make_encoder() const {
  return std::make_unique<SpectralEncoder>(
      std::static_pointer_cast<const SpectralCodec>(shared_from_this()));
}
std::unique_ptr<DecoderStream> SpectralCodec::make_decoder() const {
  if (!decoder_)
    throw std::invalid_argument(
        "this is an encoder without a decoder: its codes are units, not sound; decode with a "
        "codec");
  return std::make_unique<SpectralDecoder>(
      std::static_pointer_cast<const SpectralCodec>(shared_from_this()));
}

}  // namespace uniaudio
