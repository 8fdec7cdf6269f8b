"""Folders, zips, YAML and label files of imports, and the command: accepted and rejected files, and
what remains afterwards.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from import_tools import PHONES, SPECIALS, token_list

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers import archive
from uniaudio_engine.importers.archive import CHECKPOINT, CONFIG, find_members
from uniaudio_engine.importers.output import new_folder
from uniaudio_engine.importers.vocabulary import (
    read_labels,
    read_lexicon,
    read_phones,
    read_vocabulary,
)
from uniaudio_engine.importers.yaml_file import load_yaml
from uniaudio_engine.storage.config import Span

ROLES = {"checkpoint": CHECKPOINT, "config": CONFIG}


def line_of(e: pytest.ExceptionInfo[InputError]) -> str:
    line = str(e.value)
    assert "\n" not in line and len(line) < 500
    return line


# Folders and zips


def make_zip(
    path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as z:
        for name, data in entries.items():
            z.writestr(name, data)
    return path


def find(source: Path, tmp_path: Path) -> dict[str, tuple[str, bytes]]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {
        k: (m.name, m.path.read_bytes()) for k, m in find_members(source, ROLES, scratch).items()
    }


def test_members_of_a_zip(tmp_path: Path) -> None:
    entries = {
        "uniaudio_v1/": b"",
        "uniaudio_v1/ep10.checkpoint": b"weights",
        "uniaudio_v1/config.yaml": b"a: 1",
        "uniaudio_v1/read.me": b"",
        "__MACOSX/uniaudio_v1/._ep10.checkpoint": b"x",
        "uniaudio_v1/.hidden.pth": b"x",
        "other/config.yaml": b"b: 2",
    }
    found = find(make_zip(tmp_path / "v1.zip", entries), tmp_path)
    assert found == {
        "checkpoint": ("v1.zip: uniaudio_v1/ep10.checkpoint", b"weights"),
        "config": ("v1.zip: uniaudio_v1/config.yaml", b"a: 1"),
    }
    assert sorted(os.listdir(tmp_path / "scratch")) == ["checkpoint.checkpoint", "config.yaml"]


def test_members_of_a_folder(tmp_path: Path) -> None:
    """As model hubs keep them: links to files are followed, links to folders are not."""
    store, folder = tmp_path / "blobs", tmp_path / "snapshot"
    (folder / "a/b").mkdir(parents=True)
    store.mkdir()
    (store / "x1.pth").write_bytes(b"weights")
    (folder / "a/b/model.pth").symlink_to(store / "x1.pth")
    (folder / "config.yml").write_bytes(b"a: 1")
    (folder / "linked").symlink_to(store)
    (folder / "dangling.pth").symlink_to(store / "none")
    assert find(folder, tmp_path) == {
        "checkpoint": ("a/b/model.pth", b"weights"),
        "config": ("config.yml", b"a: 1"),
    }


def test_a_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"weights")
    assert find(tmp_path / "x.bin", tmp_path) == {"checkpoint": ("x.bin", b"weights")}
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as z:  # a zip, but one of torch's
        z.writestr("archive/data.pkl", b"N.")
    assert list(find_members(tmp_path / "y.pt", ROLES, tmp_path / "scratch")) == ["checkpoint"]


def link(name: str, target: str, mode: int = stat.S_IFLNK) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = (mode | 0o777) << 16
        with zipfile.ZipFile(path, "w") as z:
            z.writestr(info, target)
            z.writestr("a.pth", b"x")

    return make


def entry(name: str) -> Callable[[Path], Any]:
    """A zip with such a name in it, which zipfile would not write as it is."""

    def make(path: Path) -> None:
        dull = "n" * len(name.encode())
        make_zip(path, {dull: b"x", "a.pth": b"x"}, zipfile.ZIP_STORED)
        path.write_bytes(path.read_bytes().replace(dull.encode(), name.encode()))

    return make


def larger_than_it_says(path: Path) -> None:
    make_zip(path, {"a.pth": b"\0" * 5000 + os.urandom(5000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((10_000).to_bytes(4, "little"), (9_000).to_bytes(4, "little")))


def damaged(path: Path) -> None:
    make_zip(path, {"a.pth": os.urandom(10_000)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    make_zip(path, {"a.pth": b"x"})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


ZIPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "parent": (entry("../../evil.pth"), "leads out of the zip"),
    "parent inside": (entry("a/../../evil"), "leads out of the zip"),
    "absolute": (entry("/tmp/evil.pth"), "leads out of the zip"),
    "backslash": (entry("..\\evil.pth"), "leads out of the zip"),
    "drive": (entry("C:/evil.pth"), "leads out of the zip"),
    "here": (entry("./a/evil.pth"), "leads out of the zip"),
    "nothing between": (entry("a//evil.pth"), "leads out of the zip"),
    "zero byte": (entry("b.pth\0.txt"), "leads out of the zip"),
    "link": (link("config.yaml", "/etc/passwd"), "is a link or a device"),
    "device": (link("null", "", stat.S_IFCHR), "is a link or a device"),
    "bomb": (lambda p: make_zip(p, {"a.pth": b"\0" * 10_000_000}), "would unpack from"),
    "config bomb": (
        lambda p: make_zip(p, {"a.pth": b"x", "config.yaml": b"a" * (archive.MAX_CONFIG + 1)}),
        "would unpack from",
    ),
    "larger than it says": (larger_than_it_says, "cannot be unpacked"),
    "damaged": (damaged, "cannot be unpacked"),
    "encrypted": (encrypted, "encrypted"),
    "unusual compression": (
        lambda p: make_zip(p, {"a.pth": b"x"}, zipfile.ZIP_BZIP2),
        "compressed in an unusual way",
    ),
    "no checkpoint": (
        lambda p: make_zip(p, {"a.txt": b"x", "b.wav": b"x"}),
        "expected a checkpoint (.checkpoint, .pth, .pt, .ckpt, .safetensors), found a.txt, b.wav",
    ),
    "two checkpoints": (
        lambda p: make_zip(p, {"a.pth": b"x", "b/c.checkpoint": b"x"}),
        "expected one checkpoint, found a.pth, b/c.checkpoint; name the one",
    ),
    "two configs": (
        lambda p: make_zip(p, {"a/a.pth": b"x", "b/config.yaml": b"", "c/config.yaml": b""}),
        "expected one config.yaml",
    ),
    "two configs beside": (
        lambda p: make_zip(p, {"a.pth": b"x", "config.yaml": b"", "config.yml": b""}),
        "expected one config.yaml",
    ),
    "empty": (lambda p: make_zip(p, {}), "found nothing"),
    "truncated": (
        lambda p: p.write_bytes(make_zip(p, {"a.pth": b"x" * 100}).read_bytes()[:-30]),
        "truncated",
    ),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zips_are_not_trusted(tmp_path: Path, case: str) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    path = tmp_path / "in/deep/x.zip"
    make, message = ZIPS[case]
    make(path)
    scratch = tmp_path / "in/scratch"
    scratch.mkdir()
    with pytest.raises(InputError) as e:
        find_members(path, ROLES, scratch)
    assert message in line_of(e)
    assert sorted(
        p.name for p in tmp_path.rglob("*") if p.is_file() and scratch not in p.parents
    ) == ["x.zip"]
    assert sum(p.stat().st_size for p in scratch.iterdir()) <= 10_000


def test_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    make_zip(tmp_path / "x.zip", {"a.pth": os.urandom(1000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda p: argparse.Namespace(free=999))
    with pytest.raises(InputError, match="needs 1000 bytes"):
        find_members(tmp_path / "x.zip", ROLES, tmp_path)


def test_folders_of_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_ENTRIES", 5)
    for i in range(7):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(InputError, match="more than 5 files"):
        find_members(tmp_path, ROLES, tmp_path)
    with pytest.raises(InputError, match="found nothing there"):
        find_members(tmp_path / "none", ROLES, tmp_path)


# The new folder


def test_folder_appears_whole_or_not(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as shop:
        (shop.model / "x").write_text("x")
        (shop.files / "y").write_text("y")
        assert (
            stat.S_IMODE(shop.model.parent.stat().st_mode) == 0o700
            and not (tmp_path / "a").exists()
        )
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["a", "a/x"]
    for error in (ValueError, KeyboardInterrupt, SystemExit, MemoryError):
        with pytest.raises(error), new_folder(tmp_path / "b") as shop:
            (shop.model / "x").write_text("x")
            raise error
    with (
        pytest.raises(InputError, match="cannot write there: No space left"),
        new_folder(tmp_path / "b"),
    ):
        raise OSError(28, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_existing_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name, message in (
        ("file", "already exists"),
        ("folder", "already exists"),
        ("dangling", "already exists"),
        ("no/folder", "does not exist"),
        ("file/x", "does not exist"),
    ):
        with pytest.raises(InputError, match=message), new_folder(tmp_path / name):
            raise AssertionError("entered")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "folder"]


# YAML


YAMLS: dict[str, tuple[bytes, str]] = {
    "aliases": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "without aliases, got *a"),
    "merge": (b"a: &a {x: 1}\nb:\n  <<: *a", "without aliases"),
    "deep": (b"a: " + b"[" * 100_000, "nest"),
    "deep blocks": (
        "\n".join("  " * i + "a:" for i in range(200)).encode(),
        "nested at most 32 deep",
    ),
    "many": (b"[" + b"1," * 500_000 + b"]", "values"),
    "code": (b"a: !!python/object/apply:os.system ['touch canary']", "expected a YAML file"),
    "code of old": (b"a: !!python/name:os.system", "expected a YAML file"),
    "list": (b"- 1\n- 2", "expected a YAML mapping, got list"),
    "text": (b"hello", "expected a YAML mapping, got str"),
    "empty": (b"", "expected a YAML mapping, got NoneType"),
    "number keys": (b"1: 2", "expected a YAML mapping"),
    "not UTF-8": (b"a: \xff\xfe\xfd", "expected a YAML file"),
    "torn": (b"a: [1, 2", "expected a YAML file"),
    "two documents": (b"a: 1\n---\nb: 2", "expected a YAML file"),
    "unhashable key": (b"? [a]\n: b", "expected a YAML file"),
    "day that is none": (b"a: 2024-99-99", "expected a YAML file"),
    "control bytes": (b"a: \x00\x01", "expected a YAML file"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_yaml_is_bounded(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yaml")
    monkeypatch.chdir(tmp_path)
    data, message = YAMLS[case]
    (tmp_path / "config.yaml").write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(InputError) as e:
        load_yaml(tmp_path / "config.yaml")
    assert message in line_of(e) and time.monotonic() - begin < 30
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_yaml_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "config.yaml"
    path.write_text(
        "a: &x 1\ntoken_list:\n- <pad>\n- '<audio_0>'\n- é\nb: true\n", encoding="utf-8"
    )
    assert load_yaml(path) == {"a": 1, "token_list": ["<pad>", "<audio_0>", "é"], "b": True}
    with pytest.raises(InputError, match="got a folder"):
        load_yaml(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        load_yaml(tmp_path / "none")
    path.write_bytes(b"a: " + b"x" * archive.MAX_CONFIG)
    with pytest.raises(InputError, match="at most 4194304 bytes"):
        load_yaml(path)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(InputError, match=r"needs PyYAML; pip install 'uniaudio-engine\[import\]'"):
        load_yaml(path)


# Vocabulary, phones, lexicon


def test_vocabulary_of_the_repository() -> None:
    spans = {
        "phone": 306,
        "text": 5000,
        "semantic": 500,
        "sv_bool": 2,
        "sing_phone": 67,
        "sing_midi": 138,
    }
    v = read_vocabulary(token_list(3, 1024, spans), 3, 1024, "config.yaml")
    assert [(s.name, s.size) for s in v.spans] == [
        ("audio", 3072),
        ("audio_mask", 1),
        *spans.items(),
    ]
    assert [s.start for s in v.spans] == [128, 3200, 3201, 3507, 8507, 9007, 9009, 9076]
    assert v.specials[: len(SPECIALS)] == tuple(SPECIALS) and v.special("mega_local") == 24
    one = read_vocabulary(
        token_list(3, 1024)[: 128 + 3072], 3, 1024, "config.yaml"
    )  # without the mask
    assert one.spans == (Span("audio", 128, 3072),)


TOKENS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "no audio": (lambda t: t.__delitem__(slice(128, None)), "missing <audio_0>"),
    "begins at one": (
        lambda t: t.__delitem__(128),
        "<audio_1> at 128, <audio_2> at 129, <audio_3> at 130 and",
    ),
    "run broken by a word": (lambda t: t.insert(140, "<word>"), "<word> at 140"),
    "run twice": (lambda t: t.extend(["<phone_0>"]), "<phone_0> at"),
    "path": (lambda t: t.extend(["<../../x_0>"]), "<../../x_0> at"),
    "huge number": (lambda t: t.extend([f"<x_{'9' * 70}>"]), "at 204"),
    "leading zero": (lambda t: t.__setitem__(129, "<audio_01>"), "<audio_01> at 129"),
    "empty name": (lambda t: t.__setitem__(5, ""), "expected a list of names"),
    "long name": (lambda t: t.__setitem__(5, "<" + "a" * 1000 + ">"), "expected a list of names"),
    "number": (lambda t: t.__setitem__(5, 7), "expected a list of names"),
    "clash": (lambda t: t.__setitem__(20, "<phone>"), "<phone> is both"),
    "two masks": (lambda t: t.insert(177, "<audio_49>"), "50 audio tokens, the codec makes 3 x 16"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_foreign_vocabularies(case: str) -> None:
    tokens: list[Any] = token_list(3, 16)
    change, message = TOKENS[case]
    change(tokens)
    with pytest.raises(InputError) as e:
        read_vocabulary(tokens, 3, 16, "config.yaml")
    assert message in line_of(e)


def test_phones(tmp_path: Path) -> None:
    path = tmp_path / "dict"
    span = Span("phone", 177, 4)
    path.write_text("<unk>\r\nSIL 17\n\nHH_B 3 x\nSIL\n", encoding="utf-8")
    assert read_phones(path, span, "config.yaml") == ["<unk>", "SIL", "HH_B", "<UNK>"]
    for text, message in (
        ("SIL\n", "expected 3 phone labels (the model's 4 less <UNK>), got 1"),
        ("a\nb\nc\nd", "got 4"),
        ("", "got 0"),
        ("a\nb\n<UNK>\n", "without <UNK>"),
        ("a\nb\nc\0\n", "zero bytes"),
        ("a" * 2_000_000, "at most"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as e:
            read_phones(path, span, "config.yaml")
        assert message in line_of(e)
    path.write_bytes(b"\xff\xfe")
    for where, kind, message in (
        (path, span, "UTF-8"),
        (tmp_path, span, "a folder"),
        (tmp_path / "none", span, "No such file"),
        (path, None, "has no tokens <phone_0>"),
    ):
        with pytest.raises(InputError, match=message):
            read_phones(where, kind, "config.yaml")
    spans = {"audio": Span("audio", 0, 3), "sing_phone": Span("sing_phone", 3, 2)}
    path.write_text("i 2827693\ne 1541611\n")
    assert read_labels(path, "sing_phone", spans) == ["i", "e"]
    path.write_text("i\ne\na\n")
    for name, message in (
        ("sing_phone", "expected 2 labels for sing_phone, got 3"),
        ("audio", "expected the name of a span"),
        ("../x", "expected the name of a span"),
    ):
        with pytest.raises(InputError, match=message):
            read_labels(path, name, spans)


def test_lexicons(tmp_path: Path) -> None:
    path = tmp_path / "lexicon"
    labels = [*PHONES, "<UNK>"]
    hello = ("HELLO", ["HH", "AH0", "L", "OW1"])
    for text in (
        "HELLO HH AH0 L OW1\n",
        ";;; CMUdict\n\nHELLO  HH AH0 L OW1\n",
        "HELLO 1.0 HH AH0 L OW1\n",
        "HELLO HELLO HH AH0 L OW1\n",
        "HELLO\tHH AH0 L OW1\r\n",
    ):
        path.write_text(text)
        assert read_lexicon(path, labels) == ([hello], [])
    path.write_text("HELLO HH_B AH0_I L_I OW1_E\nHELLO(2) HH AH0 L OW1\n!SIL SIL\n<NOISE> SPN\n")
    entries, notes = read_lexicon(path, labels)
    assert len(entries) == 4 and notes == [
        "lexicon: 1 words have phones that the model has not, such as 'SPN' in '<NOISE>'"
    ]
    path.write_text("".join(f"W{i} HH\n" for i in range(20)) + "<eps>\n")
    entries, notes = read_lexicon(path, labels)
    assert len(entries) == 20 and "1 words without phones left out, such as '<eps>'" in notes[0]
    for text, message in (
        ("HELLO h @ l oU\n", "its phones are not the model's, such as 'h' in 'HELLO'"),
        ("", "found none"),
        (";;; only\n", "found none"),
        ("HELLO\nWORLD\n", "'HELLO' has none"),
        ("a\0b c", "zero bytes"),
    ):
        path.write_text(text)
        with pytest.raises(InputError) as e:
            read_lexicon(path, labels)
        assert message in line_of(e)


def test_config_beside_a_file(tmp_path: Path) -> None:
    (tmp_path / "ep1.checkpoint").write_bytes(b"x")
    assert list(find_members(tmp_path / "ep1.checkpoint", ROLES, tmp_path)) == ["checkpoint"]
    (tmp_path / "config.yaml").write_bytes(b"a: 1")
    members = find_members(tmp_path / "ep1.checkpoint", ROLES, tmp_path)
    assert members["config"].path == tmp_path / "config.yaml"
