#include "transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace uniaudio {
namespace {

constexpr int64_t kTableRows = 4096;  // rope positions beyond are computed as they come
// positions x dimensions x rows that are worth handing to another thread
constexpr int64_t kAttentionGrain = 16384;

}  // namespace

const char* kv_dtype_name(KvDType dtype) {
  return dtype == KvDType::int8 ? "int8" : dtype == KvDType::bfloat16 ? "bfloat16" : "float32";
}

KvDType parse_kv_dtype(const char* name) {
  const std::string s = name;
  for (KvDType dtype : {KvDType::float32, KvDType::bfloat16, KvDType::int8}) {
    if (s == kv_dtype_name(dtype)) return dtype;
  }
  throw std::invalid_argument("kv_dtype: expected \"float32\", \"bfloat16\" or \"int8\", got \"" +
                              s + "\"");
}

// --- cache ---------------------------------------------------------------------------------------

KvCache::Run KvCache::run(const StackConfig& c, int64_t length, KvDType dtype) {
  const int64_t dim = c.head_dim(), blocks = round_up(length, 16);
  if (dtype == KvDType::bfloat16)
    return {size_t(blocks * round_up(dim, 2) * 2), size_t(length * round_up(dim, 32) * 2), 0};
  const int64_t size = dtype == KvDType::float32 ? 4 : 1;
  return {size_t(blocks * dim * size), size_t(length * round_up(dim, 16) * size),
          dtype == KvDType::int8 ? size_t(length) * sizeof(float) : 0};
}

KvCache::KvCache(const StackConfig& c, int64_t capacity, KvDType dtype)
    : config_(c), dtype_(dtype), capacity_(capacity) {
  size_ = run(round_up(capacity, 16));  // scales are read sixteen at a time
  keys_.allocate(heads() * size_.keys);
  values_.allocate(heads() * size_.values);
  key_scale_.allocate(heads() * size_.scales / sizeof(float));
  value_scale_.allocate(heads() * size_.scales / sizeof(float));
}

void KvCache::grow(int64_t length) {
  if (length <= capacity_) return;
  KvCache larger(config_, length, dtype_);
  larger.copy_from(*this, capacity_);
  larger.base_ = base_;
  *this = std::move(larger);
}

int64_t KvCache::base_of(const StackConfig& c, int64_t position) {
  return c.window > 0 ? std::max<int64_t>(0, position - c.window + 1) / 16 * 16 : 0;
}

void KvCache::slide(int64_t position) {
  const int64_t to = base_of(config_, position), kept = position - to;
  if (to <= base_) return;
  // Blocks of 16 positions stay whole: everything moves by a multiple of them.
  const Run gone = run(to - base_), rest = run(round_up(kept, 16));
  const auto move = [](void* at, size_t skipped, size_t bytes) {
    std::memmove(at, static_cast<const char*>(at) + skipped, bytes);
  };
  for (size_t i = 0; i < heads(); ++i) {
    move(keys_.data() + i * size_.keys, gone.keys, std::min(rest.keys, size_.keys - gone.keys));
    move(values_.data() + i * size_.values, gone.values,
         std::min(rest.values, size_.values - gone.values));
    if (!gone.scales) continue;
    const size_t scales = std::min(rest.scales, size_.scales - gone.scales),
                 first = i * size_.scales / sizeof(float);
    move(key_scale_.data() + first, gone.scales, scales);
    move(value_scale_.data() + first, gone.scales, scales);
  }
  base_ = to;
}

KvCache::Head KvCache::head(int layer, int head) {
  const size_t i = size_t(layer) * size_t(config_.kv_heads) + size_t(head),
               scales = i * size_.scales / sizeof(float);
  return {keys_.data() + i * size_.keys, values_.data() + i * size_.values,
          size_.scales ? key_scale_.data() + scales : nullptr,
          size_.scales ? value_scale_.data() + scales : nullptr};
}

KvCache::Head KvCache::skip(Head head, int64_t positions) const {
  if (positions <= 0) return head;
  const Run gone = run(positions);
  const int64_t scales = head.key_scale ? positions : 0;
  return {static_cast<char*>(head.keys) + gone.keys, static_cast<char*>(head.values) + gone.values,
          head.key_scale + scales, head.value_scale + scales};
}

