"""Set-up of an LM run: settings, model shape, vocabulary including user-defined tasks, and the task
mix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uniaudio_engine.errors import first_few
from uniaudio_engine.request import aligned as aligned_rows
from uniaudio_engine.request.sequence import (
    Layout,
    aligned_vocab,
    extend_vocabulary,
    make_vocabulary,
    vocab_size,
)
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Task
from uniaudio_engine.storage.config import LMConfig, ModelConfig, Span, StackConfig, to_dict
from uniaudio_engine.storage.folder import ModelFolder, load_config, load_folder
from uniaudio_engine.text.phones import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

from ..corpus.schema import TASKS as JOINT
from ..settings import RunSettings, Sharding, require
from ..user_tasks import check_trainable, extend, read_user_tasks
from .data import Noise


@dataclass(frozen=True)
class Stacks:
    """The shape of a new model: its two transformers."""

    global_: StackConfig
    local: StackConfig


@dataclass(frozen=True)
class LMSettings(RunSettings):
    """Settings of an LM run.

    ``data``: one or more folders of tokens. ``tasks``: share of the batches by task. ``old``: total
    share of the other tasks of ``init``. ``init``: the model folder to start from; without ``lm``,
    its shape and vocabulary are used. ``init_data``: if ``init`` has another codec, folders with its
    tokens of the corpora of ``data``, in the same order. ``task_files``: user-defined tasks.
    ``bound``: maximum loss increase of an old task, in nats per code. ``captions``: a caption
    tokenizer. ``corpus``: source of the validation samples for TensorBoard. ``rows`` and ``items``:
    batch size per step, over all processes. ``noise``: corrupted input frames. ``caption_dropout``:
    share of empty captions, and ``aligned_dropout``, in tasks without captions, of targets without
    aligned rows: classifier-free guidance needs them. ``processes``: on a CPU, one per core is
    faster than one with all cores; with ``torchrun`` it says how many. ``parts``: batches of a
    step, which the processes share (0: one each); their number decides the curve, the number of
    processes does not.
    ``sharding``: what processes hold of weights, gradients and optimizer states: everything
    (none), shares of one copy on each machine (node), or shares of one copy in all (all).
    ``recompute``: recompute activations in the backward pass instead of keeping them.
    ``compile``: each block by ``torch.compile``; needs a C++ compiler, and minutes at the beginning.
    """

    lm: Stacks | None = None
    init: str = ""
    init_data: str | tuple[str, ...] = ()
    tasks: dict[str, float] = field(default_factory=dict)
    old: float = 0.0
    task_files: str | tuple[str, ...] = ()
    data: str | tuple[str, ...] = "data/tokens"
    captions: str = ""
    corpus: str = ""
    steps: int = 4000
    rows: int = 4
    items: int = 3200
    lr: float = 2e-3
    matrix_lr: float = 2e-2
    warmup: int = 100
    decay_share: float = 0.4
    weight_decay: float = 0.05
    duration_weight: float = 0.3
    noise: Noise = field(default_factory=Noise)
    caption_dropout: float = 0.0
    aligned_dropout: float = 0.0
    bound: float = 0.0
    codebook_size: int = 1024
    num_codebooks: int = 4
    units: int = 512
    validate_every: int = 250
    validation_batches: int = 3
    processes: int = 1
    parts: int = 0
    sharding: Sharding = "none"
    recompute: bool = False
    compile: bool = False
    threads: int = 0

    def check(self) -> None:
        super().check()
        for name in ("rows", "items", "warmup", "validation_batches", "processes"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        require(self.parts >= 0, "parts", "0 or more", self.parts)
        require(
            len(self.init_folders) <= len(self.token_folders),
            "init_data",
            "at most as many folders as data",
            len(self.init_folders),
        )
        for name in ("caption_dropout", "aligned_dropout"):
            require(0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name))

    @property
    def token_folders(self) -> tuple[str, ...]:
        return _listed(self.data)

    @property
    def init_folders(self) -> tuple[str, ...]:
        return _listed(self.init_data)


@dataclass(frozen=True)
class Setup:
    """The ``tasks`` of the mix with their ``weights``, and the ``labels`` of the vocabulary's
    spans.

    ``old``: the tasks that the model of ``init`` already does.
    """

    lm: LMConfig
    layout: Layout
    tasks: dict[str, Task]
    weights: dict[str, float]
    labels: dict[str, tuple[str, ...]]
    captions: CaptionTokenizer | None
    old: tuple[str, ...]

    def about(self) -> dict[str, Any]:
        """The contents of the run's lm.json, which ``bundle.py`` needs besides the weights."""
        entries = [t.name if _is_built_in(t) else to_dict(t) for t in self.tasks.values()]
        labels = {span: list(names) for span, names in self.labels.items() if span != "phone"}
        return {
            "lm": to_dict(self.lm),
            "vocabulary": to_dict(self.layout.vocabulary),
            "tasks": entries,
            "labels": labels,
        }


