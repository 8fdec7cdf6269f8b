// Hands the microphone's samples to the page, mixed down to mono, in blocks of about 40 ms.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(2048);
    this.filled = 0;
    this.running = true;
    this.port.onmessage = () => {
      this.post();
      this.running = false;
      this.port.postMessage(null);
    };
  }

  post() {
    this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }

  process([channels]) {
    // A connected node is asked for more even after it said that it has ended.
    if (this.running && channels.length) {
      for (let i = 0; i < channels[0].length; i++) {
        let sum = 0;
        for (const channel of channels) sum += channel[i];
        this.block[this.filled++] = sum / channels.length;
        if (this.filled === this.block.length) this.post();
      }
    }
    return this.running;
  }
}

registerProcessor('recorder', Recorder);
