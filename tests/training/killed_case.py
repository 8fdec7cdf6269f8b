"""Kills what writes files at random moments, and looks at what is there.

    python killed_case.py OPERATION KILLS

After each kill the output is what it was before, or what a whole run makes. What a killed run left
beside it is gone after the next run. Prints how many were killed and how many left something.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("engine", "training")]

import numpy as np
from encodec_case import COMMON, codec_of, hf_state, write_hf
from tiny import make_tiny_model

from uniaudio_engine.cli.main import main
from uniaudio_engine.storage import files
from uniaudio_engine.storage.weight_shapes import codec_shapes

Do = Callable[[int], None]  # the number of the run: odd and even ones may write different things
LONGEST = 900.0  # seconds of one run, killed or not


def command(*argv: str) -> None:
    code = main(argv)
    if code:
        raise SystemExit(code)


def prepare_speech(name: str) -> Do:
    make_tiny_model(Path("model"))
    texts = ("Yes. No. Perhaps.", "No. Yes, perhaps, or not.")
    return lambda i: command(name, texts[i % 2], "-m", "model", "--seed", "1", "-o", "out.wav")


def prepare_quantize() -> Do:
    make_tiny_model(Path("model"))
    return lambda i: command("quantize", "-m", "model", "-o", "out", "--dtype", "int8")


def prepare_import() -> Do:
    small = {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "upsampling_ratios": [4, 2]}
    config = COMMON | small | {"sampling_rate": 8000, "target_bandwidths": [10.0, 20.0]}
    codec = codec_of(config, Path())
    rng = np.random.default_rng(0)
    ours = {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()}
    write_hf(Path("source"), config, hf_state(codec, ours))
    return lambda i: command("import", "encodec", "source", "-o", "out")


def prepare_export() -> Do:
    """Graphs are traced once: that takes nearly all the time, and writes nothing."""
    import onnx
    from uniaudio_training.export import write

    traced: dict[str, bytes] = {}
    trace = write.trace

    def once(graph: write.Graph) -> onnx.ModelProto:
        if graph.name not in traced:
            traced[graph.name] = trace(graph).SerializeToString()
        return onnx.ModelProto.FromString(traced[graph.name])

    write.trace = once
    make_tiny_model(Path("model"))
    write.export_onnx("model", "traced")
    _remove(Path("traced"))
    return lambda i: write.export_onnx("model", "out") and None


def prepare_train() -> Do:
    import test_resume
    from joint_items import write_shards

    Path("tokens").mkdir()
    write_shards(Path("tokens"), ("tts", "svs", "se"))
    often = {"data": "tokens", "checkpoint_minutes": 1e-9}
    return lambda i: test_resume.train_lm({**test_resume.LM, **often, "steps": 4 * (i + 1)}, "out")


PREPARE: dict[str, Callable[[], Do]] = {
    "tts": lambda: prepare_speech("tts"),
    "stream": lambda: prepare_speech("stream"),
    "quantize": prepare_quantize,
    "import": prepare_import,
    "export": prepare_export,
    "train": prepare_train,
}


def contents(path: Path) -> str:
    """A hash of a file, or of a folder's names and files."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        digest.update(str(file).encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


def started(do: Do, number: int) -> int:
    """A child process that does it; its id."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        do(number)
        os._exit(0)
    except BaseException as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
    os._exit(1)


def parts() -> set[str]:
    """The temporary files and folders that are there."""
    return {p.name for p in (*Path().iterdir(), *Path("out").glob(".*")) if p.suffix == ".part"}


def ended(child: int, seconds: float, writing: float | None = None) -> bool:
    """Whether the child ends well within so many seconds; else it is killed. ``writing``: it is
    killed so many seconds after it has begun to write.
    """
    limit, before = time.monotonic() + seconds, parts()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"a run failed: {status}"
            return True
        if time.monotonic() >= limit:
            break
        if writing is not None and parts() - before:
            limit, writing = min(limit, time.monotonic() + writing), None
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def kill(operation: str, kills: int) -> tuple[int, int]:
    """(killed, left something beside the output)."""
    do = PREPARE[operation]()
    files._SETTLED = 0.0  # nothing else writes here
    before = {p.name for p in Path().iterdir()}
    whole, seconds, number = set(), 0.0, 0
    for number in (0, 1):
        _remove(Path("out"))
        begin = time.monotonic()
        assert ended(started(do, number), LONGEST)
        seconds = time.monotonic() - begin
        (output,) = (p for p in Path().iterdir() if p.name not in before)
        whole.add(contents(output))
    if output.is_file() or operation == "train":
        before.add(output.name)
    inside = {p.name for p in output.iterdir()} if output.is_dir() else set()
    draw, killed, left = random.Random(operation), 0, 0
    while killed < kills:
        number += 1
        if output.name not in before:
            _remove(output)
        begin = time.monotonic()
        writing = draw.uniform(0, 0.02) if number % 2 else None
        limit = 10 * seconds if writing else draw.uniform(0, 1.1) * seconds
        if ended(started(do, number), limit, writing):
            seconds = time.monotonic() - begin
        else:
            killed += 1
            seconds *= 1.05  # or a machine that has become slower is never let through to the end
        if operation == "train":
            _check_run(output)
        elif output.exists() or output.name in before:
            assert contents(output) in whole, "a part of an output"
        left += bool({p.name for p in Path().iterdir()} - before - {output.name})
    if output.name not in before:
        _remove(output)
    assert ended(started(do, number), LONGEST)
    names = {p.name for p in Path().iterdir()}
    assert names == before | {output.name}, f"left behind: {sorted(names - before)}"
    if operation == "train":
        assert {p.name for p in output.iterdir()} == inside
    return killed, left


def _check_run(folder: Path) -> None:
    import torch

    state = torch.load(folder / "checkpoint.pt", weights_only=False)
    assert state["step"] > 0 and state["parts"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        print(sys.argv[1], *kill(sys.argv[1], int(sys.argv[2])))
