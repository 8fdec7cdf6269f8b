"""Test cases and metrics of the eleven tasks.

A ``Judge`` turns examples into cases: a request for ``Engine.generate``, the true answer, and the
floor. It also turns an answer into measurements. All answers are measured alike:

- the model's
- the truth
- the ceiling: the truth through the codec
- the floor: the unchanged input, or another item of the split for tasks that generate from text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus import recipes
from ..corpus.degrade import mix_at
from ..corpus.reading import Example, Examples
from ..corpus.schema import Label, Track
from ..corpus.sentences import GRAMMAR_WORDS
from ..corpus.speech import loud_level
from . import signals
from .classifiers import NONE, classifier
from .judges import estoi, listener, pesq_wb, speaker_encoder
from .metrics import Moments, cosine, edit_errors, log_mel, log_mel_distance, plain_phones, words
from .recogniser import recogniser

Samples = NDArray[np.float32]
Measurements = Iterator[tuple[str, Any]]
RATE = 16000
FRAME = 320  # samples; edits are requested in whole frames of the bundled codecs
_KNOWN = frozenset(GRAMMAR_WORDS)


@dataclass
class Case:
    """One request, and the data to evaluate its answer. All samples are float32 [N] at 16 kHz.

    ``item`` is the unit that the bootstrap resamples. ``outside``: samples of the source kept at
    the beginning and the end (edits). ``ceiling``: the truth through the codec, set by a caller
    that has a codec.
    """

    item: str
    request: dict[str, Any]
    label: Label
    truth: Samples
    floor: Samples
    source: Samples | None = None
    prompt: Samples | None = None
    condition: str = ""
    outside: tuple[int, int] = (0, 0)
    ceiling: Samples | None = None
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Track:
        return self.label.tracks["target"]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Caches a value that is the same for every answer to this case."""
        if name not in self.memo:
            self.memo[name] = make()
        return self.memo[name]

    def voice_of(self, name: str, samples: Samples) -> NDArray[np.float32]:
        return self.once(f"voice of {name}", lambda: speaker_encoder().embed(samples))


def in_grammar(text: str) -> bool:
    """Whether the corpus grammar covers these words, so that the grammar recogniser can be used."""
    return set(words(text)) <= _KNOWN


