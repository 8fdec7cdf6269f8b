#include "transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace uniaudio {
namespace {

constexpr int64_t kTableRows = 4096;  // rope positions beyond are computed as they come

}  // namespace

// --- cache -------------------------------------------------------------------------------------------------------------

KvCache::KvCache(const StackConfig& c, int64_t capacity)
    : layers_(c.layers), heads_(c.kv_heads), head_dim_(c.head_dim()), capacity_(capacity), value_stride_(round_up(c.head_dim(), 16)) {
  key_size_ = key_run(capacity);
  value_size_ = capacity * value_stride_;
  keys_.allocate(size_t(layers_ * heads_ * key_size_));
  values_.allocate(size_t(layers_ * heads_ * value_size_));
}

size_t KvCache::bytes(const StackConfig& c, int64_t capacity) {
  const int64_t per_head = round_up(capacity, 16) * c.head_dim() + capacity * round_up(c.head_dim(), 16);
  return size_t(c.layers) * size_t(c.kv_heads) * size_t(per_head) * sizeof(float);
}

int64_t KvCache::packed_size(int64_t length) const { return layers_ * heads_ * (key_run(length) + length * value_stride_); }

void KvCache::pack(int64_t length, float* out) const {
  const int64_t k = key_run(length), v = length * value_stride_;
  for (int64_t i = 0; i < layers_ * heads_; ++i, out += k + v) {
    std::memcpy(out, keys_.data() + i * key_size_, size_t(k) * sizeof(float));
    std::memcpy(out + k, values_.data() + i * value_size_, size_t(v) * sizeof(float));
  }
}

void KvCache::unpack(int64_t length, const float* in) {
  const int64_t k = key_run(length), v = length * value_stride_;
  for (int64_t i = 0; i < layers_ * heads_; ++i, in += k + v) {
    std::memcpy(keys_.data() + i * key_size_, in, size_t(k) * sizeof(float));
    std::memcpy(values_.data() + i * value_size_, in + k, size_t(v) * sizeof(float));
  }
}

void KvCache::copy_from(const KvCache& o, int64_t length) {
  for (int64_t i = 0; i < layers_ * heads_; ++i) {
    std::memcpy(keys_.data() + i * key_size_, o.keys_.data() + i * o.key_size_, size_t(key_run(length)) * sizeof(float));
    std::memcpy(values_.data() + i * value_size_, o.values_.data() + i * o.value_size_, size_t(length * value_stride_) * sizeof(float));
  }
}

// --- stack -------------------------------------------------------------------------------------------------------------

void TransformerScratch::reserve(const StackConfig& c, int64_t rows, int64_t capacity, int threads) {
  normed.reserve(size_t(rows * c.width));
  qkv.reserve(size_t(rows * (c.width + 2 * c.kv_heads * c.head_dim())));
  attended.reserve(size_t(rows * c.width));
  hidden.reserve(size_t(rows * c.mlp_width));
  scores_stride = round_up(capacity, 16);
  scores.reserve(size_t(threads * scores_stride));
  angles.reserve(size_t(rows * c.head_dim()));
  linear.reserve(rows, std::max(c.width, c.mlp_width));
}

void Transformer::add_tensors(std::vector<TensorSpec>& specs, const std::string& prefix, const StackConfig& c, int64_t max_positions) {
  const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    specs.push_back({name + ".weight", {out, in}});
    if (bias) specs.push_back({name + ".bias", {out}});
  };
  const auto norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", {c.width}});
    if (!c.rmsnorm) specs.push_back({name + ".bias", {c.width}});
  };
  const int64_t d = c.width, kv = int64_t(c.kv_heads) * c.head_dim();
  if (!c.rope) specs.push_back({prefix + ".positions.weight", {max_positions, d}});
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = prefix + ".layers." + std::to_string(i);
    norm(layer + ".attn_norm");
    linear(layer + ".attn.q", d, d, c.q_bias);
    linear(layer + ".attn.k", kv, d, c.k_bias);
    linear(layer + ".attn.v", kv, d, c.v_bias);
    linear(layer + ".attn.o", d, d, c.o_bias);
    norm(layer + ".mlp_norm");
    linear(layer + ".mlp.up", c.mlp_width, d, c.mlp_bias);
    if (c.swiglu) linear(layer + ".mlp.gate", c.mlp_width, d, c.mlp_bias);
    linear(layer + ".mlp.down", d, c.mlp_width, c.mlp_bias);
  }
  norm(prefix + ".norm");
}

Transformer::Transformer(const Weights& weights, const std::string& prefix, const StackConfig& c, int64_t max_positions, DType dtype, ThreadPool* pool)
    : config_(c), norm_(weights, prefix + ".norm", c.width, c.rmsnorm, c.norm_eps) {
  const int64_t d = c.width, kv = int64_t(c.kv_heads) * c.head_dim();
  qkv_width_ = d + 2 * kv;
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
    struct Read {
      Matrix weight;
      Buffer<float> bias;
      Linear::Part part() const { return {&weight, bias.data()}; }
    };
    const auto read = [&](const std::string& part, int64_t out, int64_t in, bool bias) {
      return Read{weights.matrix(name + part + ".weight", out, in, dtype, pool), bias ? weights.get(name + part + ".bias", {out}) : Buffer<float>()};
    };
    Layer layer;
    layer.attn_norm = Norm(weights, name + ".attn_norm", d, c.rmsnorm, c.norm_eps);
    layer.mlp_norm = Norm(weights, name + ".mlp_norm", d, c.rmsnorm, c.norm_eps);
    const Read q = read(".attn.q", d, d, c.q_bias), k = read(".attn.k", kv, d, c.k_bias), v = read(".attn.v", kv, d, c.v_bias);
    layer.qkv = Linear({q.part(), k.part(), v.part()}, dtype);
    layer.o = make_linear(weights, name + ".attn.o", d, d, c.o_bias, dtype, pool);
    const Read up = read(".mlp.up", c.mlp_width, d, c.mlp_bias);
    if (c.swiglu) {
      layer.up = Linear::gated(read(".mlp.gate", c.mlp_width, d, c.mlp_bias).part(), up.part(), dtype);
    } else {
      layer.up = Linear({up.part()}, dtype);
    }
    layer.down = make_linear(weights, name + ".mlp.down", d, c.mlp_width, c.mlp_bias, dtype, pool);
    layers_.push_back(std::move(layer));
  }
}

