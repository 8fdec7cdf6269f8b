"""Sound as codes: what a codec makes of it, with all that is needed to turn it back; saved as
safetensors files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, shown
from ..storage.config import CodecConfig
from ..storage.tensors import load_tensors, save_tensors

_FORMAT = "uniaudio-codes-1"


@dataclass(frozen=True, eq=False)
class EncodedAudio:
    """``codes`` int32 [K, T] of ``samples`` samples (each channel) at ``sample_rate`` Hz.

    ``scales`` float32 [chunks]: the loudness that a normalising codec has taken out of each chunk
    (of the clip, where it has no chunks); None for other codecs. ``samples`` None: not known, as in
    files of early versions; decoding then gives all that the frames hold. ``codec``: the
    fingerprint of the codec; codes mean nothing to another.
    """

    codes: NDArray[np.int32]
    sample_rate: int
    samples: int | None
    codec: str
    scales: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def seconds(self) -> float | None:
        return None if self.samples is None else self.samples / self.sample_rate

    def first(self, num_codebooks: int) -> EncodedAudio:
        """The same sound by its first codebooks only: fewer bits."""
        if not 1 <= num_codebooks <= len(self.codes):
            raise InputError(
                f"num_codebooks: expected 1 to {len(self.codes)}, which these codes have, got "
                f"{num_codebooks}"
            )
        return dataclasses.replace(self, codes=self.codes[:num_codebooks])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file; whole or absent."""
        if Path(path).suffix != ".safetensors":
            raise InputError(f"{path}: expected a name for the codes that ends in .safetensors")
        tensors: dict[str, NDArray[Any]] = {"codes": self.codes.astype(np.int32)}
        if self.scales is not None:
            tensors["scales"] = self.scales.astype(np.float32)
        metadata = {"format": _FORMAT, "codec": self.codec, "sample_rate": str(self.sample_rate)}
        if self.samples is not None:
            metadata["samples"] = str(self.samples)
        save_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EncodedAudio:
        """Read such a file.  Raises one :class:`InputError` line on anything else."""
        tensors, metadata = load_tensors(path)
        if (
            not {"codes"} <= set(tensors) <= {"codes", "scales"}
            or metadata.get("format", _FORMAT) != _FORMAT
        ):
            raise InputError(
                f"{path}: expected a file with the tensor codes ({_FORMAT}), got "
                f"{shown(sorted(tensors))}"
            )
        codes, scales = tensors["codes"], tensors.get("scales")
        if codes.dtype.kind not in "iu" or codes.ndim != 2:
            raise InputError(
                f"{path}: expected codes of whole numbers [K, T], got {codes.dtype} "
                f"{list(codes.shape)}"
            )
        if codes.size and not -(1 << 31) <= int(codes.min()) <= int(codes.max()) < 1 << 31:
            raise InputError(
                f"{path}: expected codes of 32 bits, got {codes.min()} to {codes.max()}"
            )
        if scales is not None and (scales.dtype != np.float32 or scales.ndim != 1):
            raise InputError(
                f"{path}: expected scales float32 [chunks], got {scales.dtype} {list(scales.shape)}"
            )
        rate, samples = (_count(path, metadata, k) for k in ("sample_rate", "samples"))
        return cls(codes.astype(np.int32), rate or 0, samples, metadata.get("codec", ""), scales)

    def check(self, codec: CodecConfig, fingerprint: str) -> None:
        """That this is of that codec, and whole."""
        k, t = self.codes.shape if self.codes.ndim == 2 else (0, 0)
        if self.codec not in ("", fingerprint):
            raise InputError(
                f"these codes are of another codec ({self.codec}, this model's is {fingerprint}); "
                "decode them with theirs"
            )
        if self.sample_rate not in (0, codec.sample_rate):
            raise InputError(
                f"these codes are of sound at {self.sample_rate} Hz, this model's codec has "
                f"{codec.sample_rate} Hz"
            )
        if not 1 <= k <= codec.num_codebooks:
            raise InputError(
                f"codes: expected [1 to {codec.num_codebooks}, T], got {list(self.codes.shape)}"
            )
        if self.samples is not None and t != codec.frames(self.samples):
            raise InputError(
                f"codes: expected {codec.frames(self.samples)} frames for {self.samples} samples, "
                f"got {t}; encode the sound again"
            )


def _count(path: str | os.PathLike[str], metadata: Mapping[str, str], key: str) -> int | None:
    text = metadata.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InputError(f"{path}: {key}: expected a whole number, got {shown(text)}")
    return int(text)
