#include "parallel.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

namespace uniaudio {
namespace {

constexpr auto kSpin = std::chrono::microseconds(40);
constexpr int kChunksPerThread = 4;  // what a slowed thread leaves can be taken over in quarters

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `waiting()` for at most kSpin; returns whether it is still waiting.
template <class F>
bool spin(F&& waiting) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 32; ++i) {
      if (!waiting()) return false;
      pause();
    }
  } while (std::chrono::steady_clock::now() - start < kSpin);
  return waiting();
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > 256) throw std::invalid_argument("threads: expected 1 to 256, got " + std::to_string(threads));
  shares_ = std::make_unique<Share[]>(size_t(threads));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  loop_.fetch_add(1);
  loop_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::run_erased(int64_t n, int64_t grain, Task task, void* context) {
  if (n <= 0) return;
  const int64_t pieces = n / grain;
  if (workers_.empty() || pieces < 2 || busy_.exchange(true, std::memory_order_acquire)) {
    task(context, 0, n, 0);
    return;
  }
  const int count = threads();
  const int64_t wanted = std::min<int64_t>(pieces, int64_t(count) * kChunksPerThread);
  const int64_t chunk = (n + wanted - 1) / wanted;
  const uint32_t chunks = uint32_t((n + chunk - 1) / chunk);
  const uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
  task_.store(task, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  n_.store(n, std::memory_order_relaxed);
  chunk_.store(chunk, std::memory_order_relaxed);
  left_.store(chunks, std::memory_order_relaxed);
  for (int i = 0; i < count; ++i) {
    shares_[i].end.store(uint32_t(uint64_t(chunks) * uint64_t(i + 1) / uint64_t(count)), std::memory_order_relaxed);
    shares_[i].next.store(uint64_t(loop) << 32 | uint64_t(chunks) * uint64_t(i) / uint64_t(count), std::memory_order_release);
  }
  loop_.store(loop);  // sequentially consistent with sleepers_: either we see the sleeper or it sees the new loop
  if (sleepers_.load() != 0) loop_.notify_all();
  take_part(0, loop);
  if (spin([this] { return left_.load(std::memory_order_acquire) != 0; })) {
    caller_sleeps_.store(true);
    for (uint32_t left = left_.load(); left != 0; left = left_.load()) left_.wait(left);
    caller_sleeps_.store(false);
  }
  busy_.store(false, std::memory_order_release);
}

void ThreadPool::take_part(int index, uint32_t loop) {
  const int count = threads();
  for (int turn = 0; turn < count; ++turn) {
    Share& share = shares_[(index + turn) % count];
    for (;;) {
      uint64_t next = share.next.load(std::memory_order_acquire);
      if (uint32_t(next >> 32) != loop) return;  // that loop is over
      // These belong to `loop` if the exchange below succeeds: they change only after every chunk of it is done.
      const uint32_t end = share.end.load(std::memory_order_relaxed);
      const Task task = task_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const int64_t n = n_.load(std::memory_order_relaxed), chunk = chunk_.load(std::memory_order_relaxed);
      const uint32_t index_in_loop = uint32_t(next);
      if (index_in_loop >= end) break;
      if (!share.next.compare_exchange_strong(next, next + 1, std::memory_order_acq_rel)) continue;
      const int64_t begin = int64_t(index_in_loop) * chunk;
      task(context, begin, std::min(n, begin + chunk), index);
      // A caller that sleeps set its flag before it read left_, so whoever ends last sees the flag or it sees the zero.
      if (left_.fetch_sub(1) == 1 && caller_sleeps_.load()) left_.notify_all();
    }
  }
}

void ThreadPool::worker(int index) {
  uint32_t seen = 0;
  for (;;) {
    if (spin([&] { return loop_.load(std::memory_order_acquire) == seen; })) {
      sleepers_.fetch_add(1);
      loop_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return;
    seen = loop_.load(std::memory_order_acquire);
    take_part(index, seen);
  }
}

}  // namespace uniaudio
