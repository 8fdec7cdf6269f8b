// The primitives of kernels: one source for the device and for the CPU emulator.
//
// Kernel phases use nothing but this file. On the device `Block` is the running block, `threads`
// and `warps` run their body once in each thread, and `sync` is the block's barrier. On the host
// the same calls run every thread (warp) in turn, in an order drawn anew each time. A `sync` that
// is missing between two calls does not show there; compute-sanitizer's racecheck finds it. A value
// held by a warp's lanes is a `Lane<T>`: one register on the device, 32 entries on the host.
// Multiplications and additions are never contracted (nvcc --fmad=false), except in `fused`.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

#if defined(__CUDACC__)
#define UA_UNROLL _Pragma("unroll")
#define UA_ROLLED _Pragma("unroll 1")
#else
#define UA_UNROLL
#define UA_ROLLED
#endif
#if defined(__CUDA_ARCH__)
#define UA_DEVICE 1
#endif

namespace uniaudio::cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct alignas(16) Vec4 {
  uint32_t v[4];
};

#ifdef UA_DEVICE
#define UA_LANES(lane) if (const int lane = int(threadIdx.x) & 31; true)
template <class T>
struct Lane {
  T value;
  UA_HD T& operator[](int) { return value; }
  UA_HD const T& operator[](int) const { return value; }
};
#else
#define UA_LANES(lane) for (int lane = 0; lane < 32; ++lane)
template <class T>
struct Lane {
  T value[32];
  T& operator[](int lane) { return value[lane]; }
  const T& operator[](int lane) const { return value[lane]; }
};

// The emulator's record of a run: whether a block's inputs had not arrived, and what went wrong.
struct HostRun {
  uint64_t random = 1;
  // the phase needs data that no block has put yet; it is run again later
  bool blocked = false;
  // the first race or deadlock that a device would have had
  const char* error = nullptr;
  uint32_t draw(uint32_t below) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    return uint32_t((random >> 33) % below);
  }
  void fail(const char* what) {
    if (!error) error = what;
  }
};
#endif

struct Block {
  int index, count;  // this block, all blocks
  char* smem;
#ifndef UA_DEVICE
  HostRun* host;
#endif

  template <class F>
  UA_HD void threads(F body) {
#ifdef UA_DEVICE
    body(int(threadIdx.x));
#else
    // every thread once
    const uint32_t first = host->draw(kThreads), step = 2 * host->draw(kThreads / 2) + 1;
    for (uint32_t i = 0; i < kThreads; ++i) body(int((first + i * step) % kThreads));
#endif
  }
  template <class F>
  UA_HD void warps(F body) {
#ifdef UA_DEVICE
    body(int(threadIdx.x) >> 5);
#else
    const uint32_t first = host->draw(kWarps), step = 2 * host->draw(kWarps / 2) + 1;
    for (uint32_t i = 0; i < kWarps; ++i) body(int((first + i * step) % kWarps));
#endif
  }
  UA_HD void sync() {
#ifdef UA_DEVICE
    __syncthreads();
#endif
  }
};

// --- arithmetic ----------------------------------------------------------------------------------

