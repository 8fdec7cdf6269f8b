#include "multiscale_lm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "cpu/isa.h"

namespace uniaudio {
namespace {

constexpr int64_t kLogitRows = 32;  // frames at a time in the teacher-forced pass

const Weights& checked(const LmConfig& c, const Weights& weights) {
  weights.check("lm", lm_tensors(c));
  return weights;
}

uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9E3779B97F4A7C15ull ^ (h >> 29); }

}  // namespace

std::vector<int32_t> delayed_rows(const LmConfig& c, const int32_t* frames, int64_t count) {
  if (c.delays.empty()) return {};
  const Delays delays = c.delay_rules();
  const int64_t k = c.num_codebooks, steps = count + delays.most;
  std::vector<int32_t> rows(static_cast<size_t>(steps * k));
  for (int64_t step = 0; step < steps; ++step) {
    for (int slot = 0; slot < k; ++slot) {
      const int64_t frame = frame_at(delays, step, slot);
      rows[size_t(step * k + slot)] = frame < 0       ? delay_id(delays, step, slot)
                                      : frame < count ? frames[frame * k + slot]
                                                      : after_id(delays, slot);
    }
  }
  return rows;
}

std::vector<TensorSpec> lm_tensors(const LmConfig& c) {
  std::vector<TensorSpec> specs;
  const int64_t d = c.global.width, v = c.vocab_size;
  specs.push_back({"global.embed.weight", {v, c.embed_width()}});
  Transformer::add_tensors(specs, "global", c.global, c.max_frames);
  if (!c.tied_local) specs.push_back({"local.embed.weight", {c.local_rows(), c.local.width}});
  Transformer::add_tensors(specs, "local", c.local, c.local_slots(), c.weight_sets());
  specs.push_back({"bridge.weight", {c.bridge_out(), c.bridge_in()}});
  specs.push_back({"bridge.bias", {c.bridge_out()}});
  if (!c.tied_head) specs.push_back({"head.weight", {c.local_rows(), c.local.width}});
  if (c.global_head_size) specs.push_back({"global_head.weight", {c.global_head_size, d}});
  for (const auto& [name, width] : c.continuous) {
    specs.push_back({"continuous." + name + ".weight", {d, width}});
    specs.push_back({"continuous." + name + ".bias", {d}});
  }
  if (c.aligned_slots) specs.push_back({"guide.weight", {c.aligned_vocab, d}});
  return specs;
}

LmDTypes LmDTypes::parse(const std::string& text) {
  LmDTypes d(DType::int8);
  struct Part {
    const char* name;
    DType LmDTypes::* dtype;
    bool seen = false;
  };
  Part parts[] = {
      {"global", &LmDTypes::global}, {"local", &LmDTypes::local}, {"head", &LmDTypes::head}};
  const auto refuse = [&] {
    throw std::invalid_argument(
        "dtype: expected float32, bfloat16, int8, int4, or parts of these like \"int8,local=int4\" "
        "(global, local, head), got \"" +
        text + "\"");
  };
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, end - begin);
    const size_t equals = item.find('=');
    const std::string value = equals == std::string::npos ? item : item.substr(equals + 1);
    const std::optional<DType> dtype = find_dtype(value);
    if (!dtype) refuse();
    if (equals == std::string::npos) {
      if (begin != 0) refuse();
      d = LmDTypes(*dtype);
    } else {
      Part* const part = std::find_if(std::begin(parts), std::end(parts), [&](const Part& p) {
        return item.substr(0, equals) == p.name;
      });
      if (part == std::end(parts) || part->seen) refuse();
      part->seen = true;
      d.*part->dtype = *dtype;
    }
    begin = end + 1;
  }
  return d;
}

std::string LmDTypes::name() const {
  const LmDTypes all(global);
  std::string s = dtype_name(global);
  if (local != all.local) s += std::string(",local=") + dtype_name(local);
  if (head != all.head) s += std::string(",head=") + dtype_name(head);
  return s;
}

