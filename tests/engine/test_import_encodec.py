"""``import_encodec``: small versions of the three published shapes, from every kind of file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from codec_tools import build, check_audio, check_codes, clip
from encodec_case import PUBLISHED, codec_of, hf_state, write_hf
from encodec_tools import Case, lengths, small, tiny

from uniaudio_engine import Engine, InputError
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.storage.folder import load_config, load_folder


@pytest.fixture(scope="module", params=list(PUBLISHED))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("encodec"))


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
    with pytest.raises(InputError, match="bandwidth: this codec offers none"):
        engine.encode((np.zeros(100), 6000), bandwidth=4.0)
    data["codec"]["seanet"]["chunk_sise"] = 5
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="unknown key 'chunk_sise'"):
        Engine.from_pretrained(tmp_path / "a")
