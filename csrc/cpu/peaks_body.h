// Loops that do nothing but read or multiply: what the kernels of an ISA can reach at most.
#pragma once

#include "cpu/vec.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// Products of bytes on registers, enough of them side by side to hide their latency: every one of
// kBurn weights with every one of kBurn inputs.
int64_t byte_burn(int64_t steps, float* sink) {
  constexpr int kBurn = kLanes == 16 ? 4 : 2, kInputs = 16;
  uint8_t zeros[kBurn * 64 + kInputs * 4] = {};
  uint8_t* numbers = zeros;
  in_memory(numbers);  // they could be anything
  Bytes w[kBurn], high;
  for (int i = 0; i < kBurn; ++i) load_nibbles(numbers + 64 * i, w[i], high);
  G16 sums[kBurn][kBurn];
  UNIAUDIO_UNROLL
  for (int i = 0; i < kBurn; ++i) UNIAUDIO_UNROLL
  for (int j = 0; j < kBurn; ++j) sums[i][j] = start_group(i + j);
  for (int64_t step = 0; step < steps; ++step) {
    UNIAUDIO_UNROLL
    for (int j = 0; j < kBurn; ++j) {
      const SignedQuad x = load_signed_quad(numbers + (step * kBurn + j) % kInputs * 4);
      UNIAUDIO_UNROLL
      for (int i = 0; i < kBurn; ++i) dot_group(sums[i][j], w[i], x);
    }
  }
  Vec total = set(0.0f);
  for (int i = 0; i < kBurn; ++i) {
    for (int j = 0; j < kBurn; ++j) total = total + finish_group(sums[i][j]);
  }
  store(sink, total);
  return steps * kBurn * kBurn * kPanel * 4 * 2;
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
