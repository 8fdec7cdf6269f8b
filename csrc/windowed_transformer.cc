#include "windowed_transformer.h"

#include <cmath>

namespace uniaudio {

namespace {
constexpr int kPlaced = 64;  // most rows whose keys and values are in the ring at once, unseen
constexpr int kTile = 32;    // most rows whose scores are held at once
}  // namespace

WindowedTransformer::WindowedTransformer(const LayerSource& source, const std::string& prefix,
                                         const TransformerConfig& c, int in, int out, bool biased)
    : c_(c),
      in_(in),
      out_(out),
      dim_(c.head_dim()),
      panels_((dim_ + kPanel - 1) / kPanel),
      // from the panel of the first row's oldest position to the last row
      capacity_(static_cast<int>(round_up(c.window + kPlaced + kPanel, kPanel))),
      query_width_(c.query_width()),
      wide_((c.gated ? 2 : 1) * c.mlp_width),
      stride_(capacity_),
      blocks_(c.layers) {
  const auto linear = [&](const std::string& name, int n, int k, bool bias = false) {
    const Buffer<float> weight = source.get(prefix + name + ".weight", {n, k});
    const Buffer<float> b = bias ? source.get(prefix + name + ".bias", {n}) : Buffer<float>(n);
    return source.weights ? PackedMatrix::linear(weight, b, n, k) : PackedMatrix();
  };
  const auto norm = [&](const std::string& name) {
    Norm made;
    made.weight = source.get(prefix + name + ".weight", {c.width});
    if (!c.rmsnorm) made.bias = source.get(prefix + name + ".bias", {c.width});
    return made;
  };
  // Matrices of the same inputs as the columns of one.
  const auto joined = [&](PackedMatrix& to, const std::string& name,
                          std::initializer_list<const char*> parts, int n) {
    int column = 0;
    for (const char* part : parts) {
      const Buffer<float> w = source.get(prefix + name + part + ".weight", {n, c.width});
      if (!source.weights) continue;
      if (column == 0) to.allocate(c.width, int(parts.size()) * n);
      for (int i = 0; i < n; ++i, ++column)
        for (int k = 0; k < c.width; ++k) to.at(k, column) = w[size_t(i) * c.width + k];
    }
  };
  if (in_) input_ = linear(".input", c.width, in_, biased);
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = ".layers." + std::to_string(i);
    Block& block = blocks_[i];
    block.attention_norm = norm(layer + ".attn_norm");
    joined(block.qkv, layer + ".attn.", {"q", "k", "v"}, query_width_);
    block.o = linear(layer + ".attn.o", c.width, query_width_);
    block.mlp_norm = norm(layer + ".mlp_norm");
    if (c.gated)
      joined(block.up, layer + ".mlp.", {"gate", "up"}, c.mlp_width);
    else
      block.up = linear(layer + ".mlp.up", c.mlp_width, c.width);
    block.down = linear(layer + ".mlp.down", c.width, c.mlp_width);
  }
  if (c.final_norm) norm_ = norm(".norm");
  if (out_) output_ = linear(".output", out_, c.width, biased);
  for (int i = 0; i < dim_ / 2; ++i) frequencies_.push_back(std::pow(c.rope_base, -2.0 * i / dim_));
}

// --- state ---------------------------------------------------------------------------------------

std::unique_ptr<LayerState> WindowedTransformer::make_state() const {
  auto s = std::make_unique<LayerState>();
  s->kept.allocate(2 * head_size() * c_.heads * c_.layers);
  return s;
}

void WindowedTransformer::reset(LayerState& s) const {
  // what is outside of a window must be finite: zero times it is zero then
  if (s.received > 0) std::fill_n(s.kept.data(), s.kept.size(), 0.0f);
  s.received = 0;
}

template <class F>
void WindowedTransformer::each_kept(int64_t received, F&& f) const {
  const int64_t first = std::max<int64_t>(0, received - c_.window + 1);
  for (int block = 0; block < c_.layers; ++block)
    for (int h = 0; h < c_.heads; ++h)
      for (int64_t t = first; t < received; ++t) {
        for (int d = 0; d < dim_; ++d) f(head_at(block, h) + key_at(t, d));
        for (int d = 0; d < dim_; ++d) f(head_at(block, h) + value_at(t, d));
      }
}

size_t WindowedTransformer::kept_count(int64_t received) const {
  return size_t(std::min<int64_t>(received, c_.window - 1)) * 2 * query_width_ * c_.layers;
}

void WindowedTransformer::write(const LayerState& s, StateWriter& w) const {
  w.integer(s.received);
  Buffer<float> kept(kept_count(s.received));
  size_t i = 0;
  each_kept(s.received, [&](size_t at) { kept[i++] = s.kept[at]; });
  w.floats(kept.data(), kept.size());
}

