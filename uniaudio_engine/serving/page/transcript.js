// The spoken text, with the word marked that is being heard.

import { h } from './dom.js';

export class Transcript {
  /** `onseek(seconds)` when a word is clicked. */
  constructor(onseek) {
    this.onseek = onseek;
    this.element = h('p', { class: 'transcript', hidden: true, 'aria-label': 'Spoken text' });
    this.reset('');
  }

  reset(text) {
    this.text = Array.from(text); // characters are counted as code points
    this.words = [];
    this.current = null;
    this.written = 0; // characters that are in the element
    this.rest = h('span', { class: 'unspoken' }, text);
    this.element.replaceChildren(this.rest);
    this.element.hidden = true;
  }

  /** Words {word, start, end, characters: [begin, end]} in order; ones known already are skipped. */
  add(words) {
    const last = this.words.at(-1)?.start ?? -1;
    for (const word of words) {
      if (!word.word || word.start <= last) continue;
      const [begin, end] = word.characters ?? [this.written, this.written];
      const inText = begin >= this.written && end > begin && end <= this.text.length;
      const label = inText ? this.text.slice(begin, end).join('') : word.word;
      const between = inText ? this.text.slice(this.written, begin).join('') : ' ';
      const element = h('span', { class: 'word', onclick: () => this.onseek(word.start) }, label);
      this.rest.before(between, element);
      if (inText) this.written = end;
      this.words.push({ ...word, element });
    }
    this.rest.textContent = this.text.slice(this.written).join('');
    this.element.hidden = !this.words.length;
  }

  /** Marks the word that is heard at a time in seconds. */
  at(time) {
    const word = this.words.findLast((w) => w.start <= time && time < w.end + 0.05);
    if (word?.element === this.current) return;
    this.current?.classList.remove('now');
    this.current = word?.element ?? null;
    this.current?.classList.add('now');
  }
}
