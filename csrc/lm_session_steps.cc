// What is known of a session's next step: places of slots with delays, and words.
#include <stdexcept>

#include "lm_session.h"

namespace uniaudio {

void LmSession::known_row(int64_t step, int32_t* row) const {
  const LmConfig& c = lm_->config();
  for (int slot = 0; slot < c.num_codebooks; ++slot) {
    const int64_t frame = step - c.delay(slot);
    row[slot] =
        frame < 0 ? c.delay_id(step, slot) : history_[size_t(frame * c.num_codebooks + slot)];
  }
}

int32_t LmSession::known_id(int slot, bool keep) const {
  const LmConfig& c = lm_->config();
  const int64_t frame = frame_of(slot);
  if (frame < 0) return c.delay_id(steps_, slot);
  if (frame < known()) return history_[size_t(frame * c.num_codebooks + slot)];
  return end_ >= 0 && frame >= end_ + keep ? c.after_id(slot) : -1;
}

void LmSession::take_step(const int32_t* ids) {
  const int64_t k = lm_->config().num_codebooks;
  for (int slot = 0; slot < k; ++slot) {
    if (const int64_t frame = frame_of(slot); frame >= known())
      history_[size_t(frame * k + slot)] = ids[slot];
  }
  int32_t row[64];
  known_row(steps_++, row);
  embed_last(row);
}

void LmSession::set_words(const WordsConfig& words) {
  const LmConfig& c = lm_->config();
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
  const Use use(*this);
  words_ = std::make_unique<Words>(words);
}

}  // namespace uniaudio