void WindowedTransformer::read(LayerState& s, StateReader& r) const {
  s.received = r.integer(0, INT64_MAX / 4);
  Buffer<float> kept(kept_count(s.received));
  r.floats(kept.data(), kept.size());
  size_t i = 0;
  each_kept(s.received, [&](size_t at) { s.kept[at] = kept[i++]; });
}

// --- layers --------------------------------------------------------------------------------------

float* WindowedTransformer::input(LayerState& s, int64_t n) const {
  s.work.reserve(size_t(n) * width_in());
  return s.work.data();
}

int WindowedTransformer::run(ThreadPool& pool, LayerState& s, int n, bool, float* out) const {
  if (n == 0) return 0;
  const int width = c_.width, qkv_width = 3 * query_width_;
  const size_t rows = size_t(n), narrow = size_t(std::max(width, query_width_)),
               most = size_t(std::max(qkv_width, wide_));
  const int64_t scores = int64_t{kTile} * stride_;
  s.work2.reserve(rows * (narrow + width + most + dim_) + size_t(scores) * pool.threads());
  float *y = s.work2.data() + size_t(scores) * pool.threads(), *wide = y + rows * narrow,
        *angles = wide + rows * most, *x = out;
  if (out_ || c_.final_norm) x = angles + rows * dim_;
  if (in_)
    multiply(pool, {.m = &input_, .a = s.work.data(), .lda = in_, .rows = n, .c = x, .ldc = width});
  else
    std::copy_n(s.work.data(), rows * width, x);
  for (int t = 0; t < n; ++t)
    for (int i = 0; i < dim_ / 2; ++i) {
      const double angle = double(s.received + t) * frequencies_[i];
      angles[size_t(t) * dim_ + i] = static_cast<float>(std::cos(angle));
      angles[size_t(t) * dim_ + dim_ / 2 + i] = static_cast<float>(std::sin(angle));
    }
  for (int i = 0; i < c_.layers; ++i) {
    const Block& block = blocks_[i];
    normalise(pool, block.attention_norm, x, y, n);
    multiply(pool, {.m = &block.qkv, .a = y, .lda = width, .rows = n, .c = wide, .ldc = qkv_width});
    for (int a = 0; a < n; a += kPlaced) {
      const int count = std::min(kPlaced, n - a);
      float* qkv = wide + size_t(a) * qkv_width;
      place(s, i, qkv, angles + size_t(a) * dim_, s.received + a, count);
      attend(pool, s, i, qkv, s.received + a, count, y + size_t(a) * query_width_);
    }
    multiply(
        pool,
        {.m = &block.o, .a = y, .lda = query_width_, .rows = n, .c = x, .ldc = width, .add = true});
    mlp(pool, block, x, y, wide, n);
  }
  if (c_.final_norm) {
    float* to = out_ ? y : out;
    normalise(pool, norm_, x, to, n);
    x = to;
  }
  if (out_) multiply(pool, {.m = &output_, .a = x, .lda = width, .rows = n, .c = out, .ldc = out_});
  s.received += n;
  return n;
}

void WindowedTransformer::normalise(ThreadPool& pool, const Norm& norm, const float* x, float* y,
                                    int rows) const {
  const CodecKernels& kernels = codec_kernels();
  split(pool, rows, 4 * c_.width, [&](int64_t a, int64_t b) {
    const float* from = x + a * c_.width;
    float* to = y + a * c_.width;
    if (c_.rmsnorm)
      kernels.rms_norm(from, to, norm.weight.data(), int(b - a), c_.width, c_.norm_eps);
    else
      kernels.layer_norm(from, to, norm.weight.data(), norm.bias.data(), int(b - a), c_.width,
                         c_.norm_eps);
  });
}

void WindowedTransformer::mlp(ThreadPool& pool, const Block& block, float* x, float* y,
                              float* hidden, int rows) const {
  const CodecKernels& kernels = codec_kernels();
  const int width = c_.width, wide = wide_, inner = c_.mlp_width;
  // what is between the products, in place: the first `inner` of each row
  const auto activate = [&](float* h, int64_t n) {
    if (!c_.gated) return kernels.gelu(h, size_t(n) * wide);
    for (int64_t r = 0; r < n; ++r, h += wide) kernels.silu_multiply(h, h + inner, size_t(inner));
  };
  normalise(pool, block.mlp_norm, x, y, rows);
  const Product up{.m = &block.up, .a = y, .lda = width, .rows = rows, .c = hidden, .ldc = wide};
  const Product down{
      .m = &block.down, .a = hidden, .lda = wide, .rows = rows, .c = x, .ldc = width, .add = true};
  if (rows >= 12 * pool.threads()) {  // whole rows stay with one thread through both products
    return split(pool, rows, 2 * int64_t{width} * wide, [&](int64_t a, int64_t b) {
      Product u = up, d = down;
      u.rows = d.rows = int(b - a);
      u.a += a * width, u.c += a * wide;
      d.a += a * wide, d.c += a * width;
      multiply_here(u);
      activate(u.c, b - a);
      multiply_here(d);
    });
  }
  multiply(pool, up);
  split(pool, rows, 20 * int64_t{wide},
        [&](int64_t a, int64_t b) { activate(hidden + a * wide, b - a); });
  multiply(pool, down);
}

