#include "parallel.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#endif

namespace uniaudio {

int this_process() {
#if defined(__unix__) || defined(__APPLE__)
  return int(getpid());
#else
  return 0;
#endif
}

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr auto kSpin = microseconds(40);
// in a stretch: who sleeps may wake up on the caller's own core
constexpr auto kStretchSpin = microseconds(2000);
// a caller that let this time pass may be off its core,
constexpr auto kSuspicion = microseconds(50);
// and is, when its processor time stands still for this one
constexpr auto kProof = microseconds(25);
// below the time slices of Linux (from 1.4 ms with two cores)
constexpr auto kOffer = microseconds(2000);
constexpr auto kHelpEvery = microseconds(1000);
constexpr int kChunksPerThread = 4;  // what a slowed thread leaves can be taken over in quarters

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins while `waiting()` for at most `limit`; returns whether it is still waiting. `look(time so
// far)` is called now and then; true ends the wait.
template <class F, class G>
bool spin(Clock::duration limit, F&& waiting, G&& look) {
  const auto start = Clock::now();
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (!waiting()) return false;
      pause();
    }
    const auto passed = Clock::now() - start;
    if (passed >= limit || look(passed)) return waiting();
  }
}

#if defined(__linux__)
// Whether a worker of any pool is moving threads between cores. Alone, because another one would
// read the single core that a thread is on for a moment as all that it may run on, and leave it so.
std::atomic<bool> moving{false};

struct Identity {
  int id, clock;
};
Identity identity() {
  static thread_local const Identity mine = [] {
    clockid_t clock = 0;
    const bool ok = pthread_getcpuclockid(pthread_self(), &clock) == 0;
    return Identity{ok ? int(syscall(SYS_gettid)) : 0, int(clock)};
  }();
  return mine;
}

// Nanoseconds that a thread has been on a core, or -1.
int64_t processor_time(int clock) {
  timespec t;
  return clock_gettime(clockid_t(clock), &t) == 0 ? int64_t(t.tv_sec) * 1000000000 + t.tv_nsec : -1;
}

// Puts thread `id` (0: this one), which may run on the cores `all`, on `core` now, if it may go
// there.
bool move_to(int id, const cpu_set_t& all, int core) {
  cpu_set_t one;
  if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &all)) return false;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return sched_setaffinity(id, sizeof one, &one) == 0 &&
         sched_setaffinity(id, sizeof all, &all) == 0;
}

// Gives our core to a thread that waits for its own one, and takes that; when both are the same
// one, goes elsewhere. The sets of cores on which both may run stay as they were. Returns the core
// that the other one has then.
int swap_cores(int id, int its_core) {
  cpu_set_t its, ours;
  int core = sched_getcpu();
  if (core < 0 || sched_getaffinity(id, sizeof its, &its) != 0 ||
      sched_getaffinity(0, sizeof ours, &ours) != 0)
    return its_core;
  if (core != its_core) {
    if (!move_to(id, its, core)) return its_core;
    move_to(0, ours, its_core);
    return core;
  }
  do core = (core + 1) % CPU_SETSIZE;
  while (!CPU_ISSET(core, &ours));
  if (core != its_core) move_to(0, ours, core);
  return its_core;
}
#endif

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > 256)
    throw std::invalid_argument("threads: expected 1 to 256, got " + std::to_string(threads));
  shares_ = std::make_unique<Share[]>(size_t(threads));
  done_ = std::make_unique<Done[]>(size_t(threads));
  process_ = this_process();
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  if (process_ != this_process()) {  // a child of fork(): there is nobody to wait for
    for (std::thread& t : workers_) t.detach();
    return;
  }
  stop_.store(true);
  const uint32_t loop = loop_.load() + 1;
  for (int i = 0; i < threads(); ++i) shares_[i].next.store(uint64_t(loop) << 32);
  loop_.store(loop);
  loop_.notify_all();
  for (std::thread& t : workers_) t.join();
}

bool ThreadPool::finished(uint32_t loop, uint32_t chunks) const {
  uint32_t done = 0;
  for (int i = 0; i < threads(); ++i) {
    const uint64_t count = done_[i].count.load();
    if (uint32_t(count >> 32) == loop) done += uint32_t(count);
  }
  return done == chunks;
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
#if defined(__linux__)
  const Identity me = identity();
  caller_core_.store(sched_getcpu(), std::memory_order_relaxed);
  if (caller_id_.load(std::memory_order_relaxed) != me.id) {
    caller_id_.store(me.id, std::memory_order_relaxed);
    caller_clock_.store(me.clock, std::memory_order_relaxed);
  }
#endif
  for (int i = count - 1; i >= 0; --i) {
    Share& share = shares_[i];
    share.task.store(task, std::memory_order_relaxed);
    share.context.store(context, std::memory_order_relaxed);
    share.n.store(n, std::memory_order_relaxed);
    share.chunk.store(chunk, std::memory_order_relaxed);
    const uint64_t begin = uint64_t(chunks) * uint64_t(i) / uint64_t(count),
                   end = uint64_t(chunks) * uint64_t(i + 1) / uint64_t(count);
    share.next.store(uint64_t(loop) << 32 | begin << 16 | end, std::memory_order_release);
  }
  // sequentially consistent with sleepers_: either we see the sleeper or it sees the new loop
  loop_.store(loop);
  if (sleepers_.load() != 0) loop_.notify_all();
  take_part(0, loop);
  if (spin(kSpin, [&] { return !finished(loop, chunks); }, [](Clock::duration) { return false; })) {
    caller_sleeps_.store(true);
    for (;;) {
      const uint32_t wake = caller_wake_.load();
      if (finished(loop, chunks)) break;
      caller_wake_.wait(wake);
    }
    caller_sleeps_.store(false);
  }
  busy_.store(false, std::memory_order_release);
}

