// The device's spectral codec against the CPU's: one shot, in chunks of any size, from forks.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>

#include "check.h"
#include "codec.h"
#include "cuda/codec.h"

using namespace uniaudio;

namespace {

struct Tensors {
  CodecConfig config;
  std::deque<std::vector<float>> data;
  Weights weights;
  uint64_t seed = 0;

  void add(const std::string& name, const std::vector<int64_t>& shape) {
    size_t n = 1;
    for (int64_t i : shape) n *= size_t(i);
    data.push_back(check::Random(seed + data.size()).normals(n));
    const float scale = shape.size() == 1 ? 0.2f
                        : name.find("quantizer") == 0
                            ? 1.0f
                            : 1.0f / std::sqrt(float(n / size_t(shape[0])));
    for (float& v : data.back()) v *= scale;
    if (name.find("norm.weight") != std::string::npos) {
      for (float& v : data.back()) v += 1;
    }
    weights.add(name, {StoredType::float32, shape, data.back().data()});
  }
};

struct Case : Tensors {
  Case(int window, int subframes, int taps, uint64_t seed, int encoder_subframes = 1,
       bool phases = true, bool decoder = true) {
    this->seed = seed;
    CodecConfig& c = config;
    c.frame_size = 32, c.num_codebooks = 3, c.codebook_size = 16, c.codebook_dim = 6;
    SpectralConfig s;
    s.encoder_window = 64, s.encoder_subframes = encoder_subframes, s.encoder_phases = phases,
    s.encoder_width = 8, s.encoder_blocks = 1, s.encoder_hidden = 9;
    s.decoder_window = window, s.decoder_subframes = subframes, s.decoder_width = 20,
    s.decoder_blocks = decoder ? 2 : 0, s.decoder_hidden = 30, s.kernel_size = taps;
    c.spectral = s;
    const auto net = [&](const std::string& p, int in, int width, int hidden, int blocks, int out) {
      const auto linear = [&](const std::string& n, int o, int i) {
        add(n + ".weight", {o, i}), add(n + ".bias", {o});
      };
      const auto norm = [&](const std::string& n) {
        add(n + ".weight", {width}), add(n + ".bias", {width});
      };
      linear(p + ".input", width, in);
      norm(p + ".input_norm");
      for (int i = 0; i < blocks; ++i) {
        const std::string b = p + ".blocks." + std::to_string(i);
        add(b + ".depthwise.weight", {width, 1, taps}), add(b + ".depthwise.bias", {width});
        norm(b + ".norm");
        linear(b + ".up", hidden, width), linear(b + ".down", width, hidden);
      }
      norm(p + ".norm");
      linear(p + ".output", out, width);
    };
    net("encoder", 33 * (phases ? 3 : 1) * encoder_subframes, 8, 9, 1, 6);
    if (decoder) net("decoder", 6, 20, 30, 2, (window / 2 + 1) * 3 * subframes);
    add("quantizer.codebooks", {3, 16, 6});
  }
};

struct Seanet : Tensors {
  explicit Seanet(const SeanetConfig& s, uint64_t first_seed) {
    seed = first_seed;
    CodecConfig& c = config;
    c.family = CodecFamily::seanet, c.seanet = s;
    c.num_codebooks = 3, c.codebook_size = 16, c.codebook_dim = 6, c.frame_size = 1;
    for (int r : s.ratios) c.frame_size *= r;
    const auto conv = [&](const std::string& name, int in, int out, int kernel) {
      add(name + ".weight", {out, in, kernel}), add(name + ".bias", {out});
    };
    const auto blocks = [&](const std::string& stage, int width) {
      for (int j = 0; j < s.residual_layers; ++j) {
        const std::string name = stage + ".blocks." + std::to_string(j);
        conv(name + ".first", width, width / s.compress, s.residual_kernel_size),
            conv(name + ".second", width / s.compress, width, 1);
        if (s.conv_shortcut) conv(name + ".shortcut", width, width, 1);
      }
    };
    const auto lstm = [&](const std::string& name, int width) {
      for (int l = 0; l < s.lstm_layers; ++l) {
        const std::string end = "_l" + std::to_string(l);
        for (const char* what : {".weight_ih", ".weight_hh"})
          add(name + what + end, {4 * width, width});
        for (const char* what : {".bias_ih", ".bias_hh"}) add(name + what + end, {4 * width});
      }
    };
    const int stages = int(s.ratios.size());
    int width = s.filters;
    conv("encoder.input", 1, width, s.kernel_size);
    for (int i = 0; i < stages; ++i, width *= 2) {
      const std::string name = "encoder.stages." + std::to_string(i);
      blocks(name, width),
          conv(name + ".down", width, 2 * width, 2 * s.ratios[size_t(stages - 1 - i)]);
    }
    lstm("encoder.lstm", width), conv("encoder.output", width, 6, s.last_kernel_size);
    conv("decoder.input", 6, width, s.kernel_size), lstm("decoder.lstm", width);
    for (int i = 0; i < stages; ++i, width /= 2) {
      const std::string name = "decoder.stages." + std::to_string(i);
      add(name + ".up.weight", {width, width / 2, 2 * s.ratios[size_t(i)]}),
          add(name + ".up.bias", {width / 2}), blocks(name, width / 2);
    }
    conv("decoder.output", width, 1, s.last_kernel_size);
    add("quantizer.codebooks", {3, 16, 6});
  }
};

double worst(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 1e9;
  double most = 0, size = 1e-9;
  for (size_t i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(double(a[i]) - b[i])),
    size = std::max(size, std::abs(double(b[i])));
  return std::isnan(most) ? 1e9 : most / size;
}

}  // namespace

