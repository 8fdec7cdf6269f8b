"""The language model of an exported folder, behind the interface of the compiled core's; whatever
runs its graphs (``onnx_folder.py``, ``tensorrt.py``).

The keys and values of a session lie in buffers of its own, on the device, which each step is bound
to as input and as output: the graph writes the new rows and copies nothing. A graph sees the first
rows of a buffer only, as many hundred as are in use. Ids are chosen by the compiled core's own
sampler, so that the same seed gives the native backend's tokens wherever the logits agree.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import LMConfig, StackConfig, to_dict
from .core import core
from .onnx_folder import Exported, Graph

Ids = NDArray[np.int32]
_BUCKET = 128  # rows by which the part of a cache that a graph sees grows
_PREFILL = 256  # steps of one call: its scores are [heads, steps, capacity]


class GraphLM:
    """Stands in for ``_C.LM``."""

    def __init__(self, exported: Exported) -> None:
        assert exported.folder.config.lm is not None
        self.config: LMConfig = exported.folder.config.lm
        self.exported = exported
        self.config_json = json.dumps(to_dict(self.config))
        self.prefill, self.step, self.local = (
            exported.graph(n) for n in ("global_prefill", "global_step", "local_step")
        )
        self.state: list[str] = list(self.step.about["state"])
        self.local_state: list[str] = list(self.local.about["state"])
        _check(self.step, self.state, self.config.global_, [])
        _check(self.local, self.local_state, self.config.local, [self.config.num_codebooks])
        self.dtype = self.step.ports[self.state[0]][0]

    def session(self, max_frames: int) -> GraphSession:
        return GraphSession(self, max_frames)

    def memory_bytes(self, max_frames: int) -> int:
        """Bytes of keys, values and history that a session of ``max_frames`` keeps."""
        g = self.config.global_
        return max_frames * (
            2 * g.layers * g.num_kv_heads * g.head_dim * np.dtype(self.dtype).itemsize
            + 4 * self.config.num_codebooks
        )

    @property
    def weight_bytes_per_frame(self) -> int:
        return self.weight_bytes()

    def weight_bytes(self, head_rows: int = 0) -> int:
        """Bytes of matrices that a frame reads: the global stack's once, the local stack's and the
        head's K times, of which the graph reads every row.
        """
        c = self.config

        def stack(s: StackConfig) -> int:
            kv = s.num_kv_heads * s.head_dim
            return (
                s.layers
                * s.width
                * (2 * s.width + 2 * kv + (3 if s.activation == "swiglu" else 2) * s.hidden)
            )

        size = {"float16": 2, "int8": 1}.get(self.exported.dtype, 4)
        bridge = c.local.width * c.global_.width  # whole, or in K parts
        return size * (
            stack(c.global_)
            + bridge
            + c.num_codebooks * (stack(c.local) + c.vocab_size * c.local.width)
        )

    def logits(
        self,
        frames: Ids,
        aligned: Ids | None = None,
        continuous: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> NDArray[np.float32]:
        """Teacher-forced logits [T, K, V] of frames [T, K]."""
        f = np.ascontiguousarray(frames, np.int64)
        session = GraphSession(self, len(f))
        hidden = session.advance(f, aligned, continuous)
        caches = self.local_caches(len(f))
        out = np.empty((*f.shape, self.config.vocab_size), np.float32)
        for slot in range(self.config.num_codebooks):
            out[:, slot] = self.local_step(hidden, f[:, max(0, slot - 1)], slot, caches)
        return out

    def local_caches(self, rows: int) -> dict[str, NDArray[Any]]:
        s = self.config.local
        return {
            n: np.zeros((rows, self.config.num_codebooks, s.num_kv_heads, s.head_dim), self.dtype)
            for n in self.local_state
        }

    def local_step(
        self,
        hidden: NDArray[np.float32],
        code: NDArray[np.int64],
        slot: int,
        caches: dict[str, NDArray[Any]],
    ) -> NDArray[np.float32]:
        """Logits [B, V] of a slot after ``code`` [B]; ``caches`` move on."""
        out = self.local.run(
            {
                "hidden": hidden,
                "code": np.ascontiguousarray(code),
                "slot": np.array([slot]),
                **caches,
            }
        )
        for n in caches:
            caches[n] = out[f"{n}_out"]
        return out["logits"]

    @staticmethod
    def generate_batch(
        sessions: Sequence[GraphSession],
        n: int,
        samplings: Sequence[Any],
        aligned_rows: Sequence[Ids | None] | None = None,
    ) -> list[Ids]:
        """Each session's frames [m, K]; one after the other, since a graph's step is one stream's."""
        if len(set(map(id, sessions))) < len(sessions):
            raise InputError("generate_batch: expected distinct sessions, got one twice")
        for s in sessions:
            s.check_room("generate", n)
        return [
            s.generate(n, sampling, aligned)
            for s, sampling, aligned in zip(
                sessions, samplings, aligned_rows or [None] * len(sessions), strict=True
            )
        ]


