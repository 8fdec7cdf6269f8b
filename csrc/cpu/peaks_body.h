// Loops that do nothing but read or multiply: what the kernels of an ISA can reach at most.
#pragma once

#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// Products of bytes on registers, of each weight with each input: as many side by side as hide their
// latency and stay in registers.
int64_t byte_burn(int64_t steps, float* sink) {
  constexpr int kWeights = kLanes == 16 ? 2 : 1, kInputs = sizeof(G16) > 64 ? 1 : 6, kTurns = 8;
  uint8_t zeros[kWeights * 64 + kTurns * kInputs * 4] = {};
  uint8_t* numbers = zeros;
  in_memory(numbers);  // they could be anything
  const uint8_t* inputs = numbers + kWeights * 64;
  Bytes w[kWeights], high;
  for (int i = 0; i < kWeights; ++i) load_nibbles(numbers + 64 * i, w[i], high);
  G16 sums[kWeights][kInputs];
  UNIAUDIO_UNROLL
  for (int i = 0; i < kWeights; ++i) UNIAUDIO_UNROLL
  for (int j = 0; j < kInputs; ++j) sums[i][j] = start_group(i + j);
  for (int64_t step = 0; step < steps; ++step) {
    UNIAUDIO_UNROLL
    for (int j = 0; j < kInputs; ++j) {
      const SignedQuad x = load_signed_quad(inputs + (step % kTurns * kInputs + j) * 4);
      UNIAUDIO_UNROLL
      for (int i = 0; i < kWeights; ++i) dot_group(sums[i][j], w[i], x);
    }
  }
  Vec total = set(0.0f);
  for (int i = 0; i < kWeights; ++i) {
    for (int j = 0; j < kInputs; ++j) total = total + finish_group(sums[i][j]);
  }
  store(sink, total);
  return steps * kWeights * kInputs * kPanel * 4 * 2;
}

uint32_t read(const void* p, int64_t bytes) {
  const float* from = static_cast<const float*>(p);
  NativeInt s[8] = {};
  for (int64_t i = 0; i < bytes / 4; i += 8 * kLanes) {
    UNIAUDIO_UNROLL
    for (int j = 0; j < 8; ++j) s[j] = s[j] ^ (NativeInt)load_native(from + i + j * kLanes);
  }
  uint32_t all = 0;
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < kLanes; ++i) all ^= uint32_t(s[j][i]);
  }
  return all;
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
