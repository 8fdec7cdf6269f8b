"""``uniaudio export verify``: each graph against its golden vectors, and the whole against the
native backend.

The golden vectors are what the torch modules said when the folder was written, of inputs that lie
beside them; state that is not stored is :func:`example_state`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..request.sequence import Ids
from ..storage.folder import bundled_models
from ..storage.tensors import load_tensors
from .onnx_folder import Exported, Graph, OnnxFolder
from .token_lm import Sampling, TokenLM

BOUNDS = {
    "float32": 1e-4,
    "int8": 1e-4,
    "float16": 2e-2,
}  # of the largest value, against a module of the same weights
AGREEMENT = 0.999  # of codes, where two codewords may be equally near
BORDERS = 1  # of the drawn frames, at which equal models may differ by rounding
SEEDS = 7, 8  # of a task, the second where the first met a border
AUDIO = 1e-4  # between backends that speak the same tokens
SECONDS = 10.0
TEXT = (
    "This is a sentence of the kind that a voice is tried with. It goes on for a while, until ten"
    " seconds are over, and a little longer so as to be sure, and then it ends, as all sentences "
    "do at last."
)


def example_state(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What a step finds as its state in the golden vectors: the same numbers everywhere."""
    return (0.1 * np.sin(0.7 * np.arange(int(np.prod(shape))))).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Row:
    """A line of the table. ``error``: the worst, as a share of the largest value; ``agreement`` of
    codes or ids; ``snr`` in dB; None: no such thing here. ``fine``: within its bound, or None where
    there is none.
    """

    what: str
    against: str
    error: float | None = None
    agreement: float | None = None
    snr: float | None = None
    fine: bool | None = None


def verify(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    threads: int = 1,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """The rows of the table; the folder is fine where no row's ``fine`` is false.

    ``model``: the folder that was exported, to compare with; None: the bundled one where it is
    that, else the golden vectors alone. Raises :class:`InputError` for a folder that cannot be
    loaded, or where ``model`` is another model's.
    """
    exported = OnnxFolder(path, device, threads)
    rows = list(_golden(exported, progress))
    native = _source(exported, model)
    if native is not None:
        rows += _native(exported, native, threads, progress)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""

    def number(v: float | None, form: str) -> str:
        return "–" if v is None else format(v, form)

    cells = [["", "against", "worst error", "agreement", "SNR dB", ""]]
    for r in rows:
        verdict = {True: "ok", False: "OUT OF BOUNDS", None: "no bound"}[r.fine]
        cells.append(
            [
                r.what,
                r.against,
                number(r.error, ".1e"),
                number(r.agreement, ".2%"),
                number(r.snr, ".1f"),
                verdict,
            ]
        )
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _golden(exported: Exported, progress: Callable[[str], None]) -> Iterator[Row]:
    stored, _ = load_tensors(exported.path / "golden.safetensors")
    for name in exported.about["graphs"]:
        progress(f"{name}: golden vectors")
        graph = exported.graph(name)
        made = graph.run(_inputs(graph, stored, exported))
        errors, agreements = [], []
        for output, value in made.items():
            wanted = stored.get(f"{name}.out.{output}")
            if wanted is None or wanted.shape != value.shape:
                raise InputError(
                    f"{exported.path / 'golden.safetensors'}: expected {name}'s {output} "
                    f"{list(value.shape)}, found "
                    f"{'none' if wanted is None else list(wanted.shape)}"
                )
            if value.dtype == np.int64:
                agreements.append(float((value == wanted).mean()))
            else:
                errors.append(
                    float(
                        np.abs(value.astype(np.float64) - wanted).max()
                        / max(1e-6, float(np.abs(wanted).max()))
                    )
                    if np.isfinite(value).all()
                    else np.inf
                )
        error, agreement = max(errors, default=None), min(agreements, default=None)
        bound = BOUNDS["float32" if name.startswith(("codec", "semantic")) else exported.dtype]
        # Ids that a float16 graph draws may differ where a random number falls near a border.
        least = (
            0.0
            if agreement is not None and name == "local_frame" and exported.dtype == "float16"
            else AGREEMENT
        )
        fine = (error is None or error <= bound) and (agreement is None or agreement >= least)
        yield Row(name, "golden vectors", error, agreement, None, fine)


def _inputs(
    graph: Graph, stored: dict[str, NDArray[Any]], exported: Exported
) -> dict[str, NDArray[Any]]:
    """A graph's golden inputs in its own types."""
    found: dict[str, NDArray[Any]] = {}
    sizes: dict[str, int] = {}
    for name, (dtype, ports) in graph.ports.items():
        value = stored.get(f"{graph.name}.in.{name}")
        if value is not None:
            found[name] = value.astype(dtype)
            sizes |= {d: n for d, n in zip(ports, value.shape, strict=True) if isinstance(d, str)}
    for name, (dtype, ports) in graph.ports.items():
        if name in found:
            continue
        if name not in graph.about.get("state", ()):
            raise InputError(
                f"{exported.path / 'golden.safetensors'}: expected an input {name} of "
                f"{graph.name}, found none; export the model again"
            )
        out = stored.get(f"{graph.name}.out.{name}_out")
        shape = tuple(out.shape) if out is not None else tuple(sizes.get(d, d) for d in ports)
        found[name] = example_state(shape).astype(dtype)
    return found


def _source(exported: Exported, model: str | os.PathLike[str] | None) -> Path | None:
    """The folder that was exported."""
    wanted: dict[str, str] = exported.about.get("source", {})
    candidates = [Path(model)] if model is not None else list(bundled_models().values())
    for folder in candidates:
        if all(
            (folder / n).is_file() and hashlib.sha256((folder / n).read_bytes()).hexdigest() == s
            for n, s in wanted.items()
        ):
            return folder
    if model is not None:
        raise InputError(
            f"{model}: expected the model that {exported.path} was exported from "
            f"({exported.about['model']}), got another"
        )
    return None


def _native(
    exported: Exported, folder: Path, threads: int, progress: Callable[[str], None]
) -> Iterator[Row]:
    from ..model import Model
    from ..request.plan import make_plan
    from ..request.scheduler import Scheduler
    from ..request.stream import AudioStream, collect

    native = Model.load(folder, dtype="float32", threads=threads)
    graphs = Model.load(exported.path, backend="onnx", threads=threads, device=exported.device)
    exact = exported.dtype == "float32"
    signal = _signal(native.sample_rate)
    progress("codec: native backend")
    codes = [e.codec.encode(signal) for e in (native, graphs)]
    sound = [e.codec.decode(codes[0]) for e in (native, graphs)]
    yield _audio("codec, 10 s", sound[0], sound[1], float((codes[0] == codes[1]).mean()), True)
    stream = graphs.codec.decoder_stream()
    pieces = [stream.push(codes[0][:, i : i + 7]) for i in range(0, codes[0].shape[1], 7)]
    yield _audio(
        "codec, 10 s, streamed", sound[0], np.concatenate([*pieces, stream.flush()]), None, True
    )
    config = native.config.lm
    if config is None:
        return
    progress("language model: native backend")
    rng = np.random.default_rng(3)
    frames = rng.integers(
        0, config.vocab_size, (min(60, config.max_frames), config.num_codebooks)
    ).astype(np.int32)
    logits = [e.lm.logits(frames) for e in (native, graphs)]
    worst = float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())
    yield Row(
        "logits, 60 frames",
        "native float32",
        worst,
        float((logits[0].argmax(-1) == logits[1].argmax(-1)).mean()),
        None,
        worst <= BOUNDS["float32"] if exact else None,
    )
    count = min(500, config.max_frames - 8)
    same = drawn_alike(native.lm, graphs.lm, frames[:8], count)
    yield Row(
        f"tokens, {count} drawn frames",
        "native float32",
        None,
        same,
        None,
        same >= 1 - BORDERS / count if exact else None,
    )
    tasks = native.tasks
    requests: list[tuple[str, dict[str, Any]]] = (
        [("tts", {"text": TEXT})] if "tts" in tasks and native.config.semantic is not None else []
    )
    requests += [
        (t, {"source": (signal, native.sample_rate)})
        for t in ("se",)
        if t in tasks and native.config.semantic is not None
    ]
    for task, inputs in requests:
        progress(f"{task}: native backend")
        for seed in SEEDS:  # another one where a draw of the first fell on a border
            a, b = (
                collect(AudioStream(Scheduler(m), make_plan(m, task, {**inputs, "seed": seed})))
                for m in (native, graphs)
            )
            seconds = len(a.samples) / a.sample_rate
            row = _audio(f"{task}, {seconds:.1f} s", a.samples, b.samples, None, exact)
            if row.fine is not False:
                break
        yield row


