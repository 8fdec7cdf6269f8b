"""The command ``uniaudio``: its arguments, one-line errors, exit codes and Ctrl-C.

``commands.py`` has what the subcommands do. Exit codes: 0 success, 2 a bad request, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError
from ..request.task_table import TASKS
from ..request.tasks import Task
from .export import add_arguments as add_export
from .import_ import add_arguments as add_import


class _Parser(argparse.ArgumentParser):
    """Errors on one line; the example at the end of each help text keeps its line breaks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see: {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; ``args.run(args)`` does the work and returns the exit code."""
    parser = _Parser(
        prog="uniaudio",
        description="Speech and sound from one small model, on this machine.",
        epilog='example:\n  uniaudio tts "Hello there." -o hello.wav',
    )
    parser.add_argument("--version", action="version", version=f"uniaudio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, help: str, example: str, model: bool = True) -> argparse.ArgumentParser:
        files = "\nget the example files: uniaudio examples" if "examples/" in example else ""
        p: argparse.ArgumentParser = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}{files}",
        )
        p.set_defaults(run=_command(name))
        p.add_argument("--json", action="store_true", help="print the result as JSON")
        if model:
            _add_model(p)
        return p

    for task in TASKS.values():
        p = add(task.verb or task.name, task.help, task.example)
        p.set_defaults(run=_command("task"), task=task.name)
        _add_inputs(p, task)
        _add_output(p)
        p.add_argument(
            "--plot",
            metavar="PNG",
            help="also draw waveform and spectrogram, and those of the source if there is one",
        )
    p = add(
        "stream",
        "speak a text, with the sound written as it is generated",
        'uniaudio stream "Hello there." -o hello.wav',
    )
    p.set_defaults(task="tts")
    _add_inputs(p, TASKS["tts"])
    _add_output(p)
    p.add_argument(
        "--raw", action="store_true", help="16-bit little-endian samples without a WAV header"
    )
    p.add_argument(
        "--chunk-frames", metavar="N,N,…", help="frames of each chunk; the last number repeats"
    )
    p = add(
        "run",
        "run a task, once or for each line of a file",
        "uniaudio run tts text=Hello seed=7 -o hello.wav",
    )
    p.add_argument("task", metavar="TASK", help="one of the tasks that uniaudio tasks lists")
    p.add_argument("values", nargs="*", metavar="NAME=VALUE", help="its inputs and options")
    p.add_argument(
        "--jsonl",
        metavar="FILE",
        help='one request per line, such as {"text": "Hello", "output": "a.wav"}',
    )
    p.add_argument("--seed", help="seed of the requests that have none of their own")
    p.add_argument(
        "--batch", type=int, default=8, metavar="N", help="requests run together (default 8)"
    )
    _add_output(
        p, "sound file, or - for standard output; with --jsonl a folder for the sound files"
    )
    p = add(
        "codec",
        "encode sound as codes, or decode codes to sound",
        "uniaudio codec encode examples/speech.flac -o speech.safetensors",
    )
    p.add_argument("direction", choices=("encode", "decode"))
    p.add_argument(
        "input", metavar="FILE", help="a sound file to encode, or a codes file to decode"
    )
    p.add_argument(
        "--codebooks",
        type=int,
        default=0,
        metavar="K",
        help="use only the first K codebooks (default all)",
    )
    p.add_argument(
        "--bandwidth",
        type=float,
        metavar="KBPS",
        help="use as many codebooks as fit; a bandwidth that the codec was trained for",
    )
    p.add_argument("--seed", help="ignored: the codec draws no random numbers")
    _add_output(p)
    p = add(
        "voices",
        "list the voices, or make one from a sound",
        "uniaudio voices examples/voice.flac -o voice.safetensors",
    )
    p.add_argument("input", nargs="?", metavar="SOUND", help="a sound to make a voice from")
    p.add_argument("--name", default="", help="name of the voice (default: name of the sound file)")
    p.add_argument("--licence", default="", help="licence to store in the voice file")
    p.add_argument("-o", "--output", metavar="FILE", help="voice file to write, .safetensors")
    p = add(
        "bench",
        "measure the model's speed on this machine",
        "uniaudio bench --json --seconds 2 --repeat 1",
    )
    p.add_argument("--seed", help="seed of the generated speech (default 0)")
    p.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="approximate length of the generated speech (default 10)",
    )
    p.add_argument(
        "--repeat", type=int, default=5, help="number of runs; medians are reported (default 5)"
    )
    p = add(
        "quantize",
        "write a model folder with smaller weights",
        "uniaudio quantize --dtype int4 -o small",
    )
    p.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the new folder")
    p = commands.add_parser(
        "import",
        help="make a model folder from another project's checkpoints",
        description="Make a model folder from another project's checkpoints.",
        epilog=(
            "example:\n  uniaudio import uniaudio --lm uniaudio_v1.zip --codec "
            "universal_model.zip -o uniaudio-v1"
        ),
    )
    add_import(p)
    p = commands.add_parser(
        "export",
        help="export a model as graphs for other runtimes: ONNX, TensorRT",
        description="Export a model as graphs for other runtimes: ONNX, TensorRT.",
        epilog="example:\n  uniaudio export onnx -o speech-onnx --verify",
    )
    add_export(p)
    p = add(
        "examples",
        "copy the files that the examples in these help texts use",
        "uniaudio examples",
        model=False,
    )
    p.add_argument(
        "folder",
        nargs="?",
        default="examples",
        metavar="DIR",
        help="target folder (default ./examples); created if absent",
    )
    p.add_argument("--force", action="store_true", help="overwrite existing files that differ")
    add("tasks", "list the model's tasks with their inputs and options", "uniaudio tasks --json")
    add("info", "show what a model is and how it runs", "uniaudio info")
    add("doctor", "show what works on this machine, what does not, and why", "uniaudio doctor")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    with _Terminated():
        try:
            args = _parse(argv)
            return int(args.run(args))
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except BrokenPipeError:  # the reader of our output is gone, so there is nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ValueError, OSError, MemoryError, RuntimeError) as e:
            if os.environ.get("UNIAUDIO_DEBUG"):
                raise
            return _fail(_one_line(e), 2)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; NAME=VALUE pairs may also follow flags, which argparse does not support."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "values") or any(r.startswith("-") for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.values += rest
    return args


class _Terminated:
    """SIGTERM as an exception, so that partial files are removed; only in the main thread."""

    def __enter__(self) -> None:
        self._before: Any = None
        try:
            self._before = signal.signal(signal.SIGTERM, self._raise)
        except ValueError:  # not the main thread
            return

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @staticmethod
    def _raise(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)


def _fail(message: str, code: int) -> int:
    print(f"uniaudio: error: {message}", file=sys.stderr)
    return code


def _one_line(e: BaseException) -> str:
    if isinstance(e, MemoryError):
        return "not enough memory; a lower --max-seconds needs less"
    if isinstance(e, OSError) and e.strerror:
        return f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    return " ".join(str(e).split()) or type(e).__name__


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        from . import commands  # imported late, so that --help is fast

        return int(getattr(commands, f"{name}_command")(args))

    return run


def _add_model(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-m", "--model", metavar="FOLDER", help="model folder (default: the bundled model)"
    )
    g.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto is the CPU",
    )
    g.add_argument(
        "--dtype",
        default="auto",
        help="type of weights: auto, float32, bfloat16, int8, int4, or by part: int8,local=int4",
    )
    g.add_argument(
        "--kv-dtype",
        default="auto",
        help="type of attention keys and values: auto, float32, bfloat16 or int8",
    )
    g.add_argument(
        "--encoder",
        action="append",
        metavar="NAME=FOLDER",
        help="folder with the weights of t5 or hubert, for imported models",
    )
    g.add_argument(
        "--backend",
        default="native",
        help="native; or onnx or tensorrt for an exported folder",
    )
    g.add_argument("--threads", type=int, help="default: the available processors")
    g.add_argument(
        "--max-seconds", type=float, help="longest sentence, which decides the memory needed"
    )


def _add_inputs(p: argparse.ArgumentParser, task: Task) -> None:
    """Flags for a task's inputs and options; its first text is a positional argument."""
    words = [i.name for i in task.inputs if i.modality in ("text", "caption")]
    for i in task.inputs:
        flag = f"--{i.name}"
        if i.modality in ("text", "caption"):
            if i.name == words[0]:
                p.add_argument(
                    i.name,
                    nargs="?",
                    metavar=i.name.upper(),
                    help=f"{i.help}; - reads standard input",
                )
            else:
                p.add_argument(flag, help=i.help)
            if i.modality == "text":
                p.add_argument(
                    "--phones", help=f"phones separated by spaces, instead of {i.name.upper()}"
                )
        elif i.modality == "voice":
            p.add_argument("--voice", flag, dest=i.name, metavar="VOICE", help=i.help)
        else:
            p.add_argument(
                flag, metavar="BEGIN:END" if i.modality == "span" else "FILE", help=i.help
            )
    for o in task.options:
        default = "" if o.default is None else f" (default {o.default:g})"
        p.add_argument(f"--{o.name.replace('_', '-')}", metavar="N", help=f"{o.help}{default}")


def _add_output(
    p: argparse.ArgumentParser,
    help: str = "sound file (.wav, .flac, .ogg), or - for standard output",
) -> None:
    p.add_argument("-o", "--output", required=True, metavar="OUT", help=help)


if __name__ == "__main__":
    sys.exit(main())
