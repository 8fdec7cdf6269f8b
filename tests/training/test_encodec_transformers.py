"""Imported EnCodec against EncodecModel of ``transformers``: saved, imported, encoded and decoded,
in all three published configurations.

Runs where transformers is installed; nothing else in the project needs it. Codes must be equal
except for proven near-ties, which are counted; audio within 1e-4 of full scale. At 48 kHz the input
is padded by transformers' feature extractor, as its documentation asks. That makes one chunk more
than there are strides in the clip, of padding alone, which our codec does not have.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from codec_tools import check_near_ties
from encodec_case import PUBLISHED
from torch.nn.utils import parametrize

from uniaudio_engine import Engine
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.storage.folder import load_folder

LENGTHS = {
    "24 kHz": [1, 7, 319, 320, 321, 5003],
    "32 kHz": [1, 7, 640, 641, 5003],
    "48 kHz": [1, 7, 47520, 47521, 48000, 48001, 100003],
}


def sound(n: int, channels: int, seed: int = 0) -> np.ndarray:
    """[C, N]: noise that swells and fades, so that loudness differs from chunk to chunk."""
    rng = np.random.default_rng(seed)
    level = 0.05 + 0.2 * np.abs(np.sin(np.arange(n) / 30000 + seed))
    return (rng.standard_normal((channels, n)) * level).clip(-1, 1).astype(np.float32)


class Pair:
    """A random EncodecModel and the engine of what was imported from it."""

    def __init__(self, name: str, folder: Path, kind: str, **changes) -> None:
        torch.manual_seed(0)
        ignored = ("architectures", "model_type", "torch_dtype", "transformers_version")
        config = transformers.EncodecConfig(
            **{k: v for k, v in (PUBLISHED[name] | changes).items() if k not in ignored}
        )
        self.theirs = transformers.EncodecModel(config).eval()
        with torch.no_grad():
            for p in (*self.theirs.encoder.parameters(), *self.theirs.decoder.parameters()):
                if p.ndim == 1:  # biases and norms away from what they begin with
                    p.add_(0.1 * torch.randn_like(p))
        self.channels, self.rate = config.audio_channels, config.sampling_rate
        # codewords lie where the latents lie, so that all are used
        z = self.latents(sound(self.rate, self.channels, 99), self.theirs)
        spread, mean = z.std(0), z.mean(0)
        for i, layer in enumerate(self.theirs.quantizer.layers):
            layer.codebook.embed.copy_(
                torch.randn_like(layer.codebook.embed) * spread * 0.96**i + (mean if i == 0 else 0)
            )
        self.double = copy.deepcopy(self.theirs).double()
        source = folder / "theirs"
        self.theirs.save_pretrained(source)
        if kind != "safetensors":
            state = self.theirs.state_dict()
            if kind == "bin, old names":
                spelling = {
                    "parametrizations.weight.original0": "weight_g",
                    "parametrizations.weight.original1": "weight_v",
                }
                state = {
                    next((k.replace(a, b) for a, b in spelling.items() if a in k), k): v
                    for k, v in state.items()
                }
            torch.save(state, source / "pytorch_model.bin")
            (source / "model.safetensors").unlink()
        import_encodec(source, folder / "ours")
        self.engine = Engine.from_pretrained(folder / "ours", threads=2)
        self.codec = self.engine.config.codec
        self.books = torch.stack([x.codebook.embed for x in self.double.quantizer.layers]).numpy()

    def extract(self, x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_values, padding_mask), padded as transformers says."""
        c = self.theirs.config
        extractor = transformers.EncodecFeatureExtractor(
            feature_size=self.channels,
            sampling_rate=self.rate,
            chunk_length_s=c.chunk_length_s,
            overlap=c.overlap,
        )
        got = extractor(
            raw_audio=x[0] if self.channels == 1 else x,
            sampling_rate=self.rate,
            return_tensors="pt",
        )
        return got["input_values"], got["padding_mask"]

    def latents(self, x: np.ndarray, model) -> torch.Tensor:
        """[T, E] before quantization, of all chunks that are ours."""
        c = model.config
        values, _ = self.extract(x)
        values = values.to(next(model.parameters()).dtype)
        pieces = (
            [values]
            if c.chunk_length is None
            else [values[..., i : i + c.chunk_length] for i in range(0, x.shape[1], c.chunk_stride)]
        )
        with torch.no_grad():
            if c.normalize:
                pieces = [
                    p / (p.mean(1, keepdim=True).pow(2).mean(-1, keepdim=True).sqrt() + 1e-8)
                    for p in pieces
                ]
            return torch.cat([model.encoder(p)[0] for p in pieces], -1).T

    def check(self, x: np.ndarray, bandwidths: list[float]) -> tuple[int, int, float]:
        """(frames, frames with near-ties, largest difference of a sample over the largest sample)."""
        n = x.shape[1]
        values, mask = self.extract(x)
        z32, z64 = self.latents(x, self.theirs).numpy(), self.latents(x, self.double).numpy()
        frames, ties, worst = 0, 0, 0.0
        for bandwidth in bandwidths:
            with torch.no_grad():
                theirs = self.theirs.encode(values, mask, bandwidth)
            k = self.codec.codebooks_for(bandwidth)
            encoded = self.engine.encode_audio((x.T, self.rate), bandwidth=bandwidth)
            assert encoded.samples == n and encoded.codes.shape == (k, self.codec.frames(n))
            chunks = theirs.audio_codes[:, 0]  # [chunks, K, T of one]
            ours = self.codec.frames(n) // chunks.shape[-1]
            expected = np.concatenate([c.numpy() for c in chunks[:ours]], axis=1)
            frames, ties = check_near_ties(
                encoded.codes, expected, z32, z64, self.books
            )  # those of the last, highest bandwidth count
            if self.codec.normalizes:
                scales = np.array([s.item() for s in theirs.audio_scales[:ours]], np.float32)
                assert (
                    encoded.scales is not None
                    and np.abs(encoded.scales - scales).max() <= 2e-6 * scales.max()
                )
            # their codes by both decoders
            codes, scales = expected.astype(np.int32), None if encoded.scales is None else scales
            given = theirs.audio_codes, theirs.audio_scales, mask
            pad = theirs.last_frame_pad_length
            if (
                self.theirs.config.chunk_length is not None
                and self.theirs.config.chunk_length % self.codec.frame_size
            ):
                given, pad = (
                    (given[0][:ours], given[1][:ours], None),
                    0,
                )  # transformers cannot add its own last chunk up then
            with torch.no_grad():
                pcm = self.theirs.decode(*given, last_frame_pad_length=pad)
            pcm = pcm.audio_values[0, :, :n].numpy()
            mine = self.engine.codec.decode(codes, scales)
            mine = mine.reshape(self.channels, -1)[:, :n]
            assert mine.shape == pcm.shape == x.shape
            worst = max(worst, float(np.abs(mine - pcm).max() / np.abs(pcm).max()))
            back = self.engine.decode(encoded)
            assert back.samples.shape == (x.shape if self.channels > 1 else (n,))
        return frames, ties, worst


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("kind", ["safetensors", "bin", "bin, old names"])
def test_small_models_of_each_shape(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "bin, old names" and name == "48 kHz":
        kind = "bin"  # it has no weight norm
    pair = Pair(name, tmp_path, kind, num_filters=8)
    frames = ties = 0
    for n in LENGTHS[name] if kind == "safetensors" else LENGTHS[name][-1:]:
        f, t, worst = pair.check(sound(n, pair.channels, n), PUBLISHED[name]["target_bandwidths"])
        assert worst <= 1e-4
        frames, ties = frames + f, ties + t
    print(f"{name}, {kind}: {ties} near-ties in {frames} frames")
    assert ties <= max(2, frames // 50)


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_shapes(name: str, tmp_path: Path) -> None:
    pair = Pair(name, tmp_path, "safetensors")
    n = int(2.5 * pair.rate) + 77
    frames, ties, worst = pair.check(
        sound(n, pair.channels, 3), PUBLISHED[name]["target_bandwidths"]
    )
    print(f"{name}: {ties} near-ties in {frames} frames, audio off by {worst:.1e}")
    assert worst <= 1e-4 and ties <= max(2, frames // 50)


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_length_s": 0.1, "overlap": 0.25},
        {
            "chunk_length_s": 0.05,
            "overlap": 0.0,
            "use_causal_conv": True,
            "norm_type": "weight_norm",
        },
        {"chunk_length_s": 0.0613, "overlap": 0.5, "audio_channels": 1},
        {
            "chunk_length_s": 0.1,
            "overlap": 0.01,
            "normalize": False,
            "num_residual_layers": 3,
            "use_conv_shortcut": False,
        },
        {"chunk_length_s": None, "overlap": None},
        {
            "pad_mode": "constant",
            "chunk_length_s": None,
            "overlap": None,
            "norm_type": "weight_norm",
            "normalize": False,
        },
    ],
    ids=str,
)
def test_what_transformers_can_express(changes: dict, tmp_path: Path) -> None:
    pair = Pair("48 kHz", tmp_path, "safetensors", num_filters=4, **changes)
    for n in (1, 4803, 20000):
        frames, ties, worst = pair.check(sound(n, pair.channels, n), [3.0, 24.0])
        assert worst <= 1e-4 and ties <= max(2, frames // 50)


def test_24_khz_streams(tmp_path: Path) -> None:
    pair = Pair("24 kHz", tmp_path, "safetensors", num_filters=8)
    x = sound(24000, 1, 4)[0]
    codec = pair.engine.codec
    codes = codec.encode(x)
    pcm = codec.decode(codes)
    encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
    got, played = [], []
    for at in range(0, len(x), 1111):
        got.append(encoder.push(x[at : at + 1111]))
        played.append(decoder.push(got[-1]))
    got.append(encoder.flush())
    played += [decoder.push(got[-1]), decoder.flush()]
    assert np.array_equal(np.concatenate(got, 1), codes) and np.array_equal(
        np.concatenate(played), pcm
    )
    with torch.no_grad():
        theirs = pair.theirs.encode(torch.from_numpy(x)[None, None], bandwidth=24.0)
    assert (theirs.audio_codes[0, 0].numpy() != codes).any(0).sum() <= 2


def test_weight_norm_is_folded_as_torch_folds_it(tmp_path: Path) -> None:
    pair = Pair("24 kHz", tmp_path, "safetensors", num_filters=8)
    for module in pair.theirs.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    theirs = pair.theirs.state_dict()["encoder.layers.3.conv.weight"].numpy()
    ours = load_folder(pair.engine.model.folder.path).codec["encoder.stages.0.down.weight"]
    assert np.abs(ours - theirs).max() <= 2e-7 * np.abs(theirs).max()
