"""A tiny model for live tasks, sounds for it, and a second implementation to compare with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from joint import make_joint_model

from uniaudio_engine import Audio, Engine
from uniaudio_engine.audio.level import RunningGain, scaled
from uniaudio_engine.request.live import Live
from uniaudio_engine.request.sampling import audio_sampling
from uniaudio_engine.request.sequence_builder import units_key
from uniaudio_engine.request.steps import guide_by_rows
from uniaudio_engine.request.task_table import TASKS
from uniaudio_engine.request.tasks import Input, Task
from uniaudio_engine.storage.folder import load_config

RATE, FRAME, LEVEL = 16000, 320, -24.0
# Enhancement as an instruction says: a live task with classifier-free guidance.
GUIDED = Task(
    "polish",
    "enhance as an instruction says",
    (
        Input("instruction", "caption", "caption", "what to do"),
        Input("source", "audio", "source", "the sound", place="aligned", units=True),
    ),
    "source",
    "uniaudio run polish -o out.wav",
    finish="length",
    token="se_task",
    guidance=3.0,
)


def speech(seconds: float, seed: int = 0, db: float = -24.0) -> np.ndarray:
    """Bursts of a harmonic sound with pauses, float32 [N], at about ``db`` dBFS."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 12))
    bursts = np.clip(np.sin(2 * np.pi * 1.7 * t + rng.uniform(0, 6)), 0, 1)
    x = 0.09 * tone * bursts + 0.001 * rng.standard_normal(len(t))
    return np.clip(x * 10 ** ((db + 24.0) / 20), -1, 1).astype(np.float32)


VOICE = Audio(speech(1.5, 5), RATE)
# Of the language model's answers; filters are in test_postfilter.py.
TASK_INPUTS: dict[str, dict[str, Any]] = {
    "se": {"postfilter": 0},
    "sd": {"postfilter": 0},
    "vc": {"voice": VOICE},
    "tse": {"voice": VOICE, "postfilter": 0},
    "polish": {"instruction": "add a bell"},
}


def make_live_model(path: Path) -> Path:
    """The joint model with a level, and with the task :data:`GUIDED`."""
    folder = make_joint_model(path)
    config = load_config(folder)
    changed = dataclasses.replace(config, level=LEVEL, tasks=(*TASKS, GUIDED))
    (folder / "config.json").write_text(changed.to_json())
    return folder


def pushed(live: Live, x: np.ndarray, sizes: list[int]) -> np.ndarray:
    """A whole sound through a live stream, in pushes of these sizes, again and again."""
    out, at, turn = [], 0, 0
    while at < len(x):
        size = sizes[turn % len(sizes)]
        out.append(live.push(x[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*out, live.flush()])


def whole(
    engine: Engine, task: str, x: np.ndarray, window: int, context: int, **inputs: Any
) -> np.ndarray:
    """What a live stream answers to ``x``, computed stage by stage on the whole sound.

    ``window`` and ``context``: frames of a session, and those that it has from the one before.
    """
    model = engine.model
    gain = RunningGain(RATE, FRAME, model.config.level)
    gains = np.concatenate([gain.push(x[at : at + FRAME]) for at in range(0, len(x), FRAME)])
    heard = scaled(x, gains)
    plan = engine.plan(task, source=(np.zeros(FRAME, np.float32), RATE), **inputs)
    (piece,) = plan.pieces
    spec = plan.task.aligned_input
    assert spec is not None
    units, codes = engine.semantic((heard, RATE)), engine.encode((heard, RATE)).T
    values = {"source": units} if spec.modality == "units" else {"source": codes}
    values |= {units_key(spec): units}
    sequences = [s for s in (piece.sequence.conditional, piece.sequence.unconditional) if s]
    rows = dataclasses.replace(sequences[0], values={**sequences[0].values, **values}).target_rows(
        len(units)
    )
    sampling = audio_sampling(engine.layout, plan.options, piece.seed)
    frames = np.zeros((0, engine.layout.num_codebooks), np.int32)
    while len(frames) < len(rows):
        begin = max(0, len(frames) - context)
        sessions = [model.lm.session() for _ in sequences]
        for session, sequence in zip(sessions, sequences, strict=True):
            session.prefill(np.concatenate((sequence.shared.frames, sequence.body.frames)))
        if len(sessions) == 2:
            sessions[0].set_guidance(sessions[1], plan.options["guidance"])
        guide_by_rows(sessions[0], plan)
        if len(frames) > begin:
            sessions[0].prefill(frames[begin:], rows[begin : len(frames)])
        sessions[0].frame_offset = begin
        n = min(begin + window, len(rows)) - len(frames)
        new = sessions[0].generate(n, sampling, rows[len(frames) : len(frames) + n])
        frames = np.concatenate((frames, new))
    made = model.codec.decode(np.ascontiguousarray(engine.layout.frames_to_codes(frames).T))
    made = np.clip(made[: len(x)], -1, 1)
    return np.clip(scaled(made, 1 / gains), -1, 1)
