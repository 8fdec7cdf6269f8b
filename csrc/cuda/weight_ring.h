// The weight ring: each warp reads the weights of a launch as one stream of tiles, copied ahead of
// their use into a ring in shared memory.
//
// A tile is 8 output rows of 64 bytes: 16 inputs in float32, 32 in bfloat16, 64 in int8; lane 4 g +
// t reads bytes 16 t to 16 t + 15 of row g. A matrix lies as [row tiles][k tiles][512 bytes]. A
// block has a contiguous range of row tiles, and each warp a contiguous range of the k tiles of all
// of them, so that a sum has one order whatever the number of blocks is.
//
// Which tiles are needed never depends on activations. Each thread therefore copies its own 16
// bytes of the tiles ahead into a private ring (cp.async; no barrier, since no other thread reads
// them). Copies continue through the exchanges between blocks, so memory stays busy while
// activations travel.
#pragma once

#include "simt.h"

namespace uniaudio::cuda {

constexpr int kTileRows = 8, kTileRowBytes = 64, kTileBytes = kTileRows * kTileRowBytes;

enum class Format : int { float32, bfloat16, int8 };  // of weights
UA_HD int tile_inputs(Format f) {
  return f == Format::float32 ? 16 : f == Format::bfloat16 ? 32 : 64;
}

// One matrix product.
struct Job {
  const unsigned char* tiles;
  int32_t row_tiles, k_tiles;
  const int32_t* list;  // the row tiles that are wanted, or null: all
};

// Where part `index` of `parts` begins in `total`; index x total is below 2^31 for any model (2^17
// row tiles, some hundred blocks).
UA_HD int range_begin(int index, int parts, int total) {
  return int(uint32_t(index) * uint32_t(total) / uint32_t(parts));
}

// A warp's place in its stream.  All its lanes agree.
struct Cursor {
  const Job* jobs;
  int count, rounds, block, blocks, warp;
  int job, row, row_end, left;
  const unsigned char* at;

  UA_HD void start(const Job* all, int jobs_a_round, int how_often, int my_block, int all_blocks,
                   int my_warp) {
    jobs = all, count = jobs_a_round, rounds = jobs_a_round > 0 ? how_often : 0, block = my_block,
    blocks = all_blocks, warp = my_warp;
    job = -1, row = 0, row_end = 0, left = 0, at = nullptr;
  }
  // The next tile, or null at the end.
  UA_HD const unsigned char* next() {
    while (left == 0) {
      if (rounds == 0) return nullptr;
      while (row == row_end) {
        if (++job == count) {
          job = 0;
          if (--rounds == 0) return nullptr;
        }
        row = range_begin(block, blocks, jobs[job].row_tiles);
        row_end = range_begin(block + 1, blocks, jobs[job].row_tiles);
      }
      const Job& j = jobs[job];
      const int begin = range_begin(warp, kWarps, j.k_tiles);
      left = range_begin(warp + 1, kWarps, j.k_tiles) - begin;
      const int r = j.list ? j.list[row] : row;
      at = j.tiles + (size_t(r) * size_t(j.k_tiles) + size_t(begin)) * kTileBytes;
      ++row;
    }
    const unsigned char* tile = at;
    at += kTileBytes;
    --left;
    return tile;
  }
};

// A ring of kDepth slots of kThreads x 16 bytes, at `slots`.
template <int kDepth>
struct WeightRing {
#ifdef UA_DEVICE
  Cursor cursor;
  uint32_t mine;  // the shared address of this thread's part of slot 0
  int head;

  UA_HD void start(char* slots, const Job* jobs, int count, int rounds, int block, int blocks) {
    cursor.start(jobs, count, rounds, block, blocks, int(threadIdx.x) >> 5);
    mine = uint32_t(__cvta_generic_to_shared(slots)) + threadIdx.x * 16;
    head = 0;
    for (int i = 0; i < kDepth - 1; ++i) issue(i);
  }
  UA_HD void issue(int slot) {
    const unsigned char* tile = cursor.next();
    if (tile) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(mine + uint32_t(slot) *
                                                                                (kThreads * 16)),
                   "l"(tile + (threadIdx.x & 31) * 16)
                   : "memory");
    }
    // an empty group past the end: the count below stays right
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  // This lane's bytes of the warp's next tile.
  UA_HD void take(int, Lane<Vec4>& out) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kDepth - 2) : "memory");
    uint32_t* v = out.value.v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(mine + uint32_t(head) * (kThreads * 16))
                 : "memory");
    // the slot that was read before this one: long out of use
    issue(head == 0 ? kDepth - 1 : head - 1);
    head = head + 1 == kDepth ? 0 : head + 1;
  }
#else
  Cursor cursor[kWarps];
  void start(char*, const Job* jobs, int count, int rounds, int block, int blocks) {
    for (int w = 0; w < kWarps; ++w) cursor[w].start(jobs, count, rounds, block, blocks, w);
  }
  void take(int warp, Lane<Vec4>& out) {
    const unsigned char* tile = cursor[warp].next();
    for (int lane = 0; lane < 32; ++lane) {
      if (tile) std::memcpy(out[lane].v, tile + lane * 16, 16);
      if (!tile) std::memset(out[lane].v, 0xFF, 16);  // NaN: the stream ended before its consumer
    }
  }
#endif
};

}  // namespace uniaudio::cuda
