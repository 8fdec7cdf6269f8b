// Exchanges: data from all blocks to all blocks without a barrier. Each float travels with the
// number of its exchange (the epoch) in one 8-byte store. Readers poll the very words that they
// want, so arrival and data cost one trip to the second-level cache.
//
// One buffer serves every use of an exchange. Between two uses lies another exchange in which every
// block takes part, so no block can be a whole use behind (persistent_frames.h says which). The
// emulator, which runs blocks in random order, fails where that does not hold.
#pragma once

#include "simt.h"

namespace uniaudio::cuda {

using Word = unsigned long long;  // epoch << 32 | the float's bits

UA_HD void put(Word* to, float value, uint32_t epoch) {
  const Word word = Word(epoch) << 32 | bits_of(value);
#ifdef UA_DEVICE
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
#else
  *to = word;
#endif
}

// Two neighbours; `from` lies at a multiple of 16 bytes. Each half says by itself whether it has
// come.
struct Pair {
  Word a, b;
};
UA_HD Pair peek_pair(const Word* from) {
#ifdef UA_DEVICE
  Pair p;
  asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(p.a), "=l"(p.b)
               : "l"(from)
               : "memory");
  return p;
#else
  return {from[0], from[1]};
#endif
}
UA_HD Word peek(const Word* from) {
#ifdef UA_DEVICE
  Word w;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(w) : "l"(from) : "memory");
  return w;
#else
  return *from;
#endif
}
UA_HD bool arrived(Word w, uint32_t epoch) { return uint32_t(w >> 32) == epoch; }
UA_HD float value_of(Word w) { return float_of(uint32_t(w)); }

// A wait that never ends would hold the device for ever: after seconds the kernel gives up, and the
// launch is an error.
struct Patience {
  uint32_t polls = 0;
  UA_HD void more() {
#ifdef UA_DEVICE
    if (++polls > (1u << 24)) __trap();
#endif
  }
};

#ifndef UA_DEVICE
// On the host nothing waits: the phase stops and is run again. An epoch later than the expected one
// has overwritten data that this block had not read yet.
inline bool host_ready(HostRun* host, Word w, uint32_t epoch) {
  if (arrived(w, epoch)) return true;
  if (int32_t(uint32_t(w >> 32) - epoch) > 0)
    host->fail("an exchange was overwritten before every block had read it");
  host->blocked = true;
  return false;
}
#endif

// Waits for from [columns][stride] of epoch `epoch` and gives its first n of each column to
// sink(column, i, value), in any order and from any thread. stride is even. False (on the host
// only): not all there, and nothing given.
template <class F>
UA_HD bool gather(Block& block, const Word* from, int columns, int n, int stride, uint32_t epoch,
                  F sink) {
#ifdef UA_DEVICE
  constexpr int kTogether = 4;  // loads in flight in each thread
  const int pairs = columns * stride / 2, per_column = stride / 2;
  for (int i = int(threadIdx.x); i < pairs; i += kThreads * kTogether) {
    Pair p[kTogether];
    bool again = true;
    for (Patience patience; again; patience.more()) {
      again = false;
      UA_UNROLL
      for (int u = 0; u < kTogether; ++u) {
        if (i + u * kThreads < pairs) p[u] = peek_pair(from + 2 * (i + u * kThreads));
      }
      UA_UNROLL
      for (int u = 0; u < kTogether; ++u) {
        const int at = i + u * kThreads;
        if (at >= pairs) continue;
        const int e = 2 * (at % per_column);
        again =
            again || (e < n && !arrived(p[u].a, epoch)) || (e + 1 < n && !arrived(p[u].b, epoch));
      }
    }
    UA_UNROLL
    for (int u = 0; u < kTogether; ++u) {
      const int at = i + u * kThreads;
      if (at >= pairs) continue;
      const int c = at / per_column, e = 2 * (at % per_column);
      if (e < n) sink(c, e, value_of(p[u].a));
      if (e + 1 < n) sink(c, e + 1, value_of(p[u].b));
    }
  }
  return true;
#else
  for (int c = 0; c < columns; ++c) {
    for (int i = 0; i < n; ++i) {
      if (!host_ready(block.host, from[c * stride + i], epoch)) return false;
    }
  }
  block.threads([&](int tid) {
    for (int i = tid; i < columns * n; i += kThreads)
      sink(i / n, i % n, value_of(from[i / n * stride + i % n]));
  });
  return true;
#endif
}

}  // namespace uniaudio::cuda
