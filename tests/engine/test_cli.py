"""The command line: every bad input is one line with exit code 2, Ctrl-C leaves nothing.

The helps' examples: test_examples.py.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import tone
from joint import make_joint_model

import uniaudio_engine
import uniaudio_engine.storage.folder
from uniaudio_engine import Engine, read_audio
from uniaudio_engine.cli.main import main
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.storage.tensors import load_tensors, save_tensors

ROOT = Path(uniaudio_engine.__file__).parents[
    1
]  # of the package under test, installed or in the tree


@pytest.fixture(autouse=True)
def place(
    fake: None, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty folder with voice.wav, and the tiny model as the bundled one."""
    monkeypatch.setattr(uniaudio_engine.storage.folder, "MODELS", tiny_folder.parent)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tone(1.0).save("voice.wav")
    yield tmp_path / "here"


@pytest.fixture(scope="session")
def joint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


def test_tts_writes_what_the_engine_makes(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ["--seed", "7", "--voice", "voice.wav", "--speed", "1.5", "--json"]
    assert main(["tts", "Hello there.", "-o", "a.wav", *how]) == 0
    meta = json.loads(capsys.readouterr().out)
    assert meta["seed"] == 7 and meta["output"] == "a.wav" and meta["speed"] == 1.5
    audio = Engine.from_pretrained(tiny_folder).tts(
        "Hello there.", seed=7, prompt="voice.wav", speed=1.5
    )
    assert np.abs(read_audio("a.wav", 16000).samples - audio.samples).max() < 1e-4
    assert sorted(os.listdir()) == ["a.wav", "voice.wav"]


def test_all_ways_give_the_same_sound(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    say = ["Hello there.", "--seed", "7"]
    assert main(["tts", *say, "-o", "a.wav"]) == 0
    expected = Path("a.wav").read_bytes()
    assert main(["stream", *say, "-o", "b.wav"]) == 0
    assert Path("b.wav").read_bytes() == expected
    assert main(["run", "tts", "text=Hello there.", "seed=7", "-o", "c.wav"]) == 0
    assert Path("c.wav").read_bytes() == expected
    capsysbinary.readouterr()
    assert main(["tts", *say, "-o", "-"]) == 0
    assert capsysbinary.readouterr().out == expected
    assert main(["stream", *say, "-o", "-", "--chunk-frames", "3,9"]) == 0
    assert capsysbinary.readouterr().out[44:] == expected[44:]
    assert main(["stream", *say, "-o", "-", "--raw"]) == 0
    assert capsysbinary.readouterr().out == expected[44:]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello there."))
    assert main(["tts", "-", "--seed", "7", "-o", "d.wav"]) == 0
    assert Path("d.wav").read_bytes() == expected


def test_jsonl(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text(
        '{"text": "Hello.", "seed": 1, "output": "a.wav"}\n\n'
        '{"text": "Hello there.", "speed": 2}\n{"phones": "hh ax0"}\n'
    )
    os.mkdir("out")
    assert (
        main(
            [
                "run",
                "tts",
                "--jsonl",
                "in.jsonl",
                "-o",
                "out",
                "--seed",
                "5",
                "--batch",
                "2",
                "--json",
            ]
        )
        == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(os.listdir("out")) == ["00003.wav", "00004.wav", "a.wav"]
    assert [line["seed"] for line in lines] == [1, 5, 5]
    alone = Engine.from_pretrained(tiny_folder).tts("Hello there.", speed=2, seed=5)
    assert np.abs(read_audio("out/00003.wav", 16000).samples - alone.samples).max() < 1e-4


def test_codec_there_and_back(tiny_folder: Path) -> None:
    engine = Engine.from_pretrained(tiny_folder)
    assert main(["codec", "encode", "voice.wav", "-o", "c.safetensors"]) == 0
    codes = load_tensors("c.safetensors")[0]["codes"]
    assert np.array_equal(codes, engine.encode("voice.wav"))
    assert main(["codec", "decode", "c.safetensors", "-o", "back.flac", "--codebooks", "2"]) == 0
    assert (
        np.abs(read_audio("back.flac", 16000).samples - engine.decode(codes[:2]).samples).max()
        < 1e-4
    )


def test_voices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices", "voice.wav", "-o", "anna.safetensors", "--name", "Anna"]) == 0
    assert main(["tts", "Hello.", "--voice", "anna.safetensors", "-o", "a.wav", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voice"] == "Anna"
    assert main(["voices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_bench_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json", "--seconds", "1", "--repeat", "1", "--seed", "3"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for key in (
        "ms_per_frame",
        "prefill_ms",
        "first_chunk_ms",
        "realtime_factor",
        "weight_bytes_per_frame",
        "bandwidth_gb_per_s",
        "bandwidth_fraction",
        "threads",
        "isa",
        "seed",
        "dtype",
        "kv_dtype",
    ):
        assert key in figures
    assert figures["seed"] == 3


def test_doctor_info_tasks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        " ".join(line.split()[0] for line in lines)
        == "python isa threads bandwidth model text sound gpu onnx"
    )
    assert "not used" in lines[-2]
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["tts"]
    assert main(["tasks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "tts"
    monkeypatch.setattr(uniaudio_engine.storage.folder, "MODELS", Path("none"))
    assert main(["doctor", "--json"]) == 1
    assert "NOT WORKING: no model is bundled" in json.loads(capsys.readouterr().out)["model"]


SAY = ["tts", "Hello.", "-o", "a.wav"]
BAD: dict[str, list[str]] = {
    "no command": [],
    "unknown command": ["sing"],
    "unknown flag": [*SAY, "--loud"],
    "no output": ["tts", "Hello."],
    "no text": ["tts", "-o", "a.wav"],
    "empty text": ["tts", "", "-o", "a.wav"],
    "symbols": ["tts", "*** ---", "-o", "a.wav"],
    "unknown phone": ["tts", "--phones", "hh zz", "-o", "a.wav"],
    "zero bytes": [*SAY, "--prompt", "bad/zero.wav"],
    "truncated": [*SAY, "--prompt", "bad/truncated.wav"],
    "nan": [*SAY, "--prompt", "bad/nan.wav"],
    "no sound": [*SAY, "--prompt", "bad/text.wav"],
    "no prompt": [*SAY, "--prompt", "bad/none.wav"],
    "no voice": [*SAY, "--voice", "nobody"],
    "output folder": ["tts", "Hello.", "-o", "none/a.wav"],
    "output is a folder": ["tts", "Hello.", "-o", "bad.wav"],
    "output on /proc": ["tts", "Hello.", "-o", "/proc/a.wav"],
    "output type": ["tts", "Hello.", "-o", "a.mp9"],
    "seed": [*SAY, "--seed", "x"],
    "seed sign": [*SAY, "--seed", "-1"],
    "temperature": [*SAY, "--temperature", "9"],
    "temperature nan": [*SAY, "--temperature", "nan"],
    "top-p": [*SAY, "--top-p", "0"],
    "top-k": [*SAY, "--top-k", "1.5"],
    "speed": [*SAY, "--speed", "0"],
    "device": [*SAY, "--device", "cuda"],
    "dtype": [*SAY, "--dtype", "int3"],
    "kv-dtype": [*SAY, "--kv-dtype", "int4"],
    "threads": [*SAY, "--threads", "0"],
    "max-seconds": [*SAY, "--max-seconds", "0"],
    "model": [*SAY, "-m", "none"],
    "model hub": [*SAY, "-m", "somebody/model"],
    "model file": [*SAY, "-m", "voice.wav"],
    "chunk frames": ["stream", "Hello.", "-o", "a.wav", "--chunk-frames", "1,x"],
    "chunk zero": ["stream", "Hello.", "-o", "a.wav", "--chunk-frames", "0"],
    "stream type": ["stream", "Hello.", "-o", "a.flac"],
    "unknown task": ["run", "dance", "-o", "a.wav"],
    "no pair": ["run", "tts", "Hello", "-o", "a.wav"],
    "unknown input": ["run", "tts", "txt=Hello", "-o", "a.wav"],
    "jsonl absent": ["run", "tts", "--jsonl", "none", "-o", "out"],
    "jsonl no folder": ["run", "tts", "--jsonl", "bad/ok.jsonl", "-o", "none"],
    "jsonl broken": ["run", "tts", "--jsonl", "bad/broken.jsonl", "-o", "out"],
    "jsonl list": ["run", "tts", "--jsonl", "bad/list.jsonl", "-o", "out"],
    "jsonl empty": ["run", "tts", "--jsonl", "bad/empty.jsonl", "-o", "out"],
    "jsonl value": ["run", "tts", "--jsonl", "bad/value.jsonl", "-o", "out"],
    "jsonl path": ["run", "tts", "--jsonl", "bad/path.jsonl", "-o", "out"],
    "jsonl twice": ["run", "tts", "--jsonl", "bad/twice.jsonl", "-o", "out"],
    "jsonl binary": ["run", "tts", "--jsonl", "bad/nan.wav", "-o", "out"],
    "encode output": ["codec", "encode", "voice.wav", "-o", "a.wav"],
    "decode sound": ["codec", "decode", "voice.wav", "-o", "a.wav"],
    "decode other": ["codec", "decode", "bad/other.safetensors", "-o", "a.wav"],
    "decode range": ["codec", "decode", "bad/range.safetensors", "-o", "a.wav"],
    "codebooks": ["codec", "encode", "voice.wav", "-o", "c.safetensors", "--codebooks", "9"],
    "voice output": ["voices", "voice.wav", "-o", "v.wav"],
    "voice no output": ["voices", "voice.wav"],
    "voice no input": ["voices", "-o", "v.safetensors"],
    "bench repeat": ["bench", "--repeat", "0"],
    "bench seed": ["bench", "--seed", "x"],
}


def bad_files() -> None:
    os.makedirs("bad")
    os.mkdir("bad.wav")
    os.mkdir("out")
    Path("bad/zero.wav").write_bytes(b"")
    Path("bad/truncated.wav").write_bytes(Path("voice.wav").read_bytes()[:9999])
    soundfile.write(
        "bad/nan.wav", np.array([0.1, np.nan] * 9999, np.float32), 16000, subtype="FLOAT"
    )
    Path("bad/text.wav").write_text("Once upon a time there was no sound.")
    Path("bad/ok.jsonl").write_text('{"text": "Hello."}\n')
    Path("bad/broken.jsonl").write_text('{"text": "Hello."}\n{"text": \n')
    Path("bad/list.jsonl").write_text("[1]\n")
    Path("bad/empty.jsonl").write_text("\n")
    Path("bad/value.jsonl").write_text('{"text": "Hello."}\n{"text": "Hello.", "speed": 99}\n')
    Path("bad/path.jsonl").write_text('{"text": "Hello.", "output": "../a.wav"}\n')
    Path("bad/twice.jsonl").write_text('{"text": "Hello.", "output": "a.wav"}\n' * 2)
    save_tensors("bad/other.safetensors", {"codes": np.zeros((2, 5), np.int32)}, {"codec": "0000"})
    save_tensors("bad/range.safetensors", {"codes": np.full((2, 5), 16, np.int32)})


def everything() -> set[str]:
    return {str(p) for p in Path(".").rglob("*")}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_files()
    before = everything()
    assert main(BAD[case]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("uniaudio: error: ") and err.count("\n") == 1 and len(err) < 500, err
    assert everything() == before


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


def runner(*args: str, frame_seconds: float = 0.002) -> subprocess.Popen[bytes]:
    """The command in a process of its own, on a fake core that takes its time."""
    code = (
        "import sys, fake_core, uniaudio_engine.backends.core as c\n"
        f"c._module = fake_core; fake_core.FRAME_SECONDS = {frame_seconds}\n"
        "from uniaudio_engine.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["tts", "stream"])
def test_signals_leave_nothing(command: str, number: int, code: int, tiny_folder: Path) -> None:
    process = runner(command, "Hello there. " * 200, "-m", str(tiny_folder), "-o", "a.wav")
    wait_for(lambda: any(".a.wav." in name for name in os.listdir()))
    time.sleep(1.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == b"" and err == (b"uniaudio: error: interrupted\n" if code == 130 else b"")
    assert os.listdir() == ["voice.wav"]


def test_a_stream_comes_while_it_is_made(tiny_folder: Path) -> None:
    process = runner("stream", "Hello there. " * 50, "-m", str(tiny_folder), "-o", "-")
    assert process.stdout is not None
    assert len(process.stdout.read(44 + 2000)) == 2044
    assert process.poll() is None
    process.stdout.close()  # the reader goes: the writer ends, quietly
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None and process.stderr.read() == b""


def test_import_loads_nothing_slow() -> None:
    code = (
        "import sys, uniaudio_engine\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'numpy', 'scipy', 'soundfile', 'soxr', 'safetensors', "
        "'sentencepiece'}))\n"
        "from uniaudio_engine.engine import Engine\n"
        "import uniaudio_engine.cli.commands\n"
        "print('torch' in sys.modules, 'soundfile' in sys.modules, 'soxr' in sys.modules)\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\nFalse False False\n"


def test_written_waves_are_plain() -> None:
    assert main([*SAY, "--seed", "1"]) == 0
    with wave.open("a.wav") as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate()) == (1, 2, 16000)
        assert w.getnframes() % 320 == 0 and w.getnframes() > 0
