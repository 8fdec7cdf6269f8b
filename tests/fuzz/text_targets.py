"""Text as people and programs write it: plain, Markdown, SSML; whole and as it comes; lexicons."""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path
from random import Random

from changes import changed, text
from target import Target

from uniaudio_engine.errors import InputError
from uniaudio_engine.text import (
    LiveSentences,
    NothingToSpeak,
    decode,
    iter_sentences,
    read_pronunciations,
)

_MOST_SENTENCES = 200
_REFUSALS = (InputError, NothingToSpeak)
_MARKS = (
    *("# ", "**", "*", "_", "`", "```\n", "~~", "> ", "- ", "1. ", "[", "](", ")", "!["),
    *("[pause 0.5]", "[pause", "[word](/w er d/)", "(/", "/)", "&amp;", "&#0;", "&#x110000;"),
    *("&#xd800;", "<b>", "</b>", "<br>", "<!--", "-->", "<script>", "| a | b |\n|---|---|\n"),
    *("\n", "\n\n", "hello", "Dr. Jones", "3.14", "$5", " ", ".", "?", "\\", "http://a.b/c"),
)
_ELEMENTS = (
    *("<speak>", "</speak>", "<p>", "</p>", "<s>", "</s>", '<break time="500ms"/>', "<break/>"),
    *('<break strength="strong"/>', '<break time="1e400s"/>', '<prosody rate="150%">'),
    *("</prosody>", '<prosody rate="-9e9">', '<say-as interpret-as="date" format="mdy">'),
    *("</say-as>", "1/2/2026", '<sub alias="x">', "</sub>", '<phoneme alphabet="ipa" ph="təˈ">'),
    *("</phoneme>", "&amp;", "&lt;", "&x;", "<!DOCTYPE a>", "<![CDATA[", "]]>", "hello", " ", "."),
    '<say-as interpret-as="cardinal">',
)


def _document(draw: Random) -> str:
    kind = draw.randrange(3)
    if kind == 0:
        return text(draw)
    if kind == 1:
        return text(draw, _MARKS)
    return f"<speak>{text(draw, _ELEMENTS)}" + draw.choice(("</speak>", ""))


def sentences(folder: Path) -> Target:
    def make(draw: Random) -> tuple[str, str]:
        return _document(draw), draw.choice(("auto", "auto", "plain", "markdown", "ssml"))

    def use(given: tuple[str, str]) -> None:
        document, markup = given
        deque(islice(iter_sentences(document, markup=markup), _MOST_SENTENCES), 0)

    return Target(make, use, _REFUSALS)


def live(folder: Path) -> Target:
    """The same, in pieces that are cut anywhere."""

    def make(draw: Random) -> list[str]:
        document = _document(draw)
        cuts = sorted(draw.randrange(len(document) + 1) for _ in range(draw.randrange(6)))
        ends = [*cuts, len(document)]
        return [document[a:b] for a, b in zip([0, *cuts], ends, strict=True)]

    def use(pieces: list[str]) -> None:
        reader = LiveSentences()
        for i, piece in enumerate(pieces):
            reader.push(piece)
            list(reader.ready())
            list(reader.clause() if i % 3 == 1 else reader.flush() if i % 3 == 2 else ())
        list(reader.end())

    return Target(make, use, _REFUSALS)


def encodings(folder: Path) -> Target:
    """Bytes of text in any encoding."""
    words = "Hello, wörld — “it’s” 5 €.\n"
    files = [words.encode(e) for e in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252")]

    def use(data: bytes) -> None:
        for _sentence in iter_sentences(decode(data, "text")):
            pass

    return Target(lambda draw: changed(draw, draw.choice(files)), use, _REFUSALS)


def lexicon(folder: Path) -> Target:
    path = folder / "lexicon.txt"
    original = ";;; words\n# more\nkokoro k ax k ao1 r ow0\nHELLO HH AH0 L OW1\ntəm tˈɒm\n".encode()

    def use(data: bytes) -> None:
        path.write_bytes(data)
        own = read_pronunciations(path)
        for _sentence in iter_sentences("Hello, kokoro and təm.", lexicon=own):
            pass

    return Target(lambda draw: changed(draw, original), use, _REFUSALS)


TARGETS = {"text": sentences, "live_text": live, "encoding": encodings, "lexicon": lexicon}
