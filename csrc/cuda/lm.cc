#include "lm.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

constexpr uint32_t kLastEpoch = 0xF0000000u;

Format format_of(DType dtype, const char* part) {
  if (dtype == DType::int4)
    throw std::invalid_argument(std::string("cuda: expected ") + part +
                                " weights in float32, bfloat16 or int8, got int4; give dtype=int8");
  return dtype == DType::float32    ? Format::float32
         : dtype == DType::bfloat16 ? Format::bfloat16
                                    : Format::int8;
}

// Jobs of a head: the row tiles that hold `ranges`, and how many of them.
std::vector<int32_t> tiles_of(const std::vector<IdRange>& ranges) {
  std::vector<int32_t> tiles;
  for (IdRange r : ranges) {
    for (int32_t t = r.begin / kTileRows; t <= (r.end - 1) / kTileRows; ++t) tiles.push_back(t);
  }
  std::sort(tiles.begin(), tiles.end());
  tiles.erase(std::unique(tiles.begin(), tiles.end()), tiles.end());
  return tiles;
}

// Runs of bytes put together for one upload.
class Bytes {
 public:
  template <class T>
  size_t add(const T* from, size_t count) {
    data_.resize((data_.size() + 15) / 16 * 16);
    const size_t at = data_.size();
    data_.resize(at + count * sizeof(T));
    if (count) std::memcpy(data_.data() + at, from, count * sizeof(T));
    return at;
  }
  char* data() { return data_.data(); }
  size_t size() const { return data_.size(); }

 private:
  std::vector<char> data_;
};

}  // namespace

// --- weights -------------------------------------------------------------------------------------

Lm::Packed Lm::pack(const std::vector<Part>& parts, DType dtype, bool gated) const {
  struct Row {
    const Part* part;
    int64_t index;
  };
  std::vector<Row> rows;
  const int64_t in = parts[0].weight.in;
  bool bias = false;
  for (const Part& p : parts) bias = bias || p.bias.size();
  if (gated) {  // four gates, then the four rows that they open
    for (int64_t i = 0; i < parts[0].weight.out; i += 4) {
      for (const Part& p : parts) {
        for (int64_t j = i; j < i + 4; ++j) rows.push_back({j < p.weight.out ? &p : nullptr, j});
      }
    }
  } else {
    for (const Part& p : parts) {
      for (int64_t i = 0; i < p.weight.out; ++i) rows.push_back({&p, i});
    }
  }
  const Format format = format_of(dtype, "all");
  Packed packed;
  packed.shape = tile_shape(int64_t(rows.size()), in, format);
  const size_t padded = size_t(packed.shape.row_tiles) * kTileRows,
               size = padded * size_t(packed.shape.k_tiles) * kTileRowBytes;
  const int per = tile_inputs(format);
  std::vector<unsigned char> tiles(size, 0);
  std::vector<float> scale(dtype == DType::int8 ? padded : 0, 0.0f),
      biases(bias ? padded : 0, 0.0f);
  for (size_t r = 0; r < rows.size(); ++r) {
    const Part* p = rows[r].part;
    if (!p) continue;
    const int64_t i = rows[r].index;
    if (p->bias.size()) biases[r] = p->bias[size_t(i)];
    if (dtype == DType::int8) scale[r] = p->weight.scale[size_t(i)];
    unsigned char* const row = tiles.data() +
                               r / kTileRows * size_t(packed.shape.k_tiles) * kTileBytes +
                               r % kTileRows * kTileRowBytes;
    for (int64_t k = 0; k < in; ++k) {
      unsigned char* const tile = row + k / per * kTileBytes;
      if (format == Format::float32) {
        std::memcpy(tile + k % per * 4, &p->weight.values[size_t(i * in + k)], 4);
      } else if (format == Format::bfloat16) {
        const uint16_t v = to_bfloat16(p->weight.values[size_t(i * in + k)]);
        std::memcpy(tile + k % per * 2, &v, 2);
      } else {
        tile[k % per] = static_cast<unsigned char>(p->weight.q[size_t(i * in + k)]);
      }
    }
  }
  packed.bytes = size;
  packed.tiles = {device_, tiles.data(), tiles.size()};
  packed.scale = {device_, scale.data(), scale.size()};
  packed.bias = {device_, biases.data(), biases.size()};
  return packed;
}

