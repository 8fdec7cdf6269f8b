// A sound from a file, the microphone or the bundled examples, with an optional span of it.

import * as api from './api.js';
import { button, fileButton, h, icon, newId, seconds } from './dom.js';
import { Recording } from './microphone.js';
import { Player } from './player.js';
import { SoundView } from './sound_view.js';
import { wavBlob } from './wav.js';

// What the server reads; anything else that the browser can decode is sent as WAV.
const READABLE = /\.(wav|flac|ogg|opus|mp3|aiff?)$/i;
const LONGEST_RECORDING = 60; // seconds

export async function decode(blob, rate) {
  const context = new OfflineAudioContext(1, 1, rate);
  const decoded = await context.decodeAudioData(await blob.arrayBuffer());
  const samples = new Float32Array(decoded.length);
  for (let c = 0; c < decoded.numberOfChannels; c++) {
    const channel = decoded.getChannelData(c);
    for (let i = 0; i < samples.length; i++) samples[i] += channel[i] / decoded.numberOfChannels;
  }
  return samples;
}

export class SoundInput {
  /** `span`: the schema of an input that is a part of this sound. `report(error)` shows a line. */
  constructor({ name, label, help, rate, example, span = null, exampleSpan = null, report }) {
    Object.assign(this, { name, rate, example, exampleSpan, report });
    this.blob = null;
    this.origin = ''; // what a link may say of it
    this.recording = null;
    this.player = null;
    this.view = new SoundView(label.toLowerCase(), {
      onseek: (at) => this.player?.seek(at * this.rate),
      onspan: span ? (begin, end) => this.setSpan([begin, end]) : null,
    });
    this.title = h('p', { class: 'sound-name' });
    this.#buildButtons();
    this.card = h(
      'div', { class: 'sound-card', hidden: true },
      h('div', { class: 'sound-head' }, this.play, this.title, this.clear),
      this.view.element,
      span ? this.#spanFields(span) : null,
    );
    const legend = h('legend', {}, label);
    this.drop = h('div', { class: 'drop' }, this.choose, this.record, this.useExample);
    this.element = h(
      'fieldset', { class: 'field sound', 'data-input': name },
      legend, help ? h('p', { class: 'help' }, help) : null, this.drop, this.card,
    );
    this.#listenForDrops();
  }

  #buildButtons() {
    this.choose = fileButton('Open file', 'audio/*,.flac,.ogg,.aiff', (f) => this.#file(f));
    this.record = button('Record', 'microphone', () => this.#toggleRecording(), { class: 'record' });
    this.useExample = this.example
      ? button('Example', 'example', () => this.loadExample())
      : null;
    this.play = button('Play', 'play', () => this.player?.toggle(), { class: 'round' });
    this.clear = button('Remove', 'close', () => this.reset(), { class: 'round quiet' });
  }

  #spanFields(span) {
    const number = (label) => {
      const id = newId('span');
      const input = h('input', {
        type: 'number', id, min: '0', step: '0.01', inputmode: 'decimal',
        oninput: () => this.#spanTyped(),
      });
      return [input, h('label', { for: id }, label)];
    };
    const [begin, beginLabel] = number('From');
    const [end, endLabel] = number('to');
    this.spanInputs = [begin, end];
    this.spanName = span.name;
    const whole = span.required ? '' : ' Leave it empty to change all of it.';
    return h(
      'div', { class: 'span', role: 'group', 'aria-label': 'Span in seconds' },
      beginLabel, begin, endLabel, end, h('span', {}, 's'),
      h('p', { class: 'help' }, `Drag across the waveform to pick the part to change.${whole}`),
    );
  }

  // Values

  get value() {
    return this.blob;
  }

  get spanText() {
    if (!this.spanInputs) return '';
    const [begin, end] = this.spanInputs.map((input) => input.value);
    return begin === '' && end === '' ? '' : `${begin || 0}:${end || this.view.seconds}`;
  }

  setSpan(span) {
    this.spanInputs?.forEach((input, i) => (input.value = span ? span[i].toFixed(2) : ''));
    this.view.setSpan(span);
  }