// --- attention -----------------------------------------------------------------------------------

void WindowedTransformer::place(LayerState& s, int block, float* qkv, const float* angles,
                                int64_t position, int rows) const {
  const int width = query_width_, half = dim_ / 2;
  const float scale = static_cast<float>(1.0 / std::sqrt(double(dim_)));
  for (int r = 0; r < rows; ++r, qkv += 3 * width, angles += dim_)
    for (int h = 0; h < c_.heads; ++h) {
      float *q = qkv + h * dim_, *k = q + width, *v = k + width;
      for (int i = 0; i < half; ++i) {
        const float c = angles[i], n = angles[half + i];
        const float qa = q[i], qb = q[half + i], ka = k[i], kb = k[half + i];
        q[i] = (qa * c - qb * n) * scale;
        q[half + i] = (qb * c + qa * n) * scale;
        k[i] = ka * c - kb * n;
        k[half + i] = kb * c + ka * n;
      }
      float* const to = s.kept.data() + head_at(block, h);
      float *keys = to + key_at(position + r, 0), *values = to + value_at(position + r, 0);
      for (int d = 0; d < dim_; ++d) keys[size_t(d) * kPanel] = k[d];
      for (int d = 0; d < dim_; d += kPanel, values += size_t(capacity_) * kPanel)
        std::copy_n(v + d, std::min(kPanel, dim_ - d), values);
    }
}

void WindowedTransformer::attend(ThreadPool& pool, LayerState& s, int block, const float* qkv,
                                 int64_t position, int rows, float* out) const {
  const int width = query_width_, tiles = (rows + kTile - 1) / kTile;
  const int tile = (rows + tiles - 1) / tiles;
  const auto work = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t task = begin; task < end; ++task) {
      const int h = static_cast<int>(task / tiles), first = static_cast<int>(task % tiles) * tile;
      attend_rows(s.kept.data() + head_at(block, h), qkv + size_t(first) * 3 * width + h * dim_,
                  position + first, std::min(tile, rows - first),
                  s.work2.data() + size_t(thread) * kTile * stride_,
                  out + size_t(first) * width + h * dim_);
    }
  };
  const int tasks = c_.heads * tiles;
  const int64_t seen = std::min<int64_t>(position + rows, c_.window);
  if (pool.threads() == 1 || seen * rows * width < 50000) return work(0, tasks, 0);
  pool.run(tasks, 1, work);
}

void WindowedTransformer::attend_rows(const float* head, const float* q, int64_t position, int rows,
                                      float* scores, float* out) const {
  const CodecKernels& kernels = codec_kernels();
  const auto oldest = [&](int64_t p) { return std::max<int64_t>(0, p - c_.window + 1); };
  const int64_t begin = oldest(position) / kPanel * kPanel, end = round_up(position + rows, kPanel);
  // f(offset from `begin`, offset in the ring, positions): the ring's end splits them in two
  const auto pieces = [&](auto&& f) {
    for (int64_t at = begin; at < end;) {
      const int64_t slot = at % capacity_, n = std::min(end - at, capacity_ - slot);
      f(at - begin, slot, n);
      at += n;
    }
  };
  pieces([&](int64_t at, int64_t slot, int64_t n) {
    GemmBlock g{};
    g.a = q;
    g.lda = int64_t{3} * query_width_;
    g.w = head + slot * dim_;
    g.c = scores + at;
    g.ldc = stride_;
    g.rows = rows;
    g.columns = static_cast<int>(n);
    g.k_total = g.k1 = dim_;
    g.p1 = static_cast<int>(n / kPanel);
    g.first = true;
    kernels.gemm(g);
  });
  float inverse[kTile];
  for (int r = 0; r < rows; ++r) {
    const int64_t p = position + r;
    inverse[r] =
        1.0f / kernels.window_softmax(scores + r * stride_, static_cast<int>(oldest(p) - begin),
                                      static_cast<int>(p + 1 - begin), int(end - begin));
  }
  constexpr int64_t kDepth = 256;  // positions per pass: their values stay in the first-level cache
  pieces([&](int64_t at, int64_t slot, int64_t n) {
    for (int64_t i = 0; i < n; i += kDepth) {
      GemmBlock g{};
      g.a = scores + at + i;
      g.lda = stride_;
      g.w = head + head_size();
      g.c = out;
      g.ldc = query_width_;
      g.rows = rows;
      g.columns = dim_;
      g.k_total = capacity_;
      g.k0 = static_cast<int>(slot + i);
      g.k1 = static_cast<int>(slot + std::min(n, i + kDepth));
      g.p1 = panels_;
      g.first = at + i == 0;
      kernels.gemm(g);
    }
  });
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < dim_; ++d) out[r * int64_t{query_width_} + d] *= inverse[r];
}

}  // namespace uniaudio
