"""The README.md of an imported model folder: its description, its source files, and what is unknown
about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import atomic_write

LICENCE_UNKNOWN = "unknown: the authors do not state one for these weights"


@dataclass(frozen=True)
class Origin:
    """A source file of a folder: its role, its name, its size in bytes, its SHA-256."""

    role: str
    name: str
    size: int
    sha256: str


def write_card(
    folder: Path,
    title: str,
    about: str,
    origins: Sequence[Origin],
    notes: Iterable[str] = (),
    licence: str = LICENCE_UNKNOWN,
) -> None:
    """Writes ``README.md``.

    ``about`` is a paragraph. File names are formatted as code, so that they cannot add markup.
    """
    lines = [
        f"# {title}",
        "",
        about,
        "",
        f"Licence: {licence}.",
        "",
        "Made by `uniaudio import` from:",
        "",
    ]
    lines += ["| | file | bytes | SHA-256 |", "|---|---|---|---|"]
    lines += [f"| {o.role} | `{_code(o.name)}` | {o.size} | `{o.sha256}` |" for o in origins]
    lines += ["", *[f"- {n}" for n in notes]]
    with atomic_write(folder / "README.md") as f:
        f.write(("\n".join(lines).rstrip() + "\n").encode("utf-8", "replace"))


def _code(name: str) -> str:
    return "".join(c if c.isprintable() and c not in "`|" else "_" for c in name)
