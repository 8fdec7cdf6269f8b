"""The example of every help text, run unchanged on the compiled core, in a folder with the files of
``uniaudio examples``.

The bundled model runs the tasks that it supports, a tiny random model (``-m``) the rest.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from joint import make_joint_model

from uniaudio_engine import Audio, Engine
from uniaudio_engine.audio.encoded import EncodedAudio
from uniaudio_engine.audio.voice import Voice
from uniaudio_engine.cli.arguments import build_parser
from uniaudio_engine.cli.examples import example_files
from uniaudio_engine.cli.main import main
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Task
from uniaudio_engine.score.reading import lay_out, read_score
from uniaudio_engine.storage.folder import find_folder, load_config

README = Path(__file__).parents[2] / "README.md"
VERBS = {t.verb: t for t in TASKS.values()}
# Commands whose examples need foreign checkpoints, or pipes and devices: tested in
# test_import_command.py, test_live_cli.py and tests/serving.
ELSEWHERE = ("import", "live", "serve")


def commands() -> list[str]:
    parser = build_parser()
    (actions,) = [a for a in parser._actions if hasattr(a, "choices") and a.choices]
    return ["", *sorted(actions.choices)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with nothing but ``examples/`` in it."""
    before, here = os.getcwd(), tmp_path_factory.mktemp("here")
    os.chdir(here)
    assert main(["examples"]) == 0 and os.listdir() == ["examples"]
    yield here
    os.chdir(before)


