// Text that is spoken word by word (delayed streams, arXiv 2509.08753). At each step the model says
// whether the next word begins. If so its ids are fed, one a step, and the model waits in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

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

class Words {
 public:
  explicit Words(WordsConfig config);

  const WordsConfig& config() const { return config_; }
  // The id of slot 0 of frame `frame` where `drawn` was drawn. `second`: then that of slot 1.
  int32_t next(int32_t drawn, int64_t frame);
  int32_t second() const { return second_; }
  int64_t end() const { return end_; }  // frames of the sequence; -1: not known yet

 private:
  bool begins(int32_t drawn) const;
  void look_ahead();
  int32_t fed();  // the next id of the word that was begun, or pad

  WordsConfig config_;
  size_t word_ = 0;  // the next one
  std::deque<int32_t> ids_, ahead_;
  int64_t may_pad_, must_pad_, end_ = -1;
  int32_t second_;
};

}  // namespace uniaudio
