"""A session's condition: a row that is added to every input of the global stack."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lm_tools import BASE, WITH_ALIGNED, torch_lm

from uniaudio_engine import _C
from uniaudio_engine.storage.config import to_dict

ROW = np.random.default_rng(2).standard_normal(BASE.global_.width).astype(np.float32)
GREEDY = _C.Sampling(greedy=True)
FRAMES = np.random.default_rng(3).integers(0, BASE.vocab_size, (7, 3))


def model(config: Any, dtype: str, **changed: np.ndarray) -> _C.LM:
    """The same weights for both configurations, but for what is changed."""
    tensors = {k: v.numpy() for k, v in torch_lm(WITH_ALIGNED).state_dict().items()}
    if not config.aligned_slots:
        del tensors["guide.weight"]
    return _C.LM(json.dumps(to_dict(config)), {**tensors, **changed}, dtype)


def continued(session: _C.LMSession, n: int, aligned: np.ndarray | None = None) -> np.ndarray:
    rows = None if aligned is None else aligned[: len(FRAMES)]
    session.prefill(FRAMES[:3], None if rows is None else rows[:3])
    session.prefill(FRAMES[3:], None if rows is None else rows[3:])
    return session.generate(n, GREEDY, None if aligned is None else aligned[len(FRAMES) :])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_it_is_an_aligned_row_at_every_step(dtype: str) -> None:
    table = np.zeros((WITH_ALIGNED.aligned_vocab, BASE.global_.width), np.float32)
    table[4] = ROW
    reference = model(WITH_ALIGNED, dtype, **{"guide.weight": table}).session(64)
    aligned = np.tile(np.array([4, -1]), (len(FRAMES) + 20, 1))
    truth = continued(reference, 20, aligned)
    lm = model(BASE, dtype)
    session = lm.session(64)
    session.set_condition(ROW)
    assert session.conditioned
    assert np.array_equal(continued(session, 20), truth)
    assert not np.array_equal(continued(lm.session(64), 20), truth)


def test_forks_batches_and_saved_sessions_keep_it() -> None:
    lm = model(BASE, "float32")
    one, plain = lm.session(64), lm.session(64)
    one.set_condition(ROW)
    continued(one, 4)
    continued(plain, 4)
    saved = one.save()
    others = [one.fork(), lm.session(64), lm.session(64)]
    others[1].restore(saved)
    others[2].set_condition(2 * ROW)
    others[2].restore(saved)
    truth = one.generate(9, GREEDY)
    for other in others:
        assert other.conditioned
        assert np.array_equal(other.fork().generate(9, GREEDY), truth)
    batch = [others[0], plain.fork()]
    made = lm.generate_batch(batch, 9, [GREEDY] * 2)
    assert np.array_equal(made[0], truth)
    assert np.array_equal(made[1], plain.generate(9, GREEDY))
    others[1].restore(plain.save())
    assert not others[1].conditioned
    one.reset()
    assert not one.conditioned
    one.set_condition(ROW)
    assert np.array_equal(continued(one, 4), lm_continued(lm, 4))


def lm_continued(lm: _C.LM, n: int) -> np.ndarray:
    session = lm.session(64)
    session.set_condition(ROW)
    return continued(session, n)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW[:-1], "expected a row of 24 numbers"),
        (ROW[None], "expected a row of 24 numbers"),
        ("abc", "expected a row of 24 numbers"),
        (np.full(24, np.nan, np.float32), "expected finite values"),
    ],
)
def test_wrong_rows_are_refused(row: Any, message: str) -> None:
    session = model(BASE, "float32").session(64)
    with pytest.raises(ValueError, match=message):
        session.set_condition(row)
    assert not session.conditioned
    session.prefill(FRAMES)
    with pytest.raises(ValueError, match="before the first prefill"):
        session.set_condition(ROW)
