// Small random language models, as csrc/ reads them, and the same on a device.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/lm.h"

namespace models {

using namespace uniaudio;

inline StackConfig stack(int layers, int width, int heads, int mlp) {
  StackConfig s;
  s.layers = layers, s.width = width, s.heads = heads, s.kv_heads = heads, s.mlp_width = mlp;
  return s;
}

inline LmConfig base() {
  LmConfig c;
  c.vocab_size = 53, c.num_codebooks = 3;
  c.global = stack(2, 24, 3, 40);
  c.local = stack(2, 20, 2, 36);
  c.start_id = 2, c.local_start_id = 3, c.max_frames = 400;
  return c;
}

// Everything that the reference checkpoint of UniAudio has.
inline LmConfig reference() {
  LmConfig c = base();
  for (StackConfig* s : {&c.global, &c.local}) {
    s->rmsnorm = s->rope = false, s->activation = Activation::gelu;
    s->q_bias = s->v_bias = s->o_bias = s->mlp_bias = true;
  }
  c.concat = c.add = true;
  return c;
}

inline LmConfig grouped() {
  LmConfig c = base();
  c.global = stack(2, 96, 4, 72), c.global.kv_heads = 2;
  c.local = stack(3, 64, 4, 50), c.local.kv_heads = 1, c.local.rope = false;
  c.aligned_slots = 2, c.aligned_vocab = 7;
  c.vocab_size = 300;
  return c;
}

// What models of other projects have: normalised queries and keys, heads of their own width, gelu
// by tanh, rope frequencies, no final norm, one table of embeddings that is the head too.
inline LmConfig others() {
  LmConfig c = grouped();
  c.aligned_slots = c.aligned_vocab = 0;
  c.global.head_width = 28, c.global.rope_frequencies.assign(14, 0.1);
  c.local.head_width = 12, c.local.rope = true;
  c.local.final_norm = false;
  c.local.width = c.global.width, c.tied_local = c.tied_head = true;
  for (StackConfig* s : {&c.global, &c.local})
    s->qk_norm = true, s->activation = Activation::gelu_tanh;
  return c;
}

// The projections of the local stack are others at each slot, and so is the map to it.
inline LmConfig slotted() {
  LmConfig c = base();
  c.slot_weights = c.add = c.project = true, c.num_codebooks = 5;
  c.local.v_bias = c.local.mlp_bias = true;
  return c;
}

// Slot 0 is predicted from the global stack, and the local stack has rows for some ids only.
inline LmConfig headed() {
  LmConfig c = base();
  c.global_head_start = 6, c.global_head_size = 30;
  c.local_table_start = 3, c.local_table_size = 45;
  return c;
}

// The same in a model whose slot 0 does not pass through the local stack.
inline LmConfig depth() {
  LmConfig c = slotted();
  c.global_head_start = 2, c.global_head_size = 51;
  c.local_table_start = 11, c.local_table_size = 42;
  c.local.rope = false;
  return c;
}

// Windows in both stacks: the cache of a long sequence is a ring that goes round.
inline LmConfig windowed() {
  LmConfig c = grouped();
  c.global.window = 20, c.local.window = 2;
  return c;
}

// Slots with delays.
inline LmConfig delayed() {
  LmConfig c = base();
  c.delays = {0, 1, 3}, c.delay_ids = {5, 6, 7, 5, 6, 8};
  return c;
}

// Two slots whose ids are given.
inline LmConfig given() {
  LmConfig c = depth();
  c.given_slots = 2;
  return c;
}

// A configuration, and the words that its sequences speak.
struct Kind {
  LmConfig config;
  std::optional<WordsConfig> words = {};
};

inline WordsConfig words(int64_t ahead) {
  WordsConfig w;
  for (int i = 0; i < 150; ++i) {
    Word word;
    for (int j = 0; j < i % 4; ++j) word.ids.push_back(13 + (i + j) % 6);
    word.padding = i % 4 > 0 ? i % 3 : 4;
    w.words.push_back(std::move(word));
  }
  w.new_word = 11, w.pad = 12, w.ahead = ahead, w.second_offset = 20, w.max_padding = 5;
  w.final_frames = 3;
  return w;
}

// Text that is spoken word by word.
inline Kind spoken() {
  LmConfig c = depth();
  c.global_head_start = 6, c.global_head_size = 14;
  return {c, words(0)};
}

// All that Kyutai's TTS has: a given slot with the text that is to come, delays, a window.
inline Kind spoken_ahead() {
  LmConfig c = spoken().config;
  c.given_slots = 1, c.global.window = 20;
  c.delays = {0, 0, 2, 3, 3}, c.delay_ids = {12, 0, 0, 0, 0};
  return {c, words(2)};
}

inline std::vector<Kind> all() {
  return {{base()},  {reference()}, {grouped()}, {others()}, {slotted()}, {headed()},
          {depth()}, {windowed()},  {delayed()}, {given()},  spoken(),    spoken_ahead()};
}

// Its weights, kept alive beside the views.
struct Model {
  LmConfig config;
  std::optional<WordsConfig> words;
  std::vector<std::vector<float>> data;
  Weights weights;

  Model(const LmConfig& c, uint64_t seed) : Model(Kind{c}, seed) {}
  Model(const Kind& kind, uint64_t seed) : config(kind.config), words(kind.words) {
    const LmConfig& c = config;
    check::Random random(seed);
    for (const TensorSpec& s : lm_tensors(c)) {
      size_t n = 1;
      for (int64_t i : s.shape) n *= size_t(i);
      std::vector<float> x = random.normals(n);
      const bool embedding = s.name.find("embed") != std::string::npos ||
                             s.name.find("positions") != std::string::npos ||
                             s.name.find("guide") != std::string::npos;
      const float scale = s.shape.size() == 1 ? 0.2f
                          : embedding         ? 0.5f
                                              : 1.5f / std::sqrt(float(s.shape[1]));
      const bool one = s.shape.size() == 1 && s.name.find("norm") != std::string::npos &&
                       s.name.find("weight") != std::string::npos;
      for (float& f : x) f = f * scale + (one ? 1.0f : 0.0f);
      data.push_back(std::move(x));
      weights.add(s.name, {StoredType::float32, s.shape, data.back().data()});
    }
  }
  // A session's words, and the ids of given slots where there are none.
  template <class S>
  void start(S& session) const {
    if (words) session.set_words(*words);
  }
  SamplingConfig fitted(SamplingConfig s) const {
    if (words || config.given_slots == 0) return s;
    if (s.forced.empty()) s.forced.assign(size_t(config.num_codebooks), -1);
    for (int slot = 1; slot <= config.given_slots; ++slot) s.forced[size_t(slot)] = 12 + slot;
    return s;
  }
  std::vector<int32_t> frames(int64_t count, uint64_t seed) const {
    check::Random random(seed);
    std::vector<int32_t> ids(size_t(count * config.num_codebooks));
    for (int32_t& i : ids) i = random.below(config.vocab_size);
    return ids;
  }
  std::vector<int32_t> aligned(int64_t count, uint64_t seed) const {
    check::Random random(seed);
    std::vector<int32_t> ids(size_t(count * config.aligned_slots));
    for (int32_t& i : ids) i = random.below(config.aligned_vocab + 1) - 1;
    return ids;
  }
};

inline double relative(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isinf(b[i]) && a[i] == b[i]) continue;  // of an id that is never drawn
    error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]), size += double(b[i]) * b[i];
  }
  return std::sqrt(error / size);  // NaN stays NaN
}

}  // namespace models
