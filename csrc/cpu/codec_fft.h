// The FFT's loops, compiled once per ISA inside that ISA's namespace. Vectors and single floats go
// through the same operations, so results don't depend on the ISA's width.
#include "cpu/codec_kernels.h"

namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

template <int...>
struct Sequence {};
#if UNIAUDIO_LANES == 16
using LaneNumbers = Sequence<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif UNIAUDIO_LANES == 8
using LaneNumbers = Sequence<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using LaneNumbers = Sequence<0, 1, 2, 3>;
#endif
#if __has_builtin(__builtin_shufflevector)
#define UNIAUDIO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12
#define UNIAUDIO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, NativeInt{__VA_ARGS__})
#endif

// Pairs of lanes, counted through a and then b: start, start + second; then both by `step` on.
template <int kStart, int kStep, int kSecond, int... I>
UNIAUDIO_INLINE Native pairs(Native a, Native b, Sequence<I...>) {
  return UNIAUDIO_SHUFFLE(a, b, (kStart + I / 2 * kStep + I % 2 * kSecond)...);
}
template <int... I>
UNIAUDIO_INLINE Native reversed(Native a, Sequence<I...>) {
  return UNIAUDIO_SHUFFLE(a, a, (kLanes - 1 - I)...);
}
// a0 b0 a1 b1 ..., first and second half
UNIAUDIO_INLINE Native low_pairs(Native a, Native b) {
  return pairs<0, 1, kLanes>(a, b, LaneNumbers{});
}
UNIAUDIO_INLINE Native high_pairs(Native a, Native b) {
  return pairs<kLanes / 2, 1, kLanes>(a, b, LaneNumbers{});
}
UNIAUDIO_INLINE Native evens(Native a, Native b) { return pairs<0, 4, 2>(a, b, LaneNumbers{}); }
UNIAUDIO_INLINE Native odds(Native a, Native b) { return pairs<1, 4, 2>(a, b, LaneNumbers{}); }
UNIAUDIO_INLINE Native reversed(Native a) { return reversed(a, LaneNumbers{}); }

// v -> u: a transform of R points, V one float or a register of them.
template <int R, class V>
UNIAUDIO_INLINE void butterfly(const float* roots, const V* vr, const V* vi, V* ur, V* ui) {
  if constexpr (R == 2) {
    ur[0] = vr[0] + vr[1], ui[0] = vi[0] + vi[1];
    ur[1] = vr[0] - vr[1], ui[1] = vi[0] - vi[1];
  } else if constexpr (R == 4) {
    const V pr = vr[0] + vr[2], pi = vi[0] + vi[2], mr = vr[0] - vr[2], mi = vi[0] - vi[2];
    const V er = vr[1] + vr[3], ei = vi[1] + vi[3], dr = vr[1] - vr[3], di = vi[1] - vi[3];
    ur[0] = pr + er, ui[0] = pi + ei;
    ur[1] = mr + di, ui[1] = mi - dr;
    ur[2] = pr - er, ui[2] = pi - ei;
    ur[3] = mr - di, ui[3] = mi + dr;
  } else {  // odd radices: pair r with R - r
    constexpr int kHalf = (R - 1) / 2;
    ur[0] = vr[0], ui[0] = vi[0];
    for (int r = 1; r < R; ++r) ur[0] = ur[0] + vr[r], ui[0] = ui[0] + vi[r];
    for (int j = 1; j <= kHalf; ++j) {
      V cr = vr[0], ci = vi[0], sr = vr[0] - vr[0], si = sr;
      for (int r = 1; r <= kHalf; ++r) {
        const float c = roots[2 * (j * r % R)], z = roots[2 * (j * r % R) + 1];
        cr = cr + c * (vr[r] + vr[R - r]), ci = ci + c * (vi[r] + vi[R - r]);
        sr = sr + z * (vi[r] - vi[R - r]), si = si + z * (vr[r] - vr[R - r]);
      }
      ur[j] = cr - sr, ui[j] = ci + si;
      ur[R - j] = cr + sr, ui[R - j] = ci - si;
    }
  }
}

