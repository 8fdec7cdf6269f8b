// Records the microphone as mono samples at the model's rate.

import { concatenate, Resampler } from './resample.js';

export class Recording {
  /** Asks for the microphone. `heard(samples)` gets the samples at `rate` Hz as they come. */
  static async start(rate, heard) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error('The microphone works on localhost and over HTTPS only.');
    }
    let stream;
    try {
      // What the browser would take away is what the tasks are about.
      const processing = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio: processing });
    } catch (error) {
      throw new Error(
        error.name === 'NotFoundError'
          ? 'No microphone was found.'
          : 'The microphone is blocked; allow it in the settings of this page.',
      );
    }
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL('worklets/recorder.js', import.meta.url));
    return new Recording(context, stream, rate, heard);
  }

  constructor(context, stream, rate, heard) {
    this.context = context;
    this.stream = stream;
    this.parts = [];
    const resampler = new Resampler(context.sampleRate, rate);
    const node = new AudioWorkletNode(context, 'recorder', { numberOfOutputs: 0 });
    this.finished = new Promise((resolve) => {
      const take = (samples) => {
        this.parts.push(samples);
        heard(samples);
      };
      node.port.onmessage = ({ data }) => {
        take(data ? resampler.push(data) : resampler.flush());
        if (!data) resolve();
      };
    });
    context.createMediaStreamSource(stream).connect(node);
    this.node = node;
  }

  /** Ends the recording; returns float32 samples at the rate that was asked for. */
  async stop() {
    this.node.port.postMessage('stop');
    await this.finished;
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
    return concatenate(this.parts);
  }
}
