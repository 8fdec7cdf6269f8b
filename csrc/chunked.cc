#include "chunked.h"

#include <cmath>

#include "codec_ops.h"

namespace uniaudio {

float loudness(const float* rows, size_t n, int channels) {
  double squares = 0;
  for (size_t i = 0; i < n; ++i, rows += channels) {
    double mono = 0;
    for (int c = 0; c < channels; ++c) mono += rows[c];
    mono /= channels;
    squares += mono * mono;
  }
  return static_cast<float>(std::sqrt(squares / double(n))) + 1e-8f;
}

// What both directions know of the chunks.
struct Chunks {
  explicit Chunks(const Codec& codec) : channels(codec.channels()), frames(codec.chunk_frames()) {
    const SeanetConfig& s = *codec.config().seanet;
    size = s.chunk_size;
    stride = s.chunk_stride;
    length = frames * codec.config().frame_size;
    normalize = s.normalize;
  }
  int channels, frames, size, stride;
  // decoded samples of a whole chunk: at least `size`, more where that is no multiple of the frame
  // size
  int length;
  bool normalize;
};

class ChunkedEncoder final : public EncoderStream {
 public:
  ChunkedEncoder(std::shared_ptr<const Codec> codec, std::unique_ptr<EncoderStream> inner)
      : codec_(std::move(codec)),
        chunks_(*codec_),
        inner_(std::move(inner)),
        held_(size_t(chunks_.size) * chunks_.channels) {
    if (chunks_.normalize) scaled_.allocate(held_.size());
  }
  const Codec& codec() const override { return *codec_; }
  void reset() override { count_ = 0; }
  std::unique_ptr<EncoderStream> fork() const override {
    auto copy = std::make_unique<ChunkedEncoder>(codec_, inner_->fork());
    copy->num_codebooks_ = num_codebooks_;
    copy->count_ = count_;
    std::copy_n(held_.data(), size_t(count_) * chunks_.channels, copy->held_.data());
    return copy;
  }

 protected:
  void run(const float* rows, int n, bool last, std::vector<int32_t>& codes,
           std::vector<float>* scales) override {
    const int width = chunks_.channels;
    while (n > 0) {
      const int m = std::min(n, chunks_.size - count_);
      std::copy_n(rows, size_t(m) * width, held_.data() + size_t(count_) * width);
      count_ += m;
      rows += size_t(m) * width;
      n -= m;
      if (count_ == chunks_.size) encode_chunk(codes, scales);
    }
    while (last && count_ > 0) encode_chunk(codes, scales);
  }
  void write(StateWriter& w) const override {
    w.integer(count_);
    w.floats(held_.data(), size_t(count_) * chunks_.channels);
  }
  void read(StateReader& r) override {
    count_ = static_cast<int>(r.integer(0, chunks_.size - 1));
    r.floats(held_.data(), size_t(count_) * chunks_.channels);
  }
  void swap_state(EncoderStream& other) override {
    auto& o = static_cast<ChunkedEncoder&>(other);
    std::swap(held_, o.held_);
    std::swap(count_, o.count_);
  }

 private:
  void encode_chunk(std::vector<int32_t>& codes, std::vector<float>* scales) {
    const size_t width = size_t(chunks_.channels), there = size_t(count_) * width;
    std::fill(held_.data() + there, held_.data() + held_.size(), 0.0f);
    const float* rows = held_.data();
    if (chunks_.normalize) {
      const float scale = loudness(rows, size_t(chunks_.size), chunks_.channels);
      scales->push_back(scale);
      for (size_t i = 0; i < held_.size(); ++i) scaled_[i] = rows[i] / scale;
      rows = scaled_.data();
    }
    inner_->num_codebooks_ = num_codebooks_;
    inner_->run(rows, chunks_.size, true, codes, nullptr);
    inner_->reset();  // nothing goes from chunk to chunk but samples
    const int drop = std::min(count_, chunks_.stride);
    std::copy(held_.data() + drop * width, held_.data() + there, held_.data());
    count_ -= drop;
  }

