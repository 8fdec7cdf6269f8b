"""``import_encodec``: the three published shapes, small, from every kind of file; what is refused;
sound through the CLI and back.
"""

from __future__ import annotations

import copy
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from codec_tools import build, check_audio, check_codes, clip, double_of
from encodec_case import COMMON, PUBLISHED, codec_of, hf_state, write_hf

from uniaudio_engine import EncodedAudio, Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.storage.config import CodecConfig
from uniaudio_engine.storage.folder import load_config, load_folder
from uniaudio_engine.storage.weight_shapes import codec_shapes

Config = dict[str, Any]
SMALL = {"num_filters": 6, "hidden_size": 24, "codebook_dim": 24, "codebook_size": 64}


def small(name: str, **changes: Any) -> Config:
    """A published configuration with few filters, of about as many codebooks (6 bits each instead
    of 10 or 11).
    """
    config = PUBLISHED[name] | SMALL | changes
    return config | {
        "target_bandwidths": [
            b * 6 / (11 if name == "32 kHz" else 10) for b in config["target_bandwidths"]
        ]
    }


class Case:
    """A small random model of one published shape: the torch module, and a checkpoint of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.config = name, small(name)
        self.codec = codec_of(self.config, folder)
        self.model = build(self.codec)
        self.double = double_of(self.codec, self.model)
        self.tensors = {k: v.numpy() for k, v in self.model.state_dict().items()}
        self.source = write_hf(folder / "source", self.config, hf_state(self.codec, self.tensors))
        import_encodec(self.source, folder / "ours")
        self.folder = folder / "ours"
        self.engine = Engine.from_pretrained(self.folder, threads=2)


@pytest.fixture(scope="module", params=list(PUBLISHED))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("48 kHz", tmp_path_factory.mktemp("encodec"))


def tiny(tmp_path: Path, **changes: Any) -> tuple[Path, Config, dict[str, np.ndarray]]:
    """A checkpoint of some kilobytes: (its folder, its configuration, its weights)."""
    config = (
        COMMON
        | SMALL
        | {
            "num_filters": 2,
            "upsampling_ratios": [3, 2],
            "hidden_size": 5,
            "codebook_dim": 5,
            "codebook_size": 16,
            "sampling_rate": 6000,
            "target_bandwidths": [4.0, 12.0],
        }
        | changes
    )
    codec = codec_of(config, tmp_path)
    rng = np.random.default_rng(0)
    state = hf_state(
        codec,
        {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()},
    )
    return write_hf(tmp_path / "source", config, state), config, state


def lengths(case: Case) -> list[int]:
    if case.name == "48 kHz":
        return [1, 47520, 47521, 48000, 48001, 99999]
    return [1, case.codec.frame_size, case.codec.frame_size + 1, 7777]


# What comes out


def test_codes_and_sound_at_every_length(case: Case) -> None:
    frames = ties = 0
    for n in lengths(case):
        x = clip(case.codec, n, n).clip(-1, 1)
        for bandwidth in case.codec.bandwidths:
            encoded = case.engine.encode_audio((x.T, case.codec.sample_rate), bandwidth=bandwidth)
            k = case.codec.codebooks_for(bandwidth)
            assert encoded.codes.shape == (k, case.codec.frames(n)) and encoded.samples == n
        f, t = check_codes(encoded.codes, case.model, case.double, x)
        frames, ties = frames + f, ties + t
        check_audio(
            case.engine.codec.decode(encoded.codes, encoded.scales),
            case.model,
            case.double,
            encoded.codes,
            encoded.scales,
        )
        assert case.engine.decode(encoded).samples.shape == x.shape
        if encoded.scales is None:
            assert np.array_equal(case.engine.encode((x.T, case.codec.sample_rate)), encoded.codes)
            assert (
                case.engine.decode(encoded.codes).samples.shape[-1]
                == encoded.codes.shape[1] * case.codec.frame_size
            )
    assert ties <= max(2, frames // 50), f"{ties} near-ties in {frames} frames"


def test_published_configurations(tmp_path: Path) -> None:
    got = {name: codec_of(c, tmp_path) for name, c in PUBLISHED.items()}
    assert [c.num_codebooks for c in got.values()] == [32, 4, 16]
    assert [c.frame_rate for c in got.values()] == [75, 50, 150]
    assert [[c.codebooks_for(b) for b in c.bandwidths] for c in got.values()] == [
        [2, 4, 8, 16, 32],
        [4],
        [2, 4, 8, 16],
    ]
    assert [(c.channels, c.normalizes, c.chunk) for c in got.values()] == [
        (1, False, (0, 0)),
        (1, False, (0, 0)),
        (2, True, (48000, 47520)),
    ]
    assert [c.frames(48000) for c in got.values()] == [150, 75, 300]


def test_threads_give_the_same_bits(case: Case) -> None:
    x = clip(case.codec, 60000, 3).clip(-1, 1)
    encoded = case.engine.encode_audio((x.T, case.codec.sample_rate))
    for threads in (1, 3):
        other = Engine.from_pretrained(case.folder, threads=threads)
        again = other.encode_audio((x.T, case.codec.sample_rate))
        assert np.array_equal(again.codes, encoded.codes) and (
            encoded.scales is None or np.array_equal(again.scales, encoded.scales)
        )
        assert np.array_equal(other.decode(encoded).samples, case.engine.decode(encoded).samples)


def test_ten_minutes_of_stereo(tmp_path: Path) -> None:
    """At 48 kHz, in the memory of the clip and of one chunk."""
    config = small("48 kHz", num_filters=2, num_lstm_layers=1)
    codec = codec_of(config, tmp_path)
    tensors = {k: v.numpy() for k, v in build(codec).state_dict().items()}
    import_encodec(
        write_hf(tmp_path / "source", config, hf_state(codec, tensors)), tmp_path / "ours"
    )
    engine = Engine.from_pretrained(tmp_path / "ours", threads=2)
    n = 600 * 48000 + 1
    x = np.tile(clip(codec, 480000, 1).clip(-1, 1), 61)[:, :n]
    codes, scales = engine.codec.encode_scaled(x, 2)
    assert codes.shape == (2, 607 * 150) and scales.shape == (607,)
    pcm = engine.codec.decode(codes, scales)
    assert pcm.shape == (2, 606 * 47520 + 48000) and pcm.shape[1] >= n and np.isfinite(pcm).all()
    # the 100th chunk is what it is by itself
    whole, loud = engine.codec.encode_scaled(x[:, 99 * 47520 : 101 * 47520], 2)
    assert np.array_equal(whole[:, :150], codes[:, 99 * 150 : 100 * 150]) and loud[0] == scales[99]


# Kinds of files


@pytest.mark.parametrize("spelling", ["original", "g", "plain"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_every_spelling_and_file(case: Case, spelling: str, kind: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "source", case.config, hf_state(case.codec, case.tensors, spelling), kind)
    about = import_encodec(tmp_path / "source", tmp_path / "ours")
    got, known = load_folder(tmp_path / "ours"), load_folder(case.folder)
    assert got.config.codec == known.config.codec == case.codec
    for name, x in got.codec.items():
        assert np.abs(x - case.tensors[name]).max() <= 2e-6 * np.abs(case.tensors[name]).max(), name
    assert (
        about["num_codebooks"] == case.codec.num_codebooks
        and about["channels"] == case.codec.channels
    )
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "EnCodec" in card and about["files"][0]["sha256"] in card and "uniaudio import" in card
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "README.md",
        "codec.safetensors",
        "config.json",
    ]


def test_a_file_a_folder_with_both_and_a_zip(tmp_path: Path) -> None:
    source, config, state = tiny(tmp_path)
    write_hf(source, config, {k: v * 2 for k, v in state.items()}, "bin")  # not what is taken
    (source / "preprocessor_config.json").write_text("{}")
    import_encodec(source, tmp_path / "a")
    import_encodec(source / "model.safetensors", tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as z:
        for name in ("config.json", "model.safetensors"):
            z.write(source / name, f"deep/{name}")
    import_encodec(tmp_path / "source.zip", tmp_path / "c", licence="CC0-1.0")
    books = [load_folder(tmp_path / f).codec["quantizer.codebooks"] for f in "abc"]
    assert np.array_equal(books[0], books[1]) and np.array_equal(books[0], books[2])
    assert (
        load_config(tmp_path / "c").licence == "CC0-1.0"
        and "CC0-1.0" in (tmp_path / "c" / "README.md").read_text()
    )
    import_encodec(source / "pytorch_model.bin", tmp_path / "d")
    assert np.array_equal(load_folder(tmp_path / "d").codec["quantizer.codebooks"], 2 * books[0])


def test_half_precision_and_old_configurations(tmp_path: Path) -> None:
    """float16 weights; a configuration without the keys that came later; what is unknown is told."""
    source, config, state = tiny(tmp_path)
    for key in (
        "use_conv_shortcut",
        "codebook_dim",
        "chunk_length_s",
        "overlap",
        "trim_right_ratio",
    ):
        del config[key]
    write_hf(
        source, config | {"use_snake": True}, {k: v.astype(np.float16) for k, v in state.items()}
    )
    about = import_encodec(source, tmp_path / "a", dtype="bfloat16")
    assert about["notes"] == [
        "config.json says more than this version knows, which was left out: use_snake"
    ]
    codec = load_folder(tmp_path / "a").codec
    assert (
        codec["quantizer.codebooks"].dtype == np.float32
        and codec["encoder.input.weight"].dtype == np.uint16
    )
    assert np.array_equal(
        codec["quantizer.codebooks"][0],
        state["quantizer.layers.0.codebook.embed"].astype(np.float16).astype(np.float32),
    )


def test_old_model_folders_load(tmp_path: Path) -> None:
    """config.json from before chunks and bandwidths."""
    source, *_ = tiny(tmp_path)
    import_encodec(source, tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    data = json.loads(path.read_text())
    for part, keys in (
        (data["codec"], ["bandwidths"]),
        (data["codec"]["seanet"], ["chunk_size", "chunk_stride", "normalize"]),
    ):
        for key in keys:
            del part[key]
    path.write_text(json.dumps(data))
    engine = Engine.from_pretrained(tmp_path / "a")
    assert engine.config.codec.chunk == (0, 0) and not engine.config.codec.normalizes
    assert engine.encode((np.zeros(100), 6000)).shape == (3, 17)
    with pytest.raises(InputError, match="bandwidth: this codec names none"):
        engine.encode((np.zeros(100), 6000), bandwidth=4.0)
    data["codec"]["seanet"]["chunk_sise"] = 5
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="unknown key 'chunk_sise'"):
        Engine.from_pretrained(tmp_path / "a")


# What is refused


def refused(tmp_path: Path, source: Path, *words: str) -> None:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError) as e:
        import_encodec(source, tmp_path / "ours")
    message = str(e.value)
    assert (
        "\n" not in message
        and len(message) < 500
        and any(w in message for w in ("config.json", "model.", source.name))
    )
    for word in words:
        assert word in message, message
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "mimi"}, "expected model_type encodec, got 'mimi'"),
        ({"model_type": None}, "expected model_type encodec, got None"),
        ({"model_type": ["encodec"]}, "expected model_type encodec"),
        ({"sampling_rate": ...}, "missing sampling_rate"),
        (
            {"sampling_rate": ..., "use_causal_conv": ..., "normalize": ..., "compress": ...},
            "missing sampling_rate, compress, normalize and 1 more",
        ),
        ({"sampling_rate": -24000}, "sampling_rate: expected 1000 to 384000, got -24000"),
        ({"sampling_rate": 24000.0}, "sampling_rate: expected a whole number, got 24000.0"),
        ({"sampling_rate": True}, "sampling_rate: expected a whole number, got True"),
        ({"sampling_rate": 10**300}, "sampling_rate: expected 1000 to 384000"),
        ({"audio_channels": 0}, "audio_channels: expected 1 to 2, got 0"),
        ({"audio_channels": 6}, "audio_channels: expected 1 to 2, got 6"),
        ({"num_filters": -1}, "filters: expected 1 to 4096, got -1"),
        ({"num_filters": 10**9}, "filters: expected 1 to 4096"),
        ({"num_filters": [2]}, "num_filters: expected a whole number, got [2]"),
        ({"hidden_size": 10**30, "codebook_dim": None}, "codebook_dim: expected 1 to 4096"),
        ({"hidden_size": 0, "codebook_dim": 0}, "codebook_dim: expected 1 to 4096"),
        ({"codebook_dim": 6}, "codebook_dim: expected hidden_size 5, got 6"),
        ({"codebook_size": 1}, "codebook_size: expected 2 to 65536, got 1"),
        ({"upsampling_ratios": []}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [3, -2]}, "upsampling_ratios: expected 1 to 16 numbers above 0"),
        ({"upsampling_ratios": [3.0, 2]}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [[3], 2]}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [2] * 100000}, "upsampling_ratios: expected 1 to 16 numbers"),
        ({"upsampling_ratios": [64] * 16}, "frame_size: expected 1 to 65536"),
        ({"upsampling_ratios": [65]}, "upsampling_ratios: expected 1 to 64 each"),
        ({"upsampling_ratios": 6}, "upsampling_ratios: expected a list, got 6"),
        ({"target_bandwidths": []}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [float("nan")]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [float("inf")]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": ["6"]}, "target_bandwidths: expected 1 to 64 numbers"),
        ({"target_bandwidths": [900000.0]}, "num_codebooks: expected 1 to 64"),
        ({"target_bandwidths": [24.0]}, "6 codebooks there (target_bandwidths), 3 here"),
        (
            {"norm_type": "layer_norm"},
            "norm_type: expected weight_norm or time_group_norm, got 'layer_norm'",
        ),
        ({"norm_type": "time_group_norm"}, "missing encoder.layers.0.norm.weight"),
        ({"pad_mode": "replicate"}, "pad_mode: expected reflect or constant, got 'replicate'"),
        ({"normalize": "yes"}, "normalize: expected true or false, got 'yes'"),
        ({"trim_right_ratio": 2}, "trim_right_ratio: expected 0 to 1, got 2"),
        ({"trim_right_ratio": float("nan")}, "trim_right_ratio: expected 0 to 1, got nan"),
        ({"trim_right_ratio": 10**400}, "trim_right_ratio: expected 0 to 1"),
        (
            {"trim_right_ratio": 0.5, "use_causal_conv": False},
            "trim_right_ratio: expected 1 without use_causal_conv, got 0.5",
        ),
        ({"num_lstm_layers": 0}, "num_lstm_layers: expected 1 to 16"),
        ({"num_lstm_layers": 3}, "missing encoder.layers.7.lstm.weight_ih_l2"),
        ({"num_residual_layers": -1}, "residual_layers: expected 0 to 16, got -1"),
        (
            {"num_residual_layers": 16, "dilation_growth_rate": 4096},
            "missing encoder.layers.2.block.1.conv.bias",
        ),
        (
            {"kernel_size": 5},
            "wrong shape: encoder.layers.0.conv.parametrizations.weight.original1 [2, 1, 7] "
            "(expected [2, 1, 5])",
        ),
        ({"compress": 4}, "wrong shape"),
        ({"use_conv_shortcut": False}, "left over decoder.layers.4.shortcut.conv.bias"),
        ({"upsampling_ratios": [2, 3]}, "wrong shape"),
        (
            {"hidden_size": 6, "codebook_dim": 6},
            "model.safetensors: config.json is of another codec: hidden_size 6 there, codebooks "
            "of 5 here",
        ),
        ({"codebook_size": 32}, "codebook_size 32 there, 16 here"),
        (
            {"chunk_length_s": -1.0, "overlap": 0.1},
            "chunk_length_s: expected seconds up to 3600, or null, got -1.0",
        ),
        ({"chunk_length_s": float("inf"), "overlap": 0.1}, "chunk_length_s: expected seconds"),
        ({"chunk_length_s": 1.0}, "overlap: expected 0 to 1 beside chunk_length_s, got None"),
        ({"chunk_length_s": 1.0, "overlap": 1.0}, "overlap: expected 0 to 1"),
        ({"chunk_length_s": 1.0, "overlap": 0.99}, "chunk_stride: expected 750 to chunk_size 6000"),
        ({"chunk_length_s": 3000, "overlap": 0.0}, "chunk_size: expected 0 to 1048576"),
        (
            {"sampling_rate": "fast", "audio_channels": None, "compress": {}, "normalize": 0},
            "and 1 more",
        ),
    ],
    ids=str,
)
def test_configurations_that_are_refused(change: Config, words: str, tmp_path: Path) -> None:
    source, config, _ = tiny(tmp_path)
    config = {k: v for k, v in (config | change).items() if v is not ...}
    (source / "config.json").write_text(json.dumps(config))
    refused(tmp_path, source, words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nope",
        "[]",
        "7",
        '{"a": 1',
        "[" * 100000,
        '{"sampling_rate": ' + "9" * 5000 + "}",
        "\xff\xfe",
    ],
    ids=range(8),
)
def test_configurations_that_are_no_json(text: str, tmp_path: Path) -> None:
    source, *_ = tiny(tmp_path)
    (source / "config.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path, source, "config.json", "expected")


def _drop(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda s: s.pop(name)


@pytest.mark.parametrize(
    "change, words",
    [
        (_drop("encoder.layers.0.conv.bias"), "missing encoder.layers.0.conv.bias"),
        (
            _drop("quantizer.layers.2.codebook.embed"),
            "3 codebooks there (target_bandwidths), 2 here",
        ),
        (
            lambda s: s.update({"encoder.layers.99.conv.bias": np.ones(2, np.float32)}),
            "left over encoder.layers.99.conv.bias",
        ),
        (
            lambda s: s["encoder.layers.0.conv.bias"].fill(np.nan),
            "NaN or infinity in encoder.layers.0.conv.bias",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones((2, 1), np.float32)}),
            "encoder.layers.0.conv.bias [2, 1] (expected [2])",
        ),
        (
            lambda s: s.update({"encoder.layers.0.conv.bias": np.ones(2, np.int32)}),
            "expected floating-point numbers, got int32",
        ),
        (lambda s: s.clear(), "expected tensors by name"),
        (
            lambda s: [s.update({f"enc.{k}": s.pop(k)}) for k in list(s)],
            "missing encoder.layers.0.conv.bias",
        ),
    ],
)
def test_weights_that_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    source, config, state = tiny(tmp_path)
    state = {k: v.copy() for k, v in copy.copy(state).items()}
    change(state)
    write_hf(source, config, state)
    refused(tmp_path, source, "model.safetensors", words)


def test_files_that_are_refused(tmp_path: Path) -> None:
    source, config, state = tiny(tmp_path)
    good = (source / "model.safetensors").read_bytes()
    for cut in (0, 5, 100, len(good) - 1):
        (source / "model.safetensors").write_bytes(good[:cut])
        refused(tmp_path, source, "model.safetensors", "expected")
    (source / "model.safetensors").unlink()
    refused(
        tmp_path,
        source,
        "expected a checkpoint of EnCodec (model.safetensors, pytorch_model.bin)",
        "config.json",
    )
    refused(tmp_path, tmp_path / "none", "found nothing there")
    (source / "pytorch_model.bin").write_bytes(b"garbage" * 100)
    refused(tmp_path, source, "expected a torch checkpoint")
    import pickle

    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"a": os.getcwd}))
    refused(tmp_path, source, "expected a torch checkpoint")
    torch.save([1, 2], source / "pytorch_model.bin")
    refused(tmp_path, source, "expected tensors by name, got [1, 2]")
    write_hf(source, config, state)
    (source / "config.json").unlink()
    refused(tmp_path, source, "expected config.json beside model.safetensors")
    refused(tmp_path, source / "model.safetensors", "expected config.json beside model.safetensors")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as z:
        z.writestr("../model.safetensors", good)
        z.writestr("config.json", json.dumps(config))
    refused(tmp_path, tmp_path / "out.zip", "leads out of the zip")
    write_hf(source, config, state)
    (tmp_path / "there").write_text("mine")
    for output, words in (
        ("there", "exists already"),
        ("no/where", "does not exist"),
        ("source", "exists already"),
    ):
        with pytest.raises(InputError, match=words):
            import_encodec(source, tmp_path / output)
    with pytest.raises(InputError, match="dtype: expected float32 or bfloat16, got 'int8'"):
        import_encodec(source, tmp_path / "ours", dtype="int8")
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "ours").exists()


def test_what_only_the_core_can_tell(tmp_path: Path) -> None:
    """A dilation beyond all bounds, with weights that fit it."""
    source, *_ = tiny(tmp_path, num_residual_layers=3, dilation_growth_rate=4096)
    refused(tmp_path, source, "dilation grows beyond")


# Through the command line


def test_there_and_back_through_the_cli(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rate, n, model = case.codec.sample_rate, 48123, ["-m", str(case.folder)]
    x = (0.5 * clip(case.codec, n, 7)).clip(-1, 1)
    soundfile.write("in.wav", x.T, rate, subtype="FLOAT")
    bandwidth = case.codec.bandwidths[0]
    assert (
        main(
            [
                "codec",
                "encode",
                "in.wav",
                "-o",
                "c.safetensors",
                "--bandwidth",
                str(bandwidth),
                "--json",
                *model,
            ]
        )
        == 0
    )
    about = json.loads(capsys.readouterr().out)
    assert (
        about["samples"] == n
        and about["codebooks"] == case.codec.codebooks_for(bandwidth)
        and about["notes"] == []
    )
    encoded = EncodedAudio.load("c.safetensors")
    assert encoded.seconds == n / rate and (encoded.scales is not None) == case.codec.normalizes
    assert main(["codec", "decode", "c.safetensors", "-o", "out.wav", "--json", *model]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == n / rate
    out, got_rate = soundfile.read("out.wav", dtype="float32", always_2d=True)
    assert out.shape == (n, case.codec.channels) and got_rate == rate
    back = case.engine.decode(encoded).samples
    assert np.abs(out.T.reshape(back.shape) - back).max() <= 2.0**-14
    # fewer bits on the way back; more than there are is refused
    assert (
        main(["codec", "decode", "c.safetensors", "-o", "one.wav", "--codebooks", "1", *model]) == 0
    )
    assert soundfile.info("one.wav").frames == n
    capsys.readouterr()
    for arguments, words in (
        (
            [
                "decode",
                "c.safetensors",
                "-o",
                "no.wav",
                "--codebooks",
                str(case.codec.num_codebooks + 1),
            ],
            "num_codebooks: expected 0 (all) to",
        ),
        (
            ["encode", "in.wav", "-o", "no.safetensors", "--bandwidth", "7.77"],
            f"bandwidth: expected one of {bandwidth:g}",
        ),
        (
            [
                "encode",
                "in.wav",
                "-o",
                "no.safetensors",
                "--bandwidth",
                str(bandwidth),
                "--codebooks",
                "1",
            ],
            "got both",
        ),
        (["encode", "in.wav", "-o", "no.wav"], "ends in .safetensors"),
    ):
        assert main(["codec", *arguments, *model]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["c.safetensors", "in.wav", "one.wav", "out.wav"]


def test_codes_of_another_codec_are_refused(stereo: Case, tmp_path: Path) -> None:
    source, *_ = tiny(tmp_path)
    import_encodec(source, tmp_path / "ours")
    engine = Engine.from_pretrained(tmp_path / "ours")
    encoded = stereo.engine.encode_audio((np.zeros((1000, 2), np.float32), 48000))
    encoded.save(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="of another codec"):
        engine.decode(EncodedAudio.load(tmp_path / "c.safetensors"))
    assert (
        main(
            [
                "codec",
                "decode",
                str(tmp_path / "c.safetensors"),
                "-o",
                str(tmp_path / "o.wav"),
                "-m",
                str(tmp_path / "ours"),
            ]
        )
        == 2
    )
    assert not (tmp_path / "o.wav").exists()


def test_loudness_is_never_lost(stereo: Case) -> None:
    x = clip(stereo.codec, 5000, 3).clip(-1, 1)
    for call in (
        lambda: stereo.engine.encode((x.T, 48000)),
        lambda: stereo.engine.decode(np.zeros((2, 150), int)),
    ):
        with pytest.raises(InputError, match="normalises loudness") as e:
            call()
        assert "\n" not in str(e.value)
    encoded = stereo.engine.encode_audio((x.T, 48000))
    for wrong in (
        {"scales": None},
        {"scales": encoded.scales[:0]},
        {"samples": 48000},
        {"samples": 0},
        {"sample_rate": 44100},
        {"codes": encoded.codes[:, 1:]},
    ):
        with pytest.raises(InputError, match="expected|at 44100 Hz") as e:
            stereo.engine.decode(EncodedAudio(**(vars(encoded) | wrong)))
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="no language model's"):
        stereo.engine.encode_voice((x.T, 48000))


def test_mono_and_surround_to_stereo(stereo: Case) -> None:
    rng = np.random.default_rng(0)
    mono = rng.uniform(-0.5, 0.5, 4000).astype(np.float32)
    once = stereo.engine.encode_audio((mono, 48000))
    assert once.notes == ("mono duplicated to 2 channels",)
    twice = stereo.engine.encode_audio((np.stack((mono, mono), 1), 48000))
    assert (
        twice.notes == ()
        and np.array_equal(once.codes, twice.codes)
        and np.array_equal(once.scales, twice.scales)
    )
    six = stereo.engine.encode_audio((np.stack([mono] * 6, 1), 24000))
    assert six.notes == (
        "6 channels mixed down to mono",
        "resampled from 24000 Hz to 48000 Hz",
        "mono duplicated to 2 channels",
    )
    assert abs(six.samples - 8000) <= 1


def test_the_page_of_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands and the Python of docs/codecs.md run, on small models."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text(encoding="utf-8")
    for name in ("24 kHz", "48 kHz"):
        config = PUBLISHED[name] | {"num_filters": 2, "hidden_size": 8, "codebook_dim": 8}
        codec = codec_of(config, tmp_path)
        rng = np.random.default_rng(0)
        state = hf_state(
            codec,
            {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()},
        )
        write_hf(tmp_path / f"encodec_{codec.sample_rate // 1000}khz", config, state)
    soundfile.write("song.flac", rng.uniform(-0.5, 0.5, (50000, 2)), 48000)
    commands = [
        line.partition("  #")[0].replace("[", "").replace("]", "")
        for line in text.splitlines()
        if line.startswith("uniaudio ")
    ]
    assert main(["import", "encodec", "encodec_48khz", "-o", "encodec-48khz"]) == 0
    for command in commands:
        assert main(command.split()[1:]) == 0
    played: list[np.ndarray] = []
    scope: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(blocks[0], scope)
    assert scope["sound"].samples.shape == (2, 50000) and soundfile.info("back.wav").frames == 50000
    x = rng.uniform(-0.5, 0.5, 5000).astype(np.float32)
    scope |= {
        "engine": Engine.from_pretrained("encodec-24khz"),
        "microphone": np.array_split(x, 7),
        "play": played.append,
    }
    exec(blocks[1], scope)
    assert np.array_equal(np.concatenate(played), scope["codec"].decode(scope["codec"].encode(x)))


def test_info(stereo: Case) -> None:
    about = stereo.engine.info()
    assert about["channels"] == 2 and about["bandwidths"] == list(stereo.codec.bandwidths)
    assert isinstance(stereo.engine.config.codec, CodecConfig) and about["tasks"] == []
