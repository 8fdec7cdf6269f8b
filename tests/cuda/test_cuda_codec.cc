// The device's spectral codec against the CPU's: one shot, in chunks of any size, from forks.
#include <algorithm>
#include <cmath>
#include <memory>

#include "check.h"
#include "codec.h"
#include "cuda/codec.h"

using namespace uniaudio;

namespace {

struct Case {
  CodecConfig config;
  std::vector<std::vector<float>> data;
  Weights weights;

  Case(int window, int subframes, int taps, uint64_t seed, int encoder_subframes = 1, bool phases = true, bool decoder = true) {
    CodecConfig& c = config;
    c.frame_size = 32, c.num_codebooks = 3, c.codebook_size = 16, c.codebook_dim = 6;
    SpectralConfig s;
    s.encoder_window = 64, s.encoder_subframes = encoder_subframes, s.encoder_phases = phases, s.encoder_width = 8, s.encoder_blocks = 1, s.encoder_hidden = 9;
    s.decoder_window = window, s.decoder_subframes = subframes, s.decoder_width = 20, s.decoder_blocks = decoder ? 2 : 0, s.decoder_hidden = 30, s.kernel_size = taps;
    c.spectral = s;
    const auto net = [&](const std::string& p, int in, int width, int hidden, int blocks, int out) {
      const auto linear = [&](const std::string& n, int o, int i) { add(n + ".weight", {o, i}, seed), add(n + ".bias", {o}, seed); };
      const auto norm = [&](const std::string& n) { add(n + ".weight", {width}, seed), add(n + ".bias", {width}, seed); };
      linear(p + ".input", width, in);
      norm(p + ".input_norm");
      for (int i = 0; i < blocks; ++i) {
        const std::string b = p + ".blocks." + std::to_string(i);
        add(b + ".depthwise.weight", {width, 1, taps}, seed), add(b + ".depthwise.bias", {width}, seed);
        norm(b + ".norm");
        linear(b + ".up", hidden, width), linear(b + ".down", width, hidden);
      }
      norm(p + ".norm");
      linear(p + ".output", out, width);
    };
    net("encoder", 33 * (phases ? 3 : 1) * encoder_subframes, 8, 9, 1, 6);
    if (decoder) net("decoder", 6, 20, 30, 2, (window / 2 + 1) * 3 * subframes);
    add("quantizer.codebooks", {3, 16, 6}, seed);
  }
  void add(const std::string& name, const std::vector<int64_t>& shape, uint64_t seed) {
    size_t n = 1;
    for (int64_t i : shape) n *= size_t(i);
    data.push_back(check::Random(seed + data.size()).normals(n));
    const float scale = shape.size() == 1 ? 0.2f : name.find("quantizer") == 0 ? 1.0f : 1.0f / std::sqrt(float(n / size_t(shape[0])));
    for (float& v : data.back()) v *= scale;
    if (name.find("norm.weight") != std::string::npos) {
      for (float& v : data.back()) v += 1;
    }
    weights.add(name, {StoredType::float32, shape, data.back().data()});
  }
};

double worst(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1e9;
  double most = 0, size = 1e-9;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double(a[i]) - b[i])), size = std::max(size, std::abs(double(b[i])));
  return std::isnan(most) ? 1e9 : most / size;
}

}  // namespace

TEST(decoded_sound_is_the_cpus) {
  for (const auto& [window, subframes, taps] : {std::tuple{96, 1, 7}, std::tuple{64, 2, 3}, std::tuple{32, 1, 1}}) {
    const Case k(window, subframes, taps, uint64_t(window));
    const auto cpu = Codec::create(k.config, k.weights, 1);
    const auto gpu = std::make_shared<cuda::SpectralCodec>(cuda::open_device(0), k.config, k.weights);
    check::Random random(5);
    constexpr int kFrames = 150;
    for (int books : {1, 3}) {
      std::vector<int32_t> codes(size_t(kFrames * books));
      for (int32_t& c : codes) c = random.below(16);
      const std::vector<float> expected = cpu->decode(codes.data(), kFrames, books);
      cuda::DecoderStream whole(gpu);
      std::vector<float> out;
      whole.push(codes.data(), kFrames, books, out);
      whole.flush(out);
      CHECK(worst(out, expected) < 1e-5);
      // Chunks, a fork on the way, and the same stream for the next clip.
      std::vector<float> parts, of_fork;
      std::unique_ptr<cuda::DecoderStream> fork;
      for (int at = 0; at < kFrames;) {
        const int n = std::min(kFrames - at, 1 + random.below(9));
        whole.push(codes.data() + at * books, n, books, parts);
        if (fork) fork->push(codes.data() + at * books, n, books, of_fork);
        at += n;
        if (!fork && at > 40) fork = whole.fork(), of_fork = parts;
      }
      whole.flush(parts);
      fork->flush(of_fork);
      CHECK(parts == out);
      CHECK(of_fork == out);
    }
    cuda::DecoderStream stream(gpu);
    std::vector<float> out;
    const int32_t wrong = 16;
    CHECK_THROWS(std::invalid_argument, stream.push(&wrong, 1, 1, out), "16");
    CHECK(out.empty());
  }
}

// Samples whose frames differ enough for every code to be clear of ties.
TEST(codes_of_sound_are_the_cpus) {
  for (const auto& [subframes, phases, decoder] : {std::tuple{1, true, true}, std::tuple{2, false, true}, std::tuple{2, true, false}}) {
    const Case k(64, 2, 3, 90, subframes, phases, decoder);
    const auto cpu = Codec::create(k.config, k.weights, 1);
    const auto gpu = std::make_shared<cuda::SpectralCodec>(cuda::open_device(0), k.config, k.weights);
    const std::vector<float> x = check::Random(7).normals(32 * 150 + 11);
    for (int books : {0, 2}) {
      const std::vector<int32_t> expected = cpu->encode(x.data(), x.size(), books);
      cuda::EncoderStream whole(gpu, books);
      std::vector<int32_t> out;
      whole.push(x.data(), int64_t(x.size()), out);
      whole.flush(out);
      CHECK(out.size() == expected.size() && out.size() == 151 * size_t(whole.num_codebooks()));
      size_t equal = 0;
      for (size_t i = 0; i < std::min(out.size(), expected.size()); ++i) equal += out[i] == expected[i];
      CHECK(double(equal) > 0.995 * double(expected.size()));  // float32 sums in another order
      std::vector<int32_t> parts, of_fork;
      std::unique_ptr<cuda::EncoderStream> fork;
      check::Random random(5);
      for (size_t at = 0; at < x.size();) {
        const size_t n = std::min(x.size() - at, size_t(1 + random.below(200)));
        whole.push(x.data() + at, int64_t(n), parts);
        if (fork) fork->push(x.data() + at, int64_t(n), of_fork);
        at += n;
        if (!fork && at > 1500) fork = whole.fork(), of_fork = parts;
      }
      whole.flush(parts);
      fork->flush(of_fork);
      CHECK(parts == out);
      CHECK(of_fork == out);
    }
    cuda::EncoderStream stream(gpu, 1);
    std::vector<int32_t> out;
    const float wrong = NAN;
    CHECK_THROWS(std::invalid_argument, stream.push(&wrong, 1, out), "NaN");
    stream.flush(out);
    CHECK(out.empty());
    CHECK_THROWS(std::invalid_argument, cuda::EncoderStream(gpu, 4), "0 to 3");
    if (!decoder) CHECK_THROWS(std::invalid_argument, cuda::DecoderStream{gpu}, "without a decoder");
  }
}

MAIN