def choose(examples: Examples, count: int) -> list[Example]:
    """``count`` examples spread evenly over the split.

    For speech, half of them are the grammar's where there are enough.
    """
    every = list(examples)
    easy = [e for e in every if e.track().text and in_grammar(e.track().text)]
    share = min(len(easy), max(count - (len(every) - len(easy)), count // 2)) if easy else 0
    taken = {e.id for e in easy}
    rest = [e for e in every if e.id not in taken]

    def spread(items: list[Example], n: int) -> list[Example]:
        return [
            items[int(i)]
            for i in np.unique(
                np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)
            )
        ]

    return sorted(spread(easy, share) + spread(rest, count - share), key=lambda e: e.id)


def fit(samples: Samples, count: int) -> Samples:
    """Truncated or zero-padded to ``count`` samples."""
    return np.pad(samples[:count], (0, max(0, count - len(samples)))).astype(np.float32)


def _case(e: Example, request: dict[str, Any], floor: Samples, **more: Any) -> Case:
    have: dict[str, Any] = {
        role: e.audio(role) for role in ("source", "prompt") if role in e.roles and role not in more
    }
    return Case(e.id, request, e.label, e.audio(), floor, **have, **more)


def _other(chosen: Sequence[Example], i: int) -> Samples:
    """The recording of an example half the list away, by another speaker where there is one."""
    n = len(chosen)
    places = [(i + n // 2 + k) % n for k in range(n)]
    mine = chosen[i].track().speaker
    return next(
        (chosen[p] for p in places if p != i and (not mine or chosen[p].track().speaker != mine)),
        chosen[places[0]],
    ).audio()


def _sound(samples: Samples) -> tuple[Samples, int]:
    return samples, RATE


# Speech: words, voices, and similarity to the clean recording


def _words_heard(case: Case, sound: Samples, after: str = "") -> Measurements:
    """Word errors against the grammar for a sentence of the grammar, else phone errors."""
    if in_grammar(case.target.text):
        yield f"grammar WER{after}", edit_errors(words(case.target.text), listener(True)(sound))
    elif case.target.phones:
        yield (
            f"phone error{after}",
            edit_errors(
                plain_phones([p.phone for p in case.target.phones]), recogniser().hear(sound)
            ),
        )


def _likeness(case: Case, sound: Samples, after: str = "") -> Measurements:
    """ESTOI and PESQ, against the truth through the codec (the best that is attainable) and against
    the truth.
    """
    assert case.source is not None
    source = case.source
    for name, reference in (("", case.ceiling), (", against the clean recording", case.truth)):
        if reference is None:
            continue
        answer = fit(sound, len(reference))
        value = estoi(reference, answer)
        before = case.once(f"ESTOI{name}", partial(estoi, reference, source))
        yield f"ESTOI gain{after}{name}", value - before
        yield f"ESTOI{after}{name}", value
        yield f"PESQ{after}{name}", pesq_wb(reference, answer)


def _tts_cases(chosen: list[Example]) -> Iterator[Case]:
    for i, e in enumerate(chosen):
        yield _case(
            e, {"text": e.track().text, "prompt": _sound(e.audio("prompt"))}, _other(chosen, i)
        )


def _tts(case: Case, sound: Samples) -> Measurements:
    assert case.prompt is not None
    yield from _words_heard(case, sound)
    yield (
        "speaker similarity",
        cosine(speaker_encoder().embed(sound), case.voice_of("prompt", case.prompt)),
    )


def _vc_cases(chosen: list[Example]) -> Iterator[Case]:
    for e in chosen:
        yield _case(
            e,
            {"source": _sound(e.audio("source")), "prompt": _sound(e.audio("prompt"))},
            e.audio("source"),
        )


def _vc(case: Case, sound: Samples) -> Measurements:
    assert case.prompt is not None and case.source is not None
    yield from _words_heard(case, sound)
    voice = speaker_encoder().embed(
        sound
    )  # same words at the same pace: source and target differ in the voice alone
    yield (
        "cosine to target - to source",
        cosine(voice, case.voice_of("target", case.truth))
        - cosine(voice, case.voice_of("source", case.source)),
    )
    yield "speaker similarity", cosine(voice, case.voice_of("prompt", case.prompt))


_LOUD, _SOFT = "0 dB", "10 dB"


def _se_cases(chosen: list[Example]) -> Iterator[Case]:
    """The corpus noise of each example (source - target), remixed at exactly 0 dB, and at 10 dB for
    the word error rate.
    """
    for e in chosen:
        noise = e.pcm("source").astype(np.float64) - e.pcm().astype(np.float64)
        for condition, snr in ((_LOUD, 0.0), (_SOFT, 10.0)):
            if condition == _SOFT and not in_grammar(e.track().text):
                continue
            made = mix_at(e.audio(), noise, snr)
            clean, mixed = (x.astype(np.float32) / np.float32(32767) for x in made)
            yield Case(
                e.id, {"source": _sound(mixed)}, e.label, clean, mixed, mixed, condition=condition
            )


def _se(case: Case, sound: Samples) -> Measurements:
    if case.condition == _SOFT:
        yield from _words_heard(case, sound, f" at {_SOFT}")
    else:
        yield from _likeness(case, sound, f" at {_LOUD}")


def _tse_cases(chosen: list[Example]) -> Iterator[Case]:
    for e in chosen:
        yield _case(
            e,
            {"source": _sound(e.audio("source")), "prompt": _sound(e.audio("prompt"))},
            e.audio("source"),
        )


def _tse(case: Case, sound: Samples) -> Measurements:
    assert case.prompt is not None and case.source is not None
    voice = speaker_encoder().embed(sound)
    interferer = case.voice_of("interferer", case.source - case.truth)
    yield (
        "cosine to target - to interferer",
        cosine(voice, case.voice_of("target", case.truth)) - cosine(voice, interferer),
    )
    yield "speaker similarity", cosine(voice, case.voice_of("prompt", case.prompt))
    yield from _likeness(case, sound)
    yield from _words_heard(case, sound)


def _sd_cases(chosen: list[Example]) -> Iterator[Case]:
    for e in chosen:
        yield _case(e, {"source": _sound(e.audio("source"))}, e.audio("source"))


def _sd(case: Case, sound: Samples) -> Measurements:
    yield from _likeness(case, sound)
    yield from _words_heard(case, sound)


def score(label: Label) -> list[tuple[int, float, str]]:
    """The notes of a song in the engine's format: (pitch, seconds, word); a rest has pitch 0."""
    notes: list[tuple[int, float, str]] = []
    now = 0.0
    for n in label.notes:
        if n.start - now >= 0.02:
            notes.append((0, n.start - now, ""))
            now = n.start
        notes.append((n.pitch, n.start + n.duration - now, n.lyric))
        now = n.start + n.duration
    rest = label.tracks["target"].seconds - now
    return [*notes, (0, rest, "")] if rest >= 0.02 else notes


def _svs_cases(chosen: list[Example]) -> Iterator[Case]:
    for i, e in enumerate(chosen):
        yield _case(
            e, {"score": score(e.label), "prompt": _sound(e.audio("prompt"))}, _other(chosen, i)
        )


def _svs(case: Case, sound: Samples) -> Measurements:
    assert case.prompt is not None
    f0 = signals.song_f0(sound)
    for hit in signals.notes_hit(f0, case.label.notes):
        yield "notes within 50 cents", float(hit)
    yield "F0 error in cents", signals.melody_cents(f0, case.label.notes, case.label.vibrato)
    yield from _words_heard(case, sound)
    yield (
        "speaker similarity",
        cosine(speaker_encoder().embed(sound), case.voice_of("prompt", case.prompt)),
    )


def _i_tts_cases(chosen: list[Example]) -> Iterator[Case]:
    for i, e in enumerate(chosen):
        yield _case(e, {"instruction": e.label.caption, "text": e.track().text}, _other(chosen, i))


def _i_tts(case: Case, sound: Samples) -> Measurements:
    want = case.label.instruction
    assert want is not None
    spoken = sum(p.phone != "pau" for p in case.target.phones) / max(
        signals.speech_seconds(sound), 1e-3
    )
    right = {
        "F0": recipes.bin_of(
            recipes.median_f0(sound), recipes.F0_BINS[want.voice], ("low", "medium", "high")
        )
        == want.f0,
        "rate": recipes.bin_of(spoken, recipes.RATE_BINS, ("slow", "medium", "fast")) == want.rate,
        "gain": recipes.bin_of(loud_level(sound), recipes.LEVEL_BINS, ("quiet", "medium", "loud"))
        == want.gain,
    }
    for name, ok in right.items():
        yield "instruction bins right", float(ok)
        yield f"{name} right", float(ok)
    yield from _words_heard(case, sound)


# Edits


def _outwards(start: int, end: int, count: int) -> tuple[int, int]:
    return start // FRAME * FRAME, min(count, -(-end // FRAME) * FRAME)


def _s_edit_cases(chosen: list[Example]) -> Iterator[Case]:
    """The span covers the removed words, as a user would mark it by ear; the text is the added
    words.
    """
    for e in chosen:
        edit, source = e.label.edit, e.audio("source")
        assert edit is not None
        old = _inside(e.track("source"), edit.source.start, edit.source.end)
        start, end = _outwards(round(old[0] * RATE), round(old[1] * RATE), len(source))
        kept = _outwards(edit.source.start, edit.source.end, len(source))
        case = _case(
            e,
            {"source": _sound(source), "span": (start / RATE, end / RATE), "text": edit.added},
            source,
        )
        case.outside = (min(start, kept[0]), len(source) - max(end, kept[1]))
        yield case


def _inside(track: Track, start: int, end: int) -> tuple[float, float]:
    """Begin and end in s of the words within samples [start, end): the ones that were replaced."""
    found = [w for w in track.words if start / RATE <= w.start and w.end <= end / RATE]
    return (found[0].start, found[-1].end) if found else (start / RATE, end / RATE)


def _s_edit(case: Case, sound: Samples) -> Measurements:
    edit, track = case.label.edit, case.target
    assert edit is not None and case.source is not None
    if in_grammar(track.text):
        said, new = words(track.text), words(edit.added)
        old = words(case.label.tracks["source"].text)
        first = next((i for i, (a, b) in enumerate(zip(said, old, strict=False)) if a != b), 0)
        yield (
            "WER of the new words",
            edit_errors(said, listener(True)(sound), first, first + len(new)),
        )
    else:
        begin, end = _inside(track, edit.target.start, edit.target.end)
        spoken = [p for p in track.phones if p.phone != "pau"]
        at = [i for i, p in enumerate(spoken) if begin + 1e-4 < p.end <= end + 1e-4]
        said = plain_phones([p.phone for p in spoken])
        yield (
            "phone error of the new words",
            edit_errors(said, recogniser().hear(sound), at[0], at[-1] + 1),
        )
    head, tail = case.outside
    same = int((fit(sound[:head], head) == case.source[:head]).sum())
    if tail:
        same += int((fit(sound[-tail:], tail) == case.source[-tail:]).sum())
    yield "samples outside bit-exact", (same, head + tail)


_EVENT = ("add", "drop", "replace")


def _a_edit_cases(chosen: list[Example]) -> Iterator[Case]:
    for e in chosen:
        edit, source = e.label.edit, e.audio("source")
        assert edit is not None
        start, end = _outwards(edit.source.start, edit.source.end, len(source))
        request: dict[str, Any] = {"instruction": e.label.caption, "source": _sound(source)}
        if (start, end) != (0, len(source)):
            request["span"] = (start / RATE, end / RATE)
        yield _case(
            e, request, source, outside=(start, len(source) - end), condition=edit.operation
        )


def _a_edit(case: Case, sound: Samples) -> Measurements:
    edit = case.label.edit
    assert edit is not None and case.source is not None
    span = slice(*edit.target)
    sound = fit(sound, len(case.source))
    if edit.operation in _EVENT:
        heard = classifier("event")(sound[span])
        right = float(heard == (case.label.parameters.get("added", NONE)))
        yield "event right", right
        yield f"event right, {edit.operation}", right
    else:
        yield (
            f"log-mel distance in dB, {edit.operation}",
            log_mel_distance(case.truth[span], sound[span], RATE),
        )
    head, tail = case.outside
    if head or tail:
        apart = np.abs(sound - case.source)
        yield (
            "largest change outside the span",
            float(max(apart[:head].max(initial=0.0), apart[len(apart) - tail :].max(initial=0.0))),
        )


# Sounds and music


def _caption_cases(chosen: list[Example]) -> Iterator[Case]:
    for i, e in enumerate(chosen):
        yield _case(
            e,
            {"text": e.label.caption, "seconds": round(e.track().samples / FRAME) * FRAME / RATE},
            _other(chosen, i),
        )


def _t2s(case: Case, sound: Samples) -> Measurements:
    asked = case.label.parameters
    yield "class", float(classifier("sound")(sound) == asked["class"])
    for fact, followed in signals.sound_facts(asked, sound).items():
        yield "count and pitch followed", float(followed)
        yield f"{fact} followed", float(followed)
    yield FRECHET, Moments.of(log_mel(sound, RATE))


def _t2m(case: Case, sound: Samples) -> Measurements:
    asked = case.label.parameters
    yield "instrument", float(classifier("instrument")(sound) == asked["instrument"])
    right = float(abs(signals.tempo(sound) / asked["tempo"] - 1) <= 0.05)
    yield "tempo within 5 %", right
    yield f"tempo within 5 %, {'with' if asked['drums'] else 'without'} drums", right
    yield FRECHET, Moments.of(log_mel(sound, RATE))


FRECHET = "Fréchet log-mel distance"


@dataclass(frozen=True)
class Judge:
    """How a task is evaluated.

    ``finish`` "span": the answer equals the source in the samples of ``Case.outside``.
    """

    cases: Callable[[list[Example]], Iterator[Case]]
    measure: Callable[[Case, Samples], Measurements]
    floor: str
    finish: str = ""


_AS_IT_IS, _ANOTHER = "the input as it is", "another item of the split"
JUDGES: dict[str, Judge] = {
    "tts": Judge(_tts_cases, _tts, _ANOTHER),
    "vc": Judge(_vc_cases, _vc, _AS_IT_IS),
    "se": Judge(_se_cases, _se, _AS_IT_IS),
    "tse": Judge(_tse_cases, _tse, _AS_IT_IS),
    "svs": Judge(_svs_cases, _svs, _ANOTHER),
    "t2s": Judge(_caption_cases, _t2s, _ANOTHER),
    "t2m": Judge(_caption_cases, _t2m, _ANOTHER),
    "a_edit": Judge(_a_edit_cases, _a_edit, _AS_IT_IS, "span"),
    "sd": Judge(_sd_cases, _sd, _AS_IT_IS),
    "i_tts": Judge(_i_tts_cases, _i_tts, _ANOTHER),
    "s_edit": Judge(_s_edit_cases, _s_edit, _AS_IT_IS, "span"),
}