// Radix R at compile time for 2, 3, 4, 5, vectors along the stride; run-time loops for any other
// prime.
template <int R>
void fft_radix(const FftStage& f, const float* __restrict xr, const float* __restrict xi,
               float* __restrict yr, float* __restrict yi) {
  const int s = f.stride, m = f.rest;
  const size_t step = static_cast<size_t>(s) * m;
  for (int q = 0; q < m; ++q) {
    const float* w = f.twiddle + static_cast<size_t>(q) * (R - 1) * 2;
    const float *ar = xr + static_cast<size_t>(q) * s, *ai = xi + static_cast<size_t>(q) * s;
    float *br = yr + static_cast<size_t>(q) * s * R, *bi = yi + static_cast<size_t>(q) * s * R;
    const auto points = [&]<class V>(int k, V) {
      V vr[R], vi[R], ur[R], ui[R];
      for (int r = 0; r < R; ++r) {
        if constexpr (sizeof(V) == 4) {
          vr[r] = ar[k + r * step], vi[r] = ai[k + r * step];
        } else {
          vr[r] = load_native(ar + k + r * step), vi[r] = load_native(ai + k + r * step);
        }
      }
      butterfly<R, V>(f.roots, vr, vi, ur, ui);
      for (int r = 0; r < R; ++r) {
        V pr = ur[r], pi = ui[r];
        if (r > 0) {
          const float c = w[2 * (r - 1)], z = w[2 * (r - 1) + 1];
          pr = ur[r] * c - ui[r] * z, pi = ur[r] * z + ui[r] * c;
        }
        if constexpr (sizeof(V) == 4) {
          br[k + r * s] = pr, bi[k + r * s] = pi;
        } else {
          store_native(br + k + r * s, pr), store_native(bi + k + r * s, pi);
        }
      }
    };
    int k = 0;
    for (; k + kLanes <= s; k += kLanes) points(k, Native{});
    for (; k < s; ++k) points(k, 0.0f);
  }
}

// Radix 4 where the stride S is shorter than a register: vectors run over groups and stride
// together, with a twiddle per element.
template <int S>
void fft_short(const FftStage& f, const float* __restrict xr, const float* __restrict xi,
               float* __restrict yr, float* __restrict yi) {
  const int step = S * f.rest;
  for (int start = 0; start < step; start += kLanes) {
    // the last vector may redo some of the one before
    const int i = start + kLanes <= step ? start : step - kLanes;
    Native vr[4], vi[4], ur[4], ui[4];
    UNIAUDIO_UNROLL
    for (int r = 0; r < 4; ++r)
      vr[r] = load_native(xr + i + r * step), vi[r] = load_native(xi + i + r * step);
    butterfly<4, Native>(f.roots, vr, vi, ur, ui);
    UNIAUDIO_UNROLL
    for (int r = 1; r < 4; ++r) {
      const Native c = load_native(f.wide + (2 * r - 2) * step + i),
                   z = load_native(f.wide + (2 * r - 1) * step + i);
      const Native pr = ur[r] * c - ui[r] * z, pi = ur[r] * z + ui[r] * c;
      ur[r] = pr, ui[r] = pi;
    }
    const auto spread = [&](const Native* u, float* y) {
      if constexpr (S == 1) {
        const Native a = low_pairs(u[0], u[2]), b = high_pairs(u[0], u[2]),
                     c = low_pairs(u[1], u[3]), d = high_pairs(u[1], u[3]);
        store_native(y + 4 * i, low_pairs(a, c)),
            store_native(y + 4 * i + kLanes, high_pairs(a, c));
        store_native(y + 4 * i + 2 * kLanes, low_pairs(b, d)),
            store_native(y + 4 * i + 3 * kLanes, high_pairs(b, d));
      } else {  // blocks of four
        UNIAUDIO_UNROLL
        for (int r = 0; r < 4; ++r)
          for (int b = 0; b < kLanes / 4; ++b)
            __builtin_memcpy(y + 4 * i + b * 16 + r * 4,
                             reinterpret_cast<const char*>(&u[r]) + b * 16, 16);
      }
    };
    spread(ur, yr);
    spread(ui, yi);
  }
}

void fft_any(const FftStage& f, const float* xr, const float* xi, float* yr, float* yi) {
  const int s = f.stride, m = f.rest, n = f.radix;
  const size_t step = static_cast<size_t>(s) * m;
  for (int q = 0; q < m; ++q)
    for (int k = 0; k < s; ++k)
      for (int j = 0; j < n; ++j) {
        float ur = 0, ui = 0;
        for (int r = 0; r < n; ++r) {
          const int e = static_cast<int>(static_cast<int64_t>(j) * r % n);
          const float c = f.roots[2 * e], z = f.roots[2 * e + 1];
          const float vr = xr[k + static_cast<size_t>(q) * s + r * step],
                      vi = xi[k + static_cast<size_t>(q) * s + r * step];
          ur += vr * c - vi * z, ui += vr * z + vi * c;
        }
        float c = 1, z = 0;
        if (j > 0) {
          const float* w = f.twiddle + (static_cast<size_t>(q) * (n - 1) + (j - 1)) * 2;
          c = w[0], z = w[1];
        }
        const size_t at = k + s * (static_cast<size_t>(q) * n + j);
        yr[at] = ur * c - ui * z, yi[at] = ur * z + ui * c;
      }
}

