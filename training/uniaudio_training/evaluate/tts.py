"""Evaluates speech synthesis: words, phones and voices, next to the originals and the originals
through the codec.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from . import originals
from .engines import Subject
from .judges import listener, speaker_encoder
from .metrics import Errors, cosine, edit_errors, error_rate, plain_phones, words
from .recogniser import recogniser
from .rows import Row, mean, mean_row, rate_row

Samples = NDArray[np.float32]
SPOKEN, ORIGINAL, CODEC = "spoken", "original", "codec"


@dataclass(frozen=True)
class Plan:
    """The size of the evaluation.

    ``sentences`` grammar sentences in each of ``voices`` voices, ``open_sentences`` in one voice
    each, ``clone_sentences`` grammar sentences by each held-out speaker. Speaker similarity uses
    ``similar_sentences`` per voice.
    """

    sentences: int = 100
    voices: int = 10
    open_sentences: int = 200
    clone_sentences: int = 10
    similar_sentences: int = 20
    seed: int = 0

    @classmethod
    def limited(cls, limit: int, seed: int = 0) -> Plan:
        """A plan for a quick check: about ``5 * limit`` clips of each kind."""
        full = cls()
        return cls(
            min(limit, full.sentences),
            min(5, full.voices),
            min(4 * limit, full.open_sentences),
            min(max(1, limit // 3), full.clone_sentences),
            min(limit, full.similar_sentences),
            seed,
        )


@dataclass
class Trouble:
    """Clips that the model failed to make; they count as silence and are reported."""

    lines: list[str] = field(default_factory=list)

    def say(self, subject: Subject, text: str, seed: int, **who: Any) -> Samples:
        """:meth:`Subject.say`, or silence where it fails."""
        try:
            return subject.say(text, seed, **who)
        except Exception as e:  # an error on one sentence does not stop the evaluation
            self.lines.append(f"{text!r}, seed {seed}: {type(e).__name__}: {e}")
            return np.zeros(1600, np.float32)


def _versions(subject: Subject, text: str, name: str, spoken: Samples) -> dict[str, Samples]:
    """The model's clip, and, for a voice that the corpus can synthesise, the original with and
    without the codec.
    """
    clips = {SPOKEN: spoken}
    if originals.speaker(name) is not None:
        clips[ORIGINAL] = originals.original(text, name).samples
        clips[CODEC] = subject.through_codec(clips[ORIGINAL], subject.lm_codebooks)
    return clips


class _Errors:
    """Errors by version, sentence and voice."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, list[Errors]]] = defaultdict(lambda: defaultdict(list))
        self.by_voice: dict[str, list[Errors]] = defaultdict(list)

    def add(self, version: str, text: str, voice: str, errors: Errors) -> None:
        self.rows[version][text].append(errors)
        if version == SPOKEN:
            self.by_voice[voice].append(errors)

    def row(self, measure: str, **details: object) -> Row:
        flat = {v: [e for g in groups.values() for e in g] for v, groups in self.rows.items()}
        by_voice = {v: round(error_rate(e), 4) for v, e in sorted(self.by_voice.items())}
        return rate_row(
            "tts",
            measure,
            list(self.rows[SPOKEN].values()),
            "clips",
            ceiling=error_rate(flat.get(ORIGINAL, [])),
            ceiling_count=len(flat.get(ORIGINAL, [])),
            codec_ceiling=error_rate(flat.get(CODEC, [])),
            details={"by_voice": by_voice, **details},
        )


class _Similarity:
    """Cosines to the 3 s prompt of the same speaker, by version and speaker.

    For originals, also to the prompts of the other speakers.
    """

    def __init__(self, voices: list[str], seed: int) -> None:
        encoder = speaker_encoder()
        self.prompts = {
            v: encoder.embed(originals.prompt(v, seed))
            for v in voices
            if originals.speaker(v) is not None
        }
        self.same: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.different: list[float] = []

    def add(self, version: str, voice: str, samples: Samples) -> None:
        if voice not in self.prompts:
            return
        e = speaker_encoder().embed(samples)
        self.same[version][voice].append(cosine(e, self.prompts[voice]))
        if version == ORIGINAL:
            self.different += [cosine(e, p) for v, p in self.prompts.items() if v != voice]

    def row(self, measure: str) -> Row:
        """The mean over voices of the mean of each voice."""
        means = {
            version: [mean(values) for values in voices.values()]
            for version, voices in self.same.items()
        }
        row = mean_row(
            "tts",
            measure,
            [[m] for m in means[SPOKEN]],
            "voices",
            ceiling=mean(means[ORIGINAL]),
            codec_ceiling=mean(means[CODEC]),
        )
        row.ceiling_count = len(means[ORIGINAL])
        clips = sum(map(len, self.same[SPOKEN].values()))
        row.details = {
            "clips": clips,
            "originals_of_different_speakers": mean(self.different),
            "by_voice": {v: mean(x) for v, x in sorted(self.same[SPOKEN].items())},
        }
        return row


