// The device's language model against the CPU's: logits, tokens, sessions. Here the device is the
// emulator (device_host.cc), which runs blocks in random order; benchmarks/gpu.sh runs this file on
// a GPU.
#include <cstdlib>

#include "models.h"

using namespace uniaudio;
using cuda::Lm;
using models::Model;

namespace {

struct Both {
  std::shared_ptr<const MultiScaleLm> cpu;
  std::shared_ptr<Lm> gpu;
  Both(const Model& m, DType dtype, KvDType kv = KvDType::float32)
      : cpu(std::make_shared<MultiScaleLm>(m.config, m.weights, dtype, 1, kv)),
        gpu(std::make_shared<Lm>(cuda::open_device(0), m.config, m.weights, dtype, kv)) {}
};

// Under sanitizers, which are slow and look at memory, not at values: a fifth of the frames, streams
// or seeds.
int64_t some(int64_t count) { return std::getenv("SANITIZED") ? (count + 4) / 5 : count; }

void blocks(int n) { setenv("UNIAUDIO_CUDA_HOST_BLOCKS", std::to_string(n).c_str(), 1); }

std::vector<float> logits_of(const auto& lm, const Model& m, const std::vector<int32_t>& frames,
                             const std::vector<int32_t>& aligned) {
  const int64_t count = int64_t(frames.size()) / m.config.num_codebooks;
  std::vector<float> out(frames.size() * size_t(m.config.vocab_size));
  lm.logits(frames.data(), count, aligned.empty() ? nullptr : aligned.data(), {}, out.data());
  return out;
}

double logits_error(const Model& m, DType dtype, int64_t count, KvDType kv = KvDType::float32) {
  const Both both(m, dtype, kv);
  const auto frames = m.frames(count, 5), aligned = m.aligned(count, 6);
  return models::relative(logits_of(*both.gpu, m, frames, aligned),
                          logits_of(*both.cpu, m, frames, aligned));
}

std::vector<int32_t> cpu_tokens(const Both& b, const Model& m, const SamplingConfig& s,
                                int64_t known, int64_t count) {
  LmSession session(b.cpu, known + count);
  m.start(session);
  const auto frames = m.frames(known, 3), aligned = m.aligned(known + count, 4);
  session.prefill(frames.data(), known, aligned.empty() ? nullptr : aligned.data(), {});
  std::vector<int32_t> out(size_t(count * m.config.num_codebooks));
  const int64_t made = session.generate(
      count, m.fitted(s),
      aligned.empty() ? nullptr : aligned.data() + known * m.config.aligned_slots, out.data());
  out.resize(size_t(made * m.config.num_codebooks));
  return out;
}

std::vector<int32_t> gpu_tokens(const Both& b, const Model& m, const SamplingConfig& s,
                                int64_t known, int64_t count) {
  cuda::Session session(b.gpu, known + count);
  m.start(session);
  const SamplingConfig fitted = m.fitted(s);
  const auto frames = m.frames(known, 3), aligned = m.aligned(known + count, 4);
  session.prefill(frames.data(), known, aligned.empty() ? nullptr : aligned.data(), {});
  std::vector<int32_t> out(size_t(count * m.config.num_codebooks));
  std::vector<cuda::Session::Job> requests = {
      {&session, &fitted,
       aligned.empty() ? nullptr : aligned.data() + known * m.config.aligned_slots, out.data()}};
  cuda::Session::generate_batch(requests, count, {});
  out.resize(size_t(requests[0].made * m.config.num_codebooks));
  return out;
}

SamplingConfig drawn(uint64_t seed) {
  SamplingConfig s;
  s.temperature = 0.9, s.top_k = 20, s.top_p = 0.9, s.seed = seed;
  s.repetition_window = 4, s.repetition_penalty = 1.3;
  return s;
}

}  // namespace

// The largest error of any kind of model.
double most_logits_error(DType dtype) {
  double most = 0;
  uint64_t seed = 0;
  for (const models::Kind& kind : models::all()) {
    const double error = logits_error(Model(kind, ++seed), dtype, some(20));
    most = error <= most ? most : error;  // NaN too
  }
  return most;
}

