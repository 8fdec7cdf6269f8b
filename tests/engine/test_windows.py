"""Sources of any level and length: the model's input, and how results are joined."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from joint import make_joint_model

from uniaudio_engine import Engine, InputError
from uniaudio_engine.audio.blocks import SoundReader, open_sound
from uniaudio_engine.audio.level import gain_to, level_db
from uniaudio_engine.audio.reading import read_audio
from uniaudio_engine.cli.main import main
from uniaudio_engine.request.windows import Joiner, SourceWindows
from uniaudio_engine.storage.config import ConfigError
from uniaudio_engine.storage.folder import load_config

RATE, FRAME = 16000, 320
LEVEL = -24.0
SD_LEVEL = -12.0


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of a harmonic sound with pauses, float32 [N]."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 12))
    bursts = np.clip(np.sin(2 * np.pi * 1.7 * t + rng.uniform(0, 6)), 0, 1)
    return (0.08 * tone * bursts + 0.001 * rng.standard_normal(len(t))).astype(np.float32)


def windows_of(samples: np.ndarray, level: float | None = None) -> SourceWindows:
    reader = SoundReader(iter([samples]), [], len(samples) / RATE)
    return SourceWindows(reader, RATE, FRAME, level)


# Level


@given(st.floats(-60, 0), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_level_and_gain_follow_scaling(db: float, seed: int) -> None:
    x = speech(3.0, seed)
    scaled = (x * 10 ** (db / 20)).astype(np.float32)
    before, after = level_db(x, RATE), level_db(scaled, RATE)
    assert before is not None and after is not None
    assert after == pytest.approx(before + db, abs=1e-3)
    assert 20 * np.log10(gain_to(scaled, RATE, LEVEL)) == pytest.approx(LEVEL - after, abs=1e-6)


def test_pauses_do_not_count_and_silence_has_no_level() -> None:
    x = speech(4.0)
    alone, padded = level_db(x, RATE), level_db(np.pad(x, (0, 40 * RATE)), RATE)
    assert alone is not None and padded == pytest.approx(alone, abs=1.0)
    assert level_db(np.zeros(RATE, np.float32), RATE) is None
    assert level_db(np.zeros(0, np.float32), RATE) is None
    assert gain_to(np.zeros(RATE, np.float32), RATE, LEVEL) == 1.0
    assert gain_to(x, RATE, None) == 1.0


# Windows


@given(st.floats(0.1, 61.0), st.lists(st.integers(200, 20000), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_joined_windows_are_the_source_if_results_are(seconds: float, sizes: list[int]) -> None:
    """The join is the identity on results that equal their windows, in chunks of any sizes."""
    x = np.random.default_rng(1).uniform(-1, 1, round(seconds * RATE)).astype(np.float32)
    windows = windows_of(x)
    joiner, out, turn = Joiner(windows.overlap, RATE), [], 0
    for window in windows:
        joiner.begin(window)
        at = 0
        while at < len(window.samples):
            n = sizes[turn % len(sizes)]
            out.append(joiner.push(window.samples[at : at + n]))
            at, turn = at + n, turn + 1
    y = np.concatenate(out)
    assert len(y) == len(x) and np.abs(y - x).max() < 1e-6


def test_seam_lies_where_the_source_is_quiet() -> None:
    x = speech(20.0)
    windows = windows_of(x)
    first, second = list(windows)
    quiet = len(first.samples) - windows.overlap + 4000
    x[quiet : quiet + 2400] = 0
    first, second = list(windows_of(x))
    joiner = Joiner(windows.overlap, RATE)
    out = []
    for window, value in ((first, 1.0), (second, 2.0)):
        joiner.begin(window)
        out.append(joiner.push(np.full(len(window.samples), value, np.float32)))
    y = np.concatenate(out)
    changes = np.flatnonzero((y > 1) & (y < 2))
    assert len(y) == len(x) and quiet <= changes.min() and changes.max() < quiet + 2400


# Reading in blocks


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_blocks_are_what_reading_at_once_gives(tmp_path: Path, rate: int, channels: int) -> None:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (rate * 65, channels))
    soundfile.write(tmp_path / "long.flac", x, rate)
    reader = open_sound(tmp_path / "long.flac", RATE, "source")
    blocks = []
    while len(block := reader.read(50001)):
        blocks.append(block)
    y, whole = np.concatenate(blocks), read_audio(tmp_path / "long.flac", RATE).samples
    assert reader.seconds == pytest.approx(65, abs=1e-3) and len(y) == len(whole)
    assert np.abs(y - whole).max() < 2e-4
    assert (channels > 1) == any("mixed down" in note for note in reader.notes)


def test_missing_and_short_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a readable sound file"):
        open_sound(tmp_path / "none.wav", RATE, "source")
    with pytest.raises(InputError, match="expected at least"):
        open_sound((np.zeros(10, np.float32), RATE), RATE, "source", 1.0)


# With a model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_joint_model(tmp_path_factory.mktemp("models") / "joint")
    config = load_config(folder)
    config = dataclasses.replace(config, level=LEVEL, source_levels={"sd": SD_LEVEL})
    (folder / "config.json").write_text(config.to_json())
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.from_pretrained(folder, dtype="float32", threads=2)


VOICE = (speech(1.5, 5), RATE)
REQUESTS: dict[str, dict[str, Any]] = {
    "se": {},
    "sd": {},
    "vc": {"prompt": VOICE},
    "tse": {"prompt": VOICE},
    "a_edit": {"instruction": "add a bell", "span": "0.3:0.62"},
    "s_edit": {"span": (0.5, 0.8), "phones": "w ah1 n"},
}


@pytest.mark.parametrize("task", REQUESTS)
def test_the_answer_does_not_depend_on_the_level(engine: Engine, task: str) -> None:
    x = speech(1.6)
    x = x * np.float32(10 ** (-6 / 20) / np.abs(x).max())
    expected = engine.generate(task, source=(x, RATE), seed=5, **REQUESTS[task])
    for exponent in (1, -4, -9):  # powers of two are exact: 6 dB up, 24 and 54 dB down
        y = x * np.float32(2.0**exponent)
        if np.abs(y).max() > 1:
            continue
        got = engine.generate(task, source=(y, RATE), seed=5, **REQUESTS[task])
        assert np.allclose(got.samples, expected.samples * 2.0**exponent, rtol=1e-4, atol=1e-7)


def test_a_task_may_have_a_level_of_its_own(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """Its source is brought to that one, and no other task's is."""
    source = (speech(1.6), RATE)
    own = engine.generate("sd", source=source, seed=5)
    config = load_config(folder)
    for name, level, sources in (("same", SD_LEVEL, {}), ("other", LEVEL, {})):
        other = tmp_path / name
        shutil.copytree(folder, other)
        changed = dataclasses.replace(config, level=level, source_levels=sources)
        (other / "config.json").write_text(changed.to_json())
        loaded = Engine.from_pretrained(other, dtype="float32", threads=2)
        got = loaded.generate("sd", source=source, seed=5).samples
        assert np.array_equal(got, own.samples) == (name == "same")
    for wrong in ({"nothing": -20.0}, {"sd": 3.0}):
        with pytest.raises(ConfigError, match="source_levels"):
            dataclasses.replace(config, source_levels=wrong).check()


