"""The language model of an exported folder, whatever runs its graphs (``onnx_folder.py``,
``tensorrt.py``), and its sessions.

The keys and values of a session lie in buffers of its own, on the device. Each step binds them as
input and as output, so that the graph writes the new rows and copies nothing. A graph sees the
first rows of a buffer only: the rows in use, rounded up. The compiled core's sampler chooses the
ids, so the same seed gives the native backend's tokens wherever the logits agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..errors import InputError
from ..storage.config import LMConfig, StackConfig, to_dict
from ..storage.weight_shapes import lm_shapes, matrix_part
from .core import core
from .onnx_folder import Exported, Graph, Memory
from .protocols import Continuous, Ids, Session
from .session_rules import (
    SessionRules,
    aligned_matrix,
    check_batch,
    continuous_rows,
    frame_matrix,
)

if TYPE_CHECKING:
    from .._C import Sampler, Sampling

_BUCKET = 128  # rows by which the part of a cache that a graph sees grows
_PREFILL = 256  # steps of one call: its scores are [heads, steps, capacity]


class GraphLM:
    """A :class:`~.protocols.LanguageModel` over the graphs global_prefill, global_step and
    local_step.
    """

    def __init__(self, exported: Exported) -> None:
        assert exported.folder.config.lm is not None
        self.config: LMConfig = exported.folder.config.lm
        if self.config.delays or self.config.given_slots:
            raise InputError(
                "graphs: expected a model without delays of slots or given slots; use the native "
                "backend"
            )
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
        """Bytes of matrices that a frame reads: the global stack's once, the head's K times, of
        which the graph reads every row, and the local stack's as often where slots share them.
        """
        c = self.config
        stacks = {"global": 0, "local": 0, "head": 0}
        for name, shape in lm_shapes(c).items():
            if (part := matrix_part(name)) is not None:
                stacks[part] += math.prod(shape)
        bridge = math.prod(c.bridge_shape) * (c.num_codebooks if c.conditioning == "add" else 1)
        once = stacks["global"] + bridge + c.global_head_size * c.global_.width
        slots = c.local_reads * stacks["local"] + c.num_codebooks * c.local_rows * c.local.width
        size = {"float16": 2, "int8": 1}.get(self.exported.dtype, 4)
        return size * (once + slots)

    def logits(
        self,
        frames: ArrayLike,
        aligned: ArrayLike | None = None,
        continuous: Continuous | None = None,
    ) -> NDArray[np.float32]:
        """Teacher-forced logits [T, K, V] of frames [T, K]."""
        f = frame_matrix(frames, self.config)
        session = GraphSession(self, len(f))
        hidden = session.advance(f, aligned, continuous)
        out = np.empty((*f.shape, self.config.vocab_size), np.float32)
        rows = self.local.most("rows") or len(f)
        for at in range(0, len(f), rows):
            part = slice(at, at + rows)
            caches = self.local_caches(len(f[part]))
            for slot in range(self.config.num_codebooks):
                code = f[part, max(0, slot - 1)]
                out[part, slot] = self.local_step(hidden[part], code, slot, caches)
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
        code: Ids,
        slot: int,
        caches: dict[str, NDArray[Any]],
    ) -> NDArray[np.float32]:
        """Logits [B, V] of a slot after ``code`` [B]; ``caches`` move on."""
        out = self.local.run(
            {
                "hidden": hidden,
                "code": np.ascontiguousarray(code, np.int64),
                "slot": np.array([slot]),
                **caches,
            }
        )
        for n in caches:
            caches[n] = out[f"{n}_out"]
        return out["logits"]

    @staticmethod
    def generate_batch(
        sessions: Sequence[Session],
        n: int,
        samplings: Sequence[Sampling],
        aligned_rows: Sequence[ArrayLike | None] | None = None,
    ) -> list[Ids]:
        """Each session's frames [m, K], one session after the other: a graph steps one stream."""
        check_batch(sessions, samplings, aligned_rows)
        for s in sessions:
            if not isinstance(s, GraphSession):
                raise InputError(f"generate_batch: expected this backend's sessions, got {type(s)}")
            s.check_room("generate", n)
        rows = aligned_rows or [None] * len(sessions)
        jobs = zip(sessions, samplings, rows, strict=True)
        return [s.generate(n, sampling, aligned) for s, sampling, aligned in jobs]


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


