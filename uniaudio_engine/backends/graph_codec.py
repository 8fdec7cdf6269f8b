"""Codecs of an exported folder, behind the interface of ``_C.Codec``; whatever runs its graphs
(``onnx_folder.py``, ``tensorrt.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..storage.config import CodecConfig
from .onnx_folder import Exported, Graph

Codes = NDArray[np.int32]
Samples = NDArray[np.float32]


class GraphCodec:
    """A codec, or (``decoder`` false) a tokenizer that ends at its codes.  Immutable."""

    def __init__(
        self,
        exported: Exported,
        config: CodecConfig,
        encoder: str = "codec_encoder",
        decoder: bool = True,
    ) -> None:
        self.config, self.exported = config, exported
        self.encoder: Graph = exported.graph(encoder)
        self.decoder: Graph | None = exported.graph("codec_decoder") if decoder else None
        self.step: Graph | None = exported.graph("codec_decoder_step") if decoder else None

    def frames(self, samples: int) -> int:
        """Frames T of a clip of that many samples."""
        return self.config.frames(samples)

    @property
    def encoder_lookahead(self) -> int:
        """Samples after a frame's end that its codes wait for."""
        return int(self.encoder.about.get("late", 0))

    @property
    def decoder_lookahead(self) -> int:
        """Samples that a frame's sound is late."""
        return int(self.step.about["late"]) if self.step is not None else 0

    def encode(self, samples: Any, num_codebooks: int = 0) -> Codes:
        """samples float32 [N] -> codes int32 [K', ceil(N / frame_size)].

        Raises ValueError on NaN, infinity or another shape.
        """
        x = _samples(samples)
        k = num_codebooks or self.config.num_codebooks
        if not len(x):
            return np.zeros((k, 0), np.int32)
        if self.config.family == "spectral":
            x = np.concatenate((x, np.zeros(-len(x) % self.config.frame_size, np.float32)))
        return np.ascontiguousarray(self.encoder.run({"samples": x})["codes"][:k], np.int32)

    def decode(self, codes: Any) -> Samples:
        """codes [K', T] -> samples float32 [T x frame_size]."""
        c = self._codes(codes)
        assert self.decoder is not None
        return self.decoder.run({"codes": c})["samples"] if c.shape[1] else np.zeros(0, np.float32)

    def encoder_stream(self, num_codebooks: int = 0) -> GraphEncoderStream:
        return GraphEncoderStream(self, num_codebooks or self.config.num_codebooks)

    def decoder_stream(self) -> GraphDecoderStream:
        return GraphDecoderStream(self)

    def _codes(self, codes: Any) -> NDArray[np.int64]:
        """codes [K', T] -> [K, T], -1 for those that are left out."""
        c = np.asarray(codes)
        if c.ndim != 2 or not 1 <= len(c) <= self.config.num_codebooks or c.dtype.kind not in "iu":
            raise InputError(
                f"codes: expected whole numbers [1 to {self.config.num_codebooks}, T], got "
                f"{c.dtype} {list(c.shape)}"
            )
        if c.size and (c.min() < 0 or c.max() >= self.config.codebook_size):
            raise InputError(
                f"codes: expected 0 to {self.config.codebook_size - 1}, got {c.min()} to {c.max()}"
            )
        out = np.full((self.config.num_codebooks, c.shape[1]), -1, np.int64)
        out[: len(c)] = c
        return out


