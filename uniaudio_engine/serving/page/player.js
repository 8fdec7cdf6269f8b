// Plays a sound that is still being made. Positions are in samples of that sound.

import { concatenate } from './resample.js';

let context = null; // one for each rate; made after a gesture of the user, as browsers demand
let loaded = null;
let active = null; // the player that is heard; there is one at a time

async function contextAt(rate) {
  if (context?.sampleRate !== rate) {
    await context?.close();
    context = new AudioContext({ sampleRate: rate, latencyHint: 'interactive' });
    loaded = context.audioWorklet.addModule(new URL('worklets/player.js', import.meta.url));
  }
  await loaded;
  return context;
}

/** Makes the audio device ready; call it early in a gesture, so that no sound waits for it. */
export async function wake(rate) {
  const ready = await contextAt(rate);
  if (ready.state === 'suspended') await ready.resume();
}

export class Player extends EventTarget {
  /** Sends the events "position" and "state". */
  constructor(rate) {
    super();
    this.rate = rate;
    this.parts = [];
    this.length = 0;
    this.complete = false;
    this.position = 0;
    this.starved = 0;
    this.node = null;
    this.playing = false;
    this.begun = 0; // where the running node began
    this.turn = 0; // start() is asynchronous; only its latest call counts
  }

  get samples() {
    if (this.parts.length > 1) this.parts = [concatenate(this.parts)];
    return this.parts[0] ?? new Float32Array(0);
  }

  push(samples) {
    this.parts.push(samples);
    this.length += samples.length;
    this.node?.port.postMessage({ samples });
  }

  end() {
    this.complete = true;
    this.node?.port.postMessage({ end: true });
  }

  async start(position = 0) {
    if (active !== this) active?.pause();
    active = this;
    this.#drop();
    const turn = ++this.turn;
    this.position = this.begun = position;
    this.#setPlaying(true);
    const ready = await contextAt(this.rate);
    await ready.resume();
    if (turn !== this.turn) return;
    const node = new AudioWorkletNode(ready, 'player', {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    this.node = node;
    node.port.onmessage = ({ data }) => this.node === node && this.#report(data);
    node.connect(ready.destination);
    node.port.postMessage({ samples: this.samples.slice(this.begun) });
    if (this.complete) node.port.postMessage({ end: true });
  }

  pause() {
    this.#drop();
    this.#setPlaying(false);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.start(this.complete && this.position >= this.length ? 0 : this.position);
  }

  seek(position) {
    const place = Math.max(0, Math.min(this.length, Math.round(position)));
    if (this.playing) {
      this.start(place);
      return;
    }
    this.position = place;
    this.dispatchEvent(new Event('position'));
  }

  #report({ position, starved, ended }) {
    this.position = this.begun + position;
    this.starved = starved;
    if (ended) {
      this.#drop();
      this.#setPlaying(false);
    }
    this.dispatchEvent(new Event('position'));
  }

  #drop() {
    this.turn++;
    this.node?.disconnect();
    this.node = null;
  }

  #setPlaying(playing) {
    this.playing = playing;
    this.dispatchEvent(new Event('state'));
  }
}