  std::shared_ptr<const Codec> codec_;
  Chunks chunks_;
  std::unique_ptr<EncoderStream> inner_;
  Buffer<float> held_;    // samples from the next chunk's begin on
  Buffer<float> scaled_;  // scratch
  int count_ = 0;         // rows of `held_`
};

class ChunkedDecoder final : public DecoderStream {
 public:
  ChunkedDecoder(std::shared_ptr<const Codec> codec, std::unique_ptr<DecoderStream> inner)
      : codec_(std::move(codec)),
        chunks_(*codec_),
        inner_(std::move(inner)),
        weight_(size_t(chunks_.length)),
        sum_(size_t(chunks_.length) * chunks_.channels) {
    // a triangle, highest in the middle and above zero at both ends, rounded as torch.linspace does
    const int n = chunks_.length + 2;
    const float step = 1.0f / static_cast<float>(n - 1);
    for (int i = 1; i + 1 < n; ++i) {
      const float at =
          i < n / 2 ? step * static_cast<float>(i) : 1.0f - step * static_cast<float>(n - 1 - i);
      weight_[size_t(i) - 1] = 0.5f - std::abs(at - 0.5f);
    }
  }
  const Codec& codec() const override { return *codec_; }
  void reset() override {
    codes_.clear();
    num_codebooks_ = before_ = 0;
    std::fill(sum_.data(), sum_.data() + sum_.size(), 0.0f);
  }
  std::unique_ptr<DecoderStream> fork() const override {
    auto copy = std::make_unique<ChunkedDecoder>(codec_, inner_->fork());
    copy->codes_ = codes_;
    copy->scale_ = scale_;
    copy->num_codebooks_ = num_codebooks_;
    copy->before_ = before_;
    std::copy_n(sum_.data(), sum_.size(), copy->sum_.data());
    return copy;
  }

 protected:
  void check(size_t t, int num_codebooks, std::span<const float> scales) const override {
    if (t > 0 && num_codebooks_ > 0 && num_codebooks != num_codebooks_) {
      throw std::invalid_argument("codes: expected the " + std::to_string(num_codebooks_) +
                                  " codebooks that this clip began with, got " +
                                  std::to_string(num_codebooks));
    }
    const size_t frames = size_t(chunks_.frames), held = size_t(held_frames());
    codec_->check_scales((held + t + frames - 1) / frames - (held > 0 ? 1 : 0), scales);
  }
  void run(const int32_t* codes, int t, int num_codebooks, bool last, std::vector<float>& samples,
           std::span<const float>& scales) override {
    if (t > 0) num_codebooks_ = num_codebooks;
    while (t > 0) {
      const int held = held_frames(), m = std::min(t, chunks_.frames - held);
      if (held == 0 && chunks_.normalize) {
        scale_ = scales.front();
        scales = scales.subspan(1);
      }
      codes_.insert(codes_.end(), codes, codes + size_t(m) * num_codebooks);
      codes += size_t(m) * num_codebooks;
      t -= m;
      if (held + m < chunks_.frames) continue;
      emit(chunks_.stride, add_chunk(), samples);
      before_ = std::min(before_ + 1, overlapping());
    }
    if (!last) return;
    const int present = codes_.empty() ? 0 : add_chunk(),
              tail = before_ > 0 ? chunks_.length - chunks_.stride : 0;
    emit(std::max(present, tail), present, samples);
  }
  void write(StateWriter& w) const override {
    w.integer(num_codebooks_);
    w.integer(before_);
    w.integer(static_cast<int64_t>(codes_.size()));
    for (int32_t c : codes_) w.integer(c);
    w.floats(&scale_, 1);
    w.floats(sum_.data(), sum_.size());
  }
  void read(StateReader& r) override {
    const CodecConfig& c = codec_->config();
    num_codebooks_ = static_cast<int>(r.integer(0, c.num_codebooks));
    before_ = static_cast<int>(r.integer(0, num_codebooks_ > 0 ? overlapping() : 0));
    codes_.resize(
        size_t(r.integer(0, std::max<int64_t>(0, int64_t{chunks_.frames} * num_codebooks_ - 1))));
    if (num_codebooks_ > 0 && codes_.size() % size_t(num_codebooks_) != 0) StateReader::refuse();
    for (int32_t& code : codes_) code = static_cast<int32_t>(r.integer(0, c.codebook_size - 1));
    r.floats(&scale_, 1);
    if (!(scale_ > 0)) StateReader::refuse();
    r.floats(sum_.data(), sum_.size());
  }
  void swap_state(DecoderStream& other) override {
    auto& o = static_cast<ChunkedDecoder&>(other);
    std::swap(codes_, o.codes_);
    std::swap(scale_, o.scale_);
    std::swap(num_codebooks_, o.num_codebooks_);
    std::swap(before_, o.before_);
    std::swap(sum_, o.sum_);
  }

