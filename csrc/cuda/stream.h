// The ids of a launch's streams: what stands in a slot, what the next step hears and where a stream
// ends, by the rules of csrc/step_rules.h and csrc/words.h. The persistent kernel and the batched
// path share it.
//
// One block decides for a stream, and for the unconditional column that guides it. A stream that has
// ended within a launch is stepped to its end like the others, but nothing of it is kept.
#pragma once

#include "sample.h"
#include "step_rules.h"
#include "words.h"

namespace uniaudio::cuda {

// Where a stream is in a launch; what the host gets back.
struct StreamState {
  Progress now;
  WordState words;
  int32_t error = 0;    // what went wrong first
  int32_t round = 0;    // the batched path's
  bool taken = false;   // the latest step is part of the sequence
  bool closes = false;  // it is the last one of the launch that may be
};

// A stream of a launch, or a position of the one stream that is being prefilled.
struct Column {
  // [layers][kv heads][held][dim padded to 8], float32 or bfloat16; position t lies at t % held
  char *keys, *values;
  int32_t* history;        // [frames][K]
  float* last;             // [D]: embedding of the last step's ids
  const float* rows;       // prefill: inputs [rounds][columns][D] of all columns, this one's first
  const int32_t* aligned;  // [rounds][S] or null
  const int32_t* forced;   // [rounds][K], ids that are taken instead of sampled ones, or null
  float* logits;           // with forced: [rounds][K][logits_stride], those of the head's list
  StreamState* result;
  int64_t held;
  int64_t key_frame;  // added to the frame for random numbers
  Progress now;       // at round 0
  WordRules words;
  WordState word_state;  // at round 0
  bool speaks;           // text word by word
  // Classifier-free guidance takes two columns, and each names the other: `unconditional` is set in
  // the conditional column, which draws the ids of both, `conditional` in the other one. Else -1.
  int32_t unconditional, conditional;
  int32_t logits_stride;
  float guidance;  // with u the unconditional logits, ids are drawn from u + guidance (own - u)
  Sampling sampling;
};

// Of a model.
struct SlotRules {
  Delays delays;
  int32_t codebooks, given, first_local;

  UA_HD bool is_text(int slot) const { return slot <= given; }  // where words are spoken
  UA_HD int next(int slot) const { return slot == 0 ? 1 + given : slot + 1; }
  // Ids before a slot of which the local stack's input at it is made.
  UA_HD int previous(int slot) const { return slot > 0 && slot == first_local ? slot : 1; }
};

UA_HD int64_t step_of(const Column& column, int round) { return column.now.steps + round; }

// Whether ids of the step no longer matter: the sequence ended before it, or in it without delays.
UA_HD bool is_over(const SlotRules& r, const Column& column, const StreamState& s) {
  return s.now.finished || (!r.delays.slots && s.now.end >= 0 && !column.sampling.keep_end);
}

// The id that the slot has whatever is drawn, or -1.
UA_HD int32_t fixed_id(const SlotRules& r, const Column& column, const StreamState& s, int slot) {
  if (is_over(r, column, s)) return 0;
  const int32_t known =
      known_id(r.delays, s.now, slot, column.sampling.keep_end != 0, column.history);
  if (known >= 0) return known;
  if (column.speaks && slot > 0 && r.is_text(slot)) return s.words.second;
  return column.sampling.slots[slot].fixed;
}

// The id that the slot has where this one was drawn; the end is noted. By one thread.
UA_HD int32_t settle(const SlotRules& r, const Column& column, StreamState& s, int slot,
                     int32_t drawn) {
  const Sampling& c = column.sampling;
  const int64_t frame = frame_at(r.delays, s.now.steps, slot);
  int32_t id = final_id(c, slot, drawn);
  if (column.speaks && slot == 0) id = next_id(column.words, s.words, drawn, frame);
  if (ends(c, slot, drawn)) note_end(s.now, frame);
  return c.tie ? drawn : id;
}

// The id that a column hears next of a slot that has `id`, which goes into its history where `keep`.
// `lead`: the conditional column of an unconditional one, which gets no text; else the same column.
UA_HD int32_t hear(const SlotRules& r, const Column& column, const Column& lead, int round,
                   int slot, int32_t id, bool keep) {
  if (column.conditional >= 0 && lead.speaks && r.is_text(slot)) id = lead.words.none;
  Progress now = column.now;
  now.steps = step_of(column, round);
  return take_id(r.delays, now, slot, id, keep, column.history);
}

// The step is over: its ids are in the histories. `other`: of the column that guides it, or null.
// By one thread.
UA_HD void finish_step(const SlotRules& r, const Column& column, StreamState& s, StreamState* other,
                       bool last) {
  const Sampling& c = column.sampling;
  const bool before = s.now.finished;
  const int64_t count = s.now.count;
  s.taken = false;
  if (!before && !s.error) {
    s.taken =
        end_step(s.now, r.delays.most, c.keep_end != 0, column.speaks ? s.words.end : -1,
                 [&](int64_t frame, int64_t generated) {
                   return c.end_frame && generated >= c.min_frames &&
                          has_ids(column.history + frame * r.codebooks, c.end_frame, r.codebooks);
                 });
  }
  s.closes = !before && (s.now.finished || last);
  ++s.round;
  if (!other) return;
  if (s.taken) {
    const int64_t made = s.now.count - count;
    ++other->now.steps;
    other->now.count += made, other->now.generated += made;
  }
  other->taken = s.taken, other->closes = s.closes;
  ++other->round;
}

}  // namespace uniaudio::cuda
