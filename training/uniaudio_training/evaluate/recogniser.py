"""A phone recogniser: log-mel -> small ConvNeXt -> CTC over phones without stress.

A grammar or language model hides a wrong phone behind a likely word. This one has neither. It is
trained on the corpus, whose phone times are exact (``train_recogniser.py``). The weights are stored
next to this file, so that everyone measures with the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.text.phones import PAUSE, PHONES

from ..packed import write_tensors
from .metrics import band_powers, mel_filters

SAMPLE_RATE = 16000
WEIGHTS = Path(__file__).with_name("recogniser.safetensors")
PHONE_SET = tuple(sorted({p.rstrip("012") for p in PHONES} - {PAUSE}))  # ids 1..; 0 is CTC's blank
BANDS, WINDOW, HOP, STACK = (
    64,
    400,
    160,
    2,
)  # 25 ms windows every 10 ms, two per step: 50 steps per second
STEP_RATE = SAMPLE_RATE / HOP / STACK
# Relative to the clip's loudest band: a range of 60 dB hides the noise floor of a recording.
_FLOOR = 1e-6
_WIDTH, _HIDDEN, _BLOCKS, _KERNEL = 192, 448, 6, 9

Floats = NDArray[np.float32]


def mel_power(samples: NDArray[Any]) -> Floats:
    """Mel band powers [T, 64] at 100 Hz."""
    return band_powers(samples, WINDOW, HOP, mel_filters(SAMPLE_RATE, WINDOW, BANDS, 50.0, 7600.0))


def normalise(power: Floats) -> Floats:
    """Band powers [T, 64] -> features [T // 2, 128]: log powers without level and average spectrum
    (the mean over the loud frames).
    """
    if len(power) < STACK:
        power = np.pad(power, ((0, STACK - len(power)), (0, 0)))
    x = np.log(power / max(float(power.max()), 1e-12) + _FLOOR)
    energy = power.sum(1)
    x -= x[energy >= energy.max() * 1e-3].mean(0)
    n = len(x) // STACK * STACK
    return (x[:n] / 3.0).reshape(-1, STACK * BANDS).astype(np.float32)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(_WIDTH, _WIDTH, _KERNEL, padding=_KERNEL // 2, groups=_WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.up = nn.Linear(_WIDTH, _HIDDEN)
        self.down = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(y))))


class Recogniser(nn.Module):
    """Features [B, T, 128] at 50 Hz -> log-probabilities [B, T, 1 + phones]; the receptive field is
    0.5 s on either side.
    """

    def __init__(self, phones: Sequence[str] = PHONE_SET) -> None:
        super().__init__()
        self.phones = tuple(phones)
        self.input = nn.Linear(STACK * BANDS, _WIDTH)
        self.input_norm = nn.LayerNorm(_WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, len(self.phones) + 1)
        for block in cast("list[_Block]", list(self.blocks)):
            nn.init.trunc_normal_(block.down.weight, std=0.02)
            nn.init.zeros_(block.down.bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self.input_norm(self.input(features))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).float().log_softmax(-1)

    @torch.no_grad()
    def hear(self, samples: NDArray[Any]) -> list[str]:
        """float32 [N] at 16 kHz -> phones without stress and pauses (greedy CTC decoding)."""
        if len(samples) < HOP * STACK or not np.any(samples):
            return []
        path = self(torch.from_numpy(normalise(mel_power(samples)))[None])[0].argmax(-1)
        return [self.phones[i - 1] for i in torch.unique_consecutive(path).tolist() if i]

    @classmethod
    def load(cls, path: str | Path = WEIGHTS) -> Recogniser:
        """Loads saved weights. Raises FileNotFoundError where there are none."""
        from safetensors import safe_open

        if not Path(path).exists():
            raise FileNotFoundError(
                f"no recogniser at {path}; train one: uniaudio-train evaluate recogniser"
            )
        with safe_open(str(path), "pt") as f:
            phones = f.metadata()["phones"].split()
            state = {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118 (not a mapping)
        model = cls(phones)
        model.load_state_dict(state)
        return model.eval()

    def save(self, path: str | Path, **about: str) -> None:
        """Writes the weights as float16, with the phones in the metadata."""
        state = {k: v.detach().half().contiguous() for k, v in self.state_dict().items()}
        write_tensors(
            path,
            state,
            {"format": "uniaudio-recogniser-1", "phones": " ".join(self.phones), **about},
        )


@lru_cache(maxsize=1)
def recogniser() -> Recogniser:
    return Recogniser.load()


# Training
