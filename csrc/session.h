// An LM session joined to a streaming codec decoder: known frames in, codes and samples out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "codec.h"
#include "lm_session.h"

namespace uniaudio {

class Session {
 public:
  // std::invalid_argument when the LM has more codebooks than the codec, or max_frames is out of
  // range.
  Session(std::shared_ptr<const MultiScaleLm> lm, std::shared_ptr<const Codec> codec,
          int64_t max_frames);

  LmSession& lm() { return *lm_; }
  const LmSession& lm() const { return *lm_; }
  std::shared_ptr<LmSession> shared_lm() const { return lm_; }
  const Codec& codec() const { return *codec_; }

  // Generates up to `count` audio frames, appends their codes [m, K] (id - start of the slot's
  // allowed range) to `codes` and the samples that are complete, time-major [n][channels], to
  // `samples`. `flush` drains the decoder after the last of them, unless cancelled; the end id
  // always drains it. Returns m. sampling.allowed must hold one range of at most codebook_size ids
  // per slot.
  int64_t generate_audio(int64_t count, const SamplingConfig& sampling, const int32_t* aligned,
                         bool flush, std::vector<int32_t>& codes, std::vector<float>& samples,
                         const std::function<bool()>& interrupted = {});
  // Decodes given codes [count, K] in the same stream.
  void decode(const int32_t* codes, int64_t count, bool flush, std::vector<float>& samples);

  void reset_audio();  // a new clip; the LM goes on
  void reset();        // LM and audio
  std::unique_ptr<Session> fork() const;
  std::string save() const;
  void restore(const std::string& bytes);  // std::invalid_argument and no change when damaged

 private:
  Session() = default;
  std::shared_ptr<LmSession> lm_;
  std::shared_ptr<const Codec> codec_;
  std::unique_ptr<DecoderStream> decoder_;
};

}  // namespace uniaudio
