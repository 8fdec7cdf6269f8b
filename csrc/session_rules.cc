#include "session_rules.h"

#include <cmath>
#include <stdexcept>

#include "sampling.h"

namespace uniaudio {

// --- inputs --------------------------------------------------------------------------------------

void check_frames(const LmConfig& config, const int32_t* frames, int64_t count) {
  const int64_t k = config.num_codebooks;
  for (int64_t i = 0; i < count * k; ++i) {
    if (frames[i] < 0 || frames[i] >= config.vocab_size) {
      throw std::invalid_argument("frames[" + std::to_string(i / k) + ", " + std::to_string(i % k) +
                                  "]: expected an id from 0 to " +
                                  std::to_string(config.vocab_size - 1) + ", got " +
                                  std::to_string(frames[i]));
    }
  }
}

void check_aligned(const LmConfig& config, const int32_t* aligned, int64_t count) {
  if (!aligned) return;
  const int64_t s = config.aligned_slots;
  if (s == 0)
    throw std::invalid_argument(
        "aligned: expected none, since this model has no aligned slots; leave it out");
  for (int64_t i = 0; i < count * s; ++i) {
    if (aligned[i] < -1 || aligned[i] >= config.aligned_vocab) {
      throw std::invalid_argument("aligned[" + std::to_string(i / s) + ", " +
                                  std::to_string(i % s) + "]: expected an id from 0 to " +
                                  std::to_string(config.aligned_vocab - 1) +
                                  ", or -1 for none, got " + std::to_string(aligned[i]));
    }
  }
}

void check_continuous(const LmConfig& config, const std::vector<ContinuousInput>& inputs,
                      int64_t frames) {
  std::vector<bool> taken(static_cast<size_t>(frames));
  for (const ContinuousInput& in : inputs) {
    const std::string where = "continuous[\"" + in.name + "\"]";
    const auto known = config.continuous.find(in.name);
    if (known == config.continuous.end()) {
      std::string names;
      for (const auto& [name, width] : config.continuous)
        names += (names.empty() ? "" : ", ") + name;
      throw std::invalid_argument(where + ": expected one of this model's inputs (" +
                                  (names.empty() ? "it has none" : names) + ")");
    }
    for (int64_t i = 0; i < in.count; ++i) {
      if (in.index[i] < 0 || in.index[i] >= frames) {
        throw std::invalid_argument(where + ": expected frame indices from 0 to " +
                                    std::to_string(frames - 1) + ", got " +
                                    std::to_string(in.index[i]));
      }
      if (taken[size_t(in.index[i])])
        throw std::invalid_argument(where + ": frame " + std::to_string(in.index[i]) +
                                    " is given twice; give each frame one input");
      taken[size_t(in.index[i])] = true;
    }
    for (int64_t i = 0; i < in.count * known->second; ++i) {
      if (!std::isfinite(in.values[i]))
        throw std::invalid_argument(where + ": expected finite values, got infinity or NaN");
    }
  }
}

void check_logits(const LmConfig& config, const int32_t* frames, int64_t count,
                  const int32_t* aligned) {
  if (count > config.max_frames) {
    throw std::invalid_argument("frames: expected at most max_frames " +
                                std::to_string(config.max_frames) + ", got " +
                                std::to_string(count));
  }
  check_frames(config, frames, count);
  check_aligned(config, aligned, count);
}

// --- sessions ------------------------------------------------------------------------------------

SessionState::Use::Use(const SessionState& session) : session_(&session) {
  if (session.in_use_.exchange(true, std::memory_order_acquire)) {
    throw std::invalid_argument(
        "session: expected one call at a time, but another thread is using it; fork it or wait");
  }
}

SessionState::Use::~Use() {
  if (session_) session_->in_use_.store(false, std::memory_order_release);
}

SessionState::SessionState(const LmConfig& config, int64_t max_frames) : capacity_(max_frames) {
  if (max_frames < 1 || max_frames > config.max_frames) {
    throw std::invalid_argument("max_frames: expected 1 to the model's limit " +
                                std::to_string(config.max_frames) + ", got " +
                                std::to_string(max_frames));
  }
}

void SessionState::set_frame_offset(int64_t offset) {
  if (offset < 0)
    throw std::invalid_argument("frame_offset: expected 0 or more, got " + std::to_string(offset));
  const Use use(*this);
  frame_offset_ = offset;
}

void SessionState::check_room(const char* what, int64_t count) const {
  if (count > capacity_ - now_.count) {
    throw std::invalid_argument(
        std::string(what) + ": expected at most " + std::to_string(capacity_ - now_.count) +
        " more frames (capacity " + std::to_string(capacity_) + ", " + std::to_string(now_.count) +
        " used), got " + std::to_string(count) + "; make the session with a larger max_frames");
  }
  if (guided()) unconditional()->check_room(what, count);
}

void SessionState::check_prefill(int64_t count) const {
  if (count > 0 && now_.steps != now_.count) {
    throw std::invalid_argument(
        "prefill: expected known frames before generated ones, since this model's slots have "
        "delays; reset the session, or fork it before generate");
  }
}

void SessionState::check_given(const Sampler& sampler) const {
  for (int slot = 1; slot <= config().given_slots; ++slot) {
    if (!words_ && !sampler.is_fixed(slot))
      throw std::invalid_argument("generate: slot " + std::to_string(slot) +
                                  ": expected words or a forced id, since the model does not "
                                  "predict it");
  }
}

void SessionState::set_words(const WordsConfig& words) {
  const LmConfig& c = config();
  const auto refuse = [](const std::string& expected, const std::string& got) {
    throw std::invalid_argument("set_words: expected " + expected + ", got " + got);
  };
  const int second = words.ahead > 0 ? 1 : 0;
  if (c.delay(0) > 0 || c.given_slots != second || (second && c.delay(1) > 0))
    refuse("a model whose slot of text has no delay, and a given slot exactly with ahead",
           std::to_string(c.given_slots) + " given slots");
  const auto check = [&](int64_t id) {
    if (id < 0 || id >= c.vocab_size)
      refuse("ids below " + std::to_string(c.vocab_size), std::to_string(id));
  };
  const auto range = [&](const char* what, int64_t value) {
    if (value < 0 || value > 1 << 20)
      refuse(std::string(what) + " of 0 to 1048576", std::to_string(value));
  };
  const auto both = [&](int32_t id) {
    check(id);
    if (second) check(int64_t{id} + words.second_offset);
  };
  for (const Word& word : words.words) {
    for (int32_t id : word.ids) both(id);
    range("a padding", word.padding);
  }
  both(words.new_word), check(words.pad), check(words.none);
  range("ahead", words.ahead), range("max_padding", words.max_padding);
  range("initial_padding", words.initial_padding), range("final_frames", words.final_frames);
  words_ = std::make_unique<Words>(words);
}

void SessionState::check_guidance(const SessionState& unconditional, double scale) const {
  if (&unconditional == this || unconditional.model() != model() || unconditional.guided()) {
    throw std::invalid_argument(
        "set_guidance: expected another session of the same LM that is not guided itself");
  }
  if (!(scale >= 0 && scale <= 100))
    throw std::invalid_argument("set_guidance: expected a scale from 0 to 100, got " +
                                std::to_string(scale));
}

void SessionState::clear() {
  now_ = {};
  words_.reset();
  frame_offset_ = 0;
  cancel_.store(false);
}

void SessionState::add_known(int64_t count) {
  now_.count += count;
  now_.steps += count;
  now_.generated = 0;
  if (now_.steps == now_.count) now_.end = -1;
  now_.finished = false;
}

void SessionState::copy_state(const SessionState& from) {
  now_ = from.now_;
  words_ = from.words_ ? std::make_unique<Words>(*from.words_) : nullptr;
  frame_offset_ = from.frame_offset_;
  guidance_ = from.guidance_;
  guidance_aligned_ = from.guidance_aligned_;
}

std::vector<SessionState::Use> SessionState::begin_generate(
    const std::vector<const SessionState*>& sessions, int64_t count) {
  if (count < 0)
    throw std::invalid_argument("generate: expected 0 or more frames, got " +
                                std::to_string(count));
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (sessions[i]->model() != sessions[0]->model())
      throw std::invalid_argument("generate_batch: expected sessions of one LM, got several");
    for (size_t j = 0; j < i; ++j) {
      if (sessions[j] == sessions[i])
        throw std::invalid_argument("generate_batch: expected distinct sessions, got one twice");
    }
  }
  std::vector<Use> uses;
  uses.reserve(sessions.size());
  for (const SessionState* s : sessions) uses.emplace_back(*s);
  for (const SessionState* s : sessions) s->check_room("generate", count);
  return uses;
}

}  // namespace uniaudio
