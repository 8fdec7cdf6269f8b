"""The configuration of a language model and of its vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .json_config import ConfigError, require, require_within

MAX_DELAY = 256  # steps


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
    # gelu is the exact (erf) form, gelu_tanh its usual approximation
    activation: Literal["gelu", "gelu_tanh", "swiglu"] = "swiglu"
    positions: Literal["learned", "rope"] = "rope"
    rope_base: float = 10000.0
    # radians per position of each pair of a head's dimensions; empty: those of rope_base
    rope_frequencies: tuple[float, ...] = ()
    head_width: int = 0  # 0: width / heads
    qk_norm: bool = False  # RMSNorm over each head's query and key, before rope
    final_norm: bool = True  # after the last layer
    window: int = 0  # positions that a query sees, its own included; 0: all before it
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False

    @property
    def head_dim(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def hidden(self) -> int:
        return self.mlp_width or 4 * self.width

    def check(self, where: str) -> None:
        require_within(f"{where}.layers", 1, self.layers, 256)
        require_within(f"{where}.width", 1, self.width, 16384)
        require_within(f"{where}.heads", 1, self.heads, 256)
        require_within(f"{where}.head_width", 0, self.head_width, 1024)
        require(
            self.head_width > 0 or self.width % self.heads == 0,
            f"{where}.heads",
            "a divisor of width, or head_width given",
            self.heads,
        )
        require(
            0 <= self.kv_heads <= self.heads and self.heads % self.num_kv_heads == 0,
            f"{where}.kv_heads",
            "0 or a divisor of heads",
            self.kv_heads,
        )
        require_within(f"{where}.mlp_width", 0, self.mlp_width, 65536)
        require(
            self.positions != "rope" or self.head_dim % 2 == 0,
            f"{where}.head_dim",
            "an even number for rope",
            self.head_dim,
        )
        require_within(f"{where}.window", 0, self.window, 1 << 20)
        require(0 < self.norm_eps < 1, f"{where}.norm_eps", "between 0 and 1", self.norm_eps)
        require(self.rope_base > 1, f"{where}.rope_base", "above 1", self.rope_base)
        require(
            len(self.rope_frequencies) in (0, self.head_dim // 2),
            f"{where}.rope_frequencies",
            f"none, or one for each of {self.head_dim // 2} pairs",
            len(self.rope_frequencies),
        )
        for frequency in self.rope_frequencies:
            require_within(f"{where}.rope_frequencies", 0, frequency, math.pi)


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
    ``project`` maps the whole h for each slot by rows of ``bridge`` of its own and adds it there.
    ``aligned_slots``/``aligned_vocab``: sources aligned with the target in time (phones, notes,
    units). S ids per frame are embedded, summed and added to the global input of the step that
    predicts that frame; id -1 adds nothing. ``continuous``: name -> width of external embeddings
    that replace a frame's embedding through a linear map. ``tied_local``: the local stack embeds
    with the global stack's table; ``tied_head``: the output head is the local stack's table.
    ``global_head_size``: above 0, slot 0 is predicted by a head on the global output itself, whose
    rows are that many ids from ``global_head_start`` on, and can be no other.
    ``local_table_size``: above 0, the local stack's table and the output head have rows for that
    many ids from ``local_table_start`` on. Any other id has a row of zeros there and no logit.
    ``slot_weights``: the local stack's projections are others at each slot; its norms are not. A
    matrix holds those of all slots, one after the other: [slots x out, in].
    ``given_slots``: as many slots after slot 0 have given ids and are never predicted. They do not
    pass through the local stack, which begins with the sum of their rows and slot 0's.
    ``delays``: slot k of frame t is predicted at step t + delays[k]; empty: at step t. The places
    before a slot begins have ``delay_ids`` [rows][K], row by step; its last row is also that of all
    later steps, and of the places after a slot's last frame. See ``storage/delays.py``.
    """

    vocab_size: int
    num_codebooks: int
    global_: StackConfig
    local: StackConfig
    embedding: Literal["concat", "sum"] = "sum"
    conditioning: Literal["add", "prefix", "project"] = "prefix"
    start_id: int = 0
    local_start_id: int = 1
    # with learned positions the length of their table, with rope a limit on the KV cache only
    max_frames: int = 4096
    aligned_slots: int = 0
    aligned_vocab: int = 0
    continuous: dict[str, int] = field(default_factory=dict)
    tied_local: bool = False
    tied_head: bool = False
    global_head_start: int = 0
    global_head_size: int = 0
    local_table_start: int = 0
    local_table_size: int = 0
    slot_weights: bool = False
    given_slots: int = 0
    delays: tuple[int, ...] = ()
    delay_ids: tuple[tuple[int, ...], ...] = ()

    @property
    def max_delay(self) -> int:
        """Steps from a frame's first id to its last."""
        return max(self.delays, default=0)

    @property
    def embed_width(self) -> int:
        """Of a slot's row in the global stack's table."""
        return self.global_.width // (self.num_codebooks if self.embedding == "concat" else 1)

    @property
    def local_table(self) -> str:
        """The tensor that the local stack embeds with."""
        return "global.embed.weight" if self.tied_local else "local.embed.weight"

    @property
    def head_table(self) -> str:
        """The tensor of the output head."""
        return self.local_table if self.tied_head else "head.weight"

    @property
    def local_rows(self) -> int:
        """Ids of the local stack's table and of the output head."""
        return self.local_table_size or self.vocab_size

    @property
    def first_local(self) -> int:
        """The first slot that passes through the local stack: above 0 where slot 0 has a head of its
        own and the next slot's input holds the global output.
        """
        there = self.conditioning == "project" and self.global_head_size > 0
        return 1 + self.given_slots if there else 0

    @property
    def local_slots(self) -> int:
        """Slots that pass through the local stack."""
        return self.num_codebooks - self.first_local

    @property
    def weight_sets(self) -> int:
        """Sets of projections that the local stack has."""
        return self.local_slots if self.slot_weights else 1

    @property
    def local_reads(self) -> int:
        """How often a frame reads the local stack's matrices, each as a whole."""
        return self.local_slots // self.weight_sets

    @property
    def bridge_shape(self) -> tuple[int, int]:
        """Of ``bridge``, [out, in]."""
        d, k = self.global_.width, self.num_codebooks
        return (
            self.local.width * (self.local_slots if self.conditioning == "project" else 1),
            d // k if self.conditioning == "add" else d,
        )

    def check(self) -> None:
        self.global_.check("lm.global")
        self.local.check("lm.local")
        require_within("lm.vocab_size", 1, self.vocab_size, 1 << 20)
        require_within("lm.num_codebooks", 1, self.num_codebooks, 64)
        require(
            self.max_frames >= 1 and self.max_frames <= 1 << 20,
            "lm.max_frames",
            "1 to 1048576",
            self.max_frames,
        )
        for name in ("start_id", "local_start_id"):
            require(
                0 <= getattr(self, name) < self.vocab_size,
                f"lm.{name}",
                f"an id below vocab_size {self.vocab_size}",
                getattr(self, name),
            )
        needs_slices = self.embedding == "concat" or self.conditioning == "add"
        require(
            not needs_slices or self.global_.width % self.num_codebooks == 0,
            "lm.global.width",
            f"a multiple of num_codebooks {self.num_codebooks}",
            self.global_.width,
        )
        require(
            (self.aligned_slots == 0) == (self.aligned_vocab == 0)
            and 0 <= self.aligned_slots <= 64
            and 0 <= self.aligned_vocab <= 1 << 20,
            "lm.guide_vocab",
            "above 0 exactly when guide_slots is",
            self.aligned_vocab,
        )
        require(
            not self.tied_local or self.embed_width == self.local.width,
            "lm.tied_local",
            f"false, or a local width of {self.embed_width}, which a row of the shared table has",
            self.local.width,
        )
        require_within("lm.global_head_start", 0, self.global_head_start, self.vocab_size)
        most = self.vocab_size - self.global_head_start
        require_within("lm.global_head_size", 0, self.global_head_size, most)
        require_within("lm.local_table_start", 0, self.local_table_start, self.vocab_size)
        most = self.vocab_size - self.local_table_start
        require_within("lm.local_table_size", 0, self.local_table_size, most)
        require(
            self.local_table_size > 0 or self.local_table_start == 0,
            "lm.local_table_start",
            "0 where local_table_size is",
            self.local_table_start,
        )
        untied = not (self.tied_local or self.tied_head or self.conditioning == "add")
        require(
            self.local_table_size == 0 or untied,
            "lm.local_table_size",
            "0 with tied tables, or conditioning add",
            self.local_table_size,
        )
        require_within("lm.given_slots", 0, self.given_slots, 8)
        require(
            self.given_slots == 0 or self.first_local > 0,
            "lm.given_slots",
            "0 without conditioning project and global_head_size",
            self.given_slots,
        )
        require(
            self.local_slots > 0,
            "lm.num_codebooks",
            f"{self.first_local + 1} or more with conditioning project and global_head_size",
            self.num_codebooks,
        )
        for name, width in self.continuous.items():
            require_within(f"lm.continuous.{name}", 1, width, 65536)
        self._check_delays()

    def _check_delays(self) -> None:
        k = self.num_codebooks
        require(len(self.delays) in (0, k), "lm.delays", f"a list of {k}", len(self.delays))
        for delay in self.delays:
            require_within("lm.delays", 0, delay, MAX_DELAY)
        require(
            len(self.delay_ids) <= MAX_DELAY, "lm.delay_ids", "a list of rows", len(self.delay_ids)
        )
        for row in self.delay_ids:
            require(len(row) == k, "lm.delay_ids", f"rows of {k} ids", len(row))
            for id in row:
                require_within("lm.delay_ids", 0, id, self.vocab_size - 1)
        require(
            bool(self.delays) == bool(self.delay_ids),
            "lm.delay_ids",
            "given exactly where delays are",
            len(self.delay_ids),
        )
        if not self.delays:
            return
        require(
            min(self.delays) == 0 < self.max_delay,
            "lm.delays",
            "0 for some slots, more for others",
            self.delays,
        )
        others = self.aligned_slots or self.continuous or self.global_.positions == "learned"
        require(
            not others,
            "lm.delays",
            "none with guide_slots, continuous or learned global positions",
            self.delays,
        )


@dataclass(frozen=True)
class Span:
    """A range of ids in the vocabulary that belongs to one tokenizer."""

    name: str
    start: int
    size: int


@dataclass(frozen=True)
class VocabularyConfig:
    """Special tokens (ids 0..n-1 in order) and the spans of the discrete tokenizers.

    Aligned spans have ids of their own.
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
        require(len(set(names)) == len(names), "vocabulary", "unique names", "duplicates")
        for spans, limit, first, what in (
            (self.spans, lm.vocab_size, len(self.specials), "spans"),
            (self.aligned_spans, lm.aligned_vocab, 0, "guide_spans"),
        ):
            end = first
            for s in sorted(spans, key=lambda s: s.start):
                require(
                    s.size >= 1 and s.start >= end and s.start + s.size <= limit,
                    f"vocabulary.{what}.{s.name}",
                    f"a free range below {limit}",
                    (s.start, s.size),
                )
                end = s.start + s.size