Lm::Stack Lm::make_stack(const Weights& weights, const std::string& prefix, const StackConfig& c,
                         int64_t max_positions, DType dtype) const {
  const int64_t d = c.width, kv = int64_t(c.kv_heads) * c.head_dim();
  Stack s;
  StackParams& p = s.params;
  std::vector<LayerParams> table;
  for (int i = 0; i < c.layers; ++i) {
    const std::string name = prefix + ".layers." + std::to_string(i);
    const auto read = [&](const std::string& part, int64_t out, int64_t in, bool bias) {
      return Part{weights.matrix(name + part + ".weight", out, in, dtype),
                  bias ? weights.get(name + part + ".bias", {out}) : Buffer<float>()};
    };
    const auto vector = [&](const std::string& part) {
      return floats(weights.get(name + part, {d}));
    };
    const auto list = [](auto&&... part) {
      std::vector<Part> parts;
      (parts.push_back(std::move(part)), ...);
      return parts;
    };
    Layer l;
    l.attn_norm = vector(".attn_norm.weight"), l.mlp_norm = vector(".mlp_norm.weight");
    if (!c.rmsnorm)
      l.attn_norm_bias = vector(".attn_norm.bias"), l.mlp_norm_bias = vector(".mlp_norm.bias");
    l.qkv = pack(list(read(".attn.q", d, d, c.q_bias), read(".attn.k", kv, d, c.k_bias),
                      read(".attn.v", kv, d, c.v_bias)),
                 dtype, false);
    l.o = pack(list(read(".attn.o", d, d, c.o_bias)), dtype, false);
    l.up = c.swiglu ? pack(list(read(".mlp.gate", c.mlp_width, d, c.mlp_bias),
                                read(".mlp.up", c.mlp_width, d, c.mlp_bias)),
                           dtype, true)
                    : pack(list(read(".mlp.up", c.mlp_width, d, c.mlp_bias)), dtype, false);
    l.down = pack(list(read(".mlp.down", d, c.mlp_width, c.mlp_bias)), dtype, false);
    table.push_back({l.attn_norm.data(), l.attn_norm_bias.data(), l.mlp_norm.data(),
                     l.mlp_norm_bias.data(), l.qkv.bias.data(), l.o.bias.data(), l.up.bias.data(),
                     l.down.bias.data(), l.qkv.scale.data(), l.o.scale.data(), l.up.scale.data(),
                     l.down.scale.data()});
    p.up_rows = l.up.shape.row_tiles * kTileRows;
    s.layers.push_back(std::move(l));
  }
  s.table = {device_, table.data(), table.size()};
  s.norm = floats(weights.get(prefix + ".norm.weight", {d}));
  if (!c.rmsnorm) s.norm_bias = floats(weights.get(prefix + ".norm.bias", {d}));
  if (!c.rope) {
    s.positions = floats(weights.get(prefix + ".positions.weight", {max_positions, d}));
  } else {  // in double, as the torch module does
    const int64_t dim = c.head_dim(), half = dim / 2;
    Buffer<float> angles(size_t(max_positions * dim));
    for (int64_t t = 0; t < max_positions; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(t) * std::pow(c.rope_base, -double(2 * i) / double(dim));
        angles[size_t(t * dim + i)] = float(std::cos(angle));
        angles[size_t(t * dim + half + i)] = float(std::sin(angle));
      }
    }
    s.angles = floats(angles);
  }
  p.layer = s.table.data();
  p.norm = s.norm.data(), p.norm_bias = s.norm_bias.data(), p.positions = s.positions.data(),
  p.angles = s.angles.data();
  p.layers = c.layers, p.width = c.width, p.heads = c.heads, p.kv_heads = c.kv_heads,
  p.dim = c.head_dim(), p.hidden = c.mlp_width;
  p.qkv = int(d + 2 * kv);
  p.eps = c.norm_eps, p.rmsnorm = c.rmsnorm, p.swiglu = c.swiglu;
  p.format = format_of(dtype, prefix.c_str());
  return s;
}

