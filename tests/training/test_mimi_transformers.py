"""Imported Mimi against MimiModel of ``transformers``: saved, imported, encoded, decoded, streamed.

Codes must be equal except for proven near-ties, which are counted; audio within 1e-4 of full scale.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from codec_tools import check_near_ties
from windowed_tools import MIMI

from uniaudio_engine import Engine
from uniaudio_engine.importers import shapes
from uniaudio_engine.importers.archive import Member
from uniaudio_engine.importers.mimi import import_mimi, read_config

SMALL = {k: v for k, v in MIMI.items() if k != "model_type"} | {"layer_scale_initial_scale": 0.3}


class Pair:
    """A random MimiModel and the engine of what was imported from it."""

    def __init__(self, folder: Path, **config: Any) -> None:
        torch.manual_seed(0)
        self.theirs = transformers.MimiModel(transformers.MimiConfig(**config)).eval()
        rate = self.theirs.config.sampling_rate
        with torch.no_grad():
            for name, p in self.theirs.named_parameters():
                if p.ndim == 1 and "scale" not in name:  # away from what they begin with
                    p.add_(0.1 * torch.randn_like(p))
            z = self.latent(self.theirs, self.sound(rate, 99))
            for part in self.parts(self.theirs):
                # codewords lie where the latents lie, so that all are used
                e = part.input_proj(z)[0].T
                for i, layer in enumerate(part.layers):
                    book = torch.randn_like(layer.codebook.embed_sum) * e.std(0) * 0.95**i
                    count = 0.5 + torch.rand(len(book))
                    layer.codebook.cluster_usage.copy_(count)
                    book = (book + (e.mean(0) if i == 0 else 0)) * count[:, None]
                    layer.codebook.embed_sum.copy_(book)
        self.double = copy.deepcopy(self.theirs).double()
        self.theirs.save_pretrained(folder / "theirs")
        import_mimi(folder / "theirs", folder / "ours")
        self.codec = Engine.from_pretrained(folder / "ours", threads=2).codec

    @staticmethod
    def parts(model: Any) -> list[Any]:
        q = model.quantizer
        return [q.semantic_residual_vector_quantizer, q.acoustic_residual_vector_quantizer]

    @staticmethod
    def sound(n: int, seed: int = 0) -> np.ndarray:
        return (np.random.default_rng(seed).standard_normal(n) * 0.2).astype(np.float32)

    @staticmethod
    def latent(model: Any, x: np.ndarray) -> Any:
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            return model.encoder(torch.from_numpy(x)[None, None].to(dtype)).latents

    def check(self, x: np.ndarray, codebooks: int) -> tuple[int, int, float]:
        """(frames, frames with near-ties, largest difference of a sample over the largest)."""
        with torch.no_grad():
            given = torch.from_numpy(x)[None, None]
            expected = self.theirs.encode(given, num_quantizers=codebooks).audio_codes[0].numpy()
            pcm = self.theirs.decode(torch.from_numpy(expected)[None]).audio_values[0, 0].numpy()
        codes = self.codec.encode(x, codebooks)
        assert codes.shape == expected.shape
        ties, begin = 0, 0
        z32, z64 = (self.latent(m, x) for m in (self.theirs, self.double))
        for part32, part64 in zip(self.parts(self.theirs), self.parts(self.double), strict=True):
            end = min(codebooks, begin + len(part32.layers))
            if begin < end:
                with torch.no_grad():
                    e32 = part32.input_proj(z32)[0].T.numpy()
                    e64 = part64.input_proj(z64)[0].T.numpy()
                books = torch.stack([layer.codebook.embed for layer in part64.layers]).numpy()
                rows = slice(begin, end)
                ties += check_near_ties(codes[rows], expected[rows], e32, e64, books)[1]
            begin += len(part32.layers)
        mine = self.codec.decode(expected.astype(np.int32))
        assert mine.shape == pcm.shape
        return codes.shape[1], ties, float(np.abs(mine - pcm).max() / np.abs(pcm).max())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("mimi"), **SMALL)


@pytest.mark.parametrize("n", [1, 7, 12, 13, 1999])
def test_lengths(small: Pair, n: int) -> None:
    for codebooks in (1, 2, 6):
        frames, ties, worst = small.check(small.sound(n, n), codebooks)
        assert worst <= 1e-4 and ties <= max(1, frames // 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_residual_layers": 2, "use_conv_shortcut": True},
        {"num_semantic_quantizers": 2, "sliding_window": 1},
        {"upsampling_ratios": [4, 5, 3], "rope_parameters": {"rope_theta": 500.0}},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "last_kernel_size": 7},
    ],
    ids=str,
)
def test_what_transformers_can_express(changes: dict[str, Any], tmp_path: Path) -> None:
    if "rope_parameters" in changes:
        changes["rope_parameters"]["rope_type"] = "default"
    pair = Pair(tmp_path, **SMALL | changes)
    for n in (1, 1500):
        frames, ties, worst = pair.check(pair.sound(n, n), 6)
        assert worst <= 1e-4 and ties <= max(1, frames // 50)


def test_streams_are_their_clip(small: Pair) -> None:
    x = small.sound(1200, 4)
    encoder = small.codec.encoder_stream()
    codes = [encoder.push(x[i : i + 100].copy()) for i in range(0, 1200, 100)]
    with torch.no_grad():
        theirs = small.theirs.encode(torch.from_numpy(x)[None, None]).audio_codes[0].numpy()
    assert (np.concatenate(codes, 1) != theirs).any(0).sum() <= 2


@pytest.mark.slow
def test_the_published_shape(tmp_path: Path) -> None:
    pair = Pair(tmp_path, layer_scale_initial_scale=0.3)
    frames, ties, worst = pair.check(pair.sound(24000 * 12 + 77, 3), 32)
    print(f"{ties} near-ties in {frames} frames, audio off by {worst:.1e}")
    assert worst <= 1e-4 and ties <= max(2, frames // 50)


def test_the_published_shape_is_the_default_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(transformers.MimiConfig().to_dict()))
    assert read_config(Member(path, path.name, path))[0] == shapes.MIMI
