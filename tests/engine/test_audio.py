"""Reading audio of any kind, one-line errors for the rest, and atomic writing."""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import tone

from uniaudio_engine import Audio, AudioChunk, InputError, read_audio
from uniaudio_engine.audio.sound import concatenate, trim_silence, wav_header, write_wav_stream
from uniaudio_engine.storage.files import atomic_write


def refused(source: Any, *words: str, **more: Any) -> None:
    with pytest.raises(InputError) as e:
        read_audio(source, 16000, what="prompt", **more)
    message = str(e.value)
    assert "\n" not in message
    for word in ("prompt", *words):
        assert word in message, message


def written(path: Path, x: np.ndarray, rate: int = 16000, **how: Any) -> Path:
    soundfile.write(path, x, rate, **how)
    return path


@pytest.mark.parametrize(
    ("name", "how", "error"),
    [
        ("a.wav", {"subtype": "PCM_16"}, 2.0**-15),
        ("a.wav", {"subtype": "PCM_U8"}, 1e-2),
        ("a.wav", {"subtype": "PCM_24"}, 1e-6),
        ("a.wav", {"subtype": "PCM_32"}, 1e-6),
        ("a.wav", {"subtype": "FLOAT"}, 0),
        ("a.wav", {"subtype": "DOUBLE"}, 1e-7),
        ("a.flac", {}, 2.0**-15),
        ("a.aiff", {}, 2.0**-15),
        ("a.ogg", {}, 5e-2),
        ("a.mp3", {}, 1.0),
    ],
)
def test_formats(tmp_path: Path, name: str, how: dict[str, Any], error: float) -> None:
    x = tone(0.5).samples
    path = written(tmp_path / name, x, **how)
    for source in (path, str(path), path.read_bytes()):
        audio = read_audio(source, 16000)
        assert audio.sample_rate == 16000 and audio.samples.dtype == np.float32
        assert abs(len(audio.samples) - len(x)) <= (2400 if name == "a.mp3" else 0)
        assert np.abs(audio.samples[: len(x)] - x[: len(audio.samples)]).max() <= error
    assert bool(audio.meta["notes"]) == (how.get("subtype") == "PCM_U8")


def test_other_rates_are_resampled_with_a_note(tmp_path: Path) -> None:
    for rate in (8000, 44100, 96000):
        audio = read_audio(written(tmp_path / "a.wav", tone(1.0, rate).samples, rate), 16000)
        assert audio.meta["notes"] == [f"resampled from {rate} Hz to 16000 Hz"]
        assert abs(len(audio.samples) - 16000) <= 2
        assert np.abs(audio.samples - tone(1.0).samples)[200:-200].max() < 1e-2


def test_five_channels_are_mixed_down_with_a_note(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 5))
    audio = read_audio(written(tmp_path / "a.wav", x, subtype="FLOAT"), 16000)
    assert audio.meta["notes"] == ["5 channels mixed down to mono"]
    assert np.abs(audio.samples - x.mean(1)).max() < 1e-6


