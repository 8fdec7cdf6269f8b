"""A spoken sentence as a text file of tokens, for programs in any language to run.

``uniaudio-request-1``, then ``sizes K S V codebooks start_id sample_rate``, ``sampling temperature
top_k top_p seed``, ``allowed`` and K pairs (first id, count), ``known n`` and n lines of K ids and
S aligned ids, ``target m`` and m lines of S aligned ids: those of each frame to be generated.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ..errors import InputError
from ..model import Model
from .plan import Plan, make_plan
from .steps import piece_steps


def spoken_request(model: Model, text: str, seed: int = 0) -> str:
    """The request file for the first sentence of a text, unguided; the model plans its durations.

    Raises :class:`InputError` where the model does not plan durations.
    """
    request = {"text": text, "seed": seed, "guidance": 1.0}  # one sequence, which a program runs
    with closing(make_plan(model, "tts", request)) as plan:
        return _first_sentence(model, plan)


def _first_sentence(model: Model, plan: Plan) -> str:
    piece = next(iter(plan.pieces))
    layout, sequence = model.layout, piece.asked.conditional
    if sequence.spoken is None or not layout.aligned_slots:
        raise InputError(
            f"model {model.config.name}: expected one that plans durations, which a request file "
            "needs; choose another model"
        )
    steps = piece_steps(model, plan, piece)
    durations = next(steps)
    frames = durations.session.generate(durations.n, durations.sampling, durations.aligned)
    target = steps.send(frames)
    steps.close()
    assert target.aligned is not None
    known = np.concatenate(
        (sequence.shared.frames, sequence.body.frames, frames, sequence.after_durations())
    )
    aligned = layout.no_aligned(len(known))
    aligned[len(sequence) : len(sequence) + len(frames)] = sequence.duration_rows()
    config, options = model.lm.config, plan.options
    lines = [
        "uniaudio-request-1",
        f"sizes {config.num_codebooks} {config.aligned_slots} {config.vocab_size} "
        f"{model.config.codec.num_codebooks} {config.start_id} {model.sample_rate}",
        f"sampling {options['temperature']} {options['top_k']} {options['top_p']} {piece.seed}",
        "allowed " + " ".join(f"{start} {size}" for ((start, size),) in layout.audio_ranges()),
        f"known {len(known)}",
        *(" ".join(map(str, [*f, *rows])) for f, rows in zip(known, aligned, strict=True)),
        f"target {len(target.aligned)}",
        *(" ".join(map(str, rows)) for rows in target.aligned),
    ]
    return "\n".join(lines) + "\n"
