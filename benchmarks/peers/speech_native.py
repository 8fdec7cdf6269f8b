"""uniaudio-engine, text to sound."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniaudio_engine import Engine, __version__
from uniaudio_engine.backends.core import core

from .speech import TEXT, Source, SpeechSpec, memory


class SpeechNative:
    """The folder that ``uniaudio quantize`` writes; ``float32``: the one that it was made from."""

    def __init__(self, spec: SpeechSpec) -> None:
        self.version = f"uniaudio-engine {__version__}, {core().isa()}"
        self.spec = spec
        folder = spec.folder / ("int8" if spec.dtype == "int8" else "whole")
        begin = time.perf_counter()
        self.engine = Engine.from_pretrained(folder, dtype=spec.dtype, threads=spec.threads)
        self._loaded = time.perf_counter() - begin, memory("VmHWM:")
        slot = self.engine.config.text_slot
        assert slot is not None
        self.request: dict[str, Any] = {"phones" if slot.phones else "text": TEXT, "seed": 1}
        self.request["voice"] = str(spec.folder / "int8" / "voices" / "one.safetensors")

    def loaded(self) -> tuple[float, float]:
        return self._loaded

    def held(self) -> float:
        return memory("VmRSS:")

    def speak(self, frames: int) -> float:
        seconds = frames / self.engine.config.codec.frame_rate
        begin = time.perf_counter()
        audio = self.engine.tts(**self.request, seconds=seconds)
        taken = time.perf_counter() - begin
        assert audio.samples.shape == (2, frames * self.engine.config.codec.frame_size)
        return taken

    def first(self) -> float:
        begin = time.perf_counter()
        # of a given length: random weights may end before they begin
        with self.engine.stream("tts", **self.request, seconds=1.0) as stream:
            while not next(stream).samples.size:
                pass
            return time.perf_counter() - begin

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        """As :meth:`.speech.SpeechPeer.logits`, in float32, by a model that is made for this call."""
        source = Source(self.spec.folder)
        model, weights = source.model, source.weights()
        lm = core().LM(model.json, weights, "float32", self.spec.threads)
        found = lm.logits(frames, model.aligned(len(frames)))[known:]
        rows = [found[:, k, model.rows(k)] for k in range(model.config.num_codebooks)]
        return np.concatenate(rows, axis=1)

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.engine.model.codec.decode(codes)

    def begin(self, rows: int, frames: int) -> None:
        """Nothing to make before."""
