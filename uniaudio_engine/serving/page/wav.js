// 16-bit PCM, with and without a WAV header.

/** Float32 samples in [-1, 1] -> a mono 16-bit WAV file. */
export function wavBlob(samples, rate) {
  const bytes = new ArrayBuffer(44 + 2 * samples.length);
  const view = new DataView(bytes);
  const text = (at, value) => [...value].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, 'RIFF');
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, 'data');
  view.setUint32(40, 2 * samples.length, true);
  // The scale of PcmReader, so that what came as 16-bit numbers is written as the same ones.
  samples.forEach((x, i) => {
    view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * x))), true);
  });
  return new Blob([bytes], { type: 'audio/wav' });
}

/** Little-endian 16-bit PCM that arrives in pieces of any length -> float32. */
export class PcmReader {
  #odd = new Uint8Array(0);

  push(bytes) {
    const all = new Uint8Array(this.#odd.length + bytes.length);
    all.set(this.#odd);
    all.set(bytes, this.#odd.length);
    const count = all.length >> 1;
    this.#odd = all.slice(2 * count);
    const view = new DataView(all.buffer);
    return Float32Array.from({ length: count }, (_, i) => view.getInt16(2 * i, true) / 32768);
  }
}
