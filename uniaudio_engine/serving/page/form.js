// The form of a task, built from its schema: one control for each input, by its modality.

import * as api from './api.js';
import { button, field, fileButton, h, newId, readable, sentence } from './dom.js';
import { Options } from './options.js';
import { SoundInput } from './sound_input.js';
import { presentation } from './tasks.js';
import { VoiceInput } from './voice_input.js';

const MARKUPS = ['auto', 'plain', 'markdown', 'ssml'];
const TITLES = { text: 'Text', prompt: 'Voice', source: 'Source', instruction: 'Instruction' };
const SOUND_MISSING = 'choose a file, record one, or use the example';
const MISSING = {
  audio: SOUND_MISSING,
  context: SOUND_MISSING,
  units: SOUND_MISSING,
  voice: 'choose one of the list, a file or a recording',
  text: 'write what is to be spoken',
  caption: 'write what it is to be',
  score: 'write notes, or choose a file',
  span: 'drag across the waveform, or type where it begins and ends',
};
const title = (spec) => TITLES[spec.name] ?? readable(spec.name);

export class Form {
  /** `services`: report(error), announce(text), submit(). */
  constructor(task, rate, services) {
    Object.assign(this, { task, rate, services });
    this.look = presentation(task);
    this.controls = new Map(); // input name -> {value, linkValue, set, filename}
    this.main = h('div', { class: 'fields' });
    this.options = new Options(task.options);
    this.advanced = this.options.element.querySelector('.option-grid');
    // The voice comes last: the other inputs are what a request is about.
    const isVoice = (spec) => spec.modality === 'voice';
    for (const spec of task.inputs.filter((i) => !isVoice(i))) this.#add(spec);
    for (const spec of task.inputs.filter(isVoice)) this.#add(spec);
  }

  /** {task, inputs: {name: string | {blob, filename}}, options}. Throws where one is missing. */
  get request() {
    const inputs = {};
    for (const spec of this.task.inputs) {
      const control = this.controls.get(spec.name);
      const { value } = control;
      if (value instanceof Blob) inputs[spec.name] = { blob: value, filename: control.filename };
      else if (value) inputs[spec.name] = value;
      else if (spec.required) {
        control.focus?.();
        throw new Error(`${title(spec)} is missing: ${MISSING[spec.modality] ?? spec.help}.`);
      }
    }
    return { task: this.task.name, inputs, options: this.options.values };
  }

  /** What a link says of the request: texts, names and numbers. */
  get linkValues() {
    const values = {};
    for (const [name, control] of this.controls) {
      const value = control.linkValue ?? control.value;
      if (typeof value === 'string' && value) values[name] = value;
    }
    return { ...values, ...this.options.values };
  }

  /** Fills the form from a link. */
  async fill(values) {
    for (const [name, value] of Object.entries(values)) {
      if (this.controls.has(name)) await this.controls.get(name).set(value);
      else this.options.set(name, value);
    }
    // A span belongs to a sound, which clears it when it is loaded.
    for (const spec of this.task.inputs.filter((i) => i.modality === 'span')) {
      if (values[spec.name]) this.controls.get(spec.name).set(values[spec.name]);
    }
  }

  get text() {
    const spec = this.task.inputs.find((i) => i.modality === 'text');
    return spec ? this.controls.get(spec.name).value : '';
  }

  refreshVoices() {
    for (const control of this.controls.values()) control.fill?.(api.known.voices);
  }

  #add(spec) {
    const make = {
      text: () => this.#text(spec, 4),
      caption: () => this.#text(spec, 2),
      voice: () => this.#voice(spec),
      audio: () => this.#sound(spec),
      units: () => this.#sound(spec),
      context: () => this.#sound(spec),
      score: () => this.#score(spec),
      span: () => this.#span(spec),
      markup: () => this.#choice(spec, MARKUPS),
      lexicon: () => this.#lexicon(spec),
    }[spec.modality] ?? (() => this.#line(spec));
    make();
  }

