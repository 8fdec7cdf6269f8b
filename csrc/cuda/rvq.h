// Residual vector quantization: all stages in one kernel, the residuals stay in shared memory. The
// very rule of csrc/rvq.cc (first largest of x.e - e^2 / 2, each score one chain of fused
// multiply-adds over the dimensions that begins at -e^2 / 2), so codes are equal to the CPU's.
//
// A block takes kRvqRows rows through all stages; a thread scores two codewords for all its rows at
// a time, so each codeword is loaded once for eight rows, and the rows are read as broadcasts.
// Codebooks lie transposed, [K][E][C], for loads side by side.
#pragma once

#include "simt.h"

namespace uniaudio::cuda {

constexpr int kRvqRows = 8;

struct RvqBooks {
  const float* table;       // [K][C][E]
  const float* transposed;  // [K][E][C]
  const float* bias;        // [K][C]: -e^2 / 2
  int codebooks, size, dim;
};

struct RvqEncode {
  RvqBooks books;
  float* z;        // [rows][dim], becomes the residual
  int32_t* codes;  // [rows][stages]
  int rows, stages;
};

struct RvqScratch {
  float score[kWarps][kRvqRows];
  int32_t index[kWarps][kRvqRows];
  int32_t best[kRvqRows];
};
inline size_t rvq_smem(int dim) {
  return sizeof(RvqScratch) + size_t(dim) * kRvqRows * sizeof(float);
}

// The better of two candidates: the larger score, the lower index among equals.
UA_HD bool rvq_better(float score, int32_t index, float than, int32_t than_index) {
  return score > than || (score == than && index < than_index);
}

UA_HD void rvq_encode(Block& block, const RvqEncode& p) {
  RvqScratch& s = *reinterpret_cast<RvqScratch*>(block.smem);
  float* const x = reinterpret_cast<float*>(block.smem + sizeof(RvqScratch));  // [dim][kRvqRows]
  const int dim = p.books.dim, size = p.books.size;
  const int first = block.index * kRvqRows,
            rows = p.rows - first < kRvqRows ? p.rows - first : kRvqRows;
  block.threads([&](int tid) {
    for (int i = tid; i < dim * kRvqRows; i += kThreads)
      x[i] = i % kRvqRows < rows ? p.z[size_t(first + i % kRvqRows) * dim + i / kRvqRows] : 0.0f;
  });
  block.sync();
  for (int stage = 0; stage < p.stages; ++stage) {
    const float* const book = p.books.transposed + size_t(stage) * dim * size;
    const float* const bias = p.books.bias + size_t(stage) * size;
    block.warps([&](int warp) {
      Lane<float> score[kRvqRows];
      Lane<int32_t> index[kRvqRows];
      UA_UNROLL
      for (int r = 0; r < kRvqRows; ++r)
        UA_LANES (lane) score[r][lane] = -infinity(), index[r][lane] = 0x7FFFFFFF;
      UA_ROLLED
      for (int c0 = warp * 32; c0 < size; c0 += 2 * kThreads) {
        UA_LANES (lane) {
          const int c = c0 + lane, c2 = c + kThreads;
          const int a = c < size ? c : size - 1, b = c2 < size ? c2 : size - 1;
          float sa[kRvqRows], sb[kRvqRows];
          UA_UNROLL
          for (int r = 0; r < kRvqRows; ++r) sa[r] = bias[a], sb[r] = bias[b];
          for (int d = 0; d < dim; ++d) {
            const float ea = book[size_t(d) * size + a], eb = book[size_t(d) * size + b];
            UA_UNROLL
            for (int r = 0; r < kRvqRows; ++r) {
              const float v = x[d * kRvqRows + r];
              sa[r] = fused(v, ea, sa[r]), sb[r] = fused(v, eb, sb[r]);
            }
          }
          UA_UNROLL
          for (int r = 0; r < kRvqRows; ++r) {
            if (c < size && rvq_better(sa[r], c, score[r][lane], index[r][lane]))
              score[r][lane] = sa[r], index[r][lane] = c;
            if (c2 < size && rvq_better(sb[r], c2, score[r][lane], index[r][lane]))
              score[r][lane] = sb[r], index[r][lane] = c2;
          }
        }
      }
      UA_UNROLL
      for (int r = 0; r < kRvqRows; ++r) {
        for (int bit = 1; bit < 32; bit *= 2) {
          const Lane<float> s0 = score[r];
          const Lane<int32_t> i0 = index[r];
          UA_LANES (lane) {
#ifdef UA_DEVICE
            const float other = __shfl_xor_sync(0xFFFFFFFFu, s0.value, bit);
            const int32_t other_index = __shfl_xor_sync(0xFFFFFFFFu, i0.value, bit);
#else
            const float other = s0[lane ^ bit];
            const int32_t other_index = i0[lane ^ bit];
#endif
            if (rvq_better(other, other_index, s0[lane], i0[lane]))
              score[r][lane] = other, index[r][lane] = other_index;
          }
        }
        UA_LANES (lane) {
          if (lane == 0) s.score[warp][r] = score[r][lane], s.index[warp][r] = index[r][lane];
        }
      }
    });
    block.sync();
    block.threads([&](int tid) {
      if (tid >= rows) return;
      float score = s.score[0][tid];
      int32_t best = s.index[0][tid];
      for (int w = 1; w < kWarps; ++w) {
        if (rvq_better(s.score[w][tid], s.index[w][tid], score, best))
          score = s.score[w][tid], best = s.index[w][tid];
      }
      if (best == 0x7FFFFFFF) best = 0;  // scores that are not numbers: the CPU keeps the first
      s.best[tid] = best;
      p.codes[size_t(first + tid) * p.stages + stage] = best;
    });
    block.sync();
    const float* const table = p.books.table + size_t(stage) * size * dim;
    block.threads([&](int tid) {
      for (int i = tid; i < dim * kRvqRows; i += kThreads) {
        if (i % kRvqRows < rows)
          x[i] = x[i] - table[size_t(s.best[i % kRvqRows]) * dim + i / kRvqRows];
      }
    });
    block.sync();
  }
  block.threads([&](int tid) {
    for (int i = tid; i < dim * kRvqRows; i += kThreads) {
      if (i % kRvqRows < rows) p.z[size_t(first + i % kRvqRows) * dim + i / kRvqRows] = x[i];
    }
  });
}

struct RvqDecode {
  RvqBooks books;
  const int32_t* codes;  // [rows][stages]
  float* z;              // [rows][dim], or channel-major [dim][rows]
  int rows, stages;
  bool channel_major;
};

constexpr int kRvqDecodeRows = 32;  // of a block; channel-major stores are that long

// Sums in the order of the stages.
UA_HD void rvq_decode(Block& block, const RvqDecode& p) {
  const int dim = p.books.dim, size = p.books.size, first = block.index * kRvqDecodeRows;
  const int rows = p.rows - first < kRvqDecodeRows ? p.rows - first : kRvqDecodeRows;
  float* const sums = reinterpret_cast<float*>(block.smem);  // [rows][dim + 1]
  block.threads([&](int tid) {
    for (int i = tid; i < rows * dim; i += kThreads) {
      const int r = i / dim, d = i % dim;
      const int32_t* codes = p.codes + size_t(first + r) * p.stages;
      float sum = p.books.table[size_t(codes[0]) * dim + d];
      for (int s = 1; s < p.stages; ++s)
        sum += p.books.table[(size_t(s) * size + size_t(codes[s])) * dim + d];
      sums[r * (dim + 1) + d] = sum;
    }
  });
  block.sync();
  block.threads([&](int tid) {
    for (int i = tid; i < rows * dim; i += kThreads) {
      if (p.channel_major) {
        p.z[size_t(i / rows) * p.rows + first + i % rows] = sums[i % rows * (dim + 1) + i / rows];
      } else {
        p.z[size_t(first + i / dim) * dim + i % dim] = sums[i / dim * (dim + 1) + i % dim];
      }
    }
  });
}
inline size_t rvq_decode_smem(int dim) {
  return size_t(kRvqDecodeRows) * (dim + 1) * sizeof(float);
}

}  // namespace uniaudio::cuda
