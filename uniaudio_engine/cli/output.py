"""What subcommands write: the sound into its output, progress and results to the terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..audio.sound import (
    FORMATS,
    Audio,
    AudioChunk,
    check_output,
    write_audio,
    write_audio_stream,
)
from ..engine import Engine
from ..errors import InputError
from ..request.live_text import is_live
from ..request.stream import AudioStream
from ..request.tasks import Task
from ..storage.files import atomic_write


@contextlib.contextmanager
def open_output(path: str) -> Iterator[BinaryIO]:
    """The output file, or standard output for -; refused before any work if it is not writable."""
    if path == "-":
        if getattr(sys.stdout, "name", "") == os.devnull:
            raise InputError("expected standard output for the sound, but it is closed")
        if sys.stdout.isatty():
            raise InputError(
                "expected a pipe or file for the sound, got a terminal; redirect it, or use -o "
                "NAME.wav"
            )
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    check_output(path)
    with atomic_write(path) as f:
        yield f


def file_kind(path: str) -> str:
    return FORMATS.get(Path(path).suffix.lower(), "WAV")


def generate_into(
    engine: Engine, task: Task, values: dict[str, Any], f: BinaryIO, kind: str, keep: bool
) -> tuple[Audio | None, dict[str, Any]]:
    """Do a task and write its sound; returns what the result says about itself, and the sound.

    The result of a long source, or of a text that arrives, is written as it is made, and returned
    only on ``keep``.
    """
    spec = task.text_input
    arrives = spec is not None and is_live(values.get(spec.name))
    with engine.stream(task.name, **values) as stream:
        if (arrives or stream.expected_seconds is not None) and not keep:
            write_audio_stream(f, with_progress(stream), engine.sample_rate, kind, engine.channels)
            return None, stream.meta
        chunks = [c.samples for c in with_progress(stream)]
    audio = Audio(np.concatenate(chunks, axis=-1), engine.sample_rate, stream.meta)
    write_audio(f, audio, kind)
    return audio, stream.meta


def with_progress(stream: AudioStream) -> Iterator[AudioChunk]:
    """The chunks; progress is shown on standard error if that is a terminal."""
    for chunk in stream:
        yield chunk
        done = f"{(chunk.start + chunk.samples.shape[-1]) / chunk.sample_rate:.1f}"
        whole = stream.expected_seconds
        show_progress(
            f"{done} s of sound" if whole is None else f"{done} of {whole:.1f} s of sound"
        )
    show_progress("")


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def report(args: argparse.Namespace, meta: dict[str, Any]) -> None:
    """Report a result: as JSON on standard output, or on standard error if the sound goes to
    standard output; without --json as one line on standard error.
    """
    if args.json:
        print(json.dumps(meta), file=sys.stderr if meta["output"] == "-" else sys.stdout)
        return
    for note in meta.get("notes", ()):
        print(f"uniaudio: note: {note}", file=sys.stderr)
    parts = [f"{meta['seconds']:.2f} s"]
    parts += [f"seed {meta['seed']}"] if "seed" in meta else []
    parts += [f"{meta['realtime_factor']:.1f} x realtime"] if "realtime_factor" in meta else []
    print(f"{meta['output']}: {', '.join(parts)}", file=sys.stderr)


def print_about(args: argparse.Namespace, value: Any, lines: list[str]) -> None:
    print(json.dumps(value, indent=2) if args.json else "\n".join(lines))
