// exp, erf and what is made of them, 16 at a time; polynomials with separate multiplies and adds,
// so the same bits on every ISA. No include guard: each ISA's kernel file includes it once, inside
// its own namespace.
namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// exp(x) for x clamped to [-87, 88]; relative error below 1.3e-7. x = n ln 2 + r (Cody-Waite),
// Cephes' polynomial in r.
UNIAUDIO_INLINE F16 exp16(F16 x) {
  x = min(max(x, set1(-87.0f)), set1(88.0f));
  // 1.5 * 2^23: adding it rounds to an integer, which stays in the low bits
  const F16 magic = set1(12582912.0f);
  const F16 t = add(mul(x, set1(1.44269504088896341f)), magic);
  const F16 n = sub(t, magic);
  F16 r = sub(x, mul(n, set1(0.693359375f)));
  r = sub(r, mul(n, set1(-2.12194440e-4f)));
  F16 p = set1(1.9875691500e-4f);
  p = add(mul(p, r), set1(1.3981999507e-3f));
  p = add(mul(p, r), set1(8.3334519073e-3f));
  p = add(mul(p, r), set1(4.1665795894e-2f));
  p = add(mul(p, r), set1(1.6666665459e-1f));
  p = add(mul(p, r), set1(5.0000001201e-1f));
  p = add(add(mul(p, mul(r, r)), r), set1(1.0f));
  return scale_exponent(p, t);
}

// erf(x), absolute error below 5e-7: rational minimax approximation on [-4, 4], where erf is 1 to
// single precision.
UNIAUDIO_INLINE F16 erf16(F16 x) {
  x = min(max(x, set1(-4.0f)), set1(4.0f));
  const F16 s = mul(x, x);
  F16 p = set1(-2.72614225801306e-10f);
  p = add(mul(p, s), set1(2.77068142495902e-08f));
  p = add(mul(p, s), set1(-2.10102402082508e-06f));
  p = add(mul(p, s), set1(-5.69250639462346e-05f));
  p = add(mul(p, s), set1(-7.34990630326855e-04f));
  p = add(mul(p, s), set1(-2.95459980854025e-03f));
  p = add(mul(p, s), set1(-1.60960333262415e-02f));
  F16 q = set1(-1.45660718464996e-05f);
  q = add(mul(q, s), set1(-2.13374055278905e-04f));
  q = add(mul(q, s), set1(-1.68282697438203e-03f));
  q = add(mul(q, s), set1(-7.37332916720468e-03f));
  q = add(mul(q, s), set1(-1.42647390514189e-02f));
  return div(mul(x, p), q);
}

UNIAUDIO_INLINE F16 gelu16(F16 x) {
  return mul(mul(set1(0.5f), x), add(set1(1.0f), erf16(mul(x, set1(0.70710678118654752f)))));
}

UNIAUDIO_INLINE F16 silu16(F16 x) { return div(x, add(set1(1.0f), exp16(sub(set1(0.0f), x)))); }

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
