// The LM against golden logits of the torch module, and the rules of sessions, from the golden
// files alone.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "check.h"
#include "lm_session.h"
#include "safetensors.h"

using namespace uniaudio;

std::atomic<int64_t> allocations{0};

// Not inlined: GCC would take the pair of malloc and delete for a mismatch.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace {

const char* const kNames[] = {"base", "reference", "everything", "gqa"};

struct Golden {
  SafetensorsFile file;
  LmConfig config;
  std::vector<int32_t> frames, aligned;
  std::vector<std::vector<float>> values;
  std::vector<std::vector<int32_t>> index;
  std::vector<ContinuousInput> continuous;
  int64_t count;

  explicit Golden(const std::string& name)
      : file(std::string(UNIAUDIO_GOLDEN_DIR) + "/lm_" + name + ".safetensors"),
        config(parse_lm_config(file.metadata().at("config"))),
        frames(file.ints("frames")) {
    count = int64_t(frames.size()) / config.num_codebooks;
    if (config.aligned_slots) aligned = file.ints("guide");
    for (const auto& [key, width] : config.continuous) {
      values.push_back(file.floats("continuous." + key + ".values"));
      index.push_back(file.ints("continuous." + key + ".index"));
    }
    size_t i = 0;
    for (const auto& [key, width] : config.continuous) {
      continuous.push_back({key, values[i].data(), index[i].data(), int64_t(index[i].size())});
      ++i;
    }
  }
  const int32_t* aligned_rows() const { return aligned.empty() ? nullptr : aligned.data(); }
  std::shared_ptr<const MultiScaleLm> lm(DType dtype, int threads) const {
    return std::make_shared<MultiScaleLm>(config, file.weights("lm."), dtype, threads);
  }
  std::unique_ptr<LmSession> session(const std::shared_ptr<const MultiScaleLm>& lm) const {
    auto s = std::make_unique<LmSession>(lm, 40);
    s->prefill(frames.data(), count, aligned_rows(), continuous);
    return s;
  }
};

std::vector<float> logits_of(const Golden& g, DType dtype, int threads) {
  std::vector<float> out(size_t(g.count) * size_t(g.config.num_codebooks) *
                         size_t(g.config.vocab_size));
  g.lm(dtype, threads)
      ->logits(g.frames.data(), g.count, g.aligned_rows(), g.continuous, out.data());
  return out;
}

std::vector<int32_t> generate(LmSession& s, int64_t n, const SamplingConfig& sampling) {
  std::vector<int32_t> out(size_t(n * s.lm().config().num_codebooks));
  out.resize(size_t(s.generate(n, sampling, nullptr, out.data()) * s.lm().config().num_codebooks));
  return out;
}

}  // namespace

TEST(float32_logits_are_the_torch_modules) {
  for (const char* name : kNames) {
    const Golden g(name);
    const std::vector<float> expected = g.file.floats("logits"),
                             got = logits_of(g, DType::float32, 1);
    const double own = std::stod(g.file.metadata().at("float32_error"));
    double worst = 0, peak = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::fabs(double(got[i]) - double(expected[i])));
      peak = std::max(peak, std::fabs(double(expected[i])));
    }
    CHECK(worst <= 4 * own + 6e-8 * peak);  // the file itself rounds to float32
    CHECK(peak > 0.5);
  }
}

TEST(int8_logits_are_near) {
  for (const char* name : kNames) {
    const Golden g(name);
    const std::vector<float> expected = g.file.floats("logits"), got = logits_of(g, DType::int8, 1);
    double error = 0, square = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(double(got[i]) - double(expected[i]), 2);
      square += std::pow(double(expected[i]), 2);
    }
    CHECK(std::sqrt(error / square) < 0.08);
    CHECK(error > 0);
  }
}

TEST(threads_change_nothing) {
  for (const char* name : kNames) {
    const Golden g(name);
    for (DType dtype : {DType::float32, DType::int8}) {
      const std::vector<float> one = logits_of(g, dtype, 1);
      CHECK(logits_of(g, dtype, 2) == one);
      CHECK(logits_of(g, dtype, 3) == one);
    }
  }
}

TEST(pieces_batches_forks_and_snapshots_give_the_same_frames) {
  SamplingConfig sampling;
  sampling.seed = 7;
  sampling.top_p = 0.9;
  for (const char* name : kNames) {
    const Golden g(name);
    for (DType dtype : {DType::float32, DType::int8}) {
      const auto lm = g.lm(dtype, 2);
      const int64_t k = g.config.num_codebooks;
      const std::vector<int32_t> expected = generate(*g.session(lm), 20, sampling);
      CHECK(int64_t(expected.size()) == 20 * k);

      auto s = g.session(lm);
      std::vector<int32_t> pieces = generate(*s, 9, sampling);
      const std::string saved = s->save();
      auto fork = s->fork();
      for (auto* other : {s.get(), fork.get()}) {
        std::vector<int32_t> whole = pieces;
        const std::vector<int32_t> rest = generate(*other, 11, sampling);
        whole.insert(whole.end(), rest.begin(), rest.end());
        CHECK(whole == expected);
      }
      LmSession back(lm, 33);
      back.restore(saved);
      const std::vector<int32_t> rest = generate(back, 11, sampling);
      CHECK(std::equal(rest.begin(), rest.end(), expected.begin() + 9 * k));

      auto a = g.session(lm), b = g.session(lm), c = std::make_unique<LmSession>(lm, 40);
      SamplingConfig other = sampling;
      other.seed = 8;
      std::vector<int32_t> ya(size_t(20 * k)), yb(size_t(20 * k)), yc(size_t(20 * k));
      std::vector<LmSession::Job> jobs = {{c.get(), &other, nullptr, yc.data()},
                                          {a.get(), &sampling, nullptr, ya.data()},
                                          {b.get(), &other, nullptr, yb.data()}};
      LmSession::generate_batch(jobs, 20);
      CHECK(ya == expected);
      CHECK(yb == generate(*g.session(lm), 20, other));
      CHECK(yb != expected);
    }
  }
}

