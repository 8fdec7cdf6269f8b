// A pool of threads for loops over output rows.  Work is cut into chunks; each thread starts with its own share (so that its
// weights stay in its own cache) and then takes over chunks that others have not begun, so that a busy neighbour on one core costs
// its fair share and not a stall.  Who computes a chunk never changes what is computed.
//
// Waiting is a short spin, then sleep.  Nothing allocates.  Several threads may call `run` on one pool: the loser of the race for
// the helpers does its loop alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace uniaudio {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // 1 to 256, the caller included; std::invalid_argument otherwise
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // Calls f(begin, end), or f(begin, end, thread) with thread in [0, threads()), on disjoint pieces that cover [0, n), each of at
  // least `grain` but the last.  f must not throw, and must not call `run` of the same pool.  Loops of fewer than two grains stay
  // on the calling thread, which is thread 0 of its own loop.
  template <class F>
  void run(int64_t n, int64_t grain, F&& f) {
    using Plain = std::remove_reference_t<F>;
    const Task task = [](void* g, int64_t b, int64_t e, int thread) {
      if constexpr (std::is_invocable_v<Plain&, int64_t, int64_t, int>) {
        (*static_cast<Plain*>(g))(b, e, thread);
      } else {
        (*static_cast<Plain*>(g))(b, e);
      }
    };
    run_erased(n, grain < 1 ? 1 : grain, task, const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Task = void (*)(void*, int64_t, int64_t, int);
  // Chunks [next, end) of one thread's share.  The upper half of `next` is the loop's number, so that a thread that comes late can't
  // take a chunk of a loop that it has not read.
  struct alignas(64) Share {
    std::atomic<uint64_t> next{0};
    std::atomic<uint32_t> end{0};
  };

  void run_erased(int64_t n, int64_t grain, Task task, void* context);
  void worker(int index);
  void take_part(int index, uint32_t loop);

  std::vector<std::thread> workers_;
  std::unique_ptr<Share[]> shares_;
  alignas(64) std::atomic<uint32_t> loop_{0};  // number of the current loop; workers wait for it to change
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> busy_{false};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> n_{0}, chunk_{0};
  alignas(64) std::atomic<uint32_t> left_{0};  // chunks not finished yet
  std::atomic<bool> caller_sleeps_{false};
};

}  // namespace uniaudio
