"""Untrusted checkpoints: read as data, rejected in one line, never executed.

Only the last test needs torch.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import DEEP, SIX, mapping, name, number, numbers, refused, row, tensor, text, write

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers import checkpoint as checkpoint_module
from uniaudio_engine.importers.checkpoint import StandIn, load_checkpoint
from uniaudio_engine.storage import zips

# What can be read


def test_tensors(tmp_path: Path) -> None:
    body = mapping(
        a=tensor(),
        t=tensor((3, 2), (1, 3)),
        tail=tensor((2,), (2,), 1),
        one=tensor((), (), 5),
        none=tensor((0, 7), (7, 1)),
        half=tensor((2,), (1,), key="1", count=2, kind=name("torch", "HalfStorage")),
        brain=tensor((2,), (1,), key="2", count=2, kind=name("torch", "BFloat16Storage")),
        ids=tensor((2,), (1,), key="3", count=2, kind=name("torch", "LongStorage")),
        parameter=name("torch._utils", "_rebuild_parameter")
        + row(tensor(), b"\x88", name("collections", "OrderedDict") + b")R")
        + b"R",
        float8=tensor((2,), (1,), key="1", count=4, kind=name("torch", "Float8_e4m3fnStorage")),
    )
    storages = {
        "0": SIX,
        "1": np.array([1, -2], "<f2").tobytes(),
        "2": np.array([0x3F80, 0xC000], "<u2").tobytes(),
        "3": np.array([7, -1], "<i8").tobytes(),
    }
    got = load_checkpoint(write(tmp_path / "x.pt", body, storages))
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    for key, expected in {
        "a": a,
        "t": a.T,
        "tail": [1, 3],
        "one": 5,
        "none": np.empty((0, 7)),
        "half": [1, -2],
        "brain": [1, -2],
        "ids": [7, -1],
        "parameter": a,
    }.items():
        np.testing.assert_array_equal(got[key], expected)
    assert (
        got["half"].dtype == np.float16
        and got["brain"].dtype == np.float32
        and isinstance(got["float8"], StandIn)
    )
    with pytest.raises(ValueError):
        got["a"][0, 0] = 1  # a view of the file


def test_byte_order(tmp_path: Path) -> None:
    body = mapping(
        a=tensor(),
        brain=tensor((2,), (1,), key="1", count=2, kind=name("torch", "BFloat16Storage")),
    )
    storages = {
        "0": np.arange(6, dtype=">f4").tobytes(),
        "1": np.array([0x3F80, 0xC000], ">u2").tobytes(),
    }
    got = load_checkpoint(write(tmp_path / "x.pt", body, storages, b"big"))
    np.testing.assert_array_equal(got["a"].ravel(), range(6))
    np.testing.assert_array_equal(got["brain"], [1, -2])
    refused(write(tmp_path / "y.pt", body, storages, b"middle"), "byte order little or big")


def test_plain_data_of_every_protocol(tmp_path: Path) -> None:
    value = {
        "a": [1, -1, 2**70, 1.5, True, False, None],
        "b": ("x", b"y", ()),
        "c": {"d": {1: 2, None: 3}},
        "long": "z" * 300,
        "four": (1, 2, 3, 4),
    }
    value["again"] = value["a"]
    for protocol in range(6):
        data = pickle.dumps(value, protocol)
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
            z.writestr("x/data.pkl", data)
        got = load_checkpoint(tmp_path / "x.pt")
        if protocol < 3:  # bytes are then a call of _codecs.encode
            assert isinstance(got["b"][1], StandIn)
            got["b"] = ("x", b"y", ())
        assert got == value and got["again"] is got["a"]


def test_other_objects_are_stand_ins(tmp_path: Path) -> None:
    import argparse
    import collections
    import datetime

    value = {
        "n": argparse.Namespace(a=1),
        "d": collections.defaultdict(list, {"a": [1]}),
        "t": datetime.date(2024, 7, 22),
        "f": len,
        "s": {1, 2},
    }
    for protocol in range(6):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
            z.writestr("x/data.pkl", pickle.dumps(value, protocol))
        got = load_checkpoint(tmp_path / "x.pt")
        assert all(isinstance(got[k], StandIn) for k in "ndt")
        assert protocol < 2 or repr(got["n"]) == "<stand-in for argparse.Namespace>"
        assert not hasattr(got["n"], "a")


# Tensors that are not what they say

TENSORS: dict[str, tuple[bytes, str]] = {
    "size beyond the storage": (tensor((2, 4), (4, 1)), "in a storage of 6 numbers"),
    "offset beyond the storage": (tensor(offset=1), "in a storage of 6 numbers"),
    "stride beyond the storage": (tensor((2, 3), (4, 1)), "in a storage of 6 numbers"),
    "huge offset": (tensor(offset=1 << 60), "a tensor of size"),
    "negative offset": (tensor(offset=-1), "a tensor of size"),
    "negative stride": (tensor((2, 3), (-3, 1)), "a tensor of size"),
    "negative size": (tensor((-2, 3)), "a tensor of size"),
    "huge size": (tensor((1 << 62, 1 << 62)), "a tensor of size"),
    "huge size, wrapped to six": (tensor(((1 << 64) + 2, 3)), "a tensor of size"),
    "huge size by nothing": (tensor((1 << 47, 1 << 47, 0), (1, 1, 1)), "a tensor of size"),
    "expanded": (tensor((1 << 40,), (0,)), "in a storage of 6 numbers"),
    "many axes": (tensor((1,) * 40, (1,) * 40), "a tensor of size"),
    "fewer strides": (tensor((2, 3), (1,)), "a tensor of size"),
    "size is a number": (tensor(number(6)), "size or stride"),
    "size is text": (tensor(text("ab")), "size or stride"),
    "size of truths": (tensor(row(b"\x88", b"\x88")), "a tensor of size"),
    "size of floats": (tensor(row(b"G" + struct.pack(">d", 2.0), number(3))), "a tensor of size"),
    "size without end": (tensor(row(DEEP, DEEP)), "a tensor of size"),
    "key without end": (
        row(text("storage"), name("torch", "FloatStorage"), DEEP, text("cpu"), number(6)) + b"Q",
        "a reference to",
    ),
    "storage too short": (tensor(count=7), "the entry is of 24 bytes"),
    "storage too long": (tensor((1,), (1,), count=5), "the entry is of 24 bytes"),
    "storage of another width": (
        tensor(kind=name("torch", "DoubleStorage")),
        "the entry is of 24 bytes",
    ),
    "storage missing": (tensor(key="1"), "the entry is missing"),
    "storage elsewhere": (tensor(key="../../../etc/passwd"), "the entry is missing"),
    "negative count": (tensor(count=-6), "the entry is of 24 bytes"),
    "count without end": (
        row(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), DEEP) + b"Q",
        "storage '0'",
    ),
    "foreign storage": (tensor(kind=name("os", "FloatStorage")), "a storage of type"),
    "storage is text": (tensor(kind=text("FloatStorage")), "a storage of type"),
    "short reference": (row(text("storage")) + b"Q", "a reference to"),
    "reference to text": (text("0") + b"Q", "a reference to"),
    "tensor of no storage": (
        name("torch._utils", "_rebuild_tensor_v2") + row(text("x"), *[number(0)] * 3) + b"R",
        "",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_checked(tmp_path: Path, case: str) -> None:
    body, message = TENSORS[case]
    path = write(tmp_path / "x.pt", mapping(a=body))
    tracemalloc.start()
    begin = time.monotonic()
    try:
        if message:
            refused(path, message, "download it again")
        else:
            assert isinstance(load_checkpoint(path)["a"], StandIn)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begin < 10


# Files that are not what they say


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x/data.pkl", b"\x80\x02" + b"N0" * 100_000 + b"N.")


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as z, pytest.warns(UserWarning):
        z.writestr("x/data.pkl", b"N.")
        z.writestr("x/data.pkl", b"N.")


def overlapping(path: Path) -> None:
    """Both storages lie at one place."""
    write(path, mapping(a=tensor(), b=tensor(key="1")), {"0": SIX, "1": SIX})
    with zipfile.ZipFile(path) as z:
        first, second = (z.getinfo(f"archive/data/{k}").header_offset for k in "01")
    data = path.read_bytes()
    at = data.rindex(b"archive/data/1") - 46
    assert data[at + 42 : at + 46] == struct.pack("<I", second)
    path.write_bytes(data[: at + 42] + struct.pack("<I", first) + data[at + 46 :])


def pointing_into_nowhere(path: Path) -> None:
    write(path, mapping(a=tensor()))
    data = path.read_bytes()
    at = data.rindex(b"archive/data/0") - 46
    path.write_bytes(data[: at + 42] + struct.pack("<I", len(data) - 10) + data[at + 46 :])


def encrypted(path: Path) -> None:
    write(path, mapping(a=tensor()))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"archive/data/0") - 46
    data[at + 8] |= 1
    path.write_bytes(data)


def two_roots(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("x/data.pkl", b"N.")
        z.writestr("y/data.pkl", b"N.")


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: None, "No such file"),
    "folder": (lambda p: p.mkdir(), "got a folder"),
    "pipe": (lambda p: os.mkfifo(p), "got a pipe"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "got a device"),
    "empty": (lambda p: p.write_bytes(b""), "an empty file"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><html>"), "a web page"),
    "large file's pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        "Git LFS",
    ),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "a pickle of something else"),
    "random": (lambda p: p.write_bytes(bytes(range(100, 200))), "a file that begins with"),
    "zip of something else": (lambda p: zipfile.ZipFile(p, "w").close(), "without a data.pkl"),
    "two roots": (two_roots, "without a data.pkl"),
    "program": (lambda p: write(p, b"N", **{"constants.pkl": b"N."}), "TorchScript"),
    "compressed": (compressed, "is compressed or encrypted"),
    "encrypted": (encrypted, "is compressed or encrypted"),
    "entry twice": (twice, "is there twice"),
    "overlapping": (overlapping, "lies over another"),
    "pointing into nowhere": (pointing_into_nowhere, "is not where the zip says"),
    "safetensors of nothing": (
        lambda p: p.write_bytes(struct.pack("<Q", 9) + b'{"a": 3} '),
        "expected dtype, shape",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files(tmp_path: Path, case: str) -> None:
    make, message = FILES[case]
    make(tmp_path / "x.pt")
    refused(tmp_path / "x.pt", message)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.pt", mapping(a=tensor()))
    refused(path, "expected at most 100 bytes", max_bytes=100)
    monkeypatch.setattr(zips, "MAX_DIRECTORY", 100)
    refused(path, "a zip's directory of at most 100 bytes")
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint_module, "MAX_PICKLE", 50)
    refused(path, "an entry of at most 50 bytes")


def test_long_files_have_long_directories(tmp_path: Path) -> None:
    """The 64-bit form of a zip, as files above 4 GB have it; and a lie in it."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("x/data.pkl", b"N.")
    data = (tmp_path / "x.pt").read_bytes()
    at = data.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack("<HII", data[at + 10 : at + 20])
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "x.pt").write_bytes(data[:at] + record + locator + end)
    assert load_checkpoint(tmp_path / "x.pt") is None
    lie = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, 1 << 40, offset)
    (tmp_path / "x.pt").write_bytes(data[:at] + lie + locator + end)
    refused(tmp_path / "x.pt", "directory of at most")