TEST(float32_logits_are_the_cpus) {
  for (int n : {1, 2, 7}) {
    blocks(n);
    CHECK(most_logits_error(DType::float32) < 2e-6);
  }
}

TEST(bfloat16_logits_are_the_cpus_but_for_16_bits_of_the_activations) {
  blocks(5);
  CHECK(most_logits_error(DType::bfloat16) < 1e-4);
  CHECK(logits_error(Model(models::grouped(), 3), DType::bfloat16, some(20), KvDType::bfloat16) <
        1e-3);
}

TEST(int8_logits_are_the_cpus_but_for_roundings_that_fall_the_other_way) {
  blocks(5);
  CHECK(most_logits_error(DType::int8) < 5e-3);
}

TEST(greedy_and_drawn_tokens_are_the_cpus) {
  blocks(6);
  for (const models::Kind& kind : models::all()) {
    const Model m(kind, 11);
    const Both both(m, DType::float32);
    SamplingConfig greedy;
    greedy.greedy = true;
    CHECK(gpu_tokens(both, m, greedy, 30, some(60)) == cpu_tokens(both, m, greedy, 30, some(60)));
    for (uint64_t seed = 0; seed < uint64_t(some(3)); ++seed)
      CHECK(gpu_tokens(both, m, drawn(seed), 30, some(40)) ==
            cpu_tokens(both, m, drawn(seed), 30, some(40)));
    SamplingConfig simple;
    simple.seed = 77;
    CHECK(gpu_tokens(both, m, simple, 1, some(40)) == cpu_tokens(both, m, simple, 1, some(40)));
  }
}

TEST(rules_of_single_slots_forced_ids_and_kept_end_frames_are_the_cpus) {
  for (const auto& [n, config] :
       {std::pair{1, models::base()}, {6, models::base()}, {6, models::delayed()}}) {
    blocks(n);
    const Model m(config, 31);
    const Both both(m, DType::float32);
    SamplingConfig s;
    s.end_id = 4, s.min_frames = 3, s.seed = 3, s.temperature = 3.0;
    for (bool keep : {false, true}) {
      for (EndSlots where : {EndSlots::first, EndSlots::last, EndSlots::any}) {
        s.keep_end_frame = keep, s.end_slots = where;
        const auto made = gpu_tokens(both, m, s, 2, some(50));
        CHECK(made == cpu_tokens(both, m, s, 2, some(50)));
        CHECK(made.size() < 150);
      }
    }
    SamplingConfig whole;
    whole.seed = 3, whole.temperature = 3.0;
    const auto free = cpu_tokens(both, m, whole, 2, 20);
    whole.end_frame = {-1, -1, free[7 * 3 + 2]}, whole.min_frames = 2;
    for (bool keep : {false, true}) {
      whole.keep_end_frame = keep;
      const auto made = gpu_tokens(both, m, whole, 2, 20);
      CHECK(made == cpu_tokens(both, m, whole, 2, 20));
      CHECK(made.size() >= 6 && made.size() < 27);
    }
    s.end_slots = EndSlots::first;
    s.forced = {5, -1, 7};
    s.slots.assign(3, s);
    s.slots[0].greedy = true, s.slots[1].top_k = 4;
    s.slots[2].repetition_window = 4, s.slots[2].repetition_penalty = 1.3;
    CHECK(gpu_tokens(both, m, s, 2, some(50)) == cpu_tokens(both, m, s, 2, some(50)));
  }
}

