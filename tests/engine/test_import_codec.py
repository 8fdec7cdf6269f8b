"""UniAudio's codec from its own file: the same codes and the same sound as the original
architecture.

``reference_codec.py`` is the oracle. A code may differ only in a near-tie, proven in float64: a
difference of scores that the float32 error of the latents can explain. Tolerance of sound: 1e-4 of
the largest sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from import_tools import tiny_files, write_codec, write_yaml
from reference_codec import Codebook, Conv, ReferenceCodec, SkipLSTM, Upsample, Weights

from uniaudio_engine import Engine
from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.uniaudio import import_uniaudio

SHAPES: dict[str, dict[str, Any]] = {
    "released": {},  # 32 filters, 128 wide, 12 x 1024
    "small": {"filters": 4, "width": 16, "codebooks": 6, "codes": 64},
    "wide": {"filters": 6, "width": 40, "ratios": (5, 4), "codebooks": 4, "codes": 50},
    "odd strides": {"filters": 4, "width": 12, "ratios": (3, 5, 3), "codebooks": 4, "codes": 64},
    "causal": {"filters": 4, "width": 16, "codebooks": 4, "codes": 64, "causal": True},
}


class Pair:
    def __init__(self, root: Path, shape: dict[str, Any], config: bool = True) -> None:
        torch.manual_seed(0)
        self.mirror = ReferenceCodec(**shape).randomize(2)
        tiny_files(root, codes=self.mirror.books[0].embed.shape[0])
        write_codec(root / "codec", self.mirror)
        if shape.get("causal"):
            write_yaml(
                root / "codec/config.yaml",
                {"generator": {"name": "SoundStream", "config": {"causal": True}}},
            )
        import_uniaudio(
            root / "lm", root / "codec" if config else root / "codec/model.pth", root / "out"
        )
        self.engine = Engine.from_pretrained(root / "out", threads=2)
        self.exact = copy.deepcopy(self.mirror).double()

    def near_ties(self, got: np.ndarray, x: np.ndarray) -> int:
        """How many frames differ; fails where a difference is no near-tie."""
        t = torch.from_numpy(x)[None, None]
        with torch.no_grad():
            expected = self.mirror.encode(t)[:, 0].numpy()
            z32, z64 = (
                m.latent(t.to(d))[0].T.numpy()
                for m, d in ((self.mirror, torch.float32), (self.exact, torch.float64))
            )
        assert (
            got.shape == expected.shape == (len(self.mirror.books), -(-len(x) // self.mirror.hop))
        )
        books = [b.embed.numpy() for b in self.exact.books]
        error = max(4 * np.abs(z32 - z64).max(), 1e-6 * np.abs(z64).max())
        different = np.nonzero((got != expected).any(0))[0]
        for j in different:
            k = int(np.nonzero(got[:, j] != expected[:, j])[0][0])
            residual = z64[j] - sum(books[i][expected[i, j]] for i in range(k))
            a, b = books[k][got[k, j]], books[k][expected[k, j]]
            gap = abs(((residual - a) ** 2).sum() - ((residual - b) ** 2).sum())
            assert gap <= 2 * error * np.abs(a - b).sum() + 1e-5 * (residual**2).sum(), (
                f"frame {j}, codebook {k}: {gap} is no near-tie"
            )
        return len(different)

    def off(self, codes: np.ndarray) -> float:
        """Largest difference of the sound of ``codes``, in parts of the loudest sample."""
        with torch.no_grad():
            expected = self.mirror.decode(torch.from_numpy(codes).long()[:, None])[0, 0].numpy()
        got = self.engine.codec.decode(codes)
        assert got.shape == expected.shape
        return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("codec"), SHAPES[request.param])


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=n) * 0.3).astype(np.float32)


def test_any_length(pair: Pair, record_property: Callable[[str, object], None]) -> None:
    hop = pair.mirror.hop
    frames = ties = 0
    worst = 0.0
    for n in (1, 2, 3, 7, hop - 1, hop, hop + 1, 2 * hop + 5, 24 * hop + 13, 150 * hop):
        codes = pair.engine.codec.encode(noise(n, n))
        ties += pair.near_ties(codes, noise(n, n))
        frames += codes.shape[1]
        for k in (1, 3, len(codes)):
            np.testing.assert_array_equal(pair.engine.codec.encode(noise(n, n), k), codes[:k])
            worst = max(worst, pair.off(codes[:k]))
    print(f"{ties} near-ties in {frames} frames, sound within {worst:.2g}")
    record_property("near-ties", f"{ties} of {frames}")
    assert len(np.unique(codes)) > 10 and ties <= max(1, frames // 50)
    assert worst < 1e-4


def test_streams(pair: Pair) -> None:
    """Pushed in pieces of any size, with the look-ahead that a non-causal codec needs: the bits of
    the whole.
    """
    codec, hop = pair.engine.codec, pair.mirror.hop
    rng = np.random.default_rng(3)
    for n in (1, hop + 3, 40 * hop + 7):
        x = noise(n, n)
        codes = codec.encode(x)
        sound = codec.decode(codes)
        encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
        got, played, at = [], [], 0
        while at < n:
            step = int(rng.integers(0, 3 * hop))
            got.append(encoder.push(x[at : at + step]))
            played.append(decoder.push(got[-1]))
            at += step
            assert sum(g.shape[1] for g in got) * hop >= min(at, n) - encoder.lookahead - hop
        got.append(encoder.flush())
        played += [decoder.push(got[-1]), decoder.flush()]
        np.testing.assert_array_equal(np.concatenate(got, 1), codes)
        np.testing.assert_array_equal(np.concatenate(played), sound)


@pytest.mark.slow
def test_ten_minutes(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    pair = Pair(tmp_path, {"filters": 2, "width": 8, "codebooks": 3, "codes": 32})
    x = noise(600 * 16000 + 7)
    codes = pair.engine.codec.encode(x)
    assert codes.shape == (3, 30001)
    ties = pair.near_ties(codes, x)
    worst = pair.off(codes)
    print(f"ten minutes: {ties} near-ties in 30001 frames, sound within {worst:.2g}")
    record_property("near-ties", ties)
    assert ties < 300 and worst < 1e-4


# Each fact, broken in the mirror, must break parity.

FACTS: dict[str, tuple[type, str, Callable[..., Any], str]] = {  # …, and where it shows
    "gains and directions are folded": (
        Weights,
        "weight",
        lambda self: self.weight_v,
        "codes and sound",
    ),
    "directions over all but the first axis": (
        Weights,
        "weight",
        lambda self: torch._weight_norm(
            self.weight_v, self.weight_v.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, 1), 1
        ),
        "codes and sound",
    ),
    "reflection": (
        Conv,
        "pad",
        lambda self, x, left, right: torch.nn.functional.pad(x, (left, right)),
        "codes and sound",
    ),
    "the odd sample of padding goes left": (
        Conv,
        "padding",
        lambda self, n: (
            (self.kernel - self.stride) // 2,
            self.kernel - self.stride - (self.kernel - self.stride) // 2 + (-n) % self.stride,
        ),
        "codes",
    ),
    "trimmed on both sides": (Upsample, "trim", lambda self: (0, self.stride), "sound"),
    "the LSTM is skipped over": (
        SkipLSTM,
        "forward",
        lambda self, x: self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0),
        "codes and sound",
    ),
    "nearest by distance": (
        Codebook,
        "nearest",
        lambda self, x: (x @ self.embed.t()).max(dim=-1).indices,
        "codes",
    ),
}


@pytest.mark.parametrize("fact", FACTS)
def test_fact(
    tmp_path_factory: pytest.TempPathFactory, fact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = small_pair(tmp_path_factory)
    x = torch.from_numpy(noise(50 * 320 + 3))[None, None]
    codes = pair.engine.codec.encode(x[0, 0].numpy())

    def parts() -> tuple[float, float]:
        """(codes that differ, difference of the sound)."""
        with torch.no_grad():
            return float((pair.mirror.encode(x)[:, 0].numpy() != codes).mean()), pair.off(codes)

    differ, off = parts()
    assert differ < 0.02 and off < 1e-4
    kind, name, broken, where = FACTS[fact]
    monkeypatch.setattr(kind, name, broken)
    differ, off = parts()
    assert differ > 0.02 or "codes" not in where
    assert off > 1e-3 or "sound" not in where


_SMALL: list[Pair] = []


def small_pair(factory: pytest.TempPathFactory) -> Pair:
    if not _SMALL:
        _SMALL.append(Pair(factory.mktemp("small"), SHAPES["small"]))
    return _SMALL[0]


def test_config_is_not_needed(tmp_path: Path) -> None:
    with_config = Pair(tmp_path, SHAPES["small"])
    (tmp_path / "codec/config.yaml").unlink()
    import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "b")
    a, b = (Engine.from_pretrained(tmp_path / n).config.codec for n in ("out", "b"))
    assert a == b and with_config.engine.config.codec.seanet == a.seanet
    assert a.seanet is not None
    assert (
        a.seanet.filters,
        a.seanet.ratios,
        a.seanet.lstm_layers,
        a.seanet.causal,
        a.seanet.pad_mode,
        a.seanet.conv_shortcut,
    ) == (4, (8, 5, 4, 2), 2, False, "reflect", True)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "filters": ({"n_filters": 16}, "n_filters 16 there, 4 here"),
    "width": ({"D": 128}, "D 128 there, 12 here"),
    "ratios": ({"ratios": [2, 4, 5]}, "ratios [2, 4, 5] there, [5, 4, 2] here"),
    "codes": ({"bins": 1024}, "bins 1024 there, 16 here"),
    "codebooks": ({"target_bandwidths": [6]}, "1 codebooks there (target_bandwidths), 4 here"),
    "rate": ({"sample_rate": "${rate}"}, "sample_rate: expected a rate in Hz"),
    "causal": ({"causal": "no idea"}, "causal: expected true or false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_config_of_another_codec(tmp_path: Path, case: str) -> None:
    tiny_files(tmp_path)
    change, message = WRONG[case]
    write_yaml(
        tmp_path / "codec/config.yaml", {"generator": {"name": "SoundStream", "config": change}}
    )
    with pytest.raises(InputError) as e:
        import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "out")
    assert message in str(e.value) and "\n" not in str(e.value)


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (
        lambda s: s.pop("decoder.model.0.conv.conv.weight_g"),
        "decoder.model.0.conv.conv.weight_g",
    ),
    "left over": (
        lambda s: s.update({"encoder.model.99.conv.conv.bias": torch.zeros(3)}),
        "left over encoder.model.99.conv.conv.bias",
    ),
    "no upsampling": (
        lambda s: [s.pop(n) for n in list(s) if "convtr" in n],
        "expected upsampling convolutions",
    ),
    "codebooks of two sizes": (
        lambda s: s.update({"quantizer.vq.layers.1._codebook.embed": torch.zeros(17, 12)}),
        "quantizer.vq.layers.1._codebook.embed",
    ),
    "nan": (
        lambda s: s["encoder.model.0.conv.conv.weight_v"].__setitem__((0, 0, 0), float("nan")),
        "encoder.model.0.conv.conv",
    ),
    "flat": (
        lambda s: s.update({"encoder.model.0.conv.conv.weight_v": torch.zeros(7)}),
        "encoder.model.0.conv.conv",
    ),
    "huge kernel": (
        lambda s: s.update({"decoder.model.3.convtr.convtr.weight_v": torch.ones(32, 16, 1000)}),
        "wrong shape",
    ),
    "zero direction": (lambda s: s["encoder.model.0.conv.conv.weight_v"].zero_(), "all zero"),
    "too few codebooks": (
        lambda s: [s.pop(n) for n in list(s) if ".layers.2." in n or ".layers.3." in n],
        "3 codes a frame, the codec makes 2",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_weights_of_another_codec(tmp_path: Path, case: str) -> None:
    _, codec = tiny_files(tmp_path)
    (tmp_path / "codec/config.yaml").unlink()
    state = {k: v.clone() for k, v in codec.state_dict().items()}
    change, message = STATES[case]
    change(state)
    torch.save({"codec_model": state}, tmp_path / "codec/model.pth")
    with pytest.raises(InputError) as e:
        import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "out")
    assert message in str(e.value) and "\n" not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "codec",
        "lexicon.txt",
        "lm",
        "phone_dict",
    ]
