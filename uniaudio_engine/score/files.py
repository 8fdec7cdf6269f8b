"""Score files: MIDI, MusicXML (also compressed) and the text form."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from ..errors import InputError, shown
from ..storage.opening import read_regular
from ..storage.zips import open_zip, unpacked
from .lyrics import decode
from .midi import read_midi
from .musicxml import read_musicxml
from .notes import Note
from .text_form import parse_score

_MAX_BYTES = 16 << 20  # of a file, and of a score in a compressed one
_MAX_MIDI_BYTES = 4 << 20
_MIDI = (".mid", ".midi", ".kar", ".rmi")
_MAX_ENTRIES = 1000
_MAX_CONTAINER = 65536
_ROOT_FILE = re.compile(r"""<rootfile\b[^<>]{0,1000}?full-path\s*=\s*["']([^"']*)""")


def read_file(path: Path, name: str) -> list[Note]:
    """Notes of a score file.  Raises :class:`InputError` in one line for what is none."""
    where = f"{name}: {path}"
    try:
        midi = path.suffix.lower() in _MIDI
        data = read_regular(path, _MAX_MIDI_BYTES if midi else _MAX_BYTES, where=where)
    except OSError as e:
        raise InputError(f"{where}: expected a readable score, got: {e.strerror or e}") from None
    return read_bytes(data, path.suffix, where)


def read_bytes(data: bytes, suffix: str, where: str) -> list[Note]:
    """Notes of the contents of a score file whose name ends in ``suffix``; ``where`` is what an
    error calls it.
    """
    if suffix.lower() in _MIDI:
        return read_midi(data, where)
    if suffix.lower() == ".txt":
        return parse_score(decode(data), where)
    return read_musicxml(_unpacked(data, where) if data[:2] == b"PK" else data, where)


def _unpacked(data: bytes, where: str) -> bytes:
    """The score in a compressed MusicXML file: what its container names first, else its first
    .xml or .musicxml file.
    """
    archive = open_zip(io.BytesIO(data), where)
    entries = {e.filename: e for e in archive.infolist()}
    if len(entries) > _MAX_ENTRIES:
        raise InputError(
            f"{where}: expected a compressed score of at most {_MAX_ENTRIES} files, got "
            f"{len(entries)}"
        )
    named = ""
    if (container := entries.get("META-INF/container.xml")) is not None:
        text = decode(_first(archive, container, where, _MAX_CONTAINER))
        found = _ROOT_FILE.search(text)
        named = found[1] if found else ""
    scores = [
        e
        for name, e in entries.items()
        if name.lower().endswith((".xml", ".musicxml")) and not name.startswith("META-INF/")
    ]
    if not scores:
        raise InputError(f"{where}: expected a score in the compressed file, got none")
    score = _first(
        archive, entries[named] if named in entries else scores[0], where, _MAX_BYTES + 1
    )
    if len(score) > _MAX_BYTES:
        raise InputError(f"{where}: expected at most {_MAX_BYTES} bytes unpacked, got more")
    return score


def _first(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, where: str, most: int) -> bytes:
    """The first ``most`` bytes of an entry."""
    data = bytearray()
    for piece in unpacked(archive, entry, f"{where}: entry {shown(entry.filename)}"):
        data += piece
        if len(data) >= most:
            break
    return bytes(data[:most])
