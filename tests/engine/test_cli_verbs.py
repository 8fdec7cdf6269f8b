"""Every verb on the command line, with odd, empty and missing files, and its pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_tools import SAY, bad_files, everything
from sounds import tone

from uniaudio_engine import read_audio
from uniaudio_engine.cli.main import main
from uniaudio_engine.request.task_table import TASKS

pytestmark = pytest.mark.usefixtures("place")

# What each verb is asked, with files that are there; -m and -o are added.
ASKED: dict[str, list[str]] = {
    "convert": ["--source", "voice.wav", "--voice", "voice.wav"],
    "enhance": ["--source", "voice.wav"],
    "extract": ["--source", "voice.wav", "--voice", "voice.wav"],
    "sing": ["--score", "song.txt", "--voice", "voice.wav"],
    "edit": ["add a bell", "--source", "voice.wav", "--span", "0.2:0.6"],
    "dereverb": ["--source", "voice.wav"],
    "speech-edit": ["one", "--source", "voice.wav", "--span", "0.6:0.8"],
    "tts": ["Hello.", "--voice", "voice.wav"],
    "instruct": ["a low voice", "--text", "Hello."],
    "sound": ["three knocks on wood", "--seconds", "0.2"],
    "music": ["slow piano", "--seconds", "0.2"],
}
NO_FILES = (
    "none.wav",
    "bad",
    "bad.wav",
    "bad/zero.wav",
    "bad/text.wav",
    "bad/truncated.wav",
    "bad/nan.wav",
    "/dev/null",
)


def asked(verb: str, joint_folder: Path, **changes: str) -> list[str]:
    """A verb's request, with other values for some flags."""
    words = list(ASKED[verb])
    for flag, value in changes.items():
        words[words.index(f"--{flag}") + 1] = value
    return [verb, *words, "-o", "a.wav", "-m", str(joint_folder)]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error; nothing is written."""
    capsys.readouterr()
    before = everything()
    assert main(words) == 2, words
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith("uniaudio: error: ")
        and err.count("\n") == 1
        and len(err) < 500
    ), err
    assert everything() == before
    return err


@pytest.fixture
def song(place: Path) -> None:
    bad_files()
    Path("song.txt").write_text("tempo 100\nC4 1 hello\nE4 1 -\n")


def test_every_verb_is_asked() -> None:
    assert ASKED.keys() == {t.verb for t in TASKS.values()}


@pytest.mark.parametrize(
    ("verb", "flag"),
    [
        (v, w[2:])
        for v, words in ASKED.items()
        for w in words
        if w in ("--source", "--voice", "--score")
    ],
)
def test_what_is_no_such_file_is_refused(
    verb: str, flag: str, song: None, joint_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.makedirs("bad/folder.txt")
    files = (
        ("none.txt", "none.mid", "bad/folder.txt", "bad/zero.wav", "voice.wav", "bad/list.jsonl")
        if flag == "score"
        else NO_FILES
    )
    for path in files:
        err = refused(asked(verb, joint_folder, **{flag: path}), capsys)
        assert "expected" in err and path in err, err


@pytest.mark.parametrize("verb", [v for v, words in ASKED.items() if "--source" in words])
@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (8000, 1), (44100, 1), (16000, 2)])
def test_sounds_of_any_rate_and_channels_are_taken(
    verb: str,
    rate: int,
    channels: int,
    song: None,
    joint_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soundfile.write("odd.wav", np.tile(tone(1.5, rate).samples[:, None], (1, channels)), rate)
    assert main(asked(verb, joint_folder, source="odd.wav")) == 0, capsys.readouterr().err
    notes = capsys.readouterr().err
    assert ("channels mixed down" in notes) == (channels > 1) and (
        f"resampled from {rate} Hz" in notes
    ) == (rate != 16000)
    source, made = read_audio("odd.wav", 16000).samples, read_audio("a.wav", 16000).samples
    task = next(t for t in TASKS.values() if t.verb == verb)
    if task.length == "source":
        assert len(made) == len(source)
    if task.finish == "span":
        begin, end = (round(float(t) * 16000) for t in ASKED[verb][-1].split(":"))
        grown = len(made) - len(source)
        assert (
            np.abs(made[:begin] - source[:begin]).max() < 1e-4
            and np.abs(made[end + grown :] - source[end:]).max() < 1e-4
        )


EMPTY: dict[str, tuple[str, list[str], str]] = {
    "no words for tts": ("tts", ["tts", ""], "expected words to speak"),
    "no caption": ("sound", ["sound", " "], "expected words that describe the sound"),
    "no music": ("music", ["music"], "input text is missing"),
    "no instruction": (
        "instruct",
        ["instruct", "", "--text", "Hello."],
        "instruction: expected words",
    ),
    "no words": (
        "instruct",
        ["instruct", "a low voice", "--text", ""],
        "text: expected words to speak",
    ),
    "no edit": ("edit", ["edit", "", "--source", "voice.wav"], "instruction: expected words"),
    "no words for a span": (
        "speech-edit",
        ["speech-edit", "", "--source", "voice.wav", "--span", "0.6:0.8"],
        "text: expected words",
    ),
    "an empty span": (
        "edit",
        ["edit", "add a bell", "--source", "voice.wav", "--span", "0.5:0.5"],
        "expected begin:end in seconds",
    ),
    "a span of words": (
        "edit",
        ["edit", "add a bell", "--source", "voice.wav", "--span", "here"],
        "expected begin:end in seconds",
    ),
    "no source": ("enhance", ["enhance"], "input source is missing; for example: uniaudio enhance"),
    "no voice": ("convert", ["convert", "--source", "voice.wav"], "input prompt is missing"),
    "no seconds": ("sound", ["sound", "rain", "--seconds", "0"], "seconds: expected a number"),
    "too many seconds": ("sound", ["sound", "rain", "--seconds", "3000"], "expected up to"),
    "an empty score": ("sing", ["sing", "--score", ""], "score: expected notes"),
    "a picture of another kind": (
        "enhance",
        ["enhance", "--source", "voice.wav", "--plot", "a.jpg"],
        "ends in .png",
    ),
    "a picture nowhere": (
        "enhance",
        ["enhance", "--source", "voice.wav", "--plot", "none/a.png"],
        "the folder none does not exist",
    ),
    "a picture as a folder": (
        "enhance",
        ["enhance", "--source", "voice.wav", "--plot", "bad.png"],
        "got a directory",
    ),
}


@pytest.mark.parametrize("case", EMPTY)
def test_what_is_empty_is_refused(
    case: str, song: None, joint_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkdir("bad.png")
    _, words, expected = EMPTY[case]
    assert expected in refused([*words, "-o", "a.wav", "-m", str(joint_folder)], capsys)


# Pictures


def png_size(path: str) -> tuple[int, int]:
    data = Path(path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("verb", ASKED)
def test_a_picture_has_the_source_above_the_result(
    verb: str, song: None, joint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    original = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), original(self, *a, **k))
    )
    assert main([*asked(verb, joint_folder), "--plot", "a.png"]) == 0
    (figure,) = drawn
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == (
        ["before", "after"]
        if "--source" in ASKED[verb]
        else [next(t.name for t in TASKS.values() if t.verb == verb)]
    )
    width, height = png_size("a.png")
    assert width == 960 and height == 360 * len(titles)
    limits = {ax.get_xlim() for ax in figure.axes}
    assert len(limits) == 1  # one scale of time
    made = read_audio("a.wav", 16000)
    assert limits.pop()[1] == pytest.approx(
        max(made.seconds, 1.0 if "--source" in ASKED[verb] else 0.0)
    )
    waves = [ax.lines[0].get_ydata() for ax in figure.axes[::2]]
    assert np.abs(waves[-1] - made.samples).max() < 1e-4
    if len(waves) == 2:
        assert np.array_equal(waves[0], read_audio("voice.wav", 16000).samples)
    spans = [[patch.get_x() for patch in ax.patches] for ax in figure.axes[::2]]
    assert all(
        s == [pytest.approx(float(ASKED[verb][-1].split(":")[0]))]
        if "--span" in ASKED[verb]
        else s == []
        for s in spans
    )


def test_no_picture_without_matplotlib(
    song: None,
    joint_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "a picture needs matplotlib" in refused(
        [*asked("enhance", joint_folder), "--plot", "a.png"], capsys
    )


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "DOUBLE"])
def test_odd_prompts_work_with_a_note(subtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.tile(tone(2.0, 96000).samples[:, None], (1, 5))
    soundfile.write("odd.wav", x, 96000, subtype=subtype)
    assert main([*SAY, "--prompt", "odd.wav"]) == 0
    err = capsys.readouterr().err
    assert "note: 5 channels mixed down to mono" in err and "note: resampled from 96000 Hz" in err
    assert ("8-bit" in err) == (subtype == "PCM_U8")


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_stream_is_written_in_every_format(ending: str, fake: None, tiny_folder: Path) -> None:
    say = ["stream", "Hello there.", "--seed", "1", "-m", str(tiny_folder)]
    assert main([*say, "-o", f"a.{ending}"]) == 0
    assert main([*say, "--raw", "-o", "a.pcm"]) == 0
    seconds = Path("a.pcm").stat().st_size / 2 / 16000
    assert read_audio(f"a.{ending}", 16000).seconds == pytest.approx(seconds, abs=0.1)
