"""Byte-level BPE as Qwen stores it (vocab.json, merges.txt) -> the JSON of the package tokenizers.

Source: transformers, models/qwen2/tokenization_qwen2.py (facts; none of its code).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .hub_files import read_json
from .text_slot import read_file

# How a text is cut before pairs are merged: contractions, letters with what is before them, single
# digits, signs with line ends, and runs of spaces.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MOST = 1 << 20  # ids, or merges


def read_byte_bpe(folder: Path) -> tuple[bytes, tuple[Path, ...]]:
    """(tokenizer.json, the files that it was made of) of a folder with that file, or with vocab.json,
    merges.txt and tokenizer_config.json.

    Raises :class:`InputError` in one line for files that are neither.
    """
    whole = folder / "tokenizer.json"
    if whole.is_file():
        return read_file(folder, whole.name, "the model's tokenizer"), (whole,)
    paths = tuple(folder / n for n in ("vocab.json", "merges.txt", "tokenizer_config.json"))
    for path in paths:
        read_file(folder, path.name, "the model's tokenizer")
    vocab = read_json(paths[0])
    wrong = next((k for k, v in vocab.items() if not _is_id(v)), None)
    if wrong is not None or not vocab or len(vocab) > _MOST:
        raise InputError(f"{paths[0]}: expected ids by their tokens, got {shown(wrong)}")
    made = {
        "version": "1.0",
        "added_tokens": _added(paths[2]),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": _CUT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": False,
                    "use_regex": False,
                },
            ],
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": _merges(paths[1])},
    }
    return json.dumps(made, ensure_ascii=False).encode(), paths


def _merges(path: Path) -> list[list[str]]:
    try:
        text = read_file(path.parent, path.name, "the model's merges").decode("utf-8")
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: expected a UTF-8 text, got: {e}") from None
    lines = text.split("\n")
    if lines and lines[0].startswith("#version"):
        del lines[0]
    merges = [line.rstrip("\r").split(" ") for line in lines if line.strip()]
    wrong = next((m for m in merges if len(m) != 2), None)
    if wrong is not None or len(merges) > _MOST:
        raise InputError(f"{path}: expected two tokens on each line, got {shown(wrong)}")
    return merges


def _added(path: Path) -> list[dict[str, Any]]:
    """The tokens that are found in a text as they are."""
    found = read_json(path).get("added_tokens_decoder", {})
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = []
    for number, token in found.items() if isinstance(found, dict) else [("", None)]:
        token = token if isinstance(token, dict) else {}
        content = token.get("content")
        good = number.isdecimal() and number.isascii() and len(number) < 10
        if not good or not isinstance(content, str) or not content:
            raise InputError(
                f"{path}: added_tokens_decoder: expected tokens by their ids, got {shown(token)}"
            )
        entry = {flag: token.get(flag) is True for flag in flags}
        tokens.append({"id": int(number), "content": content, **entry})
    return sorted(tokens, key=lambda t: int(t["id"]))


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST
