"""``uniaudio export``: exports a model folder as graphs for other runtimes, and verifies them.

The exporters are in the training package because they need torch. They register as entry points of
the group ``uniaudio.exporters``, so that nothing here imports them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from ..storage.files import atomic_write
from .import_ import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kinds of export; ``args.run(args)`` does the work and returns the exit code."""
    kinds = parser.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, help: str, example: str, run: Any) -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = kinds.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example:\n  {example}",
        )
        p.set_defaults(run=run)
        p.add_argument("--json", action="store_true", help="print the result as JSON")
        return p

    p = add(
        "onnx",
        "write ONNX graphs, their weights, and an example program for speech",
        "uniaudio export onnx -o speech-onnx --verify",
        _onnx,
    )
    p.add_argument(
        "-m", "--model", metavar="FOLDER", help="a model folder (default: the bundled model)"
    )
    p.add_argument("-o", "--output", required=True, metavar="FOLDER", help="the new folder")
    p.add_argument(
        "--dtype",
        default="float32",
        help=(
            "type of the language model: float32 (default), float16, or int8 (weights only); "
            "codecs stay in float32"
        ),
    )
    p.add_argument(
        "--verify",
        action="store_true",
        help="also compare the result with the golden vectors and the native backend",
    )
    p.add_argument("--threads", type=int, default=1, help="threads of the verification (default 1)")
    p = add(
        "verify",
        "compare a folder of graphs with its golden vectors and with the native backend",
        "uniaudio export verify speech-onnx",
        _verify,
    )
    p.add_argument("folder", metavar="FOLDER", help="folder written by export onnx")
    p.add_argument(
        "-m",
        "--model",
        metavar="FOLDER",
        help="the exported model folder (default: the bundled model, if it was exported)",
    )
    p.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N: where ONNX Runtime runs (default cpu)"
    )
    p.add_argument("--threads", type=int, default=1, help="default 1")
    p = add(
        "request",
        "write a sentence as tokens for example.cc and similar programs",
        'uniaudio export request speech-onnx "Hello there." -o hello.txt',
        _request,
    )
    p.add_argument("folder", metavar="FOLDER", help="folder written by export onnx")
    p.add_argument("text", help="text; only its first sentence is used")
    p.add_argument("-o", "--output", required=True, metavar="FILE", help="a text file")
    p.add_argument("--seed", type=int, default=0, help="seed of durations and sound (default 0)")
    p = add(
        "tensorrt",
        "build TensorRT plans of exported graphs for the GPU of this machine",
        "uniaudio export tensorrt speech-onnx -o speech-trt",
        _tensorrt,
    )
    p.add_argument("folder", metavar="FOLDER", help="folder written by export onnx")
    p.add_argument("-o", "--output", required=True, metavar="PLANS", help="the new folder")
    p.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="NAME=A:B:C",
        help=(
            "minimum, typical and maximum steps, frames or samples of long inputs; capacity=N: "
            "frames of a session (default 1024)"
        ),
    )
    p.add_argument(
        "--version-compatible",
        action="store_true",
        help="make plans that later TensorRT versions with the same major number can load",
    )
    p.add_argument(
        "--timing-cache",
        metavar="FILE",
        help="timing cache; read if present, and written: the next build is faster",
    )
    p.add_argument("--device", type=int, default=0, help="number of the GPU (default 0)")


def _exporter(name: str) -> Callable[..., Any]:
    """The function registered under this name by an installed distribution.

    Raises :class:`InputError` where there is none, or where it lacks a required package.
    """
    from importlib.metadata import entry_points  # here: a tenth of all imports of the command

    for point in entry_points(group="uniaudio.exporters", name=name):
        try:
            found: Callable[..., Any] = point.load()
        except ImportError as e:
            raise InputError(
                f"export {name} needs torch, onnx and onnxscript ({e}): "
                "pip install 'uniaudio-training[export]'"
            ) from None
        return found
    raise InputError(
        f"export {name}: expected the training package, which is not installed: "
        "pip install 'uniaudio-training[export]', or in a checkout "
        "pip install './training[export]'"
    )


def _tensorrt(args: argparse.Namespace) -> int:
    made = _exporter("tensorrt")(
        args.folder,
        args.output,
        args.profile,
        args.device,
        args.version_compatible,
        args.timing_cache,
        progress,
    )
    progress("")
    print(
        json.dumps({"output": args.output, **made})
        if args.json
        else f"{args.output}: {len(made['plans'])} plans for TensorRT {made['tensorrt']} on {made['gpu']}"
    )
    return 0


def _request(args: argparse.Namespace) -> int:
    from ..engine import Engine
    from ..request.request_file import spoken_request

    text = spoken_request(
        Engine.from_pretrained(args.folder, backend="onnx").model, args.text, args.seed
    )
    with atomic_write(args.output) as f:
        f.write(text.encode())
    frames = next(line for line in text.splitlines() if line.startswith("target ")).split()[1]
    print(
        json.dumps({"output": args.output, "frames": int(frames)})
        if args.json
        else f"{args.output}: {frames} frames to generate"
    )
    return 0


def _onnx(args: argparse.Namespace) -> int:
    about = _exporter("onnx")(args.model, args.output, args.dtype, progress)
    progress("")
    if not args.json:
        print(
            f"{args.output}: {about['model']} as {about['dtype']}, {len(about['graphs'])} graphs, "
            f"opset {about['opset']}"
        )
    if not args.verify:
        if args.json:
            print(json.dumps({"output": args.output, **about}))
        return 0
    return _verified(args, args.output, args.model, "cpu")


def _verify(args: argparse.Namespace) -> int:
    return _verified(args, args.folder, args.model, args.device)


def _verified(args: argparse.Namespace, folder: str, model: str | None, device: str) -> int:
    from ..backends.verify import table, verify

    rows = verify(folder, model, args.threads, device, progress)
    progress("")
    fine = all(r.fine is not False for r in rows)
    if args.json:
        print(json.dumps({"folder": folder, "fine": fine, "rows": [vars(r) for r in rows]}))
    else:
        print(table(rows))
        if all(r.against == "golden vectors" for r in rows):
            print(
                "not compared with the native backend: not the bundled model; name its "
                "folder with -m"
            )
    if not fine:
        raise InputError(f"{folder}: out of bounds; see the table")
    return 0