Lm::Lm(std::shared_ptr<Device> device, const LmConfig& c, const Weights& weights, LmDTypes dtypes,
       KvDType kv_dtype)
    : device_(std::move(device)),
      config_(c),
      dtypes_(dtypes),
      kv_dtype_(kv_dtype),
      formats_{format_of(dtypes.global, "global"), format_of(dtypes.local, "local"),
               format_of(dtypes.head, "head")},
      embed_width_(c.concat ? c.global.width / c.num_codebooks : c.global.width) {
  if (kv_dtype == KvDType::int8)
    throw std::invalid_argument("cuda: expected kv_dtype float32 or bfloat16, got int8");
  weights.check("lm", lm_tensors(c));
  plan_ = make_plan(c, formats_, device_->limits());
  const int64_t d = c.global.width, v = c.vocab_size;
  host_embed_ = weights.get("global.embed.weight", {v, embed_width_});
  global_embed_ = floats(host_embed_);
  local_embed_ = floats(weights.get("local.embed.weight", {v, c.local.width}));
  if (c.aligned_slots) {
    host_aligned_ = weights.get("guide.weight", {c.aligned_vocab, d});
    aligned_embed_ = floats(host_aligned_);
  }
  for (const auto& [name, width] : c.continuous) {
    continuous_.emplace(name, std::pair(weights.get("continuous." + name + ".weight", {d, width}),
                                        weights.get("continuous." + name + ".bias", {d})));
  }
  global_ = make_stack(weights, "global", c.global, c.max_frames, dtypes.global);
  local_ = make_stack(weights, "local", c.local, c.num_codebooks, dtypes.local);
  const auto single = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    std::vector<Part> parts;
    parts.push_back({weights.matrix(name + ".weight", out, in, dtypes.head),
                     bias ? weights.get(name + ".bias", {out}) : Buffer<float>()});
    return pack(parts, dtypes.head, false);
  };
  bridge_ = single("bridge", c.local.width, c.add ? d / c.num_codebooks : d, true);
  head_ = single("head", v, c.local.width, false);

  // The exchanges, for the most columns.
  const size_t n = size_t(plan_.most_columns);
  size_t at = 0;
  const auto place = [&](size_t words) {
    const size_t here = at;
    at += (words + 15) / 16 * 16;
    return here;
  };
  const auto widest = [&](int StackParams::* m) {
    return size_t(even(std::max(global_.params.*m, local_.params.*m)));
  };
  places_.qkv = place(n * size_t(even(global_.params.qkv)));
  places_.part =
      place(n * size_t(c.global.heads) * kSplits * size_t(even(c.global.head_dim() + 2)));
  places_.x1 = place(n * widest(&StackParams::width));
  places_.x2 = place(n * widest(&StackParams::width));
  places_.hidden = place(n * widest(&StackParams::hidden));
  places_.local_qkv =
      place(n * size_t(c.num_codebooks) * size_t(c.local.layers) * size_t(even(local_.params.qkv)));
  places_.bridged = place(n * size_t(even(c.local.width)));
  places_.logits = place(n * size_t(head_.shape.row_tiles) * kTileRows);
  places_.ids = place(n * 2);
  places_.all = at;
  wide_columns_ = widest_columns();
  wide_from_ = plan_.most_columns + 1;
  exchange_ = {device_, places_.all};
  device_->zero(exchange_.data(), places_.all * sizeof(Word));
}

size_t Lm::weight_bytes(int64_t head_rows) const {
  const auto stack = [](const Stack& s) {
    size_t bytes = 0;
    for (const Layer& l : s.layers) bytes += l.qkv.bytes + l.o.bytes + l.up.bytes + l.down.bytes;
    return bytes;
  };
  const size_t k = size_t(config_.num_codebooks),
               rows = head_rows > 0 ? size_t(head_rows) : size_t(config_.vocab_size);
  return stack(global_) + bridge_.bytes * (config_.add ? k : 1) +
         k * (stack(local_) + head_.bytes / size_t(head_.shape.row_tiles * kTileRows) * rows);
}

size_t Lm::session_bytes(int64_t capacity) const {
  const StackConfig& c = config_.global;
  return size_t(capacity) * (2 * size_t(c.layers) * size_t(c.kv_heads) * cache_row() +
                             size_t(config_.num_codebooks) * 4);
}

size_t Lm::cache_row() const {
  return size_t(padded_dim(config_.global.head_dim()) * (kv_dtype_ == KvDType::bfloat16 ? 2 : 4));
}

void Lm::check_frames(const int32_t* frames, int64_t count) const {
  const int64_t k = config_.num_codebooks;
  for (int64_t i = 0; i < count * k; ++i) {
    if (frames[i] >= 0 && frames[i] < config_.vocab_size) continue;
    throw std::invalid_argument("frames[" + std::to_string(i / k) + ", " + std::to_string(i % k) +
                                "]: expected an id from 0 to " +
                                std::to_string(config_.vocab_size - 1) + ", got " +
                                std::to_string(frames[i]));
  }
}