void LmScratch::reserve(const MultiScaleLm& lm, int64_t max_rows, int64_t local_rows,
                        int64_t capacity) {
  const LmConfig& c = lm.config();
  const int threads = lm.pool().threads();
  global.reserve(c.global, max_rows, capacity, threads);
  local.reserve(c.local, local_rows, c.num_codebooks, threads);
  linear.reserve(std::max(max_rows, local_rows * c.bridge_rows()),
                 std::max(c.global.width, c.local.width));
  x.reserve(size_t(max_rows * c.global.width));
  bridged.reserve(size_t(local_rows * c.bridge_rows() * c.local.width));
  local_x.reserve(size_t(local_rows * c.local.width));
  logits.reserve(size_t(local_rows * c.vocab_size));
  while (int64_t(local_caches.size()) < local_rows)
    local_caches.emplace_back(c.local, c.num_codebooks);
  rows.resize(std::max(rows.size(), size_t(std::max(max_rows, local_rows))));
}

ScratchPool::ScratchPool() : shared_(new Shared(this_process())) {}
ScratchPool::~ScratchPool() { delete shared_.load(); }

ScratchPool::Shared& ScratchPool::mine() {
  Shared* found = shared_.load();
  if (found->process != this_process()) {
    auto fresh = std::make_unique<Shared>(this_process());
    // The old one stays: a thread that this process does not have may have been changing it.
    if (shared_.compare_exchange_strong(found, fresh.get())) found = fresh.release();
  }
  return *found;
}

ScratchPool::Loan::Loan(ScratchPool& pool) : pool_(pool.mine()) {
  const std::lock_guard lock(pool_.mutex);
  if (pool_.free.empty()) {
    scratch_ = std::make_unique<LmScratch>();
    pool_.free.reserve(++pool_.made);  // so that giving it back allocates nothing
  } else {
    scratch_ = std::move(pool_.free.back());
    pool_.free.pop_back();
  }
}

ScratchPool::Loan::~Loan() {
  const std::lock_guard lock(pool_.mutex);
  pool_.free.push_back(std::move(scratch_));
}

MultiScaleLm::MultiScaleLm(const LmConfig& c, const Weights& weights, LmDTypes dtypes, int threads,
                           KvDType kv_dtype)
    : config_(c),
      dtypes_(dtypes),
      kv_dtype_(kv_dtype),
      pool_(std::make_unique<ThreadPool>(threads)),
      global_(checked(c, weights), "global", c.global, c.max_frames, dtypes.global, pool_.get()),
      local_(weights, "local", c.local, c.local_slots(), dtypes.local, pool_.get(),
             c.weight_sets()),
      global_embed_(weights, "global.embed", c.vocab_size, c.embed_width()) {
  const int64_t d = c.global.width, v = c.vocab_size;
  const int64_t rows = c.local_rows();  // where one is tied, all of the vocabulary
  if (!c.tied_local) local_embed_ = Table(weights, c.local_table(), rows, c.local.width);
  if (c.aligned_slots) aligned_ = Table(weights, "guide", c.aligned_vocab, d);
  bridge_ =
      make_linear(weights, "bridge", c.bridge_out(), c.bridge_in(), true, dtypes.head, pool_.get());
  head_ =
      make_linear(weights, c.head_table(), rows, c.local.width, false, dtypes.head, pool_.get());
  if (c.global_head_size) {
    global_head_ =
        make_linear(weights, "global_head", c.global_head_size, d, false, dtypes.head, pool_.get());
  }
  for (const auto& [name, width] : c.continuous) {
    continuous_.emplace(name,
                        make_linear(weights, "continuous." + name, d, width, true, DType::float32));
  }
  // Where the local stack is read several times a frame and not all weights fit, those that are read
  // once leave it the cache.
  global_.set_stream(c.weight_sets() < c.local_slots() &&
                     int64_t(global_.weight_bytes() + local_.weight_bytes()) > last_level_cache());
  // A sample of the weights is enough to tell models apart.
  fingerprint_ =
      mix(mix(mix(1, uint64_t(v)), uint64_t(d)),
          uint64_t(dtypes.global) | uint64_t(dtypes.local) << 8 | uint64_t(dtypes.head) << 16);
  fingerprint_ = mix(fingerprint_, uint64_t(kv_dtype));
  for (int64_t i : {int64_t(c.global.layers), int64_t(c.num_codebooks), int64_t(c.local.width),
                    int64_t(c.global.heads)})
    fingerprint_ = mix(fingerprint_, uint64_t(i));
  for (int delay : c.delays) fingerprint_ = mix(fingerprint_, uint64_t(delay));
  for (const TensorSpec& spec : lm_tensors(c)) {
    const Buffer<float> t = spec.shape.size() == 1 || spec.name == "head.weight"
                                ? weights.get(spec.name, spec.shape)
                                : Buffer<float>();
    for (size_t i = 0; i < t.size(); i += 1 + t.size() / 4096) {
      uint32_t bits;
      std::memcpy(&bits, &t[i], 4);
      fingerprint_ = mix(fingerprint_, bits);
    }
  }
}

