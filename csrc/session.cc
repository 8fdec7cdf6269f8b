#include "session.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace uniaudio {

Session::Session(std::shared_ptr<const MultiScaleLm> lm, std::shared_ptr<const Codec> codec,
                 int64_t max_frames)
    : lm_(std::make_shared<LmSession>(lm, max_frames)),
      codec_(std::move(codec)),
      decoder_(codec_->decoder_stream()) {
  if (lm->config().num_codebooks > codec_->config().num_codebooks) {
    throw std::invalid_argument("session: expected a codec of at least the LM's " +
                                std::to_string(lm->config().num_codebooks) + " codebooks, got " +
                                std::to_string(codec_->config().num_codebooks) +
                                "; load the codec that this LM was trained with");
  }
  if (codec_->normalizes())
    throw std::invalid_argument(
        "session: expected a codec that codes loudness too, got one that normalises it; an LM's "
        "codes have no scales");
}

int64_t Session::generate_audio(int64_t count, const SamplingConfig& sampling,
                                const int32_t* aligned, bool flush, std::vector<int32_t>& codes,
                                std::vector<float>& samples,
                                const std::function<bool()>& interrupted) {
  const int64_t k = lm_->lm().config().num_codebooks;
  const int size = codec_->config().codebook_size;
  if (sampling.tie_slots)
    throw std::invalid_argument(
        "generate_audio: expected tie_slots off, since audio frames hold one code per codebook");
  if (int64_t(sampling.allowed.size()) != k) {
    throw std::invalid_argument("generate_audio: expected one allowed range for each of " +
                                std::to_string(k) + " slots, got " +
                                std::to_string(sampling.allowed.size()) +
                                "; give each codebook's (start, size)");
  }
  for (const auto& slot : sampling.allowed) {
    if (slot.size() != 1 || slot[0].end - slot[0].begin > size) {
      throw std::invalid_argument("generate_audio: expected one range of at most " +
                                  std::to_string(size) +
                                  " ids per slot; give each codebook's (start, size)");
    }
  }
  // generate refuses these before it writes
  if (count < 0 || count > lm_->capacity()) count = count < 0 ? -1 : lm_->capacity() + 1;
  std::vector<int32_t> ids(size_t(std::min(std::max<int64_t>(count, 0), lm_->capacity()) * k));
  const int64_t made = lm_->generate(count, sampling, aligned, ids.data(), interrupted);
  for (int64_t i = 0; i < made * k; ++i) ids[size_t(i)] -= sampling.allowed[size_t(i % k)][0].begin;
  ids.resize(size_t(made * k));
  codes.insert(codes.end(), ids.begin(), ids.end());
  decode(ids.data(), made, lm_->finished() || (flush && made == count), samples);
  return made;
}

void Session::decode(const int32_t* codes, int64_t count, bool flush, std::vector<float>& samples) {
  if (count > 0) decoder_->push(codes, size_t(count), lm_->lm().config().num_codebooks, samples);
  if (flush) decoder_->flush(samples);
}

void Session::reset_audio() { decoder_->reset(); }

void Session::reset() {
  lm_->reset();
  decoder_->reset();
}

std::unique_ptr<Session> Session::fork() const {
  std::unique_ptr<Session> s(new Session);
  s->lm_ = lm_->fork();
  s->codec_ = codec_;
  s->decoder_ = decoder_->fork();
  return s;
}

// The LM's part, after its length, and the decoder's.
std::string Session::save() const {
  const std::string lm = lm_->save();
  const uint64_t size = lm.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + lm + decoder_->save();
}

void Session::restore(const std::string& bytes) {
  uint64_t size = 0;
  if (bytes.size() >= 8) std::memcpy(&size, bytes.data(), 8);
  if (bytes.size() < 8 || size > bytes.size() - 8)
    throw std::invalid_argument(
        "restore: the saved session is cut short or damaged; save it again");
  // The decoder's bytes go to a copy first, so that neither half changes when the other is refused.
  std::unique_ptr<DecoderStream> decoder = codec_->decoder_stream();
  decoder->restore(std::string_view(bytes).substr(8 + size_t(size)));
  lm_->restore(bytes.substr(8, size_t(size)));
  decoder_ = std::move(decoder);
}

}  // namespace uniaudio
