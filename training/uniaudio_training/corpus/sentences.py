"""Sentences of the corpus: example sentences of WordNet, and a small grammar.

The split of a sentence is a hash of its words, so that no sentence occurs in two splits.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

WORDNET = Path(
    "/usr/share/wordnet"
)  # Debian: wordnet-base (WordNet licence: free to use, copy and change)

# Sentences with these stems are left out: they do not belong in the training text of a bundled
# voice.
_OFFENSIVE = re.compile(
    r"\b(fuck|shit|cunt|nigg|whore|slut|rape|rapis|bastard|bitch|bugger|piss|crap|damn|hell|"
    r"kill|murder|suicid|sex|naked|nude|"
    r"breast|penis|vagin|negro|nazi|jew|queer|fag|dyke|prostitut|corpse|drug|cocaine|heroin|"
    r"terroris|massacre|execut|slave)",
    re.I,
)

# A grammar small enough for a speech recogniser. Each slot is one word; "a" is left out, as
# recognisers confuse it most.
_NAMES = "anna peter maria david lucy martin sarah george helen robert".split()
_PEOPLE = (
    "teacher doctor farmer driver sailor painter singer baker child mother father brother sister "
    "woman neighbor captain"
).split()
_ADJECTIVES = "happy young old tall quiet clever brave tired friendly little".split()
_THING_ADJECTIVES = (
    "red green blue white yellow big small heavy broken new wooden golden empty beautiful strange"
    " cheap"
).split()
_THINGS = (
    "table window garden bottle letter picture basket blanket candle mirror ladder pencil hammer "
    "button bicycle engine camera kettle carpet pillow"
).split()
_VERBS = (
    "found carried painted opened washed moved sold bought wanted liked dropped fixed needed "
    "noticed borrowed covered"
).split()
_PLACES = (
    "kitchen school market harbor station forest village office museum library mountain river "
    "bridge castle church hotel"
).split()
_PREPOSITIONS = "near behind inside beside under above".split()
_TIMES = "yesterday today tonight before after during always often never later".split()
_WHEN = "breakfast lunch dinner winter summer monday friday sunday morning evening".split()
_NUMBERS = "two three four five six seven eight nine ten twelve twenty".split()

GRAMMAR_WORDS = tuple(
    sorted(
        {
            "the",
            "in",
            "and",
            "on",
            *_NAMES,
            *_PEOPLE,
            *_ADJECTIVES,
            *_THING_ADJECTIVES,
            *_THINGS,
            *_VERBS,
            *_PLACES,
            *_PREPOSITIONS,
            *_TIMES,
            *_WHEN,
            *_NUMBERS,
        }
    )
)


def split_of(sentence: str) -> str:
    """``train``, ``valid`` (2 %) or ``test`` (3 %), by the words alone."""
    key = " ".join(re.findall(r"[a-z']+", sentence.lower()))
    h = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") % 100
    return "test" if h < 3 else "valid" if h < 5 else "train"


def grammar_sentence(rng: np.random.Generator) -> str:
    """A random sentence of the grammar, lower case, without punctuation."""

    def pick(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    subject = (
        pick(_NAMES)
        if rng.random() < 0.4
        else f"the {pick(_ADJECTIVES)} {pick(_PEOPLE)}"
        if rng.random() < 0.6
        else f"the {pick(_PEOPLE)}"
    )
    if rng.random() < 0.25:
        subject += " and " + (pick(_NAMES) if rng.random() < 0.5 else f"the {pick(_PEOPLE)}")
    thing = (
        f"the {pick(_THING_ADJECTIVES)} {pick(_THINGS)}"
        if rng.random() < 0.7
        else f"{pick(_NUMBERS)} {pick(_THING_ADJECTIVES)} {pick(_THINGS)}"
    )
    place = f"{pick(_PREPOSITIONS) if rng.random() < 0.6 else 'in'} the {pick(_PLACES)}"
    end = pick(
        [
            "",
            "",
            f" on {pick(['monday', 'friday', 'sunday'])}",
            f" {pick(['before', 'after', 'during'])} {pick(['breakfast', 'lunch', 'dinner'])}",
            f" {pick(['yesterday', 'today', 'tonight', 'later'])}",
            f" in the {pick(['morning', 'evening', 'winter', 'summer'])}",
        ]
    )
    adverb = f" {pick(['always', 'often', 'never'])}" if rng.random() < 0.2 else ""
    return f"{subject}{adverb} {pick(_VERBS)} {thing} {place}{end}"


def grammar_jsgf() -> str:
    """The grammar as JSGF for a recogniser: any word sequence that follows the rules above."""

    def alt(words: list[str]) -> str:
        return "( " + " | ".join(words) + " )"

    return "\n".join(
        (
            "#JSGF V1.0;",
            "grammar sentences;",
            f"<name> = {alt(_NAMES)};",
            f"<person> = the [ {alt(_ADJECTIVES)} ] {alt(_PEOPLE)};",
            "<subject> = ( <name> | <person> ) [ and ( <name> | <person> ) ];",
            f"<thing> = ( the | {alt(_NUMBERS)} ) {alt(_THING_ADJECTIVES)} {alt(_THINGS)};",
            f"<place> = ( in | {alt(_PREPOSITIONS)} ) the {alt(_PLACES)};",
            "<end> = on ( monday | friday | sunday ) | ( before | after | during ) ( breakfast "
            "| lunch | dinner ) | yesterday | today | tonight | later | in the ( morning | "
            "evening | winter | summer );",
            f"public <sentence> = <subject> [ always | often | never ] {alt(_VERBS)} <thing> "
            "<place> [ <end> ];",
        )
    )


def require_wordnet() -> None:
    """Raises RuntimeError unless WordNet is installed."""
    if not WORDNET.is_dir():
        raise RuntimeError(
            f"no WordNet at {WORDNET}; install it (Debian: apt-get install wordnet-base)"
        )


@lru_cache(maxsize=1)
def wordnet_sentences() -> tuple[str, ...]:
    """WordNet's example sentences of 4 to 16 plain words, sorted, without duplicates."""
    require_wordnet()
    found = set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            for quoted in re.findall(r'"([^"]+)"', line.split("|", 1)[1]):
                s = " ".join(quoted.split()).strip(" -;:,")
                if (
                    not re.fullmatch(r"[A-Za-z ,.'?!;:-]+", s)
                    or "..." in s
                    or "--" in s
                    or _OFFENSIVE.search(s)
                ):
                    continue
                if 4 <= len(s.split()) <= 16:
                    found.add(s)
    return tuple(sorted(found))


