"""Sentences for models that read text as it is written: marks that such a model was not trained on
become ones that it was.

No number, date, unit or abbreviation is written out: that depends on the language. The rules are
those that MOSS-TTS-Nano's project applies before its tokenizer (github.com/OpenMOSS/MOSS-TTS-Nano;
facts, none of its code). Marks that it inserts are full-width there; here they are so in Chinese and
Japanese only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # scripts without spaces
_HELD = "\ue000-\uf8ff"  # private characters, each in place of what is left as it is
_HELD_FIRST, _MOST_HELD = 0xE000, 0x1900
# Addresses, names with @ or #, names of files, versions.
_LEFT_ALONE = re.compile(
    r"https?://[^\s，。！？；、）】》〉」』]+"
    r"|(?<![\w.+-])[\w.%+-]+@[\w.-]+\.[A-Za-z]{2,}(?![\w.-])"
    r"|(?<!\w)@\w{1,32}"
    r"|(?<!\w)[ur]/\w+"
    r"|(?<!\w)#(?!\s)[^\s#]+"
    r"|(?<![A-Za-z0-9_])\.(?=[\w.-]*[A-Za-z0-9])[A-Za-z0-9._-]+"
    r"|(?<![A-Za-z0-9_])(?=[A-Za-z0-9._/+:-]*[A-Za-z])(?=[A-Za-z0-9._/+:-]*[./+:-][A-Za-z0-9])"
    r"[A-Za-z0-9](?:[A-Za-z0-9._/+:-]*[A-Za-z0-9_])?",
    re.ASCII,
)
_LATIN = rf"(?:[{_HELD}]|(?=[A-Za-z0-9._/+:-]*[A-Za-z])[A-Za-z0-9])"
_UNHEARD = ("Cc", "Cf", "Cn", "Co")  # half a surrogate pair stays, to be refused
_COMMA, _STOP = "\x00", "\x01"  # of the text's script

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), to) for pattern, to in pairs)


def _asked_and_called(m: re.Match[str]) -> str:
    asked, called = (any(c in m.group() for c in marks) for marks in ("?？", "!！"))
    wide = "？！" if m.group()[0] in "？！" else "?!"
    return wide[0] * asked + wide[1] * called


_LINE = _rules(
    (r"\[([^\[\]]+?)\]\((https?://[^)\s]+)\)", r"\1 \2"),
    (r"\A\s*(?:#{1,6}|>|[-*+])\s+", ""),
)
_SPACES = _rules(
    (r"\s+", " "),
    (rf"([{_WIDE}]) (?=[{_WIDE}0-9])", r"\1"),
    (rf"([0-9]) (?=[{_WIDE}])", r"\1"),
    (rf"([{_WIDE}])(?={_LATIN})", r"\1 "),
    (rf"([A-Za-z{_HELD}])(?=[{_WIDE}])", r"\1 "),
    (r" +([,.;!?，。！？；：、”’」』】）》\x00\x01])", r"\1"),
    (r"([（【「『《“‘]) +", r"\1"),
    (r"([，。！？；：、]) +", r"\1"),
)
_MARKS = _rules(
    (r"_", " "),
    (r"\s*(?:<[-=]+>|[-=]+>|<[-=]+|[←→↔⇐⇒⇔⟵⟶⟷⟸⟹⟺↤↦↩↪])\s*", _COMMA),
    (r"\[\s*([^\[\]]+?)\s*\]", r'"\1"'),
    (r"\{\s*([^{}]+?)\s*\}", r'"\1"'),
    (r"[【〖『「]\s*([^】〗』」]+?)\s*[】〗』」]", r'"\1"'),
    (r"\s*[—–―-]{2,}\s*", _STOP),
    (r"\s*(?:\.{3,}|…+)\s*", _STOP),
    (r"[。．]{2,}", "。"),
    (r"[,，]{2,}", _COMMA),
    (r"[!?！？]{2,}", _asked_and_called),
    (r"[,，。．\x00\x01]*\x01[,，。．\x00\x01]*", _STOP),
)
_CLOSERS = "\"')]}）】》〉」』”’"
_FEWEST = 5  # words; before fewer, the project puts spaces
_INDENT = " " * 8


def plain_written(text: str) -> str:
    """A sentence as such a model reads it; empty where there is nothing but marks and spaces."""
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _UNHEARD)
    text = _apply(_LINE, text)
    held: list[str] = []

    def hold(m: re.Match[str]) -> str:
        if len(held) == _MOST_HELD:
            return m.group()
        held.append(m.group())
        return chr(_HELD_FIRST + len(held) - 1)

    text = _apply(_SPACES, _apply(_MARKS, _LEFT_ALONE.sub(hold, text)))
    text = re.sub(f"[{_HELD}]", lambda m: held[ord(m.group()) - _HELD_FIRST], text).strip()
    wide = re.search(f"[{_WIDE}]", text) is not None
    marks = ("，", "。") if wide else (", ", ". ")
    text = text.strip("\x00\x01 ") + ("\x01" if text.endswith("\x01") else "")
    text = text.replace(_COMMA, marks[0]).replace(_STOP, marks[1]).strip()
    if not any(c.isalnum() for c in text):
        return ""
    last = text.rstrip(_CLOSERS + " ")[-1:]
    if not unicodedata.category(last or "a").startswith("P"):
        text += marks[1].strip()
    if wide:
        return text
    text = text[0].upper() + text[1:] if text[0].islower() else text
    return text if len(text.split()) >= _FEWEST else _INDENT + text


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, to in rules:
        text = pattern.sub(to, text)
    return text
