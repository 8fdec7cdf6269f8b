// The loop of every float32 product. No include guard: each ISA's kernel file includes it once,
// inside its own namespace.
namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// acc[r][p] += x[r, k] w[p][k] for k in [0, depth): a chain of multiply-adds for each element, in
// order, whatever R and P are. Row r of x is at x + r * xstride, panel p of w ([depth][16]) at w +
// p * wstride. `fetch(k, p)` may prefetch; it must be
// always_inline, or GCC takes it for a function without effects and drops it.
template <int R, int P, class Fetch>
UNIAUDIO_INLINE void multiply_panels(const float* x, int64_t xstride, const float* w,
                                     int64_t wstride, int64_t depth, Vec (&acc)[R][P],
                                     Fetch fetch) {
  for (int64_t k = 0; k < depth; ++k) {
    Vec b[P];
    UNIAUDIO_UNROLL
    for (int p = 0; p < P; ++p) {
      b[p] = load(w + p * wstride + k * kPanel);
      fetch(k, p);
    }
    UNIAUDIO_UNROLL
    for (int r = 0; r < R; ++r) {
      const Native a = splat(x[r * xstride + k]);
      UNIAUDIO_UNROLL
      for (int p = 0; p < P; ++p) UNIAUDIO_EACH
      acc[r][p].v[i] = fma(a, b[p].v[i], acc[r][p].v[i]);
    }
  }
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