// In two calls, the second in a fork; the known frames too come in parts. Rings go round in both.
TEST(two_hundred_greedy_frames) {
  blocks(7);
  SamplingConfig greedy;
  greedy.greedy = true;
  for (const models::Kind& kind :
       {models::Kind{models::grouped()}, {models::windowed()}, models::spoken_ahead()}) {
    const Model m(kind, 21);
    const Both both(m, DType::float32);
    const int64_t known = some(150), count = some(200), k = m.config.num_codebooks,
                  slots = m.config.aligned_slots;
    const auto frames = m.frames(known, 3), aligned = m.aligned(known + count, 4);
    const auto row = [&](int64_t i) { return slots ? aligned.data() + i * slots : nullptr; };
    cuda::Session session(both.gpu, known + count);
    m.start(session);
    session.prefill(frames.data(), known / 2, row(0), {});
    session.prefill(frames.data() + known / 2 * k, known - known / 2, row(known / 2), {});
    std::vector<int32_t> out(size_t(count * k));
    int64_t made = 0;
    const auto more = [&](cuda::Session& s, int64_t n) {
      std::vector<cuda::Session::Job> jobs = {
          {&s, &greedy, row(known + made), out.data() + made * k}};
      cuda::Session::generate_batch(jobs, n, {});
      made += jobs[0].made;
    };
    more(session, count / 3);
    more(*session.fork(), count - count / 3);
    CHECK(made == count);
    CHECK(out == cpu_tokens(both, m, greedy, known, count));
  }
}

TEST(ends_ranges_and_tied_slots_follow_the_cpus_rules) {
  blocks(4);
  const Model m(models::base(), 31);
  const Both both(m, DType::float32);
  for (EndSlots where : {EndSlots::first, EndSlots::last, EndSlots::any}) {
    SamplingConfig s = drawn(5);
    s.end_id = 9, s.end_slots = where, s.min_frames = 3, s.repetition_window = 0;
    s.allowed = {{{4, 12}}, {{5, 9}, {20, 31}}, {{0, 50}}};
    for (uint64_t seed = 0; seed < uint64_t(some(4)); ++seed) {
      s.seed = seed;
      CHECK(gpu_tokens(both, m, s, 10, some(40)) == cpu_tokens(both, m, s, 10, some(40)));
    }
  }
  SamplingConfig tied = drawn(6);
  tied.tie_slots = true;
  tied.allowed = {{{7, 40}}};
  CHECK(gpu_tokens(both, m, tied, 10, 20) == cpu_tokens(both, m, tied, 10, 20));
}

TEST(batched_streams_give_what_each_gives_alone) {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    blocks(6);
    const Model m(models::base(), 41);
    const Both both(m, dtype);
    constexpr int kStreams = 11;  // more than go together
    const int64_t count = some(12);
    std::vector<std::unique_ptr<cuda::Session>> sessions;
    std::vector<SamplingConfig> samplings;
    std::vector<std::vector<int32_t>> out(
        kStreams, std::vector<int32_t>(size_t(count * m.config.num_codebooks)));
    std::vector<cuda::Session::Job> requests;
    for (int i = 0; i < kStreams; ++i) {
      SamplingConfig s = drawn(uint64_t(i));
      s.tie_slots = i % 5 == 4;
      samplings.push_back(s);
    }
    for (int i = 0; i < kStreams; ++i) {
      sessions.push_back(std::make_unique<cuda::Session>(both.gpu, 40 + i));
      const int64_t known = 3 + 2 * i;
      sessions.back()->prefill(m.frames(known, 3).data(), known, nullptr, {});
      requests.push_back(
          {sessions.back().get(), &samplings[size_t(i)], nullptr, out[size_t(i)].data()});
    }
    cuda::Session::generate_batch(requests, count, {});
    for (int i = 0; i < kStreams; ++i)
      CHECK(out[size_t(i)] == gpu_tokens(both, m, samplings[size_t(i)], 3 + 2 * i, count));
  }
}

