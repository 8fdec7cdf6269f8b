// Codecs against golden files from torch, and against themselves: streams, threads, saved states,
// hostile input.
#include <algorithm>
#include <limits>

#include "check.h"
#include "codec.h"
#include "safetensors.h"

using namespace uniaudio;

namespace {

const char* const kNames[] = {"spectral", "seanet", "seanet_causal", "seanet_zero", "seanet_group"};

struct Golden {
  SafetensorsFile file;
  CodecConfig config;
  std::vector<float> samples, pcm;  // [C][N]
  std::vector<int32_t> codes;       // [T][K]
  size_t n, t;

  explicit Golden(const std::string& name)
      : file(std::string(UNIAUDIO_GOLDEN_DIR) + "/codec_" + name + ".safetensors"),
        config(parse_codec_config(file.metadata().at("config"))),
        samples(file.floats("samples")),
        pcm(file.floats("pcm")) {
    const std::vector<int32_t> stored = file.ints("codes");  // [K][T]
    const size_t k = size_t(config.num_codebooks);
    t = stored.size() / k;
    codes.resize(stored.size());
    for (size_t i = 0; i < k; ++i)
      for (size_t j = 0; j < t; ++j) codes[j * k + i] = stored[i * t + j];
    n = samples.size() / size_t(channels());
  }
  int channels() const { return config.channels(); }
  std::shared_ptr<const Codec> codec(int threads = 1) const {
    return Codec::create(config, file.weights("weights."), threads);
  }
};

float largest(const std::vector<float>& v) {
  float m = 0;
  for (float x : v) m = std::max(m, std::abs(x));
  return m;
}

std::vector<float> noise(size_t n, int seed) {
  check::Random random(uint64_t(seed) + 100);
  std::vector<float> v = random.normals(n);
  for (float& x : v) x *= 0.3f;
  return v;
}

}  // namespace

TEST(golden) {
  for (const char* name : kNames) {
    const Golden g(name);
    const auto codec = g.codec(2);
    const std::vector<int32_t> codes = codec->encode(g.samples.data(), g.n);
    CHECK(codes == g.codes);
    // [N][C]
    const std::vector<float> pcm = codec->decode(g.codes.data(), g.t, g.config.num_codebooks);
    CHECK(pcm.size() == g.pcm.size());
    const size_t channels = size_t(g.channels()), n = pcm.size() / channels;
    float error = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t c = 0; c < channels; ++c)
        error = std::max(error, std::abs(pcm[i * channels + c] - g.pcm[c * n + i]));
    if (!(error <= 1e-5f * largest(g.pcm)))
      std::printf("%s: error %g of %g\n", name, double(error), double(largest(g.pcm)));
    CHECK(error <= 1e-5f * largest(g.pcm));
  }
}

TEST(encoder_alone) {
  const Golden g("semantic");
  const auto codec = g.codec(2);
  CHECK(codec->encode(g.samples.data(), g.n) == g.codes);
  CHECK(codec->encoder_lookahead() == 0);
  const std::vector<float> x = noise(300 * size_t(g.config.frame_size) + 7, 3);
  const std::vector<int32_t> codes = codec->encode(x.data(), x.size());
  check::Random random(9);
  auto stream = g.codec()->encoder_stream();
  std::vector<int32_t> streamed;
  for (size_t at = 0; at < x.size();) {
    const size_t m = std::min(x.size() - at, size_t(random.below(3 * g.config.frame_size)));
    stream->push(x.data() + at, m, streamed);
    at += m;
    if (random.below(10) == 0) {
      const std::string state = stream->save();
      stream = g.codec()->encoder_stream();
      stream->restore(state);
    }
  }
  stream->flush(streamed);
  CHECK(streamed == codes);
  CHECK_THROWS(std::invalid_argument, codec->decode(codes.data(), codes.size(), 1),
               "without a decoder");
  CHECK_THROWS(std::invalid_argument, codec->decoder_stream(), "without a decoder");
  // a state of the same sizes with phases is another codec's
  CHECK_THROWS(std::invalid_argument,
               Golden("spectral").codec()->encoder_stream(1)->restore(stream->save()),
               "stream state");
}