size_t MultiScaleLm::weight_bytes_per_frame(int64_t head_rows) const {
  const size_t k = size_t(config_.num_codebooks);
  const size_t head = head_rows > 0
                          ? head_.weight_bytes() / size_t(config_.local_rows()) * size_t(head_rows)
                          : head_.weight_bytes();
  // where slot 0 has a head of its own, the common one is for the others
  const size_t heads = has_first_head() ? global_head_.weight_bytes() + (k - 1) * head : k * head;
  const size_t locals =
      local_.weight_bytes() * size_t(config_.local_slots() / config_.weight_sets());
  return global_.weight_bytes() + bridge_.weight_bytes() + locals + heads;
}

size_t MultiScaleLm::session_bytes(int64_t held, int64_t capacity) const {
  const int64_t delay = config_.max_delay();
  return KvCache::bytes(config_.global, std::min(held + delay, most_held()), kv_dtype_) +
         size_t(capacity + delay) * size_t(config_.num_codebooks) * sizeof(int32_t);
}

void MultiScaleLm::embed_frame(const int32_t* ids, float* x) const {
  for (int k = 0; k < config_.num_codebooks; ++k) {
    if (config_.concat || k == 0) {
      global_embed_.copy(ids[k], x + (config_.concat ? k * config_.embed_width() : 0));
    } else {
      global_embed_.add(ids[k], x);
    }
  }
}

void MultiScaleLm::embed_start(float* x) const {
  int32_t ids[64];
  std::fill_n(ids, config_.num_codebooks, config_.start_id);
  embed_frame(ids, x);
}

void MultiScaleLm::add_aligned(const int32_t* aligned, float* x) const {
  for (int s = 0; s < config_.aligned_slots; ++s) {
    if (aligned[s] >= 0) aligned_.add(aligned[s], x);
  }
}

void MultiScaleLm::embed_continuous(const ContinuousInput& in, float* out) const {
  const Linear& map = continuous_.at(in.name);
  map.forward(*pool_, nullptr, in.values, map.in(), in.count, out, config_.global.width);
}

void MultiScaleLm::global_pass(LmScratch& s, int64_t count, bool cache_only) const {
  global_.forward(*pool_, s.global, s.rows.data(), count, s.x.data(), cache_only);
}

void MultiScaleLm::bridge(LmScratch& s, int64_t count) const {
  // The K slices of each h are K rows, so that the weights are read once.
  const int64_t rows = count * config_.global.width / bridge_.in();
  bridge_.forward(*pool_, &s.linear, s.x.data(), bridge_.in(), rows, s.bridged.data(),
                  bridge_.out());
}

void MultiScaleLm::local_pass(LmScratch& s, int slot, int64_t count, const int32_t* frame,
                              const int32_t* previous) const {
  const int64_t d = config_.local.width, k = config_.bridge_rows();
  const int at = slot - config_.first_local();
  const Table& embed = config_.tied_local ? global_embed_ : local_embed_;
  const int64_t ids = config_.previous_ids(slot);
  for (int64_t i = 0; i < count; ++i) {
    float* x = s.local_x.data() + i * d;
    if (config_.add || slot > 0) {
      for (int64_t j = 0; j < ids; ++j) {
        const int64_t id = (slot == 0 ? config_.local_start_id : previous[i * ids + j]) -
                           config_.local_table_start;
        const bool inside = id >= 0 && id < config_.local_rows();
        if (j == 0 && !inside) std::fill_n(x, d, 0.0f);
        if (j == 0 && inside) embed.copy(id, x);
        if (j > 0 && inside) embed.add(id, x);
      }
      if (config_.add) kernels().add(s.bridged.data() + (frame[i] * k + at) * d, x, d);
    } else {
      std::memcpy(x, s.bridged.data() + frame[i] * d, size_t(d) * sizeof(float));
    }
    s.rows[size_t(i)] = {&s.local_caches[size_t(frame[i])], at};
  }
  local_.forward(*pool_, s.local, s.rows.data(), count, s.local_x.data(), false,
                 config_.slot_weights ? at : 0);
}