size_t KvCache::bytes(const StackConfig& c, int64_t capacity, KvDType dtype) {
  return size_t(c.layers) * size_t(c.kv_heads) * run(c, round_up(capacity, 16), dtype).sum();
}

size_t KvCache::packed_bytes(int64_t length) const { return heads() * run(length).sum(); }

void KvCache::pack(int64_t length, char* out) const {
  const Run part = run(length);
  const auto put = [&](const void* from, size_t offset, size_t bytes) {
    if (bytes) std::memcpy(out, static_cast<const char*>(from) + offset, bytes);
    out += bytes;
  };
  for (size_t i = 0; i < heads(); ++i) {
    put(keys_.data(), i * size_.keys, part.keys);
    put(values_.data(), i * size_.values, part.values);
    put(key_scale_.data(), i * size_.scales, part.scales);
    put(value_scale_.data(), i * size_.scales, part.scales);
  }
}

void KvCache::unpack(int64_t length, const char* in) {
  const Run part = run(length);
  const auto take = [&](void* to, size_t offset, size_t bytes) {
    if (bytes) std::memcpy(static_cast<char*>(to) + offset, in, bytes);
    in += bytes;
  };
  for (size_t i = 0; i < heads(); ++i) {
    take(keys_.data(), i * size_.keys, part.keys);
    take(values_.data(), i * size_.values, part.values);
    take(key_scale_.data(), i * size_.scales, part.scales);
    take(value_scale_.data(), i * size_.scales, part.scales);
  }
}

bool KvCache::all_finite(int64_t length, const char* packed) const {
  const Run part = run(length);
  // Of int8 the scales only: any byte is an element.
  const auto finite = [](const char* p, size_t bytes, size_t size) {
    for (size_t i = 0; i < bytes; i += size) {
      uint32_t bits = 0;
      std::memcpy(&bits, p + i, size);
      if (size == 2) bits <<= 16;
      if ((bits & 0x7F800000u) == 0x7F800000u) return false;
    }
    return true;
  };
  const size_t size = dtype_ == KvDType::bfloat16 ? 2 : 4;
  for (size_t i = 0; i < heads(); ++i, packed += part.sum()) {
    if (dtype_ == KvDType::int8 ? !finite(packed + part.keys + part.values, 2 * part.scales, 4)
                                : !finite(packed, part.keys + part.values, size))
      return false;
  }
  return true;
}

void KvCache::copy_from(const KvCache& o, int64_t length) {
  const Run part = run(length);
  for (size_t i = 0; i < heads() && length > 0; ++i) {
    std::memcpy(keys_.data() + i * size_.keys, o.keys_.data() + i * o.size_.keys, part.keys);
    std::memcpy(values_.data() + i * size_.values, o.values_.data() + i * o.size_.values,
                part.values);
    if (!part.scales) continue;
    std::memcpy(key_scale_.data() + i * size_.scales / sizeof(float),
                o.key_scale_.data() + i * o.size_.scales / sizeof(float), part.scales);
    std::memcpy(value_scale_.data() + i * size_.scales / sizeof(float),
                o.value_scale_.data() + i * o.size_.scales / sizeof(float), part.scales);
  }
}

// --- stack ---------------------------------------------------------------------------------------

void TransformerScratch::reserve(const StackConfig& c, int64_t rows, int64_t capacity,
                                 int threads) {
  normed.reserve(size_t(rows * c.width));
  qkv.reserve(size_t(rows * (c.query_width() + 2 * c.key_width())));
  attended.reserve(size_t(rows * c.query_width()));
  hidden.reserve(size_t(rows * c.mlp_width));
  // Odd multiples of 16 floats: rows at a power of two's distance would share few places of the
  // first-level cache.
  scores_stride = std::max(scores_stride, round_up(capacity, 32) + 16);
  attention_stride = kAttentionRows * (scores_stride + c.head_dim()) + 16;
  attention.reserve(size_t(threads * attention_stride));
  if (int64_t(blocks.size()) < rows) blocks.resize(size_t(rows));
  angles.reserve(size_t(rows * c.head_dim()));
  linear.reserve(rows, std::max({c.width, c.query_width(), c.mlp_width}));
}

