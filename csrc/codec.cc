#include "codec.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>

#include "cat.h"
#include "chunked.h"
#include "codec_ops.h"
#include "seanet.h"
#include "spectral.h"

namespace uniaudio {

namespace {

constexpr int64_t kMagic = 0x32304345444f4355;  // "UCODEC02"

uint64_t mix(uint64_t h, uint64_t v) {  // FNV-1a over eight bytes
  for (int i = 0; i < 8; ++i) h = (h ^ (v >> (8 * i) & 255)) * 1099511628211ull;
  return h;
}

uint64_t fingerprint(const CodecConfig& c, const Buffer<float>& codebooks) {
  uint64_t h = 14695981039346656037ull;
  for (int v : {int(c.family), c.sample_rate, c.frame_size, c.num_codebooks, c.codebook_size,
                c.codebook_dim})
    h = mix(h, uint64_t(v));
  const auto transformer = [&](const TransformerConfig& t) {
    for (int v : {t.layers, t.width, t.heads, t.mlp_width, t.window}) h = mix(h, uint64_t(v));
    h = mix(h, std::bit_cast<uint64_t>(t.rope_base));
    // others keep the fingerprint that they had before there were these
    const int more[] = {t.rmsnorm, t.gated, t.head_width, t.final_norm};
    if (std::any_of(std::begin(more), std::end(more), [](int v) { return v != 0; }))
      for (int v : more) h = mix(h, uint64_t(v));
  };
  if (c.quantizer)
    for (int v : {int(c.quantizer->factorised), c.quantizer->latent_dim,
                  c.quantizer->semantic_codebooks, c.quantizer->rvq_dim})
      h = mix(h, uint64_t(v));
  if (c.is(CodecFamily::cat)) {
    h = mix(h, uint64_t(c.cat->channels));
    for (const CatSide* side : {&c.cat->encoder, &c.cat->decoder}) {
      for (int v : side->patches) h = mix(h, uint64_t(v));
      for (const CatSide::Stage& stage : side->stages) {
        h = mix(h, uint64_t(stage.output));
        transformer(stage.transformer);
      }
    }
  } else if (c.is(CodecFamily::spectral)) {
    const SpectralConfig& s = *c.spectral;
    for (int v : {s.encoder_window, s.encoder_subframes, s.encoder_width, s.encoder_blocks,
                  s.encoder_hidden, s.decoder_window, s.decoder_subframes, s.decoder_width,
                  s.decoder_blocks, s.decoder_hidden, s.kernel_size})
      h = mix(h, uint64_t(v));
    if (!s.encoder_phases) h = mix(h, 1);
  } else {
    const SeanetConfig& s = *c.seanet;
    for (int v : s.ratios) h = mix(h, uint64_t(v));
    for (int v : {s.channels, s.filters, s.kernel_size, s.last_kernel_size, s.residual_kernel_size,
                  s.residual_layers, s.dilation_base, s.compress, int(s.conv_shortcut),
                  s.lstm_layers, int(s.causal), int(s.reflect), int(s.group_norm)})
      h = mix(h, uint64_t(v));
    h = mix(h, std::bit_cast<uint64_t>(s.trim_right_ratio));
    // others keep the fingerprint that they had before there were chunks
    if (s.chunk_size > 0 || s.normalize)
      for (int v : {s.chunk_size, s.chunk_stride, int(s.normalize)}) h = mix(h, uint64_t(v));
    if (s.bottleneck) {
      h = mix(h, uint64_t(s.bottleneck->stride));
      transformer(s.bottleneck->transformer);
    }
    if (s.decoder) {
      const SnakeDecoderConfig& d = *s.decoder;
      for (int v : {d.latent_dim, d.width, d.filters, int(d.upsample.size())})
        h = mix(h, uint64_t(v));
      for (int v : d.upsample) h = mix(h, uint64_t(v));
      for (int v : d.ratios) h = mix(h, uint64_t(v));
      transformer(d.transformer);
    }
  }
  for (size_t i = 0; i < codebooks.size(); ++i) h = mix(h, std::bit_cast<uint32_t>(codebooks[i]));
  return h;
}

void check_finite(const float* x, size_t n, int channels) {
  for (size_t i = 0; i < n * channels; ++i)
    if (!std::isfinite(x[i])) {
      throw std::invalid_argument("samples: expected finite values, got " +
                                  std::string(std::isnan(x[i]) ? "NaN" : "infinity") +
                                  " at sample " + std::to_string(i % n) +
                                  "; repair or cut the recording");
    }
}

void header(StateWriter& w, uint64_t fingerprint, int64_t kind) {
  w.integer(kMagic);
  w.integer(static_cast<int64_t>(fingerprint));
  w.integer(kind);
}
void check_header(StateReader& r, uint64_t fingerprint, int64_t kind) {
  r.integer(kMagic, kMagic);
  r.integer(static_cast<int64_t>(fingerprint), static_cast<int64_t>(fingerprint));
  r.integer(kind, kind);
}

}  // namespace

// --- encoder stream ------------------------------------------------------------------------------

void EncoderStream::push(const float* samples, size_t n, std::vector<int32_t>& codes,
                         std::vector<float>* scales) {
  const Codec& c = codec();
  const int channels = c.channels();
  c.want_scales(scales);
  check_finite(samples, n, channels);
  const size_t chunk =
      c.even_chunk((n + size_t(c.config().frame_size) - 1) / size_t(c.config().frame_size)) *
      size_t(c.config().frame_size);
  for (size_t at = 0; at < n; at += chunk) {
    const size_t m = std::min(chunk, n - at);
    if (channels == 1) {
      run(samples + at, int(m), false, codes, scales);
    } else {
      rows_.resize(m * channels);
      for (size_t i = 0; i < m; ++i)
        for (int ch = 0; ch < channels; ++ch) rows_[i * channels + ch] = samples[ch * n + at + i];
      run(rows_.data(), int(m), false, codes, scales);
    }
  }
}

void EncoderStream::flush(std::vector<int32_t>& codes, std::vector<float>* scales) {
  codec().want_scales(scales);
  run(nullptr, 0, true, codes, scales);
  reset();
}

std::string EncoderStream::save() const {
  StateWriter w;
  header(w, codec().fingerprint_, num_codebooks_);
  write(w);
  return std::move(w.bytes);
}

void EncoderStream::restore(std::string_view bytes) {
  StateReader r(bytes);
  check_header(r, codec().fingerprint_, num_codebooks_);
  const std::unique_ptr<EncoderStream> fresh = codec().encoder_stream(num_codebooks_);
  fresh->read(r);
  r.end();
  swap_state(*fresh);
}

int64_t EncoderStream::lookahead() const { return codec().encoder_lookahead(); }

// --- decoder stream ------------------------------------------------------------------------------

void DecoderStream::push(const int32_t* codes, size_t t, int num_codebooks,
                         std::vector<float>& samples, std::span<const float> scales) {
  const Codec& c = codec();
  c.check_codes(codes, t, num_codebooks);
  check(t, num_codebooks, scales);
  const size_t chunk = c.even_chunk(t);
  for (size_t at = 0; at < t; at += chunk)
    run(codes + at * num_codebooks, int(std::min(chunk, t - at)), num_codebooks, false, samples,
        scales);
}

void DecoderStream::check(size_t, int, std::span<const float> scales) const {
  codec().check_scales(0, scales);
}

void DecoderStream::flush(std::vector<float>& samples) {
  std::span<const float> none;
  run(nullptr, 0, 1, true, samples, none);
  reset();
}

std::string DecoderStream::save() const {
  StateWriter w;
  header(w, codec().fingerprint_, -1);
  write(w);
  return std::move(w.bytes);
}

void DecoderStream::restore(std::string_view bytes) {
  StateReader r(bytes);
  check_header(r, codec().fingerprint_, -1);
  const std::unique_ptr<DecoderStream> fresh = codec().decoder_stream();
  fresh->read(r);
  r.end();
  swap_state(*fresh);
}

int64_t DecoderStream::lookahead() const { return codec().decoder_lookahead(); }

// --- codec ---------------------------------------------------------------------------------------

std::shared_ptr<const Codec> Codec::create(const CodecConfig& config, const Weights& weights,
                                           int threads) {
  std::shared_ptr<Codec> codec;
  if (config.is(CodecFamily::spectral))
    codec = std::make_shared<SpectralCodec>(config, weights, threads);
  else if (config.is(CodecFamily::seanet))
    codec = std::make_shared<SeanetCodec>(config, weights, threads);
  else
    codec = std::make_shared<CatCodec>(config, weights, threads);
  codec->fingerprint_ = fingerprint(
      config, weights.get("quantizer.codebooks",
                          {config.num_codebooks, config.codebook_size, config.codebook_dim}));
  return codec;
}

int Codec::chunk_frames() const {
  const int size = seanet() ? seanet()->chunk_size : 0;
  return (size + config_.frame_size - 1) / config_.frame_size;
}

size_t Codec::frames(size_t n) const {
  if (chunk_frames() == 0) return (n + size_t(config_.frame_size) - 1) / size_t(config_.frame_size);
  const size_t stride = size_t(config_.seanet->chunk_stride);
  return (n + stride - 1) / stride * size_t(chunk_frames());
}

int Codec::checked_codebooks(int num_codebooks) const {
  if (num_codebooks < 0 || num_codebooks > config_.num_codebooks) {
    throw std::invalid_argument("num_codebooks: expected 0 (all) to " +
                                std::to_string(config_.num_codebooks) + ", got " +
                                std::to_string(num_codebooks));
  }
  return num_codebooks ? num_codebooks : config_.num_codebooks;
}

void Codec::want_scales(const std::vector<float>* scales) const {
  if (normalizes() && !scales)
    throw std::invalid_argument(
        "this codec normalises loudness, so codes alone are only half of the sound; take the "
        "scales with them");
}

std::unique_ptr<EncoderStream> Codec::encoder_stream(int num_codebooks) const {
  const int k = checked_codebooks(num_codebooks);
  if (!streams())
    throw std::invalid_argument(
        "this codec normalises over whole clips, so it cannot stream; use encode and decode");
  std::unique_ptr<EncoderStream> stream = make_encoder();
  if (chunk_frames() > 0) stream = make_chunked_encoder(shared_from_this(), std::move(stream));
  stream->num_codebooks_ = k;
  return stream;
}

std::unique_ptr<DecoderStream> Codec::decoder_stream() const {
  if (!streams())
    throw std::invalid_argument(
        "this codec normalises over whole clips, so it cannot stream; use encode and decode");
  return chunk_frames() > 0 ? make_chunked_decoder(shared_from_this(), make_decoder())
                            : make_decoder();
}

std::vector<int32_t> Codec::encode(const float* samples, size_t n, int num_codebooks,
                                   std::vector<float>* scales) const {
  std::vector<int32_t> codes;
  if (streams()) {
    const std::unique_ptr<EncoderStream> stream = encoder_stream(num_codebooks);
    codes.reserve((frames(n) + 1) * stream->num_codebooks());
    stream->push(samples, n, codes, scales);
    stream->flush(codes, scales);
    return codes;
  }
  const int k = checked_codebooks(num_codebooks);
  want_scales(scales);
  check_finite(samples, n, channels());
  if (n > size_t{INT_MAX} / 64)
    throw std::invalid_argument(
        "samples: this codec takes whole clips only, and this one is too long; cut it");
  if (n == 0) return codes;
  std::unique_ptr<EncoderStream> stream = make_encoder();
  stream->num_codebooks_ = k;
  std::vector<float> rows(n * channels());
  for (size_t i = 0; i < n; ++i)
    for (int ch = 0; ch < channels(); ++ch) rows[i * channels() + ch] = samples[ch * n + i];
  if (normalizes()) {
    const float scale = loudness(rows.data(), n, channels());
    scales->push_back(scale);
    for (float& x : rows) x /= scale;
  }
  stream->run(rows.data(), int(n), true, codes, nullptr);
  return codes;
}

std::vector<float> Codec::decode(const int32_t* codes, size_t t, int num_codebooks,
                                 std::span<const float> scales) const {
  std::vector<float> samples;
  samples.reserve(t * config_.frame_size * channels());
  if (streams()) {
    const std::unique_ptr<DecoderStream> stream = decoder_stream();
    stream->push(codes, t, num_codebooks, samples, scales);
    stream->flush(samples);
    return samples;
  }
  check_codes(codes, t, num_codebooks);
  check_scales(t > 0 ? 1 : 0, scales);
  if (t > size_t{INT_MAX} / 64 / config_.frame_size)
    throw std::invalid_argument(
        "codes: this codec takes whole clips only, and this one is too long; cut it");
  std::span<const float> none;
  make_decoder()->run(codes, int(t), num_codebooks, true, samples, none);
  if (normalizes())
    for (float& x : samples) x *= scales[0];
  return samples;
}

void Codec::check_codes(const int32_t* codes, size_t t, int num_codebooks) const {
  if (num_codebooks < 1 || num_codebooks > config_.num_codebooks) {
    throw std::invalid_argument("codes: expected 1 to " + std::to_string(config_.num_codebooks) +
                                " codebooks, got " + std::to_string(num_codebooks));
  }
  for (size_t i = 0; i < t * num_codebooks; ++i)
    if (codes[i] < 0 || codes[i] >= config_.codebook_size) {
      throw std::invalid_argument(
          "codes: expected 0 to " + std::to_string(config_.codebook_size - 1) + ", got " +
          std::to_string(codes[i]) + " at frame " + std::to_string(i / num_codebooks) +
          ", codebook " + std::to_string(i % num_codebooks));
    }
}

void Codec::check_scales(size_t expected, std::span<const float> scales) const {
  if (!normalizes()) expected = 0;
  if (scales.size() != expected) {
    const std::string got = ", got " + std::to_string(scales.size());
    if (!normalizes())
      throw std::invalid_argument(
          "scales: expected none, since this codec does not normalise loudness" + got);
    throw std::invalid_argument(
        "scales: expected " + std::to_string(expected) + ", one for each chunk of these codes" +
        got + "; this codec normalises loudness, so codes alone are only half of the sound");
  }
  for (const float s : scales)
    if (!(s > 0) || !std::isfinite(s))
      throw std::invalid_argument("scales: expected finite numbers above 0, got " +
                                  std::to_string(s));
}

}  // namespace uniaudio
