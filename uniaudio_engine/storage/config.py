"""Model configuration: the one place that names every choice a model can make.

The engine (C++), the torch reference modules and the importers all read these dataclasses; the C++
core receives the same JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from ..request.task_table import task_table
from ..request.tasks import Task
from .codec_config import CodecConfig, SeanetConfig, SemanticConfig, SpectralConfig
from .codec_layers import (
    BottleneckConfig,
    CatConfig,
    CatSide,
    CatStage,
    QuantizerConfig,
    SnakeDecoderConfig,
    TransformerConfig,
)
from .json_config import ConfigError, from_dict, require, require_within, to_dict
from .lm_config import LMConfig, Span, StackConfig, VocabularyConfig
from .postfilter_config import FILTERS, PostFilterConfig
from .speaker_config import EcapaConfig
from .text_slot_config import PromptPart, TextSlotConfig, WordByWord

__all__ = [
    "TransformerConfig",
    "QuantizerConfig",
    "CatStage",
    "CatSide",
    "CatConfig",
    "BottleneckConfig",
    "CodecConfig",
    "ConfigError",
    "EcapaConfig",
    "LMConfig",
    "ModelConfig",
    "PostFilterConfig",
    "PromptPart",
    "SeanetConfig",
    "SemanticConfig",
    "SnakeDecoderConfig",
    "Span",
    "SpectralConfig",
    "StackConfig",
    "TextSlotConfig",
    "VocabularyConfig",
    "WordByWord",
    "from_dict",
    "to_dict",
]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelConfig:
    """``config.json`` of a model folder."""

    format_version: int
    name: str
    codec: CodecConfig
    lm: LMConfig | None = None
    vocabulary: VocabularyConfig | None = None
    tasks: tuple[str | Task, ...] = ()  # names of built-in tasks, or whole entries
    licence: str = ""
    semantic: SemanticConfig | None = None
    # dBFS that sources and voice prompts are brought to, as in training; None: they stay as they are
    level: float | None = None
    # The same for the sources of single tasks whose training had another level
    source_levels: dict[str, float] = field(default_factory=dict)
    # Default scale of classifier-free guidance of tasks that this model does best at another one
    guidance: dict[str, float] = field(default_factory=dict)
    text_slot: TextSlotConfig | None = None  # of a frame's slots, one holds text
    postfilter: PostFilterConfig | None = None  # of tasks without a voice
    voice_filter: PostFilterConfig | None = None  # of tasks that keep one voice

    def check(self) -> None:
        require_within(
            "format_version",
            1,
            self.format_version,
            FORMAT_VERSION,
            "(upgrade uniaudio-engine for newer folders)",
        )
        self.codec.check()
        require(
            self.codec.has_decoder,
            "codec.spectral.decoder_blocks",
            "1 to 16384 (a model's codec has a decoder)",
            0,
        )
        if self.semantic is not None:
            self.semantic.check(self.codec)
        for name, config in self.filters.items():
            config.check(name)
            expected = "above 0" if name == "voice_filter" else "0"
            require(config.name == name, f"{name}.voice", expected, config.voice)
            channels = self.codec.channels
            require(channels == 1, name, "none with several channels", channels)
        if self.level is not None:
            require_within("level", -60, self.level, 0, "dBFS")
            channels = self.codec.channels
            require(channels == 1, "level", "none with several channels", self.level)
        for name, level in self.source_levels.items():
            require(name in self.task_table, "source_levels", "names of the model's tasks", name)
            require_within(f"source_levels.{name}", -60, level, 0, "dBFS")
        guided = {n for n, t in self.task_table.items() if t.guided_by}
        for name, scale in self.guidance.items():
            require(name in guided, "guidance", f"tasks that take it: {sorted(guided)}", name)
            require_within(f"guidance.{name}", 0, scale, 20)
        require(
            (self.lm is None) == (self.vocabulary is None),
            "vocabulary",
            "present exactly when lm is",
            self.vocabulary,
        )
        if self.lm is not None and self.vocabulary is not None:
            self.lm.check()
            self.vocabulary.check(self.lm)
        if self.text_slot is not None:
            require(self.lm is not None, "text_slot", "none without lm", "one")
            assert self.lm is not None and self.vocabulary is not None
            self.text_slot.check(self.lm, self.vocabulary)
        names = [t if isinstance(t, str) else t.name for t in self.tasks]
        require(len(set(names)) == len(names), "tasks", "distinct names", names)
        for task in self.task_table.values():
            task.check()

    @property
    def lm_codebooks(self) -> int:
        """Codebooks of the codec that a frame of the LM holds; 0 without an LM."""
        slots = 0 if self.lm is None else self.lm.num_codebooks - self.lm.given_slots
        return slots - (self.text_slot is not None)

    def source_level(self, task: str) -> float | None:
        """dBFS that the source of a task is brought to; None: it stays as it is."""
        return self.source_levels.get(task, self.level)

    @property
    def filters(self) -> dict[str, PostFilterConfig]:
        """The filters that there are, by name; the weights of each are NAME.safetensors."""
        found = {name: getattr(self, name) for name in FILTERS}
        return {name: config for name, config in found.items() if config is not None}

    @property
    def task_table(self) -> dict[str, Task]:
        """The tasks that this version can do with this model, by name."""
        return {
            name: replace(
                task,
                guidance=self.guidance.get(name, task.guidance),
                postfilter=task.postfilter and task.filter in self.filters,
            )
            for name, task in task_table(self.tasks).items()
        }

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as e:
            raise ConfigError(f"config.json is not valid JSON: {e}") from None
        for name in FILTERS if isinstance(data, dict) else ():
            if isinstance(data.get(name), dict):  # of before: whether it hears the model's answer
                data[name].pop("answer", None)
        config = from_dict(ModelConfig, data, "config")
        config.check()
        return config
