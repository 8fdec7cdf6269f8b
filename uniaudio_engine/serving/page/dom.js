// Small helpers to make elements.

/** h('button', {type: 'button', class: 'quiet', onclick}, 'Play'): properties and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An icon of the sprite in index.html; it says nothing to a screen reader. */
export function icon(name) {
  const ns = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(ns, 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(ns, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

export function button(label, iconName, onclick, properties = {}) {
  return h('button', { type: 'button', onclick, ...properties }, icon(iconName), h('span', {}, label));
}

let made = 0;
export const newId = (prefix) => `${prefix}-${++made}`;

/** A label above a control, and a line of help that is tied to it. */
export function field(label, control, help = '') {
  control.id ||= newId('field');
  const line = help ? h('p', { class: 'help', id: `${control.id}-help` }, help) : null;
  if (line) control.setAttribute('aria-describedby', line.id);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, line);
}

/** A file picker that looks and works like any other button. */
export function fileButton(label, accept, chosen) {
  const input = h('input', { type: 'file', accept, hidden: true, 'aria-label': `${label}: file` });
  input.addEventListener('change', () => {
    if (input.files.length) chosen(input.files[0]);
    input.value = ''; // the same file can be chosen again
  });
  return h('span', { class: 'file' }, button(label, 'file', () => input.click()), input);
}

export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : text);

/** names_like_this -> Names like this */
export const readable = (name) => sentence(name.replaceAll('_', ' '));

export function seconds(value) {
  if (value < 60) return `${value.toFixed(2)} s`;
  const minutes = Math.floor(value / 60);
  return `${minutes}:${(value - 60 * minutes).toFixed(1).padStart(4, '0')}`;
}
