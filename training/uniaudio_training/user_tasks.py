"""User-defined tasks: the task file, and its additions to a trained model's vocabulary.

A task file is one task as JSON (docs/tasks.md). The labels of its own spans are in
``labels/SPAN.txt`` next to it, one per line, as in a model folder. ``corpus/recordings.py`` reads
the recordings, ``lm/items.py`` turns them into training items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from uniaudio_engine.errors import first_few, shown
from uniaudio_engine.request import aligned as aligned_rows
from uniaudio_engine.request.sequence import Layout, extend_vocabulary
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Input, Task
from uniaudio_engine.storage.config import VocabularyConfig, from_dict

MAX_FILE = 1 << 20  # bytes
_OWN = (
    "audio",
    "audio_prompt",
    "phone",
    "duration",
    "caption",
    "audio_mask",
)  # names that a label file must not have
_TAKEN = ("audio", "target", "split", "speaker")  # reserved keys of a manifest and track names
_SEGMENTS = {"text": "phone", "caption": "caption"}  # modalities whose tokens are built in


@dataclass(frozen=True)
class UserTask:
    """A task and the labels of the spans of its ``tokens`` inputs."""

    task: Task
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_user_tasks(paths: Iterable[str | Path]) -> dict[str, UserTask]:
    """Reads task files; returns the tasks by name.

    Raises ValueError, in one line that begins with the file, for a task that cannot be trained.
    """
    found: dict[str, UserTask] = {}
    for path in paths:
        user = _read(Path(path))
        if user.task.name in found:
            raise ValueError(f"{path}: expected a unique name, got {user.task.name} in two files")
        found[user.task.name] = user
    return found


def _read(path: Path) -> UserTask:
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError(
                f"expected a task file of at most {MAX_FILE} bytes, got {path.stat().st_size}"
            )
        data = json.loads(path.read_text(encoding="utf-8"))
        task = from_dict(Task, data, "task")
        task.check()
        check_trainable(task)
        if task.name in TASKS:
            raise ValueError(f"there is a task {task.name} already; give yours another name")
        labels = {
            i.segment: _labels(path.parent / "labels" / f"{i.segment}.txt", i)
            for i in task.inputs
            if i.modality == "tokens"
        }
    except OSError as e:
        raise ValueError(f"{path}: expected a readable task file, got: {e.strerror or e}") from None
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: {' '.join(str(e).split())}; see docs/new-task.md") from None
    return UserTask(task, {span: names for span, names in labels.items() if names})


def check_trainable(task: Task) -> None:
    """Raises ValueError unless the trainer can build sequences of the task."""
    where = f"task {task.name}"
    if task.target != "audio" or task.length == "one":
        raise ValueError(
            f"{where}: expected target audio, which is what the trainer makes, got {task.target} "
            f"of length {task.length}"
        )
    for i in task.inputs:
        spanned = (
            next((o for o in task.inputs if o.name == i.segment), None)
            if i.modality == "span"
            else None
        )
        if i.name in _TAKEN:
            raise ValueError(
                f"{where}: input {i.name}: a manifest says something else by this name; choose "
                f"another one than {', '.join(_TAKEN)}"
            )
        if i.modality == "states" or i.encoder:
            raise ValueError(
                f"{where}: input {i.name}: an external encoder cannot be trained for here; choose "
                "caption or tokens"
            )
        if spanned is not None and spanned.modality == "audio" and spanned.place == "sequence":
            raise ValueError(
                f"{where}: input {i.name}: a span of a sound in the sequence cannot be trained "
                f"for here; put {spanned.name} in place aligned"
            )
        if i.segment != _SEGMENTS.get(i.modality, i.segment):
            raise ValueError(
                f"{where}: input {i.name}: expected segment {_SEGMENTS[i.modality]} for a "
                f"{i.modality}, got {shown(i.segment)}"
            )
    if any(i.modality == "context" for i in task.inputs) and not any(
        i.modality == "span" for i in task.inputs
    ):
        raise ValueError(f"{where}: expected a span input besides the context, got none")


def _labels(path: Path, spec: Input) -> tuple[str, ...]:
    """The labels of a span, one per line without duplicates. Only the phones need no file."""
    if spec.segment == "phone":
        return ()
    if spec.segment in _OWN:
        raise ValueError(
            f"input {spec.name}: the segment {spec.segment} is the model's own; name another one"
        )
    if not path.is_file():
        raise ValueError(
            f"input {spec.name}: expected the labels of its tokens, one per line, in {path}; there "
            "is no such file"
        )
    labels = tuple(path.read_text(encoding="utf-8").split())
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(
            f"{path}: expected distinct labels, one per line, got {len(labels)} of which "
            f"{len(set(labels))} differ"
        )
    return labels


def extend(
    layout: Layout,
    users: Iterable[UserTask],
    known: Mapping[str, Task],
    labels: Mapping[str, tuple[str, ...]],
    units: int,
) -> tuple[VocabularyConfig, dict[str, tuple[str, ...]]]:
    """A model's vocabulary, extended for the user-defined tasks, and the labels of its spans.

    ``known``: the tasks that the model does; ``labels``: those of its spans; ``units``: the number
    of its semantic units (0: it has none). Raises ValueError, in one line, where a name is taken,
    or something is missing that a task file cannot provide.
    """
    vocabulary, labels = layout.vocabulary, dict(labels)
    for user in users:
        task = user.task
        where = f"task {task.name}"
        if task.name in known:
            raise ValueError(
                f"{where}: the model that the run starts from has a task {task.name} already; "
                "give yours another name"
            )
        if task.special in vocabulary.specials:
            raise ValueError(
                f"{where}: the special token {task.special} is taken; choose another token, or "
                f"leave it out for {task.name}_task"
            )
        spans = {s.name for s in vocabulary.spans}
        for span, names in user.labels.items():
            if span in spans and labels.get(span) != names:
                has = (
                    f"the labels {first_few(list(labels[span]))}"
                    if span in labels
                    else "tokens of another kind"
                )
                raise ValueError(
                    f"{where}: labels/{span}.txt: the model's span {span} has {has}, this file "
                    f"{first_few(list(names))}; rename yours"
                )
            labels[span] = names
        sides = [
            f"{i.segment}_{side}"
            for i in task.inputs
            if i.place == "sequence" and i.modality != "span"
            for side in ("start", "end")
        ]
        specials = [
            name
            for name in dict.fromkeys((task.special, *sides))
            if name not in vocabulary.specials
        ]
        own = {span: len(names) for span, names in user.labels.items() if span not in spans}
        have = {s.name for s in vocabulary.aligned_spans}
        beside = [
            s
            for s in aligned_rows.joint_spans(0, layout.codebook_size, units)
            if s.size and s.name not in have
        ]
        needs = task.needs()
        if not {s.name for s in beside} & (
            needs | ({"time_left"} if task.length == "seconds" else set())
        ):
            beside = []
        vocabulary = extend_vocabulary(vocabulary, specials, own, {s.name: s.size for s in beside})
        missing = sorted(
            needs
            - {
                *vocabulary.specials,
                *(s.name for s in (*vocabulary.spans, *vocabulary.aligned_spans)),
            }
        )
        if missing:
            remedy = {
                "caption": "name a caption tokenizer in captions",
                "unit": "start from a model with a semantic tokenizer",
            }
            raise ValueError(
                f"{where} needs {first_few(missing)}, which the model does not have; "
                f"{remedy.get(missing[0], 'start from another model')}"
            )
    return vocabulary, labels