TEST(any_length_and_codebooks) {
  for (const char* name : kNames) {
    const Golden g(name);
    const auto codec = g.codec();
    const size_t frame = size_t(g.config.frame_size), channels = size_t(g.channels());
    for (size_t n : {size_t{0}, size_t{1}, size_t{2}, frame - 1, frame, frame + 1, 3 * frame + 5}) {
      const std::vector<float> x = noise(n * channels, int(n));
      const size_t t = (n + frame - 1) / frame;
      for (int k : {0, 1, 2}) {
        const std::vector<int32_t> codes = codec->encode(x.data(), n, k);
        const int used = k ? k : g.config.num_codebooks;
        CHECK(codes.size() == t * size_t(used));
        CHECK(codec->decode(codes.data(), t, used).size() == t * frame * channels);
      }
    }
  }
}

TEST(stream_equals_offline) {
  check::Random random(7);
  for (const char* name : kNames) {
    const Golden g(name);
    if (g.config.is(CodecFamily::seanet) && g.config.seanet->group_norm) continue;
    const size_t frame = size_t(g.config.frame_size);
    for (int threads : {1, 2, 3}) {
      const auto codec = g.codec(threads);
      for (size_t n : {size_t{1}, size_t{3}, frame * 2 + 1, frame * 60 + 7, frame * 300}) {
        const std::vector<float> x = noise(n, int(n));
        const std::vector<int32_t> codes = g.codec()->encode(x.data(), n);  // always by one thread
        const size_t k = size_t(g.config.num_codebooks), t = codes.size() / k;
        auto encoder = codec->encoder_stream();
        std::vector<int32_t> streamed;
        for (size_t at = 0; at < n;) {
          const size_t m = std::min(n - at, size_t(random.below(int(3 * frame))));
          encoder->push(x.data() + at, m, streamed);
          at += m;
          // the declared look-ahead holds at every moment
          const int64_t due = (int64_t(at) - encoder->lookahead()) / int64_t(frame);
          CHECK(int64_t(streamed.size() / k) >= std::max<int64_t>(0, due));
        }
        encoder->flush(streamed);
        CHECK(streamed == codes);

        const std::vector<float> pcm = g.codec()->decode(codes.data(), t, int(k));
        auto decoder = codec->decoder_stream();
        std::vector<float> played;
        for (size_t at = 0; at < t;) {
          const size_t m = std::min(t - at, size_t(random.below(5)));
          decoder->push(codes.data() + at * k, m, int(k), played);
          at += m;
          CHECK(int64_t(played.size()) >= int64_t(at * frame) - decoder->lookahead());
        }
        decoder->flush(played);
        CHECK(played == pcm);  // to the bit
        // a flushed stream starts anew
        streamed.clear();
        encoder->push(x.data(), n, streamed);
        encoder->flush(streamed);
        CHECK(streamed == codes);
        played.clear();
        decoder->push(codes.data(), t, int(k), played);
        decoder->flush(played);
        CHECK(played == pcm);
      }
    }
  }
}

