"""WebDataset tar files: written for the package webdataset, read from it, and back bit for bit."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import Nodes
from server_tools import tone
from uniaudio_training.corpus import copy, make
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.shards import ShardSpec
from uniaudio_training.workers import Workers

SPECS = [ShardSpec("a_edit", split, 0, 3, 8.0) for split in ("train", "test")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make.make(folder, SPECS, 3, Workers(), progress=False)
    return folder


def contents(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob(pattern)}


def test_to_tars_and_back(corpus: Path, nodes: Nodes, bucket: str, tmp_path: Path) -> None:
    tars, back = tmp_path / "tars", tmp_path / "back"
    assert copy.main([str(corpus), "--out", str(tars), "--to", "tar"]) == 0
    assert sorted(contents(tars)) == [
        "a_edit-test-0000.tar",
        "a_edit-train-0000.tar",
        "manifest.json",
    ]
    assert copy.main([str(tars), "--out", str(back)]) == 0
    for a, b in zip(
        open_corpus(corpus)["a_edit", "train"], open_corpus(back)["a_edit", "train"], strict=True
    ):
        assert (a.id, a.roles, a.label.caption) == (b.id, b.roles, b.label.caption)
        for role in a.roles:
            np.testing.assert_array_equal(a.pcm(role), b.pcm(role))
    there = [str(corpus), "--out", f"{bucket}/tars", "--to", "tar", "--ray", nodes.address]
    assert copy.main(there) == 0
    from uniaudio_training.places import place

    assert contents(place(f"{bucket}/tars"), "*.tar") == contents(tars, "*.tar")
    assert len(open_corpus(f"{bucket}/tars")["a_edit", "train"][0].pcm()) > 0


def test_the_package_reads_them(corpus: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    assert copy.main([str(corpus), "--out", str(tmp_path), "--to", "tar"]) == 0
    want = list(open_corpus(corpus)["a_edit", "train"])
    path = str(tmp_path / "a_edit-train-0000.tar")
    got = list(wds.WebDataset(path, shardshuffle=False))
    assert [g["__key__"] for g in got] == [e.id for e in want]
    for g, e in zip(got, want, strict=True):
        assert json.loads(g["json"])["caption"] == e.label.caption
        for role in e.roles:
            samples, rate = soundfile.read(io.BytesIO(g[f"{role}.flac"]), dtype="int16")
            assert rate == 16000
            np.testing.assert_array_equal(samples, e.pcm(role))


def test_tars_of_the_package(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    tone(0.5, rate=8000).save(tmp_path / "a.wav")
    sound = (tmp_path / "a.wav").read_bytes()
    with wds.TarWriter(str(tmp_path / "clips-000.tar")) as tar:
        tar.write({"__key__": "d/one", "wav": sound, "txt": "Hello.", "json": {"speaker": "me"}})
        tar.write({"__key__": "d/two", "wav": sound, "txt": "Bye."})
    examples = open_corpus(tmp_path)["tts", "train"]
    assert [e.track().text for e in examples] == ["Hello.", "Bye."]
    assert [e.track().speaker for e in examples] == ["me", ""]
    assert [e.id for e in examples] == ["tts-train-0000-0000", "tts-train-0000-0001"]
    assert all(len(e.pcm()) == e.track().samples == 8000 for e in examples)


def test_the_examples_within_limits(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [e for s in ("train", "test") for e in open_corpus(corpus)["a_edit", s]]
    seconds = sorted(e.track().seconds for e in whole)
    least = seconds[len(seconds) // 2]
    given = [str(corpus), "--out", str(tmp_path), "--seconds", f"{least}:", "--level=-60:0"]
    for _ in range(2):
        assert copy.main(given) == 0
        kept = [e.id for e in whole if e.track().seconds >= least]
        assert f"{len(kept)} of {len(whole)} examples" in capsys.readouterr().out
    found = open_corpus(tmp_path)
    assert [e.id for s in found.splits("a_edit") for e in found["a_edit", s]] == kept
    assert copy.main([*given[:-1]]) == 2
    assert "has another copy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected examples, found none"),
        ({"a.txt": b"Hello."}, "expected a sound flac"),
        ({"a.wav": b"none"}, "a: "),
        ({"a.json": b"{", "a.wav": b"none"}, "a: "),
        (None, "expected an uncompressed tar file"),
    ],
)
def test_damaged_tars(files: dict[str, bytes] | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tts-train-0000.tar"
    if files is None:
        path.write_bytes(b"x" * 700)
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with pytest.raises(CorpusError, match=message):
        _ = open_corpus(tmp_path)["tts", "train"][0]


def test_wrong_limits(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limits in ("1", "2:1", "a:b"):
        with pytest.raises(SystemExit):
            copy.main([str(corpus), "--out", str(tmp_path), "--seconds", limits])
        assert "expected MIN:MAX" in capsys.readouterr().err
