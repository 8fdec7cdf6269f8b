"""A sentence as the tokens that a model is asked with: a text file that a program in any language
can read.

``uniaudio-request-1``, then ``sizes K S V codebooks start_id sample_rate``, ``sampling temperature
top_k top_p seed``, ``allowed`` and K pairs (first id, count), ``known n`` and n lines of K ids and
S aligned ids, ``target m`` and m lines of S aligned ids: what goes with each frame that is to be
made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from .aligned import phone_features
from .sequence import audio_begin
from .stream import piece_steps

if TYPE_CHECKING:
    from ..engine import Engine


def spoken_request(engine: Engine, text: str, seed: int = 0) -> str:
    """The request for the first sentence of a text, its durations planned by the model.

    Raises :class:`InputError` where the model does not speak.
    """
    plan = engine.plan("tts", text=text, seed=seed)
    piece = next(iter(plan.pieces))
    if piece.phones is None or not engine.layout.aligned_slots:
        raise InputError(
            f"model {engine.config.name} plans no durations, which a request consists of"
        )
    layout = engine.layout
    steps = piece_steps(engine, plan, piece)
    durations = next(steps)
    frames = durations.session.generate(durations.n, durations.sampling, durations.aligned)
    target = steps.send(frames)
    steps.close()
    assert target.aligned is not None and durations.aligned is not None
    begin = np.concatenate((piece.shared.frames, piece.body.frames))
    known = np.concatenate((begin, frames, audio_begin(layout)))
    aligned = np.concatenate(
        (layout.no_aligned(len(begin)), phone_features(layout, piece.phones), layout.no_aligned(2))
    )
    config, options = engine.lm.config, plan.options
    lines = [
        "uniaudio-request-1",
        f"sizes {config.num_codebooks} {config.aligned_slots} {config.vocab_size} "
        f"{engine.config.codec.num_codebooks} {config.start_id} {engine.sample_rate}",
        f"sampling {options['temperature']} {options['top_k']} {options['top_p']} {piece.seed}",
        "allowed " + " ".join(f"{start} {size}" for ((start, size),) in layout.audio_ranges()),
        f"known {len(known)}",
        *(" ".join(map(str, [*f, *g])) for f, g in zip(known, aligned, strict=True)),
        f"target {len(target.aligned)}",
        *(" ".join(map(str, g)) for g in target.aligned),
    ]
    return "\n".join(lines) + "\n"
