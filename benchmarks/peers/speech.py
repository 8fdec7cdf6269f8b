"""Text to 48 kHz sound with VieNeu-TTS and MOSS-TTS-Nano: what the engine and its peers share.

A prepared folder (``text_slot_peers.py``) holds one model's random weights in every form: ``whole`` (a
model folder in bfloat16), ``int8`` (the same, quantized), ``decoder.safetensors`` (the codec's decoder
for peers) and ``graphs``. Peers take the best id of every slot and speak a fixed number of frames; the
engine samples, which costs more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from models import Model
from numpy.typing import NDArray

from uniaudio_engine.audio.voice import Voice
from uniaudio_engine.request.sequence import Layout
from uniaudio_engine.request.sequence_builder import Spoken, build
from uniaudio_engine.request.text_slot import vector_key
from uniaudio_engine.storage.config import CodecConfig, ModelConfig, StackConfig
from uniaudio_engine.storage.folder import load_described
from uniaudio_engine.storage.tensors import Tensors, from_bfloat16, load_tensors
from uniaudio_engine.tokenizers.speaker import Speaker
from uniaudio_engine.tokenizers.text import TextTokenizer

TEXT = "the quick brown fox jumps over the lazy dog and goes on to the river, where it rests."
VOICE = "one"  # the only one of a prepared folder


@dataclass(frozen=True)
class SpeechSpec:
    """One engine of a run: ``kind`` of ``worker.KINDS``; ``folder``: a prepared one."""

    kind: str
    dtype: str
    folder: Path
    threads: int

    @property
    def name(self) -> str:
        return f"{self.kind.removeprefix('speech-')}-{self.dtype}"


@dataclass(frozen=True)
class Stage:
    """A transformer of the codec's decoder, after which each row becomes ``ratio`` rows."""

    name: str
    config: StackConfig
    window: int
    split: int  # rows that each row becomes before the stage


class Source:
    """A prepared folder as the peers read it: prompts, and float32 weights by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = load_described(folder / "whole")
        self.config = described.config
        lm, slot, vocabulary = self.config.lm, self.config.text_slot, self.config.vocabulary
        assert lm is not None and slot is not None and vocabulary is not None
        self.layout = Layout.of(lm, vocabulary, slot)
        if slot.voice_width:  # peers add the voice's row to every input, as an aligned one
            lm = replace(lm, aligned_slots=1, aligned_vocab=1)
        allowed = tuple(tuple(r) for r in self.layout.audio_ranges())
        self.model = Model(self.config.name, lm, allowed)
        self.voice = Voice.load(folder / "int8" / "voices" / f"{VOICE}.safetensors")
        file = described.captions or described.tokenizer
        self.tokenizer = TextTokenizer(slot, vocabulary.span("text").size, file, folder)
        self.stages = decoder_stages(self.config.codec)

    def weights(self) -> Tensors:
        """The language model's; ``guide.weight`` is the voice's row, where it has one."""
        weights = widened(self.folder / "whole" / "lm.safetensors")
        if self.voice.vector is not None:
            speaker = Speaker(widened(self.folder / "whole" / "speaker.safetensors"), None)
            weights["guide.weight"] = speaker.row(self.voice.vector)[None]
        return weights

    def decoder(self) -> Tensors:
        return load_tensors(self.folder / "decoder.safetensors")[0]

    def prompt(self, text: str) -> NDArray[np.int32]:
        """The rows [T, K] before the sound; VieNeu's text is its phones."""
        task = next(iter(self.config.task_table.values()))
        spec = next(i for i in task.inputs if i.modality == "voice")
        assert task.text_input is not None
        values: dict[str, Any] = {
            task.text_input.name: Spoken(np.array(self.tokenizer.ids(text))),
            spec.name: self.voice.codes.T,
        }
        if self.voice.vector is not None:
            values[vector_key(spec)] = self.voice.vector
        sequence = build(self.layout, task, values)
        return np.concatenate((sequence.shared.frames, sequence.body.frames))


