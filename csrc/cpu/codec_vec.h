// Sixteen floats as one value, whatever the ISA: one AVX-512, two AVX2 or four SSE/NEON registers.
//
// Every tier does the same operations in the same order on the same sixteen lanes, so tiers with
// fused multiply-add agree bit for bit. Included only by the per-ISA kernel files, inside their own
// namespace; it must not pull in std containers (the linker keeps one copy of a shared inline
// function, maybe the AVX-512 one).
//
// Define before inclusion: UA_LANES (floats per native register: 16, 8 or 4) and UA_FMA(a, b, c) on
// native registers.

typedef float Native __attribute__((vector_size(UA_LANES * 4), may_alias));
typedef int NativeInt __attribute__((vector_size(UA_LANES * 4), may_alias));
typedef float NativeLoose __attribute__((vector_size(UA_LANES * 4), may_alias, aligned(4)));

constexpr int kParts = 16 / UA_LANES;

struct Vec {
  Native v[kParts];
};

#define UA_UNROLL _Pragma("GCC unroll 16")
#define UA_EACH \
  UA_UNROLL     \
  for (int i = 0; i < kParts; ++i)
#define UA_INLINE static inline __attribute__((always_inline))

UA_INLINE Native splat(float x) { return x - Native{}; }
UA_INLINE NativeInt as_int(Native x) { return reinterpret_cast<NativeInt&>(x); }
UA_INLINE Native as_float(NativeInt x) { return reinterpret_cast<Native&>(x); }

UA_INLINE Vec set(float x) {
  Vec r;
  UA_EACH r.v[i] = splat(x);
  return r;
}
UA_INLINE Vec load(const float* p) {
  Vec r;
  UA_EACH r.v[i] = *reinterpret_cast<const NativeLoose*>(p + i * UA_LANES);
  return r;
}
UA_INLINE void store(float* p, Vec x) {
  UA_EACH* reinterpret_cast<NativeLoose*>(p + i * UA_LANES) = x.v[i];
}
UA_INLINE Vec load_part(const float* p, int n) {  // first n of 16 lanes, zeros after
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}
UA_INLINE void store_part(float* p, Vec x, int n) {
  float t[16];
  store(t, x);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}

UA_INLINE Vec operator+(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] + b.v[i];
  return a;
}
UA_INLINE Vec operator-(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] - b.v[i];
  return a;
}
UA_INLINE Vec operator*(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] * b.v[i];
  return a;
}
UA_INLINE Vec operator/(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] / b.v[i];
  return a;
}
UA_INLINE Vec fma(Vec a, Vec b, Vec c) {
  UA_EACH a.v[i] = UA_FMA(a.v[i], b.v[i], c.v[i]);
  return a;
}
UA_INLINE Vec min(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
UA_INLINE Vec max(Vec a, Vec b) {
  UA_EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
// a where x > 0, else b
UA_INLINE Vec where_positive(Vec x, Vec a, Vec b) {
  UA_EACH a.v[i] = x.v[i] > 0.0f ? a.v[i] : b.v[i];
  return a;
}
UA_INLINE float sum(Vec x) {  // a fixed tree over the sixteen lanes
  float t[16];
  store(t, x);
  for (int step = 8; step >= 1; step /= 2)
    for (int i = 0; i < step; ++i) t[i] = t[i] + t[i + step];
  return t[0];
}

template <int N>
UA_INLINE Vec poly(Vec x, const float (&c)[N]) {  // c[0] + c[1] x + ...
  Vec r = set(c[N - 1]);
  for (int k = N - 2; k >= 0; --k) r = fma(r, x, set(c[k]));
  return r;
}

// exp(x) - 1 = scale * p + (scale - 1), with x = n ln 2 + r, p = exp(r) - 1 (own minimax fit, error
// below 1e-10)
UA_INLINE void exp_parts(Vec x, Vec& scale, Vec& p) {
  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  constexpr float kMagic = 12582912.0f;
  x = min(max(x, set(-87.0f)), set(88.0f));
  const Vec t = fma(x, set(1.44269504f), set(kMagic));
  const Vec n = t - set(kMagic);
  Vec r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  static const float q[] = {0.5f,          0.16666667f,  0.04166627f,
                            0.0083332648f, 0.001394619f, 0.00019917973f};
  p = fma(r * r, poly(r, q), r);
  UA_EACH scale.v[i] = as_float((as_int(t.v[i]) << 23) + 0x3f800000);
}
UA_INLINE Vec exp(Vec x) {
  Vec scale, p;
  exp_parts(x, scale, p);
  return fma(scale, p, scale);
}
UA_INLINE Vec elu(Vec x) {
  Vec scale, p;
  exp_parts(min(x, set(0.0f)), scale, p);
  return where_positive(x, x, fma(scale, p, scale - set(1.0f)));
}
UA_INLINE Vec sigmoid(Vec x) { return set(1.0f) / (set(1.0f) + exp(set(0.0f) - x)); }
// tanh(x) = m / (m + 2), m = exp(2x) - 1: exact near 0, where 1 - 2 / (exp(2x) + 1) cancels
UA_INLINE Vec tanh(Vec x) {
  Vec scale, p;
  x = min(max(x, set(-12.0f)), set(12.0f));
  exp_parts(x + x, scale, p);
  const Vec m = fma(scale, p, scale - set(1.0f));
  return m / (m + set(2.0f));
}
// natural logarithm of a positive normal number (own minimax fit)
UA_INLINE Vec log(Vec x) {
  static const float c[] = {0.33333298f,  -0.25000009f, 0.20002863f,  -0.16668537f, 0.14206944f,
                            -0.12389483f, 0.1195586f,   -0.11791303f, 0.067450695f};
  Vec e, f;
  UA_EACH {
    const NativeInt bits = as_int(x.v[i]);
    const NativeInt k = (bits - 0x3f3504f3) >> 23;
    e.v[i] = __builtin_convertvector(k, Native);
    f.v[i] = as_float(bits - (k << 23)) - 1.0f;
  }
  const Vec ff = f * f;
  Vec y = fma(ff * f, poly(f, c), e * set(-2.12194440e-4f));
  y = fma(ff, set(-0.5f), y);
  return fma(e, set(0.693359375f), f + y);
}
// exact-form GELU, x Phi(x); erf is an own rational fit in x^2 on |x| <= 4
UA_INLINE Vec gelu(Vec x) {
  static const float p[] = {1.1283792f,    0.19354774f,    0.053102054f,
                            0.0038834405f, 0.00028456518f, 1.9867282e-06f};
  static const float q[] = {1.0f,         0.50485975f,   0.11535107f,
                            0.015207454f, 0.0011855887f, 3.7419566e-05f};
  const Vec y = min(max(x * set(0.70710678f), set(-4.0f)), set(4.0f));
  const Vec t = y * y;
  const Vec erf = min(max(y * poly(t, p) / poly(t, q), set(-1.0f)), set(1.0f));
  const Vec half = set(0.5f) * x;
  return fma(half, erf, half);
}
