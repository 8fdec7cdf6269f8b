"""Requests with values that no task takes, files of them, and sessions of live sound."""

from __future__ import annotations

import contextlib
import io
import json
from collections import deque
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from changes import changed, changed_json, text
from joint import make_joint_model
from target import Target
from tiny import make_tiny_model

from uniaudio_engine import Engine
from uniaudio_engine.cli import commands
from uniaudio_engine.cli.main import main

_NOISE = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
_ARRAYS: tuple[Any, ...] = (
    (_NOISE, 16000),
    (_NOISE[:0], 16000),
    (_NOISE[:1], 16000),
    (_NOISE, 0),
    (_NOISE, 10**30),
    (_NOISE * np.inf, 16000),
    (_NOISE.reshape(2, -1), 16000),
    (_NOISE.astype(object), 16000),
    (_NOISE * 1e30, 44100),
    (np.array("x"), 16000),
    np.zeros((2, 3)),
    b"RIFF",
    Path("no.wav"),
)


def _requests(tasks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A sound request for each task."""
    values: dict[str, Any] = {
        "voice": (_NOISE, 16000),
        "audio": (_NOISE, 16000),
        "units": (_NOISE, 16000),
        "context": (_NOISE, 16000),
        "text": "Hi.",
        "caption": "three knocks on wood",
        "score": "C4 0.5 la",
        "span": (0.2, 0.4),
    }
    made = {}
    for task in tasks:
        inputs = {i["name"]: values.get(i["modality"]) for i in task["inputs"]}
        made[task["name"]] = inputs | {o["name"]: o["default"] for o in task["options"]}
    return made


def calls(folder: Path) -> Target:
    """Python calls: any task, any value for any input and option."""
    engine = Engine.from_pretrained(make_joint_model(folder / "model"), threads=1, max_seconds=4)
    sound = _requests(engine.tasks())

    def make(draw: Random) -> tuple[str, dict[str, Any]]:
        task = draw.choice(list(sound))
        request: dict[str, Any] = {**sound[task], "seed": 1}
        if "seconds" in request:
            request["seconds"] = 0.1
        for _ in range(draw.choice((1, 1, 2, 3))):
            name = draw.choice([*request, "phones", "bogus"])
            request[name] = draw.choice(
                (draw.choice(_ARRAYS), changed_json(draw, 0.5), text(draw), (0.1, 0.2, 0.3))
            )
        return task, request

    def use(given: tuple[str, dict[str, Any]]) -> None:
        task, request = given
        deque(islice(engine.stream(task, **request), 3), 0)

    return Target(make, use)


def lines(folder: Path) -> Target:
    """Files of requests on the command line; nothing may be written but what they name."""
    model = make_tiny_model(folder / "model")
    engine = Engine.from_pretrained(model, threads=1, max_seconds=2)
    path, output = folder / "requests.jsonl", folder / "output"
    output.mkdir()
    names = {p.name for p in (model, path, output)}
    request = {"text": "Hi.", "output": "a.wav", "seed": 1, "temperature": 0.5, "top_k": 5}
    paths = (
        *("", ".", "..", "../a.wav", "/a.wav", "a\0.wav", "a/b.wav", ".wav", "-.wav", "a.WAV"),
        *("\ud800.wav", "x" * 300 + ".wav", "a.flac", "~.wav", "a.wav\n", "a.txt", "a.safetensors"),
    )

    def make(draw: Random) -> bytes:
        written = []
        for _ in range(draw.randrange(1, 3)):
            values = changed_json(draw, request)
            if isinstance(values, dict) and draw.random() < 0.3:
                values = {**values, "output": draw.choice(paths)}
            written.append(json.dumps(values))
        data = "\n".join(written).encode("utf-8", "surrogatepass")
        return changed(draw, data) if draw.random() < 0.2 else data

    def use(data: bytes) -> None:
        path.write_bytes(data)
        commands.load_engine = lambda args: engine  # type: ignore[assignment]
        argv = ["run", "tts", "--jsonl", str(path), "-o", str(output), "-m", str(model)]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(argv)
        assert code in (0, 2), (code, said.getvalue())
        assert {p.name for p in folder.iterdir()} == names
        assert not [p for p in output.iterdir() if p.name.endswith(".part")]
        for file in output.iterdir():
            file.unlink()

    return Target(make, use)


def live(folder: Path) -> Target:
    """Sound that is pushed in pieces of any size and kind."""
    engine = Engine.from_pretrained(make_joint_model(folder / "model"), threads=1)

    def make(draw: Random) -> list[Any]:
        pieces: list[Any] = []
        for _ in range(draw.randrange(1, 5)):
            sound = _NOISE[: draw.choice((0, 1, 100, 3200))]
            gain = draw.choice((0.0, 1.0, 1.0, 1e30, float("nan")))
            pieces.append(
                draw.choice((sound * np.float32(gain), sound.astype(np.float64), "x", None))
            )
        return [draw.choice((None, 1, 8000, 16000, 44100, 10**9, "16k")), *pieces]

    def use(given: list[Any]) -> None:
        rate, *pieces = given
        with engine.open("se", sample_rate=rate, seed=1) as session:
            for piece in pieces:
                session.push(piece)
            session.flush()

    return Target(make, use)


TARGETS = {"call": calls, "requests": lines, "live_sound": live}
