"""Corpora and tokens made on a cluster: the same bytes as on one machine, also after kills."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import Nodes
from uniaudio_training.corpus import make
from uniaudio_training.corpus.shards import ShardSpec
from uniaudio_training.lm import tokenize
from uniaudio_training.workers import Workers

SPECS = [ShardSpec("t2s", split, i, 3, 2.0) for split in ("train", "test") for i in range(6)]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make.make(folder, SPECS, 3, Workers(), progress=False)
    return folder


def run(model: Path, corpus: Path | str, out: Path | str, *more: str) -> int:
    given = ["--model", str(model), "--corpus", str(corpus), "--out", str(out), "--units"]
    return tokenize.main([*given, *more])


@pytest.fixture(scope="module")
def tokens(corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("tokens")
    assert run(model, corpus, folder) == 0
    assert len(list(folder.glob("*.npz"))) == len(SPECS)
    return folder


def test_a_corpus_made_on_a_cluster(nodes: Nodes, corpus: Path, tmp_path: Path) -> None:
    make.make(tmp_path, SPECS[::-1], 3, Workers(0, nodes.address), progress=False)
    assert contents(tmp_path) == contents(corpus)


@pytest.mark.slow
def test_tokens_made_on_a_cluster_that_loses_a_node(
    nodes: Nodes, corpus: Path, tokens: Path, model: Path, tmp_path: Path
) -> None:
    """A stopped run goes on; what is there is not made again, and what is half there is."""
    whole = contents(tokens)
    for path in sorted(tokens.iterdir())[:6]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "t2s-train-0005.npz").write_bytes(b"without labels")
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    left = []

    def kill() -> None:
        limit = time.monotonic() + 120
        while len(list(tmp_path.glob("*.jsonl"))) <= 3 and time.monotonic() < limit:
            time.sleep(0.005)
        left.append(len(SPECS) - len(list(tmp_path.glob("*.jsonl"))))
        nodes.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(model, corpus, tmp_path, "--ray", nodes.address) == 0
    finally:
        killer.join()
        nodes.refill()
    assert contents(tmp_path) == whole
    assert left and 0 < left[0] < len(SPECS) - 3, "killed before or after the work"
    kept = {n for n, t in before.items() if (tmp_path / n).stat().st_mtime_ns == t}
    assert kept == set(before) - {"t2s-train-0005.npz"}


def test_processes_make_the_same_tokens(
    corpus: Path, tokens: Path, model: Path, tmp_path: Path
) -> None:
    assert run(model, corpus, tmp_path, "--workers", "2") == 0
    assert contents(tmp_path) == contents(tokens)


def test_tokens_of_another_kind_are_refused(
    corpus: Path, tokens: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(model), "--corpus", str(corpus), "--out", str(tokens)]
    assert tokenize.main(given) == 2
    assert "expected tokens made with" in capsys.readouterr().err


def test_wrong_workers(
    corpus: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, corpus, tmp_path, "--workers", "0") == 2
    assert "--workers: expected 1 or more, got 0" in capsys.readouterr().err