void fft_stage(const FftStage& f, const float* xr, const float* xi, float* yr, float* yi) {
  if (f.wide && f.stride < kLanes && f.rest * f.stride >= kLanes) {
    if (f.stride == 1) return fft_short<1>(f, xr, xi, yr, yi);
    if (f.stride == 4) return fft_short<4>(f, xr, xi, yr, yi);
  }
  switch (f.radix) {
    case 2: return fft_radix<2>(f, xr, xi, yr, yi);
    case 3: return fft_radix<3>(f, xr, xi, yr, yi);
    case 4: return fft_radix<4>(f, xr, xi, yr, yi);
    case 5: return fft_radix<5>(f, xr, xi, yr, yi);
    default: return fft_any(f, xr, xi, yr, yi);
  }
}

void fft_split(const float* x, float* re, float* im, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Native a = load_native(x + 2 * i), b = load_native(x + 2 * i + kLanes);
    store_native(re + i, evens(a, b)), store_native(im + i, odds(a, b));
  }
  for (; i < n; ++i) re[i] = x[2 * i], im[i] = x[2 * i + 1];
}

void fft_join(const float* re, const float* im, float scale, float* x, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Native a = load_native(re + i) * scale, b = load_native(im + i) * scale;
    store_native(x + 2 * i, low_pairs(a, b)), store_native(x + 2 * i + kLanes, high_pairs(a, b));
  }
  for (; i < n; ++i) x[2 * i] = re[i] * scale, x[2 * i + 1] = im[i] * scale;
}

// f(k, mirror) for k in [1, half) with mirror = half - k: registers, the last of which may redo
// some of the one before, or floats.
template <class Vectors, class Floats>
UNIAUDIO_INLINE void mirrored(int half, Vectors vectors, Floats floats) {
  if (half - 1 < kLanes) {
    for (int k = 1; k < half; ++k) floats(k);
    return;
  }
  for (int k = 1; k < half; k += kLanes) vectors(k + kLanes <= half ? k : half - kLanes);
}

void fft_forward_end(const float* zr, const float* zi, const float* cosine, const float* sine,
                     float* re, float* im, int half) {
  re[0] = zr[0] + zi[0], im[0] = 0;
  re[half] = zr[0] - zi[0], im[half] = 0;
  // even part (Z[k] + conj Z[h-k]) / 2; odd part (Z[k] - conj Z[h-k]) / 2j, turned by exp(-2 pi j k
  // / length)
  const auto turn = [](auto ar, auto ai, auto br, auto bi, auto c, auto s, auto& xr, auto& xi) {
    const auto er = 0.5f * (ar + br), ei = 0.5f * (ai - bi), odd_re = 0.5f * (ai + bi),
               odd_im = 0.5f * (br - ar);
    xr = er + (odd_re * c + odd_im * s);
    xi = ei + (odd_im * c - odd_re * s);
  };
  mirrored(
      half,
      [&](int k) {
        const int back = half - k - kLanes + 1;
        Native xr, xi;
        turn(load_native(zr + k), load_native(zi + k), reversed(load_native(zr + back)),
             reversed(load_native(zi + back)), load_native(cosine + k), load_native(sine + k), xr,
             xi);
        store_native(re + k, xr), store_native(im + k, xi);
      },
      [&](int k) {
        turn(zr[k], zi[k], zr[half - k], zi[half - k], cosine[k], sine[k], re[k], im[k]);
      });
}

void fft_inverse_begin(const float* re, const float* im, const float* cosine, const float* sine,
                       float* zr, float* zi, int half) {
  zr[0] = re[0] + re[half], zi[0] = re[0] - re[half];
  // odd part d exp(+2 pi j k / length); Z = even + j odd
  const auto turn = [](auto ar, auto ai, auto br, auto bi, auto c, auto s, auto& xr, auto& xi) {
    const auto er = ar + br, ei = ai - bi, dr = ar - br, di = ai + bi;
    const auto odd_re = dr * c - di * s, odd_im = dr * s + di * c;
    xr = er - odd_im;
    xi = ei + odd_re;
  };
  mirrored(
      half,
      [&](int k) {
        const int back = half - k - kLanes + 1;
        Native xr, xi;
        turn(load_native(re + k), load_native(im + k), reversed(load_native(re + back)),
             reversed(load_native(im + back)), load_native(cosine + k), load_native(sine + k), xr,
             xi);
        store_native(zr + k, xr), store_native(zi + k, xi);
      },
      [&](int k) {
        turn(re[k], im[k], re[half - k], im[half - k], cosine[k], sine[k], zr[k], zi[k]);
      });
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
