"""Judges of naturalness and an open-vocabulary recogniser, for real voices: DNSMOS, distillMOS and
whisper.

All hear float32 samples [N] at 16 kHz, |x| <= 1.  Weights lie in the packages ``speechmos`` (MIT)
and ``distillmos`` with ``xls-r-sqa`` (MIT; installed with ``--no-deps``); whisper is a folder of
its CTranslate2 form (MIT), read by ``faster-whisper``: nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .judges import SAMPLE_RATE, JudgeMissing, Samples

_SECONDS = 9.01  # what DNSMOS hears at once
_P808_MELS, _P808_WINDOW, _P808_HOP = 120, 321, 160
_TOP_DB = 80.0


@dataclass(frozen=True)
class Dnsmos:
    """Predicted opinions from 1 to 5: ``p808`` of the whole (P.808), and P.835's ``sig`` of the
    speech, ``bak`` of the background, ``ovrl`` of both."""

    p808: float
    sig: float
    bak: float
    ovrl: float


def _package(name: str, install: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise JudgeMissing(f"this judge needs {name}; install it: pip install {install}")
    return Path(found.origin).parent


def slaney_filters(bins: int, mels: int, sample_rate: int) -> NDArray[np.float64]:
    """Triangular filters [mels, bins] on Slaney's mel scale (linear to 1 kHz, logarithmic above),
    each of unit area."""

    def mel(hz: Any) -> Any:
        hz = np.asarray(hz, np.float64)
        return np.where(
            hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1) / 1000) / np.log(6.4)
        )

    def hertz(m: Any) -> Any:
        return np.where(m < 15, m * 200 / 3, 1000 * np.exp((m - 15) * np.log(6.4) / 27))

    edges = hertz(np.linspace(0, float(mel(sample_rate / 2)), mels + 2))
    hz = np.linspace(0, sample_rate / 2, bins)
    up = (hz[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - hz[None]) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(up, down)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _p808_features(samples: Samples) -> NDArray[np.float32]:
    """Log-mel spectrogram [T, 120] as P.808's network wants it: 0 dB at the loudest, (dB + 40) /
    40.
    """
    pad = _P808_WINDOW // 2
    x = np.pad(samples.astype(np.float64), pad)
    segments = np.lib.stride_tricks.sliding_window_view(x, _P808_WINDOW)[::_P808_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_P808_WINDOW) / _P808_WINDOW)
    power = np.abs(np.fft.rfft(segments * hann, axis=1)) ** 2
    mel = power @ slaney_filters(power.shape[1], _P808_MELS, SAMPLE_RATE).T
    db = 10 * np.log10(np.maximum(mel, 1e-10))
    db = np.maximum(db - db.max(), -_TOP_DB)
    return ((db + 40) / 40).astype(np.float32)


class DnsmosJudge:
    """DNSMOS; a clip shorter than 9 s is heard repeated, a longer one second by second."""

    def __init__(self) -> None:
        import onnxruntime as ort

        folder = _package("speechmos", "--no-deps speechmos") / "dnsmos_models"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._p808, self._p835 = (
            ort.InferenceSession(str(folder / f), options, providers=["CPUExecutionProvider"])
            for f in ("model_v8.onnx", "sig_bak_ovr.onnx")
        )

    def __call__(self, samples: Samples) -> Dnsmos:
        n = int(_SECONDS * SAMPLE_RATE)
        while len(samples) < n:
            samples = np.concatenate((samples, samples))
        hops = int(np.floor(len(samples) / SAMPLE_RATE) - _SECONDS) + 1
        found = []
        for i in range(max(1, hops)):
            part = samples[i * SAMPLE_RATE : i * SAMPLE_RATE + n].astype(np.float32)
            if len(part) < n:
                break
            p808 = self._p808.run(None, {"input_1": _p808_features(part[:-160])[None]})[0][0][0]
            sig, bak, ovrl = self._p835.run(None, {"input_1": part[None]})[0][0]
            found.append(
                (
                    float(p808),
                    float(np.polyval([-0.08397278, 1.22083953, 0.0052439], sig)),
                    float(np.polyval([-0.13166888, 1.60915514, -0.39604546], bak)),
                    float(np.polyval([-0.06766283, 1.11546468, 0.04602535], ovrl)),
                )
            )
        return Dnsmos(*(float(v) for v in np.mean(found, axis=0)))


class DistillMos:
    """distillMOS: a predicted opinion from 1 to 5 of speech."""

    def __init__(self) -> None:
        import torch

        _package("distillmos", "--no-deps distillmos xls-r-sqa==0.1.0")
        if "torchaudio" not in sys.modules and importlib.util.find_spec("torchaudio") is None:
            # imported by the package for reading files, which nobody here asks it to do
            stub, transforms = (
                types.ModuleType("torchaudio"),
                types.ModuleType("torchaudio.transforms"),
            )
            stub.transforms = transforms  # type: ignore[attr-defined]
            transforms.MFCC = None  # type: ignore[attr-defined]
            sys.modules.update({"torchaudio": stub, "torchaudio.transforms": transforms})
        module = importlib.import_module("distillmos")
        self._torch = torch
        self._model = module.ConvTransformerSQAModel().eval()

    def __call__(self, samples: Samples) -> float:
        with self._torch.no_grad():
            x = self._torch.from_numpy(np.ascontiguousarray(samples, np.float32))
            return float(self._model(x[None]))


_NUMBERS = {
    "0": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
    "11": "eleven",
    "12": "twelve",
    "20": "twenty",
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "st": "saint",
}


def heard_words(text: str) -> list[str]:
    """A text's words in a form that recognisers and scripts share: lower case, no punctuation,
    small numbers and titles spelt out."""
    found = re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower().replace("’", "'"))
    return [_NUMBERS.get(w, w) for w in found]


class Whisper:
    """whisper in its CTranslate2 form, English. Raises JudgeMissing where ``folder`` has no model."""

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        if not (Path(folder) / "model.bin").is_file():
            raise JudgeMissing(
                f"{folder}: expected whisper in CTranslate2's form (model.bin, config.json, "
                "tokenizer.json, vocabulary.txt)"
            )
        try:
            module = importlib.import_module("faster_whisper")
        except ImportError as e:
            raise JudgeMissing(
                f"this judge needs faster-whisper ({e}); install it: pip install faster-whisper"
            ) from None
        self._model = module.WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=threads,
            local_files_only=True,
        )

    def __call__(self, samples: Samples) -> list[str]:
        """The words heard, as ``heard_words`` gives them; alike for the same clip."""
        segments, _ = self._model.transcribe(
            samples.astype(np.float32),
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return heard_words(" ".join(s.text for s in segments))


@lru_cache(maxsize=1)
def dnsmos() -> DnsmosJudge:
    return DnsmosJudge()


@lru_cache(maxsize=1)
def distillmos() -> DistillMos:
    return DistillMos()


@lru_cache(maxsize=1)
def whisper(folder: str | Path) -> Whisper:
    return Whisper(folder)
