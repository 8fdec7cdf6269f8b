"""Packed data is unpacked bit for bit, and the whole GPU run in its dry mode."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from joint_items import write_shards
from uniaudio_training import packed
from uniaudio_training.checkpoints import read_codec
from uniaudio_training.codec.joint import JointSettings
from uniaudio_training.corpus.schema import Label, Track
from uniaudio_training.lm.train_lm import LMSettings
from uniaudio_training.settings import read_settings

from uniaudio_engine.storage.folder import bundled_models, load_config

ROOT = Path(__file__).parents[2]
GPU = ROOT / "training" / "gpu"
spec = importlib.util.spec_from_file_location("gpu_pack", GPU / "pack.py")
pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler as cc")


def corpus(folder, task="tts", shards=3, seconds=4):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(shards):
        name = f"{task}-train-{n:04d}"
        smooth = np.convolve(rng.standard_normal(16000 * seconds), np.ones(20), "same")
        np.save(folder / f"{name}.npy", (smooth * 900).astype(np.int16))
        tracks = [Track(16000 * i, 16000, speaker="a") for i in range(seconds)]
        (folder / f"{name}.jsonl").write_text(
            "".join(
                Label(f"{name}-{i:04d}", task, "train", {"target": t}).line() + "\n"
                for i, t in enumerate(tracks)
            )
        )
    return folder


def test_flac_comes_back(tmp_path):
    reader = pack.flac_reader()
    rng = np.random.default_rng(0)
    t = np.arange(30000)
    sounds = {
        "constant": np.full(5000, -7),
        "noise": rng.integers(-32768, 32768, 9001),
        "tone": 9000 * np.sin(t * 0.05),
        "wasted bits": (rng.integers(-100, 100, 8000) * 64),
        "short": np.array([1, -2, 3]),
        "ramp": t % 3000,
        "loud and quiet": 30000 * np.sin(t * 0.3) * (t > 15000),
    }
    for name, x in sounds.items():
        pcm = x.astype(np.int16)
        pack._flac(pcm, tmp_path / "a.flac")
        assert np.array_equal(pack.read_flac(reader, (tmp_path / "a.flac").read_bytes()), pcm), name
    data = (tmp_path / "a.flac").read_bytes()
    for broken in (b"", b"fLaC" + b"\0" * 50, data[: len(data) // 2], b"RIFF" + data[4:]):
        with pytest.raises(ValueError, match="FLAC"):
            pack.read_flac(reader, broken)


def test_pack_and_unpack(tmp_path):
    real = corpus(tmp_path / "real")
    other = corpus(tmp_path / "other", "t2s", 2)
    (tmp_path / "codec.yaml").write_text("steps: 1\n")
    sizes = pack.pack(
        tmp_path / "parts",
        [("real", real), ("other", other)],
        [],
        [tmp_path / "codec.yaml"],
        most=250_000,
    )
    assert len(sizes) > 1 and max(sizes) <= 250_000
    first = json.loads((tmp_path / "parts" / "part-00" / "part.json").read_text())
    assert {f["place"].split("/")[1] for f in first["files"] if "/" in f["place"]} == {
        "real",
        "other",
    }
    parts = sorted((tmp_path / "parts").glob("part-*"))
    pack.unpack(parts, tmp_path / "work")
    for source, name in ((real, "real"), (other, "other")):
        for path in source.iterdir():
            back = tmp_path / "work" / "data" / name / path.name
            if path.suffix == ".npy":
                assert np.array_equal(np.load(back), np.load(path))
            else:
                assert back.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="already"):
        pack.pack(tmp_path / "parts", [("real", real)], [], [])
    victim = next(parts[0].glob("*.flac"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="damaged"):
        pack.unpack(parts, tmp_path / "again")


def test_a_file_too_large_for_a_part(tmp_path):
    with pytest.raises(ValueError, match="do not fit"):
        pack.pack(tmp_path / "parts", [("real", corpus(tmp_path / "real"))], [], [], most=1000)


def python3(folder: Path) -> Path:
    """A folder whose ``python3`` is the interpreter of the tests. A link to one in a virtual
    environment would not find its packages.
    """
    folder.mkdir()
    (folder / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "python3").chmod(0o755)
    return folder


@pytest.mark.slow
def test_the_whole_run_dry(tmp_path):
    """Pack, unpack, both trainings and what comes back, in one go on the CPU."""
    real = corpus(tmp_path / "real")
    (tmp_path / "tokens").mkdir()
    write_shards(tmp_path / "tokens", ("tts",))
    codec = {
        "frames": 8,
        "windows": [256],
        "few_stages": 2,
        "sources": [{"data": "data/real", "task": "tts", "weight": 1}],
        "codec": {
            "family": "spectral",
            "num_codebooks": 3,
            "codebook_size": 8,
            "codebook_dim": 4,
            "spectral": {
                "encoder_width": 8,
                "encoder_blocks": 1,
                "encoder_hidden": 16,
                "decoder_width": 8,
                "decoder_blocks": 1,
                "decoder_hidden": 16,
            },
        },
    }
    lm = {
        "data": "tokens/all",
        "tasks": {"tts": 1.0},
        "rows": 2,
        "items": 300,
        "codebook_size": 16,
        "units": 32,
        "validate_every": 1000,
        "lm": {
            "global": {"layers": 1, "width": 16, "heads": 2, "mlp_width": 24},
            "local": {
                "layers": 1,
                "width": 16,
                "heads": 2,
                "mlp_width": 24,
                "positions": "learned",
            },
        },
    }
    for name, config in (("codec", codec), ("lm", lm)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    files = [tmp_path / "codec.yaml", tmp_path / "lm.yaml"]
    pack.pack(tmp_path / "parts", [("real", real)], [("all", tmp_path / "tokens")], files)
    python = python3(tmp_path / "bin")
    environment = {
        **os.environ,
        "PATH": f"{python}:{os.environ['PATH']}",
        "WORK": str(tmp_path / "work"),
        "OUT": str(tmp_path / "out"),
        "DRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(p for p in sys.path if p),
    }
    done = subprocess.run(
        ["bash", str(GPU / "run.sh"), str(tmp_path / "parts"), "300"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    weights, about = packed.load(tmp_path / "out" / "codec.safetensors")
    assert about["steps"] == "3" and json.loads(about["codec"])["codebook_size"] == 8
    weights, about = packed.load(tmp_path / "out" / "lm.safetensors")
    assert about["steps"] == "2" and weights
    assert (tmp_path / "out" / "curves.json").is_file()
    assert all(p.stat().st_size <= 16_000_000 for p in (tmp_path / "out").iterdir())


def test_a_run_without_configs_says_so(tmp_path):
    pack.pack(tmp_path / "parts", [("real", corpus(tmp_path / "real", shards=1))], [], [])
    python = python3(tmp_path / "bin")
    environment = {
        **os.environ,
        "PATH": f"{python}:{os.environ['PATH']}",
        "WORK": str(tmp_path / "work"),
    }
    done = subprocess.run(
        ["bash", str(GPU / "run.sh"), str(tmp_path / "parts"), "10"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "codec.yaml or lm.yaml" in done.stderr


def test_the_lm_config_for_a_card_has_the_tasks_of_the_bundled_model():
    settings = read_settings(LMSettings, GPU / "lm.yaml")
    assert {*settings.tasks} == {*load_config(next(iter(bundled_models().values()))).tasks}


def test_the_codec_config_begins_from_the_bundled_codec_in_the_parts(tmp_path, monkeypatch):
    bundled = next(iter(bundled_models().values()))
    files = [GPU / "codec.yaml", bundled / "config.json", bundled / "codec.safetensors"]
    pack.pack(tmp_path / "parts", [], [], files)
    monkeypatch.chdir(tmp_path)
    pack.unpack(sorted((tmp_path / "parts").iterdir()), Path("work"))
    monkeypatch.chdir("work")
    settings = read_settings(JointSettings, Path("codec.yaml"))
    config, weights = read_codec(settings.init)
    assert config == settings.codec
    expected, same = read_codec(bundled)
    assert config == expected and weights.keys() == same.keys()
    assert all(torch.equal(x, same[name]) for name, x in weights.items())