void Lm::check_aligned(const int32_t* aligned, int64_t count) const {
  if (!aligned) return;
  if (config_.aligned_slots == 0)
    throw std::invalid_argument(
        "aligned: expected none, since this model has no aligned slots; leave it out");
  for (int64_t i = 0; i < count * config_.aligned_slots; ++i) {
    if (aligned[i] >= -1 && aligned[i] < config_.aligned_vocab) continue;
    throw std::invalid_argument("aligned[" + std::to_string(i / config_.aligned_slots) +
                                "]: expected an id from 0 to " +
                                std::to_string(config_.aligned_vocab - 1) +
                                ", or -1 for none, got " + std::to_string(aligned[i]));
  }
}

void Lm::embed(const int32_t* ids, float* x) const {
  const int64_t e = embed_width_;
  for (int k = 0; k < config_.num_codebooks; ++k) {
    const float* const row = host_embed_.data() + ids[k] * e;
    if (config_.concat || k == 0) {
      std::copy_n(row, e, x + (config_.concat ? k * e : 0));
    } else {
      for (int64_t i = 0; i < e; ++i) x[i] += row[i];
    }
  }
}

std::vector<float> Lm::embed_continuous(const ContinuousInput& in) const {
  const auto& [weight, bias] = continuous_.at(in.name);
  const int64_t d = config_.global.width, width = int64_t(weight.size()) / d;
  std::vector<float> out(size_t(in.count * d));
  for (int64_t r = 0; r < in.count; ++r) {
    for (int64_t i = 0; i < d; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < width; ++k)
        sum = std::fma(in.values[r * width + k], weight[size_t(i * width + k)], sum);
      out[size_t(r * d + i)] = sum + bias[size_t(i)];
    }
  }
  return out;
}

// --- launches ------------------------------------------------------------------------------------

FrameParams Lm::params(int columns) const {
  FrameParams p{};
  p.global = global_.params, p.local = local_.params;
  p.embed = {global_embed_.data(), embed_width_, config_.num_codebooks, config_.concat};
  p.local_embed = local_embed_.data(), p.aligned_embed = aligned_embed_.data();
  p.bridge_bias = bridge_.bias.data(), p.bridge_scale = bridge_.scale.data(),
  p.head_scale = head_.scale.data();
  p.vocab = config_.vocab_size, p.codebooks = config_.num_codebooks;
  p.aligned_slots = config_.aligned_slots, p.local_start = config_.local_start_id;
  p.add = config_.add, p.kv_half = kv_dtype_ == KvDType::bfloat16;
  p.head_format = formats_.head;
  p.columns = columns;
  Word* const e = exchange_.data();
  p.qkv = e + places_.qkv, p.part = e + places_.part, p.x1 = e + places_.x1, p.x2 = e + places_.x2,
  p.hidden = e + places_.hidden;
  p.local_qkv = e + places_.local_qkv, p.bridged = e + places_.bridged,
  p.logits = e + places_.logits, p.ids = e + places_.ids;
  return p;
}

void Lm::run(FrameParams& p, const std::vector<Job>& jobs, int head_tiles) const {
  const int depth =
      ring_depth(config_, formats_, device_->limits(), plan_.blocks, p.columns, head_tiles);
  const SharedLayout s =
      shared_layout(config_, formats_, plan_.blocks, p.columns, head_tiles, depth);
  p.at_x = s.x, p.at_local_x = s.local_x, p.at_operand = s.operand, p.at_parts = s.parts,
  p.at_scale = s.scale, p.at_codes = s.codes;
  p.at_flat = s.flat, p.at_ring = s.ring;
  p.job_count = int(jobs.size());
  // Every phase but a few makes one exchange; the bound need not be sharp.
  const uint64_t most = uint64_t(p.rounds) * (jobs.size() * 3 + 64);
  if (epoch_ + most > kLastEpoch) {
    device_->zero(exchange_.data(), places_.all * sizeof(Word));
    epoch_ = 0;
  }
  p.epoch = epoch_;
  device_->frames(p, plan_.blocks, depth, s.bytes);
  epoch_ += uint32_t(most);
}

