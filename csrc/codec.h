// Neural codecs: samples <-> codes, in one shot and as streams with explicit state.
//
// The one-shot calls are the streams, run in large chunks: chunk sizes and thread counts never
// change a result. Codes are frame-major here, [T][K]; samples go in planar, [channels][N], and
// come out time-major, [N][channels]. K' <= K codebooks may be used on both sides.
//
// Some codecs work in chunks (chunked.h): streams emit their frames chunk by chunk, in runs of
// chunk_frames(). A codec that normalises loudness has a scale for each chunk (or for the whole
// clip, where it has no chunks). Codes alone are then not enough: the encoder's caller must keep
// the scales and pass them to the decoder.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config.h"
#include "parallel.h"
#include "weights.h"

namespace uniaudio {

// Samples in, frames out. Made by Codec; keeps its codec alive. One stream belongs to one thread at
// a time.
class EncoderStream {
 public:
  virtual ~EncoderStream() = default;

  // Appends the frames that are complete to `codes`. samples [channels][n], channel c at samples +
  // c * n. scales: gets those of the chunks that the new frames begin; not null where the codec
  // normalises. Throws std::invalid_argument on NaN or infinity, before anything changes.
  void push(const float* samples, size_t n, std::vector<int32_t>& codes,
            std::vector<float>* scales = nullptr);
  // Extends the clip by its padding rule, appends the last frames and starts a new clip.
  void flush(std::vector<int32_t>& codes, std::vector<float>* scales = nullptr);
  virtual void reset() = 0;
  virtual std::unique_ptr<EncoderStream> fork() const = 0;
  std::string save() const;
  // std::invalid_argument when not saved by a stream of this codec; nothing changes then
  void restore(std::string_view bytes);

  int num_codebooks() const { return num_codebooks_; }
  // The most samples that must follow a frame's end before the frame comes out.
  int64_t lookahead() const;

 protected:
  friend class Codec;
  friend class ChunkedEncoder;
  virtual const class Codec& codec() const = 0;
  // samples time-major [n][channels]; last: flush afterwards.  Only chunked streams give scales.
  virtual void run(const float* rows, int n, bool last, std::vector<int32_t>& codes,
                   std::vector<float>* scales) = 0;
  virtual void write(class StateWriter&) const = 0;
  virtual void read(class StateReader&) = 0;  // on a scratch copy: may leave it half read
  virtual void swap_state(EncoderStream& other) = 0;
  int num_codebooks_ = 0;
  std::vector<float> rows_;  // scratch: a chunk of samples, time-major
};

// Frames in, samples out.
class DecoderStream {
 public:
  virtual ~DecoderStream() = default;

  // Appends the samples that are complete to `samples`, time-major [n][channels]. codes
  // [t][num_codebooks]. scales: of the chunks that these frames begin, where the codec normalises.
  // Throws std::invalid_argument on a code, a scale or a count out of range, before anything
  // changes.
  void push(const int32_t* codes, size_t t, int num_codebooks, std::vector<float>& samples,
            std::span<const float> scales = {});
  // Appends what the look-ahead held back and starts a new clip.
  void flush(std::vector<float>& samples);
  virtual void reset() = 0;
  virtual std::unique_ptr<DecoderStream> fork() const = 0;
  std::string save() const;
  void restore(std::string_view bytes);

  // The most samples that are held back (of the newest frame and those before it).
  int64_t lookahead() const;

 protected:
  friend class Codec;
  friend class ChunkedDecoder;
  virtual const class Codec& codec() const = 0;
  // std::invalid_argument
  virtual void check(size_t t, int num_codebooks, std::span<const float> scales) const;
  // Only chunked streams read the scales; they take from the front those that they have used.
  virtual void run(const int32_t* codes, int t, int num_codebooks, bool last,
                   std::vector<float>& samples, std::span<const float>& scales) = 0;
  virtual void write(class StateWriter&) const = 0;
  virtual void read(class StateReader&) = 0;
  virtual void swap_state(DecoderStream& other) = 0;
};

// Immutable, shared between threads and streams.
class Codec : public std::enable_shared_from_this<Codec> {
 public:
  // std::invalid_argument when the weights do not fit the configuration.  threads >= 1.
  static std::shared_ptr<const Codec> create(const CodecConfig& config, const Weights& weights,
                                             int threads);
  virtual ~Codec() = default;

  const CodecConfig& config() const { return config_; }
  int channels() const { return config_.channels(); }
  int threads() const { return pool_.threads(); }
  int64_t encoder_lookahead() const { return encoder_lookahead_; }
  int64_t decoder_lookahead() const { return decoder_lookahead_; }
  bool normalizes() const { return seanet() && seanet()->normalize; }
  // Frames of a chunk, or 0: this codec works on whole clips.
  int chunk_frames() const;
  // Frames of a clip of n samples: ceil(n / frame_size), or of a codec in chunks ceil(n /
  // chunk_stride) * chunk_frames().
  size_t frames(size_t n) const;

  // num_codebooks 0: all. std::invalid_argument when out of range, or when this codec normalises
  // over whole clips (no streaming).
  std::unique_ptr<EncoderStream> encoder_stream(int num_codebooks = 0) const;
  std::unique_ptr<DecoderStream> decoder_stream() const;
  // samples [channels][n] -> codes [frames(n)][K']; scales: gets one a chunk, not null where this
  // codec normalises
  std::vector<int32_t> encode(const float* samples, size_t n, int num_codebooks = 0,
                              std::vector<float>* scales = nullptr) const;
  // codes [t][num_codebooks] -> samples time-major [n][channels], n = t * frame_size, or of a codec
  // in chunks as far as the last chunk reaches: at least as many as were encoded. scales: one a
  // chunk, where this codec normalises.
  std::vector<float> decode(const int32_t* codes, size_t t, int num_codebooks,
                            std::span<const float> scales = {}) const;

  ThreadPool& pool() const { return pool_; }
  void check_codes(const int32_t* codes, size_t t, int num_codebooks) const;
  // std::invalid_argument unless there are `expected` scales (none where this codec does not
  // normalise), all above zero and finite.
  void check_scales(size_t expected, std::span<const float> scales) const;

 protected:
  Codec(const CodecConfig& config, int threads) : config_(config), pool_(threads) {}
  virtual std::unique_ptr<EncoderStream> make_encoder() const = 0;
  virtual std::unique_ptr<DecoderStream> make_decoder() const = 0;
  virtual bool streams() const { return true; }  // false: whole clips only
  int checked_codebooks(int num_codebooks) const;
  void want_scales(const std::vector<float>* scales) const;
  friend class EncoderStream;
  friend class DecoderStream;

  // Frames to compute at once, so that `frames` come in equal chunks of at most chunk_: a short
  // last one would read all weights for little.
  size_t even_chunk(size_t frames) const {
    const size_t most = size_t(chunk_), chunks = (frames + most - 1) / most;
    return chunks == 0 ? 1 : (frames + chunks - 1) / chunks;
  }

  const SeanetConfig* seanet() const {
    return config_.is(CodecFamily::seanet) ? &*config_.seanet : nullptr;
  }

  CodecConfig config_;
  mutable ThreadPool pool_;
  int chunk_ = 32;            // frames computed at once
  uint64_t fingerprint_ = 0;  // of configuration and codebooks: marks saved states
  int64_t encoder_lookahead_ = 0, decoder_lookahead_ = 0;
};

}  // namespace uniaudio
