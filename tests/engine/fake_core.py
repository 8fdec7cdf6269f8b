"""A fake ``_C`` with the real one's manners and no arithmetic: tokens are hashes of (seed, frame),
sound is codes.

It keeps the rules that the engine builds on: the same seed gives the same tokens however generation
is cut, and a decoder that lags behind by its look-ahead until it is flushed. It also refuses what
the real one would refuse.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
from uniaudio_engine._C import lm_dtype, quantize  # noqa: F401  pure functions, as good here as a fake

LOOKAHEAD = 100
FRAME_SECONDS = 0.0  # a test may slow the fake down


def isa() -> str:
    return "avx2"


def isa_available() -> list[str]:
    return ["avx2", "plain"]


def read_bandwidth(threads: int, megabytes: int) -> float:
    return 10.0


class Sampling:
    def __init__(
        self,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        greedy=False,
        repetition_window=0,
        repetition_penalty=1.0,
        seed=0,
        allowed=None,
        end_id=-1,
        end_slots="first",
        min_frames=0,
        tie_slots=False,
    ) -> None:  # type: ignore[no-untyped-def]
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


class LM:
    def __init__(
        self,
        config_json: str,
        weights: dict[str, np.ndarray],
        dtype: str,
        threads: int,
        kv_dtype: str,
    ) -> None:
        self.config = json.loads(config_json)
        self.num_codebooks = self.config["num_codebooks"]
        self.vocab_size, self.threads, self.dtype, self.kv_dtype = (
            self.config["vocab_size"],
            threads,
            dtype,
            kv_dtype,
        )
        self.weight_bytes_per_frame = 1000
        self.prefilled = 0  # frames, over all sessions

    def weight_bytes(self, head_rows: int = 0) -> int:
        return self.weight_bytes_per_frame

    def memory_bytes(self, max_frames: int) -> int:
        return 8 * max_frames

    def session(self, max_frames: int) -> LMSession:
        return LMSession(self, max_frames)

    def logits(self, frames: np.ndarray, aligned: Any = None, continuous: Any = None) -> np.ndarray:
        return np.zeros((*frames.shape, self.vocab_size), np.float32)


class LMSession:
    def __init__(self, lm: LM, capacity: int) -> None:
        self.lm, self.capacity, self.frames, self.heard = lm, capacity, 0, 0
        self._log = np.zeros((capacity, lm.num_codebooks), np.int32)
        self._aligned = np.zeros((capacity, lm.config.get("guide_slots", 0)), np.int32)
        self.finished = False
        self.continuous: dict[
            str, tuple[np.ndarray, np.ndarray]
        ] = {}  # of the last prefill that had some, frames counted from the start
        self._stop = threading.Event()

    @property
    def log(self) -> np.ndarray:
        return self._log[: self.frames]

    @property
    def aligned(self) -> np.ndarray:
        return self._aligned[: self.frames]

    def _append(self, frames: np.ndarray, aligned: Any) -> None:
        assert (
            frames.dtype == np.int32
            and frames.ndim == 2
            and frames.shape[1] == self.lm.num_codebooks
        )
        end = self.frames + len(frames)
        if end > self.capacity:
            raise ValueError("over capacity")
        assert aligned is None or (
            aligned.dtype == np.int32 and aligned.shape == (len(frames), self._aligned.shape[1])
        )
        self._log[self.frames : end] = frames
        self._aligned[self.frames : end] = -1 if aligned is None else aligned
        self.frames = end
        self.heard = (self.heard * 31 + int(frames.sum())) % 997

    def prefill(self, frames: np.ndarray, aligned: Any = None, continuous: Any = None) -> None:
        self.lm.prefilled += len(frames)
        for name, (values, where) in (continuous or {}).items():
            assert values.dtype == np.float32 and values.shape == (
                len(where),
                self.lm.config["continuous"][name],
            )
            assert where.dtype == np.int32 and where.min() >= 0 and where.max() < len(frames)
            self.continuous[name] = (values, where + self.frames)
        self._append(frames, aligned)

    def set_guidance(self, plain: LMSession, scale: float) -> None:
        """What it says then depends on both."""
        assert plain is not self and plain.lm is self.lm and plain.frames < self.frames
        self.heard = (self.heard * 31 + plain.heard + round(1000 * scale)) % 997

    def generate(self, n: int, sampling: Sampling, aligned: Any = None) -> np.ndarray:
        self._stop.clear()
        made = [
            self._one(sampling, None if aligned is None else aligned[i : i + 1])
            for i in range(n)
            if self._go()
        ]
        return np.array(made, np.int32).reshape(-1, self.lm.num_codebooks)

    def _go(self) -> bool:
        if FRAME_SECONDS:
            time.sleep(FRAME_SECONDS)
        return not self._stop.is_set()

    def _one(self, s: Sampling, aligned: Any) -> np.ndarray:
        k = self.lm.num_codebooks
        frame = []
        for slot, ((start, size), *_) in enumerate(
            s.allowed
        ):  # tokens depend on all that was heard
            x = (
                s.seed * 0x9E3779B97F4A7C15
                + self.frames * 0xBF58476D1CE4E5B9
                + slot * 0x94D049BB133111EB
            ) >> 7
            frame.append(
                start + ((x ^ (x >> 29)) * 2654435761 >> 11) % 7919 * (1 + self.heard) % size
            )
        row = np.array([[frame[0]] * k if s.tie_slots else frame], np.int32)
        self._append(row, aligned)
        return row[0]

    def cancel(self) -> None:
        self._stop.set()

    def fork(self) -> LMSession:
        other = LMSession(self.lm, self.capacity)
        other._log, other._aligned = self._log.copy(), self._aligned.copy()
        other.frames, other.heard = self.frames, self.heard
        return other


def generate_batch(
    sessions: list[LMSession], n: int, samplings: list, aligned_rows: Any = None
) -> list[np.ndarray]:
    aligned_rows = aligned_rows or [None] * len(sessions)
    return [s.generate(n, x, g) for s, x, g in zip(sessions, samplings, aligned_rows, strict=True)]


class Codec:
    def __init__(self, config_json: str, weights: dict[str, np.ndarray], threads: int) -> None:
        self.config = json.loads(config_json)
        self.size, self.frame = self.config["codebook_size"], self.config["frame_size"]

    def encode(self, samples: np.ndarray, num_codebooks: int = 0) -> np.ndarray:
        assert samples.dtype == np.float32 and samples.ndim == 1
        x = np.pad(samples, (0, -len(samples) % self.frame)).reshape(-1, self.frame)
        level = np.clip((x.mean(1) + 1) / 2 * self.size, 0, self.size - 1).astype(np.int32)
        return np.tile(level, (num_codebooks or self.config["num_codebooks"], 1))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        assert codes.dtype == np.int32 and codes.ndim == 2
        level = (codes.sum(0) / (self.size * len(codes))).astype(np.float32)
        return np.repeat(level, self.frame)

    def decoder_stream(self) -> DecoderStream:
        return DecoderStream(self)


class DecoderStream:
    lookahead = LOOKAHEAD

    def __init__(self, codec: Codec) -> None:
        self.codec, self.rest = codec, np.zeros(0, np.float32)

    def push(self, codes: np.ndarray) -> np.ndarray:
        x = np.concatenate((self.rest, self.codec.decode(codes)))
        ready = max(0, len(x) - LOOKAHEAD)
        self.rest = x[ready:]
        return x[:ready]

    def flush(self) -> np.ndarray:
        out, self.rest = self.rest, np.zeros(0, np.float32)
        return out
