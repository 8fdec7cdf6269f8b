"""``python -m uniaudio_training.corpus.examples`` writes the files of ``examples/`` that the
engine's help texts refer to, from the corpus code alone.

Every clip is a track of the test shard ``ShardSpec(task, "test", 0, seed=0)``. No voice, sentence
or seed of it was used in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from .schema import SAMPLE_RATE, Label
from .shards import ShardSpec, draw_shard
from .sources import SOURCES

SPOKEN = ("flite", "wordnet", "uniaudio_training")
OWN = ("uniaudio_training",)


@dataclass(frozen=True)
class Clip:
    """A track of an example in the task's first test shard.

    ``role`` and ``index`` select it; ``what`` describes it in the table.
    """

    task: str
    index: int
    role: str
    what: Callable[[Label], str]
    sources: tuple[str, ...] = SPOKEN


def _said(role: str, by: str = "a speaker") -> Callable[[Label], str]:
    return lambda label: f"{by} ({label.tracks[role].speaker}): “{label.tracks[role].text}”"


def _noisy(label: Label) -> str:
    assert label.noise is not None
    return f"{_said('source')(label)}, in {label.noise.kind} noise at {label.noise.snr_db:.0f} dB"


def _mixture(label: Label) -> str:
    assert label.interferer is not None
    said, other = _said("source", "the speaker of `wanted.flac`")(label), label.interferer
    return f"{said}, with {other.speaker} over it at {other.snr_db:.1f} dB"


def _hall(label: Label) -> str:
    assert label.room is not None
    said, room = _said("source")(label), label.room
    return f"{said}, {room.distance:g} m away in a room of {room.rt60:g} s reverberation time"


def _rain(label: Label) -> str:
    assert label.edit is not None
    begin, end = (t / SAMPLE_RATE for t in label.edit.source)
    return (
        f"rain; its instruction in the corpus is “{label.caption}”, from {begin:.2f} to {end:.2f} s"
    )


def _sentence(label: Label) -> str:
    assert label.edit is not None
    (word,) = [w for w in label.tracks["source"].words if w.word == label.edit.removed]
    return f"{_said('source')(label)}; “{word.word}” is at {word.start:.2f} to {word.end:.2f} s"


def _song(label: Label) -> str:
    return f"notes and words of “{label.tracks['target'].text}”, lengths rounded to half beats"


CLIPS = {
    "speech.flac": Clip("vc", 9, "source", _said("source")),
    "voice.flac": Clip("vc", 9, "prompt", _said("prompt", "another speaker")),
    "noisy.flac": Clip("se", 14, "source", _noisy),
    "mixture.flac": Clip("tse", 18, "source", _mixture),
    "wanted.flac": Clip("tse", 18, "prompt", _said("prompt")),
    "hall.flac": Clip("sd", 33, "source", _hall),
    "singer.flac": Clip("svs", 10, "prompt", _said("prompt", "a singer")),
    "rain.flac": Clip("a_edit", 19, "source", _rain, OWN),
    "sentence.flac": Clip("s_edit", 15, "source", _sentence),
}
SONG = Clip("svs", 10, "target", _song)  # as song.txt and song.musicxml
TEMPO = 132  # beats per minute; one of the tempi of the corpus
SCRIPTS = {
    "play_stream.py": "plays speech while it is generated, and prints when each chunk arrives",
    "speak_reply.py": (
        "speaks a language model's reply while it is written, and says what was heard when the user "
        "interrupts"
    ),
    "convert_folder.py": (
        "converts every recording of a folder to another voice, several at a time"
    ),
    "voice_agent.py": (
        "speaks a language model's words as they arrive, over the WebSocket of `uniaudio serve`, and "
        "can be interrupted"
    ),
}


@lru_cache
def _shard(task: str) -> tuple[NDArray[np.int16], list[Label]]:
    return draw_shard(ShardSpec(task, "test", 0, seed=0))


def draw(clip: Clip) -> tuple[NDArray[np.int16], Label]:
    """int16 samples [N] at 16 kHz, and the label of their example."""
    pcm, labels = _shard(clip.task)
    label = labels[clip.index]
    track = label.tracks[clip.role]
    return pcm[track.offset : track.offset + track.samples], label


def song_notes() -> list[tuple[int, float, str]]:
    """The notes of the song: (MIDI pitch, beats, word or "-")."""
    label = _shard(SONG.task)[1][SONG.index]
    beat = 60 / label.parameters["tempo"]
    return [(n.pitch, max(0.5, round(2 * n.duration / beat) / 2), n.lyric) for n in label.notes]


_STEPS = "C C# D D# E F F# G G# A A# B".split()


def song_text() -> str:
    """The score as text (``uniaudio_engine/score/``)."""
    lines = [
        f"{_STEPS[pitch % 12]}{pitch // 12 - 1} {beats:g} {word}"
        for pitch, beats, word in song_notes()
    ]
    return "\n".join([f"tempo {TEMPO}", *lines]) + "\n"


def song_musicxml() -> str:
    """The song as MusicXML, in one unmeasured bar. The whole word is on its first note."""
    notes = []
    for pitch, beats, word in song_notes():
        step = _STEPS[pitch % 12]
        alter = "<alter>1</alter>" if step.endswith("#") else ""
        lyric = (
            "" if word == "-" else f"<lyric><syllabic>single</syllabic><text>{word}</text></lyric>"
        )
        place = f"<pitch><step>{step[0]}</step>{alter}<octave>{pitch // 12 - 1}</octave></pitch>"
        notes.append(f"      <note>{place}<duration>{round(2 * beats)}</duration>{lyric}</note>\n")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<score-partwise version="4.0">\n'
        '  <part-list><score-part id="P1"><part-name>Voice</part-name></score-part></part-list>\n'
        '  <part id="P1">\n    <measure number="1">\n'
        "      <attributes><divisions>2</divisions><time><senza-misura/></time></attributes>\n"
        f'      <sound tempo="{TEMPO}"/>\n{"".join(notes)}    </measure>\n  </part>\n'
        "</score-partwise>\n"
    )


def readme() -> str:
    """The README of the examples folder, with a table of its files."""
    rows = []
    for name, clip in {**CLIPS, "song.txt": SONG, "song.musicxml": SONG}.items():
        pcm, label = draw(clip)
        what = clip.what(label) + (f", {len(pcm) / SAMPLE_RATE:.1f} s" if name in CLIPS else "")
        rows.append(
            f"| `{name}` | {what} | `{label.id}`, {clip.role} | {', '.join(clip.sources)} |"
        )
    licences = [
        f"- {name} ({SOURCES[name]['what']}): {SOURCES[name]['licence']}." for name in SPOKEN
    ]
    scripts = [f"- `{name}` {what}." for name, what in SCRIPTS.items()]
    return (
        "# Examples\n\nThe files used in the examples of `uniaudio COMMAND --help`. `uniaudio "
        "examples` copies them into\n`./examples`.\n\n"
        "All sound is synthetic, 16 kHz mono, made by the corpus code from its test split: its "
        "voices,\nsentences and seeds are not used in training. Shard `TASK-test-0000` below is\n"
        '`ShardSpec(TASK, "test", 0, seed=0)` of `uniaudio_training/corpus/shards.py`.\n'
        "`python -m uniaudio_training.corpus.examples --out examples` makes the files and this "
        "page.\n\n"
        "| file | contents | track | made from |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nLicences of the sources:\n\n"
        + "\n".join(licences)
        + "\n\nPrograms that use the public API only, each with its own `--help`:\n\n"
        + "\n".join(scripts)
        + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="uniaudio_training.corpus.examples",
        description="Make the files of examples/ again.",
        epilog="example: python -m uniaudio_training.corpus.examples --out examples",
    )
    parser.add_argument("--out", required=True, type=Path, help="target folder")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for name, clip in CLIPS.items():
        sf.write(out / name, draw(clip)[0], SAMPLE_RATE, subtype="PCM_16")
    for name, text in (
        ("song.txt", song_text()),
        ("song.musicxml", song_musicxml()),
        ("README.md", readme()),
    ):
        (out / name).write_text(text, encoding="utf-8")
    print(f"{out}: {sum(p.stat().st_size for p in out.iterdir() if p.is_file()) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
