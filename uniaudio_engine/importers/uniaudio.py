"""UniAudio's checkpoints -> a model folder with the language model, its codec, labels and a card.

``uniaudio_lm.py`` and ``uniaudio_codec.py`` read the parts, ``uniaudio_tasks.py`` has the tasks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..backends.core import core
from ..errors import InputError, shown
from ..storage.config import ConfigError, ModelConfig, to_dict
from ..storage.files import atomic_write
from ..storage.folder import load_folder
from ..storage.folder_writing import save_folder
from .archive import CHECKPOINT, CONFIG, Member, Progress, find_members, quiet
from .card import LICENCE_UNKNOWN, Origin, write_card
from .output import new_folder, sha256
from .uniaudio_codec import read_codec
from .uniaudio_lm import read_lm, read_settings
from .uniaudio_tasks import available_tasks
from .vocabulary import read_labels, read_lexicon, read_phones
from .yaml_file import load_yaml

_NO_TASKS = (
    "trained without task tokens (use_task_id: false): no tasks, but the language model and the "
    "codec on their own"
)


def import_uniaudio(
    lm: str | os.PathLike[str],
    codec: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    codec_config: str | os.PathLike[str] | None = None,
    phones: str | os.PathLike[str] | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    labels: Mapping[str, str | os.PathLike[str]] | None = None,
    dtype: str = "float32",
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Writes the model folder ``output`` from the reference's files; returns JSON values about it.

    ``lm``, ``codec``: a checkpoint, or a folder or zip with it and its config.yaml, unless
    ``config`` or ``codec_config`` is given; the codec does not need one. ``phones``: the phone
    dictionary of the training. ``lexicon``: pronunciations in these phones. ``labels``: vocabulary
    span -> dictionary of its labels, such as those of ``sing_phone``. ``dtype``: float32 or
    bfloat16, as in :func:`save_folder`.

    Raises :class:`InputError` for files that cannot be used; no partial output remains.
    """
    if dtype not in ("float32", "bfloat16"):
        raise InputError(
            f"dtype: expected float32 or bfloat16, got {shown(dtype)}; uniaudio quantize makes "
            "int8 and int4"
        )
    with new_folder(output) as shop:
        parts = {"lm": (lm, config), "codec": (codec, codec_config)}
        members: dict[str, dict[str, Member]] = {}
        for name, (source, given) in parts.items():
            scratch = shop.files / name
            scratch.mkdir()
            roles = {"checkpoint": CHECKPOINT} | ({} if given else {"config": CONFIG})
            members[name] = find_members(source, roles, scratch, progress)
            if given:
                members[name]["config"] = Member(Path(given), Path(given).name, Path(given))
        if "config" not in members["lm"]:
            raise InputError(
                f"{lm}: expected the training's config.yaml next to the checkpoint; name it "
                "with --config"
            )
        notes = []
        found = members["codec"].get("config")
        if found and not codec_config and "generator" not in found.read(load_yaml):
            notes.append(f"codec: ignored {found.name}, which is not the codec's")
            del members["codec"]["config"]
        progress("reading the codec")
        codec_part, codec_tensors = read_codec(members["codec"])
        progress("reading the language model")
        settings = read_settings(members["lm"]["config"])
        lm_part, vocabulary, lm_tensors = read_lm(members["lm"], settings, codec_part)
        notes += [] if settings["use_task_id"] else [_NO_TASKS]
        spans = {s.name: s for s in vocabulary.spans}
        phone_labels: list[str] = []
        if phones is not None:
            phone_labels = read_phones(
                Path(phones), spans.get("phone"), members["lm"]["config"].name
            )
        elif "phone" in spans:
            notes.append(
                f"no phone dictionary was given: the {spans['phone'].size} phones are numbers "
                "only, and text cannot be spoken"
            )
        if lexicon is not None:
            if phones is None:
                raise InputError(
                    f"{lexicon}: a lexicon needs the labels of its phones; name them with --phones"
                )
            entries, more = read_lexicon(Path(lexicon), phone_labels)
            notes += more
            _write_lines(shop.model / "lexicon.txt", (f"{w} {' '.join(p)}" for w, p in entries))
        for name, path in (labels or {}).items():
            (shop.model / "labels").mkdir(exist_ok=True)
            _write_lines(
                shop.model / "labels" / f"{name}.txt", read_labels(Path(path), name, spans)
            )
        target = Path(output)
        names = {*vocabulary.specials, *(s.name for s in vocabulary.spans), *lm_part.continuous}
        tasks = available_tasks(names) if settings["use_task_id"] else ()
        model = ModelConfig(1, target.name, codec_part, lm_part, vocabulary, tasks, LICENCE_UNKNOWN)
        progress("writing")
        try:
            save_folder(shop.model, model, codec_tensors, lm_tensors, phone_labels, dtype)
        except ConfigError as e:
            raise InputError(f"{members['lm']['config'].name}: {e}") from None
        parameters = sum(int(a.size) for t in (lm_tensors, codec_tensors) for a in t.values())
        # The new folder is read next: do not keep a large model in memory twice.
        del lm_tensors, codec_tensors
        origins = _origins(
            members, {"phones": phones, "lexicon": lexicon, **(labels or {})}, progress
        )
        write_card(
            shop.model,
            target.name,
            _about(model),
            origins,
            [f"Weights are stored as {dtype}.", *notes],
        )
        progress("checking what was written")
        written = load_folder(shop.model)
        try:
            core().Codec(json.dumps(to_dict(written.config.codec)), written.codec, 1)
        except ValueError as e:  # checks that only the core does
            raise InputError(f"{members['codec']['checkpoint'].name}: {e}") from None
        progress("")
    return {
        "output": str(target),
        "model": target.name,
        "dtype": dtype,
        "parameters": parameters,
        "vocabulary": {s.name: s.size for s in vocabulary.spans},
        "num_codebooks": lm_part.num_codebooks,
        "max_frames": lm_part.max_frames,
        "tasks": [t.name for t in tasks],
        "files": [vars(o) for o in origins],
        "notes": notes,
    }


def _about(model: ModelConfig) -> str:
    lm, c = model.lm, model.codec
    assert lm is not None
    return (
        "A language model of the UniAudio project (arXiv 2310.00704) and its codec, converted "
        "from the authors' checkpoint "
        f"for uniaudio-engine: {lm.global_.layers} global and {lm.local.layers} local layers of "
        f"width {lm.global_.width}, "
        f"{lm.num_codebooks} codes per frame, {c.sample_rate} Hz, "
        f"{c.frame_rate:g} frames per second. "
        "The weights are the authors'; "
        "the conversion folds weight norm and changes names and layout only."
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as f:
        f.write("".join(f"{line}\n" for line in lines).encode())


def _origins(
    members: Mapping[str, Mapping[str, Member]], texts: Mapping[str, Any], progress: Progress
) -> list[Origin]:
    files = {f"{part} {role}": m for part, roles in members.items() for role, m in roles.items()}
    files |= {k: Member(Path(p), Path(p).name, Path(p)) for k, p in texts.items() if p is not None}
    sums: dict[Path, str] = {}
    for m in files.values():
        if m.source not in sums:
            sums[m.source] = sha256(m.source, progress)
    return [
        Origin(role, m.name, m.source.stat().st_size, sums[m.source]) for role, m in files.items()
    ]