@given(st.floats(-54, 0))
@settings(max_examples=8, deadline=None)
def test_any_level_down_to_60_db(folder: Path, db: float) -> None:
    engine = Engine.from_pretrained(folder, dtype="float32", threads=1)
    x = speech(1.0)
    x = x / np.abs(x).max() * np.float32(0.99)
    expected = engine.generate("se", source=(x, RATE), seed=5).samples
    gain = 10 ** (db / 20)
    got = engine.generate("se", source=((x * gain).astype(np.float32), RATE), seed=5).samples
    assert np.allclose(got, expected * gain, rtol=1e-3, atol=1e-4 * gain)


def test_a_voice_prompt_at_another_level_is_the_same_voice(engine: Engine) -> None:
    x = speech(1.5, 5)
    voices = [engine.encode_voice((x * np.float32(g), RATE)).codes for g in (1.0, 0.125, 2.0**-9)]
    assert all(np.array_equal(v, voices[0]) for v in voices)


@pytest.mark.parametrize("task", ["se", "vc"])
def test_long_sources_stream_in_windows(engine: Engine, task: str) -> None:
    x = speech(27.3)
    request = {"source": (x, RATE), "seed": 5, **REQUESTS[task]}
    whole = engine.generate(task, **request)
    assert len(whole.samples) == len(x) and whole.meta["source_seconds"] == pytest.approx(27.3)
    with engine.stream(task, chunk_frames=(7, 33), **request) as stream:
        assert stream.expected_seconds == pytest.approx(27.3)
        chunks = list(stream)
    assert [c.start for c in chunks] == list(np.cumsum([0, *(len(c.samples) for c in chunks[:-1])]))
    assert np.allclose(np.concatenate([c.samples for c in chunks]), whole.samples, atol=1e-5)
    together = engine.generate_batch([request, {**request, "source": (x[:RATE], RATE)}], task)
    assert np.allclose(together[0].samples, whole.samples, atol=1e-5)


def test_an_edit_in_a_long_sound_leaves_the_rest(engine: Engine) -> None:
    x = speech(40.0)
    request = {"instruction": "add a bell", "source": (x, RATE), "seed": 1}
    audio = engine.generate("a_edit", span="30:30.5", **request)
    assert len(audio.samples) == len(x)
    changed = np.flatnonzero(audio.samples != x) / RATE
    assert len(changed) and 30 <= changed.min() and changed.max() < 30.5
    with pytest.raises(InputError, match=r"within the sound's 40 s"):
        engine.generate("a_edit", span="30:41", **request)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "opus"])
def test_the_command_writes_long_results_as_they_come(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("long.flac", speech(14.0), RATE)
    out = f"out.{ending}"
    command = ["enhance", "--source", "long.flac", "-m", str(folder), "--seed", "2", "-o", out]
    assert main(command) == 0
    made = read_audio(out, RATE).samples
    expected = Engine.from_pretrained(folder).enhance("long.flac", seed=2).samples
    assert abs(len(made) - len(expected)) < RATE // 10
    if ending in ("wav", "flac"):
        assert len(made) == len(expected) and np.abs(made - expected).max() <= 1.01 / 32768


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(folder: Path, tmp_path: Path) -> None:
    """Peak memory of two lengths, each in a process of its own."""
    code = (
        "import resource, sys; from uniaudio_engine.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for minutes in (1, 8):
        with soundfile.SoundFile(tmp_path / "in.flac", "w", 44100, 2) as f:
            for second in range(60 * minutes):
                f.write(np.repeat(speech(44100 / RATE, second)[:44100, None], 2, axis=1))
        words = ["enhance", "--source", str(tmp_path / "in.flac"), "-m", str(folder)]
        words += ["-o", str(tmp_path / "out.flac")]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # Seven minutes of the source are 148 MB of float32, of the result 27 MB.
    assert peaks[1] < peaks[0] + 40, peaks


def test_single_letters_do_not_break_off() -> None:
    """Of the bundled model, which may end in the middle of a vowel."""
    engine = Engine.from_pretrained()
    for seed in range(12):
        end = engine.tts("a", seed=seed).samples[-32:]
        assert np.abs(end).max() < 0.03
