// How tasks are presented: a short title, an icon and examples. A task that is not in this table
// works as well: it is shown by its name.

const SPOKEN = [
  'The lighthouse keeper counted nine ships before the fog came in.',
  'Dr. Lee moved to 12 Elm St. in 1998, for $40 a week.',
  'Stop. Listen. Somewhere in the walls, a clock is ticking.',
];

const TABLE = {
  tts: { title: 'Speak', icon: 'speak', values: { text: SPOKEN } },
  i_tts: {
    title: 'Describe a voice',
    icon: 'instruct',
    values: {
      instruction: [
        'a low-pitched man, speaking slowly',
        'a high-pitched woman, speaking fast',
        'a man, speaking fast',
      ],
      text: SPOKEN.slice(0, 1),
    },
  },
  svs: { title: 'Sing', icon: 'sing', sounds: { prompt: 'singer.flac' }, files: { score: 'song.txt' } },
  vc: {
    title: 'Convert a voice',
    icon: 'convert',
    sounds: { source: 'speech.flac', prompt: 'voice.flac' },
  },
  se: { title: 'Remove noise', icon: 'enhance', sounds: { source: 'noisy.flac' } },
  sd: { title: 'Remove echo', icon: 'room', sounds: { source: 'hall.flac' } },
  tse: {
    title: 'Isolate a speaker',
    icon: 'extract',
    sounds: { source: 'mixture.flac', prompt: 'wanted.flac' },
  },
  t2s: {
    title: 'Make a sound',
    icon: 'sound',
    values: { text: ['three knocks on wood', 'birdsong, 4 falling chirps', 'steady rain'] },
  },
  t2m: {
    title: 'Make music',
    icon: 'music',
    values: {
      text: [
        'a slow tune on piano, in C major, 70 bpm',
        'a fast tune on flute, in A minor, 140 bpm',
      ],
    },
  },
  a_edit: {
    title: 'Edit a sound',
    icon: 'edit',
    values: { instruction: ['around the middle, add birdsong, 2 falling chirps'] },
    sounds: { source: 'rain.flac' },
    spans: { source: [1.14, 2.84] },
  },
  s_edit: {
    title: 'Replace words',
    icon: 'replace',
    values: { text: ['mountain'] },
    sounds: { source: 'sentence.flac' },
    spans: { source: [1.88, 2.34] },
  },
};

const EMPTY = { values: {}, sounds: {}, files: {}, spans: {} };

export function presentation(task) {
  return { title: task.name, icon: 'task', ...EMPTY, ...TABLE[task.name] };
}
