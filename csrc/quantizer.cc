#include "quantizer.h"

#include <cmath>

#include "rvq.h"

namespace uniaudio {

namespace {

class PlainQuantizer final : public Quantizer {
 public:
  PlainQuantizer(const CodecConfig& c, const Buffer<float>& codebooks)
      : vq_(codebooks, c.num_codebooks, c.codebook_size, c.codebook_dim) {}
  void encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
              Scratch& scratch) const override {
    vq_.encode(pool, z, rows, stages, codes, scratch.scores);
  }
  void decode(ThreadPool&, const int32_t* codes, int rows, int stages, float* z,
              Scratch&) const override {
    vq_.decode(codes, rows, stages, z);
  }

 private:
  ResidualVQ vq_;
};

class SplitQuantizer final : public Quantizer {
 public:
  SplitQuantizer(const CodecConfig& c, const LayerSource& source, const Buffer<float>& codebooks)
      : latent_(c.quantizer->latent_dim), dim_(c.codebook_dim) {
    const int first = c.quantizer->semantic_codebooks;
    int begin = 0;
    for (Part& part : parts_) {
      const std::string name = begin == 0 ? "quantizer.semantic" : "quantizer.acoustic";
      const Buffer<float> in = source.get(name + ".input.weight", {dim_, latent_}),
                          out = source.get(name + ".output.weight", {latent_, dim_});
      const int end = begin == 0 ? first : c.num_codebooks;
      if (source.weights) {
        const size_t size = size_t(c.codebook_size) * dim_;
        Buffer<float> books(size * (end - begin));
        std::copy_n(codebooks.data() + size * begin, books.size(), books.data());
        part.input = PackedMatrix::linear(in, Buffer<float>(dim_), dim_, latent_);
        part.output = PackedMatrix::linear(out, Buffer<float>(latent_), latent_, dim_);
        part.vq = std::make_unique<ResidualVQ>(books, end - begin, c.codebook_size, dim_);
      }
      part.begin = begin;
      part.end = end;
      begin = end;
    }
  }
  void encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
              Scratch& scratch) const override {
    scratch.projected.reserve(size_t(rows) * dim_);
    float* x = scratch.projected.data();
    for (const Part& part : parts_) {
      const int count = std::min(stages, part.end) - part.begin;
      if (count <= 0) break;
      multiply(pool, {.m = &part.input, .a = z, .lda = latent_, .rows = rows, .c = x, .ldc = dim_});
      scratch.codes.resize(size_t(rows) * count);
      part.vq->encode(pool, x, rows, count, scratch.codes.data(), scratch.scores);
      for (int r = 0; r < rows; ++r)
        std::copy_n(scratch.codes.data() + size_t(r) * count, count,
                    codes + size_t(r) * stages + part.begin);
    }
  }
  void decode(ThreadPool& pool, const int32_t* codes, int rows, int stages, float* z,
              Scratch& scratch) const override {
    scratch.projected.reserve(size_t(rows) * dim_);
    float* x = scratch.projected.data();
    for (const Part& part : parts_) {
      const int count = std::min(stages, part.end) - part.begin;
      if (count <= 0) break;
      scratch.codes.resize(size_t(rows) * count);
      for (int r = 0; r < rows; ++r)
        std::copy_n(codes + size_t(r) * stages + part.begin, count,
                    scratch.codes.data() + size_t(r) * count);
      part.vq->decode(scratch.codes.data(), rows, count, x);
      multiply(pool, {.m = &part.output,
                      .a = x,
                      .lda = dim_,
                      .rows = rows,
                      .c = z,
                      .ldc = latent_,
                      .add = part.begin > 0});
    }
  }

 private:
  struct Part {
    PackedMatrix input, output;
    std::unique_ptr<ResidualVQ> vq;
    int begin = 0, end = 0;  // codebooks
  };

  int latent_, dim_;
  Part parts_[2];
};

