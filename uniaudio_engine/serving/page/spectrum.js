// Short-time spectra of a stream, as columns of brightness on a mel-like scale.

const SIZE = 512;
export const ROWS = 96;
const FLOOR = -84; // dB that are black
const CEILING = -14; // dB that are white

const mel = (hz) => 1127 * Math.log(1 + hz / 700);
const hertz = (m) => 700 * (Math.exp(m / 1127) - 1);

export class Spectrum {
  constructor(rate) {
    this.hop = Math.round(rate / 100);
    this.pending = new Float32Array(SIZE);
    this.filled = SIZE / 2; // centred on its time
    this.window = Float32Array.from({ length: SIZE }, (_, i) =>
      0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
    this.cos = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
    this.sin = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));
    const top = mel(rate / 2);
    // Bin position of each row's centre, lowest first.
    this.bins = Float32Array.from({ length: ROWS }, (_, r) =>
      (hertz(((r + 0.5) / ROWS) * top) / rate) * SIZE);
  }

  /** Samples -> columns Uint8Array[ROWS], lowest frequency first, one every 10 ms. */
  push(samples) {
    const columns = [];
    let at = 0;
    while (at < samples.length) {
      const n = Math.min(SIZE - this.filled, samples.length - at);
      this.pending.set(samples.subarray(at, at + n), this.filled);
      this.filled += n;
      at += n;
      if (this.filled < SIZE) break;
      columns.push(this.#column());
      this.pending.copyWithin(0, this.hop);
      this.filled = SIZE - this.hop;
    }
    return columns;
  }

  #column() {
    const re = this.pending.map((x, i) => x * this.window[i]);
    const im = new Float32Array(SIZE);
    transform(re, im, this.cos, this.sin);
    const power = (k) => re[k] * re[k] + im[k] * im[k];
    return Uint8Array.from({ length: ROWS }, (_, r) => {
      const low = this.bins[r];
      const high = r + 1 < ROWS ? this.bins[r + 1] : SIZE / 2;
      let strongest = 0;
      for (let k = Math.floor(low); k <= Math.max(Math.floor(low), Math.floor(high) - 1); k++) {
        strongest = Math.max(strongest, power(k));
      }
      const db = 10 * Math.log10((strongest * 16) / (SIZE * SIZE) + 1e-12);
      return Math.max(0, Math.min(255, (255 * (db - FLOOR)) / (CEILING - FLOOR)));
    });
  }
}

/** Fast Fourier transform in place, radix 2. */
function transform(re, im, cos, sin) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size <<= 1) {
    const half = size >> 1;
    const step = n / size;
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < half; k++) {
        const c = cos[k * step];
        const s = -sin[k * step];
        const a = start + k;
        const b = a + half;
        const x = re[b] * c - im[b] * s;
        const y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
}

// Colours from silent to loud; the spectrogram is dark in both themes.
const STOPS = [
  [12, 10, 28], [42, 20, 84], [96, 30, 122], [160, 48, 112],
  [218, 84, 84], [248, 142, 84], [254, 200, 128], [254, 248, 214],
];
export const PALETTE = Array.from({ length: 256 }, (_, v) => {
  const place = (v / 255) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(place));
  return STOPS[low].map((c, i) => Math.round(c + (STOPS[low + 1][i] - c) * (place - low)));
});
