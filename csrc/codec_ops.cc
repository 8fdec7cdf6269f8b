#include "codec_ops.h"

#include <cmath>

namespace uniaudio {

namespace {
// rows of weights per pass: two panels of it stay in the first-level cache
constexpr int kDepth = 256;
constexpr int kFewRows = 12;
constexpr int kRowBlock = 96;  // rows of A per task
}  // namespace

void PackedMatrix::allocate(int rows, int columns) {
  k = rows;
  n = columns;
  w.allocate(size_t(panels()) * k * kPanel);
  bias.allocate(size_t(panels()) * kPanel);
}

PackedMatrix PackedMatrix::linear(const Buffer<float>& weight, const Buffer<float>& bias, int n,
                                  int k) {
  PackedMatrix m;
  m.allocate(k, n);
  for (int c = 0; c < n; ++c) {
    for (int r = 0; r < k; ++r) m.at(r, c) = weight[size_t(c) * k + r];
    m.bias[c] = bias[c];
  }
  return m;
}

void multiply_here(const Product& p, int p0, int p1) {
  const CodecKernels& kernels = codec_kernels();
  GemmBlock g{};
  g.lda = p.lda;
  g.w = p.m->w.data();
  g.bias = p.m->bias.data();
  g.c = p.c;
  g.ldc = p.ldc;
  g.rows = p.rows;
  g.columns = p.m->n;
  g.k_total = p.m->k;
  g.p0 = p0;
  g.p1 = p1 < 0 ? p.m->panels() : p1;
  g.first = !p.add;
  if (p.rows <= 0 || g.p0 >= g.p1) return;
  // taps that follow one another in memory are one longer run
  const bool joined = p.taps == 1 || p.tap_step * p.taps == p.m->k;
  const int runs = joined ? 1 : p.taps, run = p.m->k / runs;
  const int depth = p.rows <= kFewRows ? run : kDepth;  // few rows read each weight once
  for (int tap = 0; tap < runs; ++tap)
    for (int k = 0; k < run; k += depth) {
      g.a = p.a + tap * p.tap_step + k;
      g.k0 = tap * run + k;
      g.k1 = tap * run + std::min(run, k + depth);
      kernels.gemm(g);
      g.first = false;
    }
}

void multiply(ThreadPool& pool, const Product& p) {
  if (p.rows <= 0) return;
  const int panels = p.m->panels(), threads = pool.threads();
  const int64_t work = int64_t{p.rows} * p.m->k * panels * kPanel;
  if (threads == 1 || work < 100000) return multiply_here(p);
  int blocks = (p.rows + kRowBlock - 1) / kRowBlock, groups = 1;
  if (blocks < 4 * threads) {
    // few rows: share out the columns first, so that each weight is read by one thread only
    const int wanted = 2 * threads;
    groups = std::clamp(panels / 4, 1, wanted);
    if (groups * blocks < wanted)
      blocks = std::min((wanted + groups - 1) / groups, std::max(1, p.rows / 12));
  }
  // as much for one thread as for the other
  if (groups == 1) blocks = std::min(static_cast<int>(round_up(blocks, threads)), p.rows);
  const int rows = (p.rows + blocks - 1) / blocks;
  blocks = (p.rows + rows - 1) / rows;
  const int width = (panels + groups - 1) / groups;
  run_tasks(pool, blocks * groups, [&](int task) {
    const int first = task % blocks * rows, group = task / blocks;
    Product q = p;
    q.a += first * p.lda;
    q.c += first * p.ldc;
    q.rows = std::min(rows, p.rows - first);
    multiply_here(q, group * width, std::min(panels, (group + 1) * width));
  });
}

void StateReader::refuse() {
  throw std::invalid_argument(
      "stream state: expected bytes saved by a stream of the same codec, got something else");
}

const char* StateReader::take(size_t n) {
  if (bytes_.size() < n) refuse();
  const char* p = bytes_.data();
  bytes_.remove_prefix(n);
  return p;
}

int64_t StateReader::integer(int64_t low, int64_t high) {
  int64_t v;
  std::memcpy(&v, take(8), 8);
  if (v < low || v > high) refuse();
  return v;
}

void StateReader::floats(float* p, size_t n) {
  if (integer(0, INT64_MAX) != static_cast<int64_t>(n)) refuse();
  const char* from = take(4 * n);
  if (n) std::memcpy(p, from, 4 * n);
  for (size_t i = 0; i < n; ++i)
    if (!std::isfinite(p[i])) refuse();
}

void StateReader::end() const {
  if (!bytes_.empty()) refuse();
}

}  // namespace uniaudio
