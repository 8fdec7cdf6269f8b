// The sound that comes back: drawn, played, measured, downloaded.

import { button, h, icon, seconds } from './dom.js';
import { Player } from './player.js';
import { SoundView } from './sound_view.js';
import { Transcript } from './transcript.js';
import { wavBlob } from './wav.js';

const METRICS = [
  ['first', 'First audio', 'From the click to the first samples in this browser'],
  ['speed', '× realtime', 'Seconds of sound per second of waiting for it'],
  ['length', 'Length', 'Seconds of sound'],
  ['gaps', 'Gaps', 'Times that playback ran dry'],
];

export class Result {
  /** `actions`: link(), reuseSeed(seed). */
  constructor({ link, reuseSeed }) {
    this.player = null;
    this.seed = null;
    this.view = new SoundView('the result', {
      spectrogram: true,
      onseek: (at) => this.#seek(at),
    });
    this.hint = h('p', { class: 'hint' }, 'The sound is drawn here while it is being made.');
    this.transcript = new Transcript((at) => this.#seek(at));
    this.position = h('input', {
      type: 'range', min: '0', max: '0', step: '0.01', value: '0', disabled: true,
      class: 'position', 'aria-label': 'Position in seconds',
      oninput: () => this.#seek(Number(this.position.value)),
    });
    this.clock = h('span', { class: 'clock' }, '0.00 s');
    this.play = button('Play', 'play', () => this.player?.toggle(), { class: 'round', disabled: true });
    this.download = button('WAV', 'download', () => this.#save(), {
      disabled: true, 'aria-label': 'Download as WAV',
    });
    this.link = button('Copy link', 'link', link, { disabled: true });
    this.seedButton = button('', 'pin', () => reuseSeed(this.seed), { class: 'quiet', hidden: true });
    this.seedLabel = this.seedButton.querySelector('span');
    this.metrics = {};
    const metrics = METRICS.map(([name, label, help]) => {
      this.metrics[name] = h('dd', { 'data-metric': name }, '–');
      return h('div', { title: help }, h('dt', {}, label), this.metrics[name]);
    });
    this.element = h(
      'section', { class: 'card result', 'aria-labelledby': 'result-title' },
      h('div', { class: 'result-head' }, h('h2', { id: 'result-title' }, 'Result'), this.seedButton),
      h('div', { class: 'stage' }, this.view.element, this.hint),
      h('div', { class: 'transport' }, this.play, this.position, this.clock),
      this.transcript.element,
      h('dl', { class: 'metrics' }, ...metrics),
      h('div', { class: 'row' }, this.download, this.link),
    );
  }

  begin(text, rate) {
    this.player?.pause();
    this.player = new Player(rate);
    this.player.addEventListener('position', () => this.#moved());
    this.player.addEventListener('state', () => this.#showState());
    this.view.reset(rate);
    this.transcript.reset(text);
    for (const metric of Object.values(this.metrics)) metric.textContent = '–';
    this.seedButton.hidden = this.hint.hidden = true;
    this.position.max = 0;
    for (const control of [this.play, this.position, this.download]) control.disabled = true;
    this.link.disabled = false;
    this.#moved();
  }

  /** Samples that arrived, `elapsed` ms after the click. */
  push(samples, elapsed) {
    if (!this.player.length) {
      this.metrics.first.textContent = `${elapsed < 10 ? elapsed.toFixed(1) : Math.round(elapsed)} ms`;
      this.player.start();
      this.play.disabled = this.position.disabled = false;
    }
    this.player.push(samples);
    this.view.push(samples);
    this.position.max = this.seconds;
    this.#measure(elapsed);
  }

  /** The end of the sound, or of what came of it before it was cancelled. */
  end(elapsed) {
    this.player.end();
    this.view.end();
    this.position.max = this.seconds;
    if (this.player.length) {
      this.download.disabled = false;
      this.#measure(elapsed);
    }
  }

  showSeed(seed) {
    this.seed = seed;
    this.seedLabel.textContent = `Seed ${seed}`;
    this.seedButton.title = 'Use this seed again';
    this.seedButton.setAttribute('aria-label', `Use seed ${seed} again`);
    this.seedButton.hidden = false;
  }

  get seconds() {
    return this.player ? this.player.length / this.player.rate : 0;
  }

  #measure(elapsed) {
    this.metrics.length.textContent = seconds(this.seconds);
    this.metrics.speed.textContent = `${((1000 * this.seconds) / Math.max(elapsed, 1)).toFixed(1)}`;
    this.metrics.gaps.textContent = this.player.starved;
  }

  #seek(at) {
    this.player?.seek(at * this.player.rate);
  }

  #moved() {
    const at = this.player.position / this.player.rate;
    this.view.setPosition(this.player.position);
    this.transcript.at(this.player.playing ? at : -1);
    this.position.value = at;
    this.clock.textContent = seconds(at);
    if (this.player.length) this.metrics.gaps.textContent = this.player.starved;
  }

  #showState() {
    const { playing } = this.player;
    const label = playing ? 'Pause' : 'Play';
    this.play.replaceChildren(icon(playing ? 'pause' : 'play'), h('span', {}, label));
    this.#moved();
  }

  #save() {
    const url = URL.createObjectURL(wavBlob(this.player.samples, this.player.rate));
    const name = `uniaudio-${this.task ?? 'sound'}-${this.seed}.wav`;
    h('a', { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}
