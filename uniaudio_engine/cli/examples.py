"""``uniaudio examples``: the files that the helps' examples use, copied to where they are at hand.

They lie inside the installed package; in a checkout in ``examples/`` beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import InputError, first_few
from ..storage.files import atomic_write

_PACKAGE = Path(__file__).parents[1]


def example_files() -> list[Path]:
    """The shipped files, by name.  Raises :class:`InputError` where the installation has none."""
    for folder in (_PACKAGE / "examples", _PACKAGE.parent / "examples"):
        files = sorted(p for p in folder.glob("[!._]*") if p.is_file())
        if files:
            return files
    raise InputError(
        f"{_PACKAGE}: expected the example files inside, got none; install uniaudio-engine again"
    )


def copy_examples(folder: Path, force: bool = False) -> list[Path]:
    """Copies them into ``folder``, which is made where it is not there, each whole or absent;
    returns the copies.

    Raises :class:`InputError`, before anything is written, where other files have their names
    (``force`` overwrites these).
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
        raise InputError(f"{folder}: {first_few(folders)} is no file there; choose another folder")
    if others and not force:
        raise InputError(
            f"{folder}: {first_few([p.name for p in others])} is there with other contents; "
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
        else f"{args.folder}: {len(copies)} files, {size / 1e6:.2f} MB; {Path(args.folder) / 'README.md'} says what they are"
    )
    return 0
