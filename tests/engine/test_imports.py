"""The engine package for readers and importing apps: a small public surface, no import cycles."""

from __future__ import annotations

import ast
from pathlib import Path

import uniaudio_engine

PACKAGE = Path(uniaudio_engine.__file__).parent
MOST_NAMES = 20


def modules(root: Path) -> dict[str, Path]:
    """All modules of a package by their full names; compiled ones by their stubs."""
    found = {}
    for path in (*root.rglob("*.py"), *root.rglob("*.pyi")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports anywhere, under TYPE_CHECKING too.

    Compiled modules import none; what their stubs import is for type checkers only.
    """
    if path.suffix == ".pyi":
        return set()
    found: set[str] = set()
    package = (name if path.stem == "__init__" else name.rpartition(".")[0]).split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {i if i in known else base for i in inner}
    return (found & set(known)) - {name}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """A cycle through each module that is in one."""
    found = []
    for start in graph:
        came_from = {start: start}
        queue = [start]
        while queue:
            here = queue.pop(0)
            for there in sorted(graph[here]):
                if there == start:
                    path = [here]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    found.append([*reversed(path), start])
                    queue.clear()
                    break
                if there not in came_from:
                    came_from[there] = here
                    queue.append(there)
    return found


def test_there_is_no_import_cycle() -> None:
    known = modules(PACKAGE)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    assert len(graph) > 50 and graph["uniaudio_engine.engine"] >= {"uniaudio_engine.model"}
    assert cycles(graph) == []


def test_a_cycle_would_be_found(tmp_path: Path) -> None:
    root = tmp_path / "p"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\n"
    )
    (root / "b.py").write_text("def f():\n    from . import c\n")
    (root / "c.py").write_text("import p.a\nimport os\n")
    known = modules(root)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    assert ["p.a", "p.b", "p.c", "p.a"] in cycles(graph)
    assert graph["p"] == set()


def test_nothing_below_knows_the_engine() -> None:
    known = modules(PACKAGE)
    above = ("uniaudio_engine", "uniaudio_engine.__main__")
    users = {
        name
        for name, path in known.items()
        if "uniaudio_engine.engine" in imports(name, path, known)
        and name not in above
        and not name.startswith(("uniaudio_engine.cli.", "uniaudio_engine.serving."))
    }
    assert users == set()


def test_the_top_level_is_small() -> None:
    """Modules and packages; an installed package has the examples as one more."""
    names = {
        path.name.partition(".")[0]
        for path in PACKAGE.iterdir()
        if path.suffix in (".py", ".pyi") or (path.is_dir() and path.name != "__pycache__")
    }
    names -= {"__init__", "__main__"}
    assert len(names) <= MOST_NAMES, sorted(names)
