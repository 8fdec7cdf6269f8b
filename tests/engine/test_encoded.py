"""Files of codes: round trip and rejected files; models whose codec no language model can use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import tone
from tiny import random_weights, tiny_config

from uniaudio_engine import EncodedAudio, Engine, InputError
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig
from uniaudio_engine.storage.folder_writing import save_folder
from uniaudio_engine.storage.tensors import load_tensors, save_tensors
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes


def test_saved_is_loaded(real: Engine, tmp_path: Path) -> None:
    encoded = real.encode_audio(tone(1.0), 2)
    assert (
        encoded.scales is None
        and encoded.samples == 16000
        and encoded.seconds == 1
        and encoded.notes == ()
    )
    assert np.array_equal(encoded.codes, real.encode(tone(1.0), 2))
    encoded.save(tmp_path / "a.safetensors")
    back = EncodedAudio.load(tmp_path / "a.safetensors")
    assert np.array_equal(back.codes, encoded.codes) and back.codes.dtype == np.int32
    assert (back.samples, back.sample_rate, back.codec, back.scales) == (
        16000,
        16000,
        real.fingerprint,
        None,
    )
    dataclasses.replace(encoded, scales=np.ones(3, np.float32)).save(tmp_path / "b.safetensors")
    scales = EncodedAudio.load(tmp_path / "b.safetensors").scales
    assert scales is not None and scales.tolist() == [1, 1, 1]


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 16001])
def test_as_many_samples_as_there_were(real: Engine, samples: int) -> None:
    encoded = real.encode_audio((tone(2.0).samples[:samples], 16000))
    assert real.decode(encoded).samples.shape == (samples,)
    assert np.array_equal(
        real.decode(encoded).samples, real.decode(encoded.codes).samples[:samples]
    )
    assert np.array_equal(
        real.decode(encoded.first(1)).samples, real.decode(encoded.codes[:1]).samples[:samples]
    )


def test_files_of_early_versions(real: Engine, tmp_path: Path) -> None:
    """Without a length, or without anything but codes: all that the frames hold."""
    codes = real.encode(tone(0.5))
    for metadata in (
        {},
        {"format": "uniaudio-codes-1", "codec": real.fingerprint, "sample_rate": "16000"},
    ):
        save_tensors(tmp_path / "a.safetensors", {"codes": codes.astype(np.int64)}, metadata)
        encoded = EncodedAudio.load(tmp_path / "a.safetensors")
        assert encoded.samples is None and encoded.seconds is None
        assert np.array_equal(real.decode(encoded).samples, real.decode(codes).samples)


CODES = np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    "tensors, metadata, words",
    [
        ({"other": CODES}, {}, "expected a file with the tensor codes"),
        ({"codes": CODES, "more": CODES}, {}, "expected a file with the tensor codes"),
        ({"codes": CODES}, {"format": "uniaudio-voice-1"}, "expected a file with the tensor codes"),
        ({"codes": CODES[0]}, {}, "expected codes of whole numbers [K, T], got int32 [3]"),
        ({"codes": CODES.astype(np.float32)}, {}, "expected codes of whole numbers"),
        ({"codes": np.full((1, 1), 1 << 40)}, {}, "expected codes of 32 bits"),
        (
            {"codes": CODES, "scales": np.ones((1, 1), np.float32)},
            {},
            "expected scales float32 [chunks], got float32 [1, 1]",
        ),
        ({"codes": CODES, "scales": np.ones(1)}, {}, "expected scales float32"),
        ({"codes": CODES}, {"samples": "-1"}, "samples: expected a whole number, got '-1'"),
        ({"codes": CODES}, {"samples": "9" * 400}, "samples: expected a whole number"),
        ({"codes": CODES}, {"sample_rate": "fast"}, "sample_rate: expected a whole number"),
    ],
)
def test_files_that_are_no_codes(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], words: str, tmp_path: Path
) -> None:
    save_tensors(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(InputError) as e:
        EncodedAudio.load(tmp_path / "a.safetensors")
    assert words in str(e.value) and "a.safetensors" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"codec": "0123456789abcdef"}, "of another codec"),
        ({"sample_rate": 24000}, "at 24000 Hz"),
        ({"samples": 321}, "expected 2 frames for 321 samples, got 3"),
        ({"codes": np.zeros((4, 3), np.int32)}, r"expected \[1 to 3, T\], got \[4, 3\]"),
        ({"codes": np.zeros((0, 3), np.int32)}, r"expected \[1 to 3, T\]"),
        ({"codes": np.zeros(3, np.int32)}, r"expected \[1 to 3, T\]"),
        ({"codes": np.full((2, 3), 16, np.int32)}, "expected 0 to 15, got 16 to 16"),
        ({"codes": np.zeros((2, 3), np.float32)}, "expected whole numbers"),
        ({"scales": np.ones(1, np.float32)}, "scales: expected none"),
    ],
    ids=str,
)
def test_codes_that_are_not_this_codecs(change: dict[str, Any], words: str, real: Engine) -> None:
    encoded = EncodedAudio(
        **(
            {"codes": CODES, "sample_rate": 16000, "samples": 960, "codec": real.fingerprint}
            | change
        )
    )
    with pytest.raises(InputError, match=words) as e:
        real.decode(encoded)
    assert "\n" not in str(e.value)


def test_choices_that_the_codec_has_not(real: Engine, tmp_path: Path) -> None:
    for arguments, words in (
        ((4,), "num_codebooks: expected 0"),
        ((-1,), "num_codebooks"),
        ((1.0,), "num_codebooks"),
        ((True,), "num_codebooks"),
        ((0, 6.0), "bandwidth: this codec offers none"),
        ((1, 6.0), "got both"),
    ):
        with pytest.raises(InputError, match=words):
            real.encode_audio(tone(0.1), *arguments)
    with pytest.raises(
        InputError, match="num_codebooks: expected 1 to 2, which these codes have, got 3"
    ):
        real.encode_audio(tone(0.1), 2).first(3)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        real.encode_audio(tone(0.1)).save(tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())


def test_bandwidths_are_numbers_of_codebooks() -> None:
    codec = CodecConfig(
        "seanet",
        16000,
        320,
        12,
        1024,
        seanet=SeanetConfig(),
        bandwidths=(0.1, 0.5, 1.2, 1.5, 6.0, 9.0),
    )
    codec.check()
    assert [codec.codebooks_for(b) for b in codec.bandwidths] == [1, 1, 2, 3, 12, 12]
    for wrong in (0.0, 2.0, -1.5, float("nan"), "1.5", None, True):
        with pytest.raises(
            ValueError, match=r"expected one of 0\.1, 0\.5, 1\.2, 1\.5, 6, 9 \(kbit/s\)"
        ):
            codec.codebooks_for(wrong)  # type: ignore[arg-type]
    for bad in (
        (1.5, 1.5),
        (3.0, 1.5),
        (0.0,),
        (float("inf"),),
        (float("nan"),),
        tuple(range(1, 66)),
    ):
        with pytest.raises(ValueError, match=r"codec\.bandwidths"):
            dataclasses.replace(codec, bandwidths=bad).check()


@pytest.mark.parametrize(
    "options",
    [{"normalize": True}, {"chunk_size": 640, "chunk_stride": 600}],
    ids=str,
)
def test_no_language_model_over_half_a_sound(options: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(10)
    codec = CodecConfig("seanet", 16000, 320, 3, 16, 8, seanet=SeanetConfig(filters=2, **options))
    config = dataclasses.replace(config, codec=codec)
    assert config.lm is not None
    save_folder(
        tmp_path / "m",
        config,
        random_weights(codec_shapes(codec)),
        random_weights(lm_shapes(config.lm)),
        [f"p{i}" for i in range(10)],
    )
    with pytest.raises(
        InputError, match="expected a codec of whole clips with their loudness beside the"
    ) as e:
        Engine.from_pretrained(tmp_path / "m")
    assert "\n" not in str(e.value)
    (tmp_path / "m" / "lm.safetensors").unlink()
    save_folder(
        tmp_path / "c",
        dataclasses.replace(config, lm=None, vocabulary=None, tasks=()),
        load_tensors(tmp_path / "m" / "codec.safetensors")[0],
    )
    assert Engine.from_pretrained(tmp_path / "c").encode_audio(tone(0.1)).samples == 1600
