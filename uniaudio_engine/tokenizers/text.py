"""Text to the text ids of models with a slot of text; see ``TextSlotConfig``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from ..storage.text_slot_config import TextSlotConfig
from ..text import Sentence
from ..text.plain import halves
from ..text.vietnamese import SeaPhones
from ..text.written import plain_written


class TextTokenizer:
    """Sentences of text -> sentences of text ids, written as whole numbers."""

    def __init__(self, config: TextSlotConfig, size: int, file: bytes, folder: Path) -> None:
        """``size``: text ids of the vocabulary; ``file``: the tokenizer.

        Raises :class:`InputError` where it is no tokenizer, or its package is absent.
        """
        self._config, self._size, self._phones = config, size, SeaPhones if config.phones else None
        self._reader: SeaPhones | None = None
        kind = {"sentencepiece": _sentencepiece, "tokenizers": _tokenizers}[config.tokenizer]
        name = {"sentencepiece": "text.model", "tokenizers": "tokenizer.json"}[config.tokenizer]
        self._where = str(folder / name)
        if not file:
            raise InputError(f"{self._where}: expected this model's tokenizer, found none")
        self._encode, pieces = kind(file, self._where)
        if pieces > size:
            raise InputError(
                f"{self._where}: expected up to {size} pieces, as the vocabulary has, got {pieces}"
            )

    def read(self, sentence: Sentence) -> Iterator[Sentence]:
        """The sentence's ids; in several parts where it has too many."""
        text = sentence.text
        if self._phones is not None:
            if self._reader is None:
                self._reader = self._phones()
            ids = self.ids(self._reader.phones(text))
        else:
            ids = self.said(text)
        most = self._config.max_tokens
        parts = halves(text) if most and len(ids) > most else None
        if parts is None:
            yield Sentence(text, [str(i) for i in ids], (), sentence.begin, sentence.end)
            return
        begin = sentence.begin
        for part in parts:
            begin += sentence.text[begin - sentence.begin :].index(part)
            yield from self.read(Sentence(part, [], (), begin, begin + len(part)))

    def said(self, text: str, speaker: int = 0) -> list[int]:
        """:meth:`ids` of what a speaker says."""
        if self._config.normalization == "written":
            text = plain_written(text) or text
        return self.ids(self._config.before.replace("{speaker}", str(speaker)) + text)

    def spelled(self, phones: str) -> Sentence:
        """A sentence of phones. Raises :class:`InputError` for a model that reads text."""
        if self._phones is None:
            raise InputError("phones: expected none, since this model reads text; give a text")
        return Sentence("", [str(i) for i in self.ids(phones)])

    def ids(self, text: str) -> list[int]:
        """Ids [n] below ``size``, at least one. Raises :class:`InputError` for a text of none."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            raise InputError(f"text: expected text, got {shown(text)}, which is cut") from None
        if self._config.words is None:
            ids = [int(i) for i in self._encode(text)]
        else:  # each word by itself, with the last id between two
            words = [[*self._encode(word), self._size - 1] for word in _words(text)]
            ids = [int(i) for word in words for i in word][:-1]
        if not ids or max(ids) >= self._size:
            raise InputError(
                f"text: expected text with tokens up to {self._size - 1}, got {shown(text)}"
            )
        return ids


def _words(text: str) -> list[str]:
    """As models that are fed word by word read a text."""
    return text.translate({ord("’"): "'", ord(":"): " ", ord("("): "", ord(")"): ""}).split()


def _sentencepiece(file: bytes, where: str) -> tuple[Any, int]:
    import sentencepiece

    try:
        model: Any = sentencepiece.SentencePieceProcessor(model_proto=file)
        model.encode("a")  # some damage only shows at use
    except (RuntimeError, ValueError, TypeError):
        raise InputError(
            f"{where}: expected a sentencepiece model, got {len(file)} bytes of something else"
        ) from None
    return model.encode, int(model.get_piece_size())


def _tokenizers(file: bytes, where: str) -> tuple[Any, int]:
    try:
        import tokenizers
    except ImportError as e:
        raise InputError(
            f"{where}: this model needs the package tokenizers ({e}): pip install "
            "'uniaudio-engine[vietnamese]'"
        ) from None
    try:
        model: Any = tokenizers.Tokenizer.from_str(file.decode("utf-8"))
    except Exception as e:  # the package's own kinds of errors have no common name
        raise InputError(
            f"{where}: expected a tokenizer's JSON, got: {shown(' '.join(str(e).split()), 200)}"
        ) from None
    model.no_truncation()
    model.no_padding()
    ids = model.get_vocab(with_added_tokens=True).values()

    def encode(text: str) -> list[int]:
        return list(model.encode(text, add_special_tokens=False).ids)

    return encode, max(ids, default=-1) + 1