TEST(decoded_sound_is_the_cpus) {
  for (const auto& [window, subframes, taps] :
       {std::tuple{96, 1, 7}, std::tuple{64, 2, 3}, std::tuple{32, 1, 1}}) {
    const Case k(window, subframes, taps, uint64_t(window));
    const auto cpu = Codec::create(k.config, k.weights, 1);
    const auto gpu = cuda::Codec::create(cuda::open_device(0), k.config, k.weights);
    check::Random random(5);
    constexpr int kFrames = 150;
    for (int books : {1, 3}) {
      std::vector<int32_t> codes(size_t(kFrames * books));
      for (int32_t& c : codes) c = random.below(16);
      const std::vector<float> expected = cpu->decode(codes.data(), kFrames, books);
      const auto whole = gpu->decoder();
      std::vector<float> out;
      whole->push(codes.data(), kFrames, books, out);
      whole->flush(out);
      CHECK(worst(out, expected) < 1e-5);
      // Chunks, a fork on the way, and the same stream for the next clip.
      std::vector<float> parts, of_fork;
      std::unique_ptr<cuda::DecoderStream> fork;
      for (int at = 0; at < kFrames;) {
        const int n = std::min(kFrames - at, 1 + random.below(9));
        whole->push(codes.data() + at * books, n, books, parts);
        if (fork) fork->push(codes.data() + at * books, n, books, of_fork);
        at += n;
        if (!fork && at > 40) fork = whole->fork(), of_fork = parts;
      }
      whole->flush(parts);
      fork->flush(of_fork);
      CHECK(parts == out);
      CHECK(of_fork == out);
    }
    const auto stream = gpu->decoder();
    std::vector<float> out;
    const int32_t wrong = 16;
    CHECK_THROWS(std::invalid_argument, stream->push(&wrong, 1, 1, out), "16");
    CHECK(out.empty());
  }
}

// Samples whose frames differ enough for every code to be clear of ties.
TEST(codes_of_sound_are_the_cpus) {
  for (const auto& [subframes, phases, decoder] :
       {std::tuple{1, true, true}, std::tuple{2, false, true}, std::tuple{2, true, false}}) {
    const Case k(64, 2, 3, 90, subframes, phases, decoder);
    const auto cpu = Codec::create(k.config, k.weights, 1);
    const auto gpu = cuda::Codec::create(cuda::open_device(0), k.config, k.weights);
    const std::vector<float> x = check::Random(7).normals(32 * 150 + 11);
    for (int books : {0, 2}) {
      const std::vector<int32_t> expected = cpu->encode(x.data(), x.size(), books);
      const auto whole = gpu->encoder(books);
      std::vector<int32_t> out;
      whole->push(x.data(), int64_t(x.size()), out);
      whole->flush(out);
      CHECK(out.size() == expected.size() && out.size() == 151 * size_t(whole->num_codebooks()));
      size_t equal = 0;
      for (size_t i = 0; i < std::min(out.size(), expected.size()); ++i)
        equal += out[i] == expected[i];
      CHECK(double(equal) > 0.995 * double(expected.size()));  // float32 sums in another order
      std::vector<int32_t> parts, of_fork;
      std::unique_ptr<cuda::EncoderStream> fork;
      check::Random random(5);
      for (size_t at = 0; at < x.size();) {
        const size_t n = std::min(x.size() - at, size_t(1 + random.below(200)));
        whole->push(x.data() + at, int64_t(n), parts);
        if (fork) fork->push(x.data() + at, int64_t(n), of_fork);
        at += n;
        if (!fork && at > 1500) fork = whole->fork(), of_fork = parts;
      }
      whole->flush(parts);
      fork->flush(of_fork);
      CHECK(parts == out);
      CHECK(of_fork == out);
    }
    const auto stream = gpu->encoder(1);
    std::vector<int32_t> out;
    const float wrong = NAN;
    CHECK_THROWS(std::invalid_argument, stream->push(&wrong, 1, out), "NaN");
    stream->flush(out);
    CHECK(out.empty());
    CHECK_THROWS(std::invalid_argument, gpu->encoder(4), "0 to 3");
    if (!decoder) CHECK_THROWS(std::invalid_argument, gpu->decoder(), "without a decoder");
  }
}

