"""Optional encoders that imported models were trained with: T5 states of a text, HuBERT units of a
sound.

They run in ``transformers`` (``pip install 'uniaudio-engine[encoders]'``) from a local folder of
weights. Nothing is downloaded, and nothing is imported until an encoder is used. Callers who
already have states or units pass them as arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, first_few, shown
from ..storage.arrays import array_of
from ..storage.opening import read_regular

_MAX_CENTRES = 1 << 30  # bytes


class Encoder(Protocol):
    """An encoder of texts to states or of sounds to units; the other method raises InputError."""

    sample_rate: int  # Hz, of the sound that ``units`` takes

    def states(self, text: str) -> NDArray[np.float32]: ...

    def units(self, samples: NDArray[np.float32]) -> NDArray[np.int32]: ...


class T5States:
    """Last hidden states of a T5 encoder (v1.1 base for UniAudio v1).

    The folder holds its weights and tokenizer. The states are those of UniAudio's training (its
    ``T5Tokenizer.py``): the text is padded to 100 tokens, the padding is *not* masked and so takes
    part in the attention, and only the states of the text's own tokens are kept.
    """

    sample_rate = 0
    max_tokens = 100

    def __init__(self, folder: Path) -> None:
        torch, transformers = _libraries("t5")
        self._torch = torch
        self._tokenizer = _load(transformers.AutoTokenizer, folder, "t5")
        self._model = _load(transformers.T5EncoderModel, folder, "t5").eval()

    def states(self, text: str) -> NDArray[np.float32]:
        """float32 [n, width]: n tokens of the text with its end token, cut at 100."""
        tokens = self._tokenizer(
            text,
            truncation=True,
            max_length=self.max_tokens,
            padding="max_length",
            return_tensors="pt",
        )
        with self._torch.no_grad():
            states = self._model(input_ids=tokens["input_ids"]).last_hidden_state[0]
        return np.ascontiguousarray(states[: int(tokens["attention_mask"].sum())].float().numpy())

    def units(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        raise InputError("encoder t5 reads text, not sound; give a text")


class HubertUnits:
    """K-means units of HuBERT's layer 9 at 50 Hz (base, 500 units for UniAudio v1).

    The folder holds the model in the ``transformers`` layout and ``kmeans.npy``, the centres
    float32 [units, width]. Samples are not normalised, as some feature extractors would: fairseq's
    base model, which UniAudio used, does not either.
    """

    sample_rate = 16000
    layer = 9

    def __init__(self, folder: Path) -> None:
        torch, transformers = _libraries("hubert")
        self._torch = torch
        path = folder / "kmeans.npy"
        try:
            centres = array_of(read_regular(path, _MAX_CENTRES))
        except (OSError, ValueError, EOFError) as e:
            reason = " ".join(str(e).split())
            raise InputError(
                f"encoder hubert: {path}: expected the k-means centres as an .npy array, got: "
                f"{reason}"
            ) from None
        if centres.ndim != 2 or centres.dtype.kind != "f" or not np.isfinite(centres).all():
            raise InputError(
                f"encoder hubert: {path}: expected centres [units, width], got {centres.dtype} "
                f"{list(centres.shape)}"
            )
        self._centres = torch.from_numpy(np.ascontiguousarray(centres, np.float32))
        self._model = _load(transformers.HubertModel, folder, "hubert").eval()
        config = self._model.config
        if config.hidden_size != centres.shape[1] or config.num_hidden_layers < self.layer:
            raise InputError(
                f"encoder hubert: expected {self.layer} layers or more and centres of the same "
                f"width, got {config.num_hidden_layers} layers of width {config.hidden_size} and "
                f"centres of {centres.shape[1]}"
            )

    def states(self, text: str) -> NDArray[np.float32]:
        raise InputError("encoder hubert reads sound, not text; give a sound")

    def units(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """samples [N] at 16 kHz, N >= 400 -> units [n], n = (N - 80) // 320."""
        if len(samples) < 400:
            raise InputError(
                "encoder hubert: expected at least 0.025 s of sound, got "
                f"{len(samples) / self.sample_rate:.3g} s"
            )
        torch = self._torch
        with torch.no_grad():
            x = self._model(
                torch.from_numpy(samples)[None], output_hidden_states=True
            ).hidden_states[self.layer][0]
            distance = (self._centres**2).sum(1) - 2 * x @ self._centres.T
        return np.asarray(distance.argmin(1).numpy(), np.int32)


ENCODERS: dict[str, Callable[[Path], Encoder]] = {"t5": T5States, "hubert": HubertUnits}


def check_encoders(folders: Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Folders by encoder name. Raises :class:`InputError` for unknown names and missing weights."""
    if not isinstance(folders, Mapping):
        raise InputError(f"encoders: expected folders by name, got {shown(folders)}")
    unknown = sorted(
        name if isinstance(name, str) else shown(name) for name in folders if name not in ENCODERS
    )
    if unknown:
        raise InputError(f"encoders: expected {', '.join(ENCODERS)}, got {first_few(unknown)}")
    for name, folder in folders.items():
        if not isinstance(folder, (str, os.PathLike)):
            raise InputError(f"encoders: {name}: expected a folder, got {shown(folder)}")
    paths = {name: Path(folder) for name, folder in folders.items()}
    for name, path in paths.items():
        if not (path / "config.json").is_file():
            raise InputError(
                f"encoder {name}: {path}: expected a folder of weights with a config.json, found "
                "none"
            )
    return paths


def _libraries(name: str) -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as e:
        raise InputError(
            f"encoder {name} needs torch and transformers ({e}): pip install "
            "'uniaudio-engine[encoders]'"
        ) from None
    return torch, transformers


def _load(kind: Any, folder: Path, name: str) -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as e:
        reason = shown(" ".join(str(e).split()), 200)
        raise InputError(
            f"encoder {name}: {folder}: expected weights in the transformers layout, got: {reason}"
        ) from None
