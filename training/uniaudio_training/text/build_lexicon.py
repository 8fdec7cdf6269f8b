"""Builds `uniaudio_engine/text/data/english.npz` from flite's pronunciations of a large word list.

    python -m uniaudio_training.text.build_lexicon --help

Words in flite's lexicon go into the lexicon. Words that flite pronounces by rule train the letter
trees, together with made-up words (the start of one word and the end of another), which cover more
contexts. Words that the trees still get wrong also go into the lexicon: every word of the lists is
pronounced exactly as by flite.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from uniaudio_engine.text.letters import LetterTrees
from uniaudio_engine.text.lexicon import PHONE_BASE
from uniaudio_engine.text.phones import PHONES
from uniaudio_training.text.flite_labels import Flite, flite
from uniaudio_training.text.letters import Forest

_OUTPUT = Path(__file__).parents[3] / "uniaudio_engine" / "text" / "data" / "english.npz"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def read_words(word_list: Path, wordnet: Path) -> set[str]:
    """Lower-case a-z words of a word list and of WordNet's lemmas, definitions and examples.

    Apostrophes are dropped as in flite ("don't" becomes "dont"); possessive endings are removed.
    """
    texts = [word_list.read_text("utf-8")]
    for path in sorted(wordnet.glob("index.*")) + sorted(wordnet.glob("data.*")):
        for line in path.read_text("latin-1").splitlines():
            if not line.startswith("  "):  # the licence at the top
                texts.append(
                    line.split(" ")[0] if path.name.startswith("index") else line.partition("|")[2]
                )
    text = (
        unicodedata.normalize("NFKD", "\n".join(texts)).encode("ascii", "ignore").decode().lower()
    )
    return set(re.findall("[a-z]+", re.sub("'s\\b|'", "", text)))


def label(voice: Flite, words: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Each word with the phones of each of its letters."""
    return [(word, voice.letter_units(word)) for word in words]


def invent(words: list[str], count: int, rng: random.Random) -> list[str]:
    """`count` made-up words, none of them in `words`: beginnings and endings of real ones, at most
    14 letters.
    """
    known, made = set(words), dict[str, None]()
    while len(made) < count:
        first, second = rng.choice(words), rng.choice(words)
        word = (first[: rng.randint(1, len(first))] + second[rng.randint(0, len(second) - 1) :])[
            :14
        ]
        if len(word) > 2 and word not in known:
            made[word] = None
    return list(made)


def grow(voice: Flite, words: list[str], invented: int, seed: int) -> dict[str, np.ndarray]:
    """The letter trees trained on `words`, as arrays of the data file."""
    forest = Forest()
    forest.fit(label(voice, words + invent(words, invented, random.Random(seed))))
    return {
        "feature": np.array(forest.feature, np.uint8),
        "value": np.array(forest.value, np.uint8),
        "no": np.array(forest.no, np.uint32),
        "roots": np.array([forest.roots[letter] for letter in _LETTERS], np.uint32),
        "units": _bytes("\n".join(forest.units)),
    }


def edit_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein distance of two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        diagonal, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], min(diagonal + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]


def score(trees: LetterTrees, voice: Flite, words: list[str]) -> dict[str, float]:
    """Word accuracy and phone error rate, against flite."""
    errors = phones = right = 0
    for word in words:
        truth = voice.pronounce(word)
        distance = edit_distance(trees.pronounce(word), truth)
        errors, phones, right = errors + distance, phones + len(truth), right + (distance == 0)
    return {
        "words": len(words),
        "word_accuracy": right / len(words),
        "phone_error": errors / phones,
    }


def lexicon_lines(voice: Flite, trees: LetterTrees, words: Iterable[str]) -> list[str]:
    """A line for each word that flite lists, pronounces by part of speech, or pronounces unlike the
    trees.
    """
    code = {phone: chr(PHONE_BASE + i) for i, phone in enumerate(PHONES)}
    lines = []
    for word in words:
        spoken = {
            pos: "".join(code[phone] for phone in voice.pronounce(word, pos)) for pos in "n0vjr"
        }
        others = [pos + phones for pos, phones in spoken.items() if phones != spoken["n"]]
        predicted = "".join(code[phone] for phone in trees.pronounce(word))
        if others or predicted != spoken["n"] or voice.in_lexicon(word):
            lines.append("\t".join([word, spoken["n"], *others]))
    return sorted(lines)


def clusters(voice: Flite, before: str, after: str) -> str:
    """The consonant clusters that flite accepts between `before` and `after`, one per line; m is
    written n.
    """
    consonants = "bcdfghjklnpqrstvwxz"
    found = (
        "".join(letters)
        for size in range(5)
        for letters in itertools.product(consonants, repeat=size)
    )
    return "\n".join(cluster for cluster in found if voice.pronounceable(before + cluster + after))


def pos_tree(voice: Flite) -> str:
    """flite's part-of-speech tree as the text that `PosTree` reads."""
    lines = []
    for feature, value, no in voice.pos_tree()[1]:
        lines.append(f"{feature} {value} {no}" if feature else f"- {value}")
    return "\n".join(lines)


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("ascii"), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--words",
        type=Path,
        default=Path("/usr/share/dict/american-english"),
        help="word list, one per line (default: Debian's wamerican)",
    )
    parser.add_argument(
        "--wordnet",
        type=Path,
        default=Path("/usr/share/wordnet"),
        help="folder with WordNet's index.* and data.* (default: Debian's wordnet-base)",
    )
    parser.add_argument(
        "--invented", type=int, default=300_000, help="number of made-up training words"
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=5000,
        help="words held out for a test; 0: no test",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    arguments = parser.parse_args()

    voice = flite()
    words = read_words(arguments.words, arguments.wordnet) | {
        word for word in voice.headwords() if re.fullmatch("[a-z]+", word)
    }
    listed = sorted(word for word in words if voice.in_lexicon(word))
    by_rule = sorted(words - set(listed))
    print(
        json.dumps({"words": len(words), "listed_by_flite": len(listed), "by_rule": len(by_rule)})
    )
    if arguments.held_out:
        rng = random.Random(arguments.seed)
        held = sorted(rng.sample(by_rule, arguments.held_out))
        kept = sorted(set(by_rule) - set(held))
        trees = LetterTrees.from_arrays(grow(voice, kept, arguments.invented, arguments.seed))
        print(json.dumps({"held out, flite speaks by rule": score(trees, voice, held)}))
        print(json.dumps({"listed by flite, never trained on": score(trees, voice, listed)}))
    arrays = grow(voice, by_rule, arguments.invented, arguments.seed)
    trees = LetterTrees.from_arrays(arrays)
    # flite's words for suffixes and single letters are listed too, and words without plain letters
    # only.
    lines = lexicon_lines(voice, trees, sorted(words | set(_LETTERS)))
    arrays |= {
        "lexicon": _bytes("\n".join(lines) + "\n"),
        "pos": _bytes(pos_tree(voice)),
        "onsets": _bytes(clusters(voice, "", "a")),
        "codas": _bytes(clusters(voice, "a", "")),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, **arrays)  # type: ignore[arg-type]  # NumPy types its flag only
    sizes = {name: int(array.nbytes) for name, array in arrays.items()}
    print(
        json.dumps(
            {
                "lexicon_lines": len(lines),
                "tree_nodes": len(arrays["feature"]),
                "file_bytes": arguments.output.stat().st_size,
                "array_bytes": sizes,
            }
        )
    )


if __name__ == "__main__":
    main()