def test_stereo_stays_stereo_where_it_is_wanted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (800, 2)).astype(np.float32)
    path = written(tmp_path / "a.wav", x, subtype="FLOAT")
    for source in (path, (x, 16000), Audio(np.ascontiguousarray(x.T), 16000)):
        audio = read_audio(source, 16000, channels=2)
        assert (
            np.array_equal(audio.samples, x.T)
            and audio.samples.flags.c_contiguous
            and audio.meta["notes"] == []
        )
        assert (audio.channels, audio.seconds) == (2, 0.05)
        assert np.abs(read_audio(source, 16000).samples - x.mean(1)).max() < 1e-6
    loud = read_audio((x * [1, 8], 16000), 16000, channels=2)  # one factor for both
    assert np.abs(loud.samples[1]).max() == 1 and np.abs(loud.samples[0]).max() < 0.2
    slow = read_audio((x, 8000), 16000, channels=2)
    assert np.abs(slow.samples[1] - read_audio((x[:, 1], 8000), 16000).samples).max() < 1e-6
    mono = read_audio((x[:, 0], 16000), 16000, channels=2)
    assert mono.meta["notes"] == ["mono duplicated to 2 channels"] and np.array_equal(
        mono.samples, np.stack((x[:, 0], x[:, 0]))
    )
    assert np.array_equal(
        trim_silence(Audio(np.pad(x.T, ((0, 0), (800, 160))), 16000)).samples, x.T
    )
    with pytest.raises(InputError, match="at least"):
        read_audio((x[:0], 16000), 16000, channels=2)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_stereo_is_written_interleaved(tmp_path: Path, name: str) -> None:
    x = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 999)).astype(np.float32)
    Audio(x, 44100).save(tmp_path / name)
    back, rate = soundfile.read(tmp_path / name, dtype="float32")
    assert rate == 44100 and back.shape == (999, 2) and np.abs(back.T - x).max() <= 2.0**-14
    chunks = [
        AudioChunk(x[:, i : i + 100], 44100, i, np.zeros((1, 2), np.int32))
        for i in range(0, 999, 100)
    ]
    file = io.BytesIO()
    assert write_wav_stream(file, chunks, 44100, channels=2) == 999
    Audio(concatenate(chunks, 44100), 44100).save(tmp_path / "b.wav")
    assert file.getvalue() == (tmp_path / "b.wav").read_bytes()
    with wave.open(io.BytesIO(file.getvalue())) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate(), w.getnframes()) == (
            2,
            2,
            44100,
            999,
        )


def test_loud_floats_are_scaled_with_a_note() -> None:
    audio = read_audio((tone().samples * 100, 16000), 16000)
    assert np.abs(audio.samples).max() == pytest.approx(1.0)
    assert "scaled" in audio.meta["notes"][0]


