"""What the filters learn from: speech that is mixed anew for each crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from uniaudio_engine import Engine
from uniaudio_engine.audio.level import gain_to
from uniaudio_engine.request.postfilter import heard_voice

from ..corpus import degrade
from ..corpus.derive import Material
from ..corpus.reading import CorpusError, Example, Examples
from ..corpus.schema import SAMPLE_RATE

LEVEL = -24.0  # dBFS of what is mixed, as of the corpora
LEVEL_DB = 6.0  # of random gain, either way
_LEAST_HALF = 0.7  # seconds of sound, of a recording whose speaker is not known
_SOUND_DB = -35.0  # of a frame below the loudest, from which on it is sound
_FRAME = SAMPLE_RATE // 50  # samples
_BEFORE = SAMPLE_RATE  # samples, of speech in a room before a crop
_NOISY_ROOMS = 0.25  # share of rooms with noise
_ALIKE = 0.75  # share of mixtures of one corpus
_MOST_HEARD = 5 * SAMPLE_RATE  # samples of a recording that says what a voice sounds like
_PROMPTS = 24  # recordings of a speaker that are used as the voice to keep
_WARP = 0.16  # the largest natural logarithm of a factor of pitch, formants and pace
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Mixture:
    """float32 [N] at the level that the filter hears; ``voice`` [M]: the voice to keep, or empty."""

    source: Floats
    target: Floats
    voice: Floats


class Mixtures(Protocol):
    """Draws mixtures of ``samples`` samples, and ``voice`` samples of the voice to keep."""

    def draw(self, rng: np.random.Generator, samples: int, voice: int) -> Mixture: ...


class NoisySpeech:
    """Recordings with noise over them, at signal-to-noise ratios between two limits in dB, or in a
    simulated room; ``rooms``: the share of those. In a quarter of the rooms there is noise, too.
    """

    def __init__(
        self,
        speech: Sequence[Examples],
        sounds: Sequence[Examples],
        snr: tuple[float, float],
        rooms: float,
    ) -> None:
        self.materials, self.snr, self.rooms = [Material(s, sounds) for s in speech], snr, rooms
        self.shares = _shares([len(m.by) for m in self.materials])

    def draw(self, rng: np.random.Generator, samples: int, voice: int) -> Mixture:
        material = self.materials[int(rng.choice(len(self.materials), p=self.shares))]
        example = material.draw(rng)
        in_room = rng.random() < self.rooms
        before = _BEFORE * in_room  # what was said before still sounds
        target = _crop(rng, example.audio(), samples + before)
        source: Floats = target
        if in_room:
            both = degrade.reverberate(target, degrade.room(rng))
            target, source = (x[before:] / np.float32(32767) for x in both)
        if not in_room or rng.random() < _NOISY_ROOMS:
            noise, _, _ = material.noise(rng, samples, example.track().speaker)
            source = source + _at(noise.astype(np.float32), target, rng.uniform(*self.snr))
        gain = np.float32(gain_to(source, SAMPLE_RATE, _level(rng)))
        return Mixture(source * gain, target * gain, np.zeros(0, np.float32))


@dataclass(frozen=True)
class Piece:
    """The samples of a recording from ``start`` on, up to ``stop``."""

    example: Example
    start: int
    stop: int

    def pcm(self) -> NDArray[np.int16]:
        return self.example.pcm()[self.start : self.stop]


def voices_of(speech: Examples) -> list[list[Piece]]:
    """The recordings of each speaker that has two, and the halves of each recording whose speaker is
    not known.
    """
    voices = []
    for speaker, found in sorted(Material(speech, ()).by.items()):
        pieces = [Piece(speech[i], 0, speech[i].track().samples) for i in found]
        if speaker:
            voices += [pieces] * (len(pieces) > 1)
            continue
        voices += [both for piece in pieces if (both := _halves(piece))]
    return voices


def _halves(piece: Piece) -> list[Piece]:
    """Two parts of a recording with as much sound each; none where there is too little of it."""
    frames = piece.pcm().astype(np.float64)
    frames = frames[: len(frames) // _FRAME * _FRAME].reshape(-1, _FRAME)
    energy = (frames**2).sum(1)
    sound = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (_SOUND_DB / 10))
    if len(sound) * _FRAME < 2 * _LEAST_HALF * SAMPLE_RATE:
        return []
    first, middle, last = (
        piece.start + int(f) * _FRAME for f in (sound[0], sound[len(sound) // 2], sound[-1] + 1)
    )
    return [replace(piece, start=first, stop=middle), replace(piece, start=middle, stop=last)]


@dataclass(frozen=True)
class _Group:
    """The voices of a corpus by their numbers, and how often each is drawn."""

    voices: NDArray[np.int64]
    shares: NDArray[np.float64]
    recordings: float

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.choice(self.voices, p=self.shares))


class TwoVoices:
    """Two speakers at once, and another recording of the one to keep.

    A corpus is drawn as often as the square root of the number of its recordings says, then a speaker
    likewise. Mostly both are of one corpus: microphones and rooms alike are harder to tell apart.
    A recording whose speaker is not known is a voice of its own: one half says what the other half
    sounds like. Both speakers are
    warped by factors of their own, so that there are more voices than speakers. The voice
    to keep went through the codec, as the engine hears it. ``alone``: share without a second
    speaker; ``absent``: share with the second one alone; ``noisy``: share with noise over both.
    """

    def __init__(
        self,
        speech: Sequence[Examples],
        sounds: Sequence[Examples],
        snr: tuple[float, float],
        engine: Engine,
        alone: float,
        absent: float,
        noisy: float,
    ) -> None:
        """Raises CorpusError unless there are two speakers with two recordings each."""
        self.voices: list[list[Piece]] = []
        self.groups: list[_Group] = []
        for examples in speech:
            first = len(self.voices)
            self.voices += voices_of(examples)
            counts = np.array([len(v) for v in self.voices[first:]])
            if len(counts):
                ids = np.arange(first, len(self.voices))
                self.groups.append(_Group(ids, _shares(counts**0.5), float(counts.sum())))
        if len(self.voices) < 2:
            raise CorpusError("a voice filter needs two speakers with two recordings each")
        self.shares = _shares([g.recordings**0.5 for g in self.groups])
        self.sounds, self.snr, self.engine = sounds, snr, engine
        self.alone, self.absent, self.noisy = alone, absent, noisy
        self._heard_voices: dict[tuple[int, int], NDArray[np.int16]] = {}

    def draw(self, rng: np.random.Generator, samples: int, voice: int) -> Mixture:
        mine, others = self._both(rng)
        i, k = self._two(rng, mine)
        clip = self.voices[mine][i]
        warp = _warp(rng)
        target = _warped(rng, clip.pcm(), samples, warp)
        wanted = _warped(rng, self._heard(mine, k), voice, warp)
        other = np.zeros(samples, np.float32)
        if rng.random() >= self.alone:
            theirs = self.voices[others]
            clip = theirs[int(rng.integers(len(theirs)))]
            other = _warped(rng, clip.pcm(), samples, _warp(rng))
        other = _at(other, target, rng.uniform(*self.snr))
        source = target + other
        if len(self.sounds) and rng.random() < self.noisy:
            group = self.sounds[int(rng.integers(len(self.sounds)))]
            sound = group[int(rng.integers(len(group)))].audio()
            noise = degrade.loop(rng, samples, sound).astype(np.float32)
            source = source + _at(noise, source, rng.uniform(5.0, 25.0))
        if other.any() and rng.random() < self.absent:
            source, target = source - target, np.zeros_like(target)
        gain = np.float32(gain_to(source, SAMPLE_RATE, _level(rng)))
        level = np.float32(gain_to(wanted, SAMPLE_RATE, _level(rng)))
        return Mixture(source * gain, target * gain, wanted * level)

    def pairs(self, rng: np.random.Generator, count: int, samples: int) -> Floats:
        """Two recordings each of ``count`` voices, float32 [2, count, samples]."""
        out = np.zeros((2, count, samples), np.float32)
        few = count > len(self.voices)
        for i, n in enumerate(rng.choice(len(self.voices), count, replace=few)):
            warp = _warp(rng)
            for row, k in zip(out[:, i], self._two(rng, int(n)), strict=True):
                sound = _warped(rng, self.voices[int(n)][k].pcm(), samples, warp)
                if rng.random() < 0.3:
                    noise = rng.standard_normal(samples).astype(np.float32)
                    sound = sound + noise * np.float32(10 ** rng.uniform(-4, -2))
                row[:] = sound * np.float32(gain_to(sound, SAMPLE_RATE, _level(rng)))
        return out

    def _both(self, rng: np.random.Generator) -> tuple[int, int]:
        """Two voices."""
        group = self.groups[int(rng.choice(len(self.groups), p=self.shares))]
        mine = other = group.draw(rng)
        alike = len(group.voices) > 1 and (len(self.groups) == 1 or rng.random() < _ALIKE)
        while other == mine:
            if not alike:
                group = self.groups[int(rng.choice(len(self.groups), p=self.shares))]
            other = group.draw(rng)
        return mine, other

    def _two(self, rng: np.random.Generator, voice: int) -> tuple[int, int]:
        """Another recording of a voice, and one of the few that say what it sounds like."""
        count = len(self.voices[voice])
        k = int(rng.integers(min(_PROMPTS, count)))
        return (k + 1 + int(rng.integers(count - 1))) % count, k

    def _heard(self, voice: int, k: int) -> NDArray[np.int16]:
        key = voice, k
        if key not in self._heard_voices:
            said = self.voices[voice][k].pcm()[:_MOST_HEARD] / np.float32(32767)
            self._heard_voices[key] = through_codec(self.engine, said)
        return self._heard_voices[key]


def through_codec(engine: Any, samples: Floats) -> NDArray[np.int16]:
    """A voice prompt as the engine's filter hears it."""
    codes = engine.encode_voice((samples, SAMPLE_RATE)).codes.T
    return degrade.to_pcm(heard_voice(engine.model, codes))