void ThreadPool::take_part(int index, uint32_t loop) {
  const int count = threads();
  uint32_t done = 0;
  for (int turn = 0; turn < count; ++turn) {
    Share& share = shares_[(index + turn) % count];
    for (;;) {
      uint64_t next = share.next.load(std::memory_order_acquire);
      if (uint32_t(next >> 32) != loop) break;
      const int64_t begin = int64_t(next >> 16 & 0xFFFF), end = int64_t(next & 0xFFFF);
      if (begin >= end) break;
      // These are this loop's if the exchange below succeeds: they change only after every chunk of
      // it was taken.
      const Task task = share.task.load(std::memory_order_relaxed);
      void* const context = share.context.load(std::memory_order_relaxed);
      const int64_t n = share.n.load(std::memory_order_relaxed),
                    chunk = share.chunk.load(std::memory_order_relaxed);
      if (!share.next.compare_exchange_strong(next, next + 0x10000, std::memory_order_acq_rel))
        continue;
      task(context, begin * chunk, std::min(n, (begin + 1) * chunk), index);
      ++done;
    }
  }
  if (done == 0) return;
  // A caller that sleeps set its flag before it counted, so either it sees our chunks or we see the
  // flag.
  done_[index].count.exchange(uint64_t(loop) << 32 | done);
  if (index != 0 && caller_sleeps_.load()) {
    caller_wake_.fetch_add(1);
    caller_wake_.notify_all();
  }
}

void ThreadPool::worker(int index) {
  uint32_t seen = 0;
  auto offered = Clock::now();
  for (;;) {
    const auto waiting = [&] {
      return uint32_t(shares_[index].next.load(std::memory_order_acquire) >> 32) == seen;
    };
    bool waits;
    if (stretches_.load(std::memory_order_relaxed) == 0) {
      waits = spin(kSpin, waiting, [](Clock::duration) { return false; });
    } else {
#if defined(__linux__)
      const auto now = Clock::now();
      if (now - offered >= kOffer) {
        sched_yield();
        offered = Clock::now();
      }
      int64_t before = -1;
      Clock::duration since{};
      waits = spin(kStretchSpin, waiting, [&](Clock::duration passed) {
        if (passed < kSuspicion) return false;
        if (stretches_.load(std::memory_order_relaxed) == 0) return true;
        const int clock = caller_clock_.load(std::memory_order_relaxed);
        if (before < 0) {
          before = processor_time(clock);
          since = passed;
          return false;
        }
        if (passed < since + kProof) return false;
        const int64_t after = processor_time(clock),
                      time = std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
        int64_t last = helped_.load(std::memory_order_relaxed);
        const bool still = before >= 0 && after >= 0 &&
                           after - before < std::chrono::nanoseconds(kProof).count() / 4;
        before = after, since = passed;
        if (!still || time - last < std::chrono::nanoseconds(kHelpEvery).count() ||
            !helped_.compare_exchange_strong(last, time) ||
            moving.exchange(true, std::memory_order_acquire))
          return false;
        const int core = caller_core_.load(std::memory_order_relaxed);
        caller_core_.store(swap_cores(caller_id_.load(std::memory_order_relaxed), core),
                           std::memory_order_relaxed);
        moving.store(false, std::memory_order_release);
        return false;
      });
#else
      waits = spin(kStretchSpin, waiting, [&](Clock::duration) {
        return stretches_.load(std::memory_order_relaxed) == 0;
      });
#endif
    }
    if (waits) {
      sleepers_.fetch_add(1);
      for (;;) {
        const uint32_t loop = loop_.load();
        if (!waiting()) break;
        loop_.wait(loop);
      }
      sleepers_.fetch_sub(1);
    }
    // In this order: the destructor sets the flag before it publishes the last loop, so who reads
    // that loop's number sees the flag. The other way round a worker could take the last loop for
    // work and then wait for one more.
    seen = uint32_t(shares_[index].next.load(std::memory_order_acquire) >> 32);
    if (stop_.load()) return;
    take_part(index, seen);
  }
}

}  // namespace uniaudio