TEST(cancel_and_interrupt_stop_between_frames) {
  const Golden g("base");
  const auto lm = g.lm(DType::float32, 1);
  const SamplingConfig sampling;
  const std::vector<int32_t> expected = generate(*g.session(lm), 20, sampling);
  auto s = g.session(lm);
  s->cancel();
  CHECK(generate(*s, 20, sampling).empty());
  CHECK(generate(*s, 20, sampling) == expected);
}

TEST(one_call_at_a_time) {
  const Golden g("base");
  const auto lm = g.lm(DType::float32, 1);
  const SamplingConfig sampling;
  auto s = g.session(lm);
  std::vector<int32_t> out(size_t(28 * g.config.num_codebooks));
  std::vector<LmSession::Job> twice(2, {s.get(), &sampling, nullptr, out.data()});
  CHECK_THROWS(std::invalid_argument, LmSession::generate_batch(twice, 2), "distinct sessions");
  std::atomic<bool> stop{false};
  std::atomic<int> refused{0};
  const auto work = [&] {
    while (!stop) {
      try {
        s->fork();
      } catch (const std::invalid_argument& e) {
        if (std::string(e.what()).find("another thread is using it") != std::string::npos)
          ++refused;
      }
    }
  };
  std::thread a(work), b(work);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (refused == 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  stop = true;
  a.join(), b.join();
  CHECK(refused > 0);
  CHECK(generate(*s, 1, sampling).size() == size_t(g.config.num_codebooks));
}

TEST(the_frame_loop_allocates_nothing) {
  const Golden g("base");
  const auto lm = g.lm(DType::int8, 1);
  SamplingConfig sampling;
  sampling.top_p = 0.9;
  const auto allocated = [&](int64_t frames) {
    auto a = g.session(lm), b = g.session(lm), unconditional = g.session(lm);
    b->set_guidance(*unconditional, 2.0);
    std::vector<int32_t> out(size_t(2 * frames * g.config.num_codebooks));
    std::vector<LmSession::Job> jobs = {
        {a.get(), &sampling, nullptr, out.data()},
        {b.get(), &sampling, nullptr, out.data() + frames * g.config.num_codebooks}};
    const int64_t before = allocations;
    LmSession::generate_batch(jobs, frames);
    const int64_t after = allocations;
    CHECK(jobs[0].made == frames && jobs[1].made == frames);
    return after - before;
  };
  CHECK(allocated(1) > 0);  // the buffers before the loop
  CHECK(allocated(20) == allocated(1));
}

TEST(bad_calls_are_refused) {
  const Golden g("everything");
  const auto lm = g.lm(DType::float32, 1);
  CHECK_THROWS(std::invalid_argument, LmSession(lm, 0), "max_frames");
  CHECK_THROWS(std::invalid_argument, LmSession(lm, 65), "max_frames");
  auto s = g.session(lm);
  const std::string before = s->save();
  const std::vector<int32_t> bad(3, 53), good(3 * 64, 1);
  CHECK_THROWS(std::invalid_argument, s->prefill(bad.data(), 1, nullptr, {}), "got 53");
  CHECK_THROWS(std::invalid_argument, s->prefill(good.data(), 29, nullptr, {}),
               "at most 28 more frames");
  CHECK_THROWS(std::invalid_argument, generate(*s, 29, {}), "at most 28 more frames");
  CHECK_THROWS(std::invalid_argument, s->restore(before.substr(1)), "restore");
  CHECK_THROWS(std::invalid_argument, s->restore(std::string(before.size(), 'x')), "restore");
  CHECK(s->save() == before);
  Weights none;
  CHECK_THROWS(std::invalid_argument, MultiScaleLm(g.config, none, DType::float32, 1),
               "missing: global.embed.weight");
}

#if defined(__unix__)
// A thread borrows scratch without a pause, so that many a child finds the lock of the pool taken.
TEST(a_child_of_fork_borrows_scratch) {
  ScratchPool pool;
  std::atomic<bool> stop{false};
  std::thread borrower([&] {
    while (!stop) ScratchPool::Loan loan(pool);
  });
  bool all = true;
  for (int i = 0; all && i < 100; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);  // a child that waits for the lock ends by a signal
      for (int k = 0; k < 3; ++k) ScratchPool::Loan loan(pool);
      _exit(0);
    }
    int status = 1;
    all = child > 0 && waitpid(child, &status, 0) == child && status == 0;
  }
  stop = true;
  borrower.join();
  CHECK(all);
}
#endif

MAIN
