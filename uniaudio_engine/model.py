"""A loaded model: configuration, vocabulary, tokenizers, voices and the backends that run it.

Planning and running a request needs a :class:`Model`. :class:`Engine`, the public face, is built on
top and is not known here.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio.voice import Voice
from .backends.core import core
from .backends.load import Parts, load_parts
from .backends.protocols import Codec, PostFilter, Session
from .backends.token_lm import TokenLM
from .errors import InputError, first_few, shown
from .request.sequence import Layout, Prefix
from .request.tasks import Task
from .request.work import Prefill
from .storage.config import ModelConfig
from .text import PAUSE, LiveSentences, Sentence, iter_sentences
from .text.plain import PlainSentences, TextSentences, plain_sentences
from .text.positions import SILENCE, parse_lexicon, positioned_sentence, uses_positions
from .tokenizers.audio import AudioTokenizer
from .tokenizers.captions import CaptionTokenizer
from .tokenizers.encoders import ENCODERS, Encoder, check_encoders
from .tokenizers.phone_hearing import PhoneHearing
from .tokenizers.semantic import SemanticEncoder
from .tokenizers.speaker import Speaker
from .tokenizers.text import TextTokenizer

CACHED_PREFIXES = 4  # voices whose KV prefix is kept
# Phone and duration tokens per second of fast speech. They share the KV cache with the frames.
_TEXT_RATE = 30


class Model:
    """Immutable after loading, apart from its caches; safe to share between threads.

    ``backend``, ``device``, ``dtype`` and ``kv_dtype`` are what runs, never "auto". ``capacity``:
    frames that one session holds, 0 without a language model.
    """

    def __init__(
        self,
        parts: Parts,
        threads: int,
        max_seconds: float | None = None,
        encoders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        """``max_seconds``: the longest sentence, which sizes the KV cache. ``encoders``: folders of
        optional encoders by name.
        """
        self.folder, self.threads, self.parameters = parts.folder, threads, parts.parameters
        self.backend, self.device = parts.backend, parts.device
        self.dtype, self.kv_dtype = parts.dtype, parts.kv_dtype
        config = self.folder.config
        self.tasks: Mapping[str, Task] = config.task_table
        self.speaker: Speaker | None = None
        if self.folder.speaker:
            own = None if config.text_slot is None else config.text_slot.speaker
            self.speaker = Speaker(self.folder.speaker, self.folder.speaker_encoder, own)
        self.audio = AudioTokenizer(config, parts.codec, parts.fingerprint, self.speaker)
        self._lm: TokenLM | None = None
        self._layout: Layout | None = None
        self.capacity = 0
        if parts.lm is not None and config.lm is not None and config.vocabulary is not None:
            if any(s.name == "audio" for s in config.vocabulary.spans):
                self._layout = Layout.of(config.lm, config.vocabulary, config.text_slot)
            self._lm = TokenLM(parts.lm, config.lm, self._layout)
            self.capacity = min(config.lm.max_frames, parts.capacity or config.lm.max_frames)
            if max_seconds is not None:
                self.capacity = min(self.capacity, self.frames_for(max_seconds))
        self._semantic: SemanticEncoder | None = None
        if config.semantic is not None and parts.semantic is not None:
            self._semantic = SemanticEncoder(config.semantic, parts.semantic)
        self._hearing: PhoneHearing | None = None
        if self._semantic is not None and len(self.folder.unit_phones):
            pauses = [i for i, p in enumerate(self.folder.phones) if p in (PAUSE, SILENCE)]
            self._hearing = PhoneHearing(self._semantic, self.folder.unit_phones, pauses)
        self._filters = parts.filters
        self._encoder_folders = check_encoders(encoders or {})
        self._encoders: dict[str, Encoder] = {}
        self._labels = {"phone": self.folder.phones} | self.folder.labels
        self._label_ids: dict[str, dict[str, int]] = {}
        self._prefixes: OrderedDict[bytes, Prefill] = OrderedDict()
        self._voices: dict[str, Voice] = {}
        self._lexicon: dict[str, list[str]] | None = None
        self._captions: CaptionTokenizer | None = None
        self._text: TextTokenizer | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "native",
        kv_dtype: str = "auto",
        threads: int = 1,
        max_seconds: float | None = None,
        encoders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> Model:
        """Load a model folder; the arguments are those of :meth:`Engine.from_pretrained`."""
        parts = load_parts(path, device, dtype, backend, kv_dtype, threads)
        return cls(parts, threads, max_seconds, encoders)

    def frames_for(self, max_seconds: float) -> int:
        """Frames of a session that holds a sentence of this length, its phones and its voice."""
        prompt = max((i.max_seconds for t in self.tasks.values() for i in t.inputs), default=0.0)
        rate = self.frame_rate
        return int(max_seconds * (rate + _TEXT_RATE) + prompt * rate + 16)

    # Configuration

    @property
    def config(self) -> ModelConfig:
        return self.folder.config

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.codec.sample_rate

    @property
    def frame_rate(self) -> float:
        """Hz."""
        return self.config.codec.frame_rate

    def task(self, name: str) -> Task:
        """The definition of a task. Raises :class:`InputError` for one the model does not do."""
        if isinstance(name, str) and name in self.tasks:
            return self.tasks[name]
        known = first_few(list(self.tasks), 20) or "no task"
        raise InputError(
            f"model {self.config.name} was not trained for {shown(name)}; it does {known}"
        )

    # Backends

    @property
    def codec(self) -> Codec:
        """The bare codec, as the backend runs it."""
        return self.audio.codec

    @property
    def lm(self) -> TokenLM:
        """The language model. Raises :class:`InputError` where the model has none."""
        if self._lm is None:
            raise InputError(
                f"model {self.config.name} is a codec without a language model; choose another "
                "model"
            )
        return self._lm

    @property
    def semantic(self) -> SemanticEncoder:
        """The semantic tokenizer. Raises :class:`InputError` where the model has none."""
        if self._semantic is None:
            raise InputError(
                f"model {self.config.name} has no semantic tokenizer; choose another model"
            )
        return self._semantic

    @property
    def hearing(self) -> PhoneHearing:
        """Which phones a sound has. Raises :class:`InputError` where the model cannot hear them."""
        if self._hearing is None:
            raise InputError(
                f"best_of: model {self.config.name} does not hear which phones are spoken, it has no "
                "unit_phones.safetensors; leave best_of out"
            )
        return self._hearing

    def filter_of(self, task: Task) -> PostFilter:
        """The filter of a task's results. Raises :class:`InputError` where the model has none."""
        found = self._filters.get(task.filter)
        if found is None:
            raise InputError(f"model {self.config.name} has no {task.filter}; choose another model")
        return found

    def prefix(self, shared: Prefix) -> Prefill:
        """The work of reading ``shared`` [T, K] into a session that others are forked from.

        It is over where that was done; the last few prefixes are kept.
        """
        key = shared.key()
        with self._lock:
            prefill = self._prefixes.get(key)
            if prefill is None:
                session = self.lm.session(self.capacity)
                if shared.condition is not None:
                    self._set_condition(session, shared.condition)
                prefill = Prefill(session, shared.frames, None, shared.continuous or None)
                self._prefixes[key] = prefill
                if len(self._prefixes) > CACHED_PREFIXES:
                    self._prefixes.popitem(last=False)
            self._prefixes.move_to_end(key)
            return prefill

    def _set_condition(self, session: Session, row: NDArray[np.float32]) -> None:
        set_condition = getattr(session, "set_condition", None)
        if set_condition is None:
            raise InputError(
                f"model {self.config.name}: a voice's vector is supported on the CPU by backend "
                f"native only, got backend {self.backend} on {self.device}; choose that"
            )
        set_condition(row)

    def fork_prefix(self, shared: Prefix) -> Session:
        """A new session with ``shared`` [T, K] prefilled; see :meth:`prefix`."""
        prefill = self.prefix(shared)
        prefill.advance()
        with prefill.lock:
            return prefill.session.fork()

    def after_fork(self) -> None:
        """Make a copy in a forked process usable: other threads' work on it stopped midway."""
        self._lock = threading.Lock()
        self._prefixes.clear()

    # Vocabulary and text

    @property
    def layout(self) -> Layout:
        """The vocabulary by frames. Raises :class:`InputError` where the model makes no audio."""
        if self._layout is None:
            raise InputError(
                f"model {self.config.name} does not generate audio; choose another model"
            )
        return self._layout

    def labels(self, span: str) -> tuple[str, ...]:
        """The labels of a vocabulary span's tokens in order; empty where the folder has none."""
        return tuple(self._labels.get(span, ()))

    def label_ids(self, span: str) -> dict[str, int]:
        """Labels of a vocabulary span's tokens -> their ids from 0; see :meth:`labels`."""
        if span not in self._label_ids:
            self._label_ids[span] = {label: i for i, label in enumerate(self.labels(span))}
        return self._label_ids[span]

    @property
    def pause_id(self) -> int:
        """The id of the pause phone, or -1. Sentences that are too long are split there."""
        ids = self.label_ids("phone")
        return ids.get(PAUSE, ids.get(SILENCE, -1))

    def sentences(
        self,
        text: str,
        *,
        markup: str = "auto",
        lexicon: Mapping[str, Sequence[str]] | None = None,
        paragraph_pause: float | None = None,
    ) -> Iterator[Sentence]:
        """The sentences of a text, in this model's phones; see :func:`text.iter_sentences`.

        Models with a slot of text read it as it is written, in their own languages.

        Raises :class:`InputError` where the model has no phones for English.
        """
        if self.config.text_slot is not None:
            self._check_plain(markup, lexicon)
            return plain_sentences(text, self.text.read)
        own, convert = self._english(lexicon)
        found = iter_sentences(text, markup=markup, lexicon=own, paragraph_pause=paragraph_pause)
        return found if convert is None else map(convert, found)

    def live_sentences(
        self,
        *,
        markup: str = "auto",
        lexicon: Mapping[str, Sequence[str]] | None = None,
        paragraph_pause: float | None = None,
    ) -> TextSentences:
        """:meth:`sentences` of a text that arrives."""
        if self.config.text_slot is not None:
            self._check_plain(markup, lexicon)
            return PlainSentences(self.text.read)
        return LiveSentences(markup, *self._english(lexicon), paragraph_pause)

    def spelled(self, phones: Sequence[str]) -> Sentence:
        """A sentence of phones in place of a text."""
        if self.config.text_slot is not None:
            return self.text.spelled(" ".join(phones))
        return Sentence("", list(phones))

    def _check_plain(self, markup: str, lexicon: Mapping[str, Sequence[str]] | None) -> None:
        if markup not in ("auto", "plain") or lexicon:
            raise InputError(
                f"model {self.config.name} reads plain text by itself; expected no markup and no "
                "lexicon; leave them out"
            )

    @property
    def text(self) -> TextTokenizer:
        """The tokenizer of a model with a slot of text."""
        if self._text is None:
            slot, folder = self.config.text_slot, self.folder
            assert slot is not None
            file = folder.tokenizer if slot.tokenizer == "tokenizers" else folder.captions
            size = self.layout.vocabulary.span("text").size
            self._text = TextTokenizer(slot, size, file, folder.path)
        return self._text

    def _english(
        self, lexicon: Mapping[str, Sequence[str]] | None
    ) -> tuple[Mapping[str, Sequence[str]] | None, Callable[[Sentence], Sentence] | None]:
        """The pronunciations that go before ours, and what brings phones to this model's labels."""
        labels = self.label_ids("phone")
        if uses_positions(labels):
            if self._lexicon is None:
                self._lexicon = parse_lexicon(
                    self.folder.lexicon, str(self.folder.path / "lexicon.txt")
                )
            own = {**self._lexicon, **(lexicon or {})}
            return own, partial(positioned_sentence, labels=labels)
        if PAUSE not in labels:
            raise InputError(
                f"model {self.config.name} has no phone labels for English text; give phones=, or "
                "import it with its phone dictionary (uniaudio import uniaudio --phones FILE)"
            )
        return lexicon, None

    @property
    def captions(self) -> CaptionTokenizer:
        """The tokenizer of captions and instructions.

        Raises :class:`InputError` where the model has none.
        """
        if self._captions is None:
            path = self.folder.path / "text.model"
            if not self.folder.captions:
                raise InputError(f"model {self.config.name} reads no captions: there is no {path}")
            tokenizer = CaptionTokenizer(self.folder.captions, str(path))
            wanted = self.layout.vocabulary.span("caption").size
            if tokenizer.size != wanted:
                raise InputError(
                    f"{path}: expected {wanted} pieces, as the vocabulary has, got {tokenizer.size}"
                )
            self._captions = tokenizer
        return self._captions

    def encoder(self, name: str, input_name: str, wanted: str) -> Encoder:
        """An optional encoder, loaded at first use.

        ``input_name`` and ``wanted`` (what the caller gave: "a text", "a sound") are for the
        :class:`InputError` that is raised where no folder was given for it.
        """
        with self._lock:
            if name not in self._encoders:
                if name not in self._encoder_folders:
                    raise InputError(
                        f"{input_name}: {wanted} needs the encoder {name}: "
                        f"from_pretrained(encoders={{{name!r}: FOLDER}}) or "
                        f"--encoder {name}=FOLDER; or give its output as an array or .npy file"
                    )
                self._encoders[name] = ENCODERS[name](self._encoder_folders[name])
            return self._encoders[name]

    # Voices

    def voices(self) -> list[str]:
        """Names of the voices in the model folder."""
        return list(self.folder.voices)

    def voice(self, name: str) -> Voice:
        """A voice of the model folder. Raises :class:`InputError` for an unknown name."""
        if name not in self.folder.voices:
            raise InputError(
                f"there is no voice {shown(name)}; there is "
                f"{first_few(self.voices(), 20) or 'none'}"
            )
        if name not in self._voices:
            voice = Voice.load(self.folder.voices[name])
            self.audio.check_voice(voice)
            self._voices[name] = voice
        return self._voices[name]

    # Descriptions

    def running(self) -> dict[str, Any]:
        """How the model runs, as JSON values."""
        return {
            "backend": self.backend,
            "device": self.device,
            "dtype": self.dtype,
            "kv_dtype": self.kv_dtype,
            "threads": self.threads,
            "isa": core().isa(),
        }

    def describe(self) -> dict[str, Any]:
        """What the model is and how it runs, as JSON values."""
        lm, codec = self.config.lm, self.config.codec
        about: dict[str, Any] = {
            "model": self.config.name,
            "path": str(self.folder.path),
            "licence": self.config.licence,
            "parameters": self.parameters,
            "tasks": list(self.tasks),
            "voices": self.voices(),
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "codec": f"{codec.family}, {codec.num_codebooks} x {codec.codebook_size}",
            "channels": codec.channels,
            "bandwidths": list(codec.bandwidths),
            **self.running(),
        }
        if self._semantic is not None:
            about["semantic"] = (
                f"{self._semantic.num_units} units, look-ahead {self._semantic.lookahead} samples"
            )
        for name, each in self._filters.items():
            about[name] = f"delay {each.delay} samples"
        if lm is not None:
            about.update(
                lm=(
                    f"global {lm.global_.layers} x {lm.global_.width}, local {lm.local.layers} x "
                    f"{lm.local.width}"
                ),
                num_codebooks=self.config.lm_codebooks,
                max_frames=self.capacity,
                session_bytes=self.lm.core.memory_bytes(self.capacity),
                weight_bytes_per_frame=self.lm.core.weight_bytes_per_frame,
            )
        return about