def test_an_hour_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hour.wav"
    with path.open("wb") as f:  # sparse: 115 MB in the listing, a few blocks on the disk
        f.write(wav_header(16000, 3600 * 16000))
        f.write((1000 * np.ones(80000, "<i2")).tobytes())
        f.truncate(44 + 2 * 3600 * 16000)
    read = []
    original = soundfile.SoundFile.read

    def counted(self: Any, frames: int = -1, *args: Any, **kwargs: Any) -> Any:
        read.append(frames)
        return original(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    audio = read_audio(path, 16000, max_seconds=3.0)
    assert audio.seconds == 3.0 and sum(read) == 48000
    assert audio.meta["notes"] == ["only the first 3 s of 3600 s used"]


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    refused(tmp_path / "a.wav", "a.wav", "0 bytes")
    refused(b"", "0 bytes")


@pytest.mark.parametrize("size", [5, 20, 43, 44, 100, 9999])
def test_truncated_wav(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "a.wav", tone().samples)
    path.write_bytes(path.read_bytes()[:size])
    refused(path, "a.wav", "expected")


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_truncated_others(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 32000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, name, "expected")


def test_a_wav_header_of_a_pipe_is_no_truncation() -> None:
    data = wav_header(16000, None) + tone(0.2).samples.astype("<f4").astype("<i2").tobytes()
    assert len(read_audio(data, 16000).samples) == 3200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(tmp_path: Path, value: float) -> None:
    x = tone(0.1).samples
    x[700] = value
    refused(written(tmp_path / "a.wav", x, subtype="FLOAT"), "a.wav", "NaN or infinity")
    refused((x, 16000), "NaN or infinity")


def test_no_sound(tmp_path: Path) -> None:
    refused(written(tmp_path / "a.wav", np.zeros(0)), "without samples")
    (tmp_path / "b.wav").write_text("This is no sound at all, whatever it is called.")
    refused(tmp_path / "b.wav", "b.wav", "WAV, FLAC")
    refused(tmp_path / "none.wav", "none.wav", "No such file")
    refused(tmp_path, "folder")
    refused((np.zeros(10, np.float32), 16000), "at least 0.5 s", min_seconds=0.5)


@pytest.mark.parametrize(
    "source",
    [
        None,
        7,
        ([0.1], "fast"),
        ([0.1], 0),
        ([0.1], -8000),
        ([0.1], 16000.5),
        ([0.1], True),
        (["a"], 16000),
        (np.zeros((2, 2, 2)), 16000),
        (np.zeros((4, 999)), 16000),
        (np.zeros(4, np.uint8), 16000),
        ([], 16000),
        (np.zeros(4, np.complex64), 16000),
        (np.zeros((4, 0)), 16000),
    ],
)
def test_wrong_arrays(source: Any) -> None:
    refused(source, "expected")


def test_hostile_wav_sizes(tmp_path: Path) -> None:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    for body in (
        fmt + struct.pack("<4sI", b"data", 0x7FFE0000) + b"\0" * 10,
        struct.pack("<4sI", b"LIST", 0xFFFFFFF0) + fmt,
        struct.pack("<4sIHHIIHH4sII", b"fmt ", 16, 1, 65535, 16000, 32000, 2, 16, b"data", 4, 0),
        struct.pack("<4sIHHIIHH4sII", b"fmt ", 16, 1, 1, 0, 0, 2, 16, b"data", 4, 0),
    ):
        refused(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body, "expected")


def test_integers_are_scaled() -> None:
    x = np.array([-32768, 0, 16384], np.int16)
    assert read_audio((x, 16000), 16000).samples.tolist() == [-1.0, 0.0, 0.5]


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_sixteen_bits_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    x = np.arange(-32768, 32768).astype(np.int16)
    soundfile.write(tmp_path / "source.flac", x, 16000)
    read_audio(tmp_path / "source.flac", 16000).save(tmp_path / name)
    assert np.array_equal(soundfile.read(tmp_path / name, dtype="int16")[0], x)
    Audio(np.array([-1.0, 1.0], np.float32), 16000).save(tmp_path / name)
    assert soundfile.read(tmp_path / name, dtype="int16")[0].tolist() == [-32768, 32767]


def test_trim_silence() -> None:
    x = np.concatenate((np.zeros(8000), tone(0.5).samples, 1e-5 * np.ones(4000))).astype(np.float32)
    trimmed = trim_silence(Audio(x, 16000))
    assert abs(len(trimmed.samples) - 8000) <= 320
    assert len(trim_silence(Audio(np.zeros(100, np.float32), 16000)).samples) == 0


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_saved_is_read(tmp_path: Path, name: str) -> None:
    audio = tone(0.5)
    audio.save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    error = np.abs(read_audio(tmp_path / name, 16000).samples - audio.samples).max()
    assert error < (5e-2 if name == "a.ogg" else 2e-4)


@pytest.mark.parametrize("name", ["a.txt", "a", "none/a.wav", "folder.wav", "/proc/a.wav"])
def test_unwritable_output(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(InputError, match=r"expected|cannot write|does not exist"):
        tone().save(name)
    assert os.listdir(tmp_path) == ["folder.wav"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as f:
        f.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.wav"]
    with atomic_write(path) as f:
        f.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.wav"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "folder" / "real.wav")
    tone(0.1).save(tmp_path / "link.wav")
    assert (tmp_path / "link.wav").is_symlink() and (
        tmp_path / "folder" / "real.wav"
    ).stat().st_size == 44 + 3200


def test_devices_are_written_in_place() -> None:
    with atomic_write("/dev/null") as f:
        f.write(b"x")
    assert Path("/dev/null").is_char_device()


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_stream_headers() -> None:
    chunks = [
        AudioChunk(tone(0.1).samples, 16000, i * 1600, np.zeros((5, 2), np.int32)) for i in range(3)
    ]
    file, pipe = io.BytesIO(), Pipe()
    assert write_wav_stream(file, chunks, 16000) == write_wav_stream(pipe, chunks, 16000) == 4800
    assert file.getvalue()[44:] == pipe.getvalue()[44:]
    with wave.open(io.BytesIO(file.getvalue())) as w:
        assert (w.getnchannels(), w.getsampwidth(), w.getframerate(), w.getnframes()) == (
            1,
            2,
            16000,
            4800,
        )
    assert len(read_audio(pipe.getvalue(), 16000).samples) == 4800
