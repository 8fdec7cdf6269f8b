"""PyTorch, text to sound: the language model of ``torch_lm`` and the codec's decoder in its manner.

float32 with weights packed for oneDNN, or int8 by ``quantize_dynamic``, all linear layers of the
language model and of the decoder.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .speech import Source, SpeechPeer, SpeechSpec
from .torch_lm import Stack, TorchLM, fused, optimized


class TorchDecoder(nn.Module):
    def __init__(self, source: Source) -> None:
        super().__init__()
        w = {k: torch.from_numpy(v) for k, v in source.decoder().items()}
        self.stages = source.stages
        self.table, self.bias = w["table"], w["bias"]
        self.inputs = nn.ModuleList(fused(w, [f"{s.name}.input"]) for s in self.stages)
        self.stacks = nn.ModuleList(Stack(w, s.name, s.config, s.window) for s in self.stages)
        self.outputs = nn.ModuleList(fused(w, [f"{s.name}.output"]) for s in self.stages)

    def begin(self, frames: int) -> None:
        rows, self.caches = frames, []
        for stage, stack in zip(self.stages, self.stacks, strict=True):
            rows *= stage.split
            assert rows <= stage.window, "a clip within the windows"
            self.caches.append(stack.cache(1, rows))

    def forward(self, codes: Tensor) -> Tensor:
        """codes [codebooks, T] from the clip's start -> samples [2, N]."""
        x = self.bias + sum(F.embedding(row, t) for row, t in zip(codes, self.table, strict=True))
        parts = zip(self.stages, self.inputs, self.stacks, self.outputs, self.caches, strict=True)
        for stage, first, stack, last, cache in parts:
            x = x.reshape(len(x) * stage.split, -1)
            x = last(stack(first(x)[None], cache, 0)[0])
        return x.reshape(-1, 2).T


class SpeechTorch(SpeechPeer):
    version = f"torch {torch.__version__}"

    @torch.inference_mode()
    def _load(self, spec: SpeechSpec) -> None:
        torch.set_num_threads(spec.threads)
        source = self.source
        self.lm: TorchLM = optimized(
            TorchLM(source.model, source.weights(), torch.float32), spec.dtype
        )
        self.decoder: TorchDecoder = optimized(TorchDecoder(source), spec.dtype)
        aligned = source.model.aligned(1)
        self.aligned = None if aligned is None else torch.from_numpy(aligned).long()

    @torch.inference_mode()
    def begin(self, rows: int, frames: int) -> None:
        self.lm.begin(1, rows)
        self.decoder.begin(frames)

    def _hear(self, prompt: Tensor) -> None:
        aligned = self.source.model.aligned(prompt.shape[1])
        self.lm.hear(prompt, None if aligned is None else torch.from_numpy(aligned).long())

    @torch.inference_mode()
    def generate(self, prompt: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        self._hear(torch.from_numpy(prompt).long()[None])
        return torch.cat([self.lm.step(self.aligned) for _ in range(count)]).int().numpy()

    @torch.inference_mode()
    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        ids = torch.from_numpy(frames).long()[None]
        self.lm.begin(1, len(frames))
        self._hear(ids[:, :known])
        out: list[Tensor] = []
        for t in range(known, len(frames)):
            self.lm.step(self.aligned, ids[:, t], out)
        return torch.cat(out, dim=1).view(len(frames) - known, -1).numpy()

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.decoder(torch.from_numpy(codes).long()).numpy())