class FactorisedQuantizer final : public Quantizer {
 public:
  FactorisedQuantizer(const CodecConfig& c, const LayerSource& source,
                      const Buffer<float>& codebooks)
      : latent_(c.quantizer->latent_dim),
        width_(c.quantizer->rvq_dim),
        dim_(c.codebook_dim),
        size_(c.codebook_size),
        table_(codebooks.size()),
        stages_(c.num_codebooks) {
    const int k = c.num_codebooks;
    const auto linear = [&](const std::string& name, int n, int inputs) {
      const Buffer<float> weight = source.get(name + ".weight", {n, inputs}),
                          bias = source.get(name + ".bias", {n});
      return source.weights ? PackedMatrix::linear(weight, bias, n, inputs) : PackedMatrix();
    };
    input_ = linear("quantizer.input", width_, latent_);
    output_ = linear("quantizer.output", latent_, width_);
    const std::string stages = "quantizer.stages";
    const Buffer<float> in = source.get(stages + ".input.weight", {k, dim_, width_}),
                        in_bias = source.get(stages + ".input.bias", {k, dim_}),
                        out = source.get(stages + ".output.weight", {k, width_, dim_}),
                        out_bias = source.get(stages + ".output.bias", {k, width_});
    if (!source.weights) return;
    std::copy_n(codebooks.data(), codebooks.size(), table_.data());
    for (int s = 0; s < k; ++s) {
      Stage& stage = stages_[s];
      stage.input.allocate(width_, dim_);
      stage.output.allocate(dim_, width_);
      stage.scores.allocate(dim_, size_);
      for (int d = 0; d < dim_; ++d) {
        stage.input.bias[d] = in_bias[size_t(s) * dim_ + d];
        for (int i = 0; i < width_; ++i) {
          stage.input.at(i, d) = in[(size_t(s) * dim_ + d) * width_ + i];
          stage.output.at(d, i) = out[(size_t(s) * width_ + i) * dim_ + d];
        }
      }
      for (int i = 0; i < width_; ++i) stage.output.bias[i] = out_bias[size_t(s) * width_ + i];
      for (int e = 0; e < size_; ++e) {
        double norm = 0;
        for (int d = 0; d < dim_; ++d) norm += double{codeword(s, e)[d]} * codeword(s, e)[d];
        const double scale = 1.0 / std::max(std::sqrt(norm), 1e-12);
        for (int d = 0; d < dim_; ++d)
          stage.scores.at(d, e) = static_cast<float>(codeword(s, e)[d] * scale);
      }
    }
  }
  void encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
              Scratch& scratch) const override {
    const int64_t wide = round_up(size_, kPanel), narrow = round_up(dim_, kPanel);
    scratch.rows.reserve(size_t(rows) * (2 * width_ + narrow));
    scratch.scores.reserve(size_t(rows) * wide);
    float* residual = scratch.rows.data();
    multiply(pool,
             {.m = &input_, .a = z, .lda = latent_, .rows = rows, .c = residual, .ldc = width_});
    split(pool, rows, int64_t{stages} * dim_ * (size_ + 2 * width_), [&](int64_t a, int64_t b) {
      const CodecKernels& kernels = codec_kernels();
      const int n = static_cast<int>(b - a);
      float *x = residual + a * width_, *y = residual + (rows + a) * width_,
            *e = residual + int64_t{2} * rows * width_ + a * narrow,
            *scores = scratch.scores.data() + a * wide;
      for (int s = 0; s < stages; ++s) {
        const Stage& stage = stages_[s];
        multiply_here({.m = &stage.input, .a = x, .lda = width_, .rows = n, .c = e, .ldc = narrow});
        // The projection's own length scales all of a row's cosines alike.
        multiply_here(
            {.m = &stage.scores, .a = e, .lda = narrow, .rows = n, .c = scores, .ldc = wide});
        for (int r = 0; r < n; ++r) {
          const int best = kernels.argmax(scores + r * wide, size_);
          codes[size_t(a + r) * stages + s] = best;
          std::copy_n(codeword(s, best), dim_, e + r * narrow);
        }
        multiply_here(
            {.m = &stage.output, .a = e, .lda = narrow, .rows = n, .c = y, .ldc = width_});
        kernels.subtract(y, x, size_t(n) * width_);
      }
    });
  }
  void decode(ThreadPool& pool, const int32_t* codes, int rows, int stages, float* z,
              Scratch& scratch) const override {
    scratch.rows.reserve(size_t(rows) * (width_ + dim_));
    float *sum = scratch.rows.data(), *e = sum + size_t(rows) * width_;
    for (int s = 0; s < stages; ++s) {
      for (int r = 0; r < rows; ++r)
        std::copy_n(codeword(s, codes[size_t(r) * stages + s]), dim_, e + size_t(r) * dim_);
      Product p{
          .m = &stages_[s].output, .a = e, .lda = dim_, .rows = rows, .c = sum, .ldc = width_};
      if (s > 0) {  // a product adds either its bias or to what is there
        for (int r = 0; r < rows; ++r)
          codec_kernels().add(p.m->bias.data(), sum + size_t(r) * width_, size_t(width_));
        p.add = true;
      }
      multiply(pool, p);
    }
    multiply(pool, {.m = &output_, .a = sum, .lda = width_, .rows = rows, .c = z, .ldc = latent_});
  }

 private:
  struct Stage {
    PackedMatrix input, output, scores;  // scores: codewords of length one as columns
  };
  const float* codeword(int stage, int index) const {
    return table_.data() + (size_t(stage) * size_ + index) * dim_;
  }

  int latent_, width_, dim_, size_;
  Buffer<float> table_;
  PackedMatrix input_, output_;
  std::vector<Stage> stages_;
};

}  // namespace

std::unique_ptr<Quantizer> make_quantizer(const CodecConfig& config, const LayerSource& source) {
  const Buffer<float> codebooks = source.get(
      "quantizer.codebooks", {config.num_codebooks, config.codebook_size, config.codebook_dim});
  std::unique_ptr<Quantizer> made;
  if (!config.quantizer) {
    if (source.weights) made = std::make_unique<PlainQuantizer>(config, codebooks);
  } else if (config.quantizer->factorised) {
    made = std::make_unique<FactorisedQuantizer>(config, source, codebooks);
  } else {
    made = std::make_unique<SplitQuantizer>(config, source, codebooks);
  }
  return source.weights ? std::move(made) : nullptr;
}

}  // namespace uniaudio
