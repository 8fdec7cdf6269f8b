// Sample rate conversion of a stream by windowed-sinc interpolation.
//
// A Kaiser window with beta 9 keeps what would alias about 90 dB down. Browsers convert rates
// by linear interpolation where sound is played into an audio graph, which folds high
// frequencies into speech.

const CROSSINGS = 24; // zero crossings of the sinc on each side
const BETA = 9;
const ROLL_OFF = 0.94; // pass band, as a part of the lower rate's half

function bessel0(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

export class Resampler {
  /** `from`, `to`: whole numbers of Hz. */
  constructor(from, to) {
    const divisor = gcd(from, to);
    this.up = to / divisor; // output n lies at input n * down / up
    this.down = from / divisor;
    this.cutoff = Math.min(1, to / from) * ROLL_OFF;
    this.half = Math.ceil(CROSSINGS / this.cutoff); // taps on each side
    this.phases = new Map(); // numerator of the fraction -> taps
    this.buffer = new Float32Array(this.half); // silence before the first sample
    this.start = -this.half; // input position of buffer[0]
    this.made = 0;
    this.received = 0;
  }

  taps(numerator) {
    const known = this.phases.get(numerator);
    if (known) return known;
    const fraction = numerator / this.up;
    const taps = new Float32Array(2 * this.half + 1);
    let sum = 0;
    for (let k = -this.half; k <= this.half; k++) {
      const x = k - fraction;
      const place = x / (this.half + 1);
      const window = bessel0(BETA * Math.sqrt(Math.max(0, 1 - place * place)));
      const y = Math.PI * this.cutoff * x;
      const value = (y === 0 ? 1 : Math.sin(y) / y) * window;
      taps[k + this.half] = value;
      sum += value;
    }
    for (let k = 0; k < taps.length; k++) taps[k] /= sum;
    this.phases.set(numerator, taps);
    return taps;
  }

  /** Samples at `from` Hz -> the samples at `to` Hz that they complete. */
  push(samples) {
    this.received += samples.length;
    return this.#advance(samples);
  }

  /** The rest. In all, round(received * to / from) samples are returned. */
  flush() {
    const wanted = Math.round((this.received * this.up) / this.down);
    const rest = this.#advance(new Float32Array(2 * this.half + this.down));
    return rest.subarray(0, Math.max(0, rest.length - (this.made - wanted)));
  }

  #advance(samples) {
    const buffer = new Float32Array(this.buffer.length + samples.length);
    buffer.set(this.buffer);
    buffer.set(samples, this.buffer.length);
    const end = this.start + buffer.length;
    const output = [];
    for (; ; this.made++) {
      const centre = Math.floor((this.made * this.down) / this.up);
      if (centre + this.half >= end) break;
      const taps = this.taps((this.made * this.down) % this.up);
      const first = centre - this.half - this.start;
      let sum = 0;
      for (let k = 0; k < taps.length; k++) sum += taps[k] * buffer[first + k];
      output.push(sum);
    }
    const next = Math.floor((this.made * this.down) / this.up) - this.half;
    const done = Math.min(buffer.length, Math.max(0, next - this.start));
    this.buffer = buffer.slice(done);
    this.start += done;
    return Float32Array.from(output);
  }
}

/** All of a sound at once: float32 at `from` Hz -> float32 at `to` Hz. */
export function resample(samples, from, to) {
  if (from === to) return samples;
  const resampler = new Resampler(from, to);
  const parts = [resampler.push(samples), resampler.flush()];
  return concatenate(parts);
}

export function concatenate(parts) {
  const all = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