def build_config(
    lm: Stacks, codebook_size: int, num_codebooks: int, captions: int, units: int
) -> tuple[LMConfig, Layout]:
    """Config and layout of a new model.

    The vocabulary covers all eleven tasks, whichever are trained, so that more can be trained
    later. ``captions``: pieces of the caption tokenizer; ``units``: those of the semantic
    tokenizer.
    """

    def spans(start: int) -> tuple[Span, ...]:
        return aligned_rows.joint_spans(start, codebook_size, units)

    vocabulary = make_vocabulary(
        num_codebooks, codebook_size, len(PHONES), JOINT, ("caption",), captions, spans
    )
    config = LMConfig(
        vocab_size=vocab_size(vocabulary),
        num_codebooks=num_codebooks,
        global_=lm.global_,
        local=lm.local,
        embedding="sum",
        conditioning="prefix",
        start_id=vocabulary.special("start"),
        local_start_id=vocabulary.special("local_start"),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    return config, Layout.of(config, vocabulary)


def _is_built_in(task: Task) -> bool:
    """Whether it is the built-in task of its name; a model may have its own scale of guidance."""
    known = TASKS.get(task.name)
    return known is not None and replace(task, guidance=known.guidance) == known


def set_up(s: LMSettings) -> Setup:
    """Derives the set-up from the settings.

    Ids in the vocabulary of ``init`` do not change; user-defined tasks are appended. Raises
    ValueError, in one line.
    """
    users = read_user_tasks(_listed(s.task_files))
    before = load_config(s.init) if s.init else None
    captions: CaptionTokenizer | None
    labels: dict[str, tuple[str, ...]] = {"phone": tuple(PHONES)}
    if s.lm is not None:
        captions = _captions(s.captions, None)
        pieces = captions.size if captions else 0
        lm, layout = build_config(s.lm, s.codebook_size, s.num_codebooks, pieces, s.units)
        known, units = {name: TASKS[name] for name in JOINT}, s.units
    else:
        base = _base(s.init, before)
        captions = _captions(s.captions, base)
        assert base.config.lm is not None and base.config.vocabulary is not None
        lm, vocabulary, known = base.config.lm, base.config.vocabulary, base.config.task_table
        others = lm.delays or lm.given_slots
        require(not others, "init", "a model without delays of slots or given slots", s.init)
        semantic = base.config.semantic
        units = semantic.encoder.codebook_size if semantic is not None else 0
        labels |= base.labels
        if captions is not None and not any(v.name == "caption" for v in vocabulary.spans):
            vocabulary = extend_vocabulary(
                vocabulary, ("caption_start", "caption_end"), {"caption": captions.size}, {}
            )
        layout = Layout.of(lm, vocabulary)
    vocabulary, labels = extend(layout, users.values(), known, labels, units)
    if captions is not None and vocabulary.span("caption").size != captions.size:
        raise ValueError(
            f"captions: expected {vocabulary.span('caption').size} pieces, as the model has, got "
            f"{captions.size}"
        )
    lm = dataclasses.replace(
        lm,
        vocab_size=vocab_size(vocabulary),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    lm.check()
    entries = known | {name: user.task for name, user in users.items()}
    did = tuple(before.task_table) if before is not None and before.lm is not None else ()
    weights = _shares(s.tasks, s.old, entries, did)
    unshared = sorted(set(users) - set(weights))
    if unshared:
        raise ValueError(
            f"tasks: expected a share for {unshared[0]}, which task_files brings, as in tasks: "
            f"{{{unshared[0]}: 0.95}}"
        )
    for name in weights:
        check_trainable(entries[name])
    old = tuple(name for name in weights if name in did)
    return Setup(
        lm,
        Layout.of(lm, vocabulary),
        {name: entries[name] for name in weights},
        weights,
        labels,
        captions,
        old,
    )


def _base(init: str, before: ModelConfig | None) -> ModelFolder:
    if before is None or before.lm is None:
        raise ValueError(
            "lm: expected the model's stacks, global and local, or an init folder with a "
            "language model to take them from"
        )
    folder = load_folder(init)
    if (
        before.lm.global_.positions != "rope"
        or before.lm.embedding != "sum"
        or before.lm.conditioning != "prefix"
        or folder.phones != tuple(PHONES)
    ):
        raise ValueError(
            f"{init}: expected a model that was trained here, got one of another shape "
            "or with other phones"
        )
    return folder


def _captions(path: str, base: ModelFolder | None) -> CaptionTokenizer | None:
    if path:
        return CaptionTokenizer(Path(path).read_bytes(), path)
    return (
        CaptionTokenizer(base.captions, str(base.path / "text.model"))
        if base is not None and base.captions
        else None
    )


def _shares(
    given: dict[str, float], old: float, entries: dict[str, Task], did: tuple[str, ...]
) -> dict[str, float]:
    """The share of each task; ``old`` is split evenly over the tasks that ``given`` lacks."""
    if not given:
        raise ValueError(f"tasks: expected shares by name, as in tasks: {{tts: 1}}, got {given!r}")
    unknown = [str(name) for name in given if name not in entries]
    if unknown:
        raise ValueError(
            f"tasks: unknown task {first_few(unknown)}; the model knows {', '.join(entries)}, and "
            "others need task_files"
        )
    rest = [name for name in did if name not in given]
    if old and not rest:
        raise ValueError(
            "old: expected an init folder whose model does other tasks than those in tasks, got "
            "none; leave old out"
        )
    return given | {name: old / len(rest) for name in rest if old}


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
