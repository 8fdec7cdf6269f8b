"""The subcommands of ``uniaudio``; each returns an exit code.

``main.py`` parses arguments and reports errors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ..audio.encoded import EncodedAudio
from ..audio.reading import read_audio
from ..audio.sound import (
    write_audio,
    write_audio_stream,
    write_wav_stream,
)
from ..audio.voice import Voice
from ..engine import Engine
from ..errors import InputError, first_few, shown
from ..request.options import LENGTH_OPTIONS, Option
from ..request.task_table import TASKS
from ..request.tasks import TEXT_INPUTS, Task
from ..request.timing import check_times_file, write_times
from ..storage.files import atomic_write
from ..storage.folder import bundled_models, find_folder, load_config
from ..storage.quantize import quantize_folder
from .live import run_live
from .output import (
    file_kind,
    generate_into,
    open_output,
    print_about,
    report,
    with_progress,
)
from .plot import open_plot, write_plot
from .run_file import run_file
from .say_as import say_as_command, standard_input, standard_input_pieces
from .serve import run_server

__all__ = [
    "codec_command",
    "info_command",
    "live_command",
    "quantize_command",
    "run_command",
    "say_as_command",
    "serve_command",
    "stream_command",
    "task_command",
    "tasks_command",
    "voices_command",
]

_BARE = (".pcm", ".raw")  # names of files without a header


def load_engine(args: argparse.Namespace) -> Engine:
    return engine_loader(args)()


def engine_loader(args: argparse.Namespace) -> Callable[[], Engine]:
    """What loads the engine of the arguments; it can be pickled."""
    return partial(
        Engine.from_pretrained,
        args.model,
        device=args.device,
        dtype=args.dtype,
        backend=args.backend,
        max_seconds=args.max_seconds,
        threads=args.threads,
        kv_dtype=args.kv_dtype,
        encoders=_encoders(args.encoder),
    )


def serve_command(args: argparse.Namespace) -> int:
    """``uniaudio serve``: until SIGTERM or Ctrl-C."""
    return run_server(args, engine_loader(args))


def model_task(model: str | None, name: str) -> Task:
    """A task of the model's configuration, before its weights are loaded."""
    config = load_config(find_folder(model))
    tasks = config.task_table
    if name not in tasks:
        raise InputError(
            f"model {config.name} was not trained for {shown(name)}; it does "
            f"{first_few(list(tasks), 20) or 'no task'}"
        )
    return tasks[name]


def quantize_command(args: argparse.Namespace) -> int:
    """``uniaudio quantize``: a copy of a model folder whose LM is stored as ``--dtype``."""
    about = quantize_folder(args.model, args.output, args.dtype)
    before, after = about["lm_bytes_before"] / 1e6, about["lm_bytes"] / 1e6
    line = (
        f"{args.output}: {about['model']} as {about['dtype']}, LM {before:.1f} MB -> {after:.1f} MB"
    )
    print(json.dumps(about) if args.json else line)
    return 0


def task_command(args: argparse.Namespace) -> int:
    """``uniaudio tts …``: one task, one sound file."""
    task = model_task(args.model, args.task)
    values = _given(args, task)
    times = getattr(args, "times", None)
    if times is not None:
        check_times_file(times)
    with (
        open_output(args.output) as f,
        contextlib.nullcontext() if args.plot is None else open_plot(args.plot) as picture,
    ):
        engine = load_engine(args)
        before = (
            {"before": read_audio(values["source"], engine.sample_rate)}
            if picture is not None and "source" in values
            else {}
        )
        audio, meta = generate_into(
            engine, task, values, f, file_kind(args.output), picture is not None
        )
        if picture is not None and audio is not None:
            write_plot(
                picture, {**before, "after" if before else task.name: audio}, meta.get("span")
            )
    if times is not None:
        write_times(times, meta.get("words", []))
    report(args, meta | {"output": args.output})
    return 0


