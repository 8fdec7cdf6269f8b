"""A fake ``_C`` without arithmetic: tokens are hashes of (seed, frame), sound is codes.

It keeps the contract that the engine relies on: the same seed gives the same tokens however
generation is split, and a decoder holds back its look-ahead until it is flushed. It rejects the
same input as the real core.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from uniaudio_engine._C import (  # noqa: F401  as good here as a fake
    PostFilter,
    lm_dtype,
    quantize,
    sampling_layout,
)
from uniaudio_engine.backends.session_rules import (
    SessionRules,
    aligned_matrix,
    check_batch,
    continuous_rows,
    frame_matrix,
)
from uniaudio_engine.storage.config import LMConfig, from_dict

LOOKAHEAD = 100
FRAME_SECONDS = 0.0  # a test may slow the fake down


def isa() -> str:
    return "avx2"


def isa_available() -> list[str]:
    return ["avx2", "plain"]


def fma_peak(threads: int) -> float:
    if not 1 <= threads <= 256:
        raise ValueError(f"threads: expected 1 to 256, got {threads}")
    return 100.0


def byte_peak(threads: int) -> float:
    return 4 * fma_peak(threads)


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
        self.config = from_dict(LMConfig, json.loads(config_json), "lm")
        self.num_codebooks, self.vocab_size = self.config.num_codebooks, self.config.vocab_size
        self.threads, self.dtype, self.kv_dtype = threads, dtype, kv_dtype
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

    @staticmethod
    def generate_batch(
        sessions: list[LMSession], n: int, samplings: list, aligned_rows: Any = None
    ) -> list[np.ndarray]:
        check_batch(sessions, samplings, aligned_rows)
        rows = aligned_rows or [None] * len(sessions)
        jobs = zip(sessions, samplings, rows, strict=True)
        return [s.generate(n, sampling, aligned) for s, sampling, aligned in jobs]


class LMSession(SessionRules):
    def __init__(self, lm: LM, capacity: int) -> None:
        super().__init__(lm, capacity, lm.config.max_frames)
        self.lm = lm
        self._log = np.zeros((capacity, lm.num_codebooks), np.int32)
        self._aligned = np.zeros((capacity, lm.config.aligned_slots), np.int32)

    def _start(self) -> None:
        super()._start()
        self.heard = 0
        # of the last prefill that had some, frames counted from the start
        self.continuous: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def log(self) -> np.ndarray:
        return self._log[: self.frames]

    @property
    def aligned(self) -> np.ndarray:
        return self._aligned[: self.frames]

    def _append(self, frames: np.ndarray, aligned: np.ndarray | None) -> None:
        end = self.frames + len(frames)
        self._log[self.frames : end] = frames
        self._aligned[self.frames : end] = -1 if aligned is None else aligned
        self.frames = end
        for frame in frames:  # one by one: it does not depend on how a prefill is cut
            self.heard = (self.heard * 41 + int(frame.sum())) % 997

    def prefill(self, frames: np.ndarray, aligned: Any = None, continuous: Any = None) -> None:
        assert frames.dtype == np.int32 and (aligned is None or aligned.dtype == np.int32)
        with self._use():
            f, config = frame_matrix(frames, self.lm.config), self.lm.config
            self.check_room("prefill", len(f))
            given = continuous_rows(continuous, config, len(f))
            for name, (values, here) in given.items():
                if here.any():
                    where = np.flatnonzero(here)
                    self.continuous[name] = (values[where], where + self.frames)
            self._append(f, aligned_matrix(aligned, config, len(f)))
            self.lm.prefilled += len(f)

    def set_guidance(self, unconditional: LMSession, scale: float, aligned: bool = True) -> None:
        """What it says then depends on both."""
        super().set_guidance(unconditional, scale, aligned)
        assert unconditional.frames < self.frames
        self.heard = (self.heard * 31 + unconditional.heard + round(1000 * scale)) % 997
        self._unconditional = None  # this session's tokens say enough

    def generate(self, n: int, sampling: Sampling, aligned: Any = None) -> np.ndarray:
        with self._use():
            self.check_room("generate", n)
            rows = aligned_matrix(aligned, self.lm.config, n)
            self._cancelled = False
            made = [
                self._one(sampling, None if rows is None else rows[i : i + 1])
                for i in range(n)
                if self._go()
            ]
            return np.array(made, np.int32).reshape(-1, self.lm.num_codebooks)

    def _go(self) -> bool:
        if FRAME_SECONDS:
            time.sleep(FRAME_SECONDS)
        return not self._cancelled

    def _one(self, s: Sampling, aligned: np.ndarray | None) -> np.ndarray:
        k = self.lm.num_codebooks
        frame = []
        # tokens depend on all that was heard
        for slot, ((start, size), *_) in enumerate(s.allowed):
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

    def fork(self) -> LMSession:
        with self._use():
            other = self._copied_to(LMSession(self.lm, self.capacity))
            other._log, other._aligned = self._log.copy(), self._aligned.copy()
            other.heard = self.heard
            return other


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
