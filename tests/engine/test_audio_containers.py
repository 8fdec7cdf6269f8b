"""Sound files from pipes and streams, with wrong or missing header fields: all samples are read,
and truncated files are rejected or noted.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine import Audio, InputError, read_audio
from uniaudio_engine.audio.sound import FORMATS

RATE = 16000
RNG = np.random.default_rng(1)
TONE = (0.3 * np.sin(np.arange(3 * RATE) * 0.1)).astype(np.float32)
NOISE = (0.1 * RNG.standard_normal(3 * RATE)).astype(np.float32)
SOUND = np.concatenate([TONE, NOISE, np.zeros(RATE, np.float32)])


def encoded(kind: str, samples: Any = SOUND, rate: int = RATE, **options: Any) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, **options)
    return out.getvalue()


def wav(riff: int, size: int, body: bytes, before: bytes = b"") -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt "
        + form
        + before
        + b"data"
        + struct.pack("<I", size)
        + body
    )


def mp3(mode: str, samples: Any = SOUND, rate: int = 44100) -> tuple[bytes, bytes]:
    """(the frame with the count, the others)."""
    data = encoded("MP3", samples, rate, bitrate_mode=mode, compression_level=0.5)
    table = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    length = 144000 * table[data[2] >> 4] // rate + (data[2] >> 1 & 1)
    assert data[0] == 0xFF and (b"Xing" in data[:length] or b"Info" in data[:length])
    return data[:length], data[length:]


BODY = (SOUND * 32767).astype("<i2").tobytes()
MODES = ("CONSTANT", "VARIABLE")


@pytest.mark.parametrize(
    ("riff", "size"),
    [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFDB), (0x80000024, 0x80000000)],
)
def test_wav_from_a_pipe(riff: int, size: int) -> None:
    info = (
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    )
    for before in (b"", info):
        assert read_audio(wav(riff, size, BODY, before), RATE).samples.shape == SOUND.shape


def test_wav_without_samples() -> None:
    with pytest.raises(InputError, match="without samples"):
        read_audio(wav(36, 0, b""), RATE)


@pytest.mark.parametrize("mode", MODES)
def test_mp3_without_its_count(mode: str) -> None:
    """Every frame is decoded, before tags and after rubbish too."""
    count, frames = mp3(mode)
    whole = read_audio(count + frames, 44100).samples
    id3 = b"ID3\3\0\0\0\0\2\0" + bytes(256)
    for data in (
        frames,
        frames + b"TAG" + bytes(125),
        frames + b"APETAGEX" + bytes(20000),
        bytes(417) + frames,
        id3 + frames,
        id3 * 3 + count + frames,
        count + frames + id3,
    ):
        samples = read_audio(data, 44100).samples
        early = 576 if len(samples) > len(whole) else 0  # the encoder's silence, if not said
        assert len(samples) < len(whole) + 2 * 1152
        assert np.allclose(samples[early : early + len(whole)], whole, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_mp3_one_after_another(mode: str) -> None:
    count, frames = mp3(mode)
    once = read_audio(count + frames, 44100)
    twice = read_audio((count + frames) * 2, 44100)
    assert np.array_equal(twice.samples, np.tile(once.samples, 2))
    assert "2 sounds in one file, joined" in twice.meta["notes"]
    assert len(read_audio(count + frames * 2, 44100).samples) > 1.99 * len(once.samples)


@pytest.mark.parametrize("mode", MODES)
def test_mp3_that_is_cut_off(mode: str) -> None:
    count, frames = mp3(mode)
    with pytest.raises(InputError, match="truncated"):
        read_audio(count + frames[: len(frames) // 2], 44100)
    noted = read_audio(frames[: len(frames) // 2 + 7], 44100)
    assert any("cut off" in n for n in noted.meta["notes"])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_of_every_kind(rate: int, channels: int) -> None:
    samples = np.repeat(SOUND[:rate, None], channels, axis=1)
    data = encoded("MP3", samples, rate)
    assert len(read_audio(data, rate).samples) == rate
    twice = read_audio(data * 2, rate)
    assert len(twice.samples) == 2 * rate


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_one_after_another_and_cut_off(subtype: str) -> None:
    data = encoded("OGG", subtype=subtype)
    once, twice = read_audio(data, RATE), read_audio(data * 2, RATE)
    assert np.array_equal(twice.samples, np.tile(once.samples, 2)) and not once.meta["notes"]
    cut = read_audio(data[:-900], RATE)
    assert any("cut off" in n for n in cut.meta["notes"]) and len(cut.samples) < len(once.samples)
    cut = read_audio(data[:-900] + data, RATE)
    assert any("cut off" in n for n in cut.meta["notes"])


@pytest.mark.parametrize("seconds", [0.01, 0.2, 7, 45])
def test_flac_of_a_stream(seconds: float) -> None:
    """The number of samples is not in the header, with its checksum or without."""
    samples = 0.5 * RNG.uniform(-1, 1, int(seconds * RATE))
    data = bytearray(encoded("FLAC", samples, subtype="PCM_24"))
    whole = read_audio(bytes(data), RATE).samples
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert np.array_equal(read_audio(bytes(data), RATE).samples, whole)
    data[26:42] = bytes(16)
    assert np.array_equal(read_audio(bytes(data), RATE).samples, whole)


def test_decoders_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    count, frames = mp3("CONSTANT", rate=48000)  # all frames are equally long
    damaged = bytearray(count + frames)
    for at in range(20 * len(count), len(damaged) - len(count), 10 * len(count)):
        damaged[at + 6 : at + 30] = b"\xff" * 24
    soundfile.read(io.BytesIO(damaged))
    assert "mpg123" in capfd.readouterr().err
    before = os.fstat(2)
    read_audio(bytes(damaged), RATE)
    assert capfd.readouterr().err == "" and os.fstat(2) == before
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_changing_rates_are_refused() -> None:
    with pytest.raises(InputError, match="one rate and number of channels"):
        read_audio(encoded("MP3", SOUND, 16000) + encoded("MP3", SOUND, 22050), RATE)


def test_raw_samples(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(BODY)
    with pytest.raises(InputError, match="a.raw: expected WAV, FLAC, OGG, MP3 or AIFF"):
        read_audio(tmp_path / "a.raw", RATE)
    (tmp_path / "b.raw").write_bytes(encoded("WAV"))
    assert len(read_audio(tmp_path / "b.raw", RATE).samples) == len(SOUND)


@pytest.mark.parametrize("rate", [8000, 16000, 48000, 192000])
def test_a_sound_of_a_sample(rate: int) -> None:
    assert read_audio((SOUND[:1], rate), RATE).samples.shape == (max(1, RATE // rate),)


def test_standard_input_and_file_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = encoded("FLAC")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    whole = read_audio(data, RATE).samples
    assert np.array_equal(read_audio("-", RATE).samples, whole)
    assert np.array_equal(read_audio(io.BytesIO(data), RATE).samples, whole)
    (tmp_path / "a.flac").write_bytes(data)
    with (tmp_path / "a.flac").open("rb") as file:
        assert np.array_equal(read_audio(file, RATE).samples, whole)
    with pytest.raises(InputError, match="binary mode"):
        read_audio(io.StringIO("RIFF"), RATE)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input, which is closed"):
        read_audio("-", RATE)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("rate", [16000, 22050, 44100])
def test_every_format_goes_out_and_in(ending: str, rate: int, tmp_path: Path) -> None:
    sound = Audio(SOUND, rate)
    sound.save(tmp_path / f"a{ending}")
    held = io.BytesIO()
    sound.save(held, ending)
    for source in (tmp_path / f"a{ending}", held.getvalue()):
        back = read_audio(source, rate).samples
        assert abs(len(back) - len(SOUND)) <= 4
        n = len(TONE)
        assert np.corrcoef(back[:n], TONE)[0, 1] > 0.99


def test_formats_that_are_none(tmp_path: Path) -> None:
    sound = Audio(np.stack([TONE] * 3), RATE)
    for call in (
        lambda: sound.save(io.BytesIO()),
        lambda: sound.save(io.BytesIO(), "m4a"),
        lambda: sound.save(tmp_path / "a.mp3"),  # of three channels
    ):
        with pytest.raises(InputError, match="expected"):
            call()
    assert not list(tmp_path.iterdir())


def test_long_ogg(tmp_path: Path) -> None:
    """libvorbis takes the stack for what is written at once."""
    Audio(np.zeros(2_400_000, np.float32), RATE).save(tmp_path / "a.ogg")
    assert soundfile.info(tmp_path / "a.ogg").frames == 2_400_000


def test_channels_that_cancel() -> None:
    opposite = read_audio((np.stack([TONE, -TONE], 1), RATE), RATE)
    assert np.allclose(opposite.samples, TONE, atol=1e-6)
    assert opposite.meta["notes"] == ["2 channels cancel when mixed down: only channel 1 is used"]


def test_speech_in_one_of_six_channels() -> None:
    six = np.zeros((len(TONE), 6), np.float32)
    six[:, 2] = TONE
    one = read_audio((six, RATE), RATE)
    assert np.allclose(one.samples, TONE, atol=1e-6)
    assert one.meta["notes"] == ["6 channels mixed down to mono, without 5 silent"]
    silence = read_audio((np.zeros((100, 2), np.float32), RATE), RATE)
    assert silence.samples.shape == (100,) and not silence.samples.any()


PARTS = {
    "wav": wav(36 + len(BODY), len(BODY), BODY)[:3000],
    "mp3": encoded("MP3", TONE[:4000]),
    "ogg": encoded("OGG", TONE[:4000]),
    "flac": encoded("FLAC", TONE[:4000]),
}


@given(
    st.sampled_from(sorted(PARTS)),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3), st.binary(max_size=4)), max_size=5),
)
def test_damaged_files_are_read_or_refused(kind: str, edits: list[tuple[int, int, bytes]]) -> None:
    data = PARTS[kind]
    for at, cut, put in edits:
        at %= len(data) + 1
        data = data[:at] + put + data[at + cut :]
    try:
        assert np.isfinite(read_audio(data, RATE).samples).all()
    except InputError as e:
        assert "\n" not in str(e)
