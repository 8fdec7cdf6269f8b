// Attention over the key-value cache, compiled once per ISA like kernels_body.h, which includes it;
// see kernel_table.h for the layouts. Keys and values are widened to float32 and multiplied with
// fused multiply-adds. One order for every sum, however many rows share the loads: a score goes
// through its dimensions in order; a value sums even and odd positions apart, so that one row alone
// is not bound by the latency of its additions.
namespace uniaudio::UNIAUDIO_ISA_NAMESPACE {
namespace {

// --- place ---------------------------------------------------------------------------------------

void rope(float* x, const float* c, const float* s, int64_t half) {
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    const Vec a = load_n(x + i, n), b = load_n(x + half + i, n), cv = load_n(c + i, n),
              sv = load_n(s + i, n);
    store_n(x + i, a * cv - b * sv, n);
    store_n(x + half + i, b * cv + a * sv, n);
  }
}

UNIAUDIO_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

// To nearest even; NaN stays NaN.
UNIAUDIO_INLINE uint16_t narrow_bf16(float x) {
  const uint32_t u = bits_of(x);
  return uint16_t((u & 0x7FFFFFFFu) > 0x7F800000u ? u >> 16 | 0x40u
                                                  : (u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

// What int8 elements are multiplied by before rounding; *scale is what brings them back.
UNIAUDIO_INLINE float scale_i8(const float* x, int64_t n, float* scale) {
  Vec most = set(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) most = max(most, abs(load(x + i)));
  if (i < n) most = max(most, abs(load_n(x + i, n - i)));
  const float peak = largest(most);
  *scale = peak * (1.0f / 127.0f);
  return peak > 1e-30f ? 127.0f / peak : 0.0f;
}

// to[i * stride] = x[i] * inverse to nearest even: adding 1.5 * 2^23 leaves the whole number in the
// low bits.
UNIAUDIO_INLINE void narrow_i8(const float* x, int64_t n, float inverse, int8_t* to,
                               int64_t stride) {
  const Vec scale = set(inverse), magic = set(12582912.0f);
  each(n, [&](int64_t i, int64_t count) {
    float t[kPanel];
    store(t, get(x + i, count) * scale + magic);
    for (int64_t j = 0; j < count; ++j) to[(i + j) * stride] = int8_t(bits_of(t[j]));
  });
}

void place(const PlaceArgs& a) {
  const int64_t dim = a.dim, t = a.position, block = t / 16, lane = t % 16;
  if (a.q_norm) {
    for (int64_t h = 0; h < a.query_heads; ++h)
      rmsnorm(a.q + h * dim, a.q_norm, a.eps, a.q + h * dim, dim);
    rmsnorm(a.k, a.k_norm, a.eps, a.k, dim);
  }
  if (a.angles) {
    for (int64_t h = 0; h < a.query_heads; ++h)
      rope(a.q + h * dim, a.angles, a.angles + dim / 2, dim / 2);
    rope(a.k, a.angles, a.angles + dim / 2, dim / 2);
  }
  if (a.dtype == KvDType::float32) {
    float* k = static_cast<float*>(a.keys) + block * dim * 16 + lane;
    float* v = static_cast<float*>(a.values) + t * ((dim + 15) / 16 * 16);
    for (int64_t d = 0; d < dim; ++d) k[d * 16] = a.k[d];
    for (int64_t d = 0; d < dim; ++d) v[d] = a.v[d];
  } else if (a.dtype == KvDType::bfloat16) {
    uint16_t* k = static_cast<uint16_t*>(a.keys) + block * ((dim + 1) / 2) * 32 + lane * 2;
    uint16_t* v = static_cast<uint16_t*>(a.values) + t * ((dim + 31) / 32 * 32);
    for (int64_t d = 0; d < dim; ++d) k[d / 2 * 32 + d % 2] = narrow_bf16(a.k[d]);
    for (int64_t d = 0; d < dim; ++d)
      v[d / 32 * 32 + d % 16 * 2 + d / 16 % 2] = narrow_bf16(a.v[d]);
  } else {
    int8_t* k = static_cast<int8_t*>(a.keys) + block * dim * 16 + lane;
    int8_t* v = static_cast<int8_t*>(a.values) + t * ((dim + 15) / 16 * 16);
    const float k_inverse = scale_i8(a.k, dim, a.key_scale + t),
                v_inverse = scale_i8(a.v, dim, a.value_scale + t);
    narrow_i8(a.k, dim, k_inverse, k, 16);
    narrow_i8(a.v, dim, v_inverse, v, 1);
  }
}

// --- scores --------------------------------------------------------------------------------------

// Bytes of keys, and of values, that are asked for before a single row needs them. After the last
// key come the first values, after the last value the first of what is attended to next.
constexpr int64_t kKvAhead = 8192;

// Queries lie transposed and scaled, [dim][rows].
struct Scoring {
  const AttentionArgs& a;
  const float* q;
  int64_t blocks;
};

// Scores of M rows with B blocks of 16 positions, a lane each: no sums across lanes.
template <KvDType T, int M, int B>
UNIAUDIO_INLINE void score_tile(const Scoring& s, int64_t row, int64_t block) {
  const AttentionArgs& a = s.a;
  const float* q = s.q + row;  // of dimension d
  Vec acc[M][B];
  UNIAUDIO_UNROLL
  for (int m = 0; m < M; ++m) {
    UNIAUDIO_UNROLL
    for (int b = 0; b < B; ++b) acc[m][b] = set(0.0f);
  }
  if constexpr (T == KvDType::bfloat16) {
    const int64_t size = (a.dim + 1) / 2 * 32;
    const uint16_t* keys = static_cast<const uint16_t*>(a.keys) + block * size;
    int64_t d = 0;
    for (; d + 2 <= a.dim; d += 2, q += 2 * a.rows) {
      Vec k[2][B];
      UNIAUDIO_UNROLL
      for (int b = 0; b < B; ++b) load_bf16_pairs(keys + b * size + d * 16, k[0][b], k[1][b]);
      UNIAUDIO_UNROLL
      for (int m = 0; m < M; ++m) {
        const Vec even = set(q[m]), odd = set(q[a.rows + m]);
        UNIAUDIO_UNROLL
        for (int b = 0; b < B; ++b)
          acc[m][b] = fma_exactly(odd, k[1][b], fma_exactly(even, k[0][b], acc[m][b]));
      }
    }
    if (d < a.dim) {
      UNIAUDIO_UNROLL
      for (int b = 0; b < B; ++b) {
        Vec k, none;
        load_bf16_pairs(keys + b * size + d * 16, k, none);
        UNIAUDIO_UNROLL
        for (int m = 0; m < M; ++m) acc[m][b] = fma_exactly(set(q[m]), k, acc[m][b]);
      }
    }
  } else {
    const int64_t size = a.dim * 16, at = block * size;
    for (int64_t d = 0; d < a.dim; ++d, q += a.rows) {
      // Blocks side by side are too many streams for hardware to follow, so lines are asked for in
      // the order of their addresses. With several rows the loads are few.
      if constexpr (T == KvDType::int8 && M == 1) {
        for (int64_t line = d * B / 4; line < (d + 1) * B / 4; ++line) {
          const int64_t next = at + line * 64 + kKvAhead, beyond = next - s.blocks * size;
          __builtin_prefetch(beyond < 0 ? static_cast<const int8_t*>(a.keys) + next
                                        : static_cast<const int8_t*>(a.values) + beyond);
        }
      }
      UNIAUDIO_UNROLL
      for (int b = 0; b < B; ++b) {
        Vec k;
        if constexpr (T == KvDType::float32)
          k = load(static_cast<const float*>(a.keys) + at + b * size + d * 16);
        if constexpr (T == KvDType::int8)
          k = widen_i8(static_cast<const int8_t*>(a.keys) + at + b * size + d * 16);
        UNIAUDIO_UNROLL
        for (int m = 0; m < M; ++m) {
          acc[m][b] = fma_exactly(set(q[m]), k, acc[m][b]);
          settle(acc[m][b]);
        }
      }
    }
  }
  UNIAUDIO_UNROLL
  for (int b = 0; b < B; ++b) {
    UNIAUDIO_UNROLL
    for (int m = 0; m < M; ++m) {
      if constexpr (T == KvDType::int8)
        acc[m][b] = acc[m][b] * load(a.key_scale + (block + b) * 16);
      store(a.scratch + (row + m) * a.scratch_stride + (block + b) * 16, acc[m][b]);
    }
  }
}

template <KvDType T, int M, int B>
UNIAUDIO_INLINE void all_blocks(const Scoring& s, int64_t row) {
  int64_t block = 0;
  for (; block + B <= s.blocks; block += B) score_tile<T, M, B>(s, row, block);
  if constexpr (B > 4) {
    if (block + 4 <= s.blocks) score_tile<T, M, 4>(s, row, block), block += 4;
  }
  for (; block < s.blocks; ++block) score_tile<T, M, 1>(s, row, block);
}

template <KvDType T, int M>
UNIAUDIO_INLINE void scores_tail(const Scoring& s, int64_t row) {
  if constexpr (M > 0) {
    if (s.a.rows - row == M)
      return all_blocks < T, M, M == 1 ? kAloneBlocks : kScoreBlocks > (s, row);
    scores_tail<T, M - 1>(s, row);
  }
}

// --- values --------------------------------------------------------------------------------------

// P vectors of position t, from element d on.
template <KvDType T, int P>
UNIAUDIO_INLINE void load_values(const AttentionArgs& a, int64_t stride, int64_t t, int64_t d,
                                 Vec (&v)[P]) {
  const int64_t at = t * stride + d;
  if constexpr (T == KvDType::float32) {
    UNIAUDIO_UNROLL
    for (int p = 0; p < P; ++p) v[p] = load(static_cast<const float*>(a.values) + at + 16 * p);
  } else if constexpr (T == KvDType::int8) {
    UNIAUDIO_UNROLL
    for (int p = 0; p < P; ++p) v[p] = widen_i8(static_cast<const int8_t*>(a.values) + at + 16 * p);
  } else {
    static_assert(P % 2 == 0);
    UNIAUDIO_UNROLL
    for (int p = 0; p < P; p += 2)
      load_bf16_pairs(static_cast<const uint16_t*>(a.values) + at + 16 * p, v[p], v[p + 1]);
  }
}

// Bytes of values in int8 that are passed over once for each tile of dimensions: they stay in the
// first-level cache, and memory is read all the time, not in every first pass alone.
constexpr int64_t kValueBytes = 8192;

// The part of a sum over `length` positions that is over [begin, end).
struct Summing {
  const AttentionArgs& a;
  const float* inverse;
  float* odd;  // [rows][dim]: sums over odd positions so far; those over even ones are in `out`
  int64_t length, begin, end;
  const int8_t* next;  // what is asked for next where a row is alone
  int64_t left;        // bytes of values from there on
};

template <KvDType T, int M, int P>
UNIAUDIO_INLINE void value_tile(Summing& s, int64_t row, int64_t d) {
  const AttentionArgs& a = s.a;
  const int64_t stride = T == KvDType::bfloat16 ? (a.dim + 31) / 32 * 32 : (a.dim + 15) / 16 * 16;
  const float* p = a.scratch + row * a.scratch_stride;
  const bool first = s.begin == 0, last = s.end == s.length;
  Vec sums[2][M][P];  // over even and odd positions
  UNIAUDIO_UNROLL
  for (int m = 0; m < M; ++m) {
    UNIAUDIO_UNROLL
    for (int i = 0; i < P; ++i) {
      const int64_t at = d + 16 * i, n = a.dim - at < 16 ? a.dim - at : 16;
      sums[0][m][i] = sums[1][m][i] = set(0.0f);
      if (first || n <= 0) continue;
      sums[0][m][i] = get(a.row[row + m].out + at, n);
      sums[1][m][i] = get(s.odd + (row + m) * a.dim + at, n);
    }
  }
  const auto add = [&](int64_t t, int odd) __attribute__((always_inline)) {
    Vec v[P];
    load_values<T, P>(a, stride, t, d, v);
    UNIAUDIO_UNROLL
    for (int m = 0; m < M; ++m) {
      const Vec x = set(p[m * a.scratch_stride + t]);
      UNIAUDIO_UNROLL
      for (int i = 0; i < P; ++i) {
        sums[odd][m][i] = fma_exactly(x, v[i], sums[odd][m][i]);
        settle(sums[odd][m][i]);
      }
    }
  };
  int64_t t = s.begin;
  for (; t + 2 <= s.end; t += 2) {
    if constexpr (T == KvDType::int8 && M == 1) {
      // as many bytes as this tile takes of two positions
      UNIAUDIO_UNROLL
      for (int i = 0; i < P; i += 2) __builtin_prefetch(s.next + 32 * i);
      s.next += 32 * P;
      if (s.left > 0 && (s.left -= 32 * P) <= 0) s.next = static_cast<const int8_t*>(a.then);
    }
    add(t, 0);
    add(t + 1, 1);
  }
  if (t < s.end) add(t, 0);
  UNIAUDIO_UNROLL
  for (int m = 0; m < M; ++m) {
    UNIAUDIO_UNROLL
    for (int i = 0; i < P; ++i) {
      const int64_t at = d + 16 * i, n = a.dim - at < 16 ? a.dim - at : 16;
      if (n <= 0) continue;
      const Vec even = sums[0][m][i], odd = sums[1][m][i];
      put(a.row[row + m].out + at, last ? (even + odd) * set(s.inverse[row + m]) : even, n);
      if (!last) put(s.odd + (row + m) * a.dim + at, odd, n);
    }
  }
}

template <KvDType T, int M, int P>
UNIAUDIO_INLINE void all_dims(Summing& s, int64_t row) {
  constexpr int kLeast = T == KvDType::bfloat16 ? 2 : 1;
  const int64_t dim = s.a.dim;
  // An even number, so that even positions stay even ones.
  const bool once = T != KvDType::int8 || dim <= 16 * P;
  const int64_t part = once ? s.length : kValueBytes / dim / 2 * 2 + 2;
  s.left = s.length * ((dim + 15) / 16 * 16) - kKvAhead;
  s.next = static_cast<const int8_t*>(s.left > 0 ? s.a.values : s.a.then);
  if (s.left > 0) s.next += kKvAhead;
  for (s.begin = 0; s.begin < s.length; s.begin = s.end) {
    s.end = s.begin + part < s.length ? s.begin + part : s.length;
    int64_t d = 0;
    for (; d + 16 * P <= dim; d += 16 * P) value_tile<T, M, P>(s, row, d);
    for (; d < dim; d += 16 * kLeast) value_tile<T, M, kLeast>(s, row, d);
  }
}

template <KvDType T, int M>
UNIAUDIO_INLINE void values_tail(Summing& s, int64_t row) {
  constexpr int kLeast = T == KvDType::bfloat16 ? 2 : 1;
  if constexpr (M > 0) {
    if (s.a.rows - row == M)
      return all_dims < T, M,
             M == 1 ? kAloneVectors : (kValueVectors > kLeast ? kValueVectors : kLeast) > (s, row);
    values_tail<T, M - 1>(s, row);
  }
}

// --- both ----------------------------------------------------------------------------------------

template <KvDType T>
void attend(const AttentionArgs& a) {
  float* const q = a.scratch + kAttentionRows * a.scratch_stride;
  int64_t length = 0;
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t d = 0; d < a.dim; ++d) q[d * a.rows + m] = a.row[m].q[d] * a.scale;
    length = a.row[m].length > length ? a.row[m].length : length;
  }
  const Scoring s = {a, q, (length + 15) / 16};
  int64_t row = 0;
  for (; row + kScoreRows <= a.rows; row += kScoreRows)
    all_blocks<T, kScoreRows, kScoreBlocks>(s, row);
  scores_tail<T, kScoreRows - 1>(s, row);

  float inverse[kAttentionRows];
  for (int64_t m = 0; m < a.rows; ++m) {
    float* p = a.scratch + m * a.scratch_stride;
    const int64_t n = a.row[m].length, begin = a.row[m].begin;
    float* const seen = p + begin;
    inverse[m] = 1.0f / exp_sum(seen, max_of(seen, n - begin), seen, n - begin);
    for (int64_t t = 0; t < begin; ++t) p[t] = 0.0f;   // positions that only earlier rows see
    for (int64_t t = n; t < length; ++t) p[t] = 0.0f;  // positions that only later rows see
    if constexpr (T == KvDType::int8) {
      for (int64_t t = 0; t < length; t += 16) store(p + t, load(p + t) * load(a.value_scale + t));
    }
  }

  constexpr int kRows = T == KvDType::bfloat16 && kValueVectors < 2
                            ? (kValueRows > 1 ? kValueRows / 2 : 1)
                            : kValueRows;
  constexpr int kVectors = T == KvDType::bfloat16 && kValueVectors < 2 ? 2 : kValueVectors;
  Summing summing{a, inverse, q, length, 0, 0, nullptr, 0};  // the queries are not needed any more
  for (row = 0; row + kRows <= a.rows; row += kRows)
    all_dims<T, kRows, kRows == 1 ? kAloneVectors : kVectors>(summing, row);
  values_tail<T, kRows - 1>(summing, row);
}

void attention(const AttentionArgs& a) {
  if (a.dtype == KvDType::float32) {
    attend<KvDType::float32>(a);
  } else if (a.dtype == KvDType::bfloat16) {
    attend<KvDType::bfloat16>(a);
  } else {
    attend<KvDType::int8>(a);
  }
}

}  // namespace
}  // namespace uniaudio::UNIAUDIO_ISA_NAMESPACE
