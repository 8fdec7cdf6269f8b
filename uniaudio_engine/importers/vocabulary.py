"""The vocabulary of a UniAudio checkpoint, read from its ``token_list``, and its label files.

The trainer writes the whole vocabulary into config.yaml as strings: 128 special tokens such as
``<audio_start>`` (the last ones all called ``<unused_special_token>``), then a run ``<NAME_0>``,
``<NAME_1>``, … for each discrete tokenizer. The tokenizers and their order vary between trainings,
so nothing is assumed. Source: UniAudio/utils/dataloader.py and tools/tokenizer of the reference
repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, first_few, first_repeated, shown
from ..storage.config import Span, VocabularyConfig
from ..storage.folder import MAX_TEXT_BYTES
from ..storage.opening import read_regular

MAX_TOKENS = 1 << 20
MAX_LABELS_BYTES = 1 << 20
MAX_LEXICON_BYTES = MAX_TEXT_BYTES
UNKNOWN_PHONE = "<UNK>"  # the reference appends it to its phone dictionary
AUDIO_MASK = "audio_mask"
_NUMBERED = re.compile(r"<([A-Za-z][A-Za-z0-9_]{0,39})_(0|[1-9][0-9]{0,6})>")
_UNUSED = "unused_special_token"
_NEEDED = ("pad", "start", "end", "mega_global", "mega_local", "audio_start", "audio_end")
_SUFFIXES = ("", "_B", "_I", "_E", "_S")  # positions in a word: begin, inside, end, single


def read_vocabulary(
    token_list: Any, num_codebooks: int, codebook_size: int, where: str
) -> VocabularyConfig:
    """The vocabulary, with names without brackets.

    The id after the codes of the span ``audio`` stands for masked slots in speech editing. It
    becomes the span ``audio_mask``, so that ``audio`` has codebooks x codes ids.
    Raises :class:`InputError` where the list is not such a vocabulary, or its audio does not match
    the codec.
    """
    if not isinstance(token_list, list) or not all(
        isinstance(t, str) and 0 < len(t) <= 80 for t in token_list
    ):
        raise InputError(f"{where}: token_list: expected a list of names, got {shown(token_list)}")
    if not 1 <= len(token_list) <= MAX_TOKENS:
        raise InputError(
            f"{where}: token_list: expected 1 to {MAX_TOKENS} names, got {len(token_list)}"
        )
    numbered = [_NUMBERED.fullmatch(t) for t in token_list]
    first = next((i for i, m in enumerate(numbered) if m), len(token_list))
    specials = _specials(token_list[:first], where)
    spans: list[Span] = []
    wrong: list[str] = []
    for i in range(first, len(token_list)):
        m = numbered[i]
        if m and m[2] == "0" and m[1] not in {s.name for s in spans}:
            spans.append(Span(m[1], i, 1))
        elif m and spans and m[1] == spans[-1].name and int(m[2]) == spans[-1].size:
            spans[-1] = Span(m[1], spans[-1].start, spans[-1].size + 1)
        else:
            wrong.append(f"{token_list[i]} at {i}")
    missing = [f"<{n}>" for n in _NEEDED if n not in specials]
    missing += [] if any(s.name == "audio" for s in spans) else ["<audio_0>"]
    if missing or wrong:
        parts = [f"missing {first_few(missing)}"] if missing else []
        parts += [f"not in a run of its own: {first_few(wrong)}"] if wrong else []
        raise InputError(f"{where}: token_list is no UniAudio vocabulary: {'; '.join(parts)}")
    clash = [s.name for s in spans if s.name in specials]
    if clash:
        raise InputError(f"{where}: token_list: <{clash[0]}> is both a token and the name of a run")
    return VocabularyConfig(specials, _split_audio(spans, num_codebooks, codebook_size, where))


def _specials(tokens: list[str], where: str) -> tuple[str, ...]:
    names, unused = [], 0
    for t in tokens:
        name = t[1:-1] if t.startswith("<") and t.endswith(">") else t
        if name == _UNUSED:
            name, unused = f"{_UNUSED}_{unused}", unused + 1
        names.append(name)
    twice = first_repeated(names)
    if twice is not None:
        raise InputError(
            f"{where}: token_list: <{twice}> is there twice, with no way to tell which is meant"
        )
    return tuple(names)


def _split_audio(
    spans: list[Span], num_codebooks: int, codebook_size: int, where: str
) -> tuple[Span, ...]:
    out = []
    for s in spans:
        codes = num_codebooks * codebook_size
        if s.name == "audio" and s.size != codes:
            if s.size != codes + 1:
                raise InputError(
                    f"{where}: token_list has {s.size} audio tokens, the codec makes "
                    f"{num_codebooks} x {codebook_size} codes "
                    "(and one more may be the mask); is it this model's codec?"
                )
            out += [Span("audio", s.start, codes), Span(AUDIO_MASK, s.start + codes, 1)]
        else:
            out.append(s)
    return tuple(out)


def read_phones(path: Path, span: Span | None, where: str) -> list[str]:
    """Labels of the span ``phone`` from the reference's phone dictionary.

    As in its tokenizer: the first word of each line without duplicates, then ``<UNK>``.
    """
    if span is None:
        raise InputError(f"{path}: phone labels are of no use: {where} has no tokens <phone_0>, …")
    labels = _first_words(path)
    if UNKNOWN_PHONE in labels:
        raise InputError(
            f"{path}: expected a dictionary without {UNKNOWN_PHONE}, which the reference adds "
            "itself; remove the line"
        )
    labels.append(UNKNOWN_PHONE)
    if len(labels) != span.size:
        raise InputError(
            f"{path}: expected {span.size - 1} phone labels (the model's {span.size} less "
            f"{UNKNOWN_PHONE}), got {len(labels) - 1}; "
            "is it the dictionary that the model was trained with?"
        )
    return labels


def read_labels(path: Path, name: str, spans: Mapping[str, Span]) -> list[str]:
    """Labels of a span other than ``phone``: the first word of each line, without duplicates."""
    if name not in spans or name in ("phone", "audio", AUDIO_MASK):
        able = (
            first_few([s for s in spans if s not in ("phone", "audio", AUDIO_MASK)], 10) or "none"
        )
        raise InputError(
            f"labels: expected the name of a span that can have labels ({able}), got {shown(name)}"
        )
    labels = _first_words(path)
    if len(labels) != spans[name].size:
        raise InputError(
            f"{path}: expected {spans[name].size} labels for {name}, got {len(labels)}; is it the "
            "training's dictionary?"
        )
    return labels


def _first_words(path: Path) -> list[str]:
    return list(dict.fromkeys(words[0] for words in _lines(path, MAX_LABELS_BYTES) if words))


def read_lexicon(path: Path, phones: list[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """(word, its phones) of each line of a pronunciation dictionary, and notes about it.

    Lines are ``WORD PHONE PHONE …``. Also accepted: CMUdict (``;;;`` comments, ``WORD(2)`` for
    further pronunciations) and Kaldi's forms with the word twice (``align_lexicon.txt``) or
    followed by a probability (``lexiconp.txt``). A phone is known where it is a label, or a label
    with a word position appended (``_B``, ``_I``, ``_E``, ``_S``).
    """
    entries = []
    for words in _lines(path, MAX_LEXICON_BYTES):
        if words and not words[0].startswith(";;;"):
            entries.append(words)
    if not entries:
        raise InputError(f"{path}: expected lines such as HELLO HH AH0 L OW1, found none")
    if all(len(e) > 1 and e[1] == e[0] for e in entries) or all(
        len(e) > 1 and _is_share(e[1]) for e in entries
    ):
        entries = [[e[0], *e[2:]] for e in entries]
    notes = []
    full = [(e[0], e[1:]) for e in entries if len(e) > 1]
    if len(full) < len(entries):  # such as <eps>
        word = next(e[0] for e in entries if len(e) == 1)
        if len(full) < 0.9 * len(entries):
            raise InputError(
                f"{path}: expected a word and its phones on each line, {shown(word)} has none"
            )
        notes.append(
            f"lexicon: {len(entries) - len(full)} words without phones left out, such as "
            f"{shown(word)}"
        )
    known = {
        label[: len(label) - len(s)] for label in phones for s in _SUFFIXES if label.endswith(s)
    }
    strange = [(w, p) for w, pron in full for p in pron if p not in known]
    if strange:
        word, phone = strange[0]
        words_hit = len({w for w, _ in strange})
        if words_hit > len({w for w, _ in full}) // 2:
            raise InputError(
                f"{path}: its phones are not the model's, such as {shown(phone)} in "
                f"{shown(word)}; is it this model's lexicon?"
            )
        notes.append(
            f"lexicon: {words_hit} words have phones that the model has not, such as "
            f"{shown(phone)} in {shown(word)}"
        )
    return full, notes


def _is_share(text: str) -> bool:
    return re.fullmatch(r"[01]\.[0-9]{1,20}|1|0", text) is not None


def _lines(path: Path, limit: int) -> list[list[str]]:
    """The words of each line of a UTF-8 file."""
    try:
        text = read_regular(path, limit).decode("utf-8")
    except OSError as e:
        raise InputError(f"{path}: expected a readable text file, got: {e.strerror or e}") from None
    except UnicodeDecodeError as e:
        raise InputError(
            f"{path}: expected UTF-8 text, got: {e.reason} at byte {e.start}"
        ) from None
    if "\0" in text:
        raise InputError(f"{path}: expected text, got zero bytes; is it the right file?")
    return [line.split() for line in text.split("\n")]
