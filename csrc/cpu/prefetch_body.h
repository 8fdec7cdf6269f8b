// Software prefetch of weights.
#pragma once

#include <cstdint>

#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

// bytes of each panel that are asked for before they are needed
constexpr int64_t kAhead = 2048;

// Where the weights of a tile go: they stay in the caches for the next tile of rows, or pass through.
// `share`: several tiles read the same panels, which only the first would wait for; each asks for its
// part of the panels that follow.
enum class Reuse { keep, stream, share };

// Which of the tiles that read the same panels one is.
struct Turn {
  int64_t tile = 0, tiles = 1;
};

// Software prefetch for P panels that are read side by side: hardware follows that many streams
// badly (int4 from memory: half the speed). Near the end of its panel each stream goes on in the
// panel that is next in its place.
template <int P, Reuse kReuse>
struct Ahead {
  const char* first;  // the first panel; `share`: this tile's part of those that follow
  int64_t panel_bytes;
  int64_t step;  // `share`: bytes for each line that is read of a panel
  UNIAUDIO_MEMBER Ahead(const void* panels, int64_t bytes, Turn turn)
      : first(static_cast<const char*>(panels)), panel_bytes(bytes), step(0) {
    if constexpr (kReuse == Reuse::share) {
      step = (64 * P + turn.tiles - 1) / turn.tiles;
      first += P * bytes + P * bytes * turn.tile / turn.tiles;
    }
  }
  UNIAUDIO_MEMBER void line(int64_t offset, int p) const {
    if constexpr (kReuse == Reuse::share) {
      // into the second-level cache: the first has room for the panels in use only
      if (p == 0) __builtin_prefetch(first + offset / 64 * step, 0, 2);
    } else {
      int64_t at = p * panel_bytes + offset + kAhead;
      if (P > 1 && offset + kAhead >= panel_bytes) at += (P - 1) * panel_bytes;
      __builtin_prefetch(first + at, 0, kReuse == Reuse::stream ? 0 : 3);
    }
  }
};

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