@lru_cache(maxsize=3)
def _wordnet_split(split: str) -> tuple[str, ...]:
    return tuple(s for s in wordnet_sentences() if split_of(s) == split)


def draw_sentence(rng: np.random.Generator, split: str, grammar_share: float = 0.15) -> str:
    """A random sentence of the split: the grammar's with probability ``grammar_share``, else
    WordNet's.
    """
    if rng.random() < grammar_share:
        while True:
            s = grammar_sentence(rng)
            if split_of(s) == split:
                return s
    pool = _wordnet_split(split)
    return pool[int(rng.integers(len(pool)))]


_CLASSES = (_NAMES, _PEOPLE, _ADJECTIVES, _THING_ADJECTIVES, _THINGS, _VERBS, _PLACES, _NUMBERS)


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[str, ...]:
    """Words of 4 to 10 letters that occur at least three times in WordNet's sentences."""
    counts = Counter(w for s in wordnet_sentences() for w in re.findall(r"[a-z]{4,10}", s))
    return tuple(sorted(w for w, n in counts.items() if n >= 3))


def replace_words(rng: np.random.Generator, split: str) -> tuple[str, str, str, str]:
    """A sentence, and the same sentence with one or two adjacent words replaced; both in ``split``.

    Returns (before, after, removed, added). Half of the sentences are the grammar's, with a
    replacement of the same class. In WordNet's sentences any longer word can be the replacement.
    """

    def pick(words: Sequence[str]) -> str:
        return words[int(rng.integers(len(words)))]

    while True:
        grammar = rng.random() < 0.5
        before = draw_sentence(rng, split, grammar_share=float(grammar))
        words = before.split()
        inner = [
            i
            for i in range(len(words))
            if re.fullmatch("[a-z]{3,}" if grammar else "[a-z]{4,10}", words[i])
        ]
        inner = [i for i in inner if not grammar or any(words[i] in c for c in _CLASSES)]
        if not inner:
            continue
        i = inner[int(rng.integers(len(inner)))]
        count = 2 if i + 1 in inner and rng.random() < 0.35 else 1
        for _ in range(200):
            new = list(words)
            for j in range(i, i + count):
                pool = next(c for c in _CLASSES if words[j] in c) if grammar else _vocabulary()
                new[j] = pick(pool)
            after = " ".join(new)
            if (
                all(new[j] != words[j] for j in range(i, i + count))
                and split_of(after) == split
                and not _OFFENSIVE.search(after)
            ):
                return before, after, " ".join(words[i : i + count]), " ".join(new[i : i + count])
