// Sessions of language models of random configurations: any order of calls with values in and out
// of range, saved states damaged under a valid checksum.
#include <cstring>

#include "fuzz.h"
#include "lm_session.h"

namespace {

using namespace uniaudio;
using fuzz::Draw;
using fuzz::expect;

std::string truth(bool value) { return value ? "true" : "false"; }

std::string stack(Draw& draw, int times) {
  const int heads = draw.in(1, 4), width = 2 * draw.in(1, 10) * heads * times;
  return "{\"layers\":" + std::to_string(draw.in(1, 2)) + ",\"width\":" + std::to_string(width) +
         ",\"heads\":" + std::to_string(heads) +
         ",\"kv_heads\":" + std::to_string(draw.of({0, 1, heads})) +
         ",\"mlp_width\":" + std::to_string(draw.in(0, 70)) +
         ",\"norm\":" + (draw.coin() ? "\"rmsnorm\"" : "\"layernorm\"") + ",\"activation\":" +
         (draw.coin()   ? "\"swiglu\""
          : draw.coin() ? "\"gelu_tanh\""
                        : "\"gelu\"") +
         ",\"positions\":" + (draw.coin() ? "\"rope\"" : "\"learned\"") +
         ",\"q_bias\":" + truth(draw.coin()) + "}";
}

// The last 8 bytes of a saved session, of those before.
uint64_t checksum(const char* data, size_t size) {
  uint64_t h = 0xCBF29CE484222325u;
  size_t i = 0;
  for (uint64_t v; i + 8 <= size; i += 8) {
    std::memcpy(&v, data + i, 8);
    h = (h ^ v) * 0x100000001B3u;
    h ^= h >> 32;
  }
  for (; i < size; ++i) h = (h ^ uint8_t(data[i])) * 0x100000001B3u;
  return h;
}

class Sessions {
 public:
  Sessions(Draw& draw, std::shared_ptr<const MultiScaleLm> lm, const LmConfig& config)
      : draw_(draw), lm_(std::move(lm)), config_(config) {
    for (int i = 0; i < 2; ++i)
      add(std::make_unique<LmSession>(lm_, draw.in(1, config.max_frames)));
  }

  void step() {
    LmSession& session = any();
    switch (draw_.in(0, 12)) {
      case 0:
      case 1: prefill(session); break;
      case 2:
      case 3:
      case 4: generate(session); break;
      case 5: add(session.fork()); break;
      case 6: save(session); break;
      case 7:
        if (!saved_.empty()) session.restore(saved_);
        break;
      case 8:
        session.set_guidance(any(), draw_.of({0.0, 1.0, 3.0, 100.0, 101.0, -1.0}),
                             draw_.bits() % 2 == 0);
        break;
      case 9: session.reset(); break;
      case 10: batch(); break;
      case 11: words(session); break;
      default: session.cancel();
    }
  }

 private:
  LmSession& any() { return *sessions_[draw_.bits() % sessions_.size()]; }
  void add(std::unique_ptr<LmSession> session) {
    if (sessions_.size() < 5)
      sessions_.push_back(std::move(session));
    else
      sessions_[draw_.bits() % sessions_.size()] = std::move(session);
  }

  void words(LmSession& session) {
    const auto id = [&] { return draw_.in(0, 9) ? draw_.in(0, config_.vocab_size - 1) : -1; };
    WordsConfig c;
    for (int n = draw_.in(0, 4); n > 0; --n) {
      c.words.push_back({{}, draw_.in(-1, 3)});
      for (int i = draw_.in(0, 3); i > 0; --i) c.words.back().ids.push_back(id());
    }
    c.new_word = id(), c.pad = id(), c.none = id(), c.ahead = draw_.of({0, 0, 0, 1, 2});
    c.max_padding = draw_.in(0, 3), c.initial_padding = draw_.in(0, 2);
    c.final_frames = draw_.in(0, 3);
    session.set_words(c);
  }