void Lm::launch_prefill(Session& s, const float* rows, int64_t count, int columns) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  FrameParams p = params(columns);
  p.slots = 0;
  p.rounds = int(count / columns);
  std::vector<Job> jobs;
  for (const Layer& l : global_.layers) {
    for (const Packed* m : {&l.qkv, &l.o, &l.up, &l.down}) jobs.push_back(m->job());
  }
  std::vector<Column> list(static_cast<size_t>(columns));
  for (int c = 0; c < columns; ++c) {
    Column& column = list[size_t(c)];
    column = {};
    column.keys = s.keys_.data(), column.values = s.values_.data();
    column.rows = rows + c * config_.global.width;
    column.capacity = s.capacity_, column.position = s.count_ + c;
    column.plain = column.lead = -1;
  }
  Bytes bytes;
  const size_t at_jobs = bytes.add(jobs.data(), jobs.size()),
               at_columns = bytes.add(list.data(), list.size());
  if (arguments_.size() < bytes.size()) arguments_ = DeviceBuffer<char>(device_, bytes.size() * 2);
  device_->upload(arguments_.data(), bytes.data(), bytes.size());
  p.jobs = reinterpret_cast<const Job*>(arguments_.data() + at_jobs);
  p.column = reinterpret_cast<const Column*>(arguments_.data() + at_columns);
  if (wide(columns)) {
    run_wide(p, jobs, list);
  } else {
    run(p, jobs, 1);
  }
}

void Lm::launch(std::vector<Step*>& steps, int64_t rounds) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int k = config_.num_codebooks, n = int(steps.size());
  FrameParams p = params(n);
  p.rounds = int(rounds);
  p.slots = 1;
  for (const Step* s : steps) {
    if (!s->sampling->tie_slots) p.slots = k;
  }
  Bytes bytes;
  // The head's rows: the union of what the columns need at each slot.
  std::vector<Job> jobs;
  std::vector<size_t> lists;
  int head_tiles = 0;
  const auto stack = [&](const Stack& s) {
    for (const Layer& l : s.layers) {
      for (const Packed* m : {&l.qkv, &l.o, &l.up, &l.down}) jobs.push_back(m->job());
    }
  };
  stack(global_);
  for (int slot = 0; slot < p.slots; ++slot) {
    if (config_.add || slot == 0) jobs.push_back(bridge_.job());
    stack(local_);
    std::vector<IdRange> needed;
    for (const Step* s : steps)
      needed.insert(needed.end(), s->sampler->needed(slot).begin(), s->sampler->needed(slot).end());
    const std::vector<int32_t> tiles = tiles_of(needed);
    head_tiles = std::max(head_tiles, int(tiles.size()));
    Job head = head_.job();
    head.row_tiles = int32_t(tiles.size());
    lists.push_back(bytes.add(tiles.data(), tiles.size()));
    // its place until the buffer is known
    head.list = reinterpret_cast<const int32_t*>(lists.back() + 1);
    jobs.push_back(head);
  }
  struct Places {
    size_t ranges, begin, ends, aligned, forced;
  };
  std::vector<Places> at(steps.size());
  std::vector<Column> columns(steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = *steps[i];
    Session& s = *step.session;
    const SamplingConfig& c = *step.sampling;
    std::vector<Range> ranges;
    std::vector<int32_t> begin;
    std::vector<uint8_t> ends;
    for (int slot = 0; slot < k; ++slot) {
      begin.push_back(int32_t(ranges.size()));
      for (IdRange r : step.sampler->needed(slot)) ranges.push_back({r.begin, r.end});
      ends.push_back(c.end_id >= 0 && step.sampler->ends(slot, int32_t(c.end_id)));
    }
    begin.push_back(int32_t(ranges.size()));
    at[i] = {bytes.add(ranges.data(), ranges.size()), bytes.add(begin.data(), begin.size()),
             bytes.add(ends.data(), ends.size()),
             step.aligned ? bytes.add(step.aligned, size_t(rounds * config_.aligned_slots)) : 0,
             step.forced ? bytes.add(step.forced, size_t(rounds * k)) : 0};
    Column& column = columns[i];
    column = {};
    column.keys = s.keys_.data(), column.values = s.values_.data(),
    column.history = s.history_.data(), column.last = s.last_.data(),
    column.result = s.result_.data();
    column.logits = step.logits;
    column.capacity = s.capacity_, column.position = s.count_, column.generated = s.generated_,
    column.key_frame = s.frame_offset_;
    const bool greedy = c.greedy || c.temperature == 0 || c.top_k == 1;
    Sampling& d = column.sampling;
    d.top_p = c.top_p, d.seed = c.seed, d.temperature = greedy ? 1.0f : float(c.temperature),
    d.penalty = float(c.repetition_penalty);
    d.top_k = int32_t(std::min<int64_t>(c.top_k, INT32_MAX)), d.greedy = greedy,
    d.window = int32_t(std::min<int64_t>(c.repetition_window, INT32_MAX));
    column.plain = column.lead = -1;
    if (i + 1 < steps.size() && steps[i + 1]->goes_along)
      column.plain = int32_t(i + 1), column.guidance = s.guidance_;
    if (step.goes_along) column.lead = int32_t(i - 1);
    d.end_id = int32_t(c.end_id),
    d.min_frames = int32_t(std::min<int64_t>(c.min_frames, INT32_MAX)), d.tie = c.tie_slots;
  }
  const size_t at_jobs = bytes.add(jobs.data(), jobs.size()),
               at_columns = bytes.add(columns.data(), columns.size());
  if (arguments_.size() < bytes.size()) arguments_ = DeviceBuffer<char>(device_, bytes.size() * 2);
  char* const base = arguments_.data();
  Job* const placed = reinterpret_cast<Job*>(bytes.data() + at_jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (placed[i].list)
      placed[i].list =
          reinterpret_cast<const int32_t*>(base + (reinterpret_cast<size_t>(placed[i].list) - 1));
  }
  Column* const column = reinterpret_cast<Column*>(bytes.data() + at_columns);
  for (size_t i = 0; i < steps.size(); ++i) {
    column[i].sampling.ranges = reinterpret_cast<const Range*>(base + at[i].ranges);
    column[i].sampling.range_begin = reinterpret_cast<const int32_t*>(base + at[i].begin);
    column[i].sampling.end_slot = reinterpret_cast<const uint8_t*>(base + at[i].ends);
    if (steps[i]->aligned)
      column[i].aligned = reinterpret_cast<const int32_t*>(base + at[i].aligned);
    if (steps[i]->forced) column[i].forced = reinterpret_cast<const int32_t*>(base + at[i].forced);
  }
  device_->upload(base, bytes.data(), bytes.size());
  p.jobs = reinterpret_cast<const Job*>(base + at_jobs);
  p.column = reinterpret_cast<const Column*>(base + at_columns);
  if (wide(n) && !steps[0]->forced) {
    run_wide(p, {placed, placed + jobs.size()}, {column, column + steps.size()});
  } else {
    run(p, jobs, head_tiles);
  }
  for (Step* step : steps) {
    Session& s = *step->session;
    int32_t result[3];
    device_->download(result, s.result_.data(), sizeof result);
    if (result[2]) {
      throw std::runtime_error(result[2] == 1
                                   ? "the model gave infinite or NaN logits; its weights are "
                                     "damaged or the temperature is too small"
                                   : "sampling: nothing may be emitted before min_frames but the "
                                     "end id; allow more ids");
    }
    step->made = result[0];
    s.count_ += result[0];
    s.generated_ += result[0];
    if (result[1]) s.finished_ = true;
  }
}

