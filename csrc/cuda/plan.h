// How a model is laid out on a device: blocks, columns, shared memory. No device code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"
#include "params.h"

namespace uniaudio::cuda {

// The limits of a device that a plan has to keep.
struct DeviceLimits {
  int blocks = 132;               // resident at once, one on each multiprocessor
  int shared_bytes = 227 * 1024;  // per block
};

// The shape of a matrix in tiles.
struct TileShape {
  int row_tiles, k_tiles;
};

struct StackShape {
  TileShape qkv, o, up, down;
};

TileShape tile_shape(int64_t out, int64_t in, Format format);
TileShape gated_shape(int64_t out, int64_t in, Format format);  // four gates and four rows per tile
StackShape stack_shape(const StackConfig& config, Format format);

// Places in shared memory, and its size.
struct SharedLayout {
  int x, local_x, operand, flat, parts, scale, codes, ring, bytes;
};

struct Formats {
  Format global, local, head;
};

struct Plan {
  int blocks = 0;
  int most_columns = 0;  // that fit next to the shallowest ring
  double balance = 0;    // the mean block's weight bytes over the busiest one's
};

// Ring depths that kernels are compiled for; with several columns only the second.
constexpr int kDepths[] = {32, 8};

// std::invalid_argument, in one line, when this device can't hold even one column.
Plan make_plan(const LmConfig& config, const Formats& formats, const DeviceLimits& limits);
SharedLayout shared_layout(const LmConfig& config, const Formats& formats, int blocks, int columns,
                           int head_tiles, int depth);
// The deepest ring that fits, or 0. head_tiles: row tiles of the longest slot list.
int ring_depth(const LmConfig& config, const Formats& formats, const DeviceLimits& limits,
               int blocks, int columns, int head_tiles);
// Weight bytes of one frame, by block.
std::vector<int64_t> block_bytes(const LmConfig& config, const Formats& formats, int blocks);

}  // namespace uniaudio::cuda