  std::vector<int32_t> rows(int count, int width, int limit, bool right) {
    std::vector<int32_t> out(size_t(count * width));
    for (int32_t& v : out) v = draw_.in(right ? 0 : -1, right ? limit - 1 : limit);
    return out;
  }

  void prefill(LmSession& session) {
    const bool right = !draw_.once_in(3);
    const int count = draw_.in(0, 12), slots = config_.aligned_slots;
    const auto frames = rows(count, config_.num_codebooks, config_.vocab_size, right);
    const auto aligned = rows(count, slots, std::max(1, config_.aligned_vocab), right);
    std::vector<ContinuousInput> continuous;
    std::vector<float> values;
    std::vector<int32_t> places;
    if (!config_.continuous.empty() && draw_.coin()) {
      const auto& [name, width] = *config_.continuous.begin();
      const int given = draw_.in(0, count);
      values = draw_.floats(size_t(given * width), draw_.of({1.0f, 1.0f, 1e38f}));
      for (int i = 0, last = -1; i < given; ++i)
        places.push_back(last += right ? 1 : draw_.in(0, 2));
      continuous.push_back({name, values.data(), places.data(), given});
    }
    session.prefill(frames.data(), count, slots && draw_.coin() ? aligned.data() : nullptr,
                    continuous);
  }

  SamplingConfig sampling() {
    SamplingConfig s;
    s.temperature = draw_.of({0.0, 1.0, 0.3, 100.0, 1e-6, 1e-45});
    s.top_k = draw_.of<int64_t>({0, 1, 2, 7, 1000000, INT64_MAX});
    s.top_p = draw_.of({1.0, 0.5, 1e-9, 0.95});
    s.greedy = draw_.once_in(6);
    s.repetition_window = draw_.of<int64_t>({0, 1, 5, INT64_MAX});
    s.repetition_penalty = draw_.of({1.0, 1.3, 100.0});
    s.seed = draw_.bits();
    s.end_id = draw_.in(-1, config_.vocab_size - 1);
    s.end_slots = EndSlots(draw_.in(0, 2));
    s.min_frames = draw_.of<int64_t>({0, 3, INT64_MAX});
    s.tie_slots = draw_.once_in(5);
    if (draw_.coin()) return s;
    const int slots = s.tie_slots && draw_.coin() ? 1 : config_.num_codebooks;
    for (int k = 0; k < slots; ++k) {
      s.allowed.emplace_back();
      for (int i = draw_.in(1, 3); i > 0; --i)
        s.allowed.back().push_back(
            {draw_.in(-1, config_.vocab_size), draw_.in(-1, config_.vocab_size + 1)});
    }
    return s;
  }

  std::vector<int32_t> room(const LmSession& session, int count) {
    const int64_t frames = std::min<int64_t>(count, session.capacity());
    return std::vector<int32_t>(size_t(frames * config_.num_codebooks) + 1, -1);
  }
  void check(int64_t made, int count, const std::vector<int32_t>& out) {
    expect(made >= 0 && made <= count, "no more frames than asked for");
    for (int64_t i = 0; i < made * config_.num_codebooks; ++i)
      expect(out[size_t(i)] >= 0 && out[size_t(i)] < config_.vocab_size, "ids of the vocabulary");
  }

  void generate(LmSession& session) {
    const int count = draw_.in(0, 14), slots = config_.aligned_slots;
    const auto aligned = rows(count, slots, std::max(1, config_.aligned_vocab), !draw_.once_in(4));
    auto out = room(session, count);
    const auto how = sampling();
    const bool given = slots && draw_.coin();
    check(session.generate(count, how, given ? aligned.data() : nullptr, out.data()), count, out);
  }