void Lm::logits(const int32_t* frames, int64_t count, const int32_t* aligned,
                const std::vector<ContinuousInput>& continuous, float* out) const {
  check_frames(frames, count);
  check_aligned(aligned, count);
  if (count > config_.max_frames) {
    throw std::invalid_argument("frames: expected at most max_frames " +
                                std::to_string(config_.max_frames) + ", got " +
                                std::to_string(count));
  }
  if (!continuous.empty())
    throw std::invalid_argument("logits: continuous inputs are not there on cuda; use device cpu");
  const int k = config_.num_codebooks;
  const int64_t v = config_.vocab_size, n = int64_t(head_.shape.row_tiles) * kTileRows;
  // This shared pointer does not own: the session ends before this call does.
  Session session(std::shared_ptr<const Lm>(std::shared_ptr<const Lm>(), this), count);
  SamplingConfig all;
  all.greedy = true;
  const Sampler sampler(all, config_);
  const DeviceBuffer<float> buffer(device_, size_t(kRounds * k * n));
  std::vector<float> host(size_t(kRounds * k * n));
  for (int64_t at = 0; at < count; at += kRounds) {
    const int64_t rounds = std::min(kRounds, count - at);
    Step step{&session,        &all,
              &sampler,        aligned ? aligned + at * config_.aligned_slots : nullptr,
              frames + at * k, buffer.data()};
    std::vector<Step*> steps = {&step};
    launch(steps, rounds);
    device_->download(host.data(), buffer.data(), size_t(rounds * k * n) * sizeof(float));
    for (int64_t i = 0; i < rounds * k; ++i)
      std::copy_n(host.data() + i * n, v, out + (at * k + i) * v);
  }
}

}  // namespace uniaudio::cuda
