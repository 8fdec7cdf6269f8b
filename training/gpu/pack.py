r"""Packs data and configs into parts for transfer to a rented GPU machine, and unpacks them there.

    python training/gpu/pack.py pack --out parts --corpus real=data/real music=data/procedural \
        --tokens all=data/tokens --file codec.yaml lm.yaml warm.safetensors
    python training/gpu/pack.py unpack parts/part-* --out work

A part is a folder of at most ``--most`` bytes: PCM shards as FLAC, labels and token shards, other
files unchanged, and ``part.json`` with the path and SHA-256 of each. Shards are distributed such
that the first few parts contain some of every corpus. Unpacking needs numpy and a C compiler
(``flac.c``), or soundfile.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MOST = 60_000_000  # bytes per part
DESCRIPTION = "part.json"


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name.replace("-", "").isalnum():
        raise ValueError(f"expected NAME=FOLDER, got {text!r}")
    return name, Path(folder)


def _shards(folder: Path, ending: str, splits: tuple[str, ...]) -> list[Path]:
    found = [
        p
        for p in sorted(folder.glob(f"*{ending}"))
        if not p.name.startswith(".") and p.stem.split("-")[1] in splits
    ]
    if not found:
        raise ValueError(f"{folder}: no shards of {', '.join(splits)}")
    return found


def _flac(pcm: NDArray[np.int16], path: Path) -> None:
    import soundfile as sf

    sf.write(str(path), pcm, 16000, subtype="PCM_16", format="FLAC", compression_level=1.0)


class _Parts:
    """Distributes files over parts of limited size."""

    def __init__(self, out: Path, most: int) -> None:
        self.out, self.most = out, most
        self.rows: list[list[dict[str, str]]] = []
        self.sizes: list[int] = []

    def add(self, files: list[tuple[Path, str]]) -> None:
        """Adds a group of (local file, path in the part), kept together in the first part with
        enough room.
        """
        size = sum(f.stat().st_size for f, _ in files)
        if size > self.most:
            raise ValueError(f"{files[0][1]}: {size} bytes do not fit into a part of {self.most}")
        n = next((i for i, s in enumerate(self.sizes) if s + size <= self.most), len(self.sizes))
        if n == len(self.sizes):
            self.sizes.append(0)
            self.rows.append([])
        folder = self.out / f"part-{n:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, place in files:
            name = place.replace("/", "+")
            shutil.copyfile(file, folder / name)
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            self.rows[n].append({"file": name, "place": place, "sha256": digest})
        self.sizes[n] += size

    def finish(self) -> None:
        for n, rows in enumerate(self.rows):
            text = json.dumps({"part": n, "parts": len(self.rows), "files": rows}, indent=1)
            (self.out / f"part-{n:02d}" / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def pack(
    out: Path,
    corpora: list[tuple[str, Path]],
    tokens: list[tuple[str, Path]],
    files: list[Path],
    most: int = MOST,
    splits: tuple[str, ...] = ("train", "valid"),
) -> list[int]:
    """Writes the parts; returns the bytes of each.

    Raises ValueError for a folder without shards, and where ``out`` already has parts.
    """
    if list(out.glob("part-*")):
        raise ValueError(f"{out}: already has parts; use another folder")
    parts = _Parts(out, most)
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            parts.add([(file, file.name)])
        queues: list[list[list[tuple[Path, str]]]] = []
        for name, folder in corpora:
            queues.append(
                [
                    [
                        (npy, f"data/{name}/{npy.stem}.flac"),
                        (npy.with_suffix(".jsonl"), f"data/{name}/{npy.stem}.jsonl"),
                    ]
                    for npy in _shards(folder, ".npy", splits)
                ]
            )
        for name, folder in tokens:
            queues.append(
                [
                    [
                        (npz, f"tokens/{name}/{npz.name}"),
                        (npz.with_suffix(".jsonl"), f"tokens/{name}/{npz.stem}.jsonl"),
                    ]
                    for npz in _shards(folder, ".npz", splits)
                ]
            )
        # equal shares: the n-th of m shards of a queue is at n / m
        order = sorted(
            ((n + 0.5) / len(queue), q, group)
            for q, queue in enumerate(queues)
            for n, group in enumerate(queue)
        )
        for i, (_, _, group) in enumerate(order):
            if group[0][0].suffix == ".npy":
                flac = Path(scratch) / f"{i}.flac"
                _flac(np.load(group[0][0], allow_pickle=False), flac)
                parts.add([(flac, group[0][1]), group[1]])
                flac.unlink()
            else:
                parts.add(group)
    parts.finish()
    return parts.sizes


def flac_reader(build: Path | None = None) -> ctypes.CDLL:
    """``flac.c``, compiled with ``cc``. Raises RuntimeError where that fails."""
    build = Path(tempfile.mkdtemp()) if build is None else build
    library = build / "flac.so"
    source = Path(__file__).with_name("flac.c")
    try:
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as e:
        raise RuntimeError(f"flac.c: expected a C compiler as cc ({e})") from None
    reader = ctypes.CDLL(str(library))
    reader.flac_decode.restype = ctypes.c_int64
    reader.flac_decode.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64]
    return reader


def read_flac(reader: ctypes.CDLL, data: bytes) -> NDArray[np.int16]:
    """int16 [N] of a mono FLAC file. Raises ValueError where it is damaged or not such a file."""
    most = int.from_bytes(data[21:26], "big") & ((1 << 36) - 1) if len(data) >= 42 else 0
    out = np.empty(most, np.int16)
    count = reader.flac_decode(data, len(data), out.ctypes.data, most)
    if count < 0 or count != most:
        raise ValueError(f"expected a whole mono 16-bit FLAC file (code {count})")
    return out


def unpack(folders: list[Path], out: Path) -> int:
    """Unpacks parts to ``out``, FLAC as ``.npy``; returns the number of files.

    Raises ValueError for a wrong checksum, before anything of that part is written.
    """
    reader = None
    count = 0
    for folder in folders:
        rows = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["files"]
        for row in rows:
            if hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() != row["sha256"]:
                raise ValueError(f"{folder / row['file']}: damaged; pack it again")
        for row in rows:
            place = out / row["place"]
            if not place.resolve().is_relative_to(out.resolve()):
                raise ValueError(f"{folder}: {row['place']!r} is outside of {out}")
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.suffix == ".flac":
                reader = reader or flac_reader()
                np.save(
                    place.with_suffix(".npy"),
                    read_flac(reader, (folder / row["file"]).read_bytes()),
                )
            else:
                shutil.copyfile(folder / row["file"], place)
            count += 1
    return count


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pack training data into parts for transfer.")
    sub = parser.add_subparsers(dest="command", required=True)
    p = sub.add_parser("pack", help="write parts")
    p.add_argument("--out", required=True, type=Path)
    p.add_argument(
        "--corpus", action="extend", nargs="*", default=[], metavar="NAME=FOLDER", help="PCM shards"
    )
    p.add_argument(
        "--tokens",
        action="extend",
        nargs="*",
        default=[],
        metavar="NAME=FOLDER",
        help="token shards",
    )
    p.add_argument(
        "--file",
        action="extend",
        nargs="*",
        default=[],
        type=Path,
        help="configs, weights, captions",
    )
    p.add_argument(
        "--most", type=int, default=MOST, help="maximum bytes per part (default: %(default)s)"
    )
    p = sub.add_parser("unpack", help="unpack parts")
    p.add_argument("parts", nargs="+", type=Path)
    p.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(argv)
    try:
        if args.command == "pack":
            corpora, tokens = ([_named(t) for t in given] for given in (args.corpus, args.tokens))
            for n, size in enumerate(pack(args.out, corpora, tokens, args.file, args.most)):
                print(f"{args.out}/part-{n:02d}: {size / 1e6:.1f} MB")
        else:
            print(f"{args.out}: {unpack(args.parts, args.out)} files")
    except (ValueError, OSError, RuntimeError) as e:
        print(f"pack.py: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
