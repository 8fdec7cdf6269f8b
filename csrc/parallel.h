// A pool of threads for loops over output rows. Work is cut into chunks. Each thread starts with
// its own share, so that its weights stay in its own cache, and then takes over chunks that others
// have not begun. A busy core thus costs its fair share and does not stall the loop. Which thread
// computes a chunk never changes the result.
//
// Waiting is a short spin, then sleep. Nothing allocates. Several threads may call `run` on one
// pool: the one that does not get the helpers does its loop alone.
//
// A child of fork() has no helpers: its loops run on the calling thread.
//
// Other programs may use the same cores: a thread that is preempted in the middle of a chunk delays
// all others by a time slice of the operating system. Workers therefore yield their core now and
// then while they hold no chunk. A worker that sees the caller preempted in the middle of a stretch
// (below) gives up its own core to it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace uniaudio {

// The number of this process; 0 on systems without fork().
int this_process();

class ThreadPool {
 public:
  // 1 to 256, the caller included; std::invalid_argument otherwise
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // While one of these lives, its thread comes back with the next loop in microseconds: workers
  // spin longer for it, and help it back on a core.
  class Stretch {
   public:
    explicit Stretch(ThreadPool& pool) : pool_(pool) {
      pool_.stretches_.fetch_add(1, std::memory_order_relaxed);
    }
    ~Stretch() { pool_.stretches_.fetch_sub(1, std::memory_order_relaxed); }
    Stretch(const Stretch&) = delete;

   private:
    ThreadPool& pool_;
  };

  // Calls f(begin, end), or f(begin, end, thread) with thread in [0, threads()), on disjoint pieces
  // that cover [0, n), each of at least `grain` but the last. f must not throw, and must not call
  // `run` of the same pool. Loops of fewer than two grains stay on the calling thread, which is
  // thread 0 of its own loop.
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
  // One thread's share of a loop, and the loop itself: one line of the cache to fetch when it
  // begins. `next` is loop << 32 | next chunk << 16 | end, in one word, so that no chunk of another
  // loop, and none twice, can be taken.
  struct alignas(64) Share {
    std::atomic<uint64_t> next{0};
    std::atomic<Task> task{nullptr};
    std::atomic<void*> context{nullptr};
    std::atomic<int64_t> n{0}, chunk{0};
  };
  // Written by one thread: loop << 32 | chunks of it that this thread has finished.
  struct alignas(64) Done {
    std::atomic<uint64_t> count{0};
  };

  void run_erased(int64_t n, int64_t grain, Task task, void* context);
  void worker(int index);
  void take_part(int index, uint32_t loop);
  bool finished(uint32_t loop, uint32_t chunks) const;

  std::vector<std::thread> workers_;
  int process_ = 0;  // whose threads they are
  std::unique_ptr<Share[]> shares_;
  std::unique_ptr<Done[]> done_;
  // number of the current loop; sleeping workers wait for it to change
  alignas(64) std::atomic<uint32_t> loop_{0};
  std::atomic<uint32_t> sleepers_{0};
  alignas(64) std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  std::atomic<int> stretches_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<uint32_t> caller_wake_{0};
  // Of the thread that called `run` last, for those who help it: its number for the operating
  // system, its clock of processor time and the core that it began the loop on.
  std::atomic<int> caller_id_{0}, caller_clock_{0}, caller_core_{0};
  std::atomic<int64_t> helped_{0};  // when, in nanoseconds of the steady clock
};

}  // namespace uniaudio
