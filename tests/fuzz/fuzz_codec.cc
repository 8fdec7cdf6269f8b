// Codecs of random configurations: what they encode is decoded whole and as streams that are cut,
// forked, saved, restored, and restored from damaged bytes.
#include <cstring>

#include "codec.h"
#include "fuzz.h"

namespace {

using namespace uniaudio;
using fuzz::Draw;
using fuzz::expect;

std::string field(const char* name, const std::string& value) {
  return "\"" + std::string(name) + "\":" + value + ",";
}
std::string field(const char* name, int value) { return field(name, std::to_string(value)); }
std::string truth(bool value) { return value ? "true" : "false"; }

std::string spectral(Draw& draw, int& frame) {
  const int encoder = draw.in(1, 4), decoder = draw.in(1, 4);
  frame = encoder * decoder * draw.in(1, 24);
  const auto window = [&](int subframes) {
    return std::max(2, (frame / subframes + 1) / 2 * 2) + 2 * draw.in(0, 40);
  };
  std::string part = "\"spectral\":{";
  part += field("encoder_window", window(encoder)) + field("encoder_subframes", encoder) +
          field("encoder_width", draw.in(1, 40)) + field("encoder_blocks", draw.in(1, 2)) +
          field("encoder_hidden", draw.in(1, 40));
  part += field("decoder_window", window(decoder)) + field("decoder_subframes", decoder) +
          field("decoder_width", draw.in(1, 40)) + field("decoder_blocks", draw.in(0, 2)) +
          field("decoder_hidden", draw.in(1, 40)) + field("kernel_size", draw.in(1, 63));
  return part + "\"encoder_phases\":" + truth(draw.coin()) + "}";
}

std::string seanet(Draw& draw, int& frame) {
  std::string ratios, part = "\"seanet\":{";
  frame = 1;
  for (int i = draw.in(0, 3); i > 0; --i) {
    const int ratio = draw.in(1, 6);
    frame *= ratio;
    ratios += (ratios.empty() ? "" : ",") + std::to_string(ratio);
  }
  part += field("ratios", "[" + ratios + "]") + field("channels", draw.in(1, 3)) +
          field("filters", draw.in(1, 12)) + field("kernel_size", draw.in(1, 9)) +
          field("last_kernel_size", draw.in(1, 9)) + field("residual_kernel_size", draw.in(1, 5)) +
          field("residual_layers", draw.in(0, 3)) + field("dilation_base", draw.in(1, 7)) +
          field("compress", draw.in(1, 4)) + field("lstm_layers", draw.in(0, 2));
  if (draw.coin()) {
    const int size = draw.in(1, 400);
    part += field("chunk_size", size) + field("chunk_stride", draw.in((size + 7) / 8, size));
  }
  for (const char* name : {"conv_shortcut", "causal", "normalize"})
    part += field(name, truth(draw.coin()));
  part += field("pad_mode", draw.coin() ? "\"reflect\"" : "\"zero\"") +
          field("norm", draw.coin() ? "\"group\"" : "\"none\"");
  return part + "\"trim_right_ratio\":" + std::to_string(draw.unit()) + "}";
}

// The tensors that a codec wants, from what it says is missing.
std::vector<TensorSpec> wanted(const CodecConfig& config) {
  std::string text;
  try {
    Codec::create(config, Weights(), 1);
  } catch (const std::invalid_argument& e) {
    text = e.what();
  }
  std::vector<TensorSpec> specs;
  size_t at = text.find("missing: ");
  if (at == std::string::npos) throw std::invalid_argument(text);
  for (at += 9; at < text.size(); at += 2) {
    const size_t space = text.find(" [", at), close = text.find(']', at);
    if (space == std::string::npos || close == std::string::npos) break;
    TensorSpec spec{text.substr(at, space - at), {}};
    const char* p = text.c_str() + space + 2;
    while (*p != ']') {
      spec.shape.push_back(strtoll(p, const_cast<char**>(&p), 10));
      while (*p == ',' || *p == ' ') ++p;
    }
    specs.push_back(spec);
    at = close + 1;
    if (text.compare(at, 2, ", ") != 0) break;
  }
  return specs;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  // memcmp wants pointers even to nothing, which an empty vector has not
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), 4 * a.size()) == 0);
}

// Runs a stream from damaged bytes of another one's state, if it takes them.
template <class Stream, class Go>
void restore_damaged(Draw& draw, std::unique_ptr<Stream> fresh, const std::string& saved, Go go) {
  try {
    fresh->restore(fuzz::damaged(draw, saved, 24));
    go(*fresh);
  } catch (const std::invalid_argument&) {
  }
}

// Forks the stream, or moves it into a fresh one by its saved state.
template <class Stream, class Fresh>
void moved(Draw& draw, std::unique_ptr<Stream>& stream, Fresh fresh) {
  if (draw.once_in(6)) {
    stream = stream->fork();
  } else if (draw.once_in(6)) {
    auto other = fresh();
    other->restore(stream->save());
    stream = std::move(other);
  }
}

