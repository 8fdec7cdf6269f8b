#include "words.h"

#include <utility>

namespace uniaudio {

Words::Words(WordsConfig config)
    : config_(std::move(config)),
      may_pad_(config_.initial_padding),
      must_pad_(config_.initial_padding),
      second_(config_.none) {}

bool Words::begins(int32_t drawn) const {
  if (!ids_.empty() || must_pad_ > 0) return false;
  return may_pad_ <= 0 || drawn == config_.new_word;
}

void Words::look_ahead() {
  int64_t left = config_.ahead;
  for (size_t i = word_; i < config_.words.size(); ++i) {
    const std::vector<int32_t>& ids = config_.words[i].ids;
    if (ids.empty() || --left > 0) continue;
    for (int32_t id : ids) ahead_.push_back(id + config_.second_offset);
    return;
  }
}

int32_t Words::fed() {
  if (ids_.empty()) return config_.pad;
  const int32_t id = ids_.front();
  ids_.pop_front();
  return id;
}

int32_t Words::next(int32_t drawn, int64_t frame) {
  bool marked = begins(drawn);  // this step says that a word begins
  if (marked && word_ < config_.words.size()) {
    const Word& word = config_.words[word_++];
    marked = !word.ids.empty();
    if (marked) {
      ids_.assign(word.ids.begin(), word.ids.end());
      if (config_.ahead > 0) look_ahead();
      may_pad_ = config_.max_padding;
    }
    must_pad_ = word.padding;
  } else if (marked) {
    marked = config_.ahead > 0 && end_ < 0;
    if (end_ < 0) end_ = frame + config_.final_frames;
  }
  if (!marked) {
    if (may_pad_ > 0) --may_pad_;
    if (must_pad_ > 0) --must_pad_;
  }
  second_ = config_.none;
  if (config_.ahead == 0) return marked ? config_.new_word : fed();
  if (marked) {
    second_ = config_.new_word + config_.second_offset;
  } else if (!ahead_.empty()) {
    second_ = ahead_.front();
    ahead_.pop_front();
  }
  return fed();
}

}  // namespace uniaudio
