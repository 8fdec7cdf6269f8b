// The server's API, as far as the page needs it. docs/serving.md describes all of it.

import { PcmReader } from './wav.js';

const KEY = 'uniaudio-key';

/** What the server has: filled in by connect(). */
export const known = { tasks: [], voices: [], rate: 16000 };

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** An error of the server, in one line. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server does not answer; is it still running?', 0);
  }
  if (response.ok) return response;
  throw await asError(response);
}

async function asError(response) {
  const body = await response.json().catch(() => null);
  let message = body?.error?.message ?? `The server answered ${response.status}.`;
  const wait = response.headers.get('Retry-After');
  if (wait) message += ` Retry in ${wait} s.`;
  return new ApiError(message, response.status);
}

/** Loads what the form is built from. */
export async function connect() {
  const about = await (await ask('page/about.json')).json();
  known.rate = about.sample_rate;
  const [tasks] = await Promise.all([ask('v1/tasks').then((r) => r.json()), listVoices()]);
  known.tasks = tasks.data.filter((task) => task.target === 'audio');
  return { ...about, tasks: known.tasks };
}

async function listVoices() {
  known.voices = (await (await ask('v1/audio/voices')).json()).data;
  return known.voices;
}

export async function uploadVoice(name, sample, filename) {
  const body = new FormData();
  body.set('name', name);
  body.set('consent', 'yes');
  body.set('audio_sample', sample, filename);
  await ask('v1/audio/voices', { method: 'POST', body });
  return listVoices();
}

export async function deleteVoice(name) {
  await ask(`v1/audio/voices/${encodeURIComponent(name)}`, { method: 'DELETE' });
  return listVoices();
}

/** A bundled example file. */
export async function example(name) {
  return (await ask(`page/examples/${encodeURIComponent(name)}`)).blob();
}

/**
 * Does a task. Yields {samples, words} while the sound is being made; `words` are those that have
 * become known, with their times.
 */
export async function* run({ task, inputs, options, seed }, signal) {
  const body = new FormData();
  body.set('stream_format', 'sse');
  body.set('response_format', 'pcm');
  for (const [name, value] of Object.entries({ ...inputs, ...options, seed })) {
    if (value.blob) body.set(name, value.blob, value.filename);
    else body.set(name, value);
  }
  const path = `v1/tasks/${encodeURIComponent(task)}`;
  const response = await ask(path, { method: 'POST', body, signal });
  const pcm = new PcmReader();
  let complete = false;
  for await (const event of events(response.body)) {
    const samples = event.audio ? pcm.push(fromBase64(event.audio)) : null;
    complete ||= event.type === 'speech.audio.done';
    yield { samples, words: event.words ?? event.meta?.words };
  }
  if (!complete) throw new ApiError('The sound broke off: the server ended the connection.', 0);
}

/** The server-sent events of a stream of bytes. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith('data: ')) yield JSON.parse(block.slice('data: '.length));
    }
  }
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