  #text(spec, rows) {
    const examples = this.look.values[spec.name] ?? [];
    const control = h('textarea', {
      rows, 'data-input': spec.name, spellcheck: 'true', value: examples[0] ?? '',
    });
    control.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) this.services.submit();
    });
    const element = field(title(spec), control, spec.modality === 'text' ? '' : `${sentence(spec.help)}.`);
    if (examples.length > 1) {
      const choose = (text) => {
        control.value = text;
        control.focus();
      };
      const chips = examples.map((text) =>
        h('li', {}, h('button', { type: 'button', class: 'chip', onclick: () => choose(text) }, text)));
      element.append(h('ul', { class: 'chips', 'aria-label': 'Examples' }, ...chips));
    }
    this.#put(spec, control);
    this.main.append(element);
  }

  #put(spec, control) {
    this.controls.set(spec.name, {
      get value() {
        return control.value.trim();
      },
      set: (value) => (control.value = value),
      focus: () => control.focus(),
    });
  }

  #voice(spec) {
    const control = new VoiceInput({
      spec, rate: this.rate, example: this.look.sounds[spec.name], ...this.services,
    });
    this.controls.set(spec.name, control);
    this.main.append(control.element);
  }

  #sound(spec) {
    const control = new SoundInput({
      name: spec.name,
      label: title(spec),
      help: `${sentence(spec.help)}: a file, or a recording made here.`,
      rate: this.rate,
      example: this.look.sounds[spec.name],
      exampleSpan: this.look.spans[spec.name],
      span: this.task.inputs.find((i) => i.modality === 'span'),
      report: this.services.report,
    });
    this.controls.set(spec.name, {
      get value() {
        return control.value;
      },
      get filename() {
        return control.filename;
      },
      get linkValue() {
        return control.origin;
      },
      set: (value) => (value.startsWith('example:') ? control.loadExample() : undefined),
      focus: () => control.record.focus(),
      sound: control,
    });
    this.main.append(control.element);
  }

  #span(spec) {
    // The sound that has the span is added before or after it; both are known when it is read.
    const sound = () => [...this.controls.values()].find((c) => c.sound?.spanInputs)?.sound;
    this.controls.set(spec.name, {
      get value() {
        return sound()?.spanText ?? '';
      },
      set: (value) => sound()?.setSpan(value.split(':').map(Number)),
      focus: () => sound()?.spanInputs[0].focus(),
    });
  }

  #score(spec) {
    const text = h('textarea', {
      rows: 7, class: 'code', 'data-input': spec.name, spellcheck: 'false',
      placeholder: 'tempo 120\nC4 1 hello',
    });
    const element = field(title(spec), text, 'One note a line: pitch, beats, word. Or a MIDI or '
      + 'MusicXML file. "-" sings the next syllable of a word, "_" holds the same one.');
    const state = { blob: null, filename: 'score.txt' };
    const name = h('span', { class: 'help' });
    const clear = button('Remove', 'close', () => use(null), { class: 'round quiet' });
    const use = (file) => {
      state.blob = file;
      state.filename = file?.name ?? 'score.txt';
      text.disabled = Boolean(file);
      name.textContent = file ? file.name : '';
      clear.hidden = !file;
    };
    use(null);
    const choose = fileButton('Open file', '.txt,.mid,.midi,.kar,.xml,.musicxml,.mxl', use);
    element.append(h('div', { class: 'row' }, choose, name, clear));
    this.controls.set(spec.name, {
      get value() {
        return state.blob ?? text.value.trim();
      },
      get filename() {
        return state.filename;
      },
      get linkValue() {
        return state.blob ? '' : text.value.trim();
      },
      set: (value) => (text.value = value),
      focus: () => text.focus(),
    });
    this.main.append(element);
    const example = this.look.files[spec.name];
    if (example) this.#loadText(example, text);
  }

  async #loadText(example, control) {
    try {
      const text = await (await api.example(example)).text();
      control.value ||= text.trim();
    } catch (error) {
      this.services.report(error);
    }
  }

  #choice(spec, choices) {
    const options = choices.map((value, i) => h('option', { value: i ? value : '' }, value));
    const control = h('select', { 'data-input': spec.name }, ...options);
    this.#put(spec, control);
    this.advanced.append(field(title(spec), control, `${sentence(spec.help)}.`));
  }

  #lexicon(spec) {
    const control = h('textarea', { rows: 2, class: 'code', 'data-input': spec.name });
    this.#put(spec, control);
    this.advanced.append(
      field(title(spec), control, 'Your own pronunciations: WORD PHONE PHONE … on each line.'),
    );
  }

  #line(spec) {
    const control = h('input', { type: 'text', id: newId('line'), 'data-input': spec.name });
    this.#put(spec, control);
    const target = spec.required ? this.main : this.advanced;
    target.append(field(title(spec), control, `${sentence(spec.help)}.`));
  }
}
