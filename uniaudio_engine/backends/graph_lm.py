"""The language model of an exported folder, whatever runs its graphs (``onnx_folder.py``,
``tensorrt.py``).  Its sessions are in ``graph_session.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..storage.config import LMConfig, StackConfig, to_dict
from .graph_session import GraphSession
from .onnx_folder import Exported, Graph
from .protocols import Continuous, Ids, Session
from .session_rules import check_batch, frame_matrix

if TYPE_CHECKING:
    from .._C import Sampling


class GraphLM:
    """A :class:`~.protocols.LanguageModel` over the graphs global_prefill, global_step and
    local_step.
    """

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