def example_of(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of a help's example, without the first."""
    with pytest.raises(SystemExit) as e:
        main([*command.split(), "--help"])
    assert e.value.code == 0
    line = capsys.readouterr().out.split("example:\n")[1].splitlines()[0]
    words = shlex.split(line)
    assert words[0] == "uniaudio" and words[1] == (command or "tts")
    return words[1:]


def model_for(task: Task, joint: Path) -> Path:
    """The bundled model where it does the task."""
    bundled = find_folder(None)
    return bundled if task.name in load_config(bundled).task_table else joint


def after(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow) if c == "export" else c
        for c in commands()
        if c not in ELSEWHERE
    ],
)
def test_every_help_has_an_example_that_runs(
    command: str, joint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = example_of(command, capsys)
    for name in {w for w in words if w.startswith("examples/")}:
        assert Path(name).is_file(), name
    output = Path(after(words, "-o")) if "-o" in words else None
    if output is not None and output.is_file():
        output.unlink()  # another command's
    model = model_for(VERBS[words[0]], joint) if words[0] in VERBS else find_folder(None)
    assert main([*words, *(["-m", str(model)] if model == joint else [])]) == 0, (
        capsys.readouterr().err
    )
    out = capsys.readouterr().out
    if words[0] in VERBS:
        check_sound(VERBS[words[0]], words, model)
    elif output is None:
        assert out.count("\n") >= 1
        assert "--json" not in words or json.loads(out)
    elif output.suffix == ".wav":
        assert soundfile.info(output).samplerate == load_config(model).codec.sample_rate
    elif command == "codec":
        assert EncodedAudio.load(output).samples == soundfile.info(words[2]).frames
    elif command == "voices":
        assert Voice.load(output).seconds > 1
    else:
        assert (
            command in ("quantize", "export")
            and load_config(output).tasks == load_config(model).tasks
        )


def check_sound(task: Task, words: list[str], model: Path) -> None:
    """What the task promises of its sound: rate, length, and the samples that it may not touch."""
    codec = load_config(model).codec
    made, rate = soundfile.read(after(words, "-o"), dtype="int16")
    assert rate == codec.sample_rate and made.ndim == 1 and len(made) > 0.2 * rate
    if "--source" in words:
        source, source_rate = soundfile.read(after(words, "--source"), dtype="int16")
        assert source_rate == rate
    if task.finish == "length":
        assert len(made) == len(source)
    if task.finish == "span":
        begin, end = (float(t) * codec.frame_rate for t in after(words, "--span").split(":"))
        first, last = (round(n) * codec.frame_size for n in (begin, end))
        grown = len(made) - len(source)
        assert task.length != "source" or grown == 0
        assert np.array_equal(made[:first], source[:first]) and np.array_equal(
            made[last + grown :], source[last:]
        )
        assert not np.array_equal(made[first : last + grown], source[first:last])
    if task.length == "seconds":
        assert len(made) == task.option("seconds").default * rate
    if "--score" in words:
        song = lay_out(read_score(after(words, "--score")), codec.frame_rate)
        assert len(made) == sum(song.durations) * codec.frame_size


def test_the_song_is_the_same_in_both_files() -> None:
    text, xml = (read_score(f"examples/song.{ending}") for ending in ("txt", "musicxml"))
    assert [(n.pitch, n.word) for n in text] == [(n.pitch, n.word) for n in xml]
    assert np.allclose([n.seconds for n in text], [n.seconds for n in xml])


def test_the_table_lists_the_files() -> None:
    names = {p.name for p in example_files()}
    said = set(
        re.findall(
            r"^(?:\||-) `([^`]+)`", Path("examples/README.md").read_text(encoding="utf-8"), re.M
        )
    )
    assert said == names - {"README.md"} and len(names) > 10
    assert sum(p.stat().st_size for p in example_files()) < 1e6
    for name in names:
        if name.endswith(".flac"):
            about = soundfile.info(f"examples/{name}")
            assert (about.samplerate, about.channels) == (16000, 1) and 2 <= about.duration <= 5


# The words of the examples are the corpus' words


class _Every:
    """In place of a random generator: draws one thing of all, then another, until all have been."""

    def __init__(self) -> None:
        self.path: list[tuple[int, int]] = []  # what was drawn, of how many
        self.at = 0

    def _draw(self, count: int) -> int:
        if self.at == len(self.path):
            self.path.append((0, count))
        self.at += 1
        return self.path[self.at - 1][0]

    def integers(self, count: int) -> int:
        return self._draw(count)

    def random(self) -> float:
        return (0.0, 0.999)[self._draw(2)]

    def permutation(self, count: int) -> tuple[int, ...]:
        orders = list(itertools.permutations(range(count)))
        return orders[self._draw(len(orders))]

    def next(self) -> bool:
        """Another path; False where there is none."""
        while self.path and self.path[-1][0] + 1 == self.path[-1][1]:
            self.path.pop()
        if self.path:
            self.path[-1] = (self.path[-1][0] + 1, self.path[-1][1])
        self.at = 0
        return bool(self.path)


def every(draw: Callable[[Any], str]) -> Iterator[str]:
    rng = _Every()
    yield draw(rng)
    while rng.next():
        yield draw(rng)


def test_captions_are_ones_that_the_corpus_makes() -> None:
    from uniaudio_training.corpus import wordings

    said = {t: shlex.split(TASKS[t].example)[2] for t in ("t2s", "t2m", "i_tts", "a_edit")}
    assert said["t2s"] in every(lambda rng: wordings.sound(rng, "knock", {"count": 3}))
    music = {"tempo": 70, "instrument": "piano", "mode": "major", "chords": "", "drums": False}
    assert said["t2m"] in every(lambda rng: wordings.music(rng, music, "C"))
    assert said["i_tts"] in every(
        lambda rng: wordings.instruction(rng, "man", "low", "slow", "medium")
    )
    chirps = set(every(lambda rng: wordings.sound_noun(rng, "chirp", {"count": 2, "up": False})))
    begin, end = (
        float(t) for t in after(shlex.split(TASKS["a_edit"].example), "--span").split(":")
    )
    where = set(
        every(
            lambda rng: wordings.position(
                rng, begin, end, soundfile.info("examples/rain.flac").duration
            )
        )
    )
    ways = set(every(lambda rng: wordings.edit(rng, "add", "", "{what}", "{where}", "rain")))
    assert said["a_edit"] in {
        way.format(what=c, where=w) for way in ways for c in chirps for w in where
    }


# The README


def test_the_readme_has_every_verb_with_its_example_and_call(joint: Path) -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \|[^|]*\| `(uniaudio [^|]*)` \| `([^|]*)` \|$",
        README.read_text(encoding="utf-8"),
        re.M,
    )
    assert [verb for verb, _, _ in rows] == list(VERBS)
    engine = Engine.from_pretrained(joint)
    for verb, example, call in rows:
        words = shlex.split(example)
        assert example == VERBS[verb].example
        audio = eval(call, {"engine": engine})
        assert isinstance(audio, Audio) and audio.meta["task"] == VERBS[verb].name
        given = [
            w
            for w in (*words[2:], audio.meta.get("text", ""))
            if w.startswith("examples/") or " " in w
        ]
        assert given and all(w in call for w in given), call


# The programs


def run_program(name: str, *args: str) -> int:
    words = sys.argv
    sys.argv = [name, *args]
    try:
        with pytest.raises(SystemExit) as e:
            runpy.run_path(f"examples/{name}", run_name="__main__")
    finally:
        sys.argv = words
    return int(e.value.code or 0)


