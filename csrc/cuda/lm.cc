#include "lm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio::cuda {
namespace {

Format format_of(DType dtype, const char* part) {
  if (dtype == DType::int4)
    throw std::invalid_argument(std::string("cuda: expected ") + part +
                                " weights in float32, bfloat16 or int8, got int4; give dtype=int8");
  return dtype == DType::float32    ? Format::float32
         : dtype == DType::bfloat16 ? Format::bfloat16
                                    : Format::int8;
}

}  // namespace

// --- weights -------------------------------------------------------------------------------------

Lm::Packed Lm::pack(const std::vector<Part>& parts, DType dtype, bool gated, int set,
                    int sets) const {
  struct Row {
    const Part* part;
    int64_t index;
  };
  std::vector<Row> rows;
  const auto add = [&](const Part& p, int64_t i) {
    const int64_t out = p.weight.out / sets;
    rows.push_back({i < out ? &p : nullptr, set * out + i});
  };
  const int64_t in = parts[0].weight.in;
  bool bias = false;
  for (const Part& p : parts) bias = bias || p.bias.size();
  if (gated) {  // four gates, then the four rows that they open
    for (int64_t i = 0; i < parts[0].weight.out / sets; i += 4) {
      for (const Part& p : parts) {
        for (int64_t j = i; j < i + 4; ++j) add(p, j);
      }
    }
  } else {
    for (const Part& p : parts) {
      for (int64_t i = 0; i < p.weight.out / sets; ++i) add(p, i);
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
                         int64_t max_positions, DType dtype, int sets) const {
  const int64_t d = c.width, query = c.query_width(), kv = c.key_width();
  Stack s;
  StackParams& p = s.params;
  std::vector<LayerParams> table(size_t(sets * c.layers));
  for (int i = 0; i < c.layers; ++i) {
    const std::string name = prefix + ".layers." + std::to_string(i);
    const auto read = [&](const std::string& part, int64_t out, int64_t in, bool bias) {
      return Part{weights.matrix(name + part + ".weight", sets * out, in, dtype),
                  bias ? weights.get(name + part + ".bias", {sets * out}) : Buffer<float>()};
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
    if (c.qk_norm) {
      const int64_t dim = c.head_dim();
      l.q_norm = floats(weights.get(name + ".attn.q_norm.weight", {dim}));
      l.k_norm = floats(weights.get(name + ".attn.k_norm.weight", {dim}));
    }
    const std::vector<Part> qkv = list(read(".attn.q", query, d, c.q_bias),
                                       read(".attn.k", kv, d, c.k_bias),
                                       read(".attn.v", kv, d, c.v_bias)),
                            o = list(read(".attn.o", d, query, c.o_bias)),
                            down = list(read(".mlp.down", d, c.mlp_width, c.mlp_bias));
    std::vector<Part> up = list(read(".mlp.up", c.mlp_width, d, c.mlp_bias));
    if (c.gated()) up.insert(up.begin(), read(".mlp.gate", c.mlp_width, d, c.mlp_bias));
    for (int set = 0; set < sets; ++set) {
      const Projections& w = l.sets.emplace_back(
          Projections{pack(qkv, dtype, false, set, sets), pack(o, dtype, false, set, sets),
                      pack(up, dtype, c.gated(), set, sets), pack(down, dtype, false, set, sets)});
      table[size_t(set * c.layers + i)] = {
          l.attn_norm.data(), l.attn_norm_bias.data(), l.mlp_norm.data(),  l.mlp_norm_bias.data(),
          l.q_norm.data(),    l.k_norm.data(),         w.qkv.bias.data(),  w.o.bias.data(),
          w.up.bias.data(),   w.down.bias.data(),      w.qkv.scale.data(), w.o.scale.data(),
          w.up.scale.data(),  w.down.scale.data()};
      p.up_rows = w.up.shape.row_tiles * kTileRows;
    }
    s.layers.push_back(std::move(l));
  }
  s.table = {device_, table.data(), table.size()};
  if (c.final_norm) s.norm = floats(weights.get(prefix + ".norm.weight", {d}));
  if (c.final_norm && !c.rmsnorm) s.norm_bias = floats(weights.get(prefix + ".norm.bias", {d}));
  if (!c.rope) {
    s.positions = floats(weights.get(prefix + ".positions.weight", {max_positions, d}));
  } else {  // in double, as the torch module does
    const int64_t dim = c.head_dim(), half = dim / 2;
    const std::vector<double> frequencies = c.frequencies();
    Buffer<float> angles(size_t(max_positions * dim));
    for (int64_t t = 0; t < max_positions; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(t) * frequencies[size_t(i)];
        angles[size_t(t * dim + i)] = float(std::cos(angle));
        angles[size_t(t * dim + half + i)] = float(std::sin(angle));
      }
    }
    s.angles = floats(angles);
  }
  p.layer = s.table.data();
  p.norm = s.norm.data(), p.norm_bias = s.norm_bias.data(), p.positions = s.positions.data(),
  p.angles = s.angles.data();
  p.layers = c.layers, p.slot_layers = sets > 1 ? c.layers : 0, p.width = c.width,
  p.heads = c.heads, p.kv_heads = c.kv_heads, p.dim = c.head_dim(), p.hidden = c.mlp_width;
  p.qkv = int(query + 2 * kv), p.window = c.window;
  p.eps = c.norm_eps, p.rmsnorm = c.rmsnorm, p.swiglu = c.gated();
  p.gelu_tanh = c.activation == Activation::gelu_tanh;
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
      embed_width_(c.embed_width()) {
  if (kv_dtype == KvDType::int8)
    throw std::invalid_argument("cuda: expected kv_dtype float32 or bfloat16, got int8");
  if (c.global_head_size > 0 && c.add && !c.project) {
    throw std::invalid_argument(
        "cuda: expected a model without conditioning add and a head on the global stack, which "
        "kernels do not have; use device cpu");
  }
  weights.check("lm", lm_tensors(c));
  plan_ = make_plan(c, formats_, device_->limits());
  const int64_t d = c.global.width, v = c.vocab_size;
  host_embed_ = weights.get("global.embed.weight", {v, embed_width_});
  global_embed_ = floats(host_embed_);
  if (!c.tied_local)
    local_embed_ =
        floats(weights.get(c.local_table() + ".weight", {c.local_rows(), c.local.width}));
  if (c.aligned_slots) {
    host_aligned_ = weights.get("guide.weight", {c.aligned_vocab, d});
    aligned_embed_ = floats(host_aligned_);
  }
  for (const auto& [name, width] : c.continuous) {
    continuous_.emplace(name, std::pair(weights.get("continuous." + name + ".weight", {d, width}),
                                        weights.get("continuous." + name + ".bias", {d})));
  }
  delays_ = {device_, c.delays.data(), c.delays.size()};
  delay_ids_ = {device_, c.delay_ids.data(), c.delay_ids.size()};
  global_ = make_stack(weights, "global", c.global, c.max_frames + c.max_delay(), dtypes.global, 1);
  local_ = make_stack(weights, "local", c.local, c.local_slots(), dtypes.local, c.weight_sets());
  const auto single = [&](const std::string& name, int64_t out, int64_t in, bool bias, int set,
                          int sets) {
    std::vector<Part> parts;
    parts.push_back({weights.matrix(name + ".weight", out, in, dtypes.head),
                     bias ? weights.get(name + ".bias", {out}) : Buffer<float>()});
    return pack(parts, dtypes.head, false, set, sets);
  };
  const int bridges = c.bridge_out() / c.local.width;
  std::vector<BridgeParams> table;
  for (int i = 0; i < bridges; ++i) {
    const Packed& b =
        bridges_.emplace_back(single("bridge", c.bridge_out(), c.bridge_in(), true, i, bridges));
    table.push_back({b.bias.data(), b.scale.data()});
  }
  bridge_table_ = {device_, table.data(), table.size()};
  head_ = single(c.head_table(), c.local_rows(), c.local.width, false, 0, 1);
  if (c.global_head_size > 0)
    first_head_ = single("global_head", c.global_head_size, d, false, 0, 1);

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
  places_.logits =
      place(n * size_t(std::max(head_.shape.row_tiles, first_head_.shape.row_tiles)) * kTileRows);
  places_.ids = place(n * size_t(even(1 + c.given_slots)));
  places_.all = at;
  batched_columns_ = most_batched_columns();
  batched_from_ = plan_.most_columns + 1;
  exchange_ = {device_, places_.all};
  device_->zero(exchange_.data(), places_.all * sizeof(Word));
}

size_t Lm::weight_bytes(int64_t head_rows) const {
  const auto stack = [](const Stack& s) {
    size_t bytes = 0;
    for (const Layer& l : s.layers) {  // sets are alike
      const Projections& w = l.at(0);
      bytes += w.qkv.bytes + w.o.bytes + w.up.bytes + w.down.bytes;
    }
    return bytes;
  };
  const size_t k = size_t(config_.num_codebooks), first = first_head_.bytes ? 1 : 0,
               rows = head_rows > 0 ? size_t(head_rows) : size_t(config_.local_rows());
  return stack(global_) + bridges_[0].bytes * size_t(config_.bridge_rows()) +
         size_t(config_.local_slots()) * stack(local_) + first_head_.bytes +
         (k - first) * (head_.bytes / size_t(head_.shape.row_tiles * kTileRows) * rows);
}

IdRange Lm::head_ids(int slot) const {
  const int start = global_head(slot) ? config_.global_head_start : config_.local_table_start;
  return {start, start + (global_head(slot) ? config_.global_head_size : config_.local_rows())};
}

std::vector<IdRange> Lm::needed(const Sampler& sampler, int slot) const {
  const int32_t first = head_ids(slot).begin;
  return sampler.is_fixed(slot) ? std::vector<IdRange>{{first, first + 1}} : sampler.needed(slot);
}

int64_t Lm::held(int64_t capacity) const {
  const int64_t steps = capacity + config_.max_delay(), window = config_.global.window;
  if (window == 0) return steps;
  // All positions of a launch may be written before the first of them is attended to. A block that
  // reads a position writes it too, whichever time round the ring it is, since a ring holds whole
  // chunks of each split.
  constexpr int64_t kWhole = kChunk * kSplits;
  return std::min(steps, (window + kBatchedColumns - 1 + kWhole - 1) / kWhole * kWhole);
}

size_t Lm::session_bytes(int64_t capacity) const {
  const StackConfig& c = config_.global;
  return size_t(held(capacity)) * 2 * size_t(c.layers) * size_t(c.kv_heads) * cache_row() +
         size_t(capacity + config_.max_delay()) * size_t(config_.num_codebooks) * 4;
}

size_t Lm::cache_row() const {
  return size_t(padded_dim(config_.global.head_dim()) * (kv_dtype_ == KvDType::bfloat16 ? 2 : 4));
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

void Lm::embed_continuous(const ContinuousInput& in, float* out) const {
  const auto& [weight, bias] = continuous_.at(in.name);
  const int64_t d = config_.global.width, width = int64_t(weight.size()) / d;
  for (int64_t r = 0; r < in.count; ++r) {
    for (int64_t i = 0; i < d; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < width; ++k)
        sum = std::fma(in.values[r * width + k], weight[size_t(i * width + k)], sum);
      out[r * d + i] = sum + bias[size_t(i)];
    }
  }
}

}  // namespace uniaudio::cuda
