// Codecs in chunks, with their loudness beside the codes: a golden file from torch, streams,
// threads, saved states, what is refused.
#include <algorithm>
#include <limits>

#include "check.h"
#include "chunked.h"
#include "codec.h"
#include "safetensors.h"

using namespace uniaudio;

namespace {

// codec_seanet_chunked
constexpr size_t kChannels = 2, kSize = 28, kStride = 19, kFrame = 8, kCodebooks = 3,
                 kChunkFrames = 4;

struct Golden {
  SafetensorsFile file{std::string(UNIAUDIO_GOLDEN_DIR) + "/codec_seanet_chunked.safetensors"};
  CodecConfig config = parse_codec_config(file.metadata().at("config"));
  // [C][N], [C][N'], [chunks]
  std::vector<float> samples = file.floats("samples"), pcm = file.floats("pcm"),
                     scales = file.floats("scales");
  // [T][K]
  std::vector<int32_t> codes;
  size_t n = samples.size() / kChannels, t;

  Golden() {
    const std::vector<int32_t> stored = file.ints("codes");  // [K][T]
    t = stored.size() / kCodebooks;
    codes.resize(stored.size());
    for (size_t k = 0; k < kCodebooks; ++k)
      for (size_t j = 0; j < t; ++j) codes[j * kCodebooks + k] = stored[k * t + j];
  }
  std::shared_ptr<const Codec> codec(int threads = 1) const {
    return Codec::create(config, file.weights("weights."), threads);
  }
};

std::vector<float> noise(size_t n, int seed) {
  check::Random random(uint64_t(seed) + 100);
  std::vector<float> v = random.normals(n * kChannels);
  for (float& x : v) x *= 0.3f;
  return v;
}

// Samples [at, at + m) of each channel of x [C][n].
std::vector<float> part(const std::vector<float>& x, size_t n, size_t at, size_t m) {
  std::vector<float> out;
  for (size_t c = 0; c < kChannels; ++c)
    out.insert(out.end(), x.begin() + long(c * n + at), x.begin() + long(c * n + at + m));
  return out;
}

struct Clip {
  std::vector<int32_t> codes;
  std::vector<float> scales, pcm;
};

Clip offline(const Codec& codec, const std::vector<float>& x, size_t n) {
  Clip clip;
  clip.codes = codec.encode(x.data(), n, 0, &clip.scales);
  clip.pcm =
      codec.decode(clip.codes.data(), clip.codes.size() / kCodebooks, kCodebooks, clip.scales);
  return clip;
}

}  // namespace

TEST(golden) {
  const Golden g;
  const auto codec = g.codec(2);
  CHECK(codec->normalizes() && codec->chunk_frames() == int(kChunkFrames) &&
        codec->frames(g.n) == g.t);
  std::vector<float> scales;
  CHECK(codec->encode(g.samples.data(), g.n, 0, &scales) == g.codes);
  CHECK(scales.size() == g.scales.size());
  for (size_t i = 0; i < scales.size(); ++i)
    CHECK(std::abs(scales[i] - g.scales[i]) <= 1e-6f * g.scales[i]);
  const std::vector<float> pcm = codec->decode(g.codes.data(), g.t, kCodebooks, g.scales);
  CHECK(pcm.size() == g.pcm.size());
  float error = 0, peak = 0;
  const size_t n = pcm.size() / kChannels;
  for (size_t i = 0; i < n; ++i)
    for (size_t c = 0; c < kChannels; ++c) {
      error = std::max(error, std::abs(pcm[i * kChannels + c] - g.pcm[c * n + i]));
      peak = std::max(peak, std::abs(g.pcm[c * n + i]));
    }
  CHECK(error <= 1e-5f * peak);
}

TEST(loudness_of_rows) {
  const float rows[] = {0.5f, -0.5f, 1.0f, 1.0f, 0.0f, 2.0f, 3.0f, -1.0f};
  // of the channels' mean
  CHECK(std::abs(loudness(rows, 4, 2) - std::sqrt((0.0f + 1 + 1 + 1) / 4)) < 1e-6f);
  CHECK(std::abs(loudness(rows, 8, 1) - std::sqrt((0.25f + 0.25f + 1 + 1 + 0 + 4 + 9 + 1) / 8)) <
        1e-6f);
  const float silence[] = {0, 0};
  CHECK(loudness(silence, 1, 2) == 1e-8f);
}

