"""Shards as tar files in the WebDataset form: the files of an example share the name before the
first dot.

Ours have ``ID.json``, a line of a shard's labels, and ``ID.TRACK.flac`` for each of its tracks. Tars
of others have one sound each, and ``.txt`` (what is said) or ``.json`` with ``text``, ``caption``,
``speaker``; they are read as ``tts`` or ``t2s``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..places import is_remote, read_bytes
from .reading import CorpusError, Example, Examples
from .schema import SAMPLE_RATE, Label, SchemaError, Track
from .sound_files import decoded, resampled_length

_SOUNDS = ("flac", "mp3", "ogg", "opus", "wav")
Place = tuple[int, int]  # of a file in the tar: where its bytes begin, and how many


class TarShard(Examples):
    """A tar file; its list of contents is read on first use, a sound when it is asked for.

    ``name``: of a shard such as tts-train-0000.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __reduce__(self) -> tuple[type[TarShard], tuple[Path, str]]:
        return TarShard, (self.path, self.name)

    def __len__(self) -> int:
        return len(self._contents)

    @property
    def lines(self) -> list[bytes]:
        return [label.line().encode() for label, _ in self._contents]

    def take(self, i: int) -> Example:
        label, places = self._contents[i]
        return Example(label, lambda track: decoded(io.BytesIO(self._read(places[track.offset]))))

    @cached_property
    def _contents(self) -> list[tuple[Label, dict[int, Place]]]:
        """Labels, each with the files of its tracks by the tracks' offsets."""
        found: dict[str, dict[str, Place]] = {}
        try:
            with self._open() as f, tarfile.open(fileobj=f, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        folder, _, name = member.name.rpartition("/")
                        key, _, kind = name.partition(".")
                        place = member.offset_data, member.size
                        found.setdefault(f"{folder}/{key}", {})[kind.lower()] = place
        except (OSError, tarfile.TarError) as e:
            raise CorpusError(f"{self.path}: expected an uncompressed tar file, got: {e}") from None
        contents: list[tuple[Label, dict[int, Place]]] = []
        for key, files in found.items():
            try:
                contents.append(self._example(len(contents), files))
            except (SchemaError, ValueError, KeyError, sf.LibsndfileError) as e:
                raise CorpusError(f"{self.path}, {key.strip('/')}: {e}") from None
        if not contents:
            raise CorpusError(f"{self.path}: expected examples, found none")
        return contents

    def _example(self, number: int, files: dict[str, Place]) -> tuple[Label, dict[int, Place]]:
        row = self._read(files["json"]) if "json" in files else b"{}"
        about: Any = json.loads(row)
        if isinstance(about, dict) and "tracks" in about:
            label = Label.parse(row)
            sounds = {role: _sound(files, f"{role}.") for role in label.tracks}
            return label, {label.tracks[r].offset: place for r, place in sounds.items()}
        place = _sound(files)
        info = sf.info(io.BytesIO(self._read(place)))
        said = self._read(files["txt"]).decode() if "txt" in files else str(about.get("text", ""))
        track = Track(
            number,
            resampled_length(info.frames, info.samplerate),
            said.strip(),
            str(about.get("speaker", "")),
        )
        task, split = self.name.split("-")[:2]
        caption = "" if task == "tts" else str(about.get("caption", ""))
        id = f"{self.name}-{number:04d}"
        return Label(id, task, split, {"target": track}, caption), {number: place}

    def _open(self) -> BinaryIO:
        return io.BytesIO(read_bytes(self.path)) if is_remote(self.path) else self.path.open("rb")

    def _read(self, place: Place) -> bytes:
        with self._open() as f:
            f.seek(place[0])
            return f.read(place[1])


def _sound(files: dict[str, Place], before: str = "") -> Place:
    """The file of a sound whose kind begins with ``before``."""
    for kind in _SOUNDS:
        if f"{before}{kind}" in files:
            return files[f"{before}{kind}"]
    raise ValueError(f"expected a sound {before}{'|'.join(_SOUNDS)}, got {', '.join(files)}")


def task_of(path: Path) -> str:
    """The task of a tar file of others, by its first examples."""
    shard = TarShard(path, "tts-train-0000")
    return "tts" if any(e.track().text for e in shard[:10]) else "t2s"


def write_tar(f: BinaryIO, examples: Sequence[Example]) -> None:
    """Writes examples in their order; the bytes depend on nothing else."""
    with tarfile.open(fileobj=f, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for example in examples:
            _add(tar, f"{example.id}.json", example.label.line().encode())
            for role in example.roles:
                sound = io.BytesIO()
                sf.write(sound, example.pcm(role), SAMPLE_RATE, "PCM_16", format="FLAC")
                _add(tar, f"{example.id}.{role}.flac", sound.getvalue())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def stored(examples: Sequence[Example]) -> tuple[NDArray[np.int16], list[Label]]:
    """Samples and labels of a shard: each track once, one after another."""
    found: dict[tuple[int, int], Track] = {}
    pcm: list[NDArray[np.int16]] = []
    labels, total = [], 0
    for example in examples:
        tracks = {}
        for role, track in example.label.tracks.items():
            key = (track.offset, track.samples)
            if key not in found:
                samples = example.pcm(role)
                found[key] = replace(track, offset=total, samples=len(samples))
                pcm.append(samples)
                total += len(samples)
            place = found[key]
            tracks[role] = replace(track, offset=place.offset, samples=place.samples)
        labels.append(replace(example.label, tracks=tracks))
    return np.concatenate(pcm) if pcm else np.zeros(0, np.int16), labels
