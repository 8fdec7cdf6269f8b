"""Voices: a few seconds of codes that a model continues in the same voice; saved as safetensors
files.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import CodecConfig
from ..storage.tensors import Tensors, from_bfloat16, load_tensors, save_tensors

_FORMAT = "uniaudio-voice-1"
_MAX_BYTES = 16 << 20
_KEYS = {"format", "name", "codec", "frame_rate", "licence", "source"}
_TEXT = "text"  # a key that is there only where there is a text


@dataclass(frozen=True)
class Voice:
    """``codes`` int32 [K, T] of a codec with this fingerprint, at ``frame_rate`` Hz.

    ``vector`` float32 [W]: what an encoder of speakers makes of the voice, for models that speak
    with one; with it, T may be 0. ``text``: what is said in the recording, for models that continue
    it; empty where that is not known.
    """

    name: str
    codes: NDArray[np.int32]
    codec: str  # fingerprint: codes mean nothing to another codec
    frame_rate: float
    licence: str = ""
    source: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)
    vector: NDArray[np.float32] | None = None
    text: str = ""

    @property
    def seconds(self) -> float:
        return self.codes.shape[1] / self.frame_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file; whole or absent."""
        if Path(path).suffix != ".safetensors":
            raise InputError(f"{path}: expected a voice file name that ends in .safetensors")
        metadata = {
            "format": _FORMAT,
            "name": self.name,
            "codec": self.codec,
            "frame_rate": repr(float(self.frame_rate)),
            "licence": self.licence,
            "source": self.source,
        }
        if self.text:
            metadata[_TEXT] = self.text
        tensors: Tensors = {"codes": self.codes.astype(np.int32)}
        if self.vector is not None:
            tensors["vector"] = self.vector.astype(np.float32)
        save_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read a voice file.  Raises one :class:`InputError` line on anything that is no voice."""
        tensors, metadata = load_tensors(path, max_bytes=_MAX_BYTES)
        known = set(tensors) in ({"codes"}, {"codes", "vector"})
        if metadata.get("format") != _FORMAT or set(metadata) - {_TEXT} != _KEYS or not known:
            raise InputError(
                f"{path}: expected a voice file ({_FORMAT}), got another; make one: uniaudio voices"
            )
        codes, vector = tensors["codes"], tensors.get("vector")
        empty = codes.ndim == 2 and 0 in codes.shape[: 2 if vector is None else 1]
        if codes.dtype != np.int32 or codes.ndim != 2 or empty or codes.min(initial=0) < 0:
            raise InputError(
                f"{path}: expected codes int32 [K, T] from 0 up, got {codes.dtype} "
                f"{list(codes.shape)}"
            )
        if vector is not None and (
            vector.dtype != np.float32 or vector.ndim != 1 or not np.isfinite(vector).all()
        ):
            raise InputError(
                f"{path}: expected a vector of finite float32 numbers, got {vector.dtype} "
                f"{list(vector.shape)}"
            )
        try:
            rate = float(metadata["frame_rate"])
        except ValueError:
            rate = 0.0
        if not 0.1 <= rate <= 1e5:
            raise InputError(
                f"{path}: expected a frame rate in Hz, got {shown(metadata['frame_rate'])}"
            )
        return cls(
            metadata["name"],
            codes,
            metadata["codec"],
            rate,
            metadata["licence"],
            metadata["source"],
            vector=vector,
            text=metadata.get(_TEXT, ""),
        )

    def check(self, codec: CodecConfig, fingerprint: str, min_codebooks: int) -> None:
        """That this voice's codes are codes of that codec."""
        k, top = self.codes.shape[0], self.codes.max(initial=0)
        if self.codec != fingerprint:
            raise InputError(
                f"voice {shown(self.name)} was made with another codec ({self.codec}, this "
                f"model's is {fingerprint}); "
                "make it again from its sound: uniaudio voices SOUND -o VOICE.safetensors"
            )
        if not min_codebooks <= k <= codec.num_codebooks or top >= codec.codebook_size:
            wanted = (
                f"{min_codebooks} to {codec.num_codebooks} codebooks of {codec.codebook_size} codes"
            )
            got = f"{k} with codes up to {top}"
            raise InputError(f"voice {shown(self.name)}: expected {wanted}, got {got}")


def codec_fingerprint(codebooks: NDArray[np.generic]) -> str:
    """Names a codec by its codebooks [K, C, E] (float32, or bfloat16 bits): 16 hexadecimal digits."""
    x = from_bfloat16(codebooks) if codebooks.dtype == np.uint16 else codebooks  # type: ignore[arg-type]
    return hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest()[:16]