void MultiScaleLm::head(LmScratch& s, int64_t count, const IdRange* ranges, int64_t num_ranges,
                        float* logits) const {
  const int64_t d = config_.local.width;
  head_.quantize(*pool_, &s.linear, s.local_x.data(), d, count);
  const int64_t first = config_.local_table_start, rows = config_.local_rows();
  for (int64_t i = 0; i < num_ranges; ++i) {
    const int64_t begin = std::max<int64_t>(ranges[i].begin - first, 0);
    const int64_t end = std::min<int64_t>(ranges[i].end - first, rows);
    if (begin >= end) continue;
    head_.forward_quantized(*pool_, &s.linear, s.local_x.data(), d, count, logits + first,
                            config_.vocab_size, begin, end);
  }
}

void MultiScaleLm::first_head(LmScratch& s, int64_t count, const IdRange* ranges,
                              int64_t num_ranges, float* logits) const {
  const int64_t d = config_.global.width, first = config_.global_head_start;
  global_head_.quantize(*pool_, &s.linear, s.x.data(), d, count);
  for (int64_t i = 0; i < num_ranges; ++i) {
    global_head_.forward_quantized(*pool_, &s.linear, s.x.data(), d, count, logits + first,
                                   config_.vocab_size, ranges[i].begin - first,
                                   ranges[i].end - first);
  }
}

void MultiScaleLm::logits(const int32_t* frames, int64_t frame_count, const int32_t* aligned,
                          const std::vector<ContinuousInput>& continuous, float* out) const {
  check_logits(config_, frames, frame_count, aligned);
  check_continuous(config_, continuous, frame_count);
  const std::vector<int32_t> delayed = delayed_rows(config_, frames, frame_count);
  const int64_t count = frame_count + config_.max_delay();  // steps
  if (config_.max_delay() > 0) frames = delayed.data();
  const int64_t d = config_.global.width, k = config_.num_codebooks, v = config_.vocab_size;
  const ReplacedRows replaced(continuous, count, d, [&](const ContinuousInput& in, float* rows) {
    embed_continuous(in, rows);
  });
  LmScratch s;
  const int64_t chunk = std::min(kLogitRows, count);
  s.reserve(*this, chunk, chunk, count);
  KvCache cache(config_.global, count, kv_dtype_);
  std::vector<int32_t> which(static_cast<size_t>(chunk)),
      previous(static_cast<size_t>(chunk * (1 + config_.given_slots)));
  std::vector<float> slot_logits(size_t(chunk * v));
  const IdRange all{0, int32_t(v)};
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const IdRange first{config_.global_head_start,
                      config_.global_head_start + config_.global_head_size};
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t t = begin + i;
      float* x = s.x.data() + i * d;
      if (t == 0) {
        embed_start(x);
      } else if (const float* const row = replaced.row(t - 1)) {
        std::memcpy(x, row, size_t(d) * sizeof(float));
      } else {
        embed_frame(frames + (t - 1) * k, x);
      }
      if (aligned) add_aligned(aligned + t * config_.aligned_slots, x);
      s.rows[size_t(i)] = {&cache, t};
      which[size_t(i)] = int32_t(i);
    }
    global_pass(s, n, false);
    bridge(s, n);
    for (int64_t slot = 0; slot < k; ++slot) {
      const int64_t ids = config_.previous_ids(int(slot));
      for (int64_t i = 0; slot > 0 && i < n; ++i)
        std::memcpy(&previous[size_t(i * ids)], frames + (begin + i) * k + slot - ids,
                    size_t(ids) * sizeof(int32_t));
      if (slot >= config_.first_local()) local_pass(s, int(slot), n, which.data(), previous.data());
      if (slot <= config_.given_slots + 1)
        std::fill(slot_logits.begin(), slot_logits.end(), kNever);
      if (slot == 0 && has_first_head()) {
        first_head(s, n, &first, 1, slot_logits.data());
      } else if (!config_.is_given(int(slot))) {
        head(s, n, &all, 1, slot_logits.data());
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t frame = begin + i - config_.delay(int(slot));
        if (frame >= 0 && frame < frame_count)
          std::memcpy(out + (frame * k + slot) * v, slot_logits.data() + i * v,
                      size_t(v) * sizeof(float));
      }
    }
  }
}

}  // namespace uniaudio
