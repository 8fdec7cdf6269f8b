"""Written documents to blocks of running text: lines, lists, headings, and what Markdown, HTML and
inline commands say about the words.

A block's text is what is heard, and every character of it knows its place in the input. Not
responsible for sentences or words. `ssml.py` reads SSML, `documents.py` chooses between the two.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import InputError, shown
from .characters import OVERRIDE
from .ipa import read_phones
from .phones import PHONES

MAX_PAUSE = 10.0  # s


@dataclass(frozen=True)
class Override:
    """A word whose reading is given: ``said`` in words (as :func:`normalize` writes them) or, with
    ``phones``, the one word that these phones are; ``written`` in the text as ``written``."""

    written: str
    said: str
    phones: tuple[str, ...] | None = None


@dataclass
class Block:
    """Text that ends its last sentence, whatever its punctuation.

    ``origin``: the place in the input of each character, and of the end. ``overrides``: by place in
    ``text``, where an `OVERRIDE` character stands. ``pause``: seconds of silence after it, None
    where none is asked for; ``rate``: of speech, 1 is the voice's own; ``paragraph``: whether a
    paragraph ends with it.
    """

    text: str
    origin: Sequence[int]
    overrides: dict[int, Override] = field(default_factory=dict)
    pause: float | None = None
    rate: float = 1.0
    paragraph: bool = False


class Builder:
    """A block in the making."""

    def __init__(self) -> None:
        self.chars: list[str] = []
        self.origin: list[int] = []
        self.overrides: dict[int, Override] = {}
        self.end = 0

    def put(self, text: str, place: int, span: int | None = None) -> None:
        """`text` from `place` on; with `span` all of it stands for that many characters there."""
        self.chars.append(text)
        self.origin += range(place, place + len(text)) if span is None else [place] * len(text)
        self.end = place + (len(text) if span is None else span)

    def override(self, override: Override, place: int, span: int, owner: bool = False) -> None:
        """A word with a given reading, apart from its neighbours; ``owner``: but for "'s"."""
        self.put(" ", place, 0)
        self.overrides[len(self.origin)] = override
        self.put(OVERRIDE, place, span)
        if not owner:
            self.put(" ", place + span, 0)

    def block(
        self, pause: float | None = None, rate: float = 1.0, paragraph: bool = False
    ) -> Block:
        """What was put together; the builder is empty afterwards."""
        made = Block(
            "".join(self.chars), [*self.origin, self.end], self.overrides, pause, rate, paragraph
        )
        self.__init__()  # type: ignore[misc]
        return made

    def __bool__(self) -> bool:
        return any(not part.isspace() for part in self.chars)


# Lines


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """[begin, end) of each line, without its end and the spaces around it."""
    begin, size = 0, len(text)
    while begin < size:
        stop = text.find("\n", begin)
        stop = size if stop < 0 else stop
        a, b = begin, stop
        while a < b and text[a].isspace():
            a += 1
        while b > a and text[b - 1].isspace():
            b -= 1
        yield a, b
        begin = stop + 1


_LEAST_WIDTH = 50  # characters; a shorter line before a capital was not broken for want of room
_OPEN_END = re.compile(
    r"(?:[,;:(–—-]|\b(?:a|an|the|of|to|in|on|at|by|for|from|with|and|or|but|nor|as|than|that|which|"
    r"who|is|are|was|were|be|my|your|his|her|its|our|their|Mr\.|Mrs\.|Dr\.|Ms\.))$"
)
_MARK_WIDTH = 6  # characters that tell whether a line begins with a mark
_MARKED = re.compile(r"[-*+•‣▪●○–—]\s|\d{1,3}[.)]\s|[a-z][.)]\s")


def goes_on(
    text: str,
    line: tuple[int, int],
    following: tuple[int, int],
    cut: tuple[int, int] = (0, 0),
    whole: bool = True,
) -> bool | None:
    """Whether a sentence runs from one line into the next.

    ``cut``: how many characters, and spaces among them, the first line had before ``line``. Where
    the following line is not ``whole`` yet, the answer is None if the rest of it may decide.
    """
    a, b = line
    c, d = following
    if not whole and (text[c] == ">" or d - c < _MARK_WIDTH):
        return None
    quoted = _QUOTE.match(text, c, d)
    c = quoted.end() if quoted else c
    if _OPEN_END.search(text, max(a, b - 12), b):
        return text[b - 1] != ":" or not _MARKED.match(text, c, d)
    first, space, _ = text[c : min(d, c + 30)].partition(" ")
    if not whole and not space and d - c < 30:
        return None
    if first.lstrip("\"'“‘(")[:1].islower():
        if text.count(" ", a, b) + cut[1] >= 3 or text.count(" ", c, d) >= 3:
            return True
        return False if whole else None
    longer = b - a + cut[0] + 1 + len(first) > max(_LEAST_WIDTH, d - c)
    return None if longer and not whole else longer


def _joined(
    text: str, kind: Callable[[str, int, int], bool], line: tuple[int, int], other: tuple[int, int]
) -> bool:
    """Whether one sentence may run through two lines; lines of a `kind` stand alone, but a list
    item goes on in the next line where its sentence does."""
    if kind(text, *other) or (text[line[0]] in "#|" and kind(text, *line)):
        return False
    return bool(goes_on(text, line, other))


def _paragraphs(
    text: str, kind: Callable[[str, int, int], bool]
) -> Iterator[tuple[list[tuple[int, int]], bool]]:
    """Runs of lines that one sentence may run through, and whether a blank line follows."""
    run: list[tuple[int, int]] = []
    for line in _lines(text):
        if line[0] == line[1]:
            if run:
                yield run, True
                run = []
            continue
        if run and not _joined(text, kind, run[-1], line):
            yield run, False
            run = []
        run.append(line)
    if run:
        yield run, True


def plain_blocks(text: str) -> Iterator[Block]:
    text = text.replace(OVERRIDE, "\x00")
    for run, paragraph in _paragraphs(text, lambda text, a, b: False):
        a, b = run[0][0], run[-1][1]
        yield Block(text[a:b], range(a, b + 1), paragraph=paragraph)


# Markdown

ITEM = re.compile(r"[-*+•‣▪●○]\s+(?:\[[ xX]\]\s+)?")
NUMBERED = re.compile(r"\d{1,3}([.)])\s+")
_HEADING = re.compile(r"#{1,6}\s+")
_HEADING_END = re.compile(r"\s+#+$")
_QUOTE = re.compile(r"(?:>\s?)*>(?:\s+|(?=[A-Za-z\"'*_\[(]))")
_RULE = re.compile(r"(?:[-*_=]\s?){3,}$|=+$|-{2,}$")
_TABLE_RULE = re.compile(r"\|?(?:\s*:?-{2,}:?\s*\|)+\s*:?-*:?\s*$")
FENCE = re.compile(r"(?:```|~~~)")
_REFERENCE = re.compile(r"\[[^\]^\s][^\]]{0,80}\]:\s+\S+")


def own_line(text: str, a: int, b: int) -> bool:
    """Whether a line is a list item, heading, table row or rule."""
    c = text[a]
    if c in "-*+•‣▪●○":
        return bool(ITEM.match(text, a, b) or _RULE.match(text, a, b))
    if c == "#":
        return bool(_HEADING.match(text, a, b))
    if c.isdecimal():
        return bool(NUMBERED.match(text, a, b))
    if c in "=_":
        return bool(_RULE.match(text, a, b))
    return c == "|" or (c == "[" and bool(_REFERENCE.match(text, a, b)))


def markdown_blocks(text: str) -> Iterator[Block]:
    text = text.replace(OVERRIDE, "\x00")
    fenced = False
    inline = Inline(text)
    for run, paragraph in _paragraphs(
        text, lambda t, a, b: own_line(t, a, b) or bool(FENCE.match(t, a, b))
    ):
        made: list[Block] = []
        a, b = run[0]
        if FENCE.match(text, a, b):
            fenced = not fenced
            run = run[1:]
        if fenced:
            made = [
                Block(text[a:b], range(a, b + 1)) for a, b in run if not FENCE.match(text, a, b)
            ]
        else:
            for i, (a, b) in enumerate(run):
                inline.line(a, b, first=i == 0)
            made = inline.take()
        for i, block in enumerate(made):
            block.paragraph = paragraph and i == len(made) - 1
            yield block


_BLOCK_TAGS = frozenset(
    "p br div h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table thead tbody tr hr blockquote pre section "
    "article header footer nav main aside figure figcaption form html body head title".split()
)
_INLINE_TAGS = frozenset(
    "a b i u s em strong span font code kbd samp var sub sup small big mark del ins abbr cite q td th "
    "img input label button time center tt strike wbr iframe video audio source svg path details "
    "summary meta link".split()
)
SILENT_START = re.compile(r"(?i)<!--|<(?:script|style)\b")
_SSML_TAGS = frozenset("speak break say-as phoneme prosody".split())
PIECE = re.compile(
    r"(?P<escape>\\[\\`*_{}\[\]()#+.!|<>~-])"
    r"|(?P<code>`{1,2})(?![^`]*?\w'(?!\w))(?P<coded>[^`]+)(?P=code)"
    r"|\[pause(?:[ :=]\s*(?P<pause>[^\]\n]{0,20}))?\]"
    r"|!?\[(?P<label>(?:[^\[\]]|\[[^\[\]]*\]){0,300})\]"
    r"\((?P<target>/[^()/\n]{1,300}/|[^()\n]{0,2000}(?:\([^()\n]*\)[^()\n]*)?)\)"
    r"|(?P<reference>\[(?P<named>[^\[\]\n]{1,200})\]\[[^\[\]\n]{0,80}\])"
    r"|(?P<note>\[\^[^\]\s]{1,20}\])"
    r"|<(?P<link>(?:https?://|mailto:)[^\s<>]{1,2000})>"
    r"|(?P<comment><!--(?:.|\n){0,5000}?-->)"
    r"|(?P<silent><(?P<raw>script|style)\b[^<>]*>(?:.|\n){0,5000}?</(?P=raw)\s*>)"
    r"|<(?P<close>/?)(?P<tag>[A-Za-z][A-Za-z0-9-]{0,15})(?:\s[^<>]{0,1000})?/?>"
    r"|(?P<entity>&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,20});)"
    r"|(?<![\w*])(?P<star>\*{1,3})(?P<starred>[^\s*](?:[^*]{0,500}?|[^\n]{0,300}?)(?<=[^\s*])|[^\s*])(?P=star)(?![\w*])"
    r"|(?<![\w/])(?P<bar>_{1,3})(?P<barred>[^\s_](?:[^_]{0,500}?|[^\n]{0,300}?)(?<=[^\s_])|[^\s_])(?P=bar)(?!\w)"
    r"|~~(?=\S)(?P<struck>[^~]{1,500})~~",
)


def closing(opened: re.Match[str]) -> str:
    """What ends a match of ``SILENT_START``."""
    name = opened.group().lower()
    return "-->" if name == "<!--" else f"</{name[1:]}>"


class Inline:
    """Lines of Markdown to blocks."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.builder = Builder()
        self.made: list[Block] = []
        self.silent_to = 0  # where a comment or script that runs over lines ends
        self.unclosed: set[str] = set()

    def take(self) -> list[Block]:
        self.finish()
        made, self.made = self.made, []
        return made

    def finish(self, pause: float | None = None) -> None:
        if self.builder:
            self.made.append(self.builder.block(pause))
        elif pause is not None:
            self.made.append(Block("", [self.builder.end], pause=pause))

    def line(self, a: int, b: int, first: bool) -> None:
        """One line's text; `first` of its run, where a mark may stand."""
        rest = self.marks(a, b, first)
        if rest is not None:
            self.inline(*rest)

    def marks(self, a: int, b: int, first: bool) -> tuple[int, int] | None:
        """What a line's marks say; where its text begins and ends, None if it has none."""
        if b <= self.silent_to:
            return None
        text = self.text
        if not first:
            self.builder.put(" ", a, 0)
        quote = _QUOTE.match(text, a, b)
        a = quote.end() if quote else a
        if _RULE.match(text, a, b) or _TABLE_RULE.match(text, a, b) or _REFERENCE.match(text, a, b):
            return None
        row = text[a : a + 1] == "|"
        heading, item, numbered = (p.match(text, a, b) for p in (_HEADING, ITEM, NUMBERED))
        if heading:
            a = heading.end()
            closing = _HEADING_END.search(text, max(a, b - 12), b)
            b = closing.start() if closing else b
        elif item:
            a = item.end()
        elif numbered:  # "1. Boil it" is "one, boil it"
            stop = numbered.start(1)
            self.builder.put(text[a:stop], a)
            self.builder.put(",", stop)
            self.builder.put(" ", stop + 1, 0)
            a = numbered.end()
        elif row:
            a, b = a + 1, b - (text[b - 1] == "|" and b > a + 1)
        return a, b

    def inline(self, a: int, b: int, pieces: Iterable[re.Match[str]] | None = None) -> None:
        """`text[a:b]` without its marks; ``pieces``: those that were found already."""
        a = max(a, self.silent_to)
        if a >= b:
            return
        place = a
        for m in PIECE.finditer(self.text, a, b) if pieces is None else pieces:
            if m.start() < place:
                continue
            if m["tag"] and (opened := SILENT_START.match(m.group())) and self._silence(opened, m):
                b = m.start()
                break
            self.builder.put(self.text[place : m.start()], place)
            place = m.end()
            self._piece(m)
        opened = SILENT_START.search(self.text, place, b)
        if opened and self._silence(opened, opened):
            b = opened.start()
        self.builder.put(self.text[place:b], place)

    def _silence(self, opened: re.Match[str], whole: re.Match[str]) -> bool:
        """Whether what is opened here ends in a later line; nothing is heard until there."""
        close = closing(opened)
        if close in self.unclosed:
            return False
        end = self.text.find(close, whole.end())
        if end < 0:
            self.unclosed.add(close)
            return False
        self.silent_to = end + len(close)
        return True

    def _piece(self, m: re.Match[str]) -> None:
        text, put = self.text, self.builder.put
        a, b = m.span()
        if m["escape"]:
            put(text[a + 1], a + 1)
        elif m["code"]:
            put(text[m.start("coded") : m.end("coded")], m.start("coded"))
        elif m.group().lower().startswith("[pause"):
            self.finish(read_pause(m["pause"]))
        elif m["label"] is not None:
            self._link(m)
        elif m["named"]:
            self.inline(*m.span("named"))
        elif m["note"] or m["comment"] or m["silent"]:
            put(" ", a, b - a)
        elif m["link"]:
            put(
                text[m.start("link") : m.end("link")].removeprefix("mailto:"),
                m.start("link"),
                b - a,
            )
        elif m["tag"]:
            tag = m["tag"].lower()
            if tag in _SSML_TAGS:
                raise InputError(
                    f"text: expected SSML tags only inside <speak>, got <{tag}>; write "
                    "<speak>…</speak> around the text, or markup plain to have the signs read"
                )
            if tag in _BLOCK_TAGS:
                self.finish()
            elif tag in ("td", "th"):
                put(", " if m["close"] else " ", a, b - a)
            elif tag in _INLINE_TAGS:
                put(" ", a, b - a)
            else:
                put(m.group(), a)
        elif m["entity"]:
            put(html.unescape(m.group()).replace(OVERRIDE, " "), a, b - a)
        else:
            group = next(g for g in ("starred", "barred", "struck") if m[g])
            self.inline(*m.span(group))

    def _link(self, m: re.Match[str]) -> None:
        target = m["target"]
        inside = target[1:-1] if len(target) > 2 and target[0] == target[-1] == "/" else ""
        if inside and (" " in inside or not inside.isascii() or inside.lower() in PHONES):
            phones = read_phones(inside, f"[{m['label']}](/…/)")
            self.builder.override(
                Override(m["label"], m["label"], phones),
                m.start(),
                m.end() - m.start(),
                self.text.startswith("'s", m.end()),
            )
        else:
            self.inline(*m.span("label"))


def read_pause(text: str | None, what: str = "[pause]") -> float:
    """Seconds of "0.5", "0.5s" or "500ms"; half a second where none are given."""
    if text is None or not text.strip():
        return 0.5
    m = re.fullmatch(r"\+?(\d+\.?\d*|\.\d+)\s*(ms|s|seconds?|)", text.strip(), re.IGNORECASE)
    seconds = float(m[1]) / (1000 if m[2].lower() == "ms" else 1) if m else -1.0
    if not 0 <= seconds <= MAX_PAUSE:
        raise InputError(
            f"{what}: expected seconds from 0 to {MAX_PAUSE:g}, as in [pause 0.5] or 500ms, got "
            f"{shown(text)}"
        )
    return seconds
