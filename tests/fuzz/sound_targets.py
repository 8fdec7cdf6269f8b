"""Sounds in every container that is read, and scores."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from changes import changed, text
from score_tools import bars, lyric, meta, metronome, midi, note, off, on, repeat, sung, track
from score_tools import text as word
from target import Target

from uniaudio_engine.audio.reading import read_audio
from uniaudio_engine.audio.sound import trim_silence
from uniaudio_engine.score.reading import lay_out, read_score

_FORMATS = (
    *(("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "ULAW")),
    *(("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    *(("AIFF", "PCM_24"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16")),
    ("RF64", "PCM_16"),
)


def sound(folder: Path) -> Target:
    noise = np.random.default_rng(0).normal(0, 0.1, (3000, 2))
    files = []
    for container, subtype in _FORMATS:
        file = io.BytesIO()
        channels = 1 if subtype == "IMA_ADPCM" else 2
        soundfile.write(file, noise[:, :channels], 16000, format=container, subtype=subtype)
        files.append(file.getvalue())

    def make(draw: Random) -> tuple[bytes, float | None]:
        data = changed(draw, draw.choice(files))
        if draw.random() < 0.1:  # one file after another
            data += draw.choice(files)
        return data, draw.choice((None, 2.0))

    def use(given: tuple[bytes, float | None]) -> None:
        data, seconds = given
        trim_silence(read_audio(data, 16000, seconds))

    return Target(make, use)


def _score(folder: Path, suffix: str, *files: bytes) -> Target:
    path = folder / f"song{suffix}"

    def use(data: bytes) -> None:
        path.write_bytes(data)
        lay_out(read_score(path), 50.0)

    for data in files:
        use(data)
    return Target(lambda draw: changed(draw, draw.choice(files)), use)


def midis(folder: Path) -> Target:
    tempo = meta(0x51, b"\7\xa1\x20")
    words = sung(["hel-", "lo ", None, "_", "you"])
    other = lyric("sing") + on(64, 0, 1) + off(64, 240, 1)
    return _score(
        folder,
        ".mid",
        midi(track(meta(0x58, b"\3\2\0\0"), tempo, words)),
        midi(track(tempo, lyric("@Ttitle")), track(words), track(other)),
        midi(track(words), kind=0, division=96),
        b"RIFF" + (100).to_bytes(4, "little") + b"RMIDdata" + midi(track(words)),
    )


def _musicxml() -> bytes:
    return bars(
        repeat("forward") + note(lyrics=word("a", "begin")) + note("R"),
        metronome("<beat-unit>quarter</beat-unit>", "90") + note("E4", word("men", "end")),
        note("E4", "", "chord") + note(inside="grace") + repeat("backward"),
    ).encode()


def musicxml(folder: Path) -> Target:
    return _score(folder, ".musicxml", _musicxml())


def compressed(folder: Path) -> Target:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        rootfile = '<container><rootfiles><rootfile full-path="a.xml"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", rootfile)
        archive.writestr("a.xml", _musicxml())
    return _score(folder, ".mxl", file.getvalue())


def written(folder: Path) -> Target:
    """The text form of scores, changed and made up."""
    path = folder / "song.txt"
    original = b"tempo 132\nG#3 0.5 hel-  # a comment\nC4 0.5 -\nR 1\nD4 1 _\n67 1.5 you\n"
    pieces = (
        "C4 ",
        "R ",
        "0.5 ",
        "60 ",
        "hel-",
        "lo",
        " ",
        "\n",
        "#",
        "_",
        "-",
        "1e9",
        "b",
        "tempo ",
    )

    def make(draw: Random) -> bytes:
        if draw.random() < 0.5:
            return changed(draw, original)
        return text(draw, pieces).encode("utf-8", "surrogatepass")

    def use(data: bytes) -> None:
        path.write_bytes(data)
        lay_out(read_score(path), 50.0)

    return Target(make, use)


TARGETS = {
    "sound": sound,
    "midi": midis,
    "musicxml": musicxml,
    "mxl": compressed,
    "score": written,
}
