"""Reads corpora: ``open_corpus(folder or manifest.jsonl)`` gives examples by task and split.

    corpus = open_corpus("data/corpus")
    examples = corpus["vc", "train"]                # a sequence: len(), [i], for ... in
    examples[0].audio("source"), examples[0].label  # float32 [N] at 16 kHz, schema.Label

Everything is loaded lazily: labels are parsed when an example is accessed, audio is memory-mapped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from ..places import is_remote, listed, load_array, place
from .schema import SPLITS, TASKS, Label, SchemaError, Track

if TYPE_CHECKING:
    from ..user_tasks import UserTask


class CorpusError(ValueError):
    """A corpus or manifest cannot be used. The message is one line: expected, found, what to do."""


@dataclass(frozen=True)
class Example:
    """One example; ``label.tracks`` has its tracks by name."""

    label: Label
    load: Callable[[Track], NDArray[np.int16]]

    @property
    def id(self) -> str:
        return self.label.id

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.label.tracks)

    def track(self, role: str = "target") -> Track:
        try:
            return self.label.tracks[role]
        except KeyError:
            raise CorpusError(
                f"{self.id}: no {role} track; it has {', '.join(self.roles)}"
            ) from None

    def pcm(self, role: str = "target") -> NDArray[np.int16]:
        """int16 [N] at 16 kHz; a view of the shard where possible."""
        return self.load(self.track(role))

    def audio(self, role: str = "target") -> NDArray[np.float32]:
        """float32 [N] in [-1, 1] at 16 kHz."""
        return self.pcm(role).astype(np.float32) / 32767.0


class Examples(Sequence[Example]):
    """Examples in a fixed order, loaded one at a time. Those of one shard have its ``name``."""

    name = ""

    @property
    def lines(self) -> Sequence[bytes]:
        """The labels, as ``Label.line`` writes them."""
        return [self.take(i).label.line().encode() for i in range(len(self))]

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, i: int) -> Example:
        """Example ``i``, where 0 <= i < len(self)."""
        raise NotImplementedError

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> list[Example]: ...
    def __getitem__(self, i: int | slice) -> Example | list[Example]:
        if isinstance(i, slice):
            return [self.take(k) for k in range(*i.indices(len(self)))]
        k = i + len(self) if i < 0 else i
        if not 0 <= k < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        return self.take(k)


class Shard(Examples):
    """One shard; its labels and its ``samples``, a memory map of a local file, are read on access."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self._map: NDArray[np.int16] | None = None

    @cached_property
    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines()

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def samples(self) -> NDArray[np.int16]:
        """int16 [N] at 16 kHz, all tracks one after another."""
        if self._map is not None:
            return self._map
        path = self.path.with_suffix(".npy")
        try:
            pcm = load_array(path)
        except (OSError, ValueError) as e:
            raise CorpusError(
                f"{path}: expected the audio of a shard ({e}); remove {self.name}.* and make it "
                "again"
            ) from None
        if pcm.dtype != np.int16 or pcm.ndim != 1:
            raise CorpusError(f"{path}: expected int16 [N], got {pcm.dtype} {list(pcm.shape)}")
        self._map = None if is_remote(path) else pcm  # what is read takes memory
        return pcm

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:  # a worker reads the files itself
        return Shard, (self.path,)

    def _load(self, track: Track) -> NDArray[np.int16]:
        if not 0 <= track.offset <= track.offset + track.samples <= len(self.samples):
            raise CorpusError(
                f"{self.path}: a track lies outside the shard's audio; remove {self.name}.* and "
                "make it again"
            )
        return self.samples[track.offset : track.offset + track.samples]

    def take(self, i: int) -> Example:
        try:
            return Example(Label.parse(self.lines[i]), self._load)
        except SchemaError as e:
            raise CorpusError(f"{self.path}, line {i + 1}: {e}") from None


class Joined(Examples):
    """The concatenated examples of several shards."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = parts

    @cached_property
    def _ends(self) -> list[int]:
        return list(np.cumsum([len(p) for p in self.parts]))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    def take(self, i: int) -> Example:
        part = bisect_right(self._ends, i)
        return self.parts[part].take(i - (int(self._ends[part - 1]) if part else 0))


class Corpus:
    """Examples by task and split; ``folder`` is their origin."""

    def __init__(self, folder: Path, groups: dict[tuple[str, str], Joined]) -> None:
        self.folder = folder
        order = {
            task: n
            for n, task in enumerate((*TASKS, *(task for task, _ in groups if task not in TASKS)))
        }
        self._groups = {
            key: groups[key]
            for key in sorted(groups, key=lambda k: (order[k[0]], SPLITS.index(k[1])))
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with examples, in the order of ``schema.TASKS``, then user-defined tasks."""
        return tuple(dict.fromkeys(task for task, _ in self._groups))

    def splits(self, task: str) -> tuple[str, ...]:
        return tuple(s for t, s in self._groups if t == task)

    def __getitem__(self, key: tuple[str, str]) -> Examples:
        """``corpus[task, split]``. Raises CorpusError where there are no examples."""
        if key not in self._groups:
            task, split = key
            have = ", ".join(f"{t} ({'/'.join(self.splits(t))})" for t in self.tasks) or "nothing"
            raise CorpusError(
                f"{self.folder}: no {task} examples for {split}; it has {have}; make them: "
                f"uniaudio-train corpus make --tasks {task} --out {self.folder}"
            )
        return self._groups[key]

    def shards(self, task: str, split: str) -> Sequence[Examples]:
        """The examples of a task and split, by shard."""
        self[task, split]
        return self._groups[task, split].parts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._groups)


def open_corpus(path: str | Path, users: Mapping[str, UserTask] | None = None) -> Corpus:
    """Opens a folder of shards or tar files, or a user's manifest of recordings (``.jsonl``, see
    ``recordings.py``).

    ``users`` are the user-defined tasks that a manifest may use, by name.
    Raises CorpusError where there is nothing to open, or a manifest is wrong.
    """
    path = place(path)
    if path.is_file():
        from .recordings import open_recordings

        return open_recordings(path, users)
    if not path.is_dir():
        raise CorpusError(
            f"{path}: expected a folder of uniaudio-train corpus make or a manifest of recordings "
            "(.jsonl); found nothing"
        )
    from .shards import parse_name

    groups: dict[tuple[str, str], list[Examples]] = {}
    _add_tars(groups, listed(path, "*.tar"))
    for file in listed(path, "*.jsonl"):
        try:
            task, split, _ = parse_name(file.stem)
        except ValueError as e:
            raise CorpusError(f"{path}: {e}") from None
        groups.setdefault((task, split), []).append(Shard(file))
    if not groups:
        raise CorpusError(f"{path}: no shards; make them: uniaudio-train corpus make --out {path}")
    return Corpus(path, {key: Joined(parts) for key, parts in groups.items()})


def _add_tars(groups: dict[tuple[str, str], list[Examples]], files: list[Path]) -> None:
    """Tar files with the names of shards, and those of others, which are all of train."""
    from .shards import parse_name
    from .tars import TarShard, task_of

    for file in files:
        try:
            task, split, _ = parse_name(file.stem)
            name = file.stem
        except ValueError:
            task, split = task_of(file), "train"
            name = f"{task}-{split}-{len(groups.get((task, split), ())):04d}"
        groups.setdefault((task, split), []).append(TarShard(file, name))
