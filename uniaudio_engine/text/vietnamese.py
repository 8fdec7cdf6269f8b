"""Vietnamese and English text to the phones of ``sea-g2p``, as VieNeu-TTS was trained on them.

Cues in brackets, such as [sigh], become tokens among the phones. The package is optional:
``pip install 'uniaudio-engine[vietnamese]'``.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError

_CUE = re.compile(r"(\[[^\]]+\]|<\|emotion_\d+\|>)")
_CUES = {
    "chuckle": 1,
    "cười": 1,
    "sigh": 2,
    "thở dài": 2,
    "clear throat": 3,
    "hắng giọng": 3,
}
_CLOSING = ".,!?;:…)]}\"'’”"  # stays at what is before it


class SeaPhones:
    """Text -> phones, as one string. Raises :class:`InputError` where the package is absent."""

    def __init__(self) -> None:
        try:
            import sea_g2p
        except ImportError as e:
            raise InputError(
                f"text: this model reads phones of sea-g2p ({e}): pip install "
                "'uniaudio-engine[vietnamese]', or give phones="
            ) from None
        self._library: Any = sea_g2p
        self._pipeline: Any = sea_g2p.SEAPipeline(lang="vi")

    def phones(self, text: str) -> str:
        """The phones of a sentence, which ends with a full stop, comma, or mark."""
        parts = _CUE.split(text)
        if len(parts) == 1:
            return str(self._pipeline.run(text, punc_norm=True))
        said = ""
        for i, part in enumerate(parts):
            phones = _cue(part) if i % 2 else ""
            if not phones and part.strip():
                phones = str(self._pipeline.run(part, punc_norm=False))
            if phones:
                joined = not said or (not i % 2 and phones[0] in _CLOSING)
                said += phones if joined else f" {phones}"
        return str(self._library.punc_norm(said))


def _cue(part: str) -> str:
    """The token of a cue, or nothing for brackets that are none."""
    if part.startswith("<|"):
        return part
    number = _CUES.get(part[1:-1].strip().lower())
    return "" if number is None else f"<|emotion_{number}|>"