void stream_encoder(Draw& draw, const Codec& codec, const std::vector<float>& samples, int k,
                    const std::vector<int32_t>& codes, const std::vector<float>& scales) {
  const size_t channels = size_t(codec.channels()), n = samples.size() / channels;
  auto stream = codec.encoder_stream(k);
  std::vector<int32_t> got;
  std::vector<float> got_scales;
  for (size_t at = 0; at < n;) {
    const size_t count = std::min(n - at, size_t(draw.in(0, 200)));
    std::vector<float> part;
    for (size_t c = 0; c < channels; ++c) {
      const auto begin = samples.begin() + int64_t(c * n + at);
      part.insert(part.end(), begin, begin + int64_t(count));
    }
    stream->push(part.data(), count, got, &got_scales);
    at += count;
    moved(draw, stream, [&] { return codec.encoder_stream(k); });
    if (draw.once_in(6)) {
      restore_damaged(draw, codec.encoder_stream(k), stream->save(), [&](EncoderStream& other) {
        std::vector<int32_t> codes_there;
        std::vector<float> scales_there;
        other.push(part.data(), count, codes_there, &scales_there);
        other.flush(codes_there, &scales_there);
        for (int32_t code : codes_there)
          expect(code >= 0 && code < codec.config().codebook_size, "codes of the codebook");
      });
    }
  }
  stream->flush(got, &got_scales);
  expect(got == codes && (!codec.normalizes() || got_scales == scales),
         "an encoder's stream to give the codes of one call");
}

void stream_decoder(Draw& draw, const Codec& codec, const std::vector<int32_t>& codes, int k,
                    const std::vector<float>& scales, const std::vector<float>& sound) {
  const size_t frames = codes.size() / size_t(k), chunk = size_t(codec.chunk_frames());
  auto stream = codec.decoder_stream();
  std::vector<float> got;
  size_t used = 0;
  for (size_t at = 0; at < frames;) {
    const size_t count = std::min(frames - at, size_t(draw.in(0, 40)));
    std::span<const float> part;
    if (codec.normalizes() && chunk) {
      const size_t upto = (at + count + chunk - 1) / chunk;
      part = std::span(scales).subspan(used, upto - used);
      used = upto;
    }
    stream->push(codes.data() + at * size_t(k), count, k, got, part);
    at += count;
    moved(draw, stream, [&] { return codec.decoder_stream(); });
    if (draw.once_in(6)) {
      restore_damaged(draw, codec.decoder_stream(), stream->save(), [&](DecoderStream& other) {
        std::vector<float> there;
        other.push(codes.data(), std::min(frames, size_t(3)), k, there, part);
        other.flush(there);
      });
    }
  }
  stream->flush(got);
  expect(same(got, sound), "a decoder's stream to give the samples of one call");
}

bool use(Draw& draw) {
  const bool is_spectral = draw.coin();
  int frame = 0;
  const std::string part = is_spectral ? spectral(draw, frame) : seanet(draw, frame);
  const int codebooks = draw.in(1, 4), size = draw.in(2, 40);
  const std::string json = "{" + field("family", is_spectral ? "\"spectral\"" : "\"seanet\"") +
                           field("frame_size", frame) + field("num_codebooks", codebooks) +
                           field("codebook_size", size) + field("codebook_dim", draw.in(1, 20)) +
                           part + "}";
  const float scale = draw.of({0.2f, 0.2f, 1.0f, 1e-30f, 1e20f});
  try {
    const CodecConfig config = parse_codec_config(json);
    const auto specs = wanted(config);
    if (fuzz::RandomWeights::size(specs) > 400000) return false;
    const fuzz::RandomWeights weights(draw, specs, scale);
    const auto codec = Codec::create(config, weights.weights, draw.in(1, 2));
    const size_t n = size_t(draw.in(0, 700)), channels = size_t(codec->channels());
    const auto samples = draw.floats(n * channels, draw.of({0.5f, 0.5f, 1e-38f, 0.0f, 1e30f}));
    const int asked = draw.in(0, codebooks), k = asked ? asked : codebooks;
    std::vector<float> scales;
    const auto codes = codec->encode(samples.data(), n, asked, &scales);
    expect(codes.size() == codec->frames(n) * size_t(k), "as many frames as announced");
    for (int32_t code : codes) expect(code >= 0 && code < size, "codes of the codebook");
    const bool exact = scale <= 1.0f;  // with huge weights infinities meet in another order
    try {
      if (exact) stream_encoder(draw, *codec, samples, k, codes, scales);
    } catch (const std::invalid_argument&) {  // a codec of whole clips
    }
    if (is_spectral && !config.spectral->has_decoder()) return true;
    const std::span<const float> given =
        codec->normalizes() ? std::span<const float>(scales) : std::span<const float>();
    const auto sound = codec->decode(codes.data(), codes.size() / size_t(k), k, given);
    if (exact) stream_decoder(draw, *codec, codes, k, scales, sound);
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) { return fuzz::run(argc, argv, use); }
