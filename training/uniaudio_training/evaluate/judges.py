"""External metrics: recognisers, a speaker encoder, PESQ and ESTOI, on float32 samples [N] at 16
kHz.

A result depends on the clip alone, never on earlier clips, so that clips can be evaluated in any
order. The ``evaluate`` extra installs the packages: pocketsphinx (BSD, models included),
resemblyzer (Apache-2.0; only its weights are used, so ``--no-deps`` is enough), webrtcvad-wheels,
pesq, pystoi.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..corpus.sentences import grammar_jsgf
from .metrics import band_powers, cosine, mel_filters, words

SAMPLE_RATE = 16000
Samples = NDArray[np.float32]


class JudgeMissing(RuntimeError):
    """A package that a metric needs is missing; the message names it and how to install it."""


# Modules of the external metrics and the packages that provide them.
PACKAGES = {
    "pocketsphinx": "pocketsphinx",
    "resemblyzer": "resemblyzer (with --no-deps)",
    "webrtcvad": "webrtcvad-wheels",
    "pesq": "pesq",
    "pystoi": "pystoi",
}


def require_judges() -> None:
    """Raises JudgeMissing, in one line, naming all missing packages."""
    missing = [p for module, p in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise JudgeMissing(f"the evaluation needs {', '.join(missing)}; install them with pip")


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise JudgeMissing(
            f"this metric needs {package} ({e}); install it: pip install {package}"
        ) from None


def at_16k(samples: NDArray[Any], sample_rate: int) -> Samples:
    """Mono sound of any rate -> float32 at 16 kHz; NaN and infinity become 0, peaks are limited to
    1.
    """
    x = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if sample_rate != SAMPLE_RATE:
        x = soxr.resample(x, sample_rate, SAMPLE_RATE).astype(np.float32)
    peak = float(np.abs(x).max(initial=0.0))
    return x / peak if peak > 1.0 else x


def pcm16(samples: Samples) -> bytes:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


class Listener:
    """pocketsphinx 5 with its US English acoustic model, with the corpus grammar or its language
    model.
    """

    def __init__(self, grammar: bool) -> None:
        sphinx = _need("pocketsphinx", "pocketsphinx>=5")
        self._decoder = sphinx.Decoder(
            loglevel="FATAL", cmn="batch", **({"lm": None} if grammar else {})
        )
        if grammar:
            self._decoder.add_jsgf_string("sentences", grammar_jsgf())
            self._decoder.activate_search("sentences")

    def __call__(self, samples: Samples) -> list[str]:
        """The recognised words; [] where there are none."""
        if len(samples) < SAMPLE_RATE // 10:
            return []
        decoder = self._decoder
        # otherwise the running mean of the features carries over from the previous clip
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(pcm16(samples), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return words(hypothesis.hypstr) if hypothesis else []


@lru_cache(maxsize=2)
def listener(grammar: bool) -> Listener:
    return Listener(grammar)


# The encoder of "Generalized End-to-End Loss for Speaker Verification" (arXiv 1710.10467), with
# resemblyzer's weights.
_MELS, _WINDOW, _HOP, _PARTIAL, _PARTIAL_HOP = (
    40,
    400,
    160,
    160,
    77,
)  # samples, samples, frames, frames (1.3 per second)
_LEVEL_DB = -30.0
_VAD_SAMPLES = 480


class SpeakerEncoder(nn.Module):
    """float32 [N] at 16 kHz -> unit vector [256].

    Two clips are by the same speaker where their cosine is above about 0.81.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        found = importlib.util.find_spec("resemblyzer")
        if found is None or found.origin is None:
            raise JudgeMissing(
                "speaker similarity needs the weights in resemblyzer; install it: pip install "
                "--no-deps resemblyzer"
            )
        state = torch.load(
            Path(found.origin).with_name("pretrained.pt"), map_location="cpu", weights_only=True
        )["model_state"]
        self.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm.", "linear."))})
        self._vad = _need("webrtcvad", "webrtcvad-wheels")
        self.eval()

    def forward(self, mels: Tensor) -> Tensor:
        """Mel spectrograms [B, 160, 40] -> [B, 256]."""
        _, (hidden, _) = self.lstm(mels)
        y = torch.relu(self.linear(hidden[-1]))
        return y / y.norm(dim=1, keepdim=True).clamp(min=1e-9)

    def voiced(self, samples: Samples) -> Samples:
        """Removes pauses longer than about a quarter of a second."""
        n = len(samples) // _VAD_SAMPLES
        if not n:
            return samples
        blocks = samples[: n * _VAD_SAMPLES].reshape(n, _VAD_SAMPLES)
        vad = self._vad.Vad(3)
        flags = np.array([vad.is_speech(pcm16(b), SAMPLE_RATE) for b in blocks], np.float64)
        near = np.convolve(np.pad(flags, (3, 4)), np.ones(8) / 8, "valid") > 0.5
        wide = np.convolve(near, np.ones(7), "same") > 0
        return blocks[wide].reshape(-1) if wide.any() else samples

    @torch.no_grad()
    def embed(self, samples: Samples) -> NDArray[np.float32]:
        x = np.asarray(samples, np.float32)
        level = float(np.sqrt((x.astype(np.float64) ** 2).mean())) if len(x) else 0.0
        if level == 0.0:
            return np.zeros(256, np.float32)
        x = self.voiced(x * max(1.0, 10 ** (_LEVEL_DB / 20) / level))
        mels = band_powers(
            x, _WINDOW, _HOP, mel_filters(SAMPLE_RATE, _WINDOW, _MELS, scale="slaney")
        )
        starts = [
            s
            for s in range(0, len(mels), _PARTIAL_HOP)
            if s == 0 or len(mels) - s >= 0.75 * _PARTIAL
        ]
        mels = np.pad(mels, ((0, _PARTIAL), (0, 0)))
        mean = (
            self(
                torch.from_numpy(
                    np.stack([mels[s : s + _PARTIAL] for s in starts]).astype(np.float32)
                )
            )
            .mean(0)
            .numpy()
        )
        return mean / max(float(np.linalg.norm(mean)), 1e-9)