def judge(subject: Subject, plan: Plan, progress: bool = True) -> tuple[list[Row], list[str]]:
    """The rows of the report, and the errors."""
    voices = originals.choose_voices(subject.voices(), plan.voices)
    trouble = Trouble()
    rows = _grammar(subject, plan, voices, trouble, progress)
    rows += _open(subject, plan, voices, trouble, progress)
    rows += _clones(subject, plan, trouble, progress)
    return rows, trouble.lines


def _grammar(
    subject: Subject, plan: Plan, voices: list[str], trouble: Trouble, progress: bool
) -> list[Row]:
    texts = originals.grammar_sentences(plan.sentences, plan.seed)
    heard, similar = _Errors(), _Similarity(voices, plan.seed)
    pace: list[float] = []
    pairs = [(i, text, v, voice) for i, text in enumerate(texts) for v, voice in enumerate(voices)]
    for i, text, v, voice in tqdm(
        pairs, desc="grammar sentences", unit="clip", disable=not progress
    ):
        spoken = trouble.say(subject, text, originals.item_seed(plan.seed, 0, i, v), voice=voice)
        clips = _versions(subject, text, voice, spoken)
        if ORIGINAL in clips:
            pace.append(len(spoken) / len(clips[ORIGINAL]))
        for version, clip in clips.items():
            heard.add(version, text, voice, edit_errors(words(text), listener(True)(clip)))
            if i < plan.similar_sentences:
                similar.add(version, voice, clip)
    rows = [heard.row("grammar WER", length_to_original=mean(pace))]
    return [*rows, similar.row("speaker similarity")] if similar.prompts else rows


def _open(
    subject: Subject, plan: Plan, voices: list[str], trouble: Trouble, progress: bool
) -> list[Row]:
    texts = originals.open_sentences(plan.open_sentences, plan.seed)
    heard, phones, front = _Errors(), _Errors(), _Errors()
    for i, text in enumerate(tqdm(texts, desc="open sentences", unit="clip", disable=not progress)):
        voice = voices[i % len(voices)]
        spoken = trouble.say(subject, text, originals.item_seed(plan.seed, 1, i), voice=voice)
        asked = subject.asked_phones(text)
        recorded = asked
        if originals.speaker(voice) is not None:
            recorded = plain_phones([s.phone for s in originals.original(text, voice).segments])
            front.add(SPOKEN, text, voice, edit_errors(recorded, asked))
        for version, clip in _versions(subject, text, voice, spoken).items():
            said = asked if version == SPOKEN else recorded
            phones.add(version, text, voice, edit_errors(said, recogniser().hear(clip)))
            if i < (plan.open_sentences + 1) // 2:  # recognition with an open vocabulary is slow
                heard.add(version, text, voice, edit_errors(words(text), listener(False)(clip)))
    rows = [heard.row("open WER"), phones.row("phone error")]
    if front.rows:
        row = front.row("front-end phone error")
        row.ceiling, row.details = (
            0.0,
            {**row.details, "reference": "the phones that flite says for the same text"},
        )
        rows.append(row)
    return rows


def _clones(subject: Subject, plan: Plan, trouble: Trouble, progress: bool) -> list[Row]:
    """Voice cloning: speakers unseen in training, from a 3 s prompt."""
    names = [s.name for s in originals.HELD_OUT]
    heard, similar = _Errors(), _Similarity(names, plan.seed)
    texts = originals.grammar_sentences(plan.sentences + plan.clone_sentences, plan.seed)[
        -plan.clone_sentences :
    ]
    pairs = [(i, text, v, name) for i, text in enumerate(texts) for v, name in enumerate(names)]
    for i, text, v, name in tqdm(pairs, desc="cloned speakers", unit="clip", disable=not progress):
        spoken = trouble.say(
            subject,
            text,
            originals.item_seed(plan.seed, 2, i, v),
            prompt=originals.prompt(name, plan.seed),
        )
        for version, clip in _versions(subject, text, name, spoken).items():
            heard.add(version, text, name, edit_errors(words(text), listener(True)(clip)))
            similar.add(version, name, clip)
    return [heard.row("grammar WER, cloned"), similar.row("speaker similarity, cloned")]