class GraphEncoderStream:
    """One clip: samples in, complete frames out, as ``_C.EncoderStream``.

    The graph takes whole clips and is causal, so each push runs it over the new frames and those
    before them that they hear.
    """

    def __init__(self, codec: GraphCodec, num_codebooks: int) -> None:
        if "context" not in codec.encoder.about:
            raise InputError(
                "this codec's encoder looks ahead, and has no stream here; use encode, or "
                "backend native"
            )
        self.codec, self.num_codebooks, self.context = (
            codec,
            num_codebooks,
            int(codec.encoder.about["context"]),
        )
        self.reset()

    def reset(self) -> None:
        self._known = np.zeros(
            0, np.float32
        )  # the context's samples, then those of no whole frame yet
        self._done = 0  # frames at its start that have been given

    def push(self, samples: Any) -> Codes:
        """samples float32 [n] -> the frames that are complete, int32 [K', t].

        Raises ValueError on NaN or infinity; nothing changes then.
        """
        x = np.concatenate((self._known, _samples(samples)))
        size = self.codec.config.frame_size
        whole = len(x) // size
        if whole == self._done:
            self._known = x
            return np.zeros((self.num_codebooks, 0), np.int32)
        codes = self.codec.encode(x[: whole * size], self.num_codebooks)[:, self._done :]
        kept = min(whole, self.context)
        self._known, self._done = x[(whole - kept) * size :], kept
        return np.ascontiguousarray(codes)

    def flush(self) -> Codes:
        """The last frames of the clip; the next push begins a new one."""
        size = self.codec.config.frame_size
        rest = len(self._known) - self._done * size
        codes = (
            self.push(np.zeros(-rest % size, np.float32))
            if rest
            else np.zeros((self.num_codebooks, 0), np.int32)
        )
        self.reset()
        return codes

    def fork(self) -> GraphEncoderStream:
        other = GraphEncoderStream(self.codec, self.num_codebooks)
        other._known, other._done = self._known, self._done
        return other


class GraphDecoderStream:
    """One clip: frames in, complete samples out, as ``_C.DecoderStream``; one run of the step's
    graph a frame.

    A graph says its samples late. The rest comes from its ``tail``, or (codecs that look ahead)
    from further steps that are told the clip's length.
    """

    def __init__(self, codec: GraphCodec) -> None:
        assert codec.step is not None
        self.codec, self.graph = codec, codec.step
        self._names: list[str] = list(self.graph.about["state"])
        self._wanted = [n for n in ("samples", "tail") if n in self.graph.about["outputs"]]
        self.reset()

    def reset(self) -> None:
        # Twice: a step reads one and writes the other, since its outputs are its inputs moved on.
        zeros = {n: np.zeros(self.graph.ports[n][1], np.float32) for n in self._names}
        self._state, self._next = (
            {n: self.codec.exported.memory(a.copy()) for n, a in zeros.items()} for _ in range(2)
        )
        self._tail: Samples = np.zeros(0, np.float32)
        self._skip = self.codec.decoder_lookahead  # samples still to come that are before the clip
        self._steps = 0

    def push(self, codes: Any) -> Samples:
        """codes [K', t] -> the samples that are complete."""
        c = self.codec._codes(codes)
        return self._cut([self._step(c[:, t : t + 1]) for t in range(c.shape[1])])

    def _step(self, codes: NDArray[np.int64], length: int | None = None) -> Samples:
        inputs: dict[str, NDArray[Any]] = {"codes": codes}
        if "unknown" in self.graph.about:
            inputs |= {
                "position": np.array([self._steps]),
                "length": np.array([length or self.graph.about["unknown"]]),
            }
        out = self.graph.run_state(inputs, self._state, self._next, self._wanted)
        self._state, self._next = self._next, self._state
        self._tail = out.get("tail", self._tail)
        self._steps += 1
        return out["samples"]

    def _cut(self, parts: list[Samples]) -> Samples:
        x = np.concatenate([np.zeros(0, np.float32), *parts])
        skip = min(self._skip, len(x))
        self._skip -= skip
        return x[skip:]

    def flush(self) -> Samples:
        """What the look-ahead held back; the next push begins a new clip."""
        parts, late, frames = [self._tail], self.codec.decoder_lookahead, self._steps
        if "unknown" in self.graph.about and frames:
            none = np.full((self.codec.config.num_codebooks, 1), -1, np.int64)
            parts = [
                self._step(none, frames) for _ in range(-(-late // self.codec.config.frame_size))
            ]
            parts = [np.concatenate(parts)[:late]] if parts else []
        rest = self._cut(parts)
        self.reset()
        return rest

    def fork(self) -> GraphDecoderStream:
        other = GraphDecoderStream(self.codec)
        other._state = {
            n: self.codec.exported.memory(m.array().copy()) for n, m in self._state.items()
        }
        other._tail, other._skip, other._steps = self._tail, self._skip, self._steps
        return other


def _samples(samples: Any) -> Samples:
    x = np.asarray(samples)
    if x.ndim == 2 and len(x) == 1:
        x = x[0]
    if x.ndim != 1 or x.dtype.kind not in "fiu":
        raise InputError(f"samples: expected float32 [N], got {x.dtype} {list(x.shape)}")
    x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
        raise InputError("samples: expected finite values, got infinity or NaN")
    return x