// The batched path (batched.h), from one column to more than 64, with and without guidance, gives
// the bits of the persistent kernel.
TEST(the_batched_path_gives_the_same_bits) {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    for (const models::Kind& kind : models::all()) {
      blocks(5);
      const Model m(kind, 91);
      const LmConfig& c = m.config;
      const Both both(m, dtype, dtype == DType::int8 ? KvDType::bfloat16 : KvDType::float32);
      const int64_t k = c.num_codebooks, count = 11, known = 70;
      const auto frames = m.frames(known, 3), aligned = m.aligned(known + count, 4);
      const int32_t* const first = aligned.empty() ? nullptr : aligned.data();
      const auto run = [&](int streams, int from) {
        both.gpu->set_batched_from(from);
        std::vector<std::unique_ptr<cuda::Session>> sessions;
        std::vector<SamplingConfig> samplings;
        std::vector<std::vector<int32_t>> out(size_t(streams),
                                              std::vector<int32_t>(size_t(count * k)));
        std::vector<cuda::Session::Job> requests;
        for (int i = 0; i < streams; ++i) {
          SamplingConfig s = drawn(uint64_t(i));
          s.greedy = i % 7 == 3;
          if (i % 4 == 1) s.end_id = 9, s.min_frames = 2, s.keep_end_frame = i % 8 == 5;
          if (i % 6 == 1) s.forced.assign(size_t(k), -1), s.forced[0] = 5;
          if (i % 6 == 2) s.slots.assign(size_t(k), s), s.slots[0].temperature = 3.0;
          if (i % 6 == 4) s.end_frame.assign(size_t(k), -1), s.end_frame.back() = 20;
          s.tie_slots = i % 5 == 4 && s.forced.empty() && s.slots.empty() && c.delays.empty() &&
                        !c.given_slots;
          samplings.push_back(m.fitted(s));
        }
        for (int i = 0; i < streams; ++i) {
          const int64_t length = i == 0 ? known : 2 + i % 23;
          sessions.push_back(std::make_unique<cuda::Session>(both.gpu, known + count + i % 3));
          m.start(*sessions.back());
          sessions.back()->prefill(frames.data(), length, first, {});
          if (i % 6 == 5) {
            cuda::Session unconditional(both.gpu, known + count + i % 3);
            unconditional.prefill(frames.data() + k, 4, first, {});
            sessions.back()->set_guidance(unconditional, 2.0);
          }
          requests.push_back({sessions.back().get(), &samplings[size_t(i)],
                              first ? first + length * c.aligned_slots : nullptr,
                              out[size_t(i)].data()});
        }
        cuda::Session::generate_batch(requests, 5, {});
        std::vector<int64_t> made;
        for (size_t i = 0; i < requests.size(); ++i) {
          made.push_back(requests[i].made);
          requests[i].out += requests[i].made * k;
          if (requests[i].aligned) requests[i].aligned += 5 * c.aligned_slots;
        }
        cuda::Session::generate_batch(requests, count - 5, {});
        for (size_t i = 0; i < requests.size(); ++i)
          out[i].resize(size_t((made[i] + requests[i].made) * k));
        return out;
      };
      const int streams = int(some(dtype == DType::int8 ? 66 : 20));
      const auto truth = run(streams, 1000), batched = run(streams, 1);
      CHECK(batched == truth);
      size_t frames_made = 0;
      for (const auto& o : truth) frames_made += o.size();
      CHECK(frames_made > size_t(streams * k));
      CHECK(run(1, 1) == std::vector(truth.begin(), truth.begin() + 1));
    }
  }
}

TEST(the_number_of_blocks_changes_no_bit) {
  const Model m(models::grouped(), 51);
  const auto frames = m.frames(12, 1), aligned = m.aligned(12, 2);
  for (DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    std::vector<float> first;
    for (int n : {1, 3, 8}) {
      blocks(n);
      const auto out = logits_of(*Both(m, dtype).gpu, m, frames, aligned);
      if (first.empty()) first = out;
      CHECK(out == first);
    }
  }
}

TEST(chunks_forks_and_prefills_in_parts_give_the_same) {
  blocks(5);
  for (const models::Kind& kind : {models::Kind{models::base()},
                                   {models::delayed()},
                                   models::spoken(),
                                   models::spoken_ahead()}) {
    const Model m(kind, 61);
    const Both both(m, DType::float32);
    const SamplingConfig s = drawn(9);
    const auto known = m.frames(37, 3);
    const int64_t k = m.config.num_codebooks;
    const auto whole = gpu_tokens(both, m, s, 37, 30);
    cuda::Session session(both.gpu, 100);
    m.start(session);
    session.prefill(known.data(), 20, nullptr, {});
    session.prefill(known.data() + 20 * k, 17, nullptr, {});
    std::vector<int32_t> out(size_t(30 * k));
    const auto more = [&](cuda::Session& from, int64_t at, int64_t n) {
      std::vector<cuda::Session::Job> requests = {{&from, &s, nullptr, out.data() + at * k}};
      cuda::Session::generate_batch(requests, n, {});
      CHECK(requests[0].made == n);
    };
    more(session, 0, 3);
    const auto fork = session.fork();
    more(session, 3, 27);
    CHECK(out == whole);
    std::fill(out.begin() + 3 * k, out.end(), 0);
    more(*fork, 3, 10), more(*fork, 13, 17);
    CHECK(out == whole);
  }
}

