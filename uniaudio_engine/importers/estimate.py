"""What a model will need and how fast it can be at most, counted from its configuration alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..storage.config import CodecConfig, LMConfig, SnakeDecoderConfig
from ..storage.weight_shapes import codec_shapes, lm_shapes, matrix_part, quantized_shapes


@dataclass(frozen=True)
class Estimate:
    """``parameters``: numbers in all tensors. ``weight_bytes``: as they are run.
    ``once_bytes``: weights that the language model reads once a frame. ``slot_bytes``: those that it
    reads for each of the frame's ``slots``, which may stay in a cache. 0 without one.
    ``decoder_macs``: the codec decoder's multiply-adds for a frame, with full attention windows.
    """

    parameters: int
    weight_bytes: int
    once_bytes: int
    slot_bytes: int
    slots: int
    decoder_macs: int
    frame_rate: float

    @property
    def bytes_per_frame(self) -> int:
        return self.once_bytes + self.slots * self.slot_bytes

    def realtime_bound(
        self, bandwidth: float, slot_bandwidth: float, multiply_adds: float
    ) -> float:
        """Seconds of sound per second at most, with nothing else in the way.

        Bytes per second of large reads and of repeated reads of ``slot_bytes``, and float32
        multiply-adds per second.
        """
        seconds = self.once_bytes / bandwidth + self.slots * self.slot_bytes / slot_bandwidth
        return 1 / (self.frame_rate * (seconds + self.decoder_macs / multiply_adds))


def estimate(codec: CodecConfig, lm: LMConfig | None, dtypes: Mapping[str, str]) -> Estimate:
    """``dtypes``: of the language model's matrices, by ``weight_shapes.PARTS``."""
    sizes = {n: _bytes(s, "float32") for n, s in codec_shapes(codec).items()}
    shapes = {} if lm is None else lm_shapes(lm)
    lm_sizes = {
        n: _bytes(s, dtypes.get(matrix_part(n) or "", "float32")) for n, s in shapes.items()
    }
    return Estimate(
        sum(math.prod(s) for s in (*codec_shapes(codec).values(), *shapes.values())),
        sum(sizes.values()) + sum(lm_sizes.values()),
        *((0, 0, 0) if lm is None else _frame_bytes(lm, codec.codebook_size, lm_sizes, dtypes)),
        _decoder_macs(codec),
        codec.frame_rate,
    )


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    size = math.prod(shape)
    if dtype in ("float32", "bfloat16"):
        return size * (4 if dtype == "float32" else 2)
    stored, scales = quantized_shapes((shape[0], shape[1]), dtype)
    return math.prod(stored) + (8 if dtype == "int8" else 2) * math.prod(scales)  # scale and sum


def _frame_bytes(
    lm: LMConfig, codebook_size: int, sizes: Mapping[str, int], dtypes: Mapping[str, str]
) -> tuple[int, int, int]:
    """Once: the global stack, the bridge, and what a first head saves or adds. For each slot: the
    local stack, and the rows of the output head that a codebook has.
    """

    def of(prefix: str) -> int:
        skipped = ("embed.weight", "positions.weight")
        return sum(b for n, b in sizes.items() if n.startswith(prefix) and not n.endswith(skipped))

    # a table that is the head too is held a second time as that
    whole = _bytes((lm.local_rows, lm.local.width), dtypes.get("head", "float32"))
    head = whole * codebook_size // lm.local_rows
    first = sizes.get("global_head.weight", head)
    local = of("local.") // lm.weight_sets
    once = of("global.") + of("bridge.") + first - head - lm.first_local * local
    return once, local + head, lm.num_codebooks


def _decoder_macs(c: CodecConfig) -> int:
    rows = _decoder_rows(c)
    macs = 0
    for name, shape in codec_shapes(c).items():
        parts = [r for prefix, r in rows.items() if name.startswith(prefix)]
        if parts and len(shape) > 1:
            macs += max(parts) * math.prod(shape)
    return macs + _attention_macs(c)


def _decoder_rows(c: CodecConfig) -> dict[str, int]:
    """How often a frame uses the weights whose names begin so."""
    if c.family == "cat" and c.cat is not None:
        rows, found = 1, {"quantizer.output": 1}
        for i, patch in enumerate(c.cat.decoder.patches[: len(c.cat.decoder.stages)]):
            rows *= patch
            found[f"decoder.stages.{i}."] = rows
        return found
    if c.family == "seanet" and c.seanet is not None:
        s = c.seanet
        if s.decoder is not None:
            return _snake_rows(s.decoder)
        rows = 1 if s.bottleneck is None else s.bottleneck.stride
        names = ("up", "transformer.", "input.", "lstm.")
        found = {f"decoder.{n}": rows for n in names}
        for i, ratio in enumerate(s.ratios):
            found[f"decoder.stages.{i}.up."] = rows
            rows *= ratio
            found[f"decoder.stages.{i}.blocks."] = rows
        return found | {"decoder.output.": rows}
    return {"decoder.": 1}


def _snake_rows(d: SnakeDecoderConfig) -> dict[str, int]:
    rows, found = 1, {"decoder.input.": 1, "decoder.transformer.": 1}
    for i, ratio in enumerate(d.upsample):
        found[f"decoder.upsample.{i}.rows."] = rows
        rows *= ratio
        found[f"decoder.upsample.{i}."] = rows
    found["decoder.widen."] = rows
    for i, ratio in enumerate(d.ratios):
        found[f"decoder.stages.{i}.up."] = rows
        rows *= ratio
        found[f"decoder.stages.{i}.blocks."] = rows
    return found | {"decoder.output.": rows}


def _attention_macs(c: CodecConfig) -> int:
    """Queries with keys, and weights with values, over full windows."""
    if c.family == "cat" and c.cat is not None:
        rows, macs = 1, 0
        for patch, stage in zip(c.cat.decoder.patches, c.cat.decoder.stages, strict=False):
            rows, t = rows * patch, stage.transformer
            macs += 2 * rows * t.layers * t.width * t.window
        return macs
    if c.seanet is not None and c.family == "seanet" and c.seanet.bottleneck is not None:
        if (d := c.seanet.decoder) is not None:
            return 2 * d.transformer.layers * d.transformer.query_width * d.transformer.window
        t = c.seanet.bottleneck.transformer
        return 2 * c.seanet.bottleneck.stride * t.layers * t.width * t.window
    return 0
