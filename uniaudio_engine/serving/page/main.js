// The page: picks a task, sends its form, and shows the result.

import * as api from './api.js';
import { h, icon } from './dom.js';
import { Form } from './form.js';
import { copy, fromFragment, toFragment } from './link.js';
import { wake } from './player.js';
import { Result } from './result.js';
import { presentation } from './tasks.js';

const $ = (id) => document.getElementById(id);
const forms = new Map(); // task name -> Form; kept, so that going back loses nothing
let form = null;
let running = null; // AbortController of the request under way
const result = new Result({ link: copyLink, reuseSeed });

const announce = (text) => ($('state').textContent = text);
const sayError = (text) => ($('error').textContent = text);

function report(error) {
  if (error.status === 401) askForKey(error.message);
  else sayError(error.message);
}

// Tasks

function showTasks(tasks) {
  const choices = tasks.map((task) => {
    const look = presentation(task);
    const input = h('input', {
      type: 'radio', name: 'task', value: task.name, onchange: () => choose(task.name),
    });
    return h('label', { class: 'task', title: task.help }, input, icon(look.icon),
      h('span', {}, look.title));
  });
  $('tasks').replaceChildren(h('legend', { class: 'hidden' }, 'Task'), ...choices);
}

function choose(name) {
  const task = api.known.tasks.find((t) => t.name === name);
  if (!task) throw new Error(`Task ${name}: this server does not have it; choose one of the list.`);
  if (!forms.has(name)) {
    forms.set(name, new Form(task, api.known.rate, { report, announce, submit: run }));
  }
  form = forms.get(name);
  form.refreshVoices();
  const radio = document.querySelector(`input[name=task][value="${CSS.escape(name)}"]`);
  radio.checked = true;
  radio.closest('label').scrollIntoView({ block: 'nearest', inline: 'center' });
  $('key-button').hidden = !api.hasKey();
  $('task-title').textContent = form.look.title;
  $('task-help').textContent = `${task.help[0].toUpperCase()}${task.help.slice(1)}.`;
  $('fields').replaceChildren(form.main, form.options.element);
  document.title = `${form.look.title} · uniaudio`;
  sayError('');
}

// Seeds: the page draws them, so that a link can be made of any result

function drawnSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

function setSeed(seed) {
  $('seed').value = seed;
  $('forget').hidden = seed === '';
}

function seedOfRequest() {
  const input = $('seed');
  if (!input.checkValidity() || (input.value !== '' && !/^\d+$/.test(input.value))) {
    input.focus();
    throw new Error('Seed: expected a whole number, or nothing for a random one.');
  }
  return input.value === '' ? String(drawnSeed()) : input.value;
}

function reuseSeed(seed) {
  setSeed(seed);
  announce(`Seed ${seed} is kept: the same request gives the same sound.`);
}

// A request

async function run() {
  if (running || !form) return;
  sayError('');
  let request;
  try {
    request = { ...form.request, seed: seedOfRequest() };
  } catch (error) {
    report(error);
    return;
  }
  running = new AbortController();
  setBusy(true);
  announce('Waiting for the first samples…');
  const rate = api.known.rate;
  const begin = performance.now();
  wake(rate).catch(report);
  result.task = request.task;
  result.begin(form.text, rate);
  result.player.addEventListener('state', showStop);
  result.showSeed(request.seed);
  result.values = { ...form.linkValues, seed: request.seed };
  let came = begin;
  try {
    for await (const { samples, words } of api.run(request, running.signal)) {
      if (words) result.transcript.add(words);
      if (!samples?.length) continue;
      came = performance.now();
      if (!result.player.length) {
        announce('Playing while it is being made…');
        result.element.scrollIntoView({ block: 'nearest' });
      }
      result.push(samples, came - begin);
    }
    const waited = ((came - begin) / 1000).toFixed(2);
    announce(`Done: ${result.seconds.toFixed(2)} s of sound in ${waited} s.`);
  } catch (error) {
    const cancelled = running.signal.aborted;
    announce(cancelled ? `Cancelled after ${result.seconds.toFixed(2)} s of sound.` : 'Stopped.');
    if (!cancelled) report(error);
  }
  result.end(came - begin);
  running = null;
  setBusy(false);
}

function cancel() {
  running?.abort();
  result.player?.pause();
}

function setBusy(busy) {
  $('request').setAttribute('aria-busy', busy);
  // Not "disabled", which would lose the focus of whoever pressed it.
  $('run').setAttribute('aria-disabled', busy);
  $('run').classList.toggle('busy', busy);
  showStop();
}

/** The stop button ends the request, or else the playing. */
function showStop() {
  $('cancel').setAttribute('aria-disabled', !running && !result.player?.playing);
}

// Links

async function copyLink() {
  const fragment = toFragment({ task: result.task, values: result.values });
  history.replaceState(null, '', fragment);
  const copied = await copy(location.href);
  announce(copied ? 'The link is copied.' : 'The link is in the address bar.');
}

async function openLink(fragment) {
  const link = fromFragment(fragment);
  if (!link) return false;
  choose(link.task);
  const { seed = '', ...values } = link.values;
  setSeed(seed);
  await form.fill(values);
  $('run').focus({ preventScroll: true });
  announce('Filled in from the link; generate to hear it.');
  return true;
}

// The API key

function askForKey(message = '') {
  $('key-error').textContent = message;
  if (!$('key-dialog').open) $('key-dialog').showModal();
}

async function start() {
  try {
    const { tasks, model } = await api.connect();
    $('model').textContent = model;
    showTasks(tasks);
    const linked = await openLink(location.hash).catch((error) => (report(error), false));
    if (!linked && !form) choose(tasks[0].name);
    $('run').disabled = false;
    if (!linked) announce('Ready.');
  } catch (error) {
    announce('');
    report(error);
  }
}

$('request').addEventListener('submit', (event) => {
  event.preventDefault();
  run();
});
$('cancel').addEventListener('click', cancel);
$('random').addEventListener('click', () => setSeed(drawnSeed()));
$('forget').addEventListener('click', () => {
  setSeed('');
  $('seed').focus();
});
$('seed').addEventListener('input', () => ($('forget').hidden = $('seed').value === ''));
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  api.setKey($('key').value.trim());
  $('key').value = '';
  $('key-dialog').close();
  start();
});
$('key-button').addEventListener('click', () => askForKey());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !$('key-dialog').open) cancel();
});
addEventListener('hashchange', () => openLink(location.hash).catch(report));
$('result').replaceWith(result.element);
start();
