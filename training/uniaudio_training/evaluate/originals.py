"""Test sentences, speakers and original recordings, drawn from a seed; none occurs in training."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..corpus import music, sounds
from ..corpus.schema import SPLITS
from ..corpus.sentences import draw_sentence, grammar_sentence, split_of
from ..corpus.speech import SPEAKERS, Speaker, Utterance, speak

PROMPT_SECONDS = 3.0
HELD_OUT = tuple(s for s in SPEAKERS if s.split == "test")
_BY_NAME = {s.name: s for s in SPEAKERS}
_GRAMMAR, _OPEN, _PROMPT, _CLIP = range(4)  # streams of random numbers


def speaker(name: str) -> Speaker | None:
    """The virtual speaker of that name; None for a voice that the corpus cannot synthesise."""
    return _BY_NAME.get(name)


def grammar_sentences(count: int, seed: int = 0) -> list[str]:
    """``count`` distinct grammar sentences of the test split; a smaller count gives a prefix."""
    rng = np.random.default_rng((seed, _GRAMMAR))
    found: dict[str, None] = {}
    while len(found) < count:
        s = grammar_sentence(rng)
        if split_of(s) == "test":
            found[s] = None
    return list(found)


def open_sentences(count: int, seed: int = 0) -> list[str]:
    """``count`` distinct WordNet sentences of the test split (about 900); a smaller count gives a
    prefix.
    """
    rng = np.random.default_rng((seed, _OPEN))
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw_sentence(rng, "test", grammar_share=0.0)] = None
    return list(found)


@lru_cache(maxsize=512)
def original(text: str, name: str) -> Utterance:
    """The recording of a sentence by a virtual speaker, each with noise of its own."""
    return speak(text, _BY_NAME[name], noise_seed=zlib.crc32(f"{name}: {text}".encode()))


@lru_cache(maxsize=64)
def prompt(name: str, seed: int = 0) -> NDArray[np.float32]:
    """3 s of a virtual speaker, float32 at 16 kHz: sentences of the valid split, without leading
    silence.
    """
    rng = np.random.default_rng((seed, _PROMPT))
    parts: list[NDArray[np.float32]] = []
    while sum(map(len, parts)) < PROMPT_SECONDS * 16000:
        u = original(draw_sentence(rng, "valid", grammar_share=0.0), name)
        first = u.segments[0]
        parts.append(
            u.samples[int(first.end * 16000) if first.phone == "pau" and not parts else 0 :]
        )
    return np.concatenate(parts)[: int(PROMPT_SECONDS * 16000)]


def clips(kind: str, count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """``count`` test clips ("sound" or "music"), float32 at 16 kHz, synthesised on the fly."""
    kinds: dict[str, tuple[Callable[[np.random.Generator], music.Music | sounds.Sound], int]]
    kinds = {"music": (music.make, 0), "sound": (sounds.make, 1)}
    make, stream = kinds[kind]
    made = []
    for i in range(count):
        rng = np.random.default_rng(
            np.random.SeedSequence((seed, _CLIP, SPLITS.index("test"), stream, i))
        )
        made.append(make(rng).samples)
    return made


def choose_voices(names: Sequence[str], count: int) -> list[str]:
    """``count`` voices of a model, spread evenly over those that the corpus can synthesise.

    Where it can synthesise none, over all voices.
    """
    pool = [n for n in names if n in _BY_NAME] or list(names)
    if len(pool) <= count:
        return pool
    return [pool[int(i)] for i in np.linspace(0, len(pool) - 1, count).round()]


def item_seed(seed: int, *parts: int) -> int:
    """A distinct seed for each item, below 2**31."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1)[0] >> 1)