TEST(guided_tokens_are_the_cpus_alone_and_in_batches) {
  blocks(6);
  for (const models::Kind& kind : models::all()) {
    const Model m(kind, 81);
    const LmConfig& c = m.config;
    const Both both(m, DType::float32);
    const int64_t k = c.num_codebooks, count = some(30);
    const auto known = m.frames(20, 3), other = m.frames(14, 8), more = m.frames(5, 9),
               aligned = m.aligned(5 + count, 4);
    const int32_t* const first = aligned.empty() ? nullptr : aligned.data();
    const int32_t* const rest = first ? first + 5 * c.aligned_slots : nullptr;
    const auto start = [&](auto& session, auto& unconditional, double scale) {
      m.start(session);
      session.prefill(known.data(), 20, nullptr, {});
      unconditional.prefill(other.data(), 14, nullptr, {});
      session.set_guidance(unconditional, scale, scale < 2);  // some without the aligned rows
      session.prefill(more.data(), 5, first, {});  // what is known of the target goes to both
    };
    const auto cpu = [&](const SamplingConfig& s, double scale) {
      LmSession session(both.cpu, 60), unconditional(both.cpu, 60);
      start(session, unconditional, scale);
      std::vector<int32_t> out(size_t(count * k));
      CHECK(session.generate(count, s, rest, out.data()) == count);
      return out;
    };
    SamplingConfig greedy;
    greedy.greedy = true;
    std::vector<std::pair<SamplingConfig, double>> cases = {
        {greedy, 3.0}, {drawn(1), 2.5}, {drawn(2), 0.0}, {drawn(3), 1.5}, {drawn(4), 4.0}};
    for (auto& [s, scale] : cases) s = m.fitted(s);
    std::vector<std::unique_ptr<cuda::Session>> sessions;
    std::vector<std::vector<int32_t>> out(cases.size() + 1,
                                          std::vector<int32_t>(size_t(count * k)));
    std::vector<cuda::Session::Job> requests;
    for (size_t i = 0; i < cases.size(); ++i) {
      const auto& [s, scale] = cases[i];
      cuda::Session session(both.gpu, 60), unconditional(both.gpu, 60);
      start(session, unconditional, scale);
      sessions.push_back(session.fork());
      CHECK(sessions.back()->guided());
      requests.push_back({sessions.back().get(), &s, rest, out[i].data()});
    }
    cuda::Session alone(both.gpu, 60);  // five pairs and one without: more than go together
    m.start(alone);
    alone.prefill(known.data(), 20, nullptr, {});
    requests.insert(requests.begin() + 2, {&alone, &cases[3].first, rest, out.back().data()});
    cuda::Session::generate_batch(requests, count, {});
    for (size_t i = 0; i < cases.size(); ++i) CHECK(out[i] == cpu(cases[i].first, cases[i].second));
    CHECK(out[3] != out.back());
    cuda::Session full(both.gpu, 60), narrow(both.gpu, 20);
    narrow.prefill(other.data(), 14, nullptr, {});
    full.set_guidance(narrow, 2.0);
    CHECK_THROWS(std::invalid_argument, full.prefill(known.data(), 20, nullptr, {}),
                 "at most 6 more frames");
    CHECK_THROWS(std::invalid_argument, full.set_guidance(full, 2.0), "another session");
    CHECK_THROWS(std::invalid_argument, narrow.set_guidance(full, 2.0), "not guided itself");
    full.reset();
    CHECK(!full.guided());
  }
}