class GraphSession(SessionRules):
    """A :class:`~.protocols.Session`: known frames in, generated frames out."""

    def __init__(self, lm: GraphLM, max_frames: int) -> None:
        c = lm.config
        super().__init__(lm, max_frames, min(c.max_frames, lm.exported.capacity or c.max_frames))
        self.lm = lm
        self._buffers: dict[str, _Buffer] = {}
        self._history = np.zeros((max_frames, c.num_codebooks), np.int32)

    def _start(self) -> None:
        super()._start()
        # of the last known frame, where a continuous input replaced its ids
        self._last_continuous: dict[str, NDArray[np.float32]] = {}

    def prefill(
        self,
        frames: ArrayLike,
        aligned: ArrayLike | None = None,
        continuous: Continuous | None = None,
    ) -> None:
        """Append known frames [n, K], with aligned rows [n, S] and continuous inputs name ->
        (values [m, width], frames [m]).
        """
        with self._use():
            f = frame_matrix(frames, self.lm.config)
            self.check_room("prefill", len(f))
            self.advance(f, aligned, continuous)
            self._generated, self.finished = 0, False
            if self._unconditional is not None:
                self._unconditional.prefill(
                    f, aligned if self._guidance_aligned else None, continuous
                )

    def generate(self, n: int, sampling: Sampling, aligned: ArrayLike | None = None) -> Ids:
        """Up to ``n`` new frames [m, K]; fewer when the end id came (``finished``) or after
        ``cancel``.
        """
        with self._use():
            self.check_room("generate", n)
            c = self.lm.config
            g = aligned_matrix(aligned, c, n)
            sampler = core().Sampler(sampling, self.lm.config_json)
            out: list[Ids] = []
            for i in range(n):
                if self.finished or self._cancelled:
                    self._cancelled = False
                    break
                row = None if g is None else g[i : i + 1]
                hidden = [
                    s._step(row if s is self or self._guidance_aligned else None)
                    for s in self._sides()
                ]
                frame, self.finished = self._draw(sampler, sampling, hidden)
                if self.finished and not sampling.keep_end_frame:
                    break
                for s in self._sides():
                    s._append(frame[None])
                    s._generated += 1
                out.append(frame)
            return np.array(out, np.int32).reshape(-1, c.num_codebooks)

    def _draw(
        self, sampler: Sampler, sampling: Sampling, hidden: list[NDArray[np.float32]]
    ) -> tuple[Ids, bool]:
        """The ids of the next frame [K], and whether the end id was drawn for one of them.

        ``hidden`` [1, D] of this session and, under guidance, of the unconditional one.
        """
        k, rows = self.lm.config.num_codebooks, len(hidden)
        h, caches = np.concatenate(hidden), self.lm.local_caches(rows)
        history = self._history[self.frames - self._generated : self.frames]
        frame, ended = np.zeros(k, np.int32), False
        for slot in range(k):
            code = np.full(rows, frame[max(0, slot - 1)])
            own, *unconditional = self.lm.local_step(h, code, slot, caches)
            for other in unconditional:
                own = other + np.float32(self._scale) * (own - other)
            drawn = sampler.sample(own, slot, self._offset + self.frames, history)
            ended = ended or sampler.ends(slot, drawn)
            if ended and not sampling.keep_end_frame:
                break
            frame[slot] = sampler.final_id(slot, drawn)
            if sampling.tie_slots:
                frame[:] = frame[0]
                break
        return frame, ended or sampler.ends_frame(frame.tolist(), self._generated)

    def fork(self) -> GraphSession:
        """A copy that continues on its own."""
        with self._use():
            s = self._copied_to(GraphSession(self.lm, self.capacity))
            s._history[: self.frames] = self._history[: self.frames]
            s._buffers = {n: b.copy(self.frames) for n, b in self._buffers.items()}
            s._last_continuous = dict(self._last_continuous)
            return s

    def advance(
        self, frames: Ids, aligned: ArrayLike | None, continuous: Continuous | None
    ) -> NDArray[np.float32]:
        """Append known frames [n, K]; returns what the model knew before each of them, [n, D]."""
        c = self.lm.config
        g = aligned_matrix(aligned, c, len(frames))
        given = continuous_rows(continuous, c, len(frames))
        hidden = [np.zeros((0, c.global_.width), np.float32)]
        for at in range(0, len(frames), _PREFILL):
            part = slice(at, min(at + _PREFILL, len(frames)))
            previous = np.concatenate((self._last()[None], frames[part][:-1]))
            values = {name: (v[part][:-1], here[part][:-1]) for name, (v, here) in given.items()}
            inputs = self._inputs(previous, None if g is None else g[part], values)
            name = "global_prefill" if len(previous) > 1 else "global_step"
            hidden.append(self._run(name, inputs, len(previous)))
            self._last_continuous = {
                name: v[part][-1] for name, (v, here) in given.items() if here[part][-1]
            }
            self._append(frames[part])
        return np.concatenate(hidden)

    def _step(self, aligned: Ids | None) -> NDArray[np.float32]:
        """What the model knows before the next frame, [1, D].  The caller appends that frame."""
        nothing = {
            name: (np.zeros((0, width), np.float32), np.zeros(0, np.bool_))
            for name, width in self.lm.config.continuous.items()
        }
        hidden = self._run("global_step", self._inputs(self._last()[None], aligned, nothing), 1)
        self._last_continuous = {}
        return hidden

    def _inputs(
        self,
        previous: Ids,
        aligned: Ids | None,
        continuous: dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]],
    ) -> dict[str, NDArray[Any]]:
        """What the global graphs take for n steps: the n frames before them, their own aligned
        rows, and the continuous inputs of all those frames but the first, which is known already.
        """
        inputs: dict[str, NDArray[Any]] = {"previous": previous.astype(np.int64)}
        if slots := self.lm.config.aligned_slots:
            rows = np.full((len(previous), slots), -1) if aligned is None else aligned
            inputs["guide"] = rows.astype(np.int64)  # the graphs' name of the aligned rows
        for name, (values, here) in continuous.items():
            last = self._last_continuous.get(name)
            first = np.zeros(values.shape[1], np.float32) if last is None else last
            inputs[f"continuous_{name}"] = np.concatenate((first[None], values))
            inputs[f"is_{name}"] = np.concatenate(([last is not None], here))
        return inputs

    def _append(self, frames: Ids) -> None:
        self._history[self.frames : self.frames + len(frames)] = frames
        self.frames += len(frames)

    def _last(self) -> Ids:
        c = self.lm.config
        if self.frames:
            return self._history[self.frames - 1]
        return np.full(c.num_codebooks, c.start_id, np.int32)

    def _run(self, name: str, inputs: dict[str, NDArray[Any]], n: int) -> NDArray[np.float32]:
        lm = self.lm
        graph = lm.prefill if name == "global_prefill" else lm.step
        used = -(-(self.frames + n) // _BUCKET) * _BUCKET
        rows = lm.exported.capacity or min(used, self.capacity)
        state: dict[str, Memory] = {}
        for key in lm.state:
            buffer = self._buffers.get(key)
            if buffer is None:
                g = lm.config.global_
                row = (g.num_kv_heads, g.head_dim)
                buffer = self._buffers[key] = _Buffer(lm.exported, row, lm.dtype)
            state[key] = buffer.grown(rows, self.frames, self.capacity)
        inputs["position"] = np.array([self.frames])
        hidden = graph.run_state(inputs, state, state, ["hidden"], rows)["hidden"]
        return np.asarray(hidden, np.float32)


class _Buffer:
    """Rows of keys or values in the graphs' memory; grows by doubling.

    Rows that were never written are zeros, since a masked row still has to be finite.
    """

    def __init__(self, exported: Exported, row: tuple[int, ...], dtype: DTypeLike) -> None:
        self.exported, self.row, self.dtype, self.rows = exported, row, dtype, 0
        self._memory: Memory | None = None

    def grown(self, rows: int, used: int, most: int) -> Memory:
        """Memory of at least ``rows`` rows, the first ``used`` of them as they were."""
        if self._memory is None or rows > self.rows:
            self.rows = max(rows, min(2 * self.rows, most))
            self._memory = self._with(self._memory, used)
        return self._memory

    def copy(self, used: int) -> _Buffer:
        other = _Buffer(self.exported, self.row, self.dtype)
        other.rows = self.rows
        if self._memory is not None:
            other._memory = other._with(self._memory, used)
        return other

    def _with(self, first: Memory | None, used: int) -> Memory:
        """New memory that begins with ``used`` rows of ``first``."""
        array = np.zeros((self.rows, *self.row), self.dtype)
        if first is not None:
            array[:used] = first.array()[:used]
        return self.exported.memory(array)
