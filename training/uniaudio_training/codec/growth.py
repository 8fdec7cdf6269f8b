"""A codec that starts from the weights of another one: a smaller one, or one whose decoder has other
windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uniaudio_engine.storage.config import CodecConfig

from ..checkpoints import read_codec
from ..models.spectral import SpectralCodec

_FITTED_BATCHES = 24
_RIDGE = 1e-3  # relative to the mean square of what the output layer reads


def start_from(
    path: str | Path, model: SpectralCodec, batch: Callable[[], Tensor], stages: int
) -> None:
    """Gives ``model`` the weights of a codec (``checkpoints.read_codec``) that may be smaller or have
    other decoder windows. For the latter ``batch`` gives samples [B, N] to fit the output layer on,
    coded with ``stages`` codebooks.

    Raises ValueError where a shape would shrink.
    """
    config, weights = read_codec(path)
    if _windows(config) == _windows(model.config):
        grown(model, weights)
        return
    grown(model, {k: v for k, v in weights.items() if not k.startswith("decoder.output.")})
    old = SpectralCodec(config).eval()
    old.load_state_dict(weights)
    device = next(model.parameters()).device
    fit_head(model.cpu(), old, (batch() for _ in range(_FITTED_BATCHES)), stages)
    model.to(device)


def _windows(config: CodecConfig) -> tuple[int, int]:
    assert config.spectral is not None
    return config.spectral.decoder_window, config.spectral.decoder_subframes


def _grow(new: Tensor, old: Tensor, inputs: bool) -> Tensor:
    """``old`` in the leading part of ``new``; with ``inputs``, weights that read new channels are
    zero.
    """
    out = new.clone()
    if inputs:
        out[: old.shape[0], old.shape[1] :] = 0
    out[tuple(slice(0, n) for n in old.shape)] = old
    return out


def grown(model: SpectralCodec, old: Mapping[str, Tensor]) -> None:
    """Copies the weights of a smaller codec with the same windows into ``model``.

    New channels are written with fresh weights and not read at first. Gains of norms are scaled by
    the square root of the ratio of widths, since channels near zero reduce the deviation that a
    norm divides by. New blocks are the identity at first. Raises ValueError where a shape would
    shrink.
    """
    state = model.state_dict()
    for name, value in state.items():
        before = old.get(name)
        if before is None:
            if name.endswith("down.weight"):  # of a new block
                value = value * 0
        elif before.shape == value.shape:
            value = before.clone()
        elif len(before.shape) != len(value.shape) or any(
            a > b for a, b in zip(before.shape, value.shape, strict=True)
        ):
            raise ValueError(
                f"{name}: expected at most {list(value.shape)}, got {list(before.shape)}; "
                "a codec can only grow"
            )
        elif "norm.weight" in name:
            value = value.clone()
            value[: len(before)] = before * (len(before) / len(value)) ** 0.5
        elif "norm.bias" in name or name.endswith(".bias"):
            value = _grow(value * 0, before, False)
        else:
            inner = "depthwise" not in name and not name.endswith("input.weight")
            value = _grow(value, before, inner)
            if name.endswith("input.weight") or name.endswith("down.weight"):
                value[before.shape[0] :] *= 0.1
        state[name] = value
    model.load_state_dict(state)


@torch.no_grad()
def fit_head(
    model: SpectralCodec, old: SpectralCodec, batches: Iterable[Tensor], stages: int
) -> None:
    """Gives a decoder with other windows than ``old`` an output layer that says nearly the same.

    Least squares from what the layer reads to the log magnitudes and the phases of ``old``'s output.
    Predicted phases are shorter than 1 where they are uncertain; a gain for each bin then restores
    the magnitudes.
    """
    c = model.spectral
    sub, w, inputs = c.decoder_subframes, c.decoder_window, c.decoder_width + 1
    hop, outputs = model.config.frame_size // sub, 3 * sub * (w // 2 + 1)
    gram = torch.zeros(inputs, inputs, dtype=torch.float64)
    target = torch.zeros(inputs, outputs, dtype=torch.float64)
    rows = []
    for samples in batches:
        z = old.quantizer.decode(old.encode(samples, stages))
        y = F.pad(old.synthesize(z), (w - hop, 0)).unfold(1, w, hop) * model.decoder_window
        spectrum = torch.fft.rfft(y)
        size = spectrum.abs() + 1e-6
        wanted = torch.stack((size.log(), spectrum.real / size, spectrum.imag / size), 2)
        x = F.pad(model.decoder.hidden(z.transpose(1, 2)).flatten(0, 1), (0, 1), value=1.0)
        gram += x.T.double() @ x.double()
        target += x.T.double() @ wanted.reshape(len(x), outputs).double()
        rows.append((x, size.reshape(len(x), sub, -1)))
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(inputs, dtype=torch.float64)
    found = torch.linalg.solve(gram, target).float()
    sizes = [torch.zeros(sub, w // 2 + 1) for _ in range(2)]  # wanted, and found
    for x, size in rows:
        made = (x @ found).view(len(x), sub, 3, -1)
        sizes[0] += size.sum(0)
        sizes[1] += (made[:, :, 0].exp() * made[:, :, 1:].norm(dim=2)).sum(0)
    bias = found[-1].view(sub, 3, -1).clone()
    bias[:, 0] += (sizes[0] / sizes[1].clamp(min=1e-9)).log().clamp(-3, 3)
    model.decoder.output.weight.copy_(found[:-1].T)
    model.decoder.output.bias.copy_(bias.flatten())
