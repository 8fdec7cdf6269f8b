"""Recipes of the procedural corpus, one per task. Labels are exact: the sound is made from them.

A recipe takes the random generator, the split and the ``ShardVoices`` of the shard, and returns the
drafts of one or more examples. A track object used by several examples is stored once, which is how
examples share voice prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import degrade, music, sentences, sounds, wordings
from .degrade import Pcm, to_pcm
from .flite import Segment
from .pitch import f0_track
from .schema import SAMPLE_RATE, Edit, Instruction, Interferer, Noise, Phone, Span, Word
from .singing import Song, sing
from .speech import Speaker, Utterance, loud_level, speak, speakers
from .splice import splice_words

Rng = np.random.Generator


@dataclass(eq=False)
class Take:
    """A track to store: int16 samples and what is said in them."""

    pcm: Pcm
    text: str = ""
    speaker: str = ""
    phones: tuple[Phone, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass
class Draft:
    """An example to store: its tracks by role, and the labels of its task."""

    takes: dict[str, Take]
    labels: dict[str, Any] = field(default_factory=dict)


@dataclass
class ShardVoices:
    """Babble voices shared by the examples of a shard, synthesised on first use."""

    split: str
    _voices: list[NDArray[np.float32]] = field(default_factory=list)

    def voices(self, rng: Rng) -> list[NDArray[np.float32]]:
        """Eight utterances for babble, by speakers of the split."""
        if not self._voices:
            self._voices = [
                utterance(rng, self.split, pick(rng, speakers(self.split))).samples
                for _ in range(8)
            ]
        chosen = rng.choice(8, size=int(rng.integers(4, 7)), replace=False)
        return [self._voices[int(i)] for i in chosen]


pick = wordings.pick


def word_times(segments: tuple[Segment, ...]) -> tuple[Word, ...]:
    """Words in order with their times; pauses belong to no word."""
    words: list[Word] = []
    start = 0.0
    for s in segments:
        if s.begins == "word" or (s.word and not words):
            words.append(Word(s.word, start, s.end))
        elif s.word:
            words[-1] = words[-1]._replace(end=s.end)
        start = s.end
    return tuple(words)


def _seed(rng: Rng) -> int:
    return int(rng.integers(1 << 31))


def utterance(
    rng: Rng, split: str, speaker: Speaker, level_db: float = -23.0, text: str | None = None
) -> Utterance:
    text = sentences.draw_sentence(rng, split) if text is None else text
    return speak(text, speaker, level_db=level_db, noise_seed=_seed(rng))


def take(u: Utterance, pcm: Pcm | None = None) -> Take:
    pcm = to_pcm(u.samples) if pcm is None else pcm
    last = len(pcm) / SAMPLE_RATE
    phones = tuple(Phone(s.phone, min(s.end, last)) for s in u.segments)
    return Take(pcm, u.text, u.speaker, phones, word_times(u.segments))


def _ring(takes: list[Take]) -> list[Take]:
    """The takes rotated by one: each is prompted by the next, none by itself."""
    return takes[1:] + takes[:1]


def tts(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """Five sentences by one speaker."""
    who = pick(rng, speakers(split))
    said: dict[str, Take] = {}
    while len(said) < 5:
        t = take(utterance(rng, split, who))
        said.setdefault(t.text, t)
    takes = list(said.values())
    return [Draft({"target": t, "prompt": p}) for t, p in zip(takes, _ring(takes), strict=True)]


VC_DRIFT = 0.005  # s, a quarter of a codec frame


def vc(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """Three sentences by two virtual speakers with the same base voice and pace.

    Their phone ends differ by at most VC_DRIFT.
    """
    pool = speakers(split)
    who = pick(rng, [s for s in pool if any(o.base == s.base and o is not s for o in pool)])
    other = pick(rng, [o for o in pool if o.base == who.base and o is not who])
    rate = float(rng.uniform(0.9, 1.12))
    pairs: dict[str, tuple[Take, Take]] = {}
    while len(pairs) < 3:
        text = sentences.draw_sentence(rng, split)
        a, b = (speak(text, replace(s, rate=rate), noise_seed=_seed(rng)) for s in (who, other))
        if text in pairs or [s.phone for s in a.segments] != [s.phone for s in b.segments]:
            continue
        if max(abs(s.end - t.end) for s, t in zip(a.segments, b.segments, strict=True)) > VC_DRIFT:
            # flite rounds durations to 5 ms frames; in one sentence of a hundred the rounding
            # errors accumulate
            continue
        source, target = to_pcm(a.samples), to_pcm(b.samples)
        target = np.pad(target[: len(source)], (0, max(0, len(source) - len(target))))
        pairs[text] = (take(a, source), take(b, target))
    prompts = _ring([t for _, t in pairs.values()])
    return [
        Draft({"target": t, "source": s, "prompt": p})
        for (s, t), p in zip(pairs.values(), prompts, strict=True)
    ]


NOISES = ("white", "pink", "hum", "babble", "sound", "music")


def _noise(
    rng: Rng, kind: str, count: int, shared: ShardVoices
) -> tuple[NDArray[np.floating], str]:
    if kind == "babble":
        return degrade.babble(rng, count, shared.voices(rng)), ""
    if kind == "sound":
        made = sounds.make(rng, seconds=max(2.0, min(count / SAMPLE_RATE, 5.0)))
        return degrade.loop(rng, count, made.samples), wordings.sound(
            rng, made.name, made.parameters
        )
    if kind == "music":
        piece = music.make(rng, min(max(count / SAMPLE_RATE, 4.0), 8.0))
        return degrade.loop(rng, count, piece.samples), _music_caption(rng, piece)
    plain: dict[str, Callable[[Rng, int], NDArray[np.floating]]] = {
        "white": degrade.white,
        "pink": degrade.pink,
        "hum": degrade.hum,
    }
    return plain[kind](rng, count), ""


def se(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    u = utterance(rng, split, pick(rng, speakers(split)), level_db=float(rng.uniform(-30, -18)))
    kind = pick(rng, NOISES)
    other, caption = _noise(rng, kind, len(u.samples), shared)
    clean, noisy = degrade.mix_at(u.samples, other, float(rng.uniform(-5, 20)))
    label = Noise(kind, round(degrade.snr_db(clean, noisy), 3), caption)
    return [Draft({"target": take(u, clean), "source": take(u, noisy)}, {"noise": label})]


def tse(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """Two sentences of a target speaker, each with an interfering speaker; each is the enrolment of
    the other.
    """
    who = pick(rng, speakers(split))
    said = [utterance(rng, split, who, level_db=float(rng.uniform(-30, -18))) for _ in range(2)]
    drafts = []
    enrolments = _ring([take(u) for u in said])
    for u, enrolment in zip(said, enrolments, strict=True):
        other = pick(rng, [s for s in speakers(split) if s is not who])
        over = utterance(rng, split, other).samples
        while len(over) < len(u.samples):
            over = np.concatenate((over, utterance(rng, split, other).samples))
        first = int(rng.integers(len(over) - len(u.samples) + 1))
        clean, mixed = degrade.mix_at(
            u.samples, over[first : first + len(u.samples)], float(rng.uniform(-5, 5))
        )
        label = Interferer(other.name, round(degrade.snr_db(clean, mixed), 3))
        drafts.append(
            Draft(
                {"target": take(u, clean), "source": take(u, mixed), "prompt": enrolment},
                {"interferer": label},
            )
        )
    return drafts


def sd(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    u = utterance(rng, split, pick(rng, speakers(split)), level_db=float(rng.uniform(-30, -18)))
    response = degrade.room(rng)
    dry, wet = degrade.reverberate(u.samples, response)
    return [Draft({"target": take(u, dry), "source": take(u, wet)}, {"room": response.room})]


def svs(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """Three songs by one singer."""
    who = pick(rng, speakers(split))
    songs: dict[str, Song] = {}
    while len(songs) < 3:
        text = sentences.draw_sentence(rng, split, grammar_share=0.3)
        if text not in songs and len(text.split()) <= 12:
            songs[text] = sing(rng, text, who)
    takes = [Take(to_pcm(s.samples), s.text, s.speaker, s.phones, s.words) for s in songs.values()]
    return [
        Draft(
            {"target": t, "prompt": p},
            {
                "notes": s.notes,
                "vibrato": s.vibrato,
                "parameters": {"key": s.key, "mode": s.mode, "tempo": s.tempo},
            },
        )
        for s, t, p in zip(songs.values(), takes, _ring(takes), strict=True)
    ]


def t2s(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    while True:
        s = sounds.make(rng)
        if sounds.is_clear(s.name, s.parameters, s.parameters["seconds"]):
            break
    return [
        Draft(
            {"target": Take(to_pcm(s.samples))},
            {
                "caption": wordings.sound(rng, s.name, s.parameters),
                "parameters": {"class": s.name, **s.parameters},
            },
        )
    ]


def _music_caption(rng: Rng, m: music.Music) -> str:
    return wordings.music(rng, m.parameters, music.KEYS[m.parameters["key"]])


def t2m(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    m = music.make(rng)
    return [
        Draft(
            {"target": Take(to_pcm(m.samples))},
            {"caption": _music_caption(rng, m), "parameters": m.parameters},
        )
    ]


_BACKGROUNDS = ("rain", "wind", "engine", "clock")
_BRIGHT = ("rain", "clock")  # classes with energy above 4 kHz to restore
EVENTS = ("bell", "beep", "knock", "chirp", "drip")
OPERATIONS = ("add", "drop", "replace", "inpaint", "super_resolve")


@dataclass
class _Event:
    name: str
    caption: str
    samples: NDArray[np.floating]


def _event(rng: Rng, not_this: str = "") -> _Event:
    """One sound of 0.8 to 1.8 s, with one to three events, at an RMS of 1."""
    name = pick(rng, [n for n in EVENTS if n != not_this])
    while True:
        seconds = float(rng.uniform(0.8, 1.8))
        x, parameters = sounds.CLASSES[name](rng, seconds)
        if parameters["count"] <= 3 and sounds.is_clear(name, parameters, seconds):
            break
    n = 80
    x[:n] *= np.linspace(0, 1, n)
    x[-n:] *= np.linspace(1, 0, n)
    return _Event(name, wordings.sound_noun(rng, name, parameters), x / np.sqrt((x**2).mean()))


def a_edit(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """A background with or without added events.

    Source and target are sums of the same int16 parts, so that they differ only within the span.
    """
    operation = pick(rng, OPERATIONS)
    name = pick(rng, _BACKGROUNDS if operation != "super_resolve" else _BRIGHT)
    seconds = float(rng.uniform(4, 7))
    made = sounds.make(rng, name, seconds)
    background = wordings.sound_noun(rng, made.name, made.parameters)
    base = made.samples * 10 ** (-30 / 20) / (np.sqrt((made.samples**2).mean()) + 1e-9)
    count = len(base)
    event, other = _event(rng), _event(rng)
    if operation == "replace":
        other = _event(rng, not_this=event.name)
        length = max(len(event.samples), len(other.samples))
    else:
        length = len(event.samples)
    start = int(rng.integers(count - length))
    span = Span(start, start + length)

    def placed(e: _Event, at: int) -> NDArray[np.floating]:
        """The event, 4 to 14 dB louder than the background at this position."""
        x = np.zeros(count)
        here = np.sqrt((base[at : at + len(e.samples)] ** 2).mean())
        x[at : at + len(e.samples)] = e.samples * here * 10 ** (rng.uniform(4, 14) / 20)
        return x

    first, second = (
        placed(event, start),
        placed(other, start) if operation == "replace" else np.zeros(count),
    )
    bystander = _event(rng)
    extra = ""
    stays: NDArray[np.floating] = np.zeros(count)
    free = [
        s
        for s in (0, count - len(bystander.samples))
        if s + len(bystander.samples) <= span.start or s >= span.end
    ]
    if operation not in ("inpaint", "super_resolve") and free and rng.random() < 0.4:
        # Another event stays: the model has to read the instruction to know which to remove.
        extra, stays = bystander.name, placed(bystander, pick(rng, free))
    peak = np.abs(base).max() + max(np.abs(first).max(), np.abs(second).max(), np.abs(stays).max())
    down = min(1.0, 0.95 / float(peak))
    still = to_pcm(base * down) + to_pcm(stays * down)
    one, two = to_pcm(first * down), to_pcm(second * down)
    where = wordings.position(rng, span.start, span.end, count)
    removed = added = ""
    if operation == "add":
        source, target, added = still, still + one, event.caption
    elif operation == "drop":
        source, target, removed = still + one, still, event.caption
    elif operation == "replace":
        source, target = still + one, still + two
        removed, added = event.caption, other.caption
    elif operation == "inpaint":
        length = int(rng.uniform(0.4, 1.0) * SAMPLE_RATE)
        start = int(rng.integers(count - length))
        span, target = Span(start, start + length), still
        source = still.copy()
        source[start : start + length] = 0
        where = wordings.position(rng, *span, count)
    else:
        target, span, where = still + one, Span(0, count), ""
        spectrum = np.fft.rfft(target)
        spectrum[np.fft.rfftfreq(count, 1 / SAMPLE_RATE) > float(rng.choice([2000.0, 4000.0]))] = 0
        source = np.round(np.fft.irfft(spectrum, count)).astype(np.int16)
    caption = wordings.edit(rng, operation, removed, added, where, background)
    parameters: dict[str, Any] = {"background": name}
    if operation in ("add", "replace"):
        parameters["added"] = (event if operation == "add" else other).name
    if operation in ("drop", "replace"):
        parameters["removed"] = event.name
    if extra:
        parameters["stays"] = extra
    edit = Edit(operation, span, span, removed, added)
    return [
        Draft(
            {"target": Take(target.astype(np.int16)), "source": Take(source.astype(np.int16))},
            {"caption": caption, "edit": edit, "parameters": parameters},
        )
    ]


# Bins of i_tts: (low below, medium from, medium to, high above). Values in the gaps belong to no
# bin
# and are not used.
F0_BINS = {"man": (105.0, 115.0, 140.0, 152.0), "woman": (160.0, 175.0, 208.0, 224.0)}
RATE_BINS = (9.5, 10.7, 13.3, 14.6)  # phones per second without pauses
LEVEL_BINS = (-32.0, -28.0, -22.0, -19.5)  # dBFS RMS over the loud part
_AIMS = {"man": (92.0, 127.0, 172.0), "woman": (143.0, 191.0, 250.0)}


def bin_of(
    value: float, bins: tuple[float, float, float, float], names: tuple[str, str, str]
) -> str:
    """The bin's name; "" for a value between two bins."""
    low, from_, to, high = bins
    return (
        names[0]
        if value < low
        else names[1]
        if from_ <= value <= to
        else names[2]
        if value > high
        else ""
    )


