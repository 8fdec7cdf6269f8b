// The numeric options of a task, from its schema. Only those that were changed are sent.

import { button, field, h, readable, sentence } from './dom.js';

const SLIDER_SPAN = 20; // wider ranges are typed only

export class Options {
  constructor(schema) {
    this.schema = schema.filter((option) => option.name !== 'seed');
    this.inputs = new Map();
    const fields = this.schema.map((option) => this.#field(option));
    this.badge = h('span', { class: 'badge', hidden: true });
    this.element = h(
      'details', { class: 'options' },
      h('summary', {}, 'Options', this.badge),
      h('div', { class: 'option-grid' }, ...fields),
      button('Back to defaults', 'undo', () => this.reset(), { class: 'quiet' }),
    );
  }

  #field(option) {
    const { name, type, min, max, help } = option;
    const fallback = option.default;
    const step = type === 'int' ? '1' : 'any';
    const number = h('input', {
      type: 'number', min, max, step, name, 'data-option': name,
      placeholder: fallback ?? 'automatic', inputmode: type === 'int' ? 'numeric' : 'decimal',
    });
    this.inputs.set(name, number);
    const range = `${min} to ${max >= 1e4 ? max.toExponential(0).replace('e+', 'e') : max}`;
    const help_ = `${sentence(help)} (${range}).`;
    if (type !== 'float' || max - min > SLIDER_SPAN || fallback === null) {
      number.addEventListener('input', () => this.#count());
      return field(readable(name), number, help_);
    }
    // The slider is for pointers; the number beside it is the control for everyone.
    const slider = h('input', {
      type: 'range', min, max, step: '0.01', value: fallback, tabindex: '-1', 'aria-hidden': 'true',
    });
    slider.addEventListener('input', () => {
      number.value = Number(slider.value) === fallback ? '' : slider.value;
      this.#count();
    });
    number.addEventListener('input', () => {
      slider.value = number.value === '' ? fallback : number.value;
      this.#count();
    });
    const element = field(readable(name), number, help_);
    const pair = h('div', { class: 'slider' }, slider);
    number.replaceWith(pair);
    pair.append(number);
    return element;
  }

  /** {name: text} of what was changed. Throws where a value is out of its range. */
  get values() {
    const values = {};
    for (const [name, input] of this.inputs) {
      if (!input.checkValidity()) {
        this.element.open = true;
        input.focus();
        throw new Error(`${readable(name)}: ${input.validationMessage}`);
      }
      if (input.value !== '') values[name] = input.value;
    }
    return values;
  }

  set(name, value) {
    const input = this.inputs.get(name);
    if (!input) return;
    input.value = value;
    input.dispatchEvent(new Event('input'));
  }

  reset() {
    for (const name of this.inputs.keys()) this.set(name, '');
  }

  #count() {
    const changed = [...this.inputs.values()].filter((input) => input.value !== '').length;
    this.badge.hidden = !changed;
    this.badge.textContent = `${changed} changed`;
  }
}