void Transformer::add_tensors(std::vector<TensorSpec>& specs, const std::string& prefix,
                              const StackConfig& c, int64_t max_positions, int sets) {
  const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    specs.push_back({name + ".weight", {sets * out, in}});
    if (bias) specs.push_back({name + ".bias", {sets * out}});
  };
  const auto norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", {c.width}});
    if (!c.rmsnorm) specs.push_back({name + ".bias", {c.width}});
  };
  const int64_t d = c.width, query = c.query_width(), kv = c.key_width();
  if (!c.rope) specs.push_back({prefix + ".positions.weight", {max_positions, d}});
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = prefix + ".layers." + std::to_string(i);
    norm(layer + ".attn_norm");
    linear(layer + ".attn.q", query, d, c.q_bias);
    linear(layer + ".attn.k", kv, d, c.k_bias);
    linear(layer + ".attn.v", kv, d, c.v_bias);
    linear(layer + ".attn.o", d, query, c.o_bias);
    if (c.qk_norm) {
      specs.push_back({layer + ".attn.q_norm.weight", {c.head_dim()}});
      specs.push_back({layer + ".attn.k_norm.weight", {c.head_dim()}});
    }
    norm(layer + ".mlp_norm");
    linear(layer + ".mlp.up", c.mlp_width, d, c.mlp_bias);
    if (c.gated()) linear(layer + ".mlp.gate", c.mlp_width, d, c.mlp_bias);
    linear(layer + ".mlp.down", d, c.mlp_width, c.mlp_bias);
  }
  if (c.final_norm) norm(prefix + ".norm");
}

Transformer::Transformer(const Weights& weights, const std::string& prefix, const StackConfig& c,
                         int64_t max_positions, DType dtype, ThreadPool* pool, int sets)
    : config_(c), frequencies_(c.frequencies()) {
  const int64_t d = c.width, query = c.query_width(), kv = c.key_width();
  qkv_width_ = query + 2 * kv;
  if (c.final_norm) norm_ = Norm(weights, prefix + ".norm", d, c.rmsnorm, c.norm_eps);
  if (!c.rope) {
    positions_ = weights.get(prefix + ".positions.weight", {max_positions, d});
  } else {
    const int64_t rows = std::min(max_positions, kTableRows);
    table_.allocate(size_t(rows * c.head_dim()));
    for (int64_t t = 0; t < rows; ++t) angles(t, table_.data() + t * c.head_dim());
    table_rows_ = rows;
  }
  for (int i = 0; i < c.layers; ++i) {
    const std::string name = prefix + ".layers." + std::to_string(i);
    struct Read {  // those of all sets, one after the other
      Matrix weight;
      Buffer<float> bias;
      int64_t out;
      Linear::Part part(int set) const {
        return {&weight, bias.size() ? bias.data() + set * out : nullptr, set * out, out};
      }
    };
    const auto read = [&](const std::string& part, int64_t out, int64_t in, bool bias) {
      return Read{weights.matrix(name + part + ".weight", sets * out, in, dtype, pool),
                  bias ? weights.get(name + part + ".bias", {sets * out}) : Buffer<float>(), out};
    };
    Layer layer;
    layer.attn_norm = Norm(weights, name + ".attn_norm", d, c.rmsnorm, c.norm_eps);
    layer.mlp_norm = Norm(weights, name + ".mlp_norm", d, c.rmsnorm, c.norm_eps);
    if (c.qk_norm) {
      layer.q_norm = weights.get(name + ".attn.q_norm.weight", {c.head_dim()});
      layer.k_norm = weights.get(name + ".attn.k_norm.weight", {c.head_dim()});
    }
    layer.sets.resize(size_t(sets));
    const auto each = [&](const auto& make) {
      for (int set = 0; set < sets; ++set) make(layer.sets[size_t(set)], set);
    };
    {
      const Read q = read(".attn.q", query, d, c.q_bias), k = read(".attn.k", kv, d, c.k_bias),
                 v = read(".attn.v", kv, d, c.v_bias);
      each([&](Projections& p, int set) {
        p.qkv = Linear({q.part(set), k.part(set), v.part(set)}, dtype);
      });
    }
    const Read o = read(".attn.o", d, query, c.o_bias);
    each([&](Projections& p, int set) { p.o = Linear({o.part(set)}, dtype); });
    {
      const Read up = read(".mlp.up", c.mlp_width, d, c.mlp_bias),
                 gate = c.gated() ? read(".mlp.gate", c.mlp_width, d, c.mlp_bias) : Read{};
      each([&](Projections& p, int set) {
        p.up = c.gated() ? Linear::gated(gate.part(set), up.part(set), dtype)
                         : Linear({up.part(set)}, dtype);
      });
    }
    const Read down = read(".mlp.down", d, c.mlp_width, c.mlp_bias);
    each([&](Projections& p, int set) { p.down = Linear({down.part(set)}, dtype); });
    layers_.push_back(std::move(layer));
  }
}