TEST(any_length) {
  const Golden g;
  const auto codec = g.codec();
  for (size_t n : {size_t{0}, size_t{1}, kStride - 1, kStride, kStride + 1, kSize - 1, kSize,
                   kSize + 1, 5 * kStride, 4 * kStride + kSize, size_t{200}}) {
    const Clip clip = offline(*codec, noise(n, int(n)), n);
    const size_t chunks = (n + kStride - 1) / kStride;
    CHECK(clip.codes.size() == chunks * kChunkFrames * kCodebooks && clip.scales.size() == chunks &&
          codec->frames(n) == chunks * kChunkFrames);
    CHECK(clip.pcm.size() ==
              (chunks ? (chunks - 1) * kStride + kChunkFrames * kFrame : 0) * kChannels &&
          clip.pcm.size() >= n * kChannels);
    for (float v : clip.pcm) CHECK(std::isfinite(v));
    // cut anywhere: the frames before the cut say the same, as far as no later chunk is mixed in
    for (size_t t = 1; t < chunks * kChunkFrames; t += 3) {
      const size_t begun = (t + kChunkFrames - 1) / kChunkFrames;
      const std::vector<float> some =
          codec->decode(clip.codes.data(), t, kCodebooks, std::span(clip.scales).first(begun));
      CHECK(some.size() >=
            ((begun - 1) * kStride + (t - (begun - 1) * kChunkFrames) * kFrame) * kChannels);
      CHECK(std::equal(some.begin(), some.begin() + long((begun - 1) * kStride * kChannels),
                       clip.pcm.begin()));
    }
  }
}

TEST(stream_equals_offline) {
  check::Random random(7);
  const Golden g;
  for (int threads : {1, 2, 3}) {
    const auto codec = g.codec(threads);
    for (size_t n : {size_t{1}, kStride, kSize, size_t{300}}) {
      const std::vector<float> x = noise(n, int(n));
      const Clip clip = offline(*g.codec(), x, n);  // always by one thread
      auto encoder = codec->encoder_stream();
      Clip streamed;
      for (int again = 0; again < 2; ++again) {  // a flushed stream starts anew
        streamed = {};
        for (size_t at = 0; at < n;) {
          const size_t m = std::min(n - at, size_t(random.below(40)));
          const std::vector<float> piece = part(x, n, at, m);
          encoder->push(piece.data(), m, streamed.codes, &streamed.scales);
          at += m;
          CHECK(streamed.scales.size() * kChunkFrames * kCodebooks == streamed.codes.size());
          CHECK(int64_t(streamed.codes.size() / kCodebooks) >=
                (int64_t(at) - encoder->lookahead()) / int64_t(kFrame));
          if (random.below(3) == 0) encoder = encoder->fork();
        }
        encoder->flush(streamed.codes, &streamed.scales);
        CHECK(streamed.codes == clip.codes && streamed.scales == clip.scales);
      }
      auto decoder = codec->decoder_stream();
      const size_t t = clip.codes.size() / kCodebooks;
      for (int again = 0; again < 2; ++again) {
        streamed.pcm.clear();
        for (size_t at = 0, used = 0; at < t;) {
          const size_t m = std::min(t - at, size_t(random.below(10))),
                       begun = (at + m + kChunkFrames - 1) / kChunkFrames;
          decoder->push(clip.codes.data() + at * kCodebooks, m, kCodebooks, streamed.pcm,
                        std::span(clip.scales).subspan(used, begun - used));
          at += m;
          used = begun;
          if (random.below(3) == 0) decoder = decoder->fork();
        }
        decoder->flush(streamed.pcm);
        CHECK(streamed.pcm == clip.pcm);  // to the bit
      }
    }
  }
}

