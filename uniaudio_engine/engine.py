"""The engine: one loaded model, and everything that can be asked of it.

``generate`` is ``stream``, concatenated. An engine may be used from several threads: its models
never change, and every call has sessions of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio.encoded import EncodedAudio
from .audio.sound import Audio, AudioSource, concatenate, read_audio, trim_silence
from .audio.voice import Voice
from .backends.core import core, default_threads
from .backends.load import Parts, load_parts
from .backends.token_lm import TokenLM
from .errors import InputError, first_few, shown
from .request.plan import Plan, make_plan
from .request.sequence import Layout, Prefix
from .request.stream import Answer, AudioStream, decode_parts, run_together, run_tokens
from .request.tasks import Task
from .storage.config import ConfigError, ModelConfig
from .text import PAUSE, Sentence, iter_sentences
from .text.positions import SILENCE, parse_lexicon, position_sentences, uses_positions
from .tokenizers.captions import CaptionTokenizer
from .tokenizers.encoders import ENCODERS, Encoder, check_encoders
from .tokenizers.semantic import SemanticEncoder, SemanticStream
from .verbs import Verbs

MAX_THREADS = 256
MAX_SECONDS = 3600.0
_PREFIXES = 4  # voices whose KV prefix is kept
# phone and duration tokens a second of speech, generously: they share the KV cache with the frames
_TEXT_RATE = 30
_PROMPT_SLACK = (
    4.0  # seconds read beyond a voice prompt's need, so that silence before it can be left out
)


class Engine(Verbs):
    """A loaded model; make one with :meth:`from_pretrained`."""

    def __init__(
        self,
        parts: Parts,
        threads: int,
        max_seconds: float | None = None,
        encoders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        self.folder, self.backend, self.device, self.threads = (
            parts.folder,
            parts.backend,
            parts.device,
            threads,
        )
        self.dtype, self.kv_dtype = parts.dtype, parts.kv_dtype
        config = self.folder.config
        self._tasks = config.task_table
        self._encoder_folders = check_encoders(encoders or {})
        self._encoders: dict[str, Encoder] = {}
        self._labels = {"phone": self.folder.phones} | self.folder.labels
        self._label_ids: dict[str, dict[str, int]] = {}
        self.codec: Any = parts.codec
        self.fingerprint = parts.fingerprint
        self._parameters = parts.parameters
        self._lm: TokenLM | None = None
        self._layout: Layout | None = None
        self.capacity = 0
        if config.lm is not None and config.vocabulary is not None:
            if any(s.name == "audio" for s in config.vocabulary.spans):
                self._layout = Layout.of(config.lm, config.vocabulary)
            self._lm = TokenLM(parts.lm, config.lm, self._layout)
            self.capacity = min(config.lm.max_frames, parts.capacity or config.lm.max_frames)
            if max_seconds is not None:
                voice = max(
                    (i.max_seconds for t in self._tasks.values() for i in t.inputs), default=0.0
                )
                wanted = max_seconds * (self.frame_rate + _TEXT_RATE) + voice * self.frame_rate + 16
                self.capacity = min(self.capacity, int(wanted))
        self._prefixes: OrderedDict[bytes, Any] = OrderedDict()
        self._voices: dict[str, Voice] = {}
        self._lexicon: dict[str, list[str]] | None = None
        self._captions: CaptionTokenizer | None = None
        self._semantic = (
            SemanticEncoder(config.semantic, parts.semantic)
            if config.semantic is not None
            else None
        )
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "native",
        max_seconds: float | None = None,
        threads: int | None = None,
        kv_dtype: str = "auto",
        encoders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> Engine:
        """Load a model folder, a bundled model by name, or (None) the bundled model.

        ``device`` auto|cpu|cuda|cuda:N: where it runs; auto is the CPU. Codecs that look at whole
        clips run on the CPU beside cuda. ``backend`` native, or onnx or tensorrt for a folder that
        export wrote, whose dtype and kv_dtype are fixed (tensorrt: auto is cuda). ``dtype``: how
        the LM's weights are held: float32, bfloat16 (float32's results where the folder stores
        bfloat16, as the bundled model does), int8, int4 (groups of 32; output head in int8), or by
        part as in "int8,local=int4" (global, local, head); auto is what the folder stores where it
        is quantized, else int8 (float32 on machines without vector instructions).
        docs/benchmarks.md says what each costs. ``kv_dtype`` auto|float32|bfloat16|int8: how
        attention's keys and values are held, which is what long contexts cost (auto: float32 beside
        float weights, else int8, a quarter of the bytes). ``max_seconds``: the longest single
        sentence, which sizes the KV cache (default: what the model allows); ``threads`` default:
        the processors at hand. ``encoders``: local folders of the optional encoders "t5" and
        "hubert" for imported models that need them (``encoders.py``). What this version does not
        have is refused in one line, never replaced in silence.
        """
        if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
            raise InputError(
                f"threads: expected a whole number from 1 to {MAX_THREADS}, got {shown(threads)}"
            )
        if max_seconds is not None and not (
            _is_number(max_seconds) and 1 <= max_seconds <= MAX_SECONDS
        ):
            raise InputError(
                f"max_seconds: expected a number from 1 to {MAX_SECONDS:g}, got "
                f"{shown(max_seconds)}"
            )
        threads = threads or default_threads()
        return cls(
            load_parts(path, device, dtype, backend, kv_dtype, threads),
            threads,
            max_seconds,
            encoders,
        )

    # What it is

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

    @property
    def lm(self) -> TokenLM:
        if self._lm is None:
            raise InputError(
                f"model {self.config.name} is a codec without a language model; choose another "
                "model"
            )
        return self._lm

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            raise InputError(
                f"model {self.config.name} does not generate audio; choose another model"
            )
        return self._layout

    def label_ids(self, span: str) -> dict[str, int]:
        """The labels of a vocabulary span's tokens -> their numbers in it; empty where the folder
        has none.
        """
        if span not in self._label_ids:
            self._label_ids[span] = {label: i for i, label in enumerate(self._labels.get(span, ()))}
        return self._label_ids[span]

    @property
    def pause_id(self) -> int:
        """The pause's id, or -1: long sentences are cut there."""
        ids = self.label_ids("phone")
        return ids.get(PAUSE, ids.get(SILENCE, -1))

    def sentences(self, text: str) -> Iterator[Sentence]:
        """The sentences of a text, in this model's phones.

        Raises :class:`InputError` where it has none for English.
        """
        labels = self.label_ids("phone")
        if uses_positions(labels):
            if self._lexicon is None:
                self._lexicon = parse_lexicon(
                    self.folder.lexicon, str(self.folder.path / "lexicon.txt")
                )
            return position_sentences(text, labels, self._lexicon)
        if PAUSE not in labels:
            raise InputError(
                f"model {self.config.name} has no phone labels for English text; give phones=, or "
                "import it with its "
                "phone dictionary (uniaudio import uniaudio --phones FILE)"
            )
        return iter_sentences(text)

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
            if tokenizer.size != self.layout.vocabulary.span("caption").size:
                wanted = self.layout.vocabulary.span("caption").size
                raise InputError(
                    f"{path}: expected {wanted} pieces, as the vocabulary has, got {tokenizer.size}"
                )
            self._captions = tokenizer
        return self._captions

    def encoder(self, name: str, what: str, wanted: str) -> Encoder:
        """An optional encoder, loaded at its first use; ``what`` and ``wanted`` are for the message
        where it is absent.
        """
        with self._lock:
            if name not in self._encoders:
                if name not in self._encoder_folders:
                    raise InputError(
                        f"{what}: {wanted} needs the encoder {name}: "
                        f"from_pretrained(encoders={{{name!r}: FOLDER}}) or "
                        f"--encoder {name}=FOLDER; or give what it would make as an array or .npy "
                        "file"
                    )
                self._encoders[name] = ENCODERS[name](self._encoder_folders[name])
            return self._encoders[name]

    def tasks(self) -> list[dict[str, Any]]:
        """Machine-readable schema of the tasks that this model does."""
        return [task.schema() for task in self._tasks.values()]

    def task(self, name: str) -> Task:
        """A task's entry. Raises :class:`InputError` for one that this model was not trained for."""
        if name in self._tasks:
            return self._tasks[name]
        able = first_few(list(self._tasks), 20) or "no task"
        raise InputError(
            f"model {self.config.name} was not trained for {shown(name)}; it does {able}"
        )

    def info(self) -> dict[str, Any]:
        """Plain JSON values about the model and how it runs."""
        lm, codec = self.config.lm, self.config.codec
        about: dict[str, Any] = {
            "model": self.config.name,
            "path": str(self.folder.path),
            "licence": self.config.licence,
            "parameters": self._parameters,
            "tasks": list(self._tasks),
            "voices": self.voices(),
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "codec": f"{codec.family}, {codec.num_codebooks} x {codec.codebook_size}",
            "channels": codec.channels,
            "bandwidths": list(codec.bandwidths),
            "backend": self.backend,
            "device": self.device,
            "dtype": self.dtype,
            "kv_dtype": self.kv_dtype,
            "threads": self.threads,
            "isa": core().isa(),
        }
        if self._semantic is not None:
            about.update(
                semantic=(
                    f"{self._semantic.num_units} units, look-ahead "
                    f"{self._semantic.lookahead} samples"
                )
            )
        if lm is not None:
            about.update(
                lm=(
                    f"global {lm.global_.layers} x {lm.global_.width}, local {lm.local.layers} x "
                    f"{lm.local.width}"
                ),
                num_codebooks=lm.num_codebooks,
                max_frames=self.capacity,
                session_bytes=self.lm.core.memory_bytes(self.capacity),
                weight_bytes_per_frame=self.lm.core.weight_bytes_per_frame,
            )
        return about

    # Generating

    def stream(
        self,
        task: str,
        *,
        chunk_frames: Sequence[int] | None = None,
        voice: Any = None,
        **inputs: Any,
    ) -> AudioStream:
        """Begin a task; iterate for :class:`AudioChunk`: the first chunk small, then larger.

        Inputs and options are those of ``tasks()``; ``voice`` is another name for ``prompt``.
        Inputs are checked here, before the first chunk is asked for. ``chunk_frames``: sizes of the
        chunks, the last one repeats; they change when samples arrive, not which tokens they are
        made of.
        """
        begin = time.perf_counter()
        plan = self._audio_plan(task, voice=voice, **inputs)
        return AudioStream(self, plan, chunk_frames, time.perf_counter() - begin)

    def generate(self, task: str, **inputs: Any) -> Audio:
        """Do a task in one go: :meth:`stream`, concatenated.

        ``meta`` has the seed, timings and notes.
        """
        with self.stream(task, **inputs) as stream:
            chunks = list(stream)
        return Audio(concatenate(chunks, stream.sample_rate), stream.sample_rate, stream.meta)

    def generate_batch(
        self, requests: Sequence[Mapping[str, Any]], task: str = "tts"
    ) -> list[Audio]:
        """Several requests stepped together: faster in sum, and each one's tokens are those that it
        gives alone.

        A request is a mapping of ``generate``'s arguments; a key ``task`` overrides ``task``.
        """
        return self.run_plans([self._audio_plan(**{"task": task, **r}) for r in requests])

    def run_plans(self, plans: Sequence[Plan]) -> list[Audio]:
        """Carry out what :meth:`plan` laid out, stepped together."""
        begin = time.perf_counter()
        parts = run_together(self, plans)
        results = []
        for plan, frames in zip(plans, parts, strict=True):
            samples = decode_parts(self, plan, frames)
            meta = self.describe(plan)
            meta.update(
                frames=sum(map(len, frames)),
                seconds=len(samples) / self.sample_rate,
                batch=len(plans),
            )
            results.append(Audio(samples, self.sample_rate, meta))
        compute = time.perf_counter() - begin
        for audio in results:
            audio.meta.update(batch_compute_seconds=round(compute, 6))
        return results

    def understand(self, task: str, **inputs: Any) -> Answer:
        """Do a task whose answer is not sound, such as ``asr`` or ``sv`` of an imported model."""
        if self.task(task).target == "audio":
            raise InputError(f"{task} makes sound; ask for it with generate or stream")
        plan = self.plan(task, **inputs)
        tokens = run_tokens(self, plan)
        labels = self._labels.get(plan.task.target, ())
        return Answer(
            tokens, tuple(labels[t] for t in tokens) if labels else (), self.describe(plan)
        )

    def _audio_plan(self, task: str, **inputs: Any) -> Plan:
        if self.task(task).target != "audio":
            raise InputError(f"{task} makes no sound; ask for its answer with understand")
        return self.plan(task, **inputs)

    def plan(self, task: str, voice: Any = None, **inputs: Any) -> Plan:
        """Check a request and lay it out, without running the model's language part."""
        entry = self.task(task)
        if voice is not None:
            if inputs.get("prompt") is not None:
                raise InputError("expected either voice or prompt, got both")
            inputs["prompt"] = voice
        names = {o.name for o in entry.options}
        options = {k: v for k, v in inputs.items() if k in names}
        return make_plan(self, entry, {k: v for k, v in inputs.items() if k not in names}, options)

    # Codec and voices

    def encode(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> NDArray[np.int32]:
        """Any sound (see :func:`read_audio`) -> codes int32 [K, T] of the first codebooks:
        ``num_codebooks`` of them (0: all), or as many as ``bandwidth`` in kbit/s says, one of those
        that the codec names.

        Raises :class:`InputError` where the codec normalises loudness: codes alone are then half of
        the sound, and :meth:`encode_audio` gives the whole.
        """
        if self.config.codec.normalizes:
            raise InputError(
                f"the codec of {self.config.name} normalises loudness, so codes alone are half of "
                "the sound; use encode_audio"
            )
        return self.encode_audio(audio, num_codebooks, bandwidth).codes

    def encode_audio(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> EncodedAudio:
        """Any sound -> all that brings it back, for every codec: codes, loudness, length.
        :meth:`decode` then gives as many samples as there were at the codec's rate. Options as
        those of :meth:`encode`.
        """
        k = self.num_codebooks(num_codebooks, bandwidth)
        codec = self.config.codec
        sound = read_audio(audio, codec.sample_rate, channels=codec.channels)
        scales = None
        if codec.normalizes:
            codes, scales = self.codec.encode_scaled(sound.samples, k)
        else:
            codes = self.codec.encode(sound.samples, k)
        return EncodedAudio(
            codes,
            codec.sample_rate,
            sound.samples.shape[-1],
            self.fingerprint,
            scales,
            tuple(sound.meta["notes"]),
        )

    def num_codebooks(self, num_codebooks: int = 0, bandwidth: float | None = None) -> int:
        """The number of codebooks that a choice means; one :class:`InputError` line for a choice
        that the codec has not.
        """
        codec = self.config.codec
        if bandwidth is None:
            if type(num_codebooks) is not int or not 0 <= num_codebooks <= codec.num_codebooks:
                raise InputError(
                    f"num_codebooks: expected 0 (all) to {codec.num_codebooks}, got "
                    f"{shown(num_codebooks)}"
                )
            return num_codebooks or codec.num_codebooks
        if num_codebooks:
            raise InputError("expected either num_codebooks or bandwidth, got both")
        try:
            return codec.codebooks_for(bandwidth)
        except ConfigError as e:
            raise InputError(str(e)) from None

    def decode(self, codes: EncodedAudio | NDArray[Any] | Any) -> Audio:
        """What :meth:`encode_audio` gave, or codes [K', T] of the first K' <= K codebooks -> sound.

        :class:`EncodedAudio` comes back at its length, to the sample; bare codes as all that their
        frames hold (and a codec that normalises loudness refuses them: their other half is
        missing).
        """
        codec = self.config.codec
        encoded = codes if isinstance(codes, EncodedAudio) else None
        if encoded is not None:
            encoded.check(codec, self.fingerprint)
        elif codec.normalizes:
            raise InputError(
                f"the codec of {self.config.name} normalises loudness: expected what encode_audio "
                "gave, got codes without scales"
            )
        c = np.asarray(codes if encoded is None else encoded.codes)
        most, size = codec.num_codebooks, codec.codebook_size
        if c.ndim != 2 or not 1 <= c.shape[0] <= most or c.dtype.kind not in "iu":
            raise InputError(
                f"codes: expected whole numbers [1 to {most}, T], got {c.dtype} {list(c.shape)}"
            )
        if c.size and (c.min() < 0 or c.max() >= size):
            raise InputError(f"codes: expected 0 to {size - 1}, got {c.min()} to {c.max()}")
        c = np.ascontiguousarray(c, np.int32)
        try:
            samples = (
                self.codec.decode(c)
                if encoded is None or encoded.scales is None
                else self.codec.decode(c, encoded.scales)
            )
        except ValueError as e:  # scales
            raise InputError(str(e)) from None
        if encoded is not None:
            samples = samples[..., : encoded.samples]
        return Audio(np.clip(samples, -1.0, 1.0), self.sample_rate)

    @property
    def semantic_encoder(self) -> SemanticEncoder:
        """The semantic tokenizer.  Raises :class:`InputError` where the model has none."""
        if self._semantic is None:
            raise InputError(
                f"model {self.config.name} has no semantic tokenizer; choose another model"
            )
        return self._semantic

    def semantic(self, audio: AudioSource) -> NDArray[np.int32]:
        """Any sound (see :func:`read_audio`) -> units int32 [T] that say what is spoken and not by
        whom; unit t is that of frame t of :meth:`encode`.
        """
        encoder = self.semantic_encoder
        return encoder.encode(read_audio(audio, self.sample_rate).samples)

    def semantic_stream(self) -> SemanticStream:
        """Units as sound comes: ``push`` float32 samples [N] at ``sample_rate``, then ``flush``;
        they come ``lookahead`` samples after the end of their frame, and are together what
        :meth:`semantic` gives.
        """
        return self.semantic_encoder.stream()

    def encode_voice(
        self,
        audio: AudioSource,
        name: str = "",
        *,
        max_seconds: float = 3.0,
        min_seconds: float = 0.5,
        licence: str = "",
    ) -> Voice:
        """A voice from the first ``max_seconds`` of sound (silence before it left out, the rest not
        read).
        """
        if self.config.codec.channels != 1 or self.config.codec.normalizes:
            raise InputError(
                f"the codec of {self.config.name} is no language model's, which a voice is for; "
                "choose another model"
            )
        sound = read_audio(
            audio, self.sample_rate, max_seconds + _PROMPT_SLACK, "prompt", min_seconds
        )
        notes = list(sound.meta["notes"])
        trimmed = trim_silence(sound).samples[: round(max_seconds * self.sample_rate)]
        if len(trimmed) < min_seconds * self.sample_rate:
            got = f"{len(trimmed) / self.sample_rate:.3g} s"
            raise InputError(
                f"prompt: expected at least {min_seconds:g} s of sound, got {got} that is not "
                "silent"
            )
        if len(trimmed) < len(sound.samples) and not notes:
            notes.append(f"{len(trimmed) / self.sample_rate:.3g} s of the prompt used")
        source = os.path.basename(os.fspath(audio)) if isinstance(audio, (str, os.PathLike)) else ""
        codes = self.codec.encode(trimmed, 0)
        name = name or Path(source).stem or "prompt"
        return Voice(name, codes, self.fingerprint, self.frame_rate, licence, source, tuple(notes))

    def voices(self) -> list[str]:
        """Names of the voices in the model folder."""
        return list(self.folder.voices)

    def voice(self, name: str) -> Voice:
        """A voice of the model folder, by name."""
        if name not in self.folder.voices:
            raise InputError(
                f"there is no voice {shown(name)}; there is "
                f"{first_few(self.voices(), 20) or 'none'}"
            )
        if name not in self._voices:
            voice = Voice.load(self.folder.voices[name])
            self.check_voice(voice)
            self._voices[name] = voice
        return self._voices[name]

    def check_voice(self, voice: Voice) -> None:
        """Raise :class:`InputError` unless the voice's codes are this codec's."""
        k = self.config.lm.num_codebooks if self.config.lm is not None else 1
        voice.check(self.config.codec, self.fingerprint, k)

    # For stream.py

    def fork_prefix(self, shared: Prefix) -> Any:
        """A session that has heard ``shared``; the prefill is done once for each of the latest
        prefixes.
        """
        key = shared.key()
        with self._lock:
            base = self._prefixes.get(key)
            if base is None:
                base = self.lm.session(self.capacity)
                base.prefill(shared.frames, None, shared.continuous or None)
                self._prefixes[key] = base
                if len(self._prefixes) > _PREFIXES:
                    self._prefixes.popitem(last=False)
            self._prefixes.move_to_end(key)
            return base.fork()

    def describe(self, plan: Plan) -> dict[str, Any]:
        """What every result says about how it was made."""
        about = {"task": plan.task.name, "model": self.config.name, **plan.options, **plan.meta}
        return {
            **about,
            "backend": self.backend,
            "device": self.device,
            "dtype": self.dtype,
            "kv_dtype": self.kv_dtype,
            "threads": self.threads,
            "isa": core().isa(),
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