@lru_cache(maxsize=1)
def speaker_encoder() -> SpeakerEncoder:
    return SpeakerEncoder()


def speaker_similarity(a: Samples, b: Samples) -> float:
    """Cosine of the speaker vectors of two clips, 0 to 1."""
    encoder = speaker_encoder()
    return cosine(encoder.embed(a), encoder.embed(b))


def _same_length(original: Samples, copy: Samples) -> tuple[Samples, Samples]:
    n = len(original)
    return original, np.pad(copy[:n], (0, max(0, n - len(copy)))).astype(np.float32)


PESQ_WORST, ESTOI_WORST = 1.0, 0.0


def pesq_wb(original: Samples, copy: Samples) -> float:
    """Wideband PESQ (ITU-T P.862.2) as MOS-LQO, about 1.02 to 4.64; 1.0 where it is undefined."""
    pesq = _need("pesq", "pesq")
    a, b = _same_length(original, copy)
    if not b.any():
        return PESQ_WORST  # P.862 divides by the level of the copy
    try:
        return float(pesq.pesq(SAMPLE_RATE, a, b, "wb"))
    except pesq.NoUtterancesError:
        return PESQ_WORST


def estoi(original: Samples, copy: Samples) -> float:
    """Extended short-time objective intelligibility (doi 10.1109/TASLP.2016.2585878), up to 1."""
    stoi = _need("pystoi", "pystoi").stoi
    a, b = _same_length(original, copy)
    if not b.any():
        return ESTOI_WORST
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1e-5 for a clip with too few loud frames
        return float(stoi(a, b, SAMPLE_RATE, extended=True))