void Transformer::set_stream(bool stream) {
  for (Layer& l : layers_) {
    for (Projections& p : l.sets)
      for (Linear* linear : {&p.qkv, &p.o, &p.up, &p.down}) linear->set_stream(stream);
  }
}

size_t Transformer::weight_bytes() const {
  size_t bytes = norm_.weight_bytes();
  for (const Layer& l : layers_) {
    bytes += l.attn_norm.weight_bytes() + l.mlp_norm.weight_bytes();
    for (const Projections& p : l.sets)
      bytes +=
          p.qkv.weight_bytes() + p.o.weight_bytes() + p.up.weight_bytes() + p.down.weight_bytes();
  }
  return bytes;
}

// Angles in double, as the torch module does.
void Transformer::angles(int64_t position, float* out) const {
  const int64_t dim = config_.head_dim(), half = dim / 2;
  if (position < table_rows_) {
    std::memcpy(out, table_.data() + position * dim, size_t(dim) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < half; ++i) {
    const double angle = double(position) * frequencies_[size_t(i)];
    out[i] = float(std::cos(angle));
    out[half + i] = float(std::sin(angle));
  }
}

void Transformer::make_blocks(TransformerScratch& s, const SequenceRow* rows, int64_t count) const {
  const int64_t most = std::max(1, kAttentionRows * config_.kv_heads / config_.heads);
  s.block_count = 0;
  s.alone = true;
  for (int64_t r = 0; r < count; ++r) {
    const bool same = r > 0 && rows[r].cache == rows[r - 1].cache;
    s.alone = s.alone && !same;
    if (same && s.blocks[size_t(s.block_count - 1)].rows < most) {
      ++s.blocks[size_t(s.block_count - 1)].rows;
    } else {
      s.blocks[size_t(s.block_count++)] = {r, 1};
    }
  }
}

void Transformer::place(TransformerScratch& s, int layer, const SequenceRow* rows, int64_t row,
                        int head) const {
  const int64_t dim = config_.head_dim(), group = config_.heads / config_.kv_heads;
  float* const qkv = s.qkv.data() + row * qkv_width_;
  const KvCache::Head to = rows[row].cache->head(layer, head);
  PlaceArgs a{};
  a.q = qkv + head * group * dim;
  a.k = qkv + config_.query_width() + head * dim;
  a.v = a.k + config_.kv_heads * dim;
  a.query_heads = group;
  if (config_.qk_norm) {
    const Layer& l = layers_[size_t(layer)];
    a.q_norm = l.q_norm.data(), a.k_norm = l.k_norm.data(), a.eps = config_.norm_eps;
  }
  a.angles = config_.rope ? s.angles.data() + row * dim : nullptr;
  a.dim = dim;
  a.dtype = rows[row].cache->dtype();
  a.position = rows[row].position - rows[row].cache->base();
  a.keys = to.keys, a.values = to.values, a.key_scale = to.key_scale,
  a.value_scale = to.value_scale;
  kernels().place(a);
}

void Transformer::attend(ThreadPool& pool, TransformerScratch& s, int layer,
                         const SequenceRow* rows, int64_t count, bool cache_only) const {
  const StackConfig& c = config_;
  const int64_t dim = c.head_dim(), group = c.heads / c.kv_heads;
  // A sequence's one row is put into the cache by whoever attends to it next, head by head. Several
  // have to be there all before the first is attended to.
  const bool apart = cache_only || !s.alone;
  if (apart) {
    pool.run(count, 1 + 16384 / qkv_width_, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        for (int h = 0; h < c.kv_heads; ++h) place(s, layer, rows, r, h);
      }
    });
  }
  if (cache_only) return;
  const Kernels& kernel = kernels();
  int64_t longest = 0;
  for (int64_t r = 0; r < count; ++r) longest = std::max(longest, rows[r].position + 1);
  if (c.window > 0) longest = std::min<int64_t>(longest, c.window);
  const int64_t work = (longest + 16) * dim * group * std::min<int64_t>(count, kAttentionRows);
  // What a piece of the work reads. The positions before all rows' windows are passed over, sixteen
  // at a time.
  const auto seen = [&](int64_t i) {
    const SequenceRow& row = rows[s.blocks[size_t(i % s.block_count)].first];
    return row.cache->skip(row.cache->head(layer, int(i / s.block_count)),
                           KvCache::base_of(c, row.position) - row.cache->base());
  };
  // Heads outside: a thread's share of the blocks reads few heads' keys and values, which stay in
  // its cache.
  pool.run(s.block_count * c.kv_heads, 1 + kAttentionGrain / work,
           [&](int64_t begin, int64_t end, int thread) {
             for (int64_t i = begin; i < end; ++i) {
               const int h = int(i / s.block_count);
               const TransformerScratch::Block block = s.blocks[size_t(i % s.block_count)];
               const KvCache& cache = *rows[block.first].cache;
               if (!apart) place(s, layer, rows, block.first, h);
               const int64_t first = KvCache::base_of(c, rows[block.first].position);
               const KvCache::Head at = seen(i);
               AttentionArgs a;
               a.keys = at.keys, a.values = at.values, a.key_scale = at.key_scale,
               a.value_scale = at.value_scale;
               a.then = seen(i + 1 < end ? i + 1 : i).keys;
               a.dim = dim;
               a.dtype = cache.dtype();
               a.scale = 1.0f / std::sqrt(float(dim));
               a.scratch = s.attention.data() + thread * s.attention_stride;
               a.scratch_stride = s.scores_stride;
               a.rows = 0;
               for (int64_t r = block.first; r < block.first + block.rows; ++r) {
                 for (int64_t g = h * group; g < (h + 1) * group; ++g) {
                   const int64_t own = rows[r].position - first,
                                 begin = c.window > 0 ? own + 1 - c.window : 0;
                   a.row[a.rows++] = {s.qkv.data() + r * qkv_width_ + g * dim,
                                      s.attended.data() + r * c.query_width() + g * dim, own + 1,
                                      std::max<int64_t>(begin, 0)};
                   // groups larger than a block of rows
                   if (a.rows == kAttentionRows) kernel.attention(a), a.rows = 0;
                 }
               }
               if (a.rows > 0) kernel.attention(a);
             }
           });
}

