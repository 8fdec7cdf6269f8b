// Software prefetch of weights.
#pragma once

#include <cstdint>

#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {

// bytes of each panel that are asked for before they are needed
constexpr int64_t kAhead = 2048;

// Where a tile's weights go: they stay in the caches for the next tile of rows, or pass through.
enum class Reuse { keep, stream };

// Software prefetch for P panels that are read side by side: hardware follows that many streams
// badly (int4 from memory: half the speed). Near the end of its panel each stream goes on in the
// panel that is next in its place.
template <int P, Reuse kReuse>
struct Ahead {
  const char* first;  // the first panel
  int64_t panel_bytes;
  UNIAUDIO_MEMBER void line(int64_t offset, int p) const {
    int64_t at = p * panel_bytes + offset + kAhead;
    if (P > 1 && offset + kAhead >= panel_bytes) at += (P - 1) * panel_bytes;
    __builtin_prefetch(first + at, 0, kReuse == Reuse::stream ? 0 : 3);
  }
};

}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