UA_HD float fused(float a, float b, float c) {
#ifdef UA_DEVICE
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

UA_HD uint32_t bits_of(float x) {
#ifdef UA_DEVICE
  return __float_as_uint(x);
#else
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
#endif
}
UA_HD float float_of(uint32_t u) {
#ifdef UA_DEVICE
  return __uint_as_float(u);
#else
  float x;
  std::memcpy(&x, &u, 4);
  return x;
#endif
}
UA_HD float infinity() { return float_of(0x7F800000u); }

UA_HD uint32_t to_bf16(float x) {  // to nearest even; x is finite
  const uint32_t u = bits_of(x);
  return (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
}
UA_HD float from_bf16(uint32_t x) { return float_of(x << 16); }

UA_HD float square_root(float x) {
#ifdef UA_DEVICE
  return __fsqrt_rn(x);
#else
  return std::sqrt(x);
#endif
}

// exp and erf of cpu/math_body.h, one value at a time: the same bits.
UA_HD float exp_of(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 88.0f ? x : 88.0f;
  const float magic = 12582912.0f;
  const float t = x * 1.44269504088896341f + magic;
  const float n = t - magic;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  return float_of(bits_of(p) + (bits_of(t) << 23));
}

UA_HD float log_of(float x) {
#ifdef UA_DEVICE
  return logf(x);
#else
  return std::log(x);
#endif
}

UA_HD float tanh_of(float x) {
#ifdef UA_DEVICE
  return tanhf(x);
#else
  return std::tanh(x);
#endif
}

UA_HD float gelu_of(float v) {
  float x = v * 0.70710678118654752f;
  x = x > -4.0f ? x : -4.0f;
  x = x < 4.0f ? x : 4.0f;
  const float s = x * x;
  float p = -2.72614225801306e-10f;
  p = p * s + 2.77068142495902e-08f;
  p = p * s + -2.10102402082508e-06f;
  p = p * s + -5.69250639462346e-05f;
  p = p * s + -7.34990630326855e-04f;
  p = p * s + -2.95459980854025e-03f;
  p = p * s + -1.60960333262415e-02f;
  float q = -1.45660718464996e-05f;
  q = q * s + -2.13374055278905e-04f;
  q = q * s + -1.68282697438203e-03f;
  q = q * s + -7.37332916720468e-03f;
  q = q * s + -1.42647390514189e-02f;
  return (0.5f * v) * (1.0f + (x * p) / q);
}

// csrc/cpu/math_body.h's
UA_HD float gelu_tanh_of(float x) {
  const float u = x * (0.79788456080286536f + 0.79788456080286536f * 0.044715f * (x * x));
  return x / (1.0f + exp_of(-2.0f * u));
}
UA_HD float silu_of(float x) { return x / (1.0f + exp_of(0.0f - x)); }

// --- warps ---------------------------------------------------------------------------------------

// Over lanes that differ in the bits of `mask` (1, 2, .. below 32): a butterfly, so every one of
// them gets the same bits.
template <class F>
UA_HD void warp_reduce(Lane<float>& x, int from, int below, F combine) {
#ifdef UA_DEVICE
  for (int bit = from; bit < below; bit *= 2)
    x.value = combine(x.value, __shfl_xor_sync(0xFFFFFFFFu, x.value, bit));
#else
  for (int bit = from; bit < below; bit *= 2) {
    Lane<float> old = x;
    for (int i = 0; i < 32; ++i) x.value[i] = combine(old.value[i], old.value[i ^ bit]);
  }
#endif
}
UA_HD void warp_sum(Lane<float>& x, int from = 1, int below = 32) {
  warp_reduce(x, from, below, [](float a, float b) { return a + b; });
}
UA_HD void warp_max(Lane<float>& x) {
  warp_reduce(x, 1, 32, [](float a, float b) { return a > b ? a : b; });
}

struct Acc4 {
  float v[4];
};
struct AccI4 {
  int32_t v[4];
};

// c [16][8] += a [16][16] b [16][8] of bfloat16. Lane 4 g + t holds row g of a at 2 t, 2 t + 1
// (a.v[at]) and 2 t + 8, 2 t + 9 (a.v[at + 1]), row g + 8 in a8, column g of b at the same places;
// and c[g][2 t], c[g][2 t + 1], c[g + 8][2 t], c[g + 8][2 t + 1].
UA_HD void mma_bf16(Lane<Acc4>& c, const Lane<Vec4>& a, const Lane<Vec4>& a8, const Lane<Vec4>& b,
                    int at) {
#ifdef UA_DEVICE
  float* d = c.value.v;
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.value.v[at]), "r"(a8.value.v[at]), "r"(a.value.v[at + 1]), "r"(a8.value.v[at + 1]),
        "r"(b.value.v[at]), "r"(b.value.v[at + 1]));
#else
  float x[16][16], w[8][16];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < 2; ++h) {
        const int k = 8 * r + 2 * t + h;
        x[g][k] = from_bf16(a.value[lane].v[at + r] >> (16 * h) & 0xFFFFu);
        x[g + 8][k] = from_bf16(a8.value[lane].v[at + r] >> (16 * h) & 0xFFFFu);
        w[g][k] = from_bf16(b.value[lane].v[at + r] >> (16 * h) & 0xFFFFu);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int h = 0; h < 4; ++h) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += x[lane / 4 + h / 2 * 8][k] * w[2 * (lane % 4) + h % 2][k];
      c.value[lane].v[h] += sum;
    }
  }
#endif
}

// The same of int8 over 32 inputs: lane 4 g + t holds four bytes at 4 t and four at 4 t + 16.
// Exact.
UA_HD void mma_int8(Lane<AccI4>& c, const Lane<Vec4>& a, const Lane<Vec4>& a8, const Lane<Vec4>& b,
                    int at) {
#ifdef UA_DEVICE
  int32_t* d = c.value.v;
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a.value.v[at]), "r"(a8.value.v[at]), "r"(a.value.v[at + 1]), "r"(a8.value.v[at + 1]),
        "r"(b.value.v[at]), "r"(b.value.v[at + 1]));
#else
  int32_t x[16][32], w[8][32];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < 4; ++h) {
        const int k = 16 * r + 4 * t + h;
        x[g][k] = int8_t(a.value[lane].v[at + r] >> (8 * h));
        x[g + 8][k] = int8_t(a8.value[lane].v[at + r] >> (8 * h));
        w[g][k] = int8_t(b.value[lane].v[at + r] >> (8 * h));
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int h = 0; h < 4; ++h) {
      for (int k = 0; k < 32; ++k)
        c.value[lane].v[h] += x[lane / 4 + h / 2 * 8][k] * w[2 * (lane % 4) + h % 2][k];
    }
  }
#endif
}

// --- counters in shared or global memory: integers only, so that the order does not matter -------

UA_HD void add_shared(uint32_t* at, uint32_t n) {
#ifdef UA_DEVICE
  atomicAdd(at, n);
#else
  *at += n;
#endif
}
UA_HD void add_shared(uint64_t* at, uint64_t n) {
#ifdef UA_DEVICE
  atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(n));
#else
  *at += n;
#endif
}
UA_HD void or_shared(uint32_t* at, uint32_t bits) {
#ifdef UA_DEVICE
  atomicOr(at, bits);
#else
  *at |= bits;
#endif
}

UA_HD void min_shared(uint32_t* at, uint32_t n) {
#ifdef UA_DEVICE
  atomicMin(at, n);
#else
  if (n < *at) *at = n;
#endif
}

UA_HD void max_shared(uint32_t* at, uint32_t n) {
#ifdef UA_DEVICE
  atomicMax(at, n);
#else
  if (n > *at) *at = n;
#endif
}

// What the lanes below this one hold together.
UA_HD void warp_exclusive(Lane<uint64_t>& x) {
#ifdef UA_DEVICE
  const unsigned long long own = x.value;
  unsigned long long sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long below = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    if ((int(threadIdx.x) & 31) >= step) sum += below;
  }
  x.value = sum - own;
#else
  uint64_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    const uint64_t own = x.value[i];
    x.value[i] = sum;
    sum += own;
  }
#endif
}

}  // namespace uniaudio::cuda
