"""Model configuration: the one place that names every choice a model can make.

The engine (C++), the torch reference modules and the importers all read these dataclasses; the C++
core receives the same JSON. Unknown keys are errors, so that a newer model never runs
half-understood.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..request.tasks import Task, task_table

FORMAT_VERSION = 1
MAX_CHUNK = 1 << 20  # samples
MAX_CHUNK_ROWS = 1 << 26  # samples x channels of the widest signal: all of it is in memory

_T = TypeVar("_T")


class ConfigError(ValueError):
    """A configuration that this engine does not accept; the message says expected, got and remedy."""


@dataclass(frozen=True)
class StackConfig:
    """One transformer stack (the global one over frames, or the local one over a frame's codes)."""

    layers: int
    width: int
    heads: int
    kv_heads: int = 0  # 0: as many as heads; fewer is grouped-query attention
    mlp_width: int = 0  # 0: 4 x width
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    activation: Literal["gelu", "swiglu"] = "swiglu"  # gelu is the exact (erf) form
    positions: Literal["learned", "rope"] = "rope"
    rope_base: float = 10000.0
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden(self) -> int:
        return self.mlp_width or 4 * self.width

    def check(self, where: str) -> None:
        _require(1 <= self.layers <= 256, f"{where}.layers", "1 to 256", self.layers)
        _require(1 <= self.width <= 16384, f"{where}.width", "1 to 16384", self.width)
        _require(
            1 <= self.heads <= 256 and self.width % self.heads == 0,
            f"{where}.heads",
            "a divisor of width",
            self.heads,
        )
        _require(
            0 <= self.kv_heads <= self.heads and self.heads % self.num_kv_heads == 0,
            f"{where}.kv_heads",
            "0 or a divisor of heads",
            self.kv_heads,
        )
        _require(0 <= self.mlp_width <= 65536, f"{where}.mlp_width", "0 to 65536", self.mlp_width)
        _require(
            self.positions != "rope" or self.head_dim % 2 == 0,
            f"{where}.head_dim",
            "an even number for rope",
            self.head_dim,
        )
        _require(0 < self.norm_eps < 1, f"{where}.norm_eps", "between 0 and 1", self.norm_eps)
        _require(self.rope_base > 1, f"{where}.rope_base", "above 1", self.rope_base)


@dataclass(frozen=True)
class LMConfig:
    """The multi-scale language model (UniAudio section 3.3; MegaByte-style).

    A step is one frame of ``num_codebooks`` slots. The global stack sees frames < t (shifted right
    by one frame of ``start_id``); the local stack then predicts frame t's slots one by one.

    ``embedding``: how a frame's K slot ids become one global input of width D: ``concat`` of K rows
    of width D/K, or ``sum`` of K rows of width D. ``conditioning``: how the local stack sees the
    global output h [D]: ``add`` views h as K slices of D/K, maps each by ``bridge`` to the local
    width and adds it at its slot; the local input at slot 0 is the embedding of ``local_start_id``.
    ``prefix`` maps the whole h by ``bridge`` and uses it in place of that embedding at slot 0.
    ``aligned_slots``/``aligned_vocab``: a time-aligned source (phones, notes, units) that rides
    beside the target: S ids per frame, embedded, summed and added to the global input of the step
    that predicts that frame; id -1 adds nothing. ``continuous``: name -> width of external
    embeddings that replace a frame's embedding through a linear map.
    """

    vocab_size: int
    num_codebooks: int
    global_: StackConfig
    local: StackConfig
    embedding: Literal["concat", "sum"] = "sum"
    conditioning: Literal["add", "prefix"] = "prefix"
    start_id: int = 0
    local_start_id: int = 1
    max_frames: int = (
        4096  # learned positions: the table's length; rope: a limit on the KV cache only
    )
    aligned_slots: int = 0
    aligned_vocab: int = 0
    continuous: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        self.global_.check("lm.global")
        self.local.check("lm.local")
        _require(1 <= self.vocab_size <= 1 << 20, "lm.vocab_size", "1 to 1048576", self.vocab_size)
        _require(1 <= self.num_codebooks <= 64, "lm.num_codebooks", "1 to 64", self.num_codebooks)
        _require(
            self.max_frames >= 1 and self.max_frames <= 1 << 20,
            "lm.max_frames",
            "1 to 1048576",
            self.max_frames,
        )
        for name in ("start_id", "local_start_id"):
            _require(
                0 <= getattr(self, name) < self.vocab_size,
                f"lm.{name}",
                f"an id below vocab_size {self.vocab_size}",
                getattr(self, name),
            )
        needs_slices = self.embedding == "concat" or self.conditioning == "add"
        _require(
            not needs_slices or self.global_.width % self.num_codebooks == 0,
            "lm.global.width",
            f"a multiple of num_codebooks {self.num_codebooks}",
            self.global_.width,
        )
        _require(
            (self.aligned_slots == 0) == (self.aligned_vocab == 0)
            and 0 <= self.aligned_slots <= 64
            and 0 <= self.aligned_vocab <= 1 << 20,
            "lm.guide_vocab",
            "above 0 exactly when guide_slots is",
            self.aligned_vocab,
        )
        for name, width in self.continuous.items():
            _require(1 <= width <= 65536, f"lm.continuous.{name}", "1 to 65536", width)


@dataclass(frozen=True)
class SpectralConfig:
    """Codec at frame rate: STFT -> causal ConvNeXt -> RVQ -> causal ConvNeXt -> ISTFT (Vocos-like
    heads).

    Everything is at frame rate, so that the arithmetic is dense matrix products. Each frame holds
    ``encoder_subframes`` analysis windows (hop = frame_size / encoder_subframes), each ending at
    the end of its subframe, so the encoder looks ahead by nothing beyond its frame. The decoder
    writes ``decoder_subframes`` synthesis windows per frame; sample n is complete when every window
    over it is there, so the decoder looks ahead by ``decoder_window - frame_size /
    decoder_subframes`` samples.

    ``encoder_phases`` false: the encoder reads log-magnitudes only, which is all that phones need.
    ``decoder_blocks`` 0: there is no decoder, and codes are units that nothing makes sound of (see
    :class:`SemanticConfig`).
    """

    encoder_window: int = 640
    encoder_subframes: int = 2
    encoder_width: int = 256
    encoder_blocks: int = 4
    encoder_hidden: int = 768
    decoder_window: int = 640
    decoder_subframes: int = 2
    decoder_width: int = 320
    decoder_blocks: int = 6
    decoder_hidden: int = 960
    kernel_size: int = 7
    log_floor: float = 1e-3
    encoder_phases: bool = True

    @property
    def features(self) -> int:
        """Inputs of the encoder, a frame."""
        return (
            (self.encoder_window // 2 + 1)
            * self.encoder_subframes
            * (3 if self.encoder_phases else 1)
        )

    def check(self, frame_size: int) -> None:
        for side in ("encoder", "decoder"):
            window, sub = getattr(self, f"{side}_window"), getattr(self, f"{side}_subframes")
            _require(
                1 <= sub <= 64 and frame_size % sub == 0,
                f"codec.spectral.{side}_subframes",
                f"a divisor of frame_size {frame_size}",
                sub,
            )
            _require(
                window % 2 == 0 and frame_size // sub <= window <= 16384,
                f"codec.spectral.{side}_window",
                f"even, {frame_size // sub} to 16384",
                window,
            )
            for part in ("width", "blocks", "hidden"):
                value = getattr(self, f"{side}_{part}")
                least = 0 if (side, part) == ("decoder", "blocks") else 1
                _require(
                    least <= value <= 16384,
                    f"codec.spectral.{side}_{part}",
                    f"{least} to 16384",
                    value,
                )
        _require(
            1 <= self.kernel_size <= 63, "codec.spectral.kernel_size", "1 to 63", self.kernel_size
        )
        _require(self.log_floor > 0, "codec.spectral.log_floor", "above 0", self.log_floor)


@dataclass(frozen=True)
class SeanetConfig:
    """Time-domain codec of SoundStream / EnCodec type (EnCodec: arXiv 2210.13438)."""

    channels: int = 1
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)  # decoder order; the encoder uses the reverse
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    conv_shortcut: bool = True
    lstm_layers: int = 2
    causal: bool = False
    pad_mode: Literal["zero", "reflect"] = "reflect"
    trim_right_ratio: float = 1.0
    norm: Literal["none", "group"] = (
        # weight norm is folded at conversion; "group" is the time-group-norm of EnCodec 48 kHz
        "none"
    )
    # EnCodec 48 kHz works in chunks of ``chunk_size`` samples, one every ``chunk_stride``, each
    # coded by itself and joined by linear cross-fades; 0: the whole clip is one.
    chunk_size: int = 0
    chunk_stride: int = 0
    # each chunk is divided by its loudness (RMS of the channels' mean), which travels beside its
    # codes
    normalize: bool = False

    def check(self, frame_size: int) -> None:
        product = 1
        for r in self.ratios:
            _require(1 <= r <= 64, "codec.seanet.ratios", "1 to 64 each", r)
            product *= r
        _require(
            product == frame_size,
            "codec.seanet.ratios",
            f"a product of frame_size {frame_size}",
            product,
        )
        for name in (
            "channels",
            "filters",
            "kernel_size",
            "last_kernel_size",
            "residual_kernel_size",
            "dilation_base",
            "compress",
        ):
            _require(
                1 <= getattr(self, name) <= 4096,
                f"codec.seanet.{name}",
                "1 to 4096",
                getattr(self, name),
            )
        for name in ("residual_layers", "lstm_layers"):
            _require(
                0 <= getattr(self, name) <= 16,
                f"codec.seanet.{name}",
                "0 to 16",
                getattr(self, name),
            )
        _require(
            0 <= self.trim_right_ratio <= 1,
            "codec.seanet.trim_right_ratio",
            "0 to 1",
            self.trim_right_ratio,
        )
        _require(
            0 <= self.chunk_size <= MAX_CHUNK,
            "codec.seanet.chunk_size",
            f"0 to {MAX_CHUNK} samples",
            self.chunk_size,
        )
        _require(
            self.chunk_size * max(self.channels, self.filters) <= MAX_CHUNK_ROWS,
            "codec.seanet.chunk_size",
            f"at most {MAX_CHUNK_ROWS} / channels or filters",
            self.chunk_size,
        )
        # no more than eight chunks over a sample: what comes out is bounded by what comes in
        least = -(-self.chunk_size // 8)
        _require(
            least <= self.chunk_stride <= self.chunk_size,
            "codec.seanet.chunk_stride",
            f"{least} to chunk_size {self.chunk_size}",
            self.chunk_stride,
        )


@dataclass(frozen=True)
class CodecConfig:
    """A neural codec: ``codes`` [K, T] at ``sample_rate / frame_size`` frames a second."""

    family: Literal["spectral", "seanet"]
    sample_rate: int = 16000
    frame_size: int = 320
    num_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 64
    spectral: SpectralConfig | None = None
    seanet: SeanetConfig | None = None
    bandwidths: tuple[
        float, ...
    ] = ()  # kbit/s that it was trained for, ascending; a choice of one is a choice of codebooks

    @property
    def frame_rate(self) -> float:
        """Hz; of a codec that works in chunks, within a chunk."""
        return self.sample_rate / self.frame_size

    @property
    def channels(self) -> int:
        return self.seanet.channels if self.family == "seanet" and self.seanet is not None else 1

    @property
    def normalizes(self) -> bool:
        """Whether codes are only half of the sound: the chunks' loudness (``scales``) is the other."""
        return self.family == "seanet" and self.seanet is not None and self.seanet.normalize

    @property
    def chunk(self) -> tuple[int, int]:
        """(size, stride) in samples of the chunks that it works in, or (0, 0): whole clips."""
        s = self.seanet if self.family == "seanet" else None
        return (s.chunk_size, s.chunk_stride) if s is not None else (0, 0)

    def frames(self, samples: int) -> int:
        """Frames T of a clip of that many samples (each channel)."""
        size, stride = self.chunk
        if size:
            return -(-samples // stride) * -(-size // self.frame_size)
        return -(-samples // self.frame_size)

    def codebooks_for(self, bandwidth: float) -> int:
        """Codebooks K' of a bandwidth in kbit/s, by EnCodec's rule: as many as fit, at least one.

        Raises :class:`ConfigError` for a bandwidth that is none of ``bandwidths``.
        """
        known = ", ".join(f"{b:g}" for b in self.bandwidths)
        if not self.bandwidths:
            raise ConfigError(
                "bandwidth: this codec names none; choose a number of codebooks, 1 to "
                f"{self.num_codebooks}"
            )
        if (
            isinstance(bandwidth, bool)
            or not isinstance(bandwidth, (int, float))
            or bandwidth not in self.bandwidths
        ):
            raise ConfigError(f"bandwidth: expected one of {known} (kbit/s), got {bandwidth!r}")
        each = math.log2(self.codebook_size) * -(
            -self.sample_rate // self.frame_size
        )  # bit/s of one codebook
        return min(self.num_codebooks, max(1, math.floor(bandwidth * 1000 / each)))

    def check(self) -> None:
        _require(
            1000 <= self.sample_rate <= 384000,
            "codec.sample_rate",
            "1000 to 384000 Hz",
            self.sample_rate,
        )
        _require(
            1 <= self.frame_size <= 65536, "codec.frame_size", "1 to 65536 samples", self.frame_size
        )
        _require(
            1 <= self.num_codebooks <= 64, "codec.num_codebooks", "1 to 64", self.num_codebooks
        )
        _require(
            2 <= self.codebook_size <= 65536,
            "codec.codebook_size",
            "2 to 65536",
            self.codebook_size,
        )
        _require(
            1 <= self.codebook_dim <= 4096, "codec.codebook_dim", "1 to 4096", self.codebook_dim
        )
        ascending = all(
            a < b for a, b in zip((0.0, *self.bandwidths), self.bandwidths, strict=False)
        )
        _require(
            len(self.bandwidths) <= 64 and ascending and max(self.bandwidths, default=0) < 1e6,
            "codec.bandwidths",
            "at most 64 ascending numbers of kbit/s",
            self.bandwidths,
        )
        part = self.spectral if self.family == "spectral" else self.seanet
        if part is None:
            raise ConfigError(
                f"config: codec.{self.family} is missing for family {self.family!r}; add that "
                "section"
            )
        part.check(self.frame_size)

    @property
    def has_decoder(self) -> bool:
        return (
            self.family != "spectral" or self.spectral is None or self.spectral.decoder_blocks > 0
        )


@dataclass(frozen=True)
class SemanticConfig:
    """The semantic tokenizer: units that say which phone is spoken and not by whom, one a frame of
    the codec.

    ``encoder``: an encoder without a decoder, with one codebook. ``delay`` frames pass before it
    says what a frame was: its code at frame t + delay is the unit of frame t, so it looks ahead by
    ``delay * frame_size`` samples.
    """

    encoder: CodecConfig
    delay: int = 4

    def check(self, codec: CodecConfig) -> None:
        e = self.encoder
        e.check()
        _require(
            not e.has_decoder,
            "semantic.encoder.spectral.decoder_blocks",
            "0 (units are never decoded)",
            e.spectral and e.spectral.decoder_blocks,
        )
        _require(e.num_codebooks == 1, "semantic.encoder.num_codebooks", "1", e.num_codebooks)
        _require(0 <= self.delay <= 64, "semantic.delay", "0 to 64 frames", self.delay)
        for name in ("sample_rate", "frame_size"):
            _require(
                getattr(e, name) == getattr(codec, name),
                f"semantic.encoder.{name}",
                f"the codec's {getattr(codec, name)}",
                getattr(e, name),
            )


@dataclass(frozen=True)
class Span:
    """A run of ids in the vocabulary that belongs to one tokenizer."""

    name: str
    start: int
    size: int


@dataclass(frozen=True)
class VocabularyConfig:
    """Special tokens (ids 0..n-1 in order) and the spans of the discrete tokenizers; aligned spans
    have their own ids.
    """

    specials: tuple[str, ...]
    spans: tuple[Span, ...]
    aligned_spans: tuple[Span, ...] = ()

    def span(self, name: str) -> Span:
        for s in self.spans:
            if s.name == name:
                return s
        raise ConfigError(
            f"vocabulary has no span {name!r}; it has {', '.join(s.name for s in self.spans)}"
        )

    def aligned_span(self, name: str) -> Span:
        for s in self.aligned_spans:
            if s.name == name:
                return s
        raise ConfigError(
            f"vocabulary has no aligned span {name!r}; it has "
            f"{', '.join(s.name for s in self.aligned_spans)}"
        )

    def special(self, name: str) -> int:
        try:
            return self.specials.index(name)
        except ValueError:
            raise ConfigError(f"vocabulary has no special token {name!r}") from None

    def check(self, lm: LMConfig) -> None:
        names = list(self.specials) + [s.name for s in self.spans]
        _require(len(set(names)) == len(names), "vocabulary", "unique names", "duplicates")
        for spans, limit, first, what in (
            (self.spans, lm.vocab_size, len(self.specials), "spans"),
            (self.aligned_spans, lm.aligned_vocab, 0, "guide_spans"),
        ):
            end = first
            for s in sorted(spans, key=lambda s: s.start):
                _require(
                    s.size >= 1 and s.start >= end and s.start + s.size <= limit,
                    f"vocabulary.{what}.{s.name}",
                    f"a free range below {limit}",
                    (s.start, s.size),
                )
                end = s.start + s.size


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

    def check(self) -> None:
        _require(
            1 <= self.format_version <= FORMAT_VERSION,
            "format_version",
            f"1 to {FORMAT_VERSION} (upgrade uniaudio-engine for newer folders)",
            self.format_version,
        )
        self.codec.check()
        _require(
            self.codec.has_decoder,
            "codec.spectral.decoder_blocks",
            "1 to 16384 (a model's codec has a decoder)",
            0,
        )
        if self.semantic is not None:
            self.semantic.check(self.codec)
        _require(
            (self.lm is None) == (self.vocabulary is None),
            "vocabulary",
            "present exactly when lm is",
            self.vocabulary,
        )
        if self.lm is not None and self.vocabulary is not None:
            self.lm.check()
            self.vocabulary.check(self.lm)
        names = [t if isinstance(t, str) else t.name for t in self.tasks]
        _require(len(set(names)) == len(names), "tasks", "distinct names", names)
        for task in self.task_table.values():
            task.check()

    @property
    def task_table(self) -> dict[str, Task]:
        """The tasks that this version can do with this model, by name."""
        return task_table(self.tasks)

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as e:
            raise ConfigError(f"config.json is not valid JSON: {e}") from None
        config = from_dict(ModelConfig, data, "config")
        config.check()
        return config

    @staticmethod
    def load(path: str | Path) -> ModelConfig:
        return ModelConfig.from_json(Path(path).read_text(encoding="utf-8"))


# The file format is older than some names of the code, and ``global`` is a Python keyword.
_KEYS = {
    "global_": "global",
    "aligned_slots": "guide_slots",
    "aligned_vocab": "guide_vocab",
    "aligned_spans": "guide_spans",
}
_OLD_VALUES = {"guide": "aligned"}  # a task input's ``place``


def to_dict(obj: Any) -> Any:
    """Dataclass -> plain JSON values under the file format's keys; absent parts are left out."""
    if dataclasses.is_dataclass(obj):
        fields = dataclasses.fields(obj)
        pairs = ((_KEYS.get(f.name, f.name), getattr(obj, f.name)) for f in fields)
        return {k: to_dict(v) for k, v in pairs if v is not None}
    if isinstance(obj, (tuple, list)):
        return [to_dict(v) for v in obj]
    return obj


def from_dict(cls: type[_T], data: Any, where: str = "config") -> _T:
    """Plain JSON values -> dataclass.

    Raises :class:`ConfigError` on unknown or missing keys and wrong types.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {_KEYS.get(f.name, f.name): f for f in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; this version of uniaudio-engine knows "
            f"{', '.join(sorted(fields))}"
        )
    values = {}
    for key, f in fields.items():
        if key in data:
            values[f.name] = _convert(hints[f.name], data[key], f"{where}.{key}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {key!r} is missing")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        if isinstance(value, str) and str in args:
            return value
        return _convert(next(a for a in args if a not in (type(None), str)), value, where)
    if origin is Literal:
        if isinstance(value, str) and value not in args:
            value = _OLD_VALUES.get(value, value)
        if value not in args:
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(repr, args))}, got {value!r}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, got {type(value).__name__}")
        return {k: _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _require(ok: bool, where: str, expected: str, got: Any) -> None:
    if not ok:
        raise ConfigError(f"config: {where}: expected {expected}, got {got!r}")
