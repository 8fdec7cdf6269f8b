"""Unicode to the characters that the rules read, each with its place in the original.

Accents are dropped and look-alikes are mapped; other scripts' digits become ASCII digits; signs
become words.  What has no English reading (other scripts, emoji) is left out and reported.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

OVERRIDE = "\ue000"  # stands for a word whose reading is given; see `markup.Override`

# Characters that Unicode decomposition does not turn into ASCII. A word is set off by spaces.
CHARACTERS = {
    **dict.fromkeys("‘’‛ʼ′´", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‐‑−⁃", "-"),
    "‒": "–",
    "―": "—",
    "‚": ",",
    "•": ", ",
    "·": " ",
    "⁄": "/",
    "∶": ":",
    "ß": "ss",
    "ẞ": "SS",
    "æ": "ae",
    "Æ": "Ae",
    "œ": "oe",
    "Œ": "Oe",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "th",
    "Ð": "Th",
    "þ": "th",
    "Þ": "Th",
    "ı": "i",
    "¿": " ",
    "¡": " ",
    "。": ". ",
    "、": ", ",
    "،": ", ",
    "؛": "; ",
    "؟": "? ",
    "।": ". ",
    "⋯": "...",
    "©": " copyright ",
    "®": " registered ",
    "™": " trademark ",
    "§": " section ",
    "¶": " paragraph ",
    "№": " number ",
    "℅": " care of ",
    "±": " plus or minus ",
    "×": " times ",
    "⋅": " times ",
    "÷": " divided by ",
    "≈": " about ",
    "≅": " about ",
    "≠": " is not equal to ",
    "≤": " at most ",
    "≥": " at least ",
    "∞": " infinity ",
    "√": " square root of ",
    "∛": " cube root of ",
    "∑": " sum of ",
    "∏": " product of ",
    "∫": " integral of ",
    "∂": " partial ",
    "∇": " nabla ",
    "∈": " in ",
    "∉": " not in ",
    "∀": " for all ",
    "∃": " there exists ",
    "⊂": " subset of ",
    "∪": " union ",
    "∩": " intersection ",
    "∴": " therefore ",
    "‰": " per mille ",
    "←": " left arrow ",
    "→": ", ",
    "↑": " up arrow ",
    "↓": " down arrow ",
    "⇒": " implies ",
    "⇔": " if and only if ",
    "✓": " check ",
    "✔": " check ",
    "✗": " cross ",
    "✘": " cross ",
    "★": " star ",
    "☆": " star ",
    "♥": " heart ",
    "♪": " note ",
    "♯": " sharp ",
    "♭": " flat ",
    "♀": " female ",
    "♂": " male ",
    "☎": " telephone ",
    "²": "²",
    "³": "³",
    "⁻": "-",
    "º": "°",
    "µ": "μ",
    "μ": "μ",
    "Ω": "Ω",
    "ς": " sigma ",
}

# Non-ASCII characters (and the dollar) that the rules read.
KEPT = frozenset("–—°²³μΩ€£¥$¢₹₿₩₽₺₪₫₦₱฿" + OVERRIDE)
_SUPERSCRIPTS = frozenset("⁰¹⁴⁵⁶⁷⁸⁹²³⁻")
# Box drawing and geometric bullets only mark off; whatever else is a symbol is named.
_DECORATION = frozenset("▪▫■□●○◦‣◆◇▶►▸▹◀◄❖➢➤➔➜") | frozenset(map(chr, range(0x2500, 0x25A0)))
_THIN_SPACES = frozenset("\u00a0\u2009\u202f")
_EMOJI = 0x1F000  # from here on, pictures


class Folded(NamedTuple):
    """``text``; ``at``: for each of its characters, and for its end, the place in the original;
    ``unread``: what was left out though it may mean something."""

    text: str
    at: list[int]
    unread: str


@lru_cache(maxsize=4096)
def _folded(c: str) -> str | None:
    """What stands for one non-ASCII character; None for one that cannot be read."""
    if c in CHARACTERS:
        return CHARACTERS[c]
    if c in KEPT:
        return c
    category, name = unicodedata.category(c), unicodedata.name(c, "")
    if category == "Nd":
        return str(unicodedata.decimal(c))
    # A vulgar fraction needs a space: 2½ is "2 1/2".
    piece = unicodedata.normalize("NFKD", c).replace("⁄", "/")
    kept = "".join(p for p in piece if (p.isascii() and p.isprintable()) or p in KEPT)
    if kept and category == "No" and not c.isdecimal():
        if "SUPERSCRIPT" in name:
            return kept  # `fold` puts the ^ before the run
        if "SUBSCRIPT" in name:
            return kept
        return f" {kept} "
    if kept:
        return kept
    if category in ("No", "Nl") and name:
        value = unicodedata.numeric(c)
        return f" {int(value)} " if value == int(value) else f" {value:g} "
    if category in ("Mn", "Me", "Cf") or c == "\ufe0f":
        return ""  # marks and invisible joiners vanish without parting a word
    if category[0] in "ZC" or c in _DECORATION:
        return " "
    if name.startswith("GREEK"):
        return " " + name.split(" WITH ")[0].rpartition(" ")[2].lower() + " "
    if category in ("Ps", "Pi"):
        return "("
    if category in ("Pe", "Pf"):
        return ")"
    if category[0] == "P":
        return ", "
    if category[0] == "S" and ord(c) < _EMOJI:
        return f" {name.lower()} "
    return None


def fold(text: str) -> Folded:
    """``text`` in ASCII and the signs of `KEPT`."""
    if text.isascii() and text.isprintable():
        return Folded(text, list(range(len(text) + 1)), "")
    out: list[str] = []
    at: list[int] = []
    unread: list[str] = []
    for i, c in enumerate(text):
        if c in _THIN_SPACES and text[i - 1 : i].isdecimal() and text[i + 1 : i + 4].isdecimal():
            piece = ","  # between groups of three digits
        elif c.isascii():
            piece = c if c.isprintable() else " "
        else:
            known = _folded(c)
            if known is None:
                unread.append(c)
            piece = " " if known is None else known
            if c in _SUPERSCRIPTS:
                lone = c in "²³" and text[i + 1 : i + 2] not in _SUPERSCRIPTS
                before = text[i - 1 : i]
                if before in _SUPERSCRIPTS and before:
                    piece = {"²": "2", "³": "3"}.get(piece, piece)
                elif not lone:
                    piece = "^" + {"²": "2", "³": "3"}.get(piece, piece)
        out.append(piece)
        at += [i] * len(piece)
    at.append(len(text))
    return Folded("".join(out), at, "".join(unread))
