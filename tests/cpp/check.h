// The smallest test frame: CHECK counts and reports failures, MAIN runs the cases of one file.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.h"

namespace check {

inline int failures = 0;

struct Case {
  const char* name;
  std::function<void()> body;
};
inline std::vector<Case>& cases() {
  static std::vector<Case> v;
  return v;
}
struct Register {
  Register(const char* name, std::function<void()> body) {
    cases().push_back({name, std::move(body)});
  }
};

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      ++check::failures;                                                  \
    }                                                                     \
  } while (0)

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()

// The expression throws E with `part` in its message.
template <class E, class F>
void throws(const char* file, int line, F&& f, const std::string& part) {
  try {
    f();
  } catch (const E& e) {
    if (std::string(e.what()).find(part) == std::string::npos) {
      std::printf("%s:%d: expected \"%s\" in \"%s\"\n", file, line, part.c_str(), e.what());
      ++failures;
    }
    return;
  }
  std::printf("%s:%d: expected an exception with \"%s\"\n", file, line, part.c_str());
  ++failures;
}
#define CHECK_THROWS(type, expression, part) \
  check::throws<type>(__FILE__, __LINE__, [&] { (void)(expression); }, part)

// Small deterministic numbers for tests, roughly normal.
struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9E3779B97F4A7C15ull + 1) {}
  double uniform() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return double(state >> 11) / 9007199254740992.0;
  }
  float normal() {
    return float((uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7320508);
  }
  int below(int n) { return int(uniform() * n); }
  std::vector<float> normals(size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal();
    return v;
  }
};

inline int run() {
  try {
    uniaudio::current_isa();
  } catch (const std::exception& e) {
    std::printf("skipped: %s\n", e.what());
    return 77;
  }
  for (const Case& c : cases()) {
    const int before = failures;
    try {
      c.body();
    } catch (const std::exception& e) {
      std::printf("%s: unexpected exception: %s\n", c.name, e.what());
      ++failures;
    }
    std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", c.name);
  }
  std::printf("%zu cases on %s, %d failures\n", cases().size(),
              uniaudio::isa_name(uniaudio::current_isa()), failures);
  return failures ? 1 : 0;
}

}  // namespace check

#define MAIN \
  int main() { return check::run(); }