def widened(path: Path) -> Tensors:
    tensors, _ = load_tensors(path)
    return {k: from_bfloat16(v) if v.dtype == np.uint16 else v for k, v in tensors.items()}


def decoder_stages(c: CodecConfig) -> list[Stage]:
    """Of a CAT codec, as stacks of the language model's kind."""
    assert c.cat is not None
    stages = []
    for i, (split, stage) in enumerate(
        zip(c.cat.decoder.patches, c.cat.decoder.stages, strict=False)
    ):
        t = stage.transformer
        config = StackConfig(
            t.layers,
            t.width,
            t.heads,
            mlp_width=t.mlp_width,
            norm="layernorm",
            norm_eps=t.norm_eps,
            activation="gelu",
            rope_base=t.rope_base,
            final_norm=False,
        )
        stages.append(Stage(f"decoder.stages.{i}", config, t.window, split))
    return stages


def decoder_tensors(config: ModelConfig, codec: Tensors) -> Tensors:
    """The decoder's tensors in float32. ``table`` [codebooks, codes, latent] and ``bias`` [latent]
    are the codebooks with all that is linear after them folded in.
    """
    w = {k: from_bfloat16(v) if v.dtype == np.uint16 else v for k, v in codec.items()}
    out = {k: v for k, v in w.items() if k.startswith("decoder.")}
    books, maps = w["quantizer.codebooks"], w["quantizer.stages.output.weight"]
    last = w["quantizer.output.weight"].T
    out["table"] = np.stack(
        [
            (book @ each.T + bias) @ last
            for book, each, bias in zip(books, maps, w["quantizer.stages.output.bias"], strict=True)
        ]
    )
    out["bias"] = w["quantizer.output.bias"]
    return out


class SpeechPeer:
    """Times a peer. Subclasses load in ``_load`` and answer the rest."""

    version: str
    source: Source

    def __init__(self, spec: SpeechSpec) -> None:
        begin = time.perf_counter()
        self.source = Source(spec.folder)
        self._load(spec)
        self._seconds = time.perf_counter() - begin
        self._peak = memory("VmHWM:")

    def _load(self, spec: SpeechSpec) -> None:
        raise NotImplementedError

    def begin(self, rows: int, frames: int) -> None:
        """Make caches with room for ``rows`` of the language model and ``frames`` of the decoder."""
        raise NotImplementedError

    def generate(self, prompt: NDArray[np.int32], count: int) -> NDArray[np.int32]:
        """The best ids [count, K] after a prompt [T, K]."""
        raise NotImplementedError

    def logits(self, frames: NDArray[np.int32], known: int) -> NDArray[np.float32]:
        """Teacher-forced, concatenated slot by slot: [T - known, all that the slots may emit]."""
        raise NotImplementedError

    def decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """codes [codebooks, T] -> samples [2, N]; ``begin`` has been called."""
        raise NotImplementedError

    def loaded(self) -> tuple[float, float]:
        """Seconds to load, imports left out, and the process's peak memory then, in MB."""
        return self._seconds, self._peak

    def held(self) -> float:
        """MB of memory now."""
        return memory("VmRSS:")

    def speak(self, frames: int) -> float:
        """Seconds from the text to the last of ``frames`` frames of sound; caches are made before."""
        prompt = self.source.prompt(TEXT)
        self.begin(len(prompt) + frames, frames)
        begin = time.perf_counter()
        made = self.generate(self.source.prompt(TEXT), frames)
        samples = self.decode(np.ascontiguousarray(self.source.layout.frames_to_codes(made).T))
        seconds = time.perf_counter() - begin
        assert samples.shape == (2, frames * self.source.config.codec.frame_size)
        return seconds

    def first(self) -> float:
        """Seconds to the first frame of sound."""
        return self.speak(1)


def memory(key: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(key)[2].split()[0]) / 1024
