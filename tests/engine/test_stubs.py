"""The stubs of the compiled modules match them: functions, classes, methods, properties, and every
parameter in order.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import uniaudio_engine
from uniaudio_engine import _C

PACKAGE = Path(uniaudio_engine.__file__).parent
Names = dict[str, Any]  # name -> parameters, None for a property or variable, Names for a class


def stub_names(body: list[ast.stmt]) -> Names:
    found: Names = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = stub_names(node.body)
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            found[node.target.id] = None
        elif isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(d) for d in node.decorator_list]
            a = node.args
            names = [x.arg for x in (*a.posonlyargs, *a.args)]
            names += [f"*{x.arg}" for x in a.kwonlyargs]
            is_property = "property" in marks or any(m.endswith(".setter") for m in marks)
            found[node.name] = None if is_property else names
    return found


def documented_parameters(doc: str) -> list[str]:
    """Of the signature in the first line of a pybind11 docstring."""
    match = re.match(r"\w+\((.*)\)(?: -> .*)?$", doc.splitlines()[0])
    assert match, doc
    parts, depth = [""], 0
    for c in match[1]:
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(c, 0)
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    names, star = [], ""
    for part in filter(None, (p.strip() for p in parts)):
        if part == "*":
            star = "*"
        else:
            names.append(star + re.split("[:=]", part)[0].strip())
    return names


def module_names(owner: Any) -> Names:
    found: Names = {}
    for name, value in vars(owner).items():
        dunder = name.startswith("__") and name not in (
            "__init__",
            "__len__",
            "__dlpack__",
            "__dlpack_device__",
        )
        if dunder or name.startswith("_pybind11"):
            continue
        if isinstance(value, type):
            found[name] = module_names(value)
        elif callable(value) or isinstance(value, staticmethod):
            doc = getattr(value, "__func__", value).__doc__
            if not doc.startswith("Initialize self."):  # of a class that Python cannot make
                found[name] = documented_parameters(doc)
        else:
            found[name] = None
    return found


def check(module: ModuleType, stub: Path) -> None:
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    body = [n for n in tree.body if not isinstance(n, ast.Import | ast.ImportFrom)]
    assert stub_names(body) == module_names(module)


def test_the_core() -> None:
    check(_C, PACKAGE / "_C.pyi")


@pytest.mark.slow  # the emulator is compiled first
def test_the_cuda_module(host: ModuleType) -> None:
    check(host, PACKAGE / "_cuda.pyi")


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("doc", "names"),
    [
        ("f(self: a.B, x: tuple[int, int], y: int = 0) -> int\n\nText.", ["self", "x", "y"]),
        ("g(*, stream: object = None) -> object", ["*stream"]),
        ("h() -> None", []),
    ],
)
def test_signatures_are_read(doc: str, names: list[str]) -> None:
    assert documented_parameters(doc) == names
