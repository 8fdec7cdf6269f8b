// Text that is spoken word by word (delayed streams, arXiv 2509.08753). At each step the model says
// whether the next word begins. If so its ids are fed, one a step, and the model waits in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "host_device.h"

namespace uniaudio {

struct Word {
  std::vector<int32_t> ids;  // of slot 0; none: a pause
  int64_t padding = 0;       // steps after its beginning in which no other one may begin
};

struct WordsConfig {
  std::vector<Word> words;
  int32_t new_word = 0, pad = 0;  // ids of slot 0: the next word begins; nothing does
  // Above 0, slot 1 has the ids of the word that is so many later, `second_offset` further on, and
  // `none` while there is none.
  int64_t ahead = 0;
  int32_t second_offset = 0, none = 0;
  int64_t max_padding = 6, initial_padding = 2;  // steps without a new word in a row; at first
  int64_t final_frames = 0;                      // after the step that asks for a word too many
};

// The words for a step, on the host or a device.
struct WordPlace {
  int32_t end, ahead_end;  // in `ids`: of the word, and of the one that slot 1 has while it is fed
  int32_t padding;
};
struct WordRules {
  const int32_t* ids;  // of all words, one after the other
  const WordPlace* places;
  int32_t words, new_word, pad, ahead, second_offset, none, max_padding, final_frames;
};
struct WordState {
  int32_t word = 0;                       // the next one
  int32_t at = 0, until = 0;              // ids of the word that was begun and are not fed yet
  int32_t ahead_at = 0, ahead_until = 0;  // the same of slot 1
  int32_t may_pad = 0, must_pad = 0;
  int32_t second = 0;  // the id of slot 1
  int64_t end = -1;    // frames of the sequence; -1: not known yet
};

// The id of slot 0 of frame `frame` where `drawn` was drawn; w.second becomes that of slot 1.
UA_HD int32_t next_id(const WordRules& r, WordState& w, int32_t drawn, int64_t frame) {
  // whether this step says that a word begins
  bool marked = w.at == w.until && w.must_pad == 0 && (w.may_pad == 0 || drawn == r.new_word);
  if (marked && w.word < r.words) {
    const WordPlace& place = r.places[w.word++];
    marked = place.end > w.at;
    if (marked) w.until = place.end, w.ahead_until = place.ahead_end, w.may_pad = r.max_padding;
    w.must_pad = place.padding;
  } else if (marked) {
    marked = r.ahead > 0 && w.end < 0;
    if (w.end < 0) w.end = frame + r.final_frames;
  }
  if (!marked) {
    if (w.may_pad > 0) --w.may_pad;
    if (w.must_pad > 0) --w.must_pad;
  }
  w.second = r.none;
  if (r.ahead == 0) {
    if (marked) return r.new_word;
  } else if (marked) {
    w.second = r.new_word + r.second_offset;
  } else if (w.ahead_at < w.ahead_until) {
    w.second = r.ids[w.ahead_at++] + r.second_offset;
  }
  return w.at < w.until ? r.ids[w.at++] : r.pad;
}

class Words {
 public:
  explicit Words(const WordsConfig& config);

  WordRules rules() const;
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::vector<WordPlace>& places() const { return places_; }
  WordState state;

 private:
  WordRules rules_{};  // but its pointers
  std::vector<int32_t> ids_;
  std::vector<WordPlace> places_;
};

}  // namespace uniaudio
