"""MusicXML -> notes as they are to be sung: one voice of one part, repeats written out, at sounding
pitch.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from xml.etree.ElementTree import Element

from ..errors import InputError, shown
from .lyrics import Sung, Syllable, clean, notes, written
from .notes import MOST_NOTES, Note
from .playback import Marks, order
from .text_form import STEPS
from .xml import read_tree

_TEMPO = 120.0  # quarter notes a minute, where the score has none
_QUARTERS = {
    "maxima": 32.0, "long": 16.0, "breve": 8.0, "whole": 4.0, "half": 2.0, "quarter": 1.0,
    "eighth": 0.5, **{name: 4 / int(name[:-2]) for name in ("16th", "32nd", "64th", "128th", "256th",
    "512th", "1024th")},
}  # fmt: skip
_NUMERAL = re.compile(r"[+-]?(?:\d{1,40}(?:[.,]\d{0,40})?|[.,]\d{1,40})")
_COUNTED = re.compile(r"\s*\d{1,2}[.):]\s*")
_SOUNDS = {"humming": "mm", "laughing": "ha"}
_WORDS = (  # what words over a bar mean where no <sound> says it
    (re.compile(r"\bD\.?\s?C\.?(?!\w)|da\s+capo", re.IGNORECASE), "dacapo"),
    (re.compile(r"\bD\.?\s?S\.?(?!\w)|dal\s+segno", re.IGNORECASE), "dalsegno"),
    (re.compile(r"\bto\s+coda\b", re.IGNORECASE), "tocoda"),
    (re.compile(r"^\W*fine\W*$", re.IGNORECASE), "fine"),
)


@dataclass(slots=True)
class _Event:
    """A note of a part: where it begins in its bar and how long it is, in quarter notes."""

    offset: float
    length: float
    pitch: int  # that sounds
    where: str
    tied: bool = False  # from the note before
    lyrics: dict[int, list[tuple[str, str]]] = field(default_factory=dict)  # verse -> (text, kind)
    passes: frozenset[int] = frozenset()  # on which it is played; none: on all


@dataclass
class _Bar:
    """What all parts share of a bar."""

    length: float = 0.0  # quarter notes
    measure: float = 4.0  # quarter notes that the time signature gives it
    marks: Marks = field(default_factory=Marks)
    tempos: list[tuple[float, float]] = field(default_factory=list)  # (offset, tempo)


Voice = tuple[int, str, str]  # part, staff, voice


class _Part:
    """Reads the bars of one part in order, as they go on from one another."""

    def __init__(self, number: int, where: str) -> None:
        self.number = number
        self.where = where
        self.divisions = 1.0
        self.transpose = 0
        self.measure = 4.0  # quarter notes that the time signature gives a bar
        self.level = 60  # the last pitch, for words that are spoken
        self.ending: frozenset[int] = frozenset()
        self.graced: dict[int, list[tuple[str, str]]] = {}  # lyrics of grace notes, for the next

    def read(self, measure: Element, bar: _Bar) -> dict[Voice, list[_Event]]:
        """The notes of a bar by voice; ``bar`` gains its length, tempos and marks."""
        self.bar_where = f"{self.where} bar {measure.get('number') or '?'}"
        voices: dict[Voice, list[_Event]] = defaultdict(list)
        now = longest = 0.0
        last: _Event | None = None
        begun, ended = self.ending, False
        for e in measure:
            if e.tag == "note":
                if e.find("grace") is not None:
                    self._keep_lyrics(e)
                    continue
                length = self._length(e)
                voice = (self.number, e.findtext("staff", "1"), e.findtext("voice", "1").strip())
                if e.find("chord") is not None:
                    if last is not None:
                        self._join_chord(last, e)
                    continue
                events, last = voices[voice], None
                pitch = self._pitch(e) if _sounds(e) else 0
                if pitch:
                    last = self._event(e, now, length, pitch)
                    events.append(last)
                now += length
            elif e.tag == "backup":
                now = max(0.0, now - self._duration(e))
            elif e.tag == "forward":
                now += self._duration(e)
            elif e.tag == "attributes":
                self._attributes(e)
            elif e.tag in ("direction", "sound"):
                self._direction(e, now, bar)
            elif e.tag == "barline":
                begun, ended = self._barline(e, bar.marks, begun, ended)
            longest = max(longest, now)
        bar.marks.ending |= begun
        self.ending = frozenset() if ended else begun
        bar.length = max(bar.length, longest)
        bar.measure = self.measure
        return voices

    def _event(self, e: Element, now: float, length: float, pitch: int) -> _Event:
        stops = [*e.findall("tie"), *e.findall("notations/tied")]
        lyrics = self._lyrics(e)
        if self.graced:  # the grace notes' come first
            self._keep_lyrics(e)
            lyrics, self.graced = self.graced, {}
        return _Event(
            now,
            length,
            pitch,
            self.bar_where,
            any(t.get("type") in ("stop", "continue") for t in stops),
            lyrics,
            _passes(e.get("time-only", "")),
        )

    def _join_chord(self, lower: _Event, e: Element) -> None:
        """The highest note of a chord is sung, with the lyrics of any."""
        if _sounds(e):
            lower.pitch = max(lower.pitch, self._pitch(e))
        for verse, texts in self._lyrics(e).items():
            lower.lyrics.setdefault(verse, texts)

    def _pitch(self, e: Element) -> int:
        """The sounding pitch; 0 of a rest, and of a note without pitch or words."""
        pitch, step, octave = e.find("pitch"), "step", "octave"
        if pitch is None:
            pitch, step, octave = e.find("unpitched"), "display-step", "display-octave"
            if pitch is None or e.find("lyric") is None:
                return 0
            if pitch.find(step) is None:
                return self.level
        letter = (pitch.findtext(step) or "").strip().lower()
        if letter not in STEPS:
            raise InputError(f"{self.bar_where}: expected a step from A to G, got {shown(letter)}")
        natural = STEPS[letter] + round(self._number(pitch, "alter", -4, 4, 0.0))
        self.level = 12 * (int(self._number(pitch, octave, -2, 12)) + 1) + natural + self.transpose
        return self.level

    def _lyrics(self, e: Element) -> dict[int, list[tuple[str, str]]]:
        lyrics: dict[int, list[tuple[str, str]]] = {}
        for lyric in e.findall("lyric"):
            texts = _texts(lyric)
            for verse in _passes(lyric.get("time-only", "")) or {_verse(lyric.get("number", ""))}:
                if texts:
                    lyrics.setdefault(verse, list(texts))
        return lyrics

    def _keep_lyrics(self, e: Element) -> None:
        for verse, texts in self._lyrics(e).items():
            self.graced.setdefault(verse, []).extend(texts)

    def _length(self, e: Element) -> float:
        if e.find("duration") is not None:
            return self._duration(e)
        kind = (e.findtext("type") or "").strip()
        if kind not in _QUARTERS:
            if e.find("rest") is not None:
                return self.measure
            raise InputError(
                f"{self.bar_where}: expected a duration or a type of each note, got none"
            )
        length = _QUARTERS[kind] * (2 - 0.5 ** min(len(e.findall("dot")), 8))
        change = e.find("time-modification")
        if change is not None:
            length *= self._number(change, "normal-notes", 1, 1000)
            length /= self._number(change, "actual-notes", 1, 1000)
        return length

    def _duration(self, e: Element) -> float:
        return self._number(e, "duration", 0, 1e7) / self.divisions

    def _attributes(self, e: Element) -> None:
        if e.find("divisions") is not None:
            self.divisions = self._number(e, "divisions", 1e-3, 1e7)
        transpose = e.find("transpose")
        if transpose is not None:
            self.transpose = round(self._number(transpose, "chromatic", -60, 60, 0.0))
            self.transpose += 12 * round(self._number(transpose, "octave-change", -6, 6, 0.0))
        time = e.find("time")
        if time is not None and time.find("beats") is not None:
            beats = sum(int(n) for n in re.findall(r"\d{1,3}", time.findtext("beats") or "")[:9])
            self.measure = 4 * (beats or 4) / self._number(time, "beat-type", 1, 1024, 4)

    def _direction(self, e: Element, now: float, bar: _Bar) -> None:
        sound = e if e.tag == "sound" else e.find("sound")
        offset = e.find("offset")
        if offset is not None and (offset.get("sound") == "yes" or e.tag == "sound"):
            now = max(0.0, now + self._number(e, "offset", -1e7, 1e7) / self.divisions)
        said = dict(sound.attrib) if sound is not None else {}
        for kind in e.findall("direction-type"):
            for name in ("segno", "coda"):
                if kind.find(name) is not None and "tocoda" not in said:
                    said.setdefault(name, "yes")
            for words in kind.findall("words"):
                if sound is None or not {"dacapo", "dalsegno", "tocoda", "fine"} & said.keys():
                    meant = (name for sign, name in _WORDS if sign.search((words.text or "")[:80]))
                    said.update(dict.fromkeys(list(meant)[:1], "yes"))
            metronome = kind.find("metronome")
            if metronome is not None and "tempo" not in said:
                said["tempo"] = self._metronome(metronome)
        tempo = _numeral(said.get("tempo", ""))
        if tempo is not None and 1 <= tempo <= 2000:
            bar.tempos.append((now, tempo))
        marks = bar.marks
        marks.begins |= said.get("forward-repeat") == "yes"
        marks.fine |= bool(said.get("fine"))
        marks.to_coda |= bool(said.get("tocoda"))
        marks.segno |= bool(said.get("segno"))
        marks.coda |= bool(said.get("coda")) and not said.get("tocoda")
        if said.get("dacapo") == "yes":
            marks.jump = "capo"
        elif said.get("dalsegno"):
            marks.jump = "segno"

    def _metronome(self, e: Element) -> str:
        """Quarter notes a minute of ``♩. = 60``; nothing where it relates two lengths."""
        a_minute = _numeral(e.findtext("per-minute") or "")
        unit = (e.findtext("beat-unit") or "").strip()
        if a_minute is None or unit not in _QUARTERS:
            return ""
        return repr(
            a_minute * _QUARTERS[unit] * (2 - 0.5 ** min(len(e.findall("beat-unit-dot")), 8))
        )

    def _barline(
        self, e: Element, marks: Marks, begun: frozenset[int], ended: bool
    ) -> tuple[frozenset[int], bool]:
        marks.segno |= e.find("segno") is not None
        marks.coda |= e.find("coda") is not None
        repeat, ending = e.find("repeat"), e.find("ending")
        if repeat is not None and repeat.get("direction") == "forward":
            marks.begins = True
        elif repeat is not None:
            times = _numeral(repeat.get("times", "")) or 2
            marks.times = max(marks.times, min(int(times), 1000))
        if ending is not None and ending.get("type") == "start":
            return _passes(ending.get("number", "")) or frozenset({1}), False
        return begun, ended or ending is not None

    def _number(
        self, e: Element, tag: str, low: float, high: float, default: float = math.nan
    ) -> float:
        text = e.findtext(tag)
        empty = text is None or not text.strip()
        value = default if empty else _numeral(text or "", whole=True)
        if value is None or not low <= value <= high:
            got = "none" if empty else shown((text or "").strip())
            raise InputError(
                f"{self.bar_where}: expected {tag} from {low:g} to {high:g}, got {got}"
            )
        return value


def read_musicxml(data: bytes, where: str) -> list[Note]:
    """The first voice with lyrics, each verse on its repeat.  Cues are silent.  Raises
    :class:`InputError` for what is no MusicXML score, or one without lyrics.
    """
    root = read_tree(data, where)
    parts = _parts(root)
    if not parts:
        raise InputError(f"{where}: expected a MusicXML score with parts, got <{shown(root.tag)}>")
    bars = [_Bar() for _ in range(max(map(len, parts)))]
    voices: list[dict[Voice, list[_Event]]] = [{} for _ in bars]
    for number, part in enumerate(parts):
        reader = _Part(number, where)
        for bar, read, measure in zip(bars, voices, part, strict=False):
            read.update(reader.read(measure, bar))
    return notes(_sung(bars, _melody(voices, where), where))


def _parts(root: Element) -> list[list[Element]]:
    """The measures of each part, whichever of the two ways the score is arranged."""
    if root.tag not in ("score-partwise", "score-timewise"):
        return []
    if root.find("part") is not None:  # some writers name the root after the other way
        return [part.findall("measure") for part in root.findall("part")]
    parts: dict[str, list[Element]] = defaultdict(list)
    for measure in root.findall("measure"):
        for i, part in enumerate(measure.findall("part")):
            part.set("number", measure.get("number", "?"))
            parts[part.get("id", str(i))].append(part)
    return list(parts.values())


def _melody(voices: Sequence[dict[Voice, list[_Event]]], where: str) -> list[list[_Event]]:
    """The notes of each bar: those of the first voice with at least half as many lyrics as any.
    A bar that it leaves out is taken from another voice of the part that has lyrics there.
    """
    counts = Counter[Voice]()
    for bar in voices:
        for voice, events in bar.items():
            counts[voice] += sum(bool(e.lyrics) for e in events)
    most = max(counts.values(), default=0)
    if not most:
        raise InputError(
            f"{where}: expected lyrics under the notes, got none; put words into the score, or use "
            "the text form"
        )
    order_of = {v: (v[0], _numeral(v[1]) or 0, _numeral(v[2]) or 0) for v in counts}
    chosen = min((v for v, n in counts.items() if 2 * n >= most), key=lambda v: order_of[v])
    melody = []
    for bar in voices:
        others = (es for v, es in bar.items() if v[0] == chosen[0])
        with_words = (es for es in others if any(e.lyrics for e in es))
        melody.append(bar[chosen] if chosen in bar else next(with_words, []))
    return melody


def _sung(bars: Sequence[_Bar], melody: Sequence[list[_Event]], where: str) -> Iterator[Sung]:
    """The melody in time, in the order of playing."""
    clocks = _clocks(bars)
    verse = _verses(melody)
    played = Counter[int]()
    start = 0.0
    count = 0
    going = False  # a word goes on over the next notes
    last: Sung | None = None
    for i, passing in order([bar.marks for bar in bars], where):
        played[i] += 1
        number = verse(i, max(passing, played[i]))
        for e in melody[i]:
            if e.passes and passing not in e.passes:
                continue
            count += 1
            if count > MOST_NOTES:
                raise InputError(f"{where}: expected at most {MOST_NOTES} notes, got more")
            syllables: list[Syllable] = []
            for text, kind in e.lyrics.get(number, ()):
                more, going = written(text, kind, going)
                syllables += more
            begin, end = start + clocks[i](e.offset), start + clocks[i](e.offset + e.length)
            if (
                last is not None
                and e.tied
                and not syllables
                and last.pitch == e.pitch
                and abs(last.end - begin) < 1e-3
            ):
                last.end = end
                continue
            if last is not None:
                yield last
            last = Sung(begin, end, e.pitch, syllables, e.where)
        start += clocks[i](bars[i].length or bars[i].measure)
    if last is not None:
        yield last


def _clocks(bars: Sequence[_Bar]) -> list[Callable[[float], float]]:
    """For each bar: quarter notes from its beginning -> seconds, at the tempo that is written."""
    tempo = _TEMPO
    out: list[Callable[[float], float]] = []
    for bar in bars:
        offsets, starts, rates = [0.0], [0.0], [60 / tempo]
        for offset, tempo in sorted(bar.tempos, key=lambda t: t[0]):
            starts.append(starts[-1] + (offset - offsets[-1]) * rates[-1])
            offsets.append(offset)
            rates.append(60 / tempo)
        out.append(partial(_seconds, offsets, starts, rates))
    return out


def _seconds(
    offsets: list[float], starts: list[float], rates: list[float], quarters: float
) -> float:
    i = bisect_right(offsets, quarters) - 1
    return starts[i] + (quarters - offsets[i]) * rates[i]


def _verses(melody: Sequence[list[_Event]]) -> Callable[[int, int], int]:
    """(bar, pass) -> the verse that is sung there.

    The n-th pass has the n-th verse of the song.  Where that has no words, as in a refrain, the
    verse before it does.  A bar between two that have words is not such a place: its verse holds a
    syllable there.
    """
    present = [
        {verse for e in events for verse, texts in e.lyrics.items() if texts} for events in melody
    ]
    verses = sorted(set().union(*present))

    def verse(bar: int, passing: int) -> int:
        wanted = verses[min(passing, len(verses)) - 1]
        here = present[bar]
        around = bar > 0 and wanted in present[bar - 1] and wanted in present[min(bar + 1, last)]
        if wanted in here or around or not here:
            return wanted
        return max((v for v in here if v < wanted), default=min(here))

    last = len(present) - 1
    return verse


def _sounds(e: Element) -> bool:
    """Whether a note is to be sung: no cue, no silent note, no slash that shows a rhythm."""
    slash = (e.findtext("notehead") or "").strip() == "slash" and e.find("lyric") is None
    return e.find("cue") is None and not slash and _numeral(e.get("dynamics", "")) != 0


def _texts(lyric: Element) -> list[tuple[str, str]]:
    """(text, kind) of each syllable in a lyric; none where it only holds the last one."""
    texts: list[tuple[str, str]] = []
    kind = ""
    for e in lyric:
        if e.tag == "syllabic":
            kind = (e.text or "").strip()
        elif e.tag == "text" and clean(e.text or ""):
            texts.append((e.text or "", kind))
        elif e.tag in _SOUNDS:
            texts.append((_SOUNDS[e.tag], "single"))
        elif e.tag == "elision":
            kind = ""
    if len(texts) > 1 and _COUNTED.fullmatch(texts[0][0]):  # the number of the verse
        del texts[0]
    return texts


def _verse(number: str) -> int:
    """The verse of ``2``, ``part1verse2`` and the like; 1 where no number is named."""
    numbers = re.findall(r"\d{1,6}", number)
    return int(numbers[-1]) if numbers else 1


@lru_cache(1024)
def _passes(text: str) -> frozenset[int]:
    """The numbers of ``1, 2`` or ``1-3``, up to 32."""
    passes: set[int] = set()
    for first, last in re.findall(r"(\d{1,3})(?:\s*-\s*(\d{1,3}))?", text[:100]):
        passes |= set(range(int(first), min(int(last or first), 32) + 1))
    return frozenset(passes)


def _numeral(text: str, whole: bool = False) -> float | None:
    """The first number in a text, or the text as a number; a comma may stand for the point."""
    text = text.strip()[:200]
    found = _NUMERAL.fullmatch(text) if whole else _NUMERAL.search(text)
    return float(found[0].replace(",", ".")) if found else None