def test_a_stream_is_written_as_it_comes(joint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_for(TASKS["tts"], joint)
    text = "Two sentences. This is the second."
    assert (
        run_program(
            "play_stream.py", text, "-o", "streamed.wav", "--seed", "7", "--model", str(model)
        )
        == 0
    )
    *lines, last = capsys.readouterr().out.splitlines()
    whole = Engine.from_pretrained(model).tts(text, seed=7)
    assert len(lines) > 2 and all(
        re.match(r"after +\d+\.\d ms: +\d+\.\d\d to +\d+\.\d\d s of sound, +[+-]", line)
        for line in lines
    )
    assert last.startswith(f"streamed.wav: {whole.seconds:.2f} s, seed 7, ")
    streamed, rate = soundfile.read("streamed.wav", dtype="float32")
    assert (
        rate == whole.sample_rate
        and len(streamed) == len(whole.samples)
        and np.abs(streamed - whole.samples).max() < 1e-4
    )
    for bad in (
        ["  ", "-o", "b.wav"],
        ["Hello.", "-o", "none/b.wav"],
        ["Hello.", "-o", "b.wav", "--voice", "nobody"],
        ["Hello.", "-o", "b.wav", "--model", "none"],
    ):
        assert run_program("play_stream.py", *bad) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("play_stream: ") and err.count("\n") == 1


def test_a_reply_is_spoken_as_it_is_written(
    joint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(model_for(TASKS["tts"], joint))
    how = ["-o", "reply.wav", "--seed", "7", "--token-seconds", "0.001", "--model", model]
    assert run_program("speak_reply.py", "Sure, it is. Bye.", *how) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r" *(\w+)  came +\d+\.\d\d s, is heard at +[\d.]+ s", i) for i in lines]
    assert [m and m[1] for m in found] == ["sure", "it", "is", "bye"]
    seconds = soundfile.info("reply.wav").duration
    assert last == f"reply.wav: {seconds:.2f} s"
    reply = "One two three four five six seven. " * 3
    assert run_program("speak_reply.py", reply, *how, "--interrupt", "0.5") == 0
    (heard,) = re.findall(r"the listener heard: '(.*)'", capsys.readouterr().out)
    assert heard and reply.startswith(heard) and len(heard) < len(reply) / 2
    for bad in (["Hi.", "-o", "a.txt"], ["Hi.", "-o", "b.wav", "--model", "none"], ["", *how]):
        assert run_program("speak_reply.py", *bad) == 2
        out, err = capsys.readouterr()
        assert err.startswith("speak_reply: ") and err.count("\n") == 1


def test_a_folder_is_converted(joint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(model_for(TASKS["vc"], joint))
    os.mkdir("recordings")
    for name in ("speech.flac", "noisy.flac"):
        (Path("recordings") / name).write_bytes((Path("examples") / name).read_bytes())
    Path("recordings/broken.wav").write_bytes(b"RIFF")
    Path("recordings/notes.txt").write_text("no sound")
    how = ["--voice", "examples/voice.flac", "--model", model, "--seed", "3"]
    assert run_program("convert_folder.py", "recordings", "-o", "converted", *how) == 1
    out, err = capsys.readouterr()
    assert (
        err.startswith("convert_folder: skipped: source recordings/broken.wav: expected")
        and err.count("\n") == 1
    )
    assert sorted(os.listdir("converted")) == ["noisy.flac", "speech.flac"] and out.count("\n") == 2
    alone = Engine.from_pretrained(model).convert(
        "examples/speech.flac", "examples/voice.flac", seed=3
    )
    converted, _ = soundfile.read("converted/speech.flac", dtype="float32")
    assert np.abs(converted - alone.samples).max() < 1e-4
    for bad in (
        ["none", "-o", "c"],
        ["recordings", "-o", "recordings"],
        ["recordings", "-o", "c", "--voice", "nobody.wav"],
        ["recordings", "-o", "c", "--model", "none"],
    ):
        assert run_program("convert_folder.py", *bad[:1], *how, *bad[1:]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("convert_folder: ") and err.count("\n") == 1
    assert not os.path.exists("c")


# The command that copies them


def test_examples_are_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "a" / "b"
    assert main(["examples", str(there), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["files"] == sorted(os.listdir(there)) == sorted(os.listdir("examples")) and about[
        "output"
    ] == str(there)
    changed, kept = there / "song.txt", there / "rain.flac"
    changed.write_text("C4 1 mine\n")
    (there / "noisy.flac").unlink()
    os.utime(kept, (0, 0))
    assert main(["examples", str(there)]) == 2
    out, err = capsys.readouterr()
    assert not out and err == (
        f"uniaudio: error: {there}: song.txt exists with other contents; choose another folder, "
        "or overwrite with --force\n"
    )
    assert changed.read_text() == "C4 1 mine\n" and not (there / "noisy.flac").exists()
    assert main(["examples", str(there), "--force"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert (
        changed.read_bytes() == Path("examples/song.txt").read_bytes()
        and (there / "noisy.flac").is_file()
    )
    assert kept.stat().st_mtime == 0  # the same already


def test_examples_have_to_go_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "song.txt").mkdir(parents=True)
    for where in ("file", "file/below", "folder"):
        for more in ([], ["--force"]):
            assert main(["examples", str(tmp_path / where), *more]) == 2
            out, err = capsys.readouterr()
            assert not out and err.startswith("uniaudio: error: ") and err.count("\n") == 1, err
    assert main(["examples", "/proc/none"]) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "song.txt"]