TEST(fork_save_restore) {
  for (const char* name : kNames) {
    const Golden g(name);
    if (g.config.is(CodecFamily::seanet) && g.config.seanet->group_norm) continue;
    const auto codec = g.codec(2);
    const size_t frame = size_t(g.config.frame_size), k = size_t(g.config.num_codebooks),
                 n = 40 * frame + 3;
    const std::vector<float> x = noise(n, 5);
    const std::vector<int32_t> codes = codec->encode(x.data(), n);
    const size_t t = codes.size() / k;
    const std::vector<float> pcm = codec->decode(codes.data(), t, int(k));
    for (size_t cut : {size_t{0}, size_t{1}, 2 * frame + 3, 20 * frame}) {
      auto a = codec->encoder_stream();
      std::vector<int32_t> head;
      a->push(x.data(), cut, head);
      const auto b = a->fork();
      const auto c = codec->encoder_stream();
      const std::vector<float> other = noise(5 * frame, 6);
      std::vector<int32_t> ignored;
      c->push(other.data(), other.size(), ignored);
      const std::string state = a->save();
      c->restore(state);
      CHECK(c->save() == state);
      for (EncoderStream* s : {a.get(), b.get(), c.get()}) {
        std::vector<int32_t> all = head;
        s->push(x.data() + cut, n - cut, all);
        s->flush(all);
        CHECK(all == codes);
      }
      auto d = codec->decoder_stream();
      const size_t frames = cut / frame;
      std::vector<float> begin;
      d->push(codes.data(), frames, int(k), begin);
      const auto e = d->fork();
      const auto f = codec->decoder_stream();
      std::vector<float> unused;
      f->push(codes.data() + k, 3, int(k), unused);
      f->restore(d->save());
      for (DecoderStream* s : {d.get(), e.get(), f.get()}) {
        std::vector<float> all = begin;
        s->push(codes.data() + frames * k, t - frames, int(k), all);
        s->flush(all);
        CHECK(all == pcm);
      }
      // any damage is refused or harmless, and a refused state changes nothing
      check::Random random(8);
      const std::string good = e->save();
      for (int i = 0; i < 300; ++i) {
        std::string bad = state;
        bad[size_t(random.below(int(bad.size())))] ^= char(1 << random.below(8));
        if (i % 3 == 0) bad.resize(size_t(random.below(int(bad.size()))));
        const auto s = codec->encoder_stream();
        try {
          s->restore(bad);
        } catch (const std::invalid_argument&) {
          CHECK(s->save() == codec->encoder_stream()->save());
        }
        std::vector<int32_t> out;
        s->push(x.data(), 3 * frame, out);
        s->flush(out);
        bad = good;
        bad[size_t(random.below(int(bad.size())))] ^= char(1 << random.below(8));
        const auto p = codec->decoder_stream();
        try {
          p->restore(bad);
        } catch (const std::invalid_argument&) {
          CHECK(p->save() == codec->decoder_stream()->save());
        }
        std::vector<float> sound;
        p->push(codes.data(), 3, int(k), sound);
        p->flush(sound);
      }
    }
    CHECK_THROWS(std::invalid_argument,
                 codec->decoder_stream()->restore(codec->encoder_stream()->save()), "same codec");
    CHECK_THROWS(std::invalid_argument, codec->decoder_stream()->restore(""), "same codec");
  }
}

TEST(bad_input_changes_nothing) {
  for (const char* name : {"spectral", "seanet"}) {
    const Golden g(name);
    const auto codec = g.codec();
    const int k = g.config.num_codebooks;
    for (float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = g.samples;
      x[g.n / 2] = bad;
      CHECK_THROWS(std::invalid_argument, codec->encode(x.data(), g.n), "finite");
      auto s = codec->encoder_stream();
      std::vector<int32_t> codes;
      CHECK_THROWS(std::invalid_argument, s->push(x.data(), g.n, codes), "finite");
      s->push(g.samples.data(), g.n, codes);
      s->flush(codes);
      CHECK(codes == g.codes);
    }
    for (int32_t bad : {-1, g.config.codebook_size, std::numeric_limits<int32_t>::min()}) {
      std::vector<int32_t> codes = g.codes;
      codes[codes.size() / 2] = bad;
      CHECK_THROWS(std::invalid_argument, codec->decode(codes.data(), g.t, k),
                   "codes: expected 0 to 16");
    }
    CHECK_THROWS(std::invalid_argument, codec->decode(g.codes.data(), 1, 0), "codebooks");
    CHECK_THROWS(std::invalid_argument, codec->decode(g.codes.data(), 1, k + 1), "codebooks");
    CHECK_THROWS(std::invalid_argument, codec->encode(g.samples.data(), g.n, k + 1),
                 "num_codebooks");
    CHECK_THROWS(std::invalid_argument, codec->encoder_stream(-1), "num_codebooks");
    CHECK_THROWS(std::invalid_argument, g.codec(0), "threads");
  }
  const Golden group("seanet_group");
  CHECK_THROWS(std::invalid_argument, group.codec()->encoder_stream(), "whole clips");
  CHECK_THROWS(std::invalid_argument, group.codec()->decoder_stream(), "whole clips");
  // weights of another codec: all that does not fit, in one message
  CHECK_THROWS(
      std::invalid_argument,
      Codec::create(Golden("spectral").config, Golden("seanet").file.weights("weights."), 1),
      "encoder.input_norm.weight");
}

TEST(lookahead_is_declared) {
  CHECK(Golden("spectral").codec()->encoder_lookahead() == 0);
  CHECK(Golden("spectral").codec()->decoder_lookahead() == 50 - 20);
  CHECK(Golden("seanet").codec()->encoder_lookahead() > 0);
  CHECK(Golden("seanet").codec()->decoder_lookahead() > 0);
}

MAIN