TEST(seanet_is_the_cpus) {
  std::vector<SeanetConfig> configs(4);
  configs[0].filters = 8, configs[0].ratios = {4, 2};
  configs[1].filters = 6, configs[1].ratios = {3, 2, 2}, configs[1].causal = true,
  configs[1].conv_shortcut = false, configs[1].lstm_layers = 1, configs[1].compress = 1;
  configs[2].filters = 8, configs[2].ratios = {5}, configs[2].reflect = false,
  configs[2].residual_layers = 2, configs[2].lstm_layers = 0, configs[2].residual_kernel_size = 5;
  configs[3].filters = 4, configs[3].ratios = {2, 4}, configs[3].residual_layers = 0,
  configs[3].causal = true, configs[3].trim_right_ratio = 0.5, configs[3].kernel_size = 3;
  for (size_t n = 0; n < configs.size(); ++n) {
    const Seanet k(configs[n], 300 + 100 * n);
    const auto cpu = Codec::create(k.config, k.weights, 1);
    const auto gpu = cuda::Codec::create(cuda::open_device(0), k.config, k.weights);
    check::Random random(5 + n);
    // shorter than paddings, and longer
    for (const size_t length : {size_t(1), size_t(7), size_t(k.config.frame_size * 60 + 5)}) {
      const std::vector<float> x = check::Random(length).normals(length);
      const std::vector<int32_t> expected = cpu->encode(x.data(), length, 0);
      const auto encoder = gpu->encoder(0);
      std::vector<int32_t> codes, parts;
      encoder->push(x.data(), int64_t(length), codes), encoder->flush(codes);
      size_t equal = 0;
      for (size_t i = 0; i < std::min(codes.size(), expected.size()); ++i)
        equal += codes[i] == expected[i];
      CHECK(codes.size() == expected.size() && double(equal) >= 0.98 * double(expected.size()));
      std::unique_ptr<cuda::EncoderStream> fork;
      for (size_t at = 0; at < length;) {
        const size_t m = std::min(length - at, size_t(1 + random.below(40)));
        (fork ? fork : encoder)->push(x.data() + at, int64_t(m), parts);
        at += m;
        if (!fork && at > length / 2) fork = encoder->fork();
      }
      (fork ? fork : encoder)->flush(parts);
      CHECK(parts == codes);

      const int t = int(codes.size() / 3);
      const std::vector<float> sound = cpu->decode(expected.data(), size_t(t), 3);
      const auto decoder = gpu->decoder();
      std::vector<float> out, of_parts;
      decoder->push(expected.data(), t, 3, out), decoder->flush(out);
      CHECK(worst(out, sound) < 1e-5);
      std::unique_ptr<cuda::DecoderStream> other;
      for (int at = 0; at < t;) {
        const int m = std::min(t - at, 1 + random.below(5));
        (other ? other : decoder)->push(expected.data() + at * 3, m, 3, of_parts);
        at += m;
        if (!other && at > t / 2) other = decoder->fork();
      }
      (other ? other : decoder)->flush(of_parts);
      CHECK(worst(of_parts, sound) < 1e-5);
    }
  }
  SeanetConfig stereo;
  stereo.channels = 2;
  CodecConfig c;
  c.family = CodecFamily::seanet, c.seanet = stereo;
  CHECK_THROWS(std::invalid_argument, cuda::Codec::create(cuda::open_device(0), c, Weights()),
               "mono codec");
}

MAIN