def _shares(counts: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(counts) / np.sum(counts)


def _level(rng: np.random.Generator) -> float:
    return LEVEL + rng.uniform(-LEVEL_DB, LEVEL_DB)


def _warp(rng: np.random.Generator) -> float:
    """A factor of pitch, formants and pace; often none."""
    return float(np.exp(rng.uniform(-_WARP, _WARP))) if rng.random() < 0.7 else 1.0


def _crop(rng: np.random.Generator, clip: Floats, samples: int) -> Floats:
    at = int(rng.integers(max(1, len(clip) - samples + 1)))
    cut = clip[at : at + samples]
    return np.pad(cut, (0, samples - len(cut)))


def _warped(
    rng: np.random.Generator, pcm: NDArray[np.int16], samples: int, warp: float
) -> NDArray[np.float32]:
    """A crop of a recording that is played ``warp`` times as fast; repeated where it is too short."""
    need = round(samples * warp) + 32
    at = int(rng.integers(max(1, len(pcm) - need + 1)))
    cut = np.resize(pcm[at : at + need], need).astype(np.float32) / np.float32(32767)
    if warp != 1.0:
        cut = soxr.resample(cut, SAMPLE_RATE * warp, SAMPLE_RATE, quality="QQ")
    return np.pad(cut[:samples], (0, max(0, samples - len(cut))))


def _at(sound: NDArray[np.float32], beside: NDArray[np.float32], snr: float) -> NDArray[np.float32]:
    """``sound`` at a level of ``snr`` dB below that of ``beside``; as it is where that is silent."""
    power, own = float((beside**2).sum()), float((sound**2).sum())
    if power < 1e-6 or own < 1e-9:
        return sound
    return sound * np.float32(np.sqrt(power / own) * 10 ** (-snr / 20))
