"""Pickles that would run code or never end in Python's unpickler. No torch here."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import DEEP, mapping, name, number, refused, row, tensor, text, write

from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.checkpoint import StandIn, load_checkpoint
from uniaudio_engine.importers.pickle_machine import MAX_OPCODES

# Code is not run


def _exploits(canary: str) -> dict[str, bytes]:
    """Pickles that run ``touch canary`` when Python reads them, by each of the ways that a pickle
    has to call something.
    """
    touch = f"open({canary!r}, 'w').close()"

    class Reduce:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {canary}",)

    protocols = {f"reduce{p}": pickle.dumps(Reduce(), p) for p in range(6)}
    arg = text(touch)
    return protocols | {
        "global": b"\x80\x02" + name("builtins", "exec") + row(arg) + b"R.",
        "stack global": b"\x80\x04" + b"\x8c\x08builtins\x8c\x04exec\x93" + row(arg) + b"R.",
        "inst": b"(" + arg + b"ibuiltins\nexec\n.",
        "obj": b"(" + name("builtins", "exec") + arg + b"o.",
        "getattr chain": b"\x80\x02"
        + name("builtins", "getattr")
        + row(name("builtins", "__import__") + row(text("os")) + b"R", text("system"))
        + b"R"
        + row(text(f"touch {canary}"))
        + b"R.",
        "newobj": b"\x80\x02" + name("test_import_pickles", "Trap") + row(text(canary)) + b"\x81.",
        "newobj_ex": b"\x80\x04"
        + name("test_import_pickles", "Trap")
        + row(text(canary))
        + b"}\x92.",
        "build": b"\x80\x02"
        + name("test_import_pickles", "State")
        + b")\x81"
        + text(canary)
        + b"b.",
        "append": b"\x80\x02"
        + name("test_import_pickles", "State")
        + b")\x81"
        + text(canary)
        + b"a.",
        "set item": b"\x80\x02"
        + name("test_import_pickles", "State")
        + b")\x81"
        + text(canary)
        + b"K\x01s.",
        "extension": b"\x80\x02" + b"\x82\xf0" + row(text(canary)) + b"R.",
        "dotted": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + row(text(f"touch {canary}")) + b"R.",
    }


class Trap:
    def __new__(cls, canary: str) -> Any:
        Path(canary).touch()
        return object.__new__(cls)


class State:
    def __setstate__(self, canary: str) -> None:
        Path(canary).touch()

    def append(self, canary: str) -> None:
        Path(canary).touch()

    def __setitem__(self, canary: str, value: Any) -> None:
        Path(canary).touch()


EXPLOITS = sorted(_exploits("x"))


@pytest.mark.parametrize("way", EXPLOITS)
@pytest.mark.parametrize("where", ["object", "inside", "legacy"])
def test_code_does_not_run(tmp_path: Path, way: str, where: str) -> None:
    canary = tmp_path / "canary"
    data = _exploits(str(canary))[way]
    copyreg.add_extension("test_import_pickles", "Trap", 0xF0)
    try:
        pickle.loads(data)  # the trap is real
        assert canary.exists()
        canary.unlink()
        path = tmp_path / "x.pt"
        if where == "legacy":
            header = b"".join(
                pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            )
            path.write_bytes(header + data + pickle.dumps([], 2))
        elif where == "object":
            with zipfile.ZipFile(path, "w") as z:
                z.writestr("x/data.pkl", data)
        else:
            body = data[2:] if data[0] == 0x80 else data
            write(path, mapping(a=tensor(), reporter=body.rstrip(b".")))
        try:
            got = load_checkpoint(path)
            if where == "inside":
                np.testing.assert_array_equal(got["a"].ravel(), range(6))
        except InputError as e:
            assert "\n" not in str(e)
    finally:
        copyreg.remove_extension("test_import_pickles", "Trap", 0xF0)
    assert not canary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]


def test_nothing_is_imported(tmp_path: Path) -> None:
    before = set(sys.modules)
    body = mapping(
        a=name("antigravity", "fly") + b")R",
        b=name("this", "s"),
        c=name("xml.dom.minidom", "parse") + row(text("x")) + b"R",
    )
    load_checkpoint(write(tmp_path / "x.pt", body))
    assert not {"antigravity", "this", "torch"} & (set(sys.modules) - before)


def test_known_names_take_no_other_arguments(tmp_path: Path) -> None:
    """The few functions that are called check what they are called with."""
    for function, args in (
        (name("torch._utils", "_rebuild_tensor_v2"), row()),
        (name("torch._utils", "_rebuild_tensor_v2"), row(*[text("x")] * 6)),
        (name("torch._utils", "_rebuild_parameter"), row()),
        (name("collections", "OrderedDict"), row(text("ab"))),
        (name("collections", "OrderedDict"), row(number(3))),
        (name("torch._tensor", "_rebuild_from_type_v2"), row(text("x"))),
        (
            name("torch._tensor", "_rebuild_from_type_v2"),
            row(name("os", "system"), text("x"), row(text("x")), text("x")),
        ),
    ):
        path = write(tmp_path / "x.pt", mapping(a=function + args + b"R"))
        try:
            assert isinstance(load_checkpoint(path)["a"], StandIn)
        except InputError as e:
            assert "\n" not in str(e)


PICKLES: dict[str, bytes] = {
    "empty": b"",
    "no stop": b"\x80\x02N",
    "nothing on the stack": b"\x80\x02.",
    "two on the stack": b"\x80\x02NN.",
    "unknown opcode": b"\x80\x02\xff.",
    "mark missing": b"\x80\x02t.",
    "append to nothing": b"\x80\x02a.",
    "set on nothing": b"\x80\x02NNs.",
    "build nothing": b"\x80\x02Nb.",
    "build on nothing": b"\x80\x02b.",
    "memo empty": b"\x80\x02h\x05.",
    "odd items": b"\x80\x02}(Nu.",
    "reduce nothing": b"\x80\x02R.",
    "name is no text": b"\x80\x04NN\x93.",
    "tuple of two of one": b"\x80\x02N\x86.",
    "dup nothing": b"\x80\x022.",
    "pop nothing": b"\x80\x020.",
    "out of band": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05N\x98.",
    "extension of two bytes": b"\x80\x02\x83\x01\x00.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 50) + b"x.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "huge array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b"x.",
    "huge number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"x.",
    "negative length": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"x.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"Q.",
    "long decimal": b"L" + b"9" * 100_000 + b"L\n.",
    "no decimal": b"Ix\n.",
    "not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
}


@pytest.mark.parametrize("case", PICKLES)
def test_broken_pickles(tmp_path: Path, case: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("x/data.pkl", PICKLES[case])
    tracemalloc.start()
    try:
        refused(tmp_path / "x.pt", "not a sound checkpoint")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_pickles_that_only_look_expensive(tmp_path: Path) -> None:
    """A memo index of four thousand million, deep nesting, keys that could not be hashed: none is a
    matter here.
    """
    deep = b"]" * 100_000 + b"a" * 99_999
    keys = b"}" + (b")" + b"\x85" * 50_000) + b"Ns"  # {((((…)))): None}
    for body in (b"Nr\xff\xff\xff\xff0" + deep, keys, b"}]Ns", b"](" + b"N" * 100 + b"e", DEEP):
        tracemalloc.start()
        load_checkpoint(write(tmp_path / "x.pt", body))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


def test_too_many_steps(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("x/data.pkl", b"(" + b"N0" * (MAX_OPCODES // 2 + 1) + b"t.")
    refused(tmp_path / "x.pt", "more than 4000000 steps")
