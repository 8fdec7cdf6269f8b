#include "words.h"

namespace uniaudio {

Words::Words(const WordsConfig& c) {
  rules_.words = int32_t(c.words.size()), rules_.new_word = c.new_word, rules_.pad = c.pad;
  rules_.ahead = int32_t(c.ahead), rules_.second_offset = c.second_offset, rules_.none = c.none;
  rules_.max_padding = int32_t(c.max_padding), rules_.final_frames = int32_t(c.final_frames);
  std::vector<int32_t> ends;  // of the words that are no pauses
  for (const Word& word : c.words) {
    ids_.insert(ids_.end(), word.ids.begin(), word.ids.end());
    if (!word.ids.empty()) ends.push_back(int32_t(ids_.size()));
  }
  // What slot 1 has next is all of them from one word on: its queue is a range of `ids`.
  const auto ahead_end = [&](size_t word) {
    return word < ends.size() ? ends[word] : int32_t(ids_.size());
  };
  const auto ahead = size_t(c.ahead);
  size_t spoken = 0;
  int32_t end = 0;
  for (const Word& word : c.words) {
    end += int32_t(word.ids.size());
    places_.push_back({end, ahead_end(spoken + ahead), int32_t(word.padding)});
    spoken += !word.ids.empty();
  }
  if (ahead > 0) state.ahead_at = state.ahead_until = ahead_end(ahead - 1);
  state.may_pad = state.must_pad = int32_t(c.initial_padding);
  state.second = c.none;
}

WordRules Words::rules() const {
  WordRules r = rules_;
  r.ids = ids_.data(), r.places = places_.data();
  return r;
}

}  // namespace uniaudio
