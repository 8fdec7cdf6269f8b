// A voice: one of the model's, an uploaded one, or a sound to take the voice from.

import * as api from './api.js';
import { button, h, newId } from './dom.js';
import { SoundInput } from './sound_input.js';

const OWN = '\0own'; // the choice of a sound of one's own; no voice has this name

export class VoiceInput {
  constructor({ spec, rate, example, report, announce }) {
    this.spec = spec;
    this.report = report;
    this.announce = announce;
    const id = newId('voice');
    this.select = h('select', { id, 'data-input': spec.name, onchange: () => this.#changed() });
    this.remove = button('Delete voice', 'trash', () => this.#delete(), { class: 'quiet' });
    this.sound = new SoundInput({
      name: `${spec.name}-sound`,
      label: 'Voice recording',
      help: "Three seconds of one person speaking. Only use a voice with its owner's consent.",
      rate, example, report,
    });
    this.name = h('input', {
      id: newId('voice-name'), type: 'text', maxlength: '64', autocomplete: 'off',
      pattern: '[A-Za-z0-9][A-Za-z0-9_\\-]*', placeholder: 'name',
    });
    this.consent = h('input', { type: 'checkbox', id: newId('consent') });
    const saving = h(
      'details', { class: 'saving' },
      h('summary', {}, 'Keep it as a voice'),
      h('div', { class: 'row' },
        h('label', { for: this.name.id, class: 'hidden' }, 'Name of the voice'), this.name,
        button('Keep', 'save', () => this.#save())),
      h('div', { class: 'check' }, this.consent,
        h('label', { for: this.consent.id }, 'The speaker agrees to this use.')),
    );
    this.own = h('div', { class: 'own-voice', hidden: true }, this.sound.element, saving);
    this.element = h(
      'div', { class: 'field' },
      h('label', { for: id }, 'Voice'),
      h('div', { class: 'row' }, this.select, this.remove), this.own,
    );
    this.fill(api.known.voices);
  }

  /** Lists the voices again; keeps the choice where it is still there. */
  fill(voices) {
    const chosen = this.select.value;
    const group = (label, members) => members.length
      ? h('optgroup', { label }, ...members.map((v) => h('option', { value: v.name }, v.name)))
      : null;
    const options = [
      this.spec.required ? null : h('option', { value: '' }, "Model's default"),
      group('Bundled', voices.filter((v) => !v.uploaded)),
      group('Uploaded', voices.filter((v) => v.uploaded)),
      h('option', { value: OWN }, 'From a recording…'),
    ];
    this.select.replaceChildren(...options.filter(Boolean));
    if (chosen) this.choose(chosen);
    else this.#changed();
  }

  choose(name) {
    this.select.value = name;
    if (this.select.selectedIndex < 0) this.select.selectedIndex = 0;
    this.#changed();
  }

  /** A voice's name, a Blob, or "" for the default. */
  get value() {
    return this.isOwn ? this.sound.value : this.select.value;
  }

  get filename() {
    return this.sound.filename;
  }

  get linkValue() {
    return this.isOwn ? this.sound.origin : this.select.value;
  }

  async set(value) {
    if (!value.startsWith('example:')) {
      this.choose(value);
      return;
    }
    this.choose(OWN);
    await this.sound.loadExample();
  }

  get isOwn() {
    return this.select.value === OWN;
  }

  #changed() {
    this.own.hidden = !this.isOwn;
    const voice = api.known.voices.find((v) => v.name === this.select.value);
    this.remove.hidden = !voice?.uploaded;
  }

  async #save() {
    try {
      if (!this.sound.value) throw new Error('Record or choose a sound first.');
      const name = this.name.value.trim();
      if (!name || !this.name.checkValidity()) {
        this.name.focus();
        throw new Error('Name of the voice: expected letters, digits, - and _.');
      }
      if (!this.consent.checked) {
        this.consent.focus();
        throw new Error('A voice is kept only if its speaker agrees.');
      }
      const voices = await api.uploadVoice(name, this.sound.value, this.sound.filename);
      this.fill(voices);
      this.choose(name);
      this.announce(`Voice ${name} is kept.`);
    } catch (error) {
      this.report(error);
    }
  }

  async #delete() {
    try {
      const name = this.select.value;
      this.fill(await api.deleteVoice(name));
      this.select.focus();
      this.announce(`Voice ${name} is deleted.`);
    } catch (error) {
      this.report(error);
    }
  }
}
