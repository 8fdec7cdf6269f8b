"""``uniaudio examples``: copies the files that the examples in the help texts use.

They are inside the installed package, or in ``examples/`` of a checkout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import InputError, first_few
from ..storage.files import atomic_write

_PACKAGE = Path(__file__).parents[1]


def example_files() -> list[Path]:
    """The example files in order of name. Raises :class:`InputError` where there are none."""
    for folder in (_PACKAGE / "examples", _PACKAGE.parent / "examples"):
        files = sorted(p for p in folder.glob("[!._]*") if p.is_file())
        if files:
            return files
    raise InputError(
        f"{_PACKAGE}: expected the example files inside, got none; install uniaudio-engine again"
    )


def copy_examples(folder: Path, force: bool = False) -> list[Path]:
    """Copy the example files into ``folder``, which is created if absent; returns the copies.

    Raises :class:`InputError`, before anything is written, where files of the same names differ
    and ``force`` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder}: expected a folder for the examples, got a file; choose another name"
        )
    copies = {folder / p.name: p.read_bytes() for p in example_files()}
    others = [
        p
        for p, data in copies.items()
        if p.exists() and (not p.is_file() or p.read_bytes() != data)
    ]
    folders = [p.name for p in others if not p.is_file()]
    if folders:
        raise InputError(
            f"{folder}: {first_few(folders)} is not a file there; choose another folder"
        )
    if others and not force:
        raise InputError(
            f"{folder}: {first_few([p.name for p in others])} exists with other contents; "
            "choose another folder, or overwrite with --force"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in copies.items():
        if path in others or not path.exists():
            with atomic_write(path) as f:
                f.write(data)
    return list(copies)


def examples_command(args: argparse.Namespace) -> int:
    copies = copy_examples(Path(args.folder), args.force)
    size = sum(p.stat().st_size for p in copies)
    about = {"output": args.folder, "files": [p.name for p in copies], "bytes": size}
    print(
        json.dumps(about)
        if args.json
        else f"{args.folder}: {len(copies)} files, {size / 1e6:.2f} MB; {Path(args.folder) / 'README.md'} describes them"
    )
    return 0
