"""Notes with words -> phones and pitches over frames: what the model is conditioned on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import InputError, shown
from ..text import PAUSE, sentence_words
from ..text.phones import is_vowel
from .notes import ELISION, HOLD, NEXT, Note

REST = 0.2  # s of silence before and after a song
_CONSONANT = 0.09  # s of a consonant, where the note has room
_SHARE = 0.55  # of a note at most goes to its consonants
_VOWEL = re.compile(r"([^aeiouy]*)([aeiouy])(.*)", re.DOTALL)
_VOWELS = {"a": "aa1", "e": "eh1", "i": "ih1", "o": "ow1", "u": "uw1", "y": "iy1"}
_CONSONANTS = re.compile(r"sch|[cpst]h|ck|([b-df-hj-np-tv-xzß])\1?")
_LONGEST_WORD = 100  # letters
_HUMMED = re.compile(r"h*m{2,}|hm+", re.IGNORECASE)


@dataclass(frozen=True)
class Song:
    """Two timelines of equal length: ``phones`` labels for ``durations`` frames each, and
    ``pitches`` (MIDI, 0 a rest) for ``note_frames`` frames each.
    """

    phones: tuple[str, ...]
    durations: tuple[int, ...]
    pitches: tuple[int, ...]
    note_frames: tuple[int, ...]


@dataclass
class _Stretch:
    """Phones that share a stretch of time, from frame ``begin`` to the next stretch."""

    phones: list[str]
    begin: int
    word: str = ""
    where: str = ""


def lay_out(notes: Sequence[Note], frame_rate: float, name: str = "score") -> Song:
    """Syllables over notes: consonants short, each vowel as long as its notes.

    Rests become pauses; one is added before and after.  A syllable whose phones outnumber the
    frames of its note takes frames from its neighbours.  Raises :class:`InputError` where there
    are no notes, no word to begin with, or fewer frames than phones.
    """
    if not any(n.pitch for n in notes):
        raise InputError(f"{name}: expected at least one note, got rests only")
    rest = Note(0, REST)
    notes = [rest] * bool(notes[0].pitch) + list(notes) + [rest] * bool(notes[-1].pitch)
    edges, clock = [0], 0.0
    for note in notes:
        clock += note.seconds
        edges.append(round(clock * frame_rate))
    edges = _at_least(edges, [1] * len(notes))
    stretches = _stretches(notes, edges, name)
    needs = [len(s.phones) for s in stretches]
    begins = [s.begin for s in stretches]
    if sum(needs) > edges[-1]:
        tight = next(
            s
            for s, end in zip(stretches, [*begins[1:], edges[-1]], strict=True)
            if len(s.phones) > end - s.begin
        )
        raise InputError(
            f"{tight.where or name}: expected notes of {len(tight.phones) / frame_rate:.2g} s or "
            f"more for {shown(tight.word)}, got shorter ones all around it; slow the tempo down"
        )
    bounds = _at_least([*begins, edges[-1]], needs)
    phones: list[str] = []
    durations: list[int] = []
    for stretch, begin, end in zip(stretches, bounds, bounds[1:], strict=False):
        phones += stretch.phones
        durations += _lengths(stretch.phones, end - begin, frame_rate)
    frames = (b - a for a, b in zip(edges, edges[1:], strict=False))
    return Song(tuple(phones), tuple(durations), tuple(n.pitch for n in notes), tuple(frames))


def _stretches(notes: Sequence[Note], edges: list[int], name: str) -> list[_Stretch]:
    """What is sung or silent, in order; a held syllable is one stretch over all its notes."""
    syllables = _note_syllables(notes, name)
    out: list[_Stretch] = []
    vowel: list[str] = []  # of the last syllable, for notes that hold it after a rest
    silent = True
    for note, sung, begin, end in zip(notes, syllables, edges, edges[1:], strict=False):
        if not note.pitch:
            out.append(_Stretch([PAUSE], begin))
        elif sung:
            for k, phones in enumerate(sung):
                at = begin + (end - begin) * k // len(sung)
                out.append(_Stretch(phones, at, note.word, note.where))
            vowel = [phones[_nuclei(phones)[-1]]]
        elif silent:
            out.append(_Stretch(vowel, begin, note.word, note.where))
        silent = not note.pitch
    return out


def _note_syllables(notes: Sequence[Note], name: str) -> list[list[list[str]]]:
    """For each note the syllables that begin on it, as phones; none where one is held.

    A word gives each of its notes a syllable and its last note what is left over.
    """
    out: list[list[list[str]]] = [[] for _ in notes]
    places: list[int] = []  # the notes of the current word, one entry a syllable
    text = where = ""

    def place() -> None:
        if not places:
            return
        syllables = _syllables(_word_phones(text, where or name))
        last = min(len(syllables), len(places)) - 1
        for at, syllable in zip(places[:last], syllables, strict=False):
            out[at].append(syllable)
        out[places[last]].append([p for s in syllables[last:] for p in s])

    for i, note in enumerate(notes):
        if not note.pitch:
            continue
        for token in note.word.split(ELISION):
            if token not in (NEXT, HOLD, ""):
                place()
                text, where, places = token, note.where, [i]
            elif not places:
                raise InputError(
                    f"{note.where or name}: expected a word on the first note, got "
                    f"{note.word or 'none'!r}"
                )
            elif token != HOLD:
                places.append(i)
    place()
    return out


def _word_phones(word: str, where: str) -> tuple[str, ...]:
    phones = _spoken(word) if len(word) <= _LONGEST_WORD else ()
    if not phones:
        raise InputError(f"{where}: expected a word in Latin letters, got {shown(word)}")
    return phones


def syllable_count(word: str) -> int:
    """How many syllables a word is sung with; 0 where nothing in it can be sung."""
    phones = _spoken(word) if len(word) <= _LONGEST_WORD else ()
    return len(_nuclei(phones)) if phones else 0


@lru_cache(4096)
def _spoken(word: str) -> tuple[str, ...]:
    """Phones of a word or hummed sound; none where nothing in it can be sung."""
    if _HUMMED.fullmatch(word):
        return ("m",)
    phones = [p for w in sentence_words(word) for p in w if w != [PAUSE]]
    if phones and not any(is_vowel(p) for p in phones):  # a note needs one: that of its letters
        found = _VOWEL.search(unicodedata.normalize("NFD", word.lower()))
        if found is None:
            return ()
        before, after = (len(_CONSONANTS.findall(t)) for t in (found[1], found[3]))
        at = int(len(phones) * before / max(1, before + after) + 0.5)
        phones.insert(at, _VOWELS[found[2]])
    return tuple(phones)


def _nuclei(phones: Sequence[str]) -> list[int]:
    """Where the vowels are; in a hummed syllable the last phone stands for one."""
    return [i for i, p in enumerate(phones) if is_vowel(p)] or [len(phones) - 1]


def _syllables(phones: Sequence[str]) -> list[list[str]]:
    """One vowel each; of the consonants between two vowels the last goes to the second."""
    nuclei = _nuclei(phones)
    cuts = [b - 1 if b - a > 1 else b for a, b in zip(nuclei, nuclei[1:], strict=False)]
    return [list(phones[a:b]) for a, b in zip([0, *cuts], [*cuts, len(phones)], strict=True)]


def _lengths(phones: list[str], frames: int, frame_rate: float) -> list[int]:
    """Frames of each phone: at least one, consonants no more than their time and share, vowels the
    rest.
    """
    nuclei = _nuclei(phones)
    others = len(phones) - len(nuclei)
    each = max(
        1, min(round(_CONSONANT * frame_rate), int(_SHARE * frames / others) if others else 0)
    )
    left = frames - each * others
    if left < len(nuclei):
        each = 1
        left = frames - others
    share, more = divmod(left, len(nuclei))
    lengths = [each] * len(phones)
    for k, i in enumerate(nuclei):
        lengths[i] = share + (k < more)
    return lengths


def _at_least(edges: Sequence[int], needs: Sequence[int]) -> list[int]:
    """The edges moved as little as it takes to leave ``needs[i]`` between edges i and i + 1.

    The first edge stays; the last moves only where the needs together exceed the whole.
    """
    out = [edges[0]]
    for edge, need in zip(edges[1:], needs, strict=True):
        out.append(max(edge, out[-1] + need))
    out[-1] = max(edges[-1], edges[0] + sum(needs))
    for i in range(len(needs) - 1, 0, -1):
        out[i] = min(out[i], out[i + 1] - needs[i])
    return out
