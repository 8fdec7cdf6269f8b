// exp, erf and what is made of them, 16 lanes at a time. No include guard: each ISA's kernel file
// includes it once, inside its own namespace.
namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// How a * b + c is rounded, and the polynomials that were fitted for it. The language model's
// functions round twice, which gives the same bits on every ISA, plain C++ included. The codecs'
// round once where the ISA can: more accurate, and fewer instructions.
struct Separate {
  UNIAUDIO_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
  // (exp(r) - 1 - r) / r^2, Cephes
  static constexpr float kExp[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,
                                   8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
  // erf(x) / x in x^2 on [-4, 4], rational minimax: absolute error below 5e-7
  static constexpr float kErfTop[] = {-1.60960333262415e-02f, -2.95459980854025e-03f,
                                      -7.34990630326855e-04f, -5.69250639462346e-05f,
                                      -2.10102402082508e-06f, 2.77068142495902e-08f,
                                      -2.72614225801306e-10f};
  static constexpr float kErfBottom[] = {-1.42647390514189e-02f, -7.37332916720468e-03f,
                                         -1.68282697438203e-03f, -2.13374055278905e-04f,
                                         -1.45660718464996e-05f};
};
struct Fused {
  UNIAUDIO_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
  // own minimax fits; the first one's error is below 1e-10
  static constexpr float kExp[] = {0.5f,          0.16666667f,  0.04166627f,
                                   0.0083332648f, 0.001394619f, 0.00019917973f};
  static constexpr float kErfTop[] = {1.1283792f,    0.19354774f,    0.053102054f,
                                      0.0038834405f, 0.00028456518f, 1.9867282e-06f};
  static constexpr float kErfBottom[] = {1.0f,         0.50485975f,   0.11535107f,
                                         0.015207454f, 0.0011855887f, 3.7419566e-05f};
};

template <class Rounding, int N>
UNIAUDIO_INLINE Vec poly(Vec x, const float (&c)[N]) {  // c[0] + c[1] x + ...
  Vec r = set(c[N - 1]);
  UNIAUDIO_UNROLL
  for (int k = N - 2; k >= 0; --k) r = Rounding::multiply_add(r, x, set(c[k]));
  return r;
}

// x clamped to [-87, 88] = n ln 2 + r (Cody-Waite): p = exp(r) - 1, and t = n + 1.5 * 2^23 for
// scale_exponent.
template <class Rounding>
UNIAUDIO_INLINE void exp_parts(Vec x, Vec& t, Vec& p) {
  // 1.5 * 2^23: adding it rounds to an integer, which stays in the low bits
  const Vec magic = set(12582912.0f);
  x = min(max(x, set(-87.0f)), set(88.0f));
  t = Rounding::multiply_add(x, set(1.44269504088896341f), magic);
  const Vec n = t - magic;
  Vec r = Rounding::multiply_add(n, set(-0.693359375f), x);
  r = Rounding::multiply_add(n, set(2.12194440e-4f), r);
  p = Rounding::multiply_add(r * r, poly<Rounding>(r, Rounding::kExp), r);
}

template <class Rounding>
UNIAUDIO_INLINE Vec exp(Vec x) {
  Vec t, p;
  exp_parts<Rounding>(x, t, p);
  if constexpr (__is_same(Rounding, Separate)) {
    return scale_exponent(p + set(1.0f), t);
  } else {
    const Vec scale = scale_exponent(set(1.0f), t);
    return fma(scale, p, scale);
  }
}
UNIAUDIO_INLINE Vec exp_minus_one(Vec x) {
  Vec t, p;
  exp_parts<Fused>(x, t, p);
  const Vec scale = scale_exponent(set(1.0f), t);
  return fma(scale, p, scale - set(1.0f));
}

template <class Rounding>
UNIAUDIO_INLINE Vec erf(Vec x) {
  x = min(max(x, set(-4.0f)), set(4.0f));
  const Vec s = x * x;
  return x * poly<Rounding>(s, Rounding::kErfTop) / poly<Rounding>(s, Rounding::kErfBottom);
}

// x Phi(x)
template <class Rounding>
UNIAUDIO_INLINE Vec gelu(Vec x) {
  const Vec half = set(0.5f) * x, e = erf<Rounding>(x * set(0.70710678118654752f));
  if constexpr (__is_same(Rounding, Separate)) {
    return half * (set(1.0f) + e);
  } else {
    return fma(half, min(max(e, set(-1.0f)), set(1.0f)), half);
  }
}

// (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + .044715 x^3)
UNIAUDIO_INLINE Vec gelu_tanh(Vec x) {
  const Vec u = x * (set(0.79788456080286536f) + set(0.79788456080286536f * 0.044715f) * (x * x));
  return x / (set(1.0f) + exp<Separate>(set(-2.0f) * u));
}

UNIAUDIO_INLINE Vec silu(Vec x) { return x / (set(1.0f) + exp<Separate>(set(0.0f) - x)); }
UNIAUDIO_INLINE Vec elu(Vec x) { return where_positive(x, x, exp_minus_one(min(x, set(0.0f)))); }
UNIAUDIO_INLINE Vec sigmoid(Vec x) { return set(1.0f) / (set(1.0f) + exp<Fused>(set(0.0f) - x)); }
// tanh(x) = m / (m + 2), m = exp(2x) - 1: exact near 0, where 1 - 2 / (exp(2x) + 1) cancels
UNIAUDIO_INLINE Vec tanh(Vec x) {
  x = min(max(x, set(-12.0f)), set(12.0f));
  const Vec m = exp_minus_one(x + x);
  return m / (m + set(2.0f));
}
// sin(x) or -sin(x): x = n pi + r (Cody-Waite), then a minimax fit on [-pi / 2, pi / 2]. Where x is
// so large that r is lost, the result is still within [-1, 1].
UNIAUDIO_INLINE Vec sine_up_to_sign(Vec x) {
  static constexpr float c[] = {-0.16666667f, 0.0083333300f, -0.00019840742f, 2.7519668e-06f,
                                -2.3797629e-08f};
  const Vec magic = set(12582912.0f), limit = set(1.5707964f);
  const Vec n = fma(x, set(0.31830988618379067f), magic) - magic;
  Vec r = fma(n, set(-3.140625f), x);
  r = fma(n, set(-9.67502593994140625e-4f), r);
  r = fma(n, set(-1.509957990978376432e-7f), r);
  r = min(max(r, set(0.0f) - limit), limit);
  const Vec rr = r * r;
  return fma(r * rr, poly<Fused>(rr, c), r);
}
// natural logarithm of a positive normal number (own minimax fit)
UNIAUDIO_INLINE Vec log(Vec x) {
  static constexpr float c[] = {0.33333298f,  -0.25000009f, 0.20002863f,  -0.16668537f, 0.14206944f,
                                -0.12389483f, 0.1195586f,   -0.11791303f, 0.067450695f};
  Vec e, f;
  UNIAUDIO_EACH {
    const NativeInt bits = (NativeInt)x.v[i];
    const NativeInt k = (bits - 0x3f3504f3) >> 23;
    e.v[i] = __builtin_convertvector(k, Native);
    f.v[i] = (Native)(bits - (k << 23)) - 1.0f;
  }
  const Vec ff = f * f;
  Vec y = fma(ff * f, poly<Fused>(f, c), e * set(-2.12194440e-4f));
  y = fma(ff, set(-0.5f), y);
  return fma(e, set(0.693359375f), f + y);
}

// Sixteen partial sums of (x - mean)^2.
template <class Rounding>
UNIAUDIO_INLINE Vec square_sum(const float* x, float mean, int64_t n) {
  Vec s = set(0.0f);
  const Vec m = set(mean);
  each(n, [&](int64_t i, int64_t k) {
    Vec d = get(x + i, k) - m;
    if (k < kPanel) {  // the absent lanes are zero, not -mean
      float t[kPanel];
      store(t, d);
      d = load_n(t, k);
    }
    s = Rounding::multiply_add(d, d, s);
  });
  return s;
}
// One row: y = ((x - mean) * scale) * weight + bias, scale = 1 / sqrt(variance + eps); y may be x.
template <class Rounding>
UNIAUDIO_INLINE void normalize(const float* x, float* y, const float* weight, const float* bias,
                               int64_t width, float eps) {
  Vec total = set(0.0f);
  each(width, [&](int64_t i, int64_t k) { total = total + get(x + i, k); });
  const float mean = sum(total) / float(width);
  const Vec m = set(mean),
            scale = set(1.0f / __builtin_sqrtf(
                                   sum(square_sum<Rounding>(x, mean, width)) / float(width) + eps));
  each(width, [&](int64_t i, int64_t k) {
    const Vec d = (get(x + i, k) - m) * scale;
    put(y + i, Rounding::multiply_add(d, get(weight + i, k), get(bias + i, k)), k);
  });
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
