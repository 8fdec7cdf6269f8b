"""Lyrics as files hold them, syllable by syllable -> the words of notes."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .layout import syllable_count
from .notes import ELISION, HOLD, NEXT, SHORTEST, Note

_GAP = 0.03  # s; a shorter one between two notes is sung through
_DROPPED = {0xAD: None, 0x200B: None, 0x200C: None, 0x200D: None, 0xFEFF: None}
_SPACES = re.compile("[\\s_\u203f\u035c]+")  # ties and low lines join words on one note
_VERSE_NUMBER = re.compile(r"^\s*\d{1,2}[.):]\s*(?=\D)")
_LINE_MARKS = "/\\\r\n"
_HYPHENS = "-\u2010\u2011\u2012\u2013\u2014~="
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_BYTE_ENCODINGS = re.compile(
    r"utf-?8|(us-)?ascii|iso-?8859-\d+|latin-?\d|(windows-|cp)\d{3,4}|mac[a-z_-]*|shift_?-?jis"
    r"|euc-?_?(jp|kr)|gb(2312|k|18030)|big5|koi8-?_?[a-z]",
    re.IGNORECASE,
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Syllable:
    """A syllable's letters; ``joined`` to the word of the syllable before it, or a new word."""

    text: str
    joined: bool = False


@dataclass(slots=True)
class Sung:
    """A note of one voice: from ``start`` to ``end`` (s), the syllables that begin on it, and what
    an error message calls its place.
    """

    start: float
    end: float
    pitch: int
    syllables: Sequence[Syllable] = ()
    where: str = ""


def decode(data: bytes, declared: str = "") -> str:
    """Text in the encoding that its first bytes show, else in the one it declares, else in UTF-8,
    else in Windows-1252.  Never fails: every byte stands for some sign in the last.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if data[:2] in (b"<\0", b"\0<"):
        return data.decode("utf-16-le" if data[0] else "utf-16-be", "replace")
    named = _DECLARED.match(data[:400])
    for encoding in (declared or (named[1].decode() if named else ""), "utf-8"):
        try:
            if _BYTE_ENCODINGS.fullmatch(encoding):
                return data.decode(encoding)
        except (LookupError, UnicodeError):
            continue  # unknown to Python, or not the one that the text is in
    return data.decode("cp1252", "replace").replace("\ufffd", " ")


def clean(text: str) -> list[str]:
    """The words, or parts of words, in a lyric; none where it only holds the last syllable.

    Verse numbers, soft hyphens and hyphens at either end are no part of them.
    """
    text = unicodedata.normalize("NFC", text.translate(_DROPPED))
    parts = _SPACES.split(_VERSE_NUMBER.sub("", text))
    parts = [p.strip(_HYPHENS) for p in parts]
    return [p for p in parts if any(c.isalnum() for c in p)]


def written(text: str, kind: str, going: bool) -> tuple[list[Syllable], bool]:
    """Syllables of a lyric marked ``single``, ``begin``, ``middle``, ``end`` or not at all, and
    whether its word goes on; ``going``: whether the word before it does.
    """
    parts = clean(text)
    if not parts:
        return [], going
    joined = going and kind not in ("single", "begin")
    syllables = [Syllable(p, joined and i == 0) for i, p in enumerate(parts)]
    return syllables, kind in ("begin", "middle") or text.rstrip()[-1:] in ("-", "\u2010")


def karaoke(texts: Sequence[str]) -> list[list[Syllable]]:
    """Syllables of lyric events in a MIDI file, for each event.

    Two conventions are in use.  With spaces, words end where a space, a line mark (``/``, ``\\``)
    or a line end stands, and syllables are joined elsewhere.  Without, words end everywhere but
    after a hyphen.
    """
    filled = [t for t in texts if clean(t.strip(_LINE_MARKS))]
    spaced = sum(t[0] == " " or t[-1] == " " for t in filled) * 6 > len(filled)
    out: list[list[Syllable]] = []
    going = False
    for text in texts:
        bare = text.strip(_LINE_MARKS)
        parts = clean(bare)
        if text and (text[0] in _LINE_MARKS or text[0].isspace()):
            going = False
        out.append([Syllable(p, going and i == 0) for i, p in enumerate(parts)])
        if parts:
            going = bare.rstrip()[-1] in _HYPHENS or (spaced and bare[-1] == text[-1] != " ")
        elif text[-1:].isspace():
            going = False
    return out


def notes(line: Iterable[Sung]) -> list[Note]:
    """A voice's notes in order, with rests between them, each word in full on its first note.

    A note that overlaps the next one is cut; one without a syllable holds the last syllable, or
    sings "ah" where there was none; one too short to be heard is added to the note before it.
    """
    events: list[Sung] = []
    for e in line:
        if events and events[-1].end > e.start:
            events[-1].end = e.start
        if events and not e.syllables and e.end - e.start < SHORTEST:
            events[-1].end = max(events[-1].end, e.end)
        else:
            events.append(Sung(e.start, e.end, e.pitch, e.syllables, e.where))
    words = _words(events)
    out: list[Note] = []
    now = 0.0
    for i, (e, word) in enumerate(zip(events, words, strict=True)):
        if e.start - now >= _GAP:
            out.append(Note(0, e.start - now, "", e.where))
            now = e.start
        following = events[i + 1].start if i + 1 < len(events) else e.end
        end = following if 0 < following - e.end < _GAP else e.end
        out.append(Note(e.pitch, max(end - now, SHORTEST), word, e.where))
        now = max(end, now + SHORTEST)
    return out


def _words(events: Sequence[Sung]) -> list[str]:
    """The word of each note, as :class:`Note` has it.

    A word that is not split into syllables has one on each of its notes if it has as many.
    """
    tokens: list[
        list[list[str]]
    ] = []  # for each note; a token is a word's letters, or NEXT or HOLD
    word: list[str] = []
    held: list[list[str]] = []  # the HOLDs of that word

    def close() -> None:
        if len(word) == 1 and held and syllable_count(word[0]) == 1 + len(held):
            for token in held:
                token[0] = NEXT
        held.clear()

    for e in events:
        mine: list[list[str]] = []
        for s in e.syllables or ((Syllable("ah"),) if not word else ()):
            if s.joined and word:
                word.append(s.text)
                mine.append([NEXT])
            else:
                close()
                word = [s.text]
                mine.append(word)
        if not mine:
            mine.append([HOLD])
            held += mine
        tokens.append(mine)
    close()
    return [ELISION.join("".join(letters) for letters in mine) for mine in tokens]
