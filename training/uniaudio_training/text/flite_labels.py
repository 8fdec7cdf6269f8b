"""flite as a labelling tool, in process through ctypes.

Reads flite's phones with stress of a sentence or a word, its part-of-speech tree, its lexicon's
headwords, and its test of pronounceable spellings. It makes no audio. The engine never imports it:
the results are stored in `uniaudio_engine/text/data/`.

Needs Debian's `libflite1` 2.2 (BSD-style licence), found by the dynamic loader.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Iterator
from functools import cache
from typing import Any

_VOID = C.c_void_p
_TEXT = C.c_char_p


class _Voice(C.Structure):
    _fields_ = [("name", _TEXT), ("features", _VOID)]


class _CartNode(C.Structure):
    _fields_ = [
        ("feature", C.c_ubyte),
        ("op", C.c_ubyte),
        ("no_node", C.c_ushort),
        ("value", _VOID),
    ]


class _Cart(C.Structure):
    _fields_ = [("nodes", C.POINTER(_CartNode)), ("features", C.POINTER(_TEXT))]


_CART_LEAF = 255  # flite's CST_CART_OP_NONE


class Flite:
    """One flite voice; use :func:`flite`, which loads it once.

    Raises OSError where libflite is not installed.
    """

    def __init__(self, voice: str = "slt") -> None:
        def load(name: str) -> C.CDLL:
            return C.CDLL(f"lib{name}.so.1", mode=C.RTLD_GLOBAL)

        self._core = load("flite")
        self._english = load("flite_usenglish")
        self._lexicon_lib = load("flite_cmulex")
        voice_lib = load(f"flite_cmu_us_{voice}")

        def bind(library: C.CDLL, name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            return function

        self._core.flite_init()
        self._voice = bind(voice_lib, f"register_cmu_us_{voice}", _VOID, _TEXT)(None)
        self._lexicon = bind(self._lexicon_lib, "cmu_lex_init", _VOID)()
        self._lookup = bind(self._core, "lex_lookup", _VOID, _VOID, _TEXT, _TEXT, _VOID)
        self._in_lexicon = bind(self._core, "in_lex", C.c_int, _VOID, _TEXT, _TEXT, _VOID)
        self._pronounceable = bind(self._english, "us_aswd", C.c_int, _TEXT)
        self._car = bind(self._core, "val_car", _VOID, _VOID)
        self._cdr = bind(self._core, "val_cdr", _VOID, _VOID)
        self._string = bind(self._core, "val_string", _TEXT, _VOID)
        self._delete_value = bind(self._core, "delete_val", None, _VOID)
        self._new = bind(self._core, "new_utterance", _VOID)
        self._init = bind(self._core, "utt_init", _VOID, _VOID, _VOID)
        self._to_segments = bind(self._core, "utt_synth_text2segs", _VOID, _VOID)
        self._postlex = bind(self._lexicon_lib, "cmu_postlex", _VOID, _VOID)
        self._set_string = bind(self._core, "feat_set_string", None, _VOID, _TEXT, _TEXT)
        self._synth_text = bind(self._core, "flite_synth_text", _VOID, _TEXT, _VOID)
        self._relation = bind(self._core, "utt_relation", _VOID, _VOID, _TEXT)
        self._head = bind(self._core, "relation_head", _VOID, _VOID)
        self._next = bind(self._core, "item_next", _VOID, _VOID)
        self._feature = bind(self._core, "ffeature_string", _TEXT, _VOID, _TEXT)
        self._delete = bind(self._core, "delete_utterance", None, _VOID)
        self._rules: tuple[memoryview, list[int], Any] | None = None

    def segments(self, text: str, *, synthesize: bool = False) -> list[tuple[str, str]]:
        """(phone with stress, word) of every segment of `text`.

        `synthesize=True` runs the whole synthesizer, which is slow. The phones are the same, as the
        tests of these scripts verify.
        """
        raw = text.encode("utf-8")
        if synthesize:
            utterance = self._synth_text(raw, self._voice)
        else:
            utterance = self._new()
            self._init(utterance, self._voice)
            # utt_set_input_text is a macro over the utterance's first member, its feature list.
            features = C.cast(utterance, C.POINTER(_VOID)).contents
            self._set_string(features, b"input_text", raw)
            self._to_segments(utterance)
            self._postlex(utterance)
        result = []
        item = self._head(self._relation(utterance, b"Segment"))
        while item:
            phone = self._feature(item, b"name").decode()
            if phone[0] in "aeiou":
                phone += self._feature(item, b"R:SylStructure.parent.stress").decode()
            word = self._feature(item, b"R:SylStructure.parent.parent.name").decode(
                "utf-8", "replace"
            )
            result.append((phone, word))
            item = self._next(item)
        self._delete(utterance)
        return result

    def words(self, text: str) -> list[tuple[str, str]]:
        """(word, part of speech) as flite normalises `text`."""
        utterance = self._new()
        self._init(utterance, self._voice)
        self._set_string(C.cast(utterance, C.POINTER(_VOID)).contents, b"input_text", text.encode())
        self._to_segments(utterance)
        result = []
        item = self._head(self._relation(utterance, b"Word"))
        while item:
            result.append(
                (
                    self._feature(item, b"name").decode("utf-8", "replace"),
                    self._feature(item, b"pos").decode(),
                )
            )
            item = self._next(item)
        self._delete(utterance)
        return result

    def phones(self, text: str) -> list[str]:
        """The phones of `text`, which the front end must reproduce."""
        return [phone for phone, _ in self.segments(text)]

    def pronounce(self, word: str, pos: str = "n") -> list[str]:
        """The phones of a lower-case word with part of speech n, v, j or r; stress digits on all
        vowels.
        """
        values = self._lookup(self._lexicon, word.encode(), pos.encode(), None)
        phones, node = [], values
        while node:
            phone = self._string(self._car(node)).decode()
            if phone[0] in "aeiou" and not phone[-1].isdigit():
                phone += "0"
            phones.append(phone)
            node = self._cdr(node)
        if values:
            self._delete_value(values)
        return phones

    def in_lexicon(self, word: str) -> bool:
        """Whether the word is in flite's lexicon, not pronounced by rule."""
        return bool(self._in_lexicon(self._lexicon, word.encode(), None, None))

    def pronounceable(self, word: str) -> bool:
        """Whether flite pronounces an unlisted spelling as a word rather than letter by letter."""
        return bool(self._pronounceable(word.encode()))

    def letter_units(self, word: str) -> list[str]:
        """The phones of each letter of a lower-case a-z word by flite's rules: "", "k" or "k s",
        with stress.

        The rules are evaluated here because flite returns only the joined phones. An alignment
        guessed afterwards costs the trees 8 % of the words.
        """
        library = self._lexicon_lib
        if self._rules is None:
            # A rule has 6 bytes: position (255: answer), letter or answer, yes rule, no rule.
            raw = (C.c_ubyte * (6 << 16)).in_dll(library, "cmu_lts_model")
            starts = (C.c_ushort * 26).in_dll(library, "cmu_lts_letter_index")
            names = (_TEXT * 256).in_dll(library, "cmu_lts_phone_table")
            self._rules = (memoryview(raw).cast("B"), list(starts), names)
        rules, first, answers = self._rules
        padded = "000#" + word + "#000"
        units = []
        for i, letter in enumerate(word):
            window = padded[i : i + 4] + padded[i + 5 : i + 9]
            at = 6 * first[ord(letter) - 97]
            while rules[at] != _CART_LEAF:
                branch = at + (2 if ord(window[rules[at]]) == rules[at + 1] else 4)
                at = 6 * int.from_bytes(rules[branch : branch + 2], "little")
            unit = (answers[rules[at + 1]] or b"epsilon").decode()
            phones = [] if unit == "epsilon" else unit.split("-")
            units.append(
                " ".join(p + "0" if p[0] in "aeiou" and not p[-1].isdigit() else p for p in phones)
            )
        return units

    def headwords(self) -> Iterator[str]:
        """Every spelling in flite's lexicon, without part of speech."""
        size = C.c_int.in_dll(self._lexicon_lib, "cmu_lex_num_bytes").value
        data = bytes((C.c_ubyte * size).in_dll(self._lexicon_lib, "cmu_lex_data"))
        table = (_TEXT * 257).in_dll(self._lexicon_lib, "cmu_lex_entries_huff_table")
        # Entries are separated by 255: huffman-coded spelling, 0, coded phones backwards.
        for entry in data.split(b"\xff"):
            spelling = entry.split(b"\0")[0]
            word = b"".join(table[code] or b"" for code in spelling).decode("latin-1")
            if len(word) > 1:
                yield word[1:]

    def pos_tree(self) -> tuple[list[str], list[tuple[str, str, int]]]:
        """Feature names, and nodes (feature or "" at a leaf, value, index of the no branch; the yes
        branch is next).
        """
        cart = _Cart.in_dll(self._english, "us_pos_cart")
        names: list[str] = []
        while (name := cart.features[len(names)]) is not None:
            names.append(name.decode())
        nodes: list[tuple[str, str, int]] = []
        while (node := cart.nodes[len(nodes)]).value:
            value = self._string(node.value).decode()
            leaf = node.op == _CART_LEAF
            nodes.append(("" if leaf else names[node.feature], value, 0 if leaf else node.no_node))
        return names, nodes


@cache
def flite(voice: str = "slt") -> Flite:
    """The voice, loaded once per process."""
    return Flite(voice)
