"""SSML documents to blocks: ``speak p s break say-as phoneme sub prosody`` (W3C's Speech Synthesis
Markup Language 1.1, in part).

Read by expat; document types and entities of their own are refused, so nothing outside the text is
ever opened and nothing grows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from ..errors import InputError, shown
from .characters import OVERRIDE
from .ipa import from_ipa, read_phones
from .markup import MAX_PAUSE, Block, Builder, Override, read_pause
from .say_as import KINDS, say_as

_DEPTH = 64
_ATTRIBUTES = {
    "speak": {"version", "lang", "xmlns", "schemaLocation", "base", "xsi"},
    "p": {"lang"},
    "s": {"lang"},
    "w": {"role"},
    "token": {"role"},
    "break": {"time", "strength"},
    "say-as": {"interpret-as", "format", "detail"},
    "phoneme": {"alphabet", "ph"},
    "sub": {"alias"},
    "prosody": {"rate"},
}
# Seconds of silence; None is a phrase break, without silence of its own.
_STRENGTHS = {"none": 0.0, "x-weak": None, "weak": None, "medium": 0.35, "strong": 0.7, "x-strong": 1.2}
_RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.75}
_RATE_LIMITS = (0.25, 4.0)
_ARPABETS = ("arpabet", "x-arpabet", "x-cmu", "cmu", "x-uniaudio", "x-phones")


def ssml_blocks(text: str) -> Iterator[Block]:
    """The blocks of an SSML document. The whole is read first: what is wrong in it is known before
    anything is spoken.

    Raises :class:`InputError` where it is no XML, or asks for what is not done.
    """
    return iter(_Reader(text).read())


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text.replace(OVERRIDE, " ")
        self.data = self.text.encode("utf-8", "replace")
        self.ascii = len(self.data) == len(self.text)
        self.byte = self.char = 0
        self.builder = Builder()
        self.made: list[Block] = []
        self.open: list[tuple[str, dict[str, str]]] = []
        self.rates = [1.0]
        self.held: list[str] | None = None  # the text inside of an element that is replaced
        self.held_from = 0

    def read(self) -> list[Block]:
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = False
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        self.parser = parser
        try:
            parser.Parse(self.data, True)
        except expat.ExpatError as e:
            line = f"line {e.lineno}, column {e.offset + 1}"
            raise InputError(
                f"SSML: expected well-formed XML, got {expat.ErrorString(e.code)} at {line}; & and "
                "< in the text are written &amp; and &lt;"
            ) from None
        self._finish(paragraph=True)
        return self.made

    def _place(self) -> int:
        """Where the parser is, in characters of the text."""
        byte = self.parser.CurrentByteIndex
        if self.ascii:
            return byte
        self.char += len(self.data[self.byte : byte].decode("utf-8", "replace"))
        self.byte = byte
        return self.char

    def _doctype(self, *_: Any) -> None:
        raise InputError("SSML: expected no document type, got <!DOCTYPE; leave it out")

    def _finish(self, pause: float | None = None, paragraph: bool = False) -> None:
        if self.builder:
            self.made.append(self.builder.block(pause, self.rates[-1], paragraph))
        elif self.made:
            last = self.made[-1]
            last.paragraph |= paragraph
            if pause is not None:
                last.pause = min(MAX_PAUSE, (last.pause or 0.0) + pause)
        elif pause:
            self.made.append(Block("", [0], pause=pause))

    def _start(self, tag: str, given: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        attributes = {k.rpartition(":")[2] if not k.startswith("xmlns") else "xmlns": v for k, v in given.items()}
        if name not in _ATTRIBUTES:
            raise InputError(f"SSML: expected {', '.join(_ATTRIBUTES)}, got <{tag}>; leave it out")
        if (name == "speak") != (not self.open):
            raise InputError(f"SSML: expected one <speak> around everything, got <{tag}>")
        unknown = sorted(set(attributes) - _ATTRIBUTES[name])
        if unknown:
            known = ", ".join(sorted(_ATTRIBUTES[name]))
            raise InputError(f"SSML: <{tag}> takes {known} here, got {unknown[0]}; leave it out")
        if self.held is not None:
            raise InputError(f"SSML: expected text only in <{self.open[-1][0]}>, got <{tag}>")
        if len(self.open) >= _DEPTH:
            raise InputError(f"SSML: expected at most {_DEPTH} elements inside each other, got more")
        self.open.append((name, attributes))
        if name in ("p", "s"):
            self._finish(paragraph=name == "p")
        elif name == "break":
            self._break(attributes)
        elif name == "prosody":
            rate = _rate(attributes.get("rate", "medium"), self.rates[-1])
            self._finish()
            self.rates.append(rate)
        elif name in ("say-as", "phoneme", "sub"):
            self.held, self.held_from = [], self._place()

    def _end(self, tag: str) -> None:
        name, attributes = self.open.pop()
        if name in ("p", "s", "speak"):
            self._finish(paragraph=name != "s")
        elif name == "prosody":
            self._finish()
            self.rates.pop()
        elif self.held is not None and name in ("say-as", "phoneme", "sub"):
            written = " ".join("".join(self.held).split())
            self.held = None
            end = self.text.find(">", self._place()) + 1
            override = _override(name, attributes, written)
            self.builder.override(override, self.held_from, max(0, end - self.held_from))

    def _characters(self, text: str) -> None:
        if self.held is not None:
            self.held.append(text)
            return
        place = self._place()
        literal = self.text.startswith(text, place)
        self.builder.put(text, place, None if literal else 1)

    def _break(self, attributes: dict[str, str]) -> None:
        strength = attributes.get("strength", "medium")
        if strength not in _STRENGTHS:
            raise InputError(
                f"SSML: break strength: expected {', '.join(_STRENGTHS)}, got {shown(strength)}"
            )
        pause: float | None = _STRENGTHS[strength]
        if "time" in attributes:
            pause = read_pause(attributes["time"] or "-", "SSML: break time")
        if pause is None:
            self.builder.put(",", self._place(), 0)
            self.builder.put(" ", self._place(), 0)
        elif pause or strength != "none" or "time" in attributes:
            self._finish(pause)


def _rate(text: str, now: float) -> float:
    """"slow", "80%", "+10%", "1.2"."""
    m = re.fullmatch(r"([+-]?)(\d+\.?\d*|\.\d+)(%?)", text.strip())
    rate = _RATES.get(text.strip(), -1.0)
    if m:
        value = float(m[2]) / (100 if m[3] else 1)
        rate = 1 + value if m[1] == "+" else 1 - value if m[1] == "-" else value
    low, high = _RATE_LIMITS
    if not low <= rate * now <= high:
        raise InputError(
            f"SSML: prosody rate: expected {', '.join(_RATES)}, or a number or percentage that makes "
            f"{low:g} to {high:g}, got {shown(text)}"
        )
    return rate * now


def _override(name: str, attributes: dict[str, str], written: str) -> Override:
    if name == "sub":
        if not attributes.get("alias", "").strip():
            raise InputError("SSML: expected <sub alias=\"words\">, got no alias")
        from .normalize import normalize

        return Override(written, normalize(attributes["alias"]))
    if name == "say-as":
        kind = attributes.get("interpret-as", "")
        if kind not in KINDS:
            raise InputError(
                f"SSML: say-as interpret-as: expected {', '.join(KINDS)}, got {shown(kind)}"
            )
        return Override(written, say_as(written, kind, attributes.get("format", "")))
    alphabet, ph = attributes.get("alphabet", "ipa").lower(), attributes.get("ph", "")
    what = "SSML: phoneme ph"
    if alphabet == "ipa":
        return Override(written, written, from_ipa(ph, what))
    if alphabet in _ARPABETS:
        return Override(written, written, read_phones(ph, what))
    raise InputError(f"SSML: phoneme alphabet: expected ipa or x-arpabet, got {shown(alphabet)}")