def test_truncated_and_flipped(tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed: read, or refused in one line; nothing else."""
    path = write(
        tmp_path / "x.pt",
        mapping(a=tensor(), b=row(number(3), text("abc")), c=name("a", "b") + b")R}b"),
    )
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        refused(path)
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(whole)))] = int(rng.integers(256))
        path.write_bytes(changed)
        try:
            load_checkpoint(path)
            read += 1
        except InputError as e:
            assert "\n" not in str(e)
    assert 50 < read < 1450


def legacy(
    obj: bytes, keys: list[str], storages: list[tuple[int, bytes]], protocol: int = 1001
) -> bytes:
    header = b"".join(
        pickle.dumps(v, 2)
        for v in (
            0x1950A86A20F9469CFC6C,
            protocol,
            {"protocol_version": 1001, "little_endian": True},
        )
    )
    return (
        header
        + b"\x80\x02"
        + obj
        + b"."
        + pickle.dumps(keys, 2)
        + b"".join(struct.pack("<q", n) + d for n, d in storages)
    )


def test_old_format(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    at = (
        row(
            text("storage"), name("torch", "FloatStorage"), text("94"), text("cpu"), number(6), b"N"
        )
        + b"Q"
    )
    obj = mapping(
        a=name("torch._utils", "_rebuild_tensor_v2")
        + row(at, number(0), numbers(2, 3), numbers(3, 1), b"\x89", b"}")
        + b"R"
    )
    good = legacy(obj, ["94"], [(6, SIX)])
    path.write_bytes(good)
    np.testing.assert_array_equal(load_checkpoint(path)["a"].ravel(), range(6))
    for data, message in (
        (legacy(obj, ["95"], [(6, SIX)]), "not those of its tensors"),
        (legacy(obj, [], []), "not those of its tensors"),
        (legacy(obj, ["94"], [(5, SIX)]), "truncated"),
        (legacy(obj, ["94"], [(6, SIX[:-1])]), "truncated"),
        (legacy(obj, ["94"], [(6, SIX)], 1002), "protocol 1001"),
        (
            legacy(obj.replace(b"\x8a\x01\x06N", b"\x8a\x08" + b"\xff" * 7 + b"\x7fN"), ["94"], []),
            "storage '94'",
        ),
        (
            legacy(obj.replace(numbers(2, 3), numbers(2, 4)), ["94"], [(6, SIX)]),
            "in a storage of 6",
        ),
        (legacy(mapping(a=DEEP + b"Q"), [], []), "a reference to"),
    ):
        path.write_bytes(data)
        refused(path, message)
    for n in range(len(good)):
        path.write_bytes(good[:n])
        refused(path)


def test_as_torch_reads_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(4, 5), torch.nn.BatchNorm1d(5))
    optimizer = torch.optim.AdamW(model.parameters())
    model[0](torch.randn(2, 3)).sum().backward()
    optimizer.step()
    shared = torch.randn(4, 6)
    tagged = torch.nn.Parameter(torch.randn(3))
    tagged.note = "x"  # type: ignore[attr-defined]
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared.t(), shared[1:, ::2], shared[2, 3]],
        "types": [
            torch.randn(3).to(t)
            for t in (
                torch.float16,
                torch.bfloat16,
                torch.float64,
                torch.int8,
                torch.uint8,
                torch.bool,
                torch.int16,
                torch.complex64,
            )
        ],
        "tagged": tagged,
        "empty": torch.empty(0, 3),
    }

    def same(a: Any, b: Any) -> None:
        if isinstance(b, torch.Tensor):
            expected = (
                b.detach().float().numpy() if b.dtype == torch.bfloat16 else b.detach().numpy()
            )
            assert a.dtype == expected.dtype and a.shape == expected.shape
            np.testing.assert_array_equal(a, expected)
        elif isinstance(b, dict):
            assert list(a) == list(b)
            for k in b:
                same(a[k], b[k])
        elif isinstance(b, (list, tuple)):
            assert len(a) == len(b)
            for x, y in zip(a, b, strict=True):
                same(x, y)
        else:
            assert a == b

    for legacy_format in (False, True):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=not legacy_format)
        (tmp_path / "x.pt").write_bytes(buffer.getvalue())
        same(load_checkpoint(tmp_path / "x.pt"), value)
