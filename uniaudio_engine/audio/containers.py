"""Sound files whose headers do not say how long they are, or say it wrongly: what is really there.

libsndfile believes the count in a header.  Streams have none, a recorder that was stopped leaves
it at zero, and files that were joined have that of the first.  Here the data is looked through,
and libsndfile gets each piece with a header that is right.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from ..errors import InputError

_UNKNOWN_SIZE = 0x7FFF0000  # WAV data sizes from here on are what writers to a pipe put there
_CUT = "the file is cut off at its end; what is there was used"
_BLOCKS = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8)))  # of FLAC, by code
_TAIL = 1 << 20  # bytes at the end of a FLAC file in which its last frame begins


def pieces(f: BinaryIO, name: str) -> tuple[list[BinaryIO], list[str]]:
    """The sounds that follow one another in a file, each to be opened by libsndfile, and notes.

    Raises :class:`InputError` for a file that holds less than it says.
    """
    size = f.seek(0, io.SEEK_END)
    f.seek(0)
    head = f.read(12)
    f.seek(0)
    if len(head) < 12:
        raise InputError(
            f"{name}: expected a sound file, got only {size} bytes; it is truncated, copy it again"
        )
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        return [_wav(f, size, name)], []
    if head[:4] == b"OggS":
        return _ogg(f)
    if head[:4] == b"fLaC":
        return [_flac(f, size)], []
    if head[:4] in (b"FORM", b"RIFX", b"RF64", b"riff", b".snd", b"caff", b"Crea"):
        return [f], []
    return _mp3(f, name)


def _wav(f: BinaryIO, size: int, name: str) -> BinaryIO:
    """A RIFF file must hold the bytes that its data chunk announces; none means that its writer
    could not go back, and all that follows are samples.
    """
    f.seek(12)
    while len(head := f.read(8)) == 8:
        chunk, length = struct.unpack("<4sI", head)
        if chunk != b"data":
            f.seek(length + length % 2, io.SEEK_CUR)
            continue
        at = f.tell()
        there = size - at
        if length == 0 and there:
            f.seek(0)
            data = bytearray(f.read())
            struct.pack_into("<I", data, at - 4, there)
            struct.pack_into("<I", data, 4, size - 8)
            return io.BytesIO(data)
        if length < _UNKNOWN_SIZE and there < length:
            raise InputError(
                f"{name}: expected {length} bytes of samples, got {there}: truncated, copy it again"
            )
        break
    f.seek(0)
    return f


def _ogg(f: BinaryIO) -> tuple[list[BinaryIO], list[str]]:
    """Each chain of pages from a first page to the next one that follows others."""
    data = f.read()
    starts: list[int] = []
    at, first, last, whole = 0, False, False, True
    while 0 <= at <= len(data) - 27:
        flags, segments = data[at + 5], data[at + 26]
        begins = bool(flags & 2)
        if begins and not first:
            whole &= last or not starts
            starts.append(at)
        first, last = begins, bool(flags & 4)
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        last &= end <= len(data) and data.find(b"OggS", at + 4, end) < 0
        at = end if data[end : end + 4] == b"OggS" else data.find(b"OggS", at + 4)
    f.seek(0)
    notes = [] if whole and last else [_CUT]
    if len(starts) < 2:
        return [f], notes
    bounds = zip(starts, [*starts[1:], len(data)], strict=True)
    return [io.BytesIO(data[a:b]) for a, b in bounds], notes


def _flac(f: BinaryIO, size: int) -> BinaryIO:
    """With the number of samples, where the stream was written without."""
    head = bytearray(f.read(42))
    f.seek(0)
    if len(head) < 42 or head[4] & 127 or head[21] & 15 or any(head[22:26]):
        return f
    f.seek(max(42, size - _TAIL))
    tail = f.read()
    f.seek(0)
    fixed = int.from_bytes(head[8:10], "big")
    total = linked = 0  # samples up to the end of a frame, and how many frames lead up to it
    at = tail.find(b"\xff")
    while at >= 0:
        found = _flac_frame(tail[at : at + 16], fixed)
        if found is not None and (linked < 2 or found[0] == total):
            linked = linked + 1 if found[0] == total else 1  # 1: it may only look like a frame
            total = found[1]
        at = tail.find(b"\xff", at + 1)
    if not total:
        return f
    data = bytearray(f.read())
    data[21] |= total >> 32 & 15
    data[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return io.BytesIO(data)


def _flac_frame(head: bytes, fixed: int) -> tuple[int, int] | None:
    """The first sample and the end of the frame whose header this is; None if it is none.
    ``fixed``: samples of a frame where all have as many.
    """
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    if not size_code or rate_code == 15:
        return None
    extra = 0
    while extra < 7 and head[4] & 0x80 >> extra:
        extra += 1
    extra = max(0, extra - 1)  # bytes of the number after its first
    number = head[4] & (0x7F if not extra else 0x3F >> extra)
    at = 5
    for _ in range(extra):
        if at >= len(head) or head[at] & 0xC0 != 0x80:
            return None
        number = number << 6 | head[at] & 0x3F
        at += 1
    width = {6: 1, 7: 2}.get(size_code, 0)
    block = int.from_bytes(head[at : at + width], "big") + 1 if width else _BLOCKS[size_code]
    at += width
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    begin = number if head[1] & 1 else number * fixed
    return begin, begin + block


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7 if crc & 0x80 else crc << 1) & 0xFF
    return crc


# MPEG audio, layer III

_RATES = ((11025, 12000, 8000), (), (22050, 24000, 16000), (44100, 48000, 32000))  # by version
_KBITS = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_SEARCHED = 1 << 18  # bytes in which the first frame begins
_LINKED = 4  # frames in a row are no accident


def _mp3(f: BinaryIO, name: str) -> tuple[list[BinaryIO], list[str]]:
    """Each run of frames from one that holds the count to the next such, with the right count."""
    while (tag := f.read(10))[:3] == b"ID3" and len(tag) == 10:
        f.seek(_id3_size(tag), io.SEEK_CUR)
    f.seek(-len(tag), io.SEEK_CUR)
    if not _mp3_frames(f.read(_SEARCHED))[0]:
        f.seek(0)
        return [f], []
    f.seek(0)
    data = f.read()
    starts, cut = _mp3_frames(data)
    runs: list[list[int]] = []
    for at in starts:
        if not runs or _info(data, at) is not None:
            runs.append([])
        runs[-1].append(at)
    out: list[BinaryIO] = []
    for run in runs:
        said = _info(data, run[0])
        frames = run if said is None else run[1:]
        if said and len(frames) < said - 1:
            raise InputError(
                f"{name}: expected {said} MP3 frames, got {len(frames)}; the file is truncated, "
                "copy it again"
            )
        head = data[run[0] : run[0] + _frame_length(data, run[0])]
        if not said or len(frames) > said:  # none, or that of something shorter
            head = _counted(data[run[0] : run[0] + 4], len(frames))
        if frames:
            body = (data[a : a + _frame_length(data, a)] for a in frames)
            out.append(io.BytesIO(head + b"".join(body)))
    return out or [f], [_CUT] if cut else []


def _mp3_frames(data: bytes) -> tuple[list[int], bool]:
    """Where the frames begin, and whether the last one is cut off; tags and rubbish are passed
    over.  The first two bytes of all headers but for padding are alike.
    """
    starts: list[int] = []
    at = kind = 0
    while at + 4 <= len(data):
        length = _frame_length(data, at)
        alike = not starts or data[at + 1] == kind
        if length and alike and (starts or at == 0 or _begins(data, at)):
            if at + length > len(data):
                return starts, True
            kind = data[at + 1]
            starts.append(at)
            at += length
        elif data[at : at + 3] == b"ID3" and at + 10 <= len(data):
            at += 10 + _id3_size(data[at : at + 10])
        else:
            at = _resynchronized(data, at + 1, kind)
            if at < 0:
                break
    return starts, False


def _resynchronized(data: bytes, at: int, kind: int) -> int:
    """The next place where frames begin, of the kind of the ones before if there were any; -1:
    none.
    """
    while (at := data.find(b"\xff", at)) >= 0:
        if (not kind or data[at + 1 : at + 2] == bytes([kind])) and _begins(data, at):
            return at
        at += 1
    return -1


def _begins(data: bytes, at: int) -> bool:
    """Whether frames follow one another from there on, as far as the data goes."""
    for _ in range(_LINKED):
        length = _frame_length(data, at)
        if not length:
            return False
        at += length
        if at + 4 > len(data):
            break
    return True


def _id3_size(tag: bytes) -> int:
    a, b, c, d = (n & 127 for n in tag[6:10])
    return a << 21 | b << 14 | c << 7 | d


def _frame_length(data: bytes, at: int) -> int:
    """Bytes of the layer III frame whose header is there; 0 if there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = data[at + 1] >> 3 & 3, data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or rate == 3 or not 0 < bits < 15:
        return 0
    slots = 144000 if version == 3 else 72000
    kbits = _KBITS[version == 3][bits]
    return slots * kbits // _RATES[version][rate] + (data[at + 2] >> 1 & 1)


def _side_info(header: bytes) -> int:
    mono = header[3] >> 6 == 3
    return (17 if mono else 32) if header[1] & 8 else (9 if mono else 17)


def _info(data: bytes, at: int) -> int | None:
    """How many frames follow by what a frame says that holds no sound but the count; 0 where it
    leaves that out; None for all others.
    """
    tag = at + 4 + _side_info(data[at : at + 4])
    if data[tag : tag + 4] in (b"Xing", b"Info"):
        said = data[tag + 7] & 1 if len(data) > tag + 12 else 0
        return int.from_bytes(data[tag + 8 : tag + 12], "big") if said else 0
    if data[at + 36 : at + 40] == b"VBRI":
        return int.from_bytes(data[at + 50 : at + 54], "big")
    return None


def _counted(header: bytes, frames: int) -> bytes:
    """A frame that says how many follow, for sound of the kind of a header."""
    start = bytes([0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]])
    tag = b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    return (start + bytes(_side_info(header)) + tag).ljust(_frame_length(start, 0), b"\0")
