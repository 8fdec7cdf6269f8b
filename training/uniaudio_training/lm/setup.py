"""What a run trains: the model's shape, its vocabulary with whatever a user's tasks add to it, and
which tasks with which share.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
from uniaudio_engine.storage.config import LMConfig, ModelConfig, StackConfig, from_dict, to_dict
from uniaudio_engine.storage.folder import ModelFolder, load_config, load_folder
from uniaudio_engine.text.phones import PHONES
from uniaudio_engine.tokenizers.captions import CaptionTokenizer

from ..corpus.schema import TASKS as JOINT
from ..user_tasks import check_trainable, extend, read_user_tasks


@dataclass(frozen=True)
class Setup:
    """``tasks`` of the mix with their ``weights``; ``old``: those of them that the model which the
    run starts from does already; ``labels`` of the vocabulary's spans.
    """

    lm: LMConfig
    layout: Layout
    tasks: dict[str, Task]
    weights: dict[str, float]
    labels: dict[str, tuple[str, ...]]
    captions: CaptionTokenizer | None
    old: tuple[str, ...]

    def about(self) -> dict[str, Any]:
        """The run's lm.json: what ``bundle.py`` has to know beside the weights."""
        entries = [t.name if TASKS.get(t.name) == t else to_dict(t) for t in self.tasks.values()]
        labels = {span: list(names) for span, names in self.labels.items() if span != "phone"}
        return {
            "lm": to_dict(self.lm),
            "vocabulary": to_dict(self.layout.vocabulary),
            "tasks": entries,
            "labels": labels,
        }


def build_config(
    config: dict[str, Any], codebook_size: int, num_codebooks: int, captions: int, units: int
) -> tuple[LMConfig, Layout]:
    """The LM's config from a training config's ``lm`` section (global and local stacks) and the
    vocabulary of all tasks.

    The vocabulary is that of all eleven tasks whichever are trained, so that a model can go on with
    more of them.
    """

    def spans(start: int) -> tuple[Any, ...]:
        return aligned_rows.joint_spans(start, codebook_size, units)

    vocabulary = make_vocabulary(
        num_codebooks, codebook_size, len(PHONES), JOINT, ("caption",), captions, spans
    )
    stacks = {
        side: from_dict(StackConfig, config["lm"][side], f"lm.{side}")
        for side in ("global", "local")
    }
    lm = LMConfig(
        vocab_size=vocab_size(vocabulary),
        num_codebooks=num_codebooks,
        global_=stacks["global"],
        local=stacks["local"],
        embedding="sum",
        conditioning="prefix",
        start_id=vocabulary.special("start"),
        local_start_id=vocabulary.special("local_start"),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    return lm, Layout.of(lm, vocabulary)


def set_up(config: dict[str, Any], s: dict[str, Any]) -> Setup:
    """From a training config and its settings.

    Without an ``lm`` section the model is that of the folder ``init``, shape, vocabulary, captions
    and all. ``task_files``: the user's tasks; the vocabulary gains what they need, and no id moves.
    ``tasks``: shares by name; ``old``: the share of all the other tasks of ``init`` together.
    Raises ValueError, in one line.
    """
    users = read_user_tasks(_listed(s["task_files"]))
    before = load_config(config["init"]) if config.get("init") else None
    base = None
    if "lm" not in config:
        base = _base(config, before)
    captions = _captions(s["captions"], base)
    labels: dict[str, tuple[str, ...]] = {"phone": tuple(PHONES)}
    if base is None:
        lm, layout = build_config(
            config,
            s["codebook_size"],
            s["num_codebooks"],
            captions.size if captions else 0,
            s["units"],
        )
        known, units = {name: TASKS[name] for name in JOINT}, s["units"]
    else:
        assert base.config.lm is not None and base.config.vocabulary is not None
        lm, vocabulary, known = base.config.lm, base.config.vocabulary, base.config.task_table
        units = (
            base.config.semantic.encoder.codebook_size if base.config.semantic is not None else 0
        )
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
    weights = _shares(config.get("tasks"), s["old"], entries, did)
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


def _base(config: dict[str, Any], before: ModelConfig | None) -> ModelFolder:
    if before is None or before.lm is None:
        raise ValueError(
            "lm: expected the model's stacks, global and local, or an init folder with a "
            "language model to take them from"
        )
    folder = load_folder(config["init"])
    if (
        before.lm.global_.positions != "rope"
        or before.lm.embedding != "sum"
        or before.lm.conditioning != "prefix"
        or folder.phones != tuple(PHONES)
    ):
        raise ValueError(
            f"{config['init']}: expected a model that was trained here, got one of another shape "
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
    given: Any, old: float, entries: dict[str, Task], did: tuple[str, ...]
) -> dict[str, float]:
    """Each task's share; ``old`` is spread evenly over those that the model does and ``given`` does
    not name.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(f"tasks: expected shares by name, as in tasks: {{tts: 1}}, got {given!r}")
    unknown = [str(name) for name in given if name not in entries]
    if unknown:
        raise ValueError(
            f"tasks: unknown task {first_few(unknown)}; the model knows {', '.join(entries)}, and "
            "others come by task_files"
        )
    shares = {str(name): float(share) for name, share in given.items()}
    rest = [name for name in did if name not in shares]
    if old and not rest:
        raise ValueError(
            "old: expected an init folder whose model does other tasks than those in tasks, got "
            "none; leave old out"
        )
    return shares | {name: float(old) / len(rest) for name in rest if old}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
