"""The engine: everything that can be asked of one loaded model.

``generate`` is ``stream``, concatenated. An engine is safe to use from several threads: its model
never changes, and every call has sessions of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .audio.encoded import EncodedAudio
from .audio.reading import AudioSource, read_audio
from .audio.sound import Audio
from .audio.voice import Voice
from .backends.core import default_threads
from .backends.protocols import Codec
from .backends.token_lm import TokenLM
from .errors import InputError, shown
from .importers.auto import located
from .model import Model
from .request.batch import Answer, generate_together, run_tokens
from .request.conversation import Conversation
from .request.latency import chunk_sizes
from .request.live import Live, run_live
from .request.memory import MemoryPlan, plan_memory
from .request.plan import Plan, make_plan
from .request.scheduler import Scheduler
from .request.sequence import Layout
from .request.stream import AudioStream, ChunkSizes, collect
from .request.tasks import Task
from .storage.config import ModelConfig
from .tokenizers.semantic import SemanticEncoder, SemanticStream
from .verbs import Verbs

if TYPE_CHECKING:
    from .request.astream import AsyncAudioStream

MAX_THREADS = 256
MAX_SECONDS = 3600.0


class Engine(Verbs):
    """A loaded model; make one with :meth:`from_pretrained`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.scheduler = Scheduler(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "native",
        max_seconds: float | None = None,
        threads: int | None = None,
        kv_dtype: str = "auto",
        encoders: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> Engine:
        """Load a model folder, a bundled model by name, a model on a hub by its id, or (None) the
        default bundled model.

        ``revision``: of a model on a hub, a branch, tag or commit. Such a model is downloaded and
        converted the first time (extra ``hub``), and ``config.licence`` is what its page states; a
        local folder of that name goes first. See :mod:`uniaudio_engine.importers.auto`.

        ``device``: auto, cpu, cuda or cuda:N; auto is the CPU. Under cuda, codecs that need the
        whole clip at once still run on the CPU.

        ``backend``: native, or onnx or tensorrt for a folder of exported graphs. An export fixes
        dtype and kv_dtype, and under tensorrt device auto is cuda.

        ``dtype``: storage of the LM's weights. float32; bfloat16 (identical results to float32
        where the folder stores bfloat16, as the bundled model does); int8; int4 (groups of 32, with
        the output head in int8); or a choice by part, such as "int8,local=int4" (parts: global,
        local, head). auto is the folder's own format where it is quantized, else int8 (float32 on
        machines without vector instructions). docs/benchmarks.md has the cost of each.

        ``kv_dtype``: storage of attention's keys and values: auto, float32, bfloat16 or int8. It
        decides the memory of long contexts. auto is float32 with float weights, else int8, which
        takes a quarter of the bytes.

        ``max_seconds``: the longest single sentence, which sizes the KV cache; by default the
        model's own limit. ``threads``: by default the available processors. ``encoders``: local
        folders of the optional encoders "t5" and "hubert", for imported models that need them.

        Raises :class:`InputError` for anything this version does not support; nothing is replaced
        silently.
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
        model = Model.load(
            located(path, revision),
            device=device,
            dtype=dtype,
            backend=backend,
            kv_dtype=kv_dtype,
            threads=threads or default_threads(),
            max_seconds=max_seconds,
            encoders=encoders,
        )
        return cls(model)

    # About the model

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.model.sample_rate

    @property
    def channels(self) -> int:
        """Of the sound that is made: samples are [N] where it is 1, else [channels, N]."""
        return self.config.codec.channels

    @property
    def frame_rate(self) -> float:
        """Hz."""
        return self.model.frame_rate

    @property
    def backend(self) -> str:
        return self.model.backend

    @property
    def device(self) -> str:
        """cpu or cuda:N; never auto."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """How the LM's weights are stored; never auto."""
        return self.model.dtype

    @property
    def kv_dtype(self) -> str:
        """How keys and values are stored; never auto."""
        return self.model.kv_dtype

    @property
    def threads(self) -> int:
        return self.model.threads

    @property
    def capacity(self) -> int:
        """Frames that one session holds: a voice, a sentence and its audio."""
        return self.model.capacity

    @property
    def fingerprint(self) -> str:
        """Identifies the codec: codes mean nothing to another one."""
        return self.model.audio.fingerprint

    @property
    def codec(self) -> Codec:
        """The bare codec, as the backend runs it: samples [N] <-> codes [K, T]."""
        return self.model.codec

    @property
    def lm(self) -> TokenLM:
        """The language model on tokens. Raises :class:`InputError` where the model has none."""
        return self.model.lm

    @property
    def layout(self) -> Layout:
        """Codes <-> token ids. Raises :class:`InputError` where the model generates no audio."""
        return self.model.layout

    def tasks(self) -> list[dict[str, Any]]:
        """Machine-readable schema of the model's tasks."""
        return [task.schema() for task in self.model.tasks.values()]

    def task(self, name: str) -> Task:
        """The definition of a task. Raises :class:`InputError` for one the model does not do."""
        return self.model.task(name)

    def info(self) -> dict[str, Any]:
        """What the model is and how it runs, as JSON values."""
        return self.model.describe()

    # Generation

    def stream(
        self,
        task: str,
        *,
        chunk_frames: Sequence[int] | None = None,
        max_latency_ms: float | None = None,
        voice: Any = None,
        **inputs: Any,
    ) -> AudioStream:
        """Start a task; iterate over the result for :class:`AudioChunk`.

        Inputs and options are listed by ``tasks()``; ``voice`` is another name for ``prompt``.
        Inputs are checked here, before the first chunk is requested. A text to be spoken may be an
        iterator or asynchronous iterator of strings, which is spoken while it is written; what it
        raises is raised with a chunk. ``chunk_frames``: sizes of the
        chunks in frames, small first by default; the last size repeats. They decide when samples
        arrive, never which tokens they are made of.

        ``max_latency_ms``: instead of ``chunk_frames``, the longest that a sample may wait for the
        chunk that holds it: for the chunk's other frames, for the codec's look-ahead, and for the
        time that this model takes on this machine, which is measured once. The chunks are as large
        as that allows. Weights stay in the format that they were loaded in; ``from_pretrained``'s
        ``dtype`` chooses a faster one.

        Raises :class:`InputError` for bad inputs and for a latency that cannot be kept, and
        :class:`Busy` where the scheduler's limits leave no room.
        """
        begin = time.perf_counter()
        self.scheduler.check_room()
        sizes = self._chunk_sizes(chunk_frames, max_latency_ms)
        plan = self._audio_plan(task, voice=voice, **inputs)
        return AudioStream(self.scheduler, plan, sizes, time.perf_counter() - begin)

    def astream(
        self,
        task: str,
        *,
        chunk_frames: Sequence[int] | None = None,
        max_latency_ms: float | None = None,
        max_ahead_seconds: float = 3.0,
        voice: Any = None,
        **inputs: Any,
    ) -> AsyncAudioStream:
        """:meth:`stream` for asyncio: ``async for`` over the result for :class:`AudioChunk`.

            async with engine.astream("tts", text="Hello.") as stream:
                async for chunk in stream:
                    await play(chunk.samples)

        Streams of any number of event loops are stepped together, without a thread for each.
        Inputs are checked on entering the block, or with the first chunk, in a thread of the
        loop's executor. Cancelling the task that iterates frees the session.

        ``max_ahead_seconds``: chunks are made in advance while fewer seconds of sound than this
        wait to be taken; 0 makes each when it is asked for.

        Raises what :meth:`stream` raises, there.
        """

        def begin() -> tuple[Plan, ChunkSizes]:
            sizes = self._chunk_sizes(chunk_frames, max_latency_ms)
            return self._audio_plan(task, voice=voice, **inputs), sizes

        from .request.astream import AsyncAudioStream  # asyncio only where it is used

        return AsyncAudioStream(self.scheduler, begin, max_ahead_seconds)

    def generate(self, task: str, **inputs: Any) -> Audio:
        """Do a task in one call: :meth:`stream`, concatenated.

        ``causal``: hear the source as :meth:`open` does, without knowing its end; the samples are
        those of the live stream, bit for bit. ``level`` is then an option too.

        ``meta`` has the seed, timings and notes. With the option ``best_of`` it has ``chosen``: which
        try was kept, from 0, of each sentence.
        """
        if inputs.pop("causal", False):
            return run_live(self.model, task, _with_voice(inputs))
        return collect(self.stream(task, **inputs))

    def open(
        self,
        task: str,
        *,
        sample_rate: int | None = None,
        level: float | Literal["auto"] = "auto",
        **inputs: Any,
    ) -> Live:
        """Do a task on a sound that is still being made: push samples in, get samples out.

        For tasks whose result follows their source frame by frame, such as ``se``, ``sd``, ``vc``
        and ``tse``. Other inputs and options are as for :meth:`stream`.

        ``sample_rate``: Hz of input and output; the model's by default. ``level``: of the source, in
        dBFS (RMS of its louder parts); "auto" measures it as the sound comes. With the level that
        the whole source turns out to have, the result is that of :meth:`generate`, up to 12 s.

        Raises :class:`InputError` for bad inputs, and for a task that cannot be done live.
        """
        return Live(self.model, task, _with_voice(inputs), sample_rate=sample_rate, level=level)

    def generate_batch(
        self, requests: Sequence[Mapping[str, Any]], task: str = "tts"
    ) -> list[Audio]:
        """Several requests stepped together: higher throughput; tokens are identical to running
        each alone.

        A request is a mapping of ``generate``'s arguments; its key ``task`` overrides ``task``.
        """
        return self.run_plans([self._audio_plan(**{"task": task, **r}) for r in requests])

    def conversation(self) -> Conversation:
        """A conversation between speakers who hear each other.

        Raises :class:`InputError` for a model that takes no turns.
        """
        return Conversation(self.model)

    def memory(
        self, sessions: int = 1, seconds: float | None = None, guided: bool | None = None
    ) -> MemoryPlan:
        """Bytes that ``sessions`` streams take at the same time, said before any of them runs.

        ``seconds``: of the sentence that each is in (None: the longest that fits). ``guided``: with
        classifier-free guidance (None: if any task has it by default).
        ``engine.scheduler.limit(max_sessions, max_bytes)`` refuses streams beyond what there is room
        for.
        """
        return plan_memory(self.model, sessions, seconds, guided)

    def run_plans(self, plans: Sequence[Plan]) -> list[Audio]:
        """Run what :meth:`plan` returned, stepped together."""
        return generate_together(self.scheduler, plans)

    def understand(self, task: str, **inputs: Any) -> Answer:
        """Do a task whose answer is not sound, such as ``asr`` or ``sv`` of an imported model."""
        if self.task(task).target == "audio":
            raise InputError(f"{task} makes sound; ask for it with generate or stream")
        return run_tokens(self.scheduler, self.plan(task, **inputs))

    def _chunk_sizes(
        self, chunk_frames: Sequence[int] | None, max_latency_ms: float | None
    ) -> ChunkSizes:
        if max_latency_ms is None:
            return ChunkSizes(chunk_frames, self.frame_rate)
        if chunk_frames is not None:
            raise InputError("expected either chunk_frames or max_latency_ms, got both")
        return chunk_sizes(self.model, max_latency_ms)

    def _audio_plan(self, task: str, **inputs: Any) -> Plan:
        if self.task(task).target != "audio":
            raise InputError(f"{task} makes no sound; ask for its answer with understand")
        return self.plan(task, **inputs)

    def plan(self, task: str, **inputs: Any) -> Plan:
        """Check a request and lay it out, without running the language model."""
        return make_plan(self.model, task, _with_voice(inputs))

    # Codec, units and voices

    def encode(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> NDArray[np.int32]:
        """Sound (see :func:`read_audio`) -> codes int32 [K', T] of the first K' codebooks.

        ``num_codebooks``: K' (0: all); or ``bandwidth`` in kbit/s, one of those that the codec was
        trained for.

        Raises :class:`InputError` for a codec that normalises loudness: codes alone are then half
        of the sound; :meth:`encode_audio` returns all of it.
        """
        return self.model.audio.encode(audio, num_codebooks, bandwidth)

    def encode_audio(
        self, audio: AudioSource, num_codebooks: int = 0, bandwidth: float | None = None
    ) -> EncodedAudio:
        """Sound -> codes, loudness and length, for every codec.

        :meth:`decode` then returns exactly as many samples as the source has at the codec's rate.
        Options are those of :meth:`encode`.
        """
        return self.model.audio.encode_audio(audio, num_codebooks, bandwidth)

    def num_codebooks(self, num_codebooks: int = 0, bandwidth: float | None = None) -> int:
        """The number of codebooks that :meth:`encode` would use.

        Raises :class:`InputError` where the codec does not offer it.
        """
        return self.model.audio.num_codebooks(num_codebooks, bandwidth)

    def decode(self, codes: EncodedAudio | NDArray[Any]) -> Audio:
        """The result of :meth:`encode_audio`, or codes [K', T] of the first K' codebooks -> sound.

        :class:`EncodedAudio` returns at its exact length. Bare codes return all samples of their
        frames; a codec that normalises loudness refuses them with :class:`InputError`.
        """
        return self.model.audio.decode(codes)

    @property
    def semantic_encoder(self) -> SemanticEncoder:
        """The semantic tokenizer. Raises :class:`InputError` where the model has none."""
        return self.model.semantic

    def semantic(self, audio: AudioSource) -> NDArray[np.int32]:
        """Sound -> semantic units int32 [T]: what is spoken, not by whom.

        Unit t belongs to frame t of :meth:`encode`.
        """
        encoder = self.semantic_encoder
        return encoder.encode(read_audio(audio, self.sample_rate).samples)

    def semantic_stream(self) -> SemanticStream:
        """Units as sound arrives: ``push`` float32 samples [N] at ``sample_rate``, then ``flush``.

        Units come ``lookahead`` samples after the end of their frame. Together they equal the
        result of :meth:`semantic`.
        """
        return self.semantic_encoder.stream()

    def encode_voice(
        self,
        audio: AudioSource,
        name: str = "",
        *,
        max_seconds: float | None = None,
        min_seconds: float = 0.5,
        licence: str = "",
        text: str = "",
    ) -> Voice:
        """A voice from the first ``max_seconds`` of a sound, not counting leading silence; by
        default as much as the model's tasks take. ``text``: what is said in it, for models that
        continue a recording with its words; others do without.

        Raises :class:`InputError` where less than ``min_seconds`` of it is not silent.
        """
        if max_seconds is None:
            inputs = [i for t in self.model.tasks.values() for i in t.inputs]
            most = [i.max_seconds for i in inputs if i.modality == "voice"]
            max_seconds = max(most, default=0.0) or 3.0
        return self.model.audio.encode_voice(
            audio,
            name,
            max_seconds=max_seconds,
            min_seconds=min_seconds,
            licence=licence,
            text=text,
        )

    def voices(self) -> list[str]:
        """Names of the voices in the model folder."""
        return self.model.voices()

    def voice(self, name: str) -> Voice:
        """A voice of the model folder. Raises :class:`InputError` for an unknown name."""
        return self.model.voice(name)


def _with_voice(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A request in which ``voice``, the other name for ``prompt``, is called so."""
    request = {k: v for k, v in inputs.items() if k != "voice"}
    if inputs.get("voice") is not None:
        if request.get("prompt") is not None:
            raise InputError("expected either voice or prompt, got both")
        request["prompt"] = inputs["voice"]
    return request


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