  void batch() {
    const int count = draw_.in(0, 8);
    std::vector<SamplingConfig> how(sessions_.size());
    std::vector<std::vector<int32_t>> out;
    std::vector<LmSession::Job> jobs;
    for (auto& s : how) s = sampling();
    for (const auto& session : sessions_) out.push_back(room(*session, count));
    for (size_t i = 0; i < sessions_.size(); ++i)
      jobs.push_back({sessions_[i].get(), &how[i], nullptr, out[i].data()});
    LmSession::generate_batch(jobs, count);
    for (size_t i = 0; i < jobs.size(); ++i) check(jobs[i].made, count, out[i]);
  }

  void save(const LmSession& session) {
    saved_ = session.save();
    if (draw_.coin() || saved_.size() < 40) return;
    std::string inside = saved_.substr(0, saved_.size() - 8);
    inside = fuzz::damaged(draw_, inside, 24);
    const uint64_t sum = checksum(inside.data(), inside.size());
    saved_ = inside + std::string(reinterpret_cast<const char*>(&sum), 8);
  }

  Draw& draw_;
  std::shared_ptr<const MultiScaleLm> lm_;
  LmConfig config_;
  std::vector<std::unique_ptr<LmSession>> sessions_;
  std::string saved_;
};

bool use(Draw& draw) {
  const int codebooks = draw.in(1, 4), slots = draw.in(0, 3);
  std::string json =
      "{\"vocab_size\":" + std::to_string(draw.in(2, 80)) +
      ",\"num_codebooks\":" + std::to_string(codebooks) + ",\"global\":" + stack(draw, codebooks) +
      ",\"local\":" + stack(draw, 1) +
      ",\"embedding\":" + (draw.coin() ? "\"concat\"" : "\"sum\"") + ",\"conditioning\":\"" +
      draw.of({"add", "prefix", "project"}) +
      "\",\"slot_weights\":" + (draw.coin() ? "true" : "false") +
      ",\"start_id\":0,\"local_start_id\":1,\"max_frames\":" + std::to_string(draw.in(1, 40));
  const bool delays = draw.in(0, 3) == 0;
  if (delays) {
    std::string steps, ids;
    for (int k = 0; k < codebooks; ++k) {
      steps += (k ? "," : "") + std::to_string(k ? draw.in(0, 3) : 0);
      ids += (k ? ",1" : "1");
    }
    json += ",\"delays\":[" + steps + "],\"delay_ids\":[[" + ids + "]]";
  }
  if (slots)
    json += ",\"guide_slots\":" + std::to_string(slots) +
            ",\"guide_vocab\":" + std::to_string(draw.in(1, 9));
  if (draw.coin()) json += ",\"continuous\":{\"c\":" + std::to_string(draw.in(1, 9)) + "}";
  json += "}";
  std::unique_ptr<Sessions> sessions;
  try {
    const LmConfig config = parse_lm_config(json);
    const auto specs = lm_tensors(config);
    if (fuzz::RandomWeights::size(specs) > 300000) return false;
    const fuzz::RandomWeights weights(draw, specs, draw.of({0.3f, 0.3f, 2.0f, 1e-38f, 1e10f}));
    const auto types = {DType::float32, DType::bfloat16, DType::int8, DType::int4};
    LmDTypes type(draw.of(types));
    if (draw.coin()) type.local = draw.of(types);
    if (draw.coin()) type.head = draw.of(types);
    const auto kv = draw.of({KvDType::float32, KvDType::bfloat16, KvDType::int8});
    const auto lm =
        std::make_shared<MultiScaleLm>(config, weights.weights, type, draw.in(1, 2), kv);
    sessions = std::make_unique<Sessions>(draw, lm, config);
  } catch (const std::invalid_argument&) {
    return false;
  } catch (const std::runtime_error&) {  // numbers that grow beyond float32
    return false;
  }
  bool accepted = false;
  for (int i = 0; i < 24; ++i) {
    try {
      sessions->step();
      accepted = true;
    } catch (const std::invalid_argument&) {
    } catch (const std::runtime_error&) {
    }
  }
  return accepted;
}

}  // namespace

int main(int argc, char** argv) { return fuzz::run(argc, argv, use); }
