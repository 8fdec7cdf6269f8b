// Draws a sound as it comes: a waveform and, where asked for, a spectrogram above it.

import { h } from './dom.js';
import { PALETTE, ROWS, Spectrum } from './spectrum.js';

const PEAK = 40; // samples that share one lowest and highest value
const TILE = 1024; // columns of the spectrogram kept in one canvas
const WINDOW = 3; // seconds shown before a growing sound fills the view
const QUIETEST = 0.2; // a peak below this is not drawn at full height
const BAR = 3; // CSS pixels from one bar of the waveform to the next

export class SoundView {
  /** `onseek(seconds)` for a click, `onspan(begin, end)` in seconds for a drag. */
  constructor(label, { spectrogram = false, onseek = null, onspan = null } = {}) {
    this.wave = h('canvas', { class: 'wave', role: 'img', 'aria-label': `Waveform of ${label}` });
    this.spectrogram = spectrogram
      ? h('canvas', {
          class: 'spectrogram', role: 'img', 'aria-label': `Spectrogram of ${label}`,
        })
      : null;
    this.element = h('div', { class: 'sound-view' }, this.spectrogram, this.wave);
    this.onseek = onseek;
    this.onspan = onspan;
    this.reset(16000);
    new ResizeObserver(() => this.redraw()).observe(this.element);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.redraw());
    this.#listen();
  }

  reset(rate) {
    this.rate = rate;
    this.length = 0;
    this.complete = false;
    this.position = 0;
    this.span = null;
    this.lows = [];
    this.highs = [];
    this.loudest = QUIETEST;
    this.rest = new Float32Array(0);
    this.spectrum = new Spectrum(rate);
    this.tiles = [];
    this.columns = 0;
    this.redraw();
  }

  push(samples) {
    this.length += samples.length;
    const all = new Float32Array(this.rest.length + samples.length);
    all.set(this.rest);
    all.set(samples, this.rest.length);
    let at = 0;
    for (; at + PEAK <= all.length; at += PEAK) this.#peak(all.subarray(at, at + PEAK));
    this.rest = all.slice(at);
    if (this.spectrogram) this.spectrum.push(samples).forEach((column) => this.#column(column));
    this.redraw();
  }

  end() {
    if (this.rest.length) this.#peak(this.rest);
    this.rest = new Float32Array(0);
    this.complete = true;
    this.redraw();
  }

  /** All of a sound at once. */
  show(samples, rate) {
    this.reset(rate);
    this.push(samples);
    this.end();
  }

  setPosition(position) {
    this.position = position;
    this.redraw();
  }

  setSpan(span) {
    this.span = span;
    this.redraw();
  }

  get seconds() {
    return this.length / this.rate;
  }

  /** Seconds from the left edge to the right one. */
  get shown() {
    return this.complete ? Math.max(this.seconds, 0.01) : Math.max(WINDOW, this.seconds);
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#drawWave();
      if (this.spectrogram) this.#drawSpectrogram();
    });
  }

  #peak(samples) {
    let low = samples[0];
    let high = samples[0];
    for (const x of samples) {
      if (x < low) low = x;
      if (x > high) high = x;
    }
    this.lows.push(low);
    this.highs.push(high);
    this.loudest = Math.max(this.loudest, high, -low);
  }

  #column(column) {
    const x = this.columns++ % TILE;
    if (x === 0) {
      const tile = document.createElement('canvas');
      tile.width = TILE;
      tile.height = ROWS;
      this.tiles.push(tile);
    }
    const image = new ImageData(1, ROWS);
    for (let row = 0; row < ROWS; row++) {
      const [r, g, b] = PALETTE[column[ROWS - 1 - row]];
      image.data.set([r, g, b, 255], 4 * row);
    }
    this.tiles.at(-1).getContext('2d').putImageData(image, x, 0);
  }

  #prepare(canvas) {
    const scale = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !height) return null;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext('2d');
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    return { context, width, height, style: getComputedStyle(canvas) };
  }

  #drawWave() {
    const prepared = this.#prepare(this.wave);
    if (!prepared) return;
    const { context, width, height, style } = prepared;
    const colour = (name) => style.getPropertyValue(name).trim();
    const middle = height / 2;
    const x = (s) => (s / this.shown) * width;
    if (this.span) {
      context.fillStyle = colour('--span');
      context.fillRect(x(this.span[0]), 0, x(this.span[1]) - x(this.span[0]), height);
    }
    const peaksPerPixel = (this.shown * this.rate) / PEAK / width;
    const end = x(this.seconds);
    const played = x(this.position / this.rate);
    for (let left = 0; left < width; left += BAR) {
      let low = 0;
      let high = 0;
      const last = Math.min(this.lows.length, Math.ceil((left + BAR) * peaksPerPixel));
      for (let k = Math.floor(left * peaksPerPixel); k < last; k++) {
        low = Math.min(low, this.lows[k]);
        high = Math.max(high, this.highs[k]);
      }
      const coming = left > end || !this.length;
      context.fillStyle = colour(coming ? '--wave-none' : left < played ? '--accent' : '--wave');
      const top = Math.max(1, (high / this.loudest) * (middle - 2));
      const bottom = Math.max(1, (-low / this.loudest) * (middle - 2));
      context.beginPath();
      context.roundRect(left, middle - top, BAR - 1, top + bottom, 1);
      context.fill();
    }
    this.#drawEdges(context, x, height, colour);
  }

  #drawEdges(context, x, height, colour) {
    context.fillStyle = colour('--accent');
    if (this.span) for (const edge of this.span) context.fillRect(x(edge) - 1, 0, 2, height);
    if (this.position) context.fillRect(x(this.position / this.rate) - 1, 0, 2, height);
  }

  #drawSpectrogram() {
    const prepared = this.#prepare(this.spectrogram);
    if (!prepared) return;
    const { context, width, height } = prepared;
    const column = width / (this.shown * 100); // CSS pixels of a column of 10 ms
    this.tiles.forEach((tile, i) => {
      const used = Math.min(TILE, this.columns - i * TILE);
      context.drawImage(tile, 0, 0, used, ROWS, i * TILE * column, 0, used * column + 0.5, height);
    });
    if (this.position) {
      context.fillStyle = 'rgb(255 255 255 / 0.85)';
      context.fillRect((this.position / this.rate / this.shown) * width - 0.5, 0, 1, height);
    }
  }

  #listen() {
    const target = this.element;
    const at = (event) => {
      const box = this.wave.getBoundingClientRect();
      const place = (event.clientX - box.left) / box.width;
      return Math.max(0, Math.min(this.seconds, place * this.shown));
    };
    let begin = null;
    let dragged = false;
    target.addEventListener('pointerdown', (event) => {
      if (!this.length || event.button) return;
      begin = at(event);
      dragged = false;
      target.setPointerCapture(event.pointerId);
    });
    target.addEventListener('pointermove', (event) => {
      if (begin === null || !this.onspan) return;
      const here = at(event);
      dragged ||= Math.abs(here - begin) > 0.02 * this.shown;
      if (dragged) this.onspan(Math.min(begin, here), Math.max(begin, here));
    });
    target.addEventListener('pointerup', (event) => {
      if (begin !== null && !dragged) this.onseek?.(at(event));
      begin = null;
    });
    target.addEventListener('pointercancel', () => (begin = null));
  }
}
