/* A FLAC reader for mono 16-bit files, for machines without a sound library: what training/gpu/pack.py writes.
 *
 * int64_t flac_decode(const uint8_t *data, int64_t size, int16_t *out, int64_t most)
 * -> samples written, or a negative number: -1 no FLAC, -2 not mono 16-bit, -3 cut or damaged, -4 no room in out.
 * Frames' checksums are not looked at; parts have checksums of their own.
 */
#include <stdint.h>
#include <string.h>

typedef struct {
  const uint8_t *data;
  int64_t size, bit;  /* bit: place of the next one */
  int bad;
} Bits;

static uint32_t bits(Bits *b, int n) {
  uint64_t value = 0;
  int64_t byte = b->bit >> 3;
  int shift = (int)(b->bit & 7);
  if (n == 0) return 0;
  if (byte + ((shift + n + 7) >> 3) > b->size) {
    b->bad = 1;
    return 0;
  }
  for (int i = 0; i < (shift + n + 7) >> 3; i++) value = value << 8 | b->data[byte + i];
  value >>= ((shift + n + 7) & ~7) - shift - n;
  b->bit += n;
  return (uint32_t)(value & ((n == 32) ? 0xffffffffu : ((1u << n) - 1)));
}

static int32_t signed_bits(Bits *b, int n) {
  if (n == 0) return 0;
  uint32_t v = bits(b, n);
  return (n < 32 && (v >> (n - 1))) ? (int32_t)(v | ~((1u << n) - 1)) : (int32_t)v;
}

static uint32_t unary(Bits *b) {
  uint32_t n = 0;
  while (!b->bad && !bits(b, 1)) n++;
  return n;
}

/* Residuals of a subframe after its `order` warm-up samples. */
static int residual(Bits *b, int32_t *out, int block, int order) {
  uint32_t method = bits(b, 2);
  if (method > 1) return -1;
  int width = method ? 5 : 4;
  uint32_t partition = bits(b, 4);
  int each = block >> partition, at = order;
  if ((each << partition) != block || each < order) return -1;
  for (uint32_t p = 0; p < (1u << partition) && !b->bad; p++) {
    uint32_t rice = bits(b, width);
    int count = each - (p ? 0 : order);
    if (rice == (1u << width) - 1) {
      int raw = (int)bits(b, 5);
      for (int i = 0; i < count; i++) out[at++] = signed_bits(b, raw);
    } else {
      for (int i = 0; i < count && !b->bad; i++) {
        uint32_t v = unary(b) << rice;
        v |= bits(b, (int)rice);
        out[at++] = (int32_t)(v >> 1) ^ -(int32_t)(v & 1);
      }
    }
  }
  return b->bad ? -1 : 0;
}

static int subframe(Bits *b, int32_t *s, int block, int depth) {
  if (bits(b, 1)) return -1;
  uint32_t type = bits(b, 6);
  int wasted = 0;
  if (bits(b, 1)) wasted = (int)unary(b) + 1;
  depth -= wasted;
  if (depth < 1) return -1;
  if (type == 0) {
    int32_t v = signed_bits(b, depth);
    for (int i = 0; i < block; i++) s[i] = v;
  } else if (type == 1) {
    for (int i = 0; i < block; i++) s[i] = signed_bits(b, depth);
  } else if (type >= 8 && type <= 12) {
    int order = (int)type - 8;
    if (order > block) return -1;
    for (int i = 0; i < order; i++) s[i] = signed_bits(b, depth);
    if (residual(b, s, block, order)) return -1;
    for (int i = order; i < block; i++) {
      int64_t p = order == 0   ? 0
                  : order == 1 ? s[i - 1]
                  : order == 2 ? 2 * (int64_t)s[i - 1] - s[i - 2]
                  : order == 3 ? 3 * (int64_t)s[i - 1] - 3 * (int64_t)s[i - 2] + s[i - 3]
                               : 4 * (int64_t)s[i - 1] - 6 * (int64_t)s[i - 2] + 4 * (int64_t)s[i - 3] - s[i - 4];
      s[i] = (int32_t)(s[i] + p);
    }
  } else if (type >= 32) {
    int order = (int)type - 31;
    int32_t coefficient[32];
    if (order > block) return -1;
    for (int i = 0; i < order; i++) s[i] = signed_bits(b, depth);
    uint32_t precision = bits(b, 4) + 1;
    int shift = signed_bits(b, 5);
    if (precision == 16 || shift < 0) return -1;
    for (int i = 0; i < order; i++) coefficient[i] = signed_bits(b, (int)precision);
    if (residual(b, s, block, order)) return -1;
    for (int i = order; i < block; i++) {
      int64_t sum = 0;
      for (int j = 0; j < order; j++) sum += (int64_t)coefficient[j] * s[i - 1 - j];
      s[i] = (int32_t)(s[i] + (sum >> shift));
    }
  } else {
    return -1;
  }
  if (wasted)
    for (int i = 0; i < block; i++) s[i] = (int32_t)((uint32_t)s[i] << wasted);
  return b->bad ? -1 : 0;
}

int64_t flac_decode(const uint8_t *data, int64_t size, int16_t *out, int64_t most) {
  static const int sizes[16] = {0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  static int32_t samples[65536];
  Bits b = {data, size, 32, 0};
  if (size < 42 || memcmp(data, "fLaC", 4)) return -1;
  for (int last = 0; !last;) {
    last = (int)bits(&b, 1);
    uint32_t kind = bits(&b, 7), length = bits(&b, 24);
    if (b.bad || (b.bit >> 3) + length > size) return -3;
    if (kind == 0) {
      Bits info = b;
      info.bit += 100; /* sizes of blocks and frames, sample rate */
      if (bits(&info, 3) != 0 || bits(&info, 5) != 15) return -2;
    }
    b.bit += (int64_t)length * 8;
  }
  int64_t written = 0;
  while ((b.bit >> 3) + 5 < size) {
    if (bits(&b, 14) != 0x3ffe) return -3;
    bits(&b, 2);
    uint32_t block_code = bits(&b, 4), rate_code = bits(&b, 4), channels = bits(&b, 4), depth = bits(&b, 3);
    bits(&b, 1);
    if (channels != 0 || (depth != 0 && depth != 4)) return -2;
    int more = 0; /* bytes of the frame's number, written as UTF-8 is */
    for (uint32_t first = bits(&b, 8); first & 0x80 && more < 7; first <<= 1) more++;
    for (int i = 1; i < more; i++) bits(&b, 8);
    int block = block_code == 6 ? (int)bits(&b, 8) + 1 : block_code == 7 ? (int)bits(&b, 16) + 1 : sizes[block_code];
    if (rate_code == 12) bits(&b, 8);
    if (rate_code == 13 || rate_code == 14) bits(&b, 16);
    bits(&b, 8);
    if (b.bad || block < 1 || block > 65536 || subframe(&b, samples, block, 16)) return -3;
    b.bit = (b.bit + 7) & ~(int64_t)7;
    bits(&b, 16);
    if (b.bad) return -3;
    if (written + block > most) return -4;
    for (int i = 0; i < block; i++) out[written++] = (int16_t)samples[i];
  }
  return written;
}
