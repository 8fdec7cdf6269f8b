"""The arguments of the command ``uniaudio``: one function per group of subcommands.

Importing this module is cheap, so that ``--help`` is fast; ``commands.py`` has the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__, cluster
from ..errors import InputError
from ..request.options import LENGTH_OPTIONS
from ..request.task_table import TASKS
from ..request.tasks import TEXT_INPUTS, Input, Task
from .export import add_arguments as add_export
from .import_ import add_arguments as add_import
from .import_ import locate_model
from .live import add_arguments as add_live
from .serve import add_arguments as add_serve


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
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, help: str, example: str, command: str = "") -> argparse.ArgumentParser:
        """A subcommand that ``commands.COMMAND_command`` runs; by default of the same name."""
        files = "\nget the example files: uniaudio examples" if "examples/" in example else ""
        p: argparse.ArgumentParser = subparsers.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}{files}",
        )
        p.set_defaults(run=_command(command or name))
        return p

    _add_verbs(add)
    _add_stream(add)
    add_live(
        _with_model(
            add(
                "live",
                "enhance, convert, extract or dereverb a sound while it is being made",
                "uniaudio live enhance",
            )
        )
    )
    _add_say_as(add)
    _add_run(add)
    add_serve(
        _with_model(add("serve", "serve the model over HTTP and WebSockets", "uniaudio serve"))
    )
    _add_codec(add)
    _add_voices(add)
    _add_bench(add)
    _add_folders(add)
    _add_examples(add)
    _add_descriptions(add)
    return parser


Add = Callable[..., argparse.ArgumentParser]


def _add_verbs(add: Add) -> None:
    for task in TASKS.values():
        p = _with_model(add(task.verb or task.name, task.help, task.example, command="task"))
        p.set_defaults(task=task.name)
        _add_inputs(p, task)
        _add_output(p)
        p.add_argument(
            "--plot",
            metavar="PNG",
            help="also draw waveform and spectrogram, and those of the source if there is one",
        )


def _add_stream(add: Add) -> None:
    p = _with_model(
        add(
            "stream",
            "speak a text, with the sound written as it is generated",
            'uniaudio stream "Hello there." -o hello.wav\n'
            '  echo "Hello there." | uniaudio stream - -o - | cat > piped.wav',
        )
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


def _add_say_as(add: Add) -> None:
    p = _with_json(
        add(
            "say-as",
            "show a text as it will be spoken: words, pauses and phones",
            'uniaudio say-as "Dr. Lee paid $5.20 on 3/4/2025."',
            command="say_as",
        )
    )
    p.add_argument("text", metavar="TEXT", help="what to speak; - reads standard input")
    for name in ("markup", "lexicon"):
        p.add_argument(f"--{name}", help=TEXT_INPUTS[name])


def _add_run(add: Add) -> None:
    p = _with_model(
        add(
            "run",
            "run a task, once or for each line of a file",
            "uniaudio run tts text=Hello seed=7 -o hello.wav\n"
            "  uniaudio run tts --jsonl lines.jsonl --seed 7 -o sounds --ray",
        )
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
    p.add_argument(
        "--resume",
        action="store_true",
        help="with --jsonl: leave out requests whose sound file exists",
    )
    p.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help=f"with --jsonl: run on a Ray cluster: {cluster.ADDRESS}",
    )
    p.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with --ray: workers, of --threads processors each (default: all that have room)",
    )
    _add_output(
        p, "sound file, or - for standard output; with --jsonl a folder for the sound files"
    )


def _add_codec(add: Add) -> None:
    p = _with_model(
        add(
            "codec",
            "encode sound as codes, or decode codes to sound",
            "uniaudio codec encode examples/speech.flac -o speech.safetensors",
        )
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


def _add_voices(add: Add) -> None:
    p = _with_model(
        add(
            "voices",
            "list the voices, or make one from a sound",
            "uniaudio voices examples/voice.flac -o voice.safetensors",
        )
    )
    p.add_argument("input", nargs="?", metavar="SOUND", help="a sound to make a voice from")
    p.add_argument("--name", default="", help="name of the voice (default: name of the sound file)")
    p.add_argument("--licence", default="", help="licence to store in the voice file")
    p.add_argument(
        "--text",
        default="",
        help="what is said in the sound, for models that continue it (Qwen3-TTS)",
    )
    p.add_argument("-o", "--output", metavar="FILE", help="voice file to write, .safetensors")


def _add_bench(add: Add) -> None:
    p = _with_model(
        add(
            "bench",
            "measure the model's speed on this machine",
            "uniaudio bench --json --seconds 2 --repeat 1",
        )
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
    p.add_argument(
        "--peaks",
        action="store_true",
        help="measure what the machine can do at most, without a model: multiply-adds on "
        "registers, and reads by the size of what is read",
    )


def _add_folders(add: Add) -> None:
    p = _with_model(
        add(
            "quantize",
            "write a model folder with smaller weights",
            "uniaudio quantize --dtype int4 -o small",
        )
    )
    p.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the new folder")
    add_import(
        add(
            "import",
            "make a model folder from another project's checkpoints",
            "uniaudio import uniaudio --lm uniaudio_v1.zip --codec universal_model.zip -o "
            "uniaudio-v1",
        )
    )
    add_export(
        add(
            "export",
            "export a model as graphs for other runtimes: ONNX, TensorRT",
            "uniaudio export onnx -o speech-onnx --verify",
        )
    )


def _add_examples(add: Add) -> None:
    p = _with_json(
        add(
            "examples",
            "copy the files that the examples in these help texts use",
            "uniaudio examples",
        )
    )
    p.add_argument(
        "folder",
        nargs="?",
        default="examples",
        metavar="DIR",
        help="target folder (default ./examples); created if absent",
    )
    p.add_argument("--force", action="store_true", help="overwrite existing files that differ")


def _add_descriptions(add: Add) -> None:
    p = _with_json(
        add(
            "models",
            "list the models of others that can be run: licence, size, memory, speed here",
            "uniaudio models",
        )
    )
    p.add_argument("--threads", type=int, help="default: the available processors")
    _with_model(
        add(
            "tasks", "list the model's tasks with their inputs and options", "uniaudio tasks --json"
        )
    )
    _with_model(add("info", "show what a model is and how it runs", "uniaudio info"))
    _with_model(
        add("doctor", "show what works on this machine, what does not, and why", "uniaudio doctor")
    )


# The modules of the subcommands that are not in commands.py.
_MODULES = {"bench": "bench", "doctor": "bench", "examples": "examples", "models": "models"}


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        # imported late, so that --help is fast
        module = import_module(f".{_MODULES.get(name, 'commands')}", __package__)
        if getattr(args, "model", None) is not None:
            args.model = locate_model(args)
        return int(getattr(module, f"{name}_command")(args))

    return run


def _with_json(p: argparse.ArgumentParser) -> argparse.ArgumentParser:
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    return p


def _with_model(p: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With --json, and the arguments that choose a model and how it runs."""
    _with_json(p)
    g = p.add_argument_group("model")
    g.add_argument(
        "-m",
        "--model",
        metavar="FOLDER",
        help="model folder, or a model on a hub such as kyutai/mimi (default: the bundled model)",
    )
    g.add_argument("--revision", metavar="REV", help="branch, tag or commit of a model on a hub")
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
    return p


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
                    help=f"{i.help}; - reads standard input"
                    + (", as it arrives if the sound goes to a pipe" * _arrives(task, i)),
                )
            else:
                p.add_argument(flag, help=i.help)
            if i.modality == "text":
                for name, help in TEXT_INPUTS.items():
                    p.add_argument(f"--{name.replace('_', '-')}", help=help)
                p.add_argument(
                    "--times",
                    metavar="FILE",
                    help="also write when each word is spoken: .srt subtitles, or .json with phones",
                )
        elif i.modality == "voice":
            p.add_argument("--voice", flag, dest=i.name, metavar="VOICE", help=i.help)
        else:
            p.add_argument(
                flag, metavar="BEGIN:END" if i.modality == "span" else "FILE", help=i.help
            )
    options = {o.name: o for o in task.options}
    if any(i.modality == "text" for i in task.inputs):  # models of others may have these too
        options = {o.name: o for o in LENGTH_OPTIONS["text"]} | options
    for o in options.values():
        default = "" if o.default is None else f" (default {o.default:g})"
        if o.name == "guidance":  # which a model may have a default of its own for
            default = " (default: the model's)"
        p.add_argument(f"--{o.name.replace('_', '-')}", metavar="N", help=f"{o.help}{default}")


def _arrives(task: Task, spec: Input) -> bool:
    return spec.modality == "text" and not task.finish


def _add_output(
    p: argparse.ArgumentParser,
    help: str = "sound file (.wav, .flac, .ogg, .opus, .mp3), or - for standard output",
) -> None:
    p.add_argument("-o", "--output", required=True, metavar="OUT", help=help)