def phone_rate(segments: tuple[Segment, ...] | tuple[Phone, ...]) -> float:
    """Phones per second, pauses excluded."""
    count, seconds, start = 0, 0.0, 0.0
    for s in segments:
        if s.phone != "pau":
            count, seconds = count + 1, seconds + s.end - start
        start = s.end
    return count / max(seconds, 1e-3)


def median_f0(samples: NDArray[np.floating]) -> float:
    f0, _ = f0_track(samples, 60.0, 400.0)
    return float(np.median(f0[f0 > 0])) if (f0 > 0).any() else 0.0


def i_tts(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """A recording with a random pitch, pace and level. The labels are the measured bins; values
    near a bin's edge are rejected.
    """
    while True:
        who = pick(rng, [s for s in speakers(split) if s.base != "rms"])  # rms ignores F0 targets
        voice = "woman" if who.base == "slt" else "man"
        aim = pick(rng, _AIMS[voice]) * float(rng.uniform(0.95, 1.05))
        rate = pick(rng, (0.66, 1.0, 1.42)) * float(rng.uniform(0.95, 1.05)) / who.rate
        level = pick(rng, (-36.0, -25.0, -16.0)) + float(rng.uniform(-2, 2))
        if not 0.6 < aim / who.f0 < 1.7:
            continue
        u = speak(sentences.draw_sentence(rng, split), who, aim / who.f0, rate, level, _seed(rng))
        f0_hz, pace, loud = median_f0(u.samples), phone_rate(u.segments), loud_level(u.samples)
        f0 = bin_of(f0_hz, F0_BINS[voice], ("low", "medium", "high"))
        speed = bin_of(pace, RATE_BINS, ("slow", "medium", "fast"))
        gain = bin_of(loud, LEVEL_BINS, ("quiet", "medium", "loud"))
        if f0 and speed and gain:
            break
    label = Instruction(voice, f0, speed, gain, round(f0_hz, 2), round(pace, 3), round(loud, 2))
    return [
        Draft(
            {"target": take(u)},
            {"caption": wordings.instruction(rng, voice, f0, speed, gain), "instruction": label},
        )
    ]


def s_edit(rng: Rng, split: str, shared: ShardVoices) -> list[Draft]:
    """A sentence with one or two words replaced: synthesised twice and spliced.

    The target is bit-identical to the source outside the span.
    """
    who = pick(rng, speakers(split))
    while True:
        before, after, removed, added = sentences.replace_words(rng, split)
        seed, level = _seed(rng), float(rng.uniform(-26, -20))
        a, b = (speak(text, who, level_db=None, noise_seed=seed) for text in (before, after))
        made = splice_words(a, b, level)
        if made is not None:
            break
    edit = Edit("replace", made.source_span, made.target_span, removed, added)
    source = take(a, made.source)
    target = take(Utterance(after, who.name, made.target, made.segments), made.target)
    return [Draft({"target": target, "source": source}, {"edit": edit})]


RECIPES: dict[str, Callable[[Rng, str, ShardVoices], list[Draft]]] = {
    "tts": tts,
    "vc": vc,
    "se": se,
    "tse": tse,
    "svs": svs,
    "t2s": t2s,
    "t2m": t2m,
    "a_edit": a_edit,
    "sd": sd,
    "i_tts": i_tts,
    "s_edit": s_edit,
}
