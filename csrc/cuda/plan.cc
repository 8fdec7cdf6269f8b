#include "plan.h"

#include <algorithm>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

// One multiprocessor takes in at most about one kShare-th of the memory bandwidth. With fewer
// blocks than that, memory is not the limit.
constexpr int64_t kShare = 96;

int tiles_of(int block, int blocks, int row_tiles) {
  return range_begin(block + 1, blocks, row_tiles) - range_begin(block, blocks, row_tiles);
}
int most_tiles(int blocks, int row_tiles) { return (row_tiles + blocks - 1) / blocks; }

struct Repeated {
  TileShape shape;
  int times;
};

std::vector<Repeated> frame_jobs(const LmConfig& c, const Formats& f) {
  std::vector<Repeated> jobs;
  const auto stack = [&](const StackConfig& s, Format format, int times) {
    const StackShape shape = stack_shape(s, format);
    for (const TileShape& t : {shape.qkv, shape.o, shape.up, shape.down})
      jobs.push_back({t, s.layers * times});
  };
  stack(c.global, f.global, 1);
  stack(c.local, f.local, c.local_slots());
  jobs.push_back({tile_shape(c.local.width, c.bridge_in(), f.head), c.bridge_rows()});
  // A slot typically emits one codebook's ids: the K-th part of the vocabulary.
  const int first = c.global_head_size > 0 ? 1 : 0;
  if (first) jobs.push_back({tile_shape(c.global_head_size, c.global.width, f.head), 1});
  if (c.num_codebooks > first)
    jobs.push_back(
        {tile_shape(std::max(1, c.local_rows() / c.num_codebooks), c.local.width, f.head),
         c.num_codebooks - first});
  return jobs;
}

int round16(int n) { return (n + 15) / 16 * 16; }

}  // namespace

TileShape tile_shape(int64_t out, int64_t in, Format format) {
  return {int((out + kTileRows - 1) / kTileRows),
          int((in + tile_inputs(format) - 1) / tile_inputs(format))};
}
TileShape gated_shape(int64_t out, int64_t in, Format format) {
  return tile_shape((out + 3) / 4 * kTileRows, in, format);
}

StackShape stack_shape(const StackConfig& c, Format format) {
  const int64_t query = c.query_width(), kv = c.key_width();
  return {tile_shape(query + 2 * kv, c.width, format), tile_shape(c.width, query, format),
          c.gated() ? gated_shape(c.mlp_width, c.width, format)
                    : tile_shape(c.mlp_width, c.width, format),
          tile_shape(c.width, c.mlp_width, format)};
}

std::vector<int64_t> block_bytes(const LmConfig& c, const Formats& f, int blocks) {
  std::vector<int64_t> bytes(size_t(blocks), 0);
  for (const Repeated& j : frame_jobs(c, f)) {
    for (int b = 0; b < blocks; ++b)
      bytes[size_t(b)] +=
          int64_t(tiles_of(b, blocks, j.shape.row_tiles)) * j.shape.k_tiles * j.times * kTileBytes;
  }
  return bytes;
}

