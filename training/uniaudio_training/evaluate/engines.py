"""The subjects of an evaluation: a model folder through the public engine, a codec training run, or
a fake.

The fakes calibrate the metrics. One speaks with flite itself and must score like the originals.
The others return noise, or the unchanged input, and must fail. A metric that does not separate them
is useless.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..corpus.schema import TASKS
from ..corpus.speech import SPEAKERS, speak
from . import originals
from .judges import at_16k
from .metrics import plain_phones

SPOKEN = ("tts",)  # tasks of the fakes without a task list


class Sound(Protocol):
    samples: NDArray[np.float32]
    sample_rate: int


class Judged(Protocol):
    """The part of the public engine that the evaluation uses."""

    def generate(self, task: str, **inputs: Any) -> Sound: ...

    def encode(self, audio: Any) -> NDArray[np.int32]: ...

    def decode(self, codes: Any) -> Sound: ...

    def voices(self) -> list[str]: ...


@dataclass
class _Sound:
    samples: NDArray[np.float32]
    sample_rate: int = 16000
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A model under evaluation.

    ``lm_codebooks`` is how many of its ``codebooks`` the LM uses; 0: there is no LM. ``folder`` has its
    weights; None: it is a fake.
    """

    name: str
    engine: Judged
    codebooks: int
    codebook_size: int
    lm_codebooks: int
    sample_rate: int = 16000
    folder: Path | None = None

    def say(
        self,
        text: str,
        seed: int,
        voice: str | None = None,
        prompt: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The model's speech, float32 [N] at 16 kHz, in one of its voices or cloned from a prompt
        (float32 at 16 kHz).

        A voice that the model folder lacks (:meth:`voices`) is cloned from its 3 s prompt.
        """
        if prompt is None and voice is not None and voice not in self.engine.voices():
            prompt = originals.prompt(voice)
        who = {"voice": voice} if prompt is None else {"prompt": (prompt, 16000)}
        sound = self.engine.generate("tts", text=text, seed=seed, **who)
        return at_16k(sound.samples, sound.sample_rate)

    def make(self, task: str, requests: Sequence[dict[str, Any]]) -> list[NDArray[np.float32]]:
        """The answers to several requests of one task, float32 at 16 kHz; batched where the engine
        can.
        """
        together = getattr(self.engine, "generate_batch", None)
        if together is not None:
            sounds = together(requests, task=task)
        else:
            sounds = [self.engine.generate(task, **r) for r in requests]
        return [at_16k(s.samples, s.sample_rate) for s in sounds]

    def tasks(self) -> list[str]:
        """Names of the tasks that the model supports."""
        if isinstance(self.engine, CodecRun) or not self.lm_codebooks:
            return []
        known = getattr(self.engine, "tasks", None)
        return list(SPOKEN) if known is None else [t["name"] for t in known()]

    def voices(self) -> list[str]:
        """The model's voices; for a model without any, the speakers of its training data."""
        return self.engine.voices() or [s.name for s in SPEAKERS if s.split == "train"]

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """float32 [N] at 16 kHz -> codes [K, T]."""
        return np.asarray(self.engine.encode((samples, 16000)))

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        sound = self.engine.decode(codes)
        return at_16k(sound.samples, sound.sample_rate)

    def through_codec(
        self, samples: NDArray[np.float32], num_codebooks: int
    ) -> NDArray[np.float32]:
        return self.decode(self.encode(samples)[:num_codebooks])

    def asked_phones(self, text: str) -> list[str]:
        """The phones that the model's front end makes of the text, without stress and pauses."""
        own = getattr(self.engine, "asked_phones", None)
        if own is not None:
            return plain_phones(own(text))
        from uniaudio_engine.text import phonemize

        return plain_phones([p for sentence in phonemize(text) for p in sentence.phones])


class FliteEngine:
    """Speaks with the corpus voices. Its codec adds noise, less with more codebooks."""

    CODEBOOKS, LM_CODEBOOKS, SIZE, FRAME = 8, 4, 1024, 320

    def __init__(self) -> None:
        self._kept: dict[bytes, NDArray[np.float32]] = {}

    def generate(self, task: str, **inputs: Any) -> Sound:
        text, voice, prompt = inputs.get("text", ""), inputs.get("voice"), inputs.get("prompt")
        if prompt is not None:  # looks the prompt up among the known ones
            voice = next(
                s.name
                for s in originals.HELD_OUT
                if np.array_equal(originals.prompt(s.name), prompt[0])
            )
        who = next(s for s in SPEAKERS if s.name == voice)
        seed = inputs.get("seed", 0)
        rng = np.random.default_rng(seed)
        u = speak(
            text,
            who,
            f0_scale=float(rng.uniform(0.98, 1.02)),
            rate_scale=float(rng.uniform(0.97, 1.03)),
            noise_seed=seed,
        )
        return _Sound(u.samples)

    def asked_phones(self, text: str) -> list[str]:
        return [s.phone for s in originals.original(text, "slt-102-163").segments]

    def encode(self, audio: Any) -> NDArray[np.int32]:
        samples = np.asarray(audio[0], np.float32)
        rng = np.random.default_rng(zlib.crc32(samples.tobytes()))
        codes = rng.integers(
            self.SIZE, size=(self.CODEBOOKS, -(-len(samples) // self.FRAME))
        ).astype(np.int32)
        for k in range(1, self.CODEBOOKS + 1):
            self._kept[codes[:k].tobytes()] = samples
        return codes

    def decode(self, codes: Any) -> Sound:
        x = self._kept[np.ascontiguousarray(codes, np.int32).tobytes()]
        noise = (
            np.random.default_rng(1).standard_normal(len(x))
            * x.std()
            * 10 ** (-(20 + 3 * len(codes)) / 20)
        )
        return _Sound((x + noise).astype(np.float32))

    def voices(self) -> list[str]:
        return [s.name for s in SPEAKERS if s.split == "train"]


class NoiseEngine(FliteEngine):
    """White noise of the right length for every request."""

    def generate(self, task: str, **inputs: Any) -> Sound:
        length = 16000 + 800 * len(inputs.get("text", ""))
        return _Sound(self._noise(length, inputs.get("seed", 0)))

    def encode(self, audio: Any) -> NDArray[np.int32]:
        return np.zeros((self.CODEBOOKS, -(-len(audio[0]) // self.FRAME)), np.int32)

    def decode(self, codes: Any) -> Sound:
        return _Sound(self._noise(np.shape(codes)[1] * self.FRAME, 1))

    @staticmethod
    def _noise(n: int, seed: int) -> NDArray[np.float32]:
        return (np.random.default_rng(seed).standard_normal(n) * 0.05).astype(np.float32)


class EchoEngine(NoiseEngine):
    """Returns the source unchanged; for requests without a source, noise of the requested length.

    Its codec is flite's.
    """

    def tasks(self) -> list[dict[str, str]]:
        return [{"name": name} for name in TASKS]

    def generate(self, task: str, **inputs: Any) -> Sound:
        source = inputs.get("source")
        if source is not None:
            return _Sound(np.asarray(source[0]))
        return _Sound(self._noise(int(16000 * inputs.get("seconds", 1.0)), inputs.get("seed", 0)))

    encode, decode = FliteEngine.encode, FliteEngine.decode


class CodecRun:
    """A codec in training, read from the folder of its run; it cannot speak."""

    def __init__(self, folder: Path) -> None:
        from ..checkpoints import load_codec

        self.codec = load_codec(folder)

    def generate(self, task: str, **inputs: Any) -> Sound:
        raise ValueError("a codec run cannot speak; evaluate it with --task codec")

    def encode(self, audio: Any) -> NDArray[np.int32]:
        import torch

        return (
            self.codec.encode(torch.from_numpy(np.asarray(audio[0], np.float32))[None])[0]
            .numpy()
            .astype(np.int32)
        )

    def decode(self, codes: Any) -> Sound:
        import torch

        with torch.no_grad():
            y = self.codec.decode(torch.from_numpy(np.asarray(codes)).long()[None])[0].numpy()
        return _Sound(y, self.codec.config.sample_rate)

    def voices(self) -> list[str]:
        return []


FAKES: dict[str, type[FliteEngine]] = {
    "fake:flite": FliteEngine,
    "fake:noise": NoiseEngine,
    "fake:echo": EchoEngine,
}


def load_subject(
    model: str, threads: int = 1, lm_codebooks: int = 4, dtype: str = "auto"
) -> Subject:
    """Loads a model folder (its LM stored as ``dtype``), a codec run, or a fake.

    A codec run is a folder with ``codec.json``; ``lm_codebooks`` is the number that its LM will
    use.
    """
    if model in FAKES:
        fake = FAKES[model]
        return Subject(model, fake(), fake.CODEBOOKS, fake.SIZE, fake.LM_CODEBOOKS)
    if (Path(model) / "codec.json").exists():
        run = CodecRun(Path(model))
        c = run.codec.config
        return Subject(
            model,
            run,
            c.num_codebooks,
            c.codebook_size,
            min(lm_codebooks, c.num_codebooks),
            c.sample_rate,
            Path(model),
        )
    from uniaudio_engine import Engine

    engine = Engine.from_pretrained(
        None if model == "bundled" else model, threads=threads, dtype=dtype
    )
    c, lm = engine.config.codec, engine.config.lm
    return Subject(
        model,
        engine,
        c.num_codebooks,
        c.codebook_size,
        lm.num_codebooks if lm else 0,
        c.sample_rate,
        engine.model.folder.path,
    )


def able(subject: Subject, tasks: Sequence[str]) -> list[str]:
    """The ``tasks`` on which the subject can be evaluated."""
    return [
        t
        for t in tasks
        if t != "tts" or (subject.lm_codebooks and not isinstance(subject.engine, CodecRun))
    ]
