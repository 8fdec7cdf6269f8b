"""An imported EnCodec on the command line: sound to codes and back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from codec_tools import clip
from encodec_case import PUBLISHED, codec_of, hf_state, write_hf
from encodec_tools import Case, tiny

from uniaudio_engine import EncodedAudio, Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.storage.config import CodecConfig
from uniaudio_engine.storage.weight_shapes import codec_shapes


@pytest.fixture(scope="module", params=list(PUBLISHED))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("encodec"))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("48 kHz", tmp_path_factory.mktemp("encodec"))


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
    with pytest.raises(InputError, match="a codec without a language model"):
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
