// What stands in the slots of a step, and where a sequence ends: one set of rules for the CPU's
// sessions and for a device's kernels.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace uniaudio {

// Slot k of frame t is predicted at step t + slots[k]; `slots` is null where all are predicted at
// step t.
struct Delays {
  const int32_t* slots;  // [K]
  const int32_t* ids;    // [rows, K]: LmConfig::delay_ids
  int32_t rows, codebooks, most;
};
// The frame whose id a slot has at a step, below 0 before the slot begins.
UA_HD int64_t frame_at(const Delays& d, int64_t step, int slot) {
  return d.slots ? step - d.slots[slot] : step;
}
UA_HD int32_t delay_id(const Delays& d, int64_t step, int slot) {
  const int64_t row = step < d.rows ? step : d.rows - 1;
  return d.ids[row * d.codebooks + slot];
}
// Of the places after a slot's last frame.
UA_HD int32_t after_id(const Delays& d, int slot) { return delay_id(d, INT64_MAX, slot); }

// Where a sequence is.
struct Progress {
  int64_t steps = 0;  // of the global stack; with delays, up to the largest of them beyond count
  int64_t count = 0, generated = 0;  // frames, and those of them since the last prefill
  int64_t end = -1;                  // the frame in which the end came, or -1
  bool finished = false;
};
// Frames that were given.
UA_HD int64_t known_frames(const Progress& p) { return p.count - p.generated; }

// The id that a slot has at the next step because its place lies before what is generated, or -1.
// history: frames [count, K].
UA_HD int32_t past_id(const Delays& d, const Progress& p, int slot, const int32_t* history) {
  const int64_t frame = frame_at(d, p.steps, slot);
  if (frame < 0) return delay_id(d, p.steps, slot);
  return frame < known_frames(p) ? history[frame * d.codebooks + slot] : -1;
}
// The same, and after the end. `keep`: the frame of the end is part of the sequence.
UA_HD int32_t known_id(const Delays& d, const Progress& p, int slot, bool keep,
                       const int32_t* history) {
  if (!d.slots) return -1;
  const int32_t past = past_id(d, p, slot, history);
  if (past >= 0) return past;
  return p.end >= 0 && frame_at(d, p.steps, slot) >= p.end + keep ? after_id(d, slot) : -1;
}
// A step has `id` in a slot: it goes into the history, where `keep`. Returns the id that the next step
// hears, which is the place's own where that was known.
UA_HD int32_t take_id(const Delays& d, const Progress& p, int slot, int32_t id, bool keep,
                      int32_t* history) {
  const int64_t frame = frame_at(d, p.steps, slot);
  if (keep && frame >= known_frames(p)) history[frame * d.codebooks + slot] = id;
  const int32_t past = d.slots ? past_id(d, p, slot, history) : -1;
  return past >= 0 ? past : id;
}

// The end came in this frame. With delays, the slots that are behind go on to it.
UA_HD void note_end(Progress& p, int64_t frame) {
  if (p.end < 0 || frame < p.end) p.end = frame;
}

// The ids [K] of a step whose slots all are known; frames: from frame `first` on.
UA_HD void step_row(const Delays& d, int64_t step, const int32_t* frames, int64_t first,
                    int32_t* row) {
  for (int slot = 0; slot < d.codebooks; ++slot) {
    const int64_t frame = frame_at(d, step, slot);
    row[slot] = frame < 0 ? delay_id(d, step, slot) : frames[(frame - first) * d.codebooks + slot];
  }
}

// Whether a frame [K] has the ids wanted, of which -1 is any.
UA_HD bool has_ids(const int32_t* frame, const int32_t* wanted, int codebooks) {
  for (int k = 0; k < codebooks; ++k) {
    if (wanted[k] >= 0 && frame[k] != wanted[k]) return false;
  }
  return true;
}

// The ids of a step are known, and in the history; a frame is complete `most_delay` steps after its
// first id. ends_frame(frame, generated): whether the frame ends the sequence by all of its ids.
// words_end: frames of a sequence that follows words, or -1. Returns whether the step is part of
// the sequence: without delays, that of an end which is not kept is none.
template <class EndsFrame>
UA_HD bool end_step(Progress& p, int most_delay, bool keep, int64_t words_end,
                    EndsFrame ends_frame) {
  bool taken = true;
  if (p.steps + 1 - most_delay > p.count) {
    if (p.end < 0 && ends_frame(p.count, p.generated)) p.end = p.count;
    if (p.end < 0 || p.count < p.end + keep) {
      ++p.count, ++p.generated;
    } else {
      taken = most_delay > 0;
    }
  }
  if (taken) ++p.steps;
  p.finished = (p.end >= 0 && p.count >= p.end + keep) || (words_end >= 0 && p.count >= words_end);
  return taken;
}

}  // namespace uniaudio
