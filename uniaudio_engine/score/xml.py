"""MusicXML text -> a tree of the elements that are sung or say how, within bounds."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import InputError
from .lyrics import decode

_DEPTH = 64
_KEPT = frozenset(
    """
    score-partwise score-timewise part measure note rest pitch step alter octave unpitched
    display-step display-octave duration type dot time-modification actual-notes normal-notes chord
    grace cue voice staff notehead tie notations tied lyric syllabic text elision humming laughing attributes
    divisions transpose chromatic octave-change time beats beat-type direction direction-type words
    metronome beat-unit beat-unit-dot per-minute segno coda offset sound barline repeat ending backup
    forward
    """.split()
)


class _Refused(Exception):
    pass


def read_tree(data: bytes, where: str) -> Element:
    """The root element, names without their namespace.  Raises :class:`InputError` for what is no
    XML, for a document that defines entities or default attributes (a few bytes of which can stand
    for gigabytes), and for one nested deeper than any score.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.buffer_text = True
    depth = skipped = 0  # skipped: the depth at which a part that is not kept began

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, skipped
        depth += 1
        if depth > _DEPTH:
            raise _Refused(f"expected elements at most {_DEPTH} deep, got more")
        name = name.rpartition(" ")[2]
        if not skipped and depth > 1 and name not in _KEPT:
            skipped = depth
        if not skipped:
            builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth, skipped
        if not skipped:
            builder.end(name.rpartition(" ")[2])
        elif skipped == depth:
            skipped = 0
        depth -= 1

    def text(value: str) -> None:
        if not skipped:
            builder.data(value)

    def defines(*_: object) -> None:
        raise _Refused("expected MusicXML without definitions of its own, got some")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = parser.AttlistDeclHandler = defines
    try:
        parser.Parse(decode(data).encode(), True)
        return builder.close()
    except _Refused as e:
        raise InputError(f"{where}: {e}") from None
    except (expat.ExpatError, AssertionError, UnicodeError) as e:
        raise InputError(f"{where}: expected MusicXML, got: {e}") from None
