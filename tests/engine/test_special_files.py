"""Files that are none: pipes without a writer, devices without an end, folders, and paths that no
file system has. Every reader refuses them at once, in one line.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.requests import read_requests
from uniaudio_engine.importers.checkpoint import load_checkpoint
from uniaudio_engine.importers.vocabulary import _lines
from uniaudio_engine.importers.yaml_file import load_yaml
from uniaudio_engine.request.token_ids import read_file as read_tokens
from uniaudio_engine.score.files import read_file as read_score
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.opening import open_regular, read_regular
from uniaudio_engine.storage.quantize import quantize_folder
from uniaudio_engine.storage.tensors import load_tensors
from uniaudio_engine.text import read_pronunciations

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")

SECONDS = 20


def within_time(call: Callable[[], Any]) -> BaseException | None:
    """What a call raises; a call that does not return in time fails the test."""
    raised: list[BaseException | None] = [None]

    def run() -> None:
        try:
            call()
        except BaseException as e:
            raised[0] = e

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "hangs"
    return raised[0]


def refused(call: Callable[[], Any]) -> None:
    error = within_time(call)
    assert isinstance(error, InputError), repr(error)
    assert "\n" not in str(error)


def special(folder: Path, kind: str, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or path.is_symlink():
        path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


KINDS = ("pipe", "device", "folder")
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "regular": ("x", lambda p: read_regular(p, 100)),
    "tensors": ("x.safetensors", load_tensors),
    "checkpoint": ("x.pt", load_checkpoint),
    "yaml": ("x.yaml", load_yaml),
    "vocabulary": ("x.txt", lambda p: _lines(p, 1000)),
    "tokens as text": ("x.txt", lambda p: read_tokens("tokens", p)),
    "tokens as array": ("x.npy", lambda p: read_tokens("tokens", p)),
    "midi": ("x.mid", lambda p: read_score(p, "score")),
    "musicxml": ("x.musicxml", lambda p: read_score(p, "score")),
    "lexicon": ("x.txt", read_pronunciations),
    "requests": ("x.jsonl", lambda p: read_requests(str(p))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", list(READERS))
def test_readers_refuse(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    path = special(tmp_path, kind, name)
    refused(lambda: read(path))


@pytest.mark.parametrize("reader", [name for name in READERS if name != "regular"])
def test_readers_refuse_paths_that_cannot_be(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    refused(lambda: read(Path(f"{tmp_path}/nul\0{name}")))
    refused(lambda: read(tmp_path / ("long" * 1250 + name)))


@pytest.fixture(scope="module")
def bundled() -> Path:
    return load_folder().path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "phones.txt",
        "lexicon.txt",
        "text.model",
        "labels/caption.txt",
        "codec.safetensors",
        "lm.safetensors",
        "semantic.safetensors",
    ],
)
def test_a_model_folder_of_them(tmp_path: Path, bundled: Path, kind: str, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    special(folder, kind, name)
    refused(lambda: Engine.from_pretrained(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_voice(tmp_path: Path, bundled: Path, kind: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    special(folder, kind, "voices/other.safetensors")
    refused(lambda: Engine.from_pretrained(folder).tts("Hello.", voice="other"))


def test_a_sound_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained()
    refused(lambda: engine.encode("/dev/zero"))
    refused(lambda: engine.encode("sound\0.wav"))
    monkeypatch.setattr("uniaudio_engine.audio.reading.MAX_PIPE_BYTES", 1000)
    read, write = os.pipe()
    os.write(write, bytes(2000))
    os.close(write)
    try:
        refused(lambda: engine.encode(f"/dev/fd/{read}"))
    finally:
        os.close(read)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as f:
        f.truncate(1 << 40)  # sparse
    refused(lambda: read_regular(path, 1 << 20))
    with open_regular(path) as f:
        assert f.read(3) == bytes(3)


def test_quantize_copies_links_as_links(tmp_path: Path, bundled: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not the model's")
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    (folder / "notes").symlink_to(secret)
    quantize_folder(folder, tmp_path / "small")
    assert (tmp_path / "small" / "notes").is_symlink()
    same = Engine.from_pretrained(tmp_path / "small").tts("Yes.", seed=1)
    assert np.array_equal(same.samples, Engine.from_pretrained(folder).tts("Yes.", seed=1).samples)


def test_arrays_that_claim_too_much(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(12, dtype=np.int32).reshape(3, 4))
    good = path.read_bytes()
    assert np.array_equal(read_tokens("tokens", path), np.arange(12).reshape(3, 4))
    claims = (b"(3, 4)", b"(9, 9)"), (b"(3, 4)", b"(3,-4)"), (b"<i4", b"|O4"), (b"<i4", b"<V4")
    for old, new in claims:
        path.write_bytes(good.replace(old, new))
        refused(lambda: read_tokens("tokens", path))
    large = good.replace(b"(3, 4), }" + b" " * 12, b"(99999999999, 9), }  ")
    assert large != good and len(large) == len(good)
    path.write_bytes(large)
    refused(lambda: read_tokens("tokens", path))


def test_a_small_file_of_a_long_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 48000, 8) as f:
        for _ in range(30):
            f.write(np.zeros((48000, 8), np.float32))
    assert path.stat().st_size < 100_000
    engine = Engine.from_pretrained()
    engine.encode(path)
    monkeypatch.setattr("uniaudio_engine.storage.available.available_bytes", lambda: 100e6)
    refused(lambda: engine.encode(path))
    with pytest.raises(InputError, match="needs about 0.138 GB of memory, 0.1 GB are available"):
        engine.encode(path)
    engine.encode_voice((np.full(48000, 0.1, np.float32), 48000))  # what fits still works