def stream_command(args: argparse.Namespace) -> int:
    """``uniaudio stream``: speech, written chunk by chunk."""
    task = model_task(args.model, args.task)
    values = _given(args, task)
    if args.raw and args.output != "-" and Path(args.output).suffix.lower() not in _BARE:
        raise InputError(
            f"{args.output}: --raw writes samples without a header; expected -, or a name that ends "
            f"in {' or '.join(_BARE)}"
        )
    sizes = _chunk_frames(args.chunk_frames)
    if args.times is not None:
        check_times_file(args.times)
    with (
        atomic_write(args.output)
        if args.raw and args.output != "-"
        else open_output(args.output) as f
    ):
        engine = load_engine(args)
        with engine.stream(task.name, chunk_frames=sizes, **values) as stream:
            if args.raw:
                write_wav_stream(f, with_progress(stream), engine.sample_rate, header=False)
            else:
                kind = file_kind(args.output)
                write_audio_stream(
                    f, with_progress(stream), engine.sample_rate, kind, engine.channels
                )
    if args.times is not None:
        write_times(args.times, stream.meta.get("words", []))
    report(args, stream.meta | {"output": args.output})
    return 0


def live_command(args: argparse.Namespace) -> int:
    """``uniaudio live``: a sound that is still being made."""
    return run_live(args, lambda: load_engine(args))


def run_command(args: argparse.Namespace) -> int:
    """``uniaudio run``: any task by name, once or for a file of requests."""
    task = model_task(args.model, args.task)
    seed = None if args.seed is None else _number(args.seed, task.option("seed"))
    if args.jsonl is not None:
        return run_file(args, task, engine_loader(args), seed)
    for flag in ("ray", "workers", "resume"):
        if getattr(args, flag):
            raise InputError(f"--{flag}: expected --jsonl with it, got a single request")
    values: dict[str, Any] = {} if seed is None else {"seed": seed}
    for pair in args.values:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"expected NAME=VALUE, got {shown(pair)}; for example: text=Hello")
        if name in ("self", "task", "chunk_frames"):  # arguments of the call itself
            raise InputError(f"{task.name}: unknown input {name}")
        values[name] = _typed(task, name, value)
    if task.target != "audio":
        return _answer(args, task, values)
    with open_output(args.output) as f:
        _, meta = generate_into(load_engine(args), task, values, f, file_kind(args.output), False)
    report(args, meta | {"output": args.output})
    return 0


def _answer(args: argparse.Namespace, task: Task, values: dict[str, Any]) -> int:
    """Runs a task whose answer is text, and writes it as a line."""
    if args.output != "-" and Path(args.output).suffix != ".txt":
        raise InputError(
            f"{args.output}: expected a name that ends in .txt, or -, for the answer to {task.name}"
        )
    with (
        contextlib.nullcontext(sys.stdout.buffer)
        if args.output == "-"
        else atomic_write(args.output) as f
    ):
        answer = load_engine(args).understand(task.name, **values)
        f.write(f"{answer}\n".encode())
    if args.json:
        about = answer.meta | {
            "tokens": answer.tokens,
            "labels": answer.labels,
            "output": args.output,
        }
        print(json.dumps(about), file=sys.stderr if args.output == "-" else sys.stdout)
    return 0


def codec_command(args: argparse.Namespace) -> int:
    """``uniaudio codec``: sound to a file of :class:`EncodedAudio`, and back at its length."""
    if args.direction == "encode":
        if Path(args.output).suffix != ".safetensors":
            raise InputError(
                f"{args.output}: expected a name for the codes that ends in .safetensors"
            )
        encoded = load_engine(args).encode_audio(args.input, args.codebooks, args.bandwidth)
        encoded.save(args.output)
        seconds = encoded.seconds
    else:
        with open_output(args.output) as f:
            engine = load_engine(args)
            encoded = _load_codes(args.input, engine)
            if args.codebooks or args.bandwidth is not None:
                encoded = encoded.first(engine.num_codebooks(args.codebooks, args.bandwidth))
            audio = engine.decode(encoded)
            write_audio(f, audio, file_kind(args.output))
        seconds = audio.seconds
    k, t = encoded.codes.shape
    about = {
        "output": args.output,
        "codebooks": k,
        "frames": t,
        "samples": encoded.samples,
        "seconds": seconds,
    }
    report(args, about | {"notes": list(encoded.notes)})
    return 0


def _load_codes(path: str, engine: Engine) -> EncodedAudio:
    encoded = EncodedAudio.load(path)
    try:
        encoded.check(engine.config.codec, engine.fingerprint)
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    return encoded


