"""Writes docs/samples.md and its sounds: one command for each verb, run with the bundled model.

python docs/samples.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import soundfile

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "samples"
VOICE = "bf_emma"
BIRDS = "around the middle, add birdsong, 2 falling chirps"
# heading, the files that go in, the command without its output
COMMANDS = (
    (
        "Speak a text",
        "",
        'tts "The early train was late again, so we walked home along the river."',
    ),
    ("Another voice", "", f'tts "Nobody expected the garden to bloom in June." --voice {VOICE}'),
    ("Clone a voice", "voice", 'tts "This voice was cloned." --voice examples/voice.flac'),
    (
        "Say the same in another voice",
        "speech voice",
        "convert --source examples/speech.flac --voice examples/voice.flac",
    ),
    ("Take the noise out", "noisy", "enhance --source examples/noisy.flac"),
    (
        "Pull one speaker out of a mixture",
        "mixture wanted",
        "extract --source examples/mixture.flac --voice examples/wanted.flac",
    ),
    ("Take the room out", "hall", "dereverb --source examples/hall.flac"),
    ("Sing a score", "singer", "sing --score examples/song.txt --voice examples/singer.flac"),
    ("Make a sound", "", 'sound "three knocks on wood"'),
    ("Make music", "", 'music "a slow tune on piano, in C major, 70 bpm"'),
    ("Edit a sound", "rain", f'edit "{BIRDS}" --source examples/rain.flac --span 1.14:2.84'),
    (
        "Speak as instructed",
        "",
        'instruct "a low-pitched man, speaking slowly" --text "The museum closes at five."',
    ),
    (
        "Replace a word of a recording",
        "sentence",
        "speech-edit mountain --source examples/sentence.flac --span 1.88:2.34",
    ),
)


def player(file: str, what: str) -> str:
    sound = f'<audio controls preload="none" src="../samples/{file}.opus"></audio>'
    return f"{sound} [{what}](samples/{file}.opus)\n"


def page() -> str:
    """The text of docs/samples.md."""
    lines = [
        "# Samples",
        "",
        "What the bundled model sounds like. Each command was run once, with `--seed 1`; nothing was",
        "selected. `uniaudio examples` copies the inputs, and `docs/samples.py` makes this page.",
    ]
    for number, (heading, inputs, command) in enumerate(COMMANDS):
        verb = command.split()[0]
        lines += ["", f"## {heading}", "", "```sh"]
        lines += [f"uniaudio {command} --seed 1 -o {verb}.opus", "```", ""]
        lines += [player(file, f"{file}.flac") for file in inputs.split()]
        lines.append(player(f"{number:02}-{verb}", "result"))
    return "\n".join(lines)


def main() -> int:
    OUT.mkdir(exist_ok=True)
    for number, (_, inputs, command) in enumerate(COMMANDS):
        args = [*shlex.split(command), "--seed", "1"]
        out = OUT / f"{number:02}-{args[0]}.opus"
        run = [sys.executable, "-m", "uniaudio_engine", *args, "-o", str(out)]
        subprocess.run(run, cwd=ROOT, check=True)
        for file in inputs.split():
            samples, rate = soundfile.read(ROOT / "examples" / f"{file}.flac")
            soundfile.write(OUT / f"{file}.opus", samples, rate, format="OGG", subtype="OPUS")
    (ROOT / "docs" / "samples.md").write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