void Transformer::set_stream(bool stream) {
  for (Layer& l : layers_) {
    for (Linear* linear : {&l.qkv, &l.o, &l.up, &l.down}) linear->set_stream(stream);
  }
}

size_t Transformer::weight_bytes() const {
  size_t bytes = norm_.weight_bytes();
  for (const Layer& l : layers_) {
    bytes += l.attn_norm.weight_bytes() + l.mlp_norm.weight_bytes();
    bytes += l.qkv.weight_bytes() + l.o.weight_bytes() + l.up.weight_bytes() + l.down.weight_bytes();
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
    const double angle = double(position) * std::pow(config_.rope_base, -double(2 * i) / double(dim));
    out[i] = float(std::cos(angle));
    out[half + i] = float(std::sin(angle));
  }
}

void Transformer::attend(ThreadPool& pool, TransformerScratch& s, int layer, const SequenceRow* rows, int64_t count, bool cache_only) const {
  const StackConfig& c = config_;
  const int64_t dim = c.head_dim(), d = c.width, kv = int64_t(c.kv_heads) * dim;
  const Kernels& kernel = kernels();
  // Rotate q and k, and put k and v where the cache keeps them.
  pool.run(count, 1 + 16384 / qkv_width_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* q = s.qkv.data() + r * qkv_width_;
      float* k = q + d;
      const float* v = k + kv;
      if (c.rope) {
        const float* angle = s.angles.data() + r * dim;
        for (int h = 0; h < c.heads; ++h) kernel.rope(q + h * dim, angle, angle + dim / 2, dim / 2);
        for (int h = 0; h < c.kv_heads; ++h) kernel.rope(k + h * dim, angle, angle + dim / 2, dim / 2);
      }
      KvCache& cache = *rows[r].cache;
      const int64_t t = rows[r].position;
      for (int h = 0; h < c.kv_heads; ++h) {
        float* keys = cache.keys(layer, h) + t / 16 * 16 * dim + t % 16;
        for (int64_t i = 0; i < dim; ++i) keys[i * 16] = k[h * dim + i];
        std::memcpy(cache.values(layer, h) + t * cache.value_stride(), v + h * dim, size_t(dim) * sizeof(float));
      }
    }
  });
  if (cache_only) return;
  const int group = c.heads / c.kv_heads;
  const float scale = 1.0f / std::sqrt(float(dim));
  int64_t longest = 0;
  for (int64_t r = 0; r < count; ++r) longest = std::max(longest, rows[r].position + 1);
  pool.run(count * c.heads, 1 + 65536 / (longest * dim * 8), [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / c.heads;
      const int h = int(i % c.heads);
      KvCache& cache = *rows[r].cache;
      AttentionArgs a;
      a.q = s.qkv.data() + r * qkv_width_ + h * dim;
      a.keys = cache.keys(layer, h / group);
      a.values = cache.values(layer, h / group);
      a.value_stride = cache.value_stride();
      a.length = rows[r].position + 1;
      a.dim = dim;
      a.scale = scale;
      a.scores = s.scores.data() + thread * s.scores_stride;
      a.out = s.attended.data() + r * d + h * dim;
      kernel.attention(a);
    }
  });
}

void Transformer::forward(ThreadPool& pool, TransformerScratch& s, const SequenceRow* rows, int64_t count, float* x, bool cache_only) const {
  const int64_t d = config_.width;
  for (int64_t r = 0; r < count; ++r) {
    if (config_.rope) {
      angles(rows[r].position, s.angles.data() + r * config_.head_dim());
    } else {
      kernels().add(positions_.data() + rows[r].position * d, x + r * d, d);
    }
  }
  const Epilogue activation = config_.swiglu ? Epilogue::swiglu : Epilogue::gelu;
  for (int i = 0; i < config_.layers; ++i) {
    const Layer& l = layers_[size_t(i)];
    const bool last = cache_only && i + 1 == config_.layers;  // what follows its keys and values is not wanted
    l.attn_norm.forward(pool, x, d, count, s.normed.data(), d);
    l.qkv.forward(pool, &s.linear, s.normed.data(), d, count, s.qkv.data(), qkv_width_);
    attend(pool, s, i, rows, count, last);
    if (last) return;
    l.o.forward(pool, &s.linear, s.attended.data(), d, count, x, d, Epilogue::add);
    l.mlp_norm.forward(pool, x, d, count, s.normed.data(), d);
    l.up.forward(pool, &s.linear, s.normed.data(), d, count, s.hidden.data(), config_.mlp_width, activation);
    l.down.forward(pool, &s.linear, s.hidden.data(), config_.mlp_width, count, x, d, Epilogue::add);
  }
  norm_.forward(pool, x, d, count, x, d);
}

}  // namespace uniaudio