def voices_command(args: argparse.Namespace) -> int:
    """``uniaudio voices``: list the model's voices, or make one from a sound."""
    if args.input is not None:
        if args.output is None:
            raise InputError("expected an output for the voice; add -o NAME.safetensors")
        voice = load_engine(args).encode_voice(
            args.input, args.name, licence=args.licence, text=args.text
        )
        voice.save(args.output)
        report(
            args,
            {
                "output": args.output,
                "name": voice.name,
                "seconds": voice.seconds,
                "notes": list(voice.notes),
            },
        )
        return 0
    if args.output is not None:
        raise InputError(
            "expected a sound to make a voice from, got none; see: uniaudio voices --help"
        )
    voices = [
        Voice.load(p) for p in sorted((find_folder(args.model) / "voices").glob("*.safetensors"))
    ]
    rows = [
        {"name": v.name, "seconds": v.seconds, "licence": v.licence, "source": v.source}
        for v in voices
    ]
    print_about(
        args,
        rows,
        [f"{v.name}  {v.seconds:.2f} s  {v.licence}".rstrip() for v in voices] or ["no voices"],
    )
    return 0


def tasks_command(args: argparse.Namespace) -> int:
    """``uniaudio tasks``: the model's tasks; without a model, all tasks of this version."""
    tasks: Iterable[Task] = TASKS.values()
    if args.model is not None or bundled_models():
        tasks = load_config(find_folder(args.model)).task_table.values()
    schemas = [t.schema() for t in tasks]
    lines = []
    for s in schemas:
        lines.append(f"{s['name']}: {s['help']}")
        for i in s["inputs"]:
            lines.append(
                f"  {i['name']} ({i['modality']}{', required' if i['required'] else ''}): {i['help']}"
            )
        for o in s["options"]:
            lines.append(
                f"  {o['name']} ({o['min']:g} to {o['max']:g}, default {o['default']}): {o['help']}"
            )
        lines.append(f"  example: {s['example']}")
    print_about(args, schemas, lines)
    return 0


def info_command(args: argparse.Namespace) -> int:
    """``uniaudio info``: load a model and describe it."""
    about = load_engine(args).info()
    print_about(
        args,
        about,
        [f"{k}: {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in about.items()],
    )
    return 0


# Output and arguments


def _given(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Inputs and options from the flags that were made for the task."""
    # A model's definition of a built-in task may have other options than the flags.
    flags = TASKS[args.task]
    options = {o.name: o for o in (*flags.options, *task.options)}
    values: dict[str, Any] = {
        name: _number(getattr(args, name, None), option) for name, option in options.items()
    }
    for o in LENGTH_OPTIONS["text"]:
        if o.name not in options and getattr(args, o.name, None) is not None:
            raise InputError(
                f"--{o.name}: expected none, since this model decides on its lengths; leave it out"
            )
    values.update({i.name: getattr(args, i.name) for i in flags.inputs})
    if flags.text_input is not None:
        values.update({name: getattr(args, name) for name in TEXT_INPUTS})
    # What is spoken into a pipe is spoken as it arrives.
    arriving = None if task.finish or not _is_pipe(args.output) else task.text_input
    for i in flags.inputs:
        if i.modality in ("text", "caption") and values[i.name] == "-":
            is_arriving = arriving is not None and arriving.name == i.name
            values[i.name] = standard_input_pieces() if is_arriving else standard_input()
    return {k: v for k, v in values.items() if v is not None}


def _is_pipe(output: str) -> bool:
    """Whether the sound goes to another program."""
    return output == "-" and not sys.stdout.isatty() and not sys.stdout.buffer.seekable()


def _encoders(given: list[str] | None) -> dict[str, str]:
    """Folders by name from repeated ``--encoder NAME=FOLDER``."""
    pairs = [text.partition("=") for text in given or ()]
    wrong = [name for name, equals, folder in pairs if not equals or not folder]
    if wrong:
        raise InputError(f"--encoder: expected NAME=FOLDER, got {shown(wrong[0])}")
    return {name: folder for name, _, folder in pairs}


def _number(text: str | None, option: Option) -> int | float | None:
    if text is None:
        return None
    try:
        value = int(text) if option.kind == "int" else float(text)
    except ValueError:
        return option.check(text)  # raises, with what was expected
    return option.check(value)


def _typed(task: Task, name: str, value: str) -> Any:
    option = next((o for o in task.options if o.name == name), None)
    return value if option is None else _number(value, option)


def _chunk_frames(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise InputError(
            f"--chunk-frames: expected whole numbers such as 4,8,16, got {shown(text)}"
        ) from None
