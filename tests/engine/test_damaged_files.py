"""Files and values that fuzzing found to escape their checks, one test for each kind."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_tools import lyric, midi, off, on, track
from torch_files import name, number, refused, text, write

from uniaudio_engine import InputError
from uniaudio_engine.errors import first_repeated
from uniaudio_engine.importers.checkpoint import load_checkpoint
from uniaudio_engine.importers.yaml_file import load_yaml
from uniaudio_engine.score.midi import read_midi
from uniaudio_engine.score.reading import read_score
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.storage.tensors import load_tensors, save_tensors
from uniaudio_engine.storage.zips import open_zip
from uniaudio_engine.text import iter_sentences, read_pronunciations
from uniaudio_engine.tokenizers.captions import CaptionTokenizer


@pytest.mark.parametrize("foreign", ["a\nb", "\x1b[31mred", "\u202egnp", "\ud800", "tab\t"])
def test_refusals_are_one_line_that_a_terminal_can_show(foreign: str) -> None:
    error = InputError(f"expected a name, got {foreign}")
    assert str(error).isprintable() and str(error).startswith("expected a name, got ")
    assert str(InputError(str(error))) == str(error)
    assert str(InputError("größer — 日本")) == "größer — 日本"


@pytest.mark.parametrize("dtype", [["F32"], {"F32": 1}, None, 5])
def test_a_header_whose_type_is_no_name(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": np.ones(2, np.float32)})
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header["a"]["dtype"] = dtype
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[-8:])
    with pytest.raises(InputError, match="expected dtype"):
        load_tensors(path)


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for n in names:
            z.writestr(n, b"<score-partwise/>")
    return file.getvalue()


def test_zips_whose_numbers_are_wrong(tmp_path: Path) -> None:
    whole = zipped("a.xml")
    at = whole.index(b"PK\1\2")
    damaged = {
        "nameless": whole[: at + 28] + b"\0\0" + whole[at + 30 :],
        "far": whole[: at + 42] + b"\xff\xff\xff\x7f" + whole[at + 46 :],
        "long": whole[: at + 20] + b"\xff\xff\xff\x7f" + whole[at + 24 :],
        "moved": whole.replace(b"PK\5\6", b"PK\5\6", 1)[:-6] + b"\xff\xff\0\0\0\0",
    }
    for kind, data in damaged.items():
        with pytest.raises(InputError):
            open_zip(io.BytesIO(data), kind).read("a.xml")
        path = tmp_path / f"{kind}.mxl"
        path.write_bytes(data)
        with pytest.raises(InputError):
            read_score(path)


class Counting(str):
    hashed = 0

    def __hash__(self) -> int:
        Counting.hashed += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counting.hashed += 1
        return super().__eq__(other)


def test_repeated_names_are_found_in_one_pass() -> None:
    names = [Counting(i) for i in range(1000)]
    Counting.hashed = 0
    assert first_repeated(names) is None
    assert first_repeated([*names, "999"]) == "999"
    assert first_repeated([]) is None and first_repeated("abca") == "a"
    assert Counting.hashed < 8 * len(names)
    with pytest.raises(InputError, match="'b' is there twice"), pytest.warns(UserWarning):
        open_zip(io.BytesIO(zipped("a", "b", "c", "b", "a")), "x")


def again_and_again(values: int, calls: int) -> bytes:
    """One list of pairs, handed to OrderedDict in every call."""
    pairs = b"](" + b"".join(text(str(i)) + number(i) + b"\x86" for i in range(values)) + b"e"
    ordered = name("collections", "OrderedDict")
    return b"(" + pairs + b"q\1" + ordered + b"q\2" + b"h\2h\1\x85R" * calls + b"l"


def test_pickles_that_call_with_one_list_again_and_again(tmp_path: Path) -> None:
    few = load_checkpoint(write(tmp_path / "few.pt", again_and_again(100, 2)))
    assert len(few) == 4 and few[3] == {str(i): i for i in range(100)}
    refused(write(tmp_path / "many.pt", again_and_again(2000, 2000)), "again and again")
    sizes = b"](" + b"".join(number(1) for _ in range(5000)) + b"eq\1"
    rebuild = name("torch._utils", "_rebuild_tensor_v2") + b"q\2"
    body = b"(" + sizes + rebuild + b"h\2(Nh\1h\1h\1h\1tR0" * 5000 + b"l"
    refused(write(tmp_path / "sizes.pt", body), "again and again")


@pytest.mark.parametrize(
    "first", [b"\xff\xfe", b"\xef\xbb\xbf", b"<", b"\xfe\xffa", b"\xff\xfe\0\0"]
)
def test_lyrics_that_look_like_the_mark_of_an_encoding(first: bytes) -> None:
    events = (lyric(t) + on(60) + off(60) for t in (first, b"la", b"lu"))
    notes = read_midi(midi(track(*events)), "song")
    assert [n.word for n in notes][-2:] == ["la", "lu"]


@pytest.mark.parametrize(
    "value", ["a: !!int ''", "a: !!float ''", "? !!float\n: 1", "a: !!int '_'"]
)
def test_yaml_that_its_reader_trips_over(tmp_path: Path, value: str) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "x.yaml"
    path.write_text(value)
    with pytest.raises(InputError, match="expected a YAML file"):
        load_yaml(path)


def spoken(document: str) -> list[str]:
    sentences: Iterator[Any] = iter_sentences(document)
    return [w.text for s in sentences for w in s.words if w.text]


def test_digits_that_are_no_decimals() -> None:
    assert spoken("See a@b.c²http://a.b and ①②.")
    assert spoken("23.14 - 5 = x") == "twenty three point one four minus five equals x".split()


def test_captions_of_half_a_pair() -> None:
    tokenizer = CaptionTokenizer(load_folder().captions)
    with pytest.raises(InputError, match="which is cut"):
        tokenizer.encode("three \ud83c knocks")


@pytest.mark.parametrize("lexicon", [(0.1, 0.2), 5, {"a": [1]}, {"a": 5}, {5: "k"}])
def test_lexicons_of_other_types(lexicon: Any) -> None:
    with pytest.raises(InputError, match="lexicon"):
        read_pronunciations(lexicon)