TEST(save_and_restore) {
  const Golden g;
  const auto codec = g.codec(2);
  const size_t n = 200;
  const std::vector<float> x = noise(n, 3), other = noise(50, 4);
  const Clip clip = offline(*codec, x, n);
  check::Random random(8);
  for (size_t cut : {size_t{0}, size_t{5}, kSize, size_t{101}}) {
    auto a = codec->encoder_stream();
    auto b = codec->encoder_stream();
    Clip head, ignored;
    const std::vector<float> first = part(x, n, 0, cut), rest = part(x, n, cut, n - cut);
    a->push(first.data(), cut, head.codes, &head.scales);
    b->push(other.data(), 50, ignored.codes, &ignored.scales);
    const std::string state = a->save();
    b->restore(state);
    CHECK(b->save() == state);
    b->push(rest.data(), n - cut, head.codes, &head.scales);
    b->flush(head.codes, &head.scales);
    CHECK(head.codes == clip.codes && head.scales == clip.scales);

    const size_t frames = std::min(cut / 3, clip.codes.size() / kCodebooks),
                 begun = (frames + kChunkFrames - 1) / kChunkFrames;
    auto d = codec->decoder_stream();
    auto e = codec->decoder_stream();
    d->push(clip.codes.data(), frames, kCodebooks, head.pcm, std::span(clip.scales).first(begun));
    const std::string paused = d->save();
    e->push(clip.codes.data(), 7, 2, ignored.pcm, std::span(clip.scales).first(2));
    e->restore(paused);
    CHECK(e->save() == paused);
    e->push(clip.codes.data() + frames * kCodebooks, clip.codes.size() / kCodebooks - frames,
            kCodebooks, head.pcm, std::span(clip.scales).subspan(begun));
    e->flush(head.pcm);
    CHECK(head.pcm == clip.pcm);
    // any damage is refused, and changes nothing then, or is harmless
    for (int i = 0; i < 300; ++i) {
      for (const std::string& good : {state, paused}) {
        std::string bad = good;
        bad[size_t(random.below(int(bad.size())))] ^= char(1 << random.below(8));
        if (i % 3 == 0) bad.resize(size_t(random.below(int(bad.size()))));
        const auto s = codec->encoder_stream();
        const auto p = codec->decoder_stream();
        try {
          s->restore(bad);
        } catch (const std::invalid_argument&) {
          CHECK(s->save() == codec->encoder_stream()->save());
        }
        try {
          p->restore(bad);
        } catch (const std::invalid_argument&) {
          CHECK(p->save() == codec->decoder_stream()->save());
        }
        Clip out;
        s->push(x.data(), 60, out.codes, &out.scales);
        s->flush(out.codes, &out.scales);
        p->flush(out.pcm);
      }
    }
  }
}

TEST(loudness_is_never_lost) {
  const Golden g;
  const auto codec = g.codec();
  std::vector<int32_t> codes;
  std::vector<float> pcm;
  CHECK_THROWS(std::invalid_argument, codec->encode(g.samples.data(), g.n), "take the scales");
  CHECK_THROWS(std::invalid_argument, codec->encoder_stream()->push(g.samples.data(), g.n, codes),
               "take the scales");
  CHECK_THROWS(std::invalid_argument, codec->encoder_stream()->flush(codes), "take the scales");
  CHECK_THROWS(std::invalid_argument, codec->decode(g.codes.data(), g.t, kCodebooks),
               "scales: expected 4, one for each chunk");
  for (float bad : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::infinity()}) {
    std::vector<float> scales = g.scales;
    scales[1] = bad;
    CHECK_THROWS(std::invalid_argument, codec->decode(g.codes.data(), g.t, kCodebooks, scales),
                 "scales: expected finite");
  }
  const auto stream = codec->decoder_stream();
  stream->push(g.codes.data(), 2, kCodebooks, pcm, std::span(g.scales).first(1));
  CHECK_THROWS(std::invalid_argument,
               stream->push(g.codes.data(), 2, kCodebooks, pcm, std::span(g.scales).first(1)),
               "scales: expected 0");
  CHECK_THROWS(std::invalid_argument, stream->push(g.codes.data(), 3, kCodebooks, pcm),
               "scales: expected 1");
  CHECK_THROWS(std::invalid_argument, stream->push(g.codes.data(), 1, 2, pcm),
               "codes: expected the 3 codebooks");
  stream->push(g.codes.data() + 2 * kCodebooks, g.t - 2, kCodebooks, pcm,
               std::span(g.scales).subspan(1));
  stream->flush(pcm);
  CHECK(pcm == codec->decode(g.codes.data(), g.t, kCodebooks, g.scales));
}

TEST(hostile_configurations) {
  const auto parse = [](const std::string& seanet, const std::string& more = "") {
    parse_codec_config(R"({"family": "seanet", "frame_size": 4, "seanet": {"ratios": [2, 2])" +
                       seanet + "}" + more + "}");
  };
  parse(R"(, "chunk_size": 10, "chunk_stride": 9, "normalize": true)",
        R"(, "bandwidths": [1.5, 3])");
  for (const char* bad :
       {R"(, "chunk_size": -1)", R"(, "chunk_size": 2000000)", R"(, "chunk_size": 10)",
        R"(, "chunk_size": 10, "chunk_stride": 0)", R"(, "chunk_size": 10, "chunk_stride": 11)",
        R"(, "chunk_size": 80, "chunk_stride": 9)", R"(, "chunk_stride": 1)",
        R"(, "chunk_size": 1048576, "chunk_stride": 1048576, "filters": 4096)",
        R"(, "normalize": 1)", R"(, "chunk_size": "10")"})
    CHECK_THROWS(std::invalid_argument, parse(bad), "config: codec.seanet");
  for (const char* bad : {"3", "[0]", "[-1]", "[3, 3]", "[6, 3]", "[\"a\"]", "[[1]]", "[1e300]"})
    CHECK_THROWS(std::invalid_argument, parse("", std::string(R"(, "bandwidths": )") + bad),
                 "config: codec.bandwidths");
}

MAIN
