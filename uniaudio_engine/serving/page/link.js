// A request as the fragment of a URL, and back. It never holds sound: a recording or an uploaded
// file has to be chosen again; a bundled example is named.

/** {task, values: {name: text}} -> "#task=tts&text=…" */
export function toFragment({ task, values }) {
  const parameters = new URLSearchParams({ task });
  for (const [name, value] of Object.entries(values)) parameters.set(name, value);
  return `#${parameters}`;
}

/** The request of a fragment; null where it names no task. */
export function fromFragment(fragment) {
  const values = Object.fromEntries(new URLSearchParams(fragment.replace(/^#/, '')));
  const { task } = values;
  delete values.task;
  return task ? { task, values } : null;
}

/** Copies text; returns false where the browser does not allow it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