// A window bounds the cache: what grows with the capacity is the history alone.
TEST(a_session_with_a_window_takes_less) {
  const Model m(models::windowed(), 1);
  const Both both(m, DType::float32);
  CHECK(both.gpu->session_bytes(400) - both.gpu->session_bytes(300) ==
        size_t(100 * m.config.num_codebooks) * sizeof(int32_t));
  LmConfig whole = models::windowed();
  whole.global.window = 0;
  CHECK(both.gpu->session_bytes(400) <
        Both(Model(whole, 1), DType::float32).gpu->session_bytes(400) / 2);
}

TEST(refusals_are_one_line) {
  blocks(5);
  const Model m(models::base(), 71);
  CHECK_THROWS(std::invalid_argument, Both(m, DType::int4), "int4");
  CHECK_THROWS(std::invalid_argument,
               Lm(cuda::open_device(0), m.config, m.weights, DType::float32, KvDType::int8),
               "kv_dtype");
  const Both both(m, DType::float32);
  CHECK_THROWS(std::invalid_argument, cuda::Session(both.gpu, 401), "max_frames");
  cuda::Session session(both.gpu, 10);
  const std::vector<int32_t> wrong = {1, 2, 53};
  CHECK_THROWS(std::invalid_argument, session.prefill(wrong.data(), 1, nullptr, {}), "53");
  CHECK_THROWS(std::invalid_argument, session.set_frame_offset(-1), "0 or more, got -1");
  const SamplingConfig s;
  std::vector<int32_t> out(size_t(20 * m.config.num_codebooks));
  std::vector<cuda::Session::Job> twice(2, {&session, &s, nullptr, out.data()});
  CHECK_THROWS(std::invalid_argument, cuda::Session::generate_batch(twice, 2, {}),
               "distinct sessions");
  std::vector<cuda::Session::Job> one(1, {&session, &s, nullptr, out.data()});
  CHECK_THROWS(std::invalid_argument, cuda::Session::generate_batch(one, -1, {}), "got -1");
  CHECK_THROWS(std::invalid_argument, cuda::Session::generate_batch(one, 11, {}),
               "at most 10 more");
  // a call that comes while another is in progress
  const auto during = [&](const auto& call) {
    cuda::Session::generate_batch(one, 1, [&] {
      CHECK_THROWS(std::invalid_argument, call(), "another thread is using it");
      return true;
    });
  };
  during([&] { session.prefill(out.data(), 1, nullptr, {}); });
  during([&] { session.fork(); });
  during([&] { session.reset(); });
  during([&] { session.known(0, 0); });
  during([&] { session.set_frame_offset(1); });
  during([&] { cuda::Session::generate_batch(one, 1, {}); });
  LmConfig slices = models::reference();
  slices.global_head_size = 9;
  CHECK_THROWS(std::invalid_argument, Both(Model(slices, 1), DType::float32),
               "conditioning add and a head on the global stack");
  const Model spoken(models::spoken_ahead(), 1);
  const Both speaks(spoken, DType::float32);
  cuda::Session silent(speaks.gpu, 10);
  std::vector<cuda::Session::Job> wordless = {{&silent, &s, nullptr, out.data()}};
  CHECK_THROWS(std::invalid_argument, cuda::Session::generate_batch(wordless, 2, {}),
               "slot 1: expected words or a forced id");
  CHECK_THROWS(std::invalid_argument, silent.set_words(models::words(0)),
               "a given slot exactly with ahead");
  spoken.start(silent);
  cuda::Session::generate_batch(wordless, 1, {});
  CHECK_THROWS(std::invalid_argument, silent.prefill(out.data(), 1, nullptr, {}),
               "known frames before generated ones");
  LmConfig odd = models::base();
  odd.global = models::stack(1, 260, 2, 40);
  const Model w(odd, 1);
  CHECK_THROWS(std::invalid_argument,
               Lm(cuda::open_device(0), odd, w.weights, DType::float32, KvDType::float32), "130");
}

MAIN
