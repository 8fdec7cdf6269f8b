"""Corpora, manifests and tokens in an object store: the same as on a disk."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import Nodes
from server_tools import tone
from uniaudio_training import places
from uniaudio_training.corpus import make
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.shards import ShardSpec, read_manifest
from uniaudio_training.lm import tokenize
from uniaudio_training.lm.items import read_items
from uniaudio_training.places import place
from uniaudio_training.workers import Workers

from uniaudio_engine import InputError

SPECS = [ShardSpec("t2s", split, 0, 3, 2.0) for split in ("train", "test")]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_corpus_and_its_tokens(nodes: Nodes, bucket: str, model: Path, tmp_path: Path) -> None:
    """Made in the store and on a cluster, on a disk and here; then read."""
    for folder, workers in ((bucket, Workers(0, nodes.address)), (str(tmp_path), Workers())):
        make.make(place(f"{folder}/corpus"), SPECS, 3, workers, progress=False)
        given = ["--model", str(model), "--corpus", f"{folder}/corpus", "--out", f"{folder}/tokens"]
        assert tokenize.main([*given, *(["--ray", nodes.address] * (folder == bucket))]) == 0
    for name in ("corpus", "tokens"):
        assert contents(place(f"{bucket}/{name}")) == contents(tmp_path / name)
    assert read_manifest(place(f"{bucket}/corpus")) == read_manifest(tmp_path / "corpus")
    there, here = (open_corpus(f"{f}/corpus")["t2s", "train"] for f in (bucket, tmp_path))
    assert len(there) == len(here) > 0
    for a, b in zip(there, here, strict=True):
        assert a.label == b.label
        np.testing.assert_array_equal(a.pcm(), b.pcm())


def test_a_manifest_of_recordings(bucket: str, model: Path, tmp_path: Path) -> None:
    """Its sounds are beside it, or wherever a URL says."""
    tone(0.5).save(tmp_path / "a.wav")
    place(f"{bucket}/mine/sounds/a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    place(f"{bucket}/b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    rows = [
        {"audio": name, "caption": "a tone", "split": "test"}
        for name in ("sounds/a.wav", f"{bucket}/b.wav")
    ]
    manifest = place(f"{bucket}/mine/all.jsonl")
    manifest.write_bytes("".join(f"{json.dumps(r)}\n" for r in rows).encode())
    want = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    for example in open_corpus(str(manifest))["t2s", "test"]:
        np.testing.assert_array_equal(example.pcm(), want)
    out = ["--out", f"{bucket}/mine-tokens"]
    assert tokenize.main(["--model", str(model), "--corpus", str(manifest), *out]) == 0
    arrays = places.load_arrays(place(f"{bucket}/mine-tokens/t2s-test-0000.npz"))
    assert arrays["frames"].tolist() == [25, 25]
    manifest.write_bytes(json.dumps(rows[0] | {"audio": "none.wav"}).encode())
    with pytest.raises(CorpusError, match="line 1: audio: no file 'none.wav'"):
        open_corpus(str(manifest))


def test_nothing_there(bucket: str) -> None:
    with pytest.raises(CorpusError, match="found nothing"):
        open_corpus(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError, match="make them: uniaudio-train tokenize"):
        next(read_items(f"{bucket}/nothing", "t2s", "train", None))


@pytest.mark.parametrize(
    ("url", "without", "message"),
    [
        ("s3://a/b", "s3fs", r"s3:// needs s3fs, .* pip install 'uniaudio-training\[s3\]'"),
        ("gs://a/b", "upath", r"gs:// needs upath, .* pip install 'uniaudio-training\[fsspec\]'"),
        ("what://a/b", "", "expected a URL that fsspec knows"),
    ],
)
def test_a_missing_package(
    url: str, without: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == without else found(n))
    with pytest.raises(InputError, match=message):
        place(url)


def test_a_write_that_fails_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    def fail(f: Any) -> None:
        f.write(b"half")
        raise RuntimeError("stopped")

    for folder in (place(bucket), tmp_path):
        with pytest.raises(RuntimeError, match="stopped"):
            places.write_whole(folder / "part", fail)
        assert not (folder / "part").exists()
    assert list(tmp_path.iterdir()) == []
