// How a model is laid over a device: blocks, columns, shared memory.  No device code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config.h"
#include "params.h"

namespace uniaudio::cuda {

// What a plan has to know of a device.
struct DeviceLimits {
  int blocks = 132;               // that can be there at once, one on each multiprocessor
  int shared_bytes = 227 * 1024;  // of a block
};

// A matrix in tiles, as far as planning goes.
struct TileShape {
  int row_tiles, k_tiles;
};

struct StackShape {
  TileShape qkv, o, up, down;
};

TileShape tile_shape(int64_t out, int64_t in, Format format);
TileShape gated_shape(int64_t out, int64_t in, Format format);  // four gates and four rows a tile
StackShape stack_shape(const StackConfig& config, Format format);

// Places in shared memory and their sum, for so many columns and rows of the head (a slot's list in
// row tiles).
struct SharedLayout {
  int x, local_x, operand, flat, parts, scale, codes, ring, bytes;
};

struct Formats {
  Format global, local, head;
};

struct Plan {
  int blocks = 0;
  int most_columns = 0;  // beside the shallowest ring
  double balance = 0;    // the mean block's weight bytes over the busiest one's
};

// of the ring: what the kernels are compiled for; with several columns the second only
constexpr int kDepths[] = {32, 8};

// std::invalid_argument, in one line, when this device can't hold even one column.
Plan make_plan(const LmConfig& config, const Formats& formats, const DeviceLimits& limits);
SharedLayout shared_layout(const LmConfig& config, const Formats& formats, int blocks, int columns,
                           int head_tiles, int depth);
// The deepest ring that fits; 0: none does.
int ring_depth(const LmConfig& config, const Formats& formats, const DeviceLimits& limits,
               int blocks, int columns, int head_tiles);
// Weight bytes of one frame, by block: what balance is made of.
std::vector<int64_t> block_bytes(const LmConfig& config, const Formats& formats, int blocks);

}  // namespace uniaudio::cuda
