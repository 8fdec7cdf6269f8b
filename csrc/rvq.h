// Residual vector quantization (SoundStream, arXiv 2107.03312): Euclidean, lowest index on ties.
#pragma once

#include <cstdint>
#include <vector>

#include "codec_ops.h"
#include "weights.h"

namespace uniaudio {

class ResidualVQ {
 public:
  // codebooks [K, C, E]
  ResidualVQ(const Buffer<float>& codebooks, int num_codebooks, int codebook_size, int dim);

  int num_codebooks() const { return num_; }
  int codebook_size() const { return size_; }
  int dim() const { return dim_; }

  // z [rows, dim] -> codes [rows, stages]. Picks the first largest of x.e - e^2 / 2, each score one
  // chain of multiply-adds in the order of the dimensions that starts at -e^2 / 2. z is left as the
  // residual. `scratch` grows as needed. Where the ISA has fast 8-bit products they rule out most
  // codewords first (see codec_vnni.h), which never changes a code.
  void encode(ThreadPool& pool, float* z, int rows, int stages, int32_t* codes,
              Buffer<float>& scratch) const;
  // The same by definition, one score at a time: the tests' reference.
  void encode_plain(float* z, int rows, int stages, int32_t* codes) const;
  // codes [rows, stages] -> z [rows, dim], summed in the order of the stages
  void decode(const int32_t* codes, int rows, int stages, float* z) const;

 private:
  const float* codeword(int stage, int index) const {
    return table_.data() + (size_t(stage) * size_ + index) * dim_;
  }

  int num_, size_, dim_;
  Buffer<float> table_;
  // A codebook in 8 bits with the bounds of its errors; see RvqSearch.
  struct Coarse {
    Buffer<uint8_t> q;
    Buffer<float> scale, bias, norm, error, slack;
  };
  void make_coarse(int stage);

  std::vector<PackedMatrix> scores_;  // per stage: codewords as columns where they are searched as
                                      // floats, bias -e^2 / 2
  std::vector<Coarse> coarse_;        // per stage, or empty
};

}  // namespace uniaudio
