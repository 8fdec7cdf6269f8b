"""``uniaudio models``: what it counts agrees with what is loaded, and it needs no download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from encodec_case import PUBLISHED, codec_of
from tiny import random_weights, tiny_config

from uniaudio_engine import _C
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers import moss_nano, shapes, vieneu
from uniaudio_engine.importers.estimate import estimate
from uniaudio_engine.importers.families import FAMILIES
from uniaudio_engine.importers.hub_files import Settings
from uniaudio_engine.storage.config import StackConfig, to_dict
from uniaudio_engine.storage.weight_shapes import lm_shapes


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--threads", "1"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["threads"] == 1 and about["read_gb_per_s"] > 0
    rows = {r["name"]: r for r in about["models"]}
    assert {p.name for f in FAMILIES for p in f.published} <= rows.keys() and "base" in rows
    assert all(r["realtime_bound"] > 0 and r["licence"] for r in rows.values())
    # kyutai/mimi's weights are a file of 385 MB in float32.
    assert rows["kyutai/mimi"]["weight_bytes"] == pytest.approx(384.6e6, rel=0.002)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "CC-BY-4.0" in out and "Estimates" in out


def test_published_shapes_are_what_the_importers_read(tmp_path: Path) -> None:
    known = (shapes.ENCODEC_24KHZ, shapes.ENCODEC_32KHZ, shapes.ENCODEC_48KHZ)
    for config, expected in zip(PUBLISHED.values(), known, strict=True):
        assert codec_of(config, tmp_path) == expected
    for family in FAMILIES:
        for published in family.published:
            published.codec.check()
            if published.lm is not None:
                published.lm.check()


def test_published_language_models_are_what_the_importers_read() -> None:
    read = Settings({"gpt2_config": {}}, "config.json")
    assert vieneu.lm_config(read, vieneu.vocabulary_of(read)) == shapes.VIENEU
    assert moss_nano.lm_config(read, moss_nano.vocabulary_of(read)) == shapes.MOSS_NANO


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_bytes_per_frame_are_the_core_s(dtype: str, tied: bool) -> None:
    stack = StackConfig(layers=1, width=128, heads=2, mlp_width=256)  # multiples of the panels
    config = tiny_config(phones=5, global_=stack, local=stack, tied_local=tied, tied_head=tied)
    assert config.lm is not None
    weights = random_weights(lm_shapes(config.lm))
    lm = _C.LM(json.dumps(to_dict(config.lm)), weights, dtype)
    size = config.codec.codebook_size
    counted = estimate(config.codec, config.lm, _C.lm_dtype(dtype)[1]).bytes_per_frame
    assert counted == pytest.approx(lm.weight_bytes(size), rel=0.01)