void Transformer::forward(ThreadPool& pool, TransformerScratch& s, const SequenceRow* rows,
                          int64_t count, float* x, bool cache_only, int set) const {
  const int64_t d = config_.width;
  make_blocks(s, rows, count);
  for (int64_t r = 0; r < count; ++r) {
    if (config_.rope) {
      angles(rows[r].position, s.angles.data() + r * config_.head_dim());
    } else {
      kernels().add(positions_.data() + rows[r].position * d, x + r * d, d);
    }
  }
  const int64_t query = config_.query_width();
  const Epilogue activation = config_.activation == Activation::swiglu ? Epilogue::swiglu
                              : config_.activation == Activation::gelu ? Epilogue::gelu
                                                                       : Epilogue::gelu_tanh;
  for (int i = 0; i < config_.layers; ++i) {
    const Layer& l = layers_[size_t(i)];
    const Projections& p = l.sets[size_t(set)];
    // what follows its keys and values is not wanted
    const bool last = cache_only && i + 1 == config_.layers;
    l.attn_norm.forward(pool, x, d, count, s.normed.data(), d);
    p.qkv.forward(pool, &s.linear, s.normed.data(), d, count, s.qkv.data(), qkv_width_);
    attend(pool, s, i, rows, count, last);
    if (last) return;
    p.o.forward(pool, &s.linear, s.attended.data(), query, count, x, d, Epilogue::add);
    l.mlp_norm.forward(pool, x, d, count, s.normed.data(), d);
    p.up.forward(pool, &s.linear, s.normed.data(), d, count, s.hidden.data(), config_.mlp_width,
                 activation);
    p.down.forward(pool, &s.linear, s.hidden.data(), config_.mlp_width, count, x, d, Epilogue::add);
  }
  if (config_.final_norm) norm_.forward(pool, x, d, count, x, d);
}

}  // namespace uniaudio
