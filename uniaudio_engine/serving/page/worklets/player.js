// Plays samples as they arrive, and says how far it is.
//
// Messages in: {samples}, {end: true} after the last ones. Messages out: {position, starved} about
// every 30 ms, in samples played and in times that it ran dry, and {ended: true}.

const REPORT = 512; // samples between reports
// Seconds to have before the first sample, and again after running dry. The first chunk alone is
// shorter: a second one on its way must not become a gap.
const AHEAD = 0.15;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.offset = 0; // samples of queue[0] that are played
    this.waiting = 0; // samples in the queue
    this.position = 0;
    this.reported = 0;
    this.starved = 0;
    this.dry = true;
    this.complete = false;
    this.port.onmessage = ({ data }) => {
      if (data.samples?.length) {
        this.queue.push(data.samples);
        this.waiting += data.samples.length;
      }
      this.complete ||= Boolean(data.end);
    };
  }

  process(_inputs, [[output]]) {
    if (this.dry && (this.complete || this.waiting >= AHEAD * sampleRate)) this.dry = false;
    let i = 0;
    while (!this.dry && i < output.length && this.queue.length) {
      const [samples] = this.queue;
      const n = Math.min(output.length - i, samples.length - this.offset);
      output.set(samples.subarray(this.offset, this.offset + n), i);
      i += n;
      this.offset += n;
      this.waiting -= n;
      this.position += n;
      if (this.offset === samples.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    const over = this.complete && !this.queue.length;
    if (i < output.length && !over && !this.dry) {
      this.dry = true;
      this.starved++;
    }
    if (over || this.position - this.reported >= REPORT) {
      this.reported = this.position;
      this.port.postMessage({ position: this.position, starved: this.starved, ended: over });
    }
    return !over;
  }
}

registerProcessor('player', Player);
