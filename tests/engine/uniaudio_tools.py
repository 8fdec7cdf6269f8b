"""Small UniAudio checkpoints: a mirror of the architecture, and the engine on the imported folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from import_tools import (
    token_list,
    write_codec,
    write_lm,
)
from reference_codec import ReferenceCodec
from reference_lm import ReferenceLM

from uniaudio_engine import Engine
from uniaudio_engine.backends.token_lm import Sampling
from uniaudio_engine.importers.uniaudio import import_uniaudio

SHAPES: dict[str, dict[str, int]] = {  # of the mirror, with codes a codebook
    "k3": {"slots": 3, "width": 36, "heads": 3, "layers": 4, "codes": 16, "context": 300},
    "k8": {"slots": 8, "width": 48, "heads": 2, "layers": 2, "codes": 16, "context": 300},
    "k3-1024": {"slots": 3, "width": 24, "heads": 4, "layers": 18, "codes": 1024, "context": 260},
}


class Pair:
    """A mirror, the folder that was imported from its files, and the engine on it in float32."""

    def __init__(
        self,
        root: Path,
        slots: int,
        width: int,
        heads: int,
        layers: int,
        codes: int,
        context: int,
        threads: int = 1,
    ) -> None:
        torch.manual_seed(0)
        self.tokens = token_list(slots, codes)
        self.slots, self.codes = slots, codes
        self.mirror = ReferenceLM(len(self.tokens), context, width, heads, layers, slots).randomize(
            1
        )
        write_lm(root / "lm", self.mirror, self.tokens)
        write_codec(
            root / "codec",
            ReferenceCodec(filters=2, width=4, ratios=(5, 4, 2), codebooks=slots, codes=codes),
        )
        self.folder = root / "model"
        self.about = import_uniaudio(root / "lm", root / "codec", self.folder)
        self.threads = threads
        self.engine = Engine.from_pretrained(self.folder, dtype="float32", threads=threads)
        self.prefix = self.frames(20, seed=2)

    @functools.cached_property
    def greedy(self) -> np.ndarray:
        """200 frames by the engine, in float32."""
        return self.engine.lm.generate(
            self.prefix, 200, Sampling(temperature=0), allowed=self.ranges()
        )

    def frames(self, count: int, seed: int = 1) -> np.ndarray:
        return (
            np.random.default_rng(seed)
            .integers(0, len(self.tokens), (count, self.slots))
            .astype(np.int32)
        )

    def mirrored(self, frames: np.ndarray, segments: Any = None) -> np.ndarray:
        with torch.no_grad():
            return (
                self.mirror(torch.from_numpy(frames).long().view(1, -1), segments)[0]
                .view(*frames.shape, -1)
                .numpy()
            )

    def ranges(self) -> list[list[tuple[int, int]]]:
        """At slot k the codes of codebook k and <audio_end>."""
        end = self.tokens.index("<audio_end>")
        return [[(128 + k * self.codes, self.codes), (end, 1)] for k in range(self.slots)]

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(self.slots, len(self.tokens), dtype=torch.bool)
        for k, ranges in enumerate(self.ranges()):
            for start, size in ranges:
                mask[k, start : start + size] = True
        return mask


def off(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def text_segment(pair: Pair, begin: int, count: int) -> tuple[Any, dict[str, Any]]:
    """The same T5 states for the mirror (each once a slot) and for the engine, in place of
    ``count`` frames.
    """
    states = torch.randn(count, 768, generator=torch.Generator().manual_seed(5))
    k = pair.slots
    segments = [[(begin * k, (begin + count) * k, "text_t5", states.repeat_interleave(k, 0))]]
    return segments, {"text_t5": (states.numpy(), np.arange(begin, begin + count, dtype=np.int32))}


def check_logits(pair: Pair, count: int) -> None:
    frames = pair.frames(count)
    assert off(pair.engine.lm.logits(frames), pair.mirrored(frames)) < 1e-4
    segments, continuous = text_segment(pair, 3, 7)
    expected = pair.mirrored(frames, segments)
    assert off(pair.mirrored(frames), expected) > 1e-2  # the segment matters
    assert off(pair.engine.lm.logits(frames, continuous=continuous), expected) < 1e-4


def check_greedy(pair: Pair) -> None:
    expected = pair.mirror.greedy(
        torch.from_numpy(pair.prefix).long().view(-1), 200, pair.allowed()
    ).numpy()
    assert len(np.unique(expected)) > pair.slots  # not the same frame over and over
    np.testing.assert_array_equal(pair.greedy, expected)


def agreement(pair: Pair) -> float:
    """Part of the slots of the greedy continuation at which int8 would choose the same id, given
    the same history.
    """
    frames = np.concatenate((pair.prefix, pair.greedy))
    mask = np.where(pair.allowed().numpy(), 0, -np.inf)[None]
    int8 = Engine.from_pretrained(pair.folder, dtype="int8", threads=pair.threads)
    choices = (int8.lm.logits(frames)[len(pair.prefix) :] + mask).argmax(-1)
    return float((choices == pair.greedy).mean())