  #spanTyped() {
    const [begin, end] = this.spanInputs.map((input) => parseFloat(input.value));
    this.view.setSpan(end > begin ? [begin, end] : null);
  }

  // Sounds

  async loadExample() {
    try {
      await this.load(await api.example(this.example), this.example, `example:${this.example}`);
      this.setSpan(this.exampleSpan);
    } catch (error) {
      this.report(error);
    }
  }

  async #file(file) {
    try {
      await this.load(file, file.name);
    } catch (error) {
      this.report(error);
    }
  }

  async load(blob, name, origin = '') {
    let samples = null;
    try {
      samples = await decode(blob, this.rate);
    } catch {
      if (!READABLE.test(name)) {
        throw new Error(`${name}: expected a sound; choose a WAV, FLAC, OGG, MP3 or AIFF file.`);
      }
    }
    this.reset();
    const asIs = READABLE.test(name) || samples === null;
    this.#show(asIs ? blob : wavBlob(samples, this.rate), name, samples, origin);
  }

  #show(blob, name, samples, origin = '') {
    this.blob = blob;
    this.filename = READABLE.test(name) ? name : `${name}.wav`;
    this.origin = origin;
    if (samples) {
      this.view.show(samples, this.rate);
      this.player = new Player(this.rate);
      this.player.push(samples);
      this.player.end();
      this.player.addEventListener('position', () => this.view.setPosition(this.player?.position));
      this.player.addEventListener('state', () => this.#showState());
    }
    const length = samples ? ` · ${seconds(samples.length / this.rate)}` : '';
    this.title.textContent = `${name}${length}`;
    this.play.hidden = !samples;
    this.#showState();
    this.card.hidden = false;
    this.drop.classList.add('filled');
  }

  reset() {
    this.player?.pause();
    this.player = null;
    this.blob = null;
    this.origin = '';
    this.setSpan(null);
    this.view.reset(this.rate);
    if (!this.card.hidden && this.card.contains(document.activeElement)) this.record.focus();
    this.card.hidden = true;
    this.drop.classList.remove('filled');
  }

  #showState() {
    const playing = this.player?.playing;
    this.play.replaceChildren(icon(playing ? 'pause' : 'play'), h('span', {}, playing ? 'Pause' : 'Play'));
  }

  // The microphone

  async #toggleRecording() {
    try {
      if (this.recording) await this.stopRecording();
      else await this.#startRecording();
    } catch (error) {
      this.recording = null;
      this.#showRecording(false);
      this.reset();
      this.report(error);
    }
  }

  async #startRecording() {
    this.reset();
    this.record.disabled = true;
    try {
      this.recording = await Recording.start(this.rate, (samples) => {
        this.view.push(samples);
        this.title.textContent = `Recording · ${this.view.seconds.toFixed(1)} s`;
        if (this.view.seconds >= LONGEST_RECORDING) this.stopRecording();
      });
    } finally {
      this.record.disabled = false;
    }
    this.play.hidden = true;
    this.card.hidden = false;
    this.title.textContent = 'Recording';
    this.#showRecording(true);
  }

  async stopRecording() {
    const { recording } = this;
    if (!recording) return;
    this.recording = null;
    this.#showRecording(false);
    const samples = await recording.stop();
    this.#show(wavBlob(samples, this.rate), 'recording.wav', samples);
  }

  #showRecording(on) {
    this.record.classList.toggle('on', on);
    this.clear.hidden = on;
    this.record.replaceChildren(
      icon(on ? 'stop' : 'microphone'), h('span', {}, on ? 'Stop recording' : 'Record'),
    );
  }

  #listenForDrops() {
    const over = (on) => (event) => {
      event.preventDefault();
      this.element.classList.toggle('over', on);
    };
    this.element.addEventListener('dragover', over(true));
    this.element.addEventListener('dragleave', over(false));
    this.element.addEventListener('drop', (event) => {
      over(false)(event);
      if (event.dataTransfer.files.length) this.#file(event.dataTransfer.files[0]);
    });
  }
}