def drawn_alike(one: TokenLM, other: TokenLM, past: Ids, count: int) -> float:
    """The share of ``count`` frames after ``past`` [T, K] that both models draw alike.

    Equal models may differ by rounding, where a random number falls on the border between two ids.
    No later frame would be alike. So after such a frame both go on from the same past, up to
    :data:`BORDERS` times. What follows one more counts as different.
    """
    left, borders = count, 0
    while left and borders <= BORDERS:
        a, b = (
            lm.generate(past, left, Sampling(0.8, 50, 0.95), seed=5 + borders)
            for lm in (one, other)
        )
        differ = np.flatnonzero((a != b).any(axis=1))
        if not len(differ):
            return 1 - borders / count
        end = int(differ[0]) + 1
        past, left, borders = np.concatenate([past, a[:end]]), left - end, borders + 1
    return 1 - (borders + left) / count


def _audio(
    what: str,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    agreement: float | None,
    bounded: bool,
) -> Row:
    if len(a) != len(b):
        return Row(what, "native float32", np.inf, agreement, None, False if bounded else None)
    error = float(np.abs(a - b).max())
    power, noise = (
        float(np.square(a, dtype=np.float64).sum()),
        float(np.square(a - b, dtype=np.float64).sum()),
    )
    snr = 10 * np.log10(power / noise) if noise and power else np.inf
    fine = error <= AUDIO and (agreement is None or agreement >= AGREEMENT)
    return Row(what, "native float32", error, agreement, float(snr), fine if bounded else None)


def _signal(rate: int) -> NDArray[np.float32]:
    """Ten seconds of gliding tones that swell, over noise."""
    t = np.arange(int(SECONDS * rate)) / rate
    tone = np.sin(2 * np.pi * (140 + 9 * t) * t) + 0.5 * np.sin(2 * np.pi * (410 - 12 * t) * t)
    return (
        0.25 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 1.3 * t))
        + 0.02 * np.random.default_rng(0).standard_normal(len(t))
    ).astype(np.float32)
