"""``uniaudio models``: the models that are bundled, and those of others that can be imported."""

from __future__ import annotations

import argparse
from typing import Any

from ..backends.core import core, default_threads
from ..errors import InputError
from ..importers.estimate import estimate
from ..importers.families import FAMILIES, NATIVE
from ..storage.config import CodecConfig, LMConfig
from ..storage.dtypes import auto_dtype
from ..storage.folder import bundled_models, load_config
from .output import print_about

_READ_MB = 256  # far larger than any last-level cache
_ROUNDS = 5
_HEADS = ("MODEL", "FAMILY", "WHAT IT IS", "LICENCE", "WEIGHTS", "MEMORY", "× REALTIME")


class _Machine:
    """What is measured here, the best of a few times: reads by their size, and multiply-adds. Both
    per second.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._bandwidths: dict[int, float] = {}
        try:
            peaks = [core().fma_peak(threads) for _ in range(3)]
        except ValueError as e:
            raise InputError(str(e)) from None
        self.multiply_adds = 1e9 * max(peaks) / 2

    def bandwidth(self, size: int) -> float:
        """Of repeated reads of a block of ``size`` bytes: smaller ones stay in a cache."""
        size = min(_READ_MB, max(1, -(-size >> 20)))  # MiB
        if size not in self._bandwidths:
            found = [core().read_bandwidth(self._threads, size) for _ in range(_ROUNDS)]
            self._bandwidths[size] = 1e9 * max(found)
        return self._bandwidths[size]


def models_command(args: argparse.Namespace) -> int:
    threads = args.threads or default_threads()
    machine = _Machine(threads)
    dtype, parts = core().lm_dtype(auto_dtype())
    rows = [_row(*model, parts, machine) for model in _models()]
    about = {
        "threads": threads,
        "isa": core().isa(),
        "dtype": dtype,
        "read_gb_per_s": round(machine.bandwidth(_READ_MB << 20) / 1e9, 1),
        "float32_gmac_per_s": round(machine.multiply_adds / 1e9, 1),
        "models": rows,
    }
    print_about(args, about, [*_table(rows), "", *_notes(about)])
    return 0


def _models() -> list[tuple[str, str, str, CodecConfig, LMConfig | None]]:
    """(name, family, licence, codec, language model) of each."""
    found = []
    for name, folder in bundled_models().items():
        c = load_config(folder)
        found.append((name, NATIVE, c.licence, c.codec, c.lm))
    for family in FAMILIES:
        for p in family.published:
            found.append((p.name, family.name, p.licence, p.codec, p.lm))
    return found


def _row(
    name: str,
    family: str,
    licence: str,
    codec: CodecConfig,
    lm: LMConfig | None,
    dtypes: dict[str, str],
    machine: _Machine,
) -> dict[str, Any]:
    counted = estimate(codec, lm, dtypes)
    return {
        "name": name,
        "family": family,
        "what": _what(codec, lm),
        "licence": licence,
        "parameters": counted.parameters,
        "weight_bytes": counted.weight_bytes,
        "bytes_per_frame": counted.bytes_per_frame,
        "decoder_macs_per_frame": counted.decoder_macs,
        "frame_rate": codec.frame_rate,
        "realtime_bound": round(
            counted.realtime_bound(
                machine.bandwidth(_READ_MB << 20),
                machine.bandwidth(counted.slot_bytes),
                machine.multiply_adds,
            ),
            2,
        ),
    }


def _what(codec: CodecConfig, lm: LMConfig | None) -> str:
    channels = {1: "mono", 2: "stereo"}.get(codec.channels, f"{codec.channels} channels")
    kind = "codec" if lm is None else "speech"
    return f"{kind}, {codec.sample_rate / 1000:g} kHz {channels}, {codec.frame_rate:g} frames/s"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [_HEADS]
    for r in rows:
        cells.append(
            (
                r["name"],
                r["family"],
                r["what"],
                r["licence"],
                f"{r['parameters'] / 1e6:.1f} M",
                f"{r['weight_bytes'] / 1e6:.0f} MB",
                f"{r['realtime_bound']:.3g}",
            )
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADS))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def _notes(about: dict[str, Any]) -> list[str]:
    return [
        f"Estimates from the models' shapes, before any download. MEMORY: the weights, with a "
        f"language model as {about['dtype']}.",
        f"× REALTIME is the most that {about['threads']} threads here can reach: "
        f"{about['read_gb_per_s']:g} GB/s of reads for the language model, more for what stays in a "
        f"cache, and {about['float32_gmac_per_s']:g} G multiply-adds a second for the codec's decoder "
        "(measured now, beside whatever else runs here).",
        "What a model that speaks really reaches: uniaudio bench -m MODEL. To get one: uniaudio import auto "
        "MODEL -o FOLDER, or -m MODEL in any command.",
    ]
