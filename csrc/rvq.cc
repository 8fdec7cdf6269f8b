#include "rvq.h"

#include <cmath>

namespace uniaudio {

namespace {
constexpr int kTile = 24;  // rows whose scores are held at once
}

ResidualVQ::ResidualVQ(const Buffer<float>& codebooks, int num_codebooks, int codebook_size,
                       int dim)
    : num_(num_codebooks),
      size_(codebook_size),
      dim_(dim),
      table_(codebooks.size()),
      scores_(num_codebooks) {
  std::copy(codebooks.data(), codebooks.data() + codebooks.size(), table_.data());
  bool bounded = true;
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
      bounded = bounded && norm < 1e28;
    }
  }
  if (codec_kernels().rvq_search && bounded && dim_ <= kRvqDim) {
    coarse_.resize(num_);
    for (int s = 0; s < num_; ++s) {
      make_coarse(s);
      scores_[s].w = Buffer<float>();  // the search reads the codewords themselves
    }
  }
}

void ResidualVQ::make_coarse(int stage) {
  Coarse& coarse = coarse_[stage];
  const int padded = static_cast<int>(round_up(dim_, 4));
  const size_t count = size_t(scores_[stage].panels()) * kPanel;
  coarse.q.allocate(count * padded);
  std::fill_n(coarse.q.data(), coarse.q.size(), uint8_t{128});
  for (Buffer<float>* b : {&coarse.scale, &coarse.bias, &coarse.norm, &coarse.error, &coarse.slack})
    b->allocate(count);
  for (size_t c = 0; c < count; ++c) {
    if (c >= size_t(size_)) {
      coarse.bias[c] = -INFINITY;
      continue;
    }
    const float* e = codeword(stage, static_cast<int>(c));
    float peak = 0;
    for (int d = 0; d < dim_; ++d) peak = std::max(peak, std::abs(e[d]));
    const float scale = peak / 127.0f;
    double norm = 0, error = 0;
    for (int d = 0; d < dim_; ++d) {
      const double n = scale > 0 ? std::clamp(std::round(double{e[d]} / scale), -127.0, 127.0)
                                 : 0.0,
                   off = e[d] - scale * n;
      coarse.q[(c / kPanel * (padded / 4) + size_t(d) / 4) * 4 * kPanel + c % kPanel * 4 +
               size_t(d) % 4] = static_cast<uint8_t>(128 + static_cast<int>(n));
      norm += double{e[d]} * e[d];
      error += off * off;
    }
    coarse.scale[c] = scale;
    coarse.bias[c] = scores_[stage].bias[c];
    coarse.norm[c] = static_cast<float>(std::sqrt(norm) * 1.0001);
    coarse.error[c] = static_cast<float>(std::sqrt(error) * 1.0001);
    // A chain of dim multiply-adds is off by at most dim rounding errors (6e-8) of its terms' sizes
    // together; some to spare.
    coarse.slack[c] = std::abs(coarse.bias[c]) * static_cast<float>(dim_ + 24) * 6.0e-8f + 1e-30f;
  }
}

void ResidualVQ::encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
                        Buffer<float>& scratch) const {
  const CodecKernels& kernels = codec_kernels();
  const int most = coarse_.empty() ? kTile : kRvqRows;
  const int tile = std::min(most, std::max(1, (rows + pool.threads() - 1) / pool.threads()));
  const int tiles = (rows + tile - 1) / tile;
  const int64_t width = round_up(size_, kPanel);
  scratch.reserve(size_t(std::max(tiles, 1)) * tile * width);
  const auto task = [&](int index) {
    const int first = index * tile, n = std::min(tile, rows - first);
    float* scores = scratch.data() + size_t(first) * width;
    float* residual = z + size_t(first) * dim_;
    for (int s = 0; s < stages; ++s) {
      if (!coarse_.empty()) {
        const Coarse& c = coarse_[s];
        int32_t* best = codes + size_t(first) * stages + s;
        kernels.rvq_search({.x = residual,
                            .codewords = codeword(s, 0),
                            .q = c.q.data(),
                            .scale = c.scale.data(),
                            .bias = c.bias.data(),
                            .norm = c.norm.data(),
                            .error = c.error.data(),
                            .slack = c.slack.data(),
                            .scratch = scores,
                            .best = best,
                            .stride = stages,
                            .rows = n,
                            .dim = dim_,
                            .padded = static_cast<int>(round_up(dim_, 4)),
                            .size = size_,
                            .panels = scores_[s].panels()});
        for (int r = 0; r < n; ++r)
          kernels.subtract(codeword(s, best[r * stages]), residual + size_t(r) * dim_, dim_);
        continue;
      }
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
  constexpr int kMost = 32;
  const float* from[kMost];
  for (int r = 0; r < rows; ++r, z += dim_, codes += stages) {
    for (int s = 0; s < std::min(stages, kMost); ++s) from[s] = codeword(s, codes[s]);
    kernels.sum_rows(from, std::min(stages, kMost), z, dim_);
    for (int s = kMost; s < stages; ++s) kernels.add(codeword(s, codes[s]), z, dim_);
  }
}

}  // namespace uniaudio
