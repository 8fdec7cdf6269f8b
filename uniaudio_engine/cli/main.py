"""The command ``uniaudio``: its arguments, and its manners (one-line errors, exit codes, Ctrl-C).

What the subcommands do is in ``commands.py``. Exit codes: 0 done, 2 a request that cannot be met,
130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError
from ..request.task_table import TASKS
from ..request.tasks import Task
from .export import add_arguments as add_export
from .import_ import add_arguments as add_import


class _Parser(argparse.ArgumentParser):
    """Errors on one line; the example at the end of each help is kept as written."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see: {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """All subcommands; ``args.run(args)`` does the work and returns the exit code."""
    parser = _Parser(
        prog="uniaudio",
        description="Speech and sound from one small model, on this machine.",
        epilog='example:\n  uniaudio tts "Hello there." -o hello.wav',
    )
    parser.add_argument("--version", action="version", version=f"uniaudio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, help: str, example: str, model: bool = True) -> argparse.ArgumentParser:
        files = "\nits files are those of: uniaudio examples" if "examples/" in example else ""
        p: argparse.ArgumentParser = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}{files}",
        )
        p.set_defaults(run=_command(name))
        p.add_argument("--json", action="store_true", help="print what was done, or found, as JSON")
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
            help=(
                "also a picture of waveform and spectrogram, of the source as well where there "
                "is one"
            ),
        )
    p = add(
        "stream",
        "speak a text while it is being made",
        'uniaudio stream "Hello there." -o hello.wav',
    )
    p.set_defaults(task="tts")
    _add_inputs(p, TASKS["tts"])
    _add_output(p)
    p.add_argument(
        "--raw", action="store_true", help="16-bit little-endian samples without a WAV header"
    )
    p.add_argument(
        "--chunk-frames", metavar="N,N,…", help="frames in each chunk; the last number repeats"
    )
    p = add(
        "run",
        "do a task, once or for each line of a file",
        "uniaudio run tts text=Hello seed=7 -o hello.wav",
    )
    p.add_argument("task", metavar="TASK", help="a task of: uniaudio tasks")
    p.add_argument("values", nargs="*", metavar="NAME=VALUE", help="its inputs and options")
    p.add_argument(
        "--jsonl",
        metavar="FILE",
        help='one request a line, such as {"text": "Hello", "output": "a.wav"}',
    )
    p.add_argument("--seed", help="for every request that has none of its own")
    p.add_argument(
        "--batch", type=int, default=8, metavar="N", help="requests made together (default 8)"
    )
    _add_output(
        p, "sound file, - for standard output, or with --jsonl the folder for the sound files"
    )
    p = add(
        "codec",
        "sound to codes and back",
        "uniaudio codec encode examples/speech.flac -o speech.safetensors",
    )
    p.add_argument("direction", choices=("encode", "decode"))
    p.add_argument("input", metavar="FILE", help="a sound file, or codes that encode wrote")
    p.add_argument(
        "--codebooks",
        type=int,
        default=0,
        metavar="K",
        help="use the first K codebooks only (default all)",
    )
    p.add_argument(
        "--bandwidth",
        type=float,
        metavar="KBPS",
        help="or as many as fit these kbit/s; one that the codec names",
    )
    p.add_argument("--seed", help="taken and ignored: the codec draws no random numbers")
    _add_output(p)
    p = add(
        "voices",
        "list the voices, or make one from a sound",
        "uniaudio voices examples/voice.flac -o voice.safetensors",
    )
    p.add_argument("input", nargs="?", metavar="SOUND", help="a sound to make a voice from")
    p.add_argument("--name", default="", help="what the voice is called (default: the file's name)")
    p.add_argument("--licence", default="", help="noted in the voice file")
    p.add_argument("-o", "--output", metavar="FILE", help="the voice file, .safetensors")
    p = add(
        "bench",
        "measure this machine with this model",
        "uniaudio bench --json --seconds 2 --repeat 1",
    )
    p.add_argument("--seed", help="of the speech that is made (default 0)")
    p.add_argument(
        "--seconds", type=float, default=10.0, help="about how much speech to make (default 10)"
    )
    p.add_argument("--repeat", type=int, default=5, help="of which the median is taken (default 5)")
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
        help="a model as graphs for other runtimes: ONNX, TensorRT",
        description="A model as graphs for other runtimes: ONNX, TensorRT.",
        epilog="example:\n  uniaudio export onnx -o speech-onnx --verify",
    )
    add_export(p)
    p = add(
        "examples",
        "copy the files that the examples of these helps use",
        "uniaudio examples",
        model=False,
    )
    p.add_argument(
        "folder",
        nargs="?",
        default="examples",
        metavar="DIR",
        help="where to (default ./examples); made where it is not there",
    )
    p.add_argument(
        "--force", action="store_true", help="overwrite files of the same names with other contents"
    )
    add("tasks", "what the model can do, with all inputs and options", "uniaudio tasks --json")
    add("info", "about a model", "uniaudio info")
    add("doctor", "what runs here, what does not, and why", "uniaudio doctor")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    with _Terminated():
        try:
            args = _parse(argv)
            return int(args.run(args))
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except (
            BrokenPipeError
        ):  # the reader of our output has gone: not our error, and nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ValueError, OSError, MemoryError, RuntimeError) as e:
            if os.environ.get("UNIAUDIO_DEBUG"):
                raise
            return _fail(_one_line(e), 2)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, NAME=VALUE pairs also after flags: argparse takes them in one place only."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "values") or any(r.startswith("-") for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.values += rest
    return args


class _Terminated:
    """SIGTERM as an exception, so that half-written files are removed (only where signals can be
    set).
    """

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
        return "not enough memory; a lower --max-seconds takes less"
    if isinstance(e, OSError) and e.strerror:
        return f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    return " ".join(str(e).split()) or type(e).__name__


def _command(name: str) -> Any:
    def run(args: argparse.Namespace) -> int:
        from . import commands  # late: --help needs none of it

        return int(getattr(commands, f"{name}_command")(args))

    return run


def _add_model(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-m", "--model", metavar="FOLDER", help="a model folder (default: the bundled model)"
    )
    g.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N: where the language model runs (auto is the CPU)",
    )
    g.add_argument(
        "--dtype",
        default="auto",
        help="how weights are held: auto, float32, bfloat16, int8, int4, or parts: int8,local=int4",
    )
    g.add_argument(
        "--kv-dtype",
        default="auto",
        help="how keys and values are held: auto, float32, bfloat16 or int8",
    )
    g.add_argument(
        "--encoder",
        action="append",
        metavar="NAME=FOLDER",
        help="weights of t5 or hubert, for imported models",
    )
    g.add_argument(
        "--backend",
        default="native",
        help="native, or onnx or tensorrt for a folder that export wrote",
    )
    g.add_argument("--threads", type=int, help="default: the processors at hand")
    g.add_argument("--max-seconds", type=float, help="longest sentence, which sizes the memory")


def _add_inputs(p: argparse.ArgumentParser, task: Task) -> None:
    """Flags that follow from the task's entry; the first words that it takes need none."""
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
    p: argparse.ArgumentParser, help: str = "sound file (.wav, .flac, .ogg); - is standard output"
) -> None:
    p.add_argument("-o", "--output", required=True, metavar="OUT", help=help)


if __name__ == "__main__":
    sys.exit(main())