SharedLayout shared_layout(const LmConfig& c, const Formats& f, int blocks, int columns,
                           int head_tiles, int depth) {
  const StackShape g = stack_shape(c.global, f.global), l = stack_shape(c.local, f.local);
  const TileShape bridge = tile_shape(c.local.width, c.bridge_in(), f.head),
                  head = tile_shape(8, c.local.width, f.head);
  int operand = 0, tiles = 0;
  const auto use = [&](const TileShape& t, Format format, int row_tiles) {
    operand = std::max(operand, operand_bytes(format, t.k_tiles, columns));
    tiles = std::max(tiles, most_tiles(blocks, row_tiles));
  };
  for (const TileShape& t : {g.qkv, g.o, g.up, g.down}) use(t, f.global, t.row_tiles);
  for (const TileShape& t : {l.qkv, l.o, l.up, l.down}) use(t, f.local, t.row_tiles);
  use(bridge, f.head, bridge.row_tiles);
  use(head, f.head, head_tiles);
  if (c.global_head_size > 0) use(tile_shape(8, c.global.width, f.head), f.head, head_tiles);
  const int padded_head = padded_dim(c.global.head_dim()),
            group = c.global.heads / c.global.kv_heads;
  const int local_qkv = even(c.local.query_width() + 2 * c.local.key_width());
  operand = std::max({operand,
                      4 * (2 * columns * (group + 2) * padded_head + kGroups * (padded_head + 4)),
                      4 * columns * local_qkv,
                      kSampleBytes + (c.vocab_size + 31) / 32 * 4 + head_tiles * kTileRows * 4});
  const int flat = columns * std::max(c.global.query_width(), c.local.query_width());

  SharedLayout s{};
  int at = 0;
  const auto place = [&](int bytes) {
    const int here = at;
    at += round16(bytes);
    return here;
  };
  s.x = place(columns * c.global.width * 4);
  s.local_x = place(columns * c.local.width * 4);
  s.scale = place(3 * kMaxColumns * 4);
  s.codes = place(columns * (2 * c.num_codebooks * 4 + int(sizeof(StreamState))));
  const int padded = columns > 1 ? kMaxColumns : 1;
  s.parts = place(tiles * kWarps * padded * kTileRows * 4);
  s.operand = place(operand);
  s.flat = place(flat * 4);
  at = (at + 127) / 128 * 128;
  s.ring = place(depth * kThreads * 16);
  s.bytes = at;
  return s;
}

int ring_depth(const LmConfig& c, const Formats& f, const DeviceLimits& limits, int blocks,
               int columns, int head_tiles) {
  for (int depth : kDepths) {
    if (columns > 1 && depth != kDepths[1]) continue;
    if (shared_layout(c, f, blocks, columns, head_tiles, depth).bytes <= limits.shared_bytes)
      return depth;
  }
  return 0;
}

Plan make_plan(const LmConfig& c, const Formats& f, const DeviceLimits& limits) {
  for (const StackConfig* s : {&c.global, &c.local}) {
    if (s->head_dim() > kMaxHeadDim) {
      throw std::invalid_argument("cuda: expected heads of at most " + std::to_string(kMaxHeadDim) +
                                  " dimensions, got " + std::to_string(s->head_dim()) +
                                  "; use device cpu");
    }
  }
  // Every block has a row tile of what follows each gather: exchange buffers rely on it
  // (persistent_frames.h).
  const int most = std::min({limits.blocks, (c.global.width + kTileRows - 1) / kTileRows,
                             (c.local.width + kTileRows - 1) / kTileRows});
  Plan plan;
  int64_t best = INT64_MAX;
  for (int blocks = 1; blocks <= most; ++blocks) {
    const std::vector<int64_t> bytes = block_bytes(c, f, blocks);
    int64_t total = 0, busiest = 0;
    for (int64_t b : bytes) total += b, busiest = std::max(busiest, b);
    const int64_t time = std::max(total, busiest * kShare);
    if (time > best || (time == best && plan.blocks > 0)) continue;
    best = time;
    plan.blocks = blocks;
    plan.balance = double(total) / double(blocks) / double(busiest);
  }
  const int head_tiles =
      tile_shape(std::max(c.local_rows(), c.global_head_size), c.local.width, f.head).row_tiles;
  for (int columns = 1; columns <= kMaxColumns; ++columns) {
    if (ring_depth(c, f, limits, plan.blocks, columns, head_tiles)) plan.most_columns = columns;
  }
  if (plan.most_columns == 0) {
    const int need = shared_layout(c, f, plan.blocks, 1, head_tiles, kDepths[1]).bytes;
    throw std::invalid_argument("cuda: this model needs " + std::to_string(need) +
                                " bytes of shared memory per block, the device has " +
                                std::to_string(limits.shared_bytes) + "; use device cpu");
  }
  return plan;
}

}  // namespace uniaudio::cuda
