#include "rvq.h"

#include <cmath>

namespace uniaudio {

namespace {
constexpr int kTile = 24;  // rows whose scores are held at once
}

ResidualVQ::ResidualVQ(const Buffer<float>& codebooks, int num_codebooks, int codebook_size, int dim)
    : num_(num_codebooks), size_(codebook_size), dim_(dim), table_(codebooks.size()), scores_(num_codebooks) {
  std::copy(codebooks.data(), codebooks.data() + codebooks.size(), table_.data());
  for (int s = 0; s < num_; ++s) {
    PackedMatrix& m = scores_[s];
    m.allocate(dim_, size_);
    for (int c = 0; c < size_; ++c) {
      const float* e = codeword(s, c);
      double norm = 0;
      for (int d = 0; d < dim_; ++d) {
        m.at(d, c) = e[d];
        norm += double{e[d]} * e[d];
      }
      m.bias[c] = static_cast<float>(-0.5 * norm);
    }
  }
}

void ResidualVQ::encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes, Buffer<float>& scratch) const {
  const CodecKernels& kernels = codec_kernels();
  const int tile = std::min(kTile, std::max(1, (rows + pool.threads() - 1) / pool.threads()));
  const int tiles = (rows + tile - 1) / tile;
  const int64_t width = round_up(size_, kPanel);
  scratch.reserve(size_t(std::max(tiles, 1)) * tile * width);
  const auto task = [&](int index) {
    const int first = index * tile, n = std::min(tile, rows - first);
    float* scores = scratch.data() + size_t(first) * width;
    float* residual = z + size_t(first) * dim_;
    for (int s = 0; s < stages; ++s) {
      Product p;
      p.m = &scores_[s];
      p.a = residual;
      p.lda = dim_;
      p.rows = n;
      p.c = scores;
      p.ldc = width;
      multiply_here(p);
      for (int r = 0; r < n; ++r) {
        const int best = kernels.argmax(scores + r * width, size_);
        codes[size_t(first + r) * stages + s] = best;
        kernels.subtract(codeword(s, best), residual + size_t(r) * dim_, dim_);
      }
    }
  };
  if (tiles <= 1 || int64_t{rows} * stages * size_ * dim_ < 100000) {
    for (int i = 0; i < tiles; ++i) task(i);
  } else {
    run_tasks(pool, tiles, task);
  }
}

void ResidualVQ::encode_plain(float* z, int rows, int stages, int32_t* codes) const {
  for (int r = 0; r < rows; ++r, z += dim_)
    for (int s = 0; s < stages; ++s) {
      int best = 0;
      float best_score = 0;
      for (int c = 0; c < size_; ++c) {
        const float* e = codeword(s, c);
        float score = scores_[s].bias[c];
        for (int d = 0; d < dim_; ++d) score = std::fma(z[d], e[d], score);
        if (c == 0 || score > best_score) best = c, best_score = score;
      }
      codes[size_t(r) * stages + s] = best;
      for (int d = 0; d < dim_; ++d) z[d] = z[d] - codeword(s, best)[d];
    }
}

void ResidualVQ::decode(const int32_t* codes, int rows, int stages, float* z) const {
  const CodecKernels& kernels = codec_kernels();
  for (int r = 0; r < rows; ++r, z += dim_, codes += stages) {
    std::copy_n(codeword(0, codes[0]), dim_, z);
    for (int s = 1; s < stages; ++s) kernels.add(codeword(s, codes[s]), z, dim_);
  }
}

}  // namespace uniaudio
