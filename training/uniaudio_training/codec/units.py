"""A loss that hears phones: by how much a semantic tokenizer hears a copy differently."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ..checkpoints import load_semantic


class UnitLoss(nn.Module):
    """Squared distance between the latents of a frozen semantic tokenizer, relative to their size.

    Discriminators want speech that sounds natural, whichever phone it is. The latents, which become
    units, tell phones apart.
    """

    def __init__(self, folder: str | Path) -> None:
        """``folder``: a run or a model folder with a semantic tokenizer."""
        super().__init__()
        self.tokenizer = load_semantic(folder)[1].requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (the original), y [B, N] at 16 kHz -> []; with a gradient for y alone."""
        wanted = self.tokenizer.latent(x.detach())
        return (self.tokenizer.latent(y) - wanted).square().mean() / wanted.square().mean()