class GraphSession:
    """One sequence, as ``_C.LMSession``: known frames in, generated frames out."""

    def __init__(self, lm: GraphLM, max_frames: int) -> None:
        c = lm.config
        most = min(c.max_frames, lm.exported.capacity or c.max_frames)
        if type(max_frames) is not int or not 1 <= max_frames <= most:
            raise InputError(f"max_frames: expected 1 to the limit {most}, got {shown(max_frames)}")
        self.lm, self.capacity = lm, max_frames
        self._busy = threading.Lock()
        self._plain: GraphSession | None = None
        self._scale = 1.0
        self._buffers: dict[str, _Buffer] = {}
        self._history = np.zeros((max_frames, c.num_codebooks), np.int64)
        self._start()

    def _start(self) -> None:
        self.frames, self._generated, self._offset, self.finished, self._cancelled = (
            0,
            0,
            0,
            False,
            False,
        )
        self._last_continuous: dict[
            str, NDArray[np.float32]
        ] = {}  # of the last known frame, where it was no frame of ids

    # What it is

    @property
    def frame_offset(self) -> int:
        """Added to the frame index that keys the random numbers."""
        return self._offset

    @frame_offset.setter
    def frame_offset(self, offset: int) -> None:
        if offset < 0:
            raise InputError(f"frame_offset: expected 0 or more, got {offset}")
        self._offset = int(offset)

    @property
    def guided(self) -> bool:
        return self._plain is not None

    # What it does

    def prefill(
        self,
        frames: Any,
        aligned: Any = None,
        continuous: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        """Append known frames [n, K], with aligned rows [n, S] and continuous inputs name ->
        (values [m, width], frames [m]).
        """
        with self._use():
            f = self._ids(
                frames, "frames", self.lm.config.num_codebooks, 0, self.lm.config.vocab_size
            )
            self.check_room("prefill", len(f))
            self.advance(f, aligned, continuous)
            self._generated, self.finished = 0, False
            if self._plain is not None:
                self._plain.prefill(f, aligned, continuous)

    def generate(self, n: int, sampling: Any, aligned: Any = None) -> Ids:
        """Up to n new frames [m, K]; fewer when the end id came (``finished``) or after ``cancel``."""
        with self._use():
            self.check_room("generate", n)
            c = self.lm.config
            g = self._aligned(aligned, n)
            sampler = core().Sampler(sampling, self.lm.config_json)
            out: list[NDArray[np.int64]] = []
            for i in range(n):
                if self.finished or self._cancelled:
                    self._cancelled = False
                    break
                row = None if g is None else g[i : i + 1]
                frame = self._draw(sampler, sampling, [s._step(row) for s in self._both()])
                if frame is None:
                    self.finished = True
                    break
                for s in self._both():
                    s._append(frame[None])
                    s._generated += 1
                out.append(frame)
            return np.array(out, np.int32).reshape(-1, c.num_codebooks)

    def _both(self) -> list[GraphSession]:
        return [self] if self._plain is None else [self, self._plain]

    def _draw(
        self, sampler: Any, sampling: Any, hidden: list[NDArray[np.float32]]
    ) -> NDArray[np.int64] | None:
        """The ids of the next frame [K], or None where the end id is among them."""
        k, rows = self.lm.config.num_codebooks, len(hidden)
        h, caches = np.concatenate(hidden), self.lm.local_caches(rows)
        history = self._history[self.frames - self._generated : self.frames].astype(np.int32)
        frame = np.zeros(k, np.int64)
        for slot in range(k):
            logits = self.lm.local_step(h, np.full(rows, frame[max(0, slot - 1)]), slot, caches)
            drawn = (
                logits[0]
                if rows == 1
                else logits[1] + np.float32(self._scale) * (logits[0] - logits[1])
            )
            frame[slot] = sampler.sample(drawn, slot, self._offset + self.frames, history)
            if sampler.ends(slot, int(frame[slot])):
                return None
            if sampling.tie_slots:
                frame[:] = frame[0]
                break
        return frame

    def cancel(self) -> None:
        """Stop a running generate after its frame, or else the next one at once; any thread."""
        self._cancelled = True

    def set_guidance(self, plain: GraphSession, scale: float) -> None:
        """From here on ids are drawn from plain + scale (own - plain), logit by logit; a fork of
        ``plain`` goes along.
        """
        if plain is self or plain.lm is not self.lm or plain.guided:
            raise InputError(
                "set_guidance: expected another session of the same LM that is not guided itself"
            )
        if not 0 <= scale <= 100:
            raise InputError(f"set_guidance: expected a scale from 0 to 100, got {shown(scale)}")
        with self._use():
            self._plain, self._scale = plain.fork(), float(scale)

    def reset(self) -> None:
        with self._use():
            self._start()
            self._plain = None

    def fork(self) -> GraphSession:
        with self._use():
            s = GraphSession(self.lm, self.capacity)
            s._history[: self.frames] = self._history[: self.frames]
            s._buffers = {n: b.copy(self.frames) for n, b in self._buffers.items()}
            s.frames, s._generated, s._offset, s.finished = (
                self.frames,
                self._generated,
                self._offset,
                self.finished,
            )
            s._last_continuous = dict(self._last_continuous)
            s._plain, s._scale = self._plain.fork() if self._plain else None, self._scale
            return s

    # Steps

    def advance(
        self,
        frames: NDArray[np.int64],
        aligned: Any,
        continuous: Mapping[str, tuple[Any, Any]] | None,
    ) -> NDArray[np.float32]:
        """Appends known frames [n, K]; returns what the model knew before each of them, [n, D]."""
        g, given = self._aligned(aligned, len(frames)), self._continuous(continuous, len(frames))
        hidden = [np.zeros((0, self.lm.config.global_.width), np.float32)]
        for at in range(0, len(frames), _PREFILL):
            part = slice(at, min(at + _PREFILL, len(frames)))
            n = part.stop - at
            previous = np.concatenate((self._last()[None], frames[part][:-1]))
            inputs: dict[str, NDArray[Any]] = {"previous": previous}
            if self.lm.config.aligned_slots:
                inputs["guide"] = (
                    np.full((n, self.lm.config.aligned_slots), -1) if g is None else g[part]
                )
            after: dict[str, NDArray[np.float32]] = {}
            for name, (values, here) in given.items():
                last = self._last_continuous.get(name)
                inputs[f"continuous_{name}"] = np.concatenate(
                    (
                        np.zeros((1, values.shape[1]), np.float32) if last is None else last[None],
                        values[part][:-1],
                    )
                )
                inputs[f"is_{name}"] = np.concatenate(([last is not None], here[part][:-1]))
                if here[part][-1]:
                    after[name] = values[part][-1]
            hidden.append(self._run("global_prefill" if n > 1 else "global_step", inputs, n))
            self._last_continuous = after
            self._append(frames[part])
        return np.concatenate(hidden)

    def _step(self, aligned: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """What the model knows before the next frame, [1, D].

        The frame itself is appended by the caller.
        """
        c = self.lm.config
        inputs: dict[str, NDArray[Any]] = {"previous": self._last()[None]}
        if c.aligned_slots:
            inputs["guide"] = np.full((1, c.aligned_slots), -1) if aligned is None else aligned
        for name, width in c.continuous.items():
            last = self._last_continuous.get(name)
            inputs[f"continuous_{name}"] = (
                np.zeros((1, width), np.float32) if last is None else last[None]
            )
            inputs[f"is_{name}"] = np.array([last is not None])
        hidden = self._run("global_step", inputs, 1)
        self._last_continuous = {}
        return hidden

    def _append(self, frames: NDArray[np.int64]) -> None:
        self._history[self.frames : self.frames + len(frames)] = frames
        self.frames += len(frames)

    def _last(self) -> NDArray[np.int64]:
        c = self.lm.config
        return (
            self._history[self.frames - 1]
            if self.frames
            else np.full(c.num_codebooks, c.start_id, np.int64)
        )

    def _run(self, name: str, inputs: dict[str, NDArray[Any]], n: int) -> NDArray[np.float32]:
        lm = self.lm
        graph = lm.prefill if name == "global_prefill" else lm.step
        rows = lm.exported.capacity or min(
            -(-(self.frames + n) // _BUCKET) * _BUCKET, self.capacity
        )
        state = {}
        for key in lm.state:
            buffer = self._buffers.get(key)
            if buffer is None:
                g = lm.config.global_
                buffer = self._buffers[key] = _Buffer(
                    lm.exported, (g.num_kv_heads, g.head_dim), lm.dtype
                )
            state[key] = buffer.grown(rows, self.frames, self.capacity)
        hidden = graph.run_state(
            {**inputs, "position": np.array([self.frames])}, state, state, ["hidden"], rows
        )["hidden"]
        return np.asarray(hidden, np.float32)

    # Checks

    def check_room(self, what: str, n: int) -> None:
        if type(n) is not int or n < 0:
            raise InputError(f"{what}: expected 0 or more frames, got {shown(n)}")
        if n > self.capacity - self.frames:
            left = f"at most {self.capacity - self.frames} more frames (capacity {self.capacity}, {self.frames} used)"
            raise InputError(
                f"{what}: expected {left}, got {n}; make the session with a larger max_frames"
            )
        if self._plain is not None:
            self._plain.check_room(what, n)

    def _aligned(self, aligned: Any, rows: int) -> NDArray[np.int64] | None:
        c = self.lm.config
        if aligned is None:
            return None
        if not c.aligned_slots:
            raise InputError(
                "aligned: expected none, since this model has no aligned slots; leave it out"
            )
        g = self._ids(aligned, "aligned", c.aligned_slots, -1, c.aligned_vocab)
        if len(g) != rows:
            raise InputError(f"aligned: expected one row per frame ({rows}), got {len(g)}")
        return g

    def _continuous(
        self, continuous: Mapping[str, tuple[Any, Any]] | None, rows: int
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """name -> (values [rows, width], where [rows]), for every input that the model has."""
        c = self.lm.config
        unknown = sorted(set(continuous or {}) - set(c.continuous))
        if unknown:
            raise InputError(
                f"continuous[{unknown[0]!r}]: expected one of this model's inputs: "
                f"{', '.join(c.continuous) or 'none'}"
            )
        out, taken = {}, np.zeros(rows, np.bool_)
        for name, width in c.continuous.items():
            values, where = np.zeros((rows, width), np.float32), np.zeros(rows, np.bool_)
            if continuous and name in continuous:
                v, index = (
                    np.asarray(continuous[name][0], np.float32),
                    np.asarray(continuous[name][1]),
                )
                if v.ndim != 2 or v.shape[1] != width or index.shape != (len(v),):
                    raise InputError(
                        f"continuous[{name!r}]: expected values [n, {width}] and n frames, got "
                        f"{list(v.shape)} and {list(index.shape)}"
                    )
                if not np.isfinite(v).all():
                    raise InputError(
                        f"continuous[{name!r}]: expected finite values, got infinity or NaN"
                    )
                if len(index) and (
                    index.min() < 0
                    or index.max() >= rows
                    or len(np.unique(index)) < len(index)
                    or taken[index].any()
                ):
                    raise InputError(
                        f"continuous[{name!r}]: expected frames from 0 to {rows - 1}, each once, "
                        f"got {shown(index.tolist())}"
                    )
                values[index], where[index], taken[index] = v, True, True
            out[name] = values, where
        return out

    @staticmethod
    def _ids(values: Any, what: str, columns: int, least: int, below: int) -> NDArray[np.int64]:
        a = np.asarray(values)
        if a.ndim != 2 or a.shape[1] != columns or (a.size and a.dtype.kind not in "iu"):
            raise InputError(
                f"{what}: expected whole numbers [n, {columns}], got {a.dtype} {list(a.shape)}"
            )
        if a.size and (a.min() < least or a.max() >= below):
            raise InputError(
                f"{what}: expected an id from {least} to {below - 1}, got {a.min()} to {a.max()}"
            )
        return np.ascontiguousarray(a, np.int64)

    def _use(self) -> _Use:
        return _Use(self._busy)


class _Use:
    """One call at a time, or none."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            raise InputError(
                "session: expected one call at a time, but another is using it; fork it or wait"
            )

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class _Buffer:
    """Rows of keys or values in the graphs' memory, zeros where nothing was written (a masked row
    still has to be finite); grows by doubling.
    """

    def __init__(self, exported: Exported, row: tuple[int, ...], dtype: Any) -> None:
        self.exported, self.row, self.dtype, self.rows = exported, row, dtype, 0
        self._memory: Any = None

    def grown(self, rows: int, used: int, most: int) -> Any:
        """Memory of at least ``rows`` rows, the first ``used`` of them as they were."""
        if rows > self.rows:
            old, self.rows = self._memory, max(rows, min(2 * self.rows, most))
            self._memory = self._of(
                old.array()[:used] if old is not None else np.zeros((0, *self.row), self.dtype)
            )
        return self._memory

    def copy(self, used: int) -> _Buffer:
        other = _Buffer(self.exported, self.row, self.dtype)
        other.rows = self.rows
        if self._memory is not None:
            other._memory = other._of(self._memory.array()[:used])
        return other

    def _of(self, first: NDArray[Any]) -> Any:
        array = np.zeros((self.rows, *self.row), self.dtype)
        array[: len(first)] = first
        return self.exported.memory(array)


def _check(graph: Graph, state: Sequence[str], stack: StackConfig, between: list[int]) -> None:
    """That a graph's caches are those of the configuration."""
    for name in state:
        if (
            list(graph.ports[name][1][1:]) != [*between, stack.num_kv_heads, stack.head_dim]
            or len(state) != 2 * stack.layers
        ):
            raise InputError(
                f"{graph.name}.onnx: {name} {graph.ports[name][1]} is not of this config.json; "
                "export the model again"
            )