 private:
  int held_frames() const {
    return num_codebooks_ > 0 ? static_cast<int>(codes_.size()) / num_codebooks_ : 0;
  }
  // earlier chunks that reach into one
  int overlapping() const { return (chunks_.length - 1) / chunks_.stride; }

  // Decodes the frames that are held (whole or, at the end of a clip, the begin of a chunk) into
  // the sum; returns their samples.
  int add_chunk() {
    const size_t width = size_t(chunks_.channels);
    decoded_.clear();
    std::span<const float> none;
    inner_->run(codes_.data(), held_frames(), num_codebooks_, true, decoded_, none);
    inner_->reset();
    codes_.clear();
    const size_t n = decoded_.size() / width;
    const float scale = chunks_.normalize ? scale_ : 1.0f;
    for (size_t i = 0; i < n; ++i)
      for (size_t c = 0; c < width; ++c)
        sum_[i * width + c] += weight_[i] * (decoded_[i * width + c] * scale);
    return static_cast<int>(n);
  }
  // Appends the first n sums over the sum of their weights and drops them; the newest chunk has
  // `present` samples.
  void emit(int n, int present, std::vector<float>& samples) {
    const size_t width = size_t(chunks_.channels), used = size_t(n) * width, at = samples.size();
    samples.resize(at + used);
    float* out = samples.data() + at;
    for (int i = 0; i < n; ++i) {
      float weight = 0;
      for (int j = before_; j > 0; --j)
        if (int64_t{j} * chunks_.stride + i < chunks_.length)
          weight += weight_[size_t(j) * chunks_.stride + i];
      if (i < present) weight += weight_[size_t(i)];
      for (size_t c = 0; c < width; ++c)
        out[size_t(i) * width + c] = sum_[size_t(i) * width + c] / weight;
    }
    std::copy(sum_.data() + used, sum_.data() + sum_.size(), sum_.data());
    std::fill(sum_.data() + (sum_.size() - used), sum_.data() + sum_.size(), 0.0f);
  }

  std::shared_ptr<const Codec> codec_;
  Chunks chunks_;
  std::unique_ptr<DecoderStream> inner_;
  Buffer<float> weight_;        // [length]
  Buffer<float> sum_;           // [length][channels], weighted, from the next chunk's begin on
  std::vector<int32_t> codes_;  // of a chunk that is not complete, [t][num_codebooks_]
  float scale_ = 1;             // of that chunk
  int num_codebooks_ = 0;       // 0: nothing has come yet
  int before_ = 0;              // chunks in `sum_`, as far as they still reach
  std::vector<float> decoded_;  // scratch
};

std::unique_ptr<EncoderStream> make_chunked_encoder(std::shared_ptr<const Codec> codec,
                                                    std::unique_ptr<EncoderStream> inner) {
  return std::make_unique<ChunkedEncoder>(std::move(codec), std::move(inner));
}
std::unique_ptr<DecoderStream> make_chunked_decoder(std::shared_ptr<const Codec> codec,
                                                    std::unique_ptr<DecoderStream> inner) {
  return std::make_unique<ChunkedDecoder>(std::move(codec), std::move(inner));
}

}  // namespace uniaudio
