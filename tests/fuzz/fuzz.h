// What the C++ fuzz targets share: inputs that follow from a seed and a number, and a loop over them.
//
//   fuzz_NAME COUNTS SECONDS SEED FIRST   inputs from number FIRST on; counts them in a file
//   fuzz_NAME SEED NUMBER                 one input again
//
// tests/fuzz/run.py starts them and reads the counts, also of one that has ended by a signal.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <initializer_list>
#include <string>
#include <vector>

#include "weights.h"

namespace fuzz {

// A stream of random numbers (SplitMix64).
class Draw {
 public:
  Draw(uint64_t seed, uint64_t number) : state_(seed * 0x9E3779B97F4A7C15u ^ number << 20) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  int in(int low, int high) { return low + int(bits() % uint64_t(high - low + 1)); }
  bool coin() { return bits() & 1; }
  bool once_in(int n) { return in(1, n) == 1; }
  double unit() { return double(bits() >> 11) * 0x1p-53; }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[in(0, int(choices.size()) - 1)];
  }
  std::vector<float> floats(size_t n, float scale) {
    std::vector<float> out(n);
    for (float& x : out) x = float(2 * unit() - 1) * scale;
    return out;
  }

 private:
  uint64_t state_;
};

// Weights of the shapes that a model wants, which own their numbers.
struct RandomWeights {
  std::deque<std::vector<float>> numbers;
  uniaudio::Weights weights;

  RandomWeights(Draw& draw, const std::vector<uniaudio::TensorSpec>& specs, float scale) {
    for (const auto& spec : specs) {
      numbers.push_back(draw.floats(size(spec), scale));
      weights.add(spec.name, {uniaudio::StoredType::float32, spec.shape, numbers.back().data()});
    }
  }
  static size_t size(const uniaudio::TensorSpec& spec) {
    size_t n = 1;
    for (int64_t d : spec.shape) n *= size_t(d);
    return n;
  }
  static size_t size(const std::vector<uniaudio::TensorSpec>& specs) {
    size_t n = 0;
    for (const auto& spec : specs) n += size(spec);
    return n;
  }
};

// A few bytes of a saved state changed, or its end cut off.
inline std::string damaged(Draw& draw, std::string bytes, size_t from) {
  for (int i = draw.in(1, 4); i > 0 && bytes.size() > from; --i)
    bytes[from + draw.bits() % (bytes.size() - from)] = char(draw.bits());
  if (draw.once_in(4)) bytes.resize(draw.bits() % (bytes.size() + 1));
  return bytes;
}

inline void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "expected %s\n", what);
  std::abort();
}

struct Counts {  // as in run.py
  uint64_t number, done, accepted;
  double slowest;
};

// Whether the input was accepted; refusals are caught inside.
using Use = bool (*)(Draw&);

inline int run(int argc, char** argv, Use use) {
  if (argc == 3) {
    Draw draw(strtoull(argv[1], nullptr, 10), strtoull(argv[2], nullptr, 10));
    std::puts(use(draw) ? "accepted" : "refused");
    return 0;
  }
  if (argc != 5) return 2;
  const int file = open(argv[1], O_RDWR);
  void* shared = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file < 0 || shared == MAP_FAILED) return 2;
  auto* counts = static_cast<volatile Counts*>(shared);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(strtod(argv[2], nullptr));
  const uint64_t seed = strtoull(argv[3], nullptr, 10);
  for (uint64_t number = strtoull(argv[4], nullptr, 10); Clock::now() < end; ++number) {
    counts->number = number;
    // Seconds of computing (SIGPROF) and of waiting (SIGALRM) that end the process.
    const itimerval computing{{}, {5, 0}}, waiting{{}, {120, 0}};
    setitimer(ITIMER_PROF, &computing, nullptr);
    setitimer(ITIMER_REAL, &waiting, nullptr);
    const clock_t begin = clock();
    Draw draw(seed, number);
    const bool accepted = use(draw);
    const double seconds = double(clock() - begin) / CLOCKS_PER_SEC;
    if (seconds > counts->slowest) counts->slowest = seconds;
    counts->done = counts->done + 1;
    counts->accepted = counts->accepted + accepted;
    counts->number = number + 1;
  }
  return 0;
}

}  // namespace fuzz
