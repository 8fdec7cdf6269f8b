"""The effect of fine-tuning on the old tasks, and the bound on it."""

import pytest

torch = pytest.importorskip("torch", reason="the trainers need torch")

from uniaudio_training.lm.validation import Record, walk_back
from uniaudio_training.loop import Run
from uniaudio_training.run_checkpoint import weights
from uniaudio_training.settings import RunSettings


def test_what_old_tasks_lost_is_measured(tmp_path):
    record = Record(tmp_path, ("se", "tts"))
    assert record.summary() == "" and record.worst() == 0.0
    record.add(
        0, {"se": [1.0, 3.0, float("nan")], "tts": [2.0, 2.0, 1.5], "new": [9.0, 9.0, float("nan")]}
    )
    record.add(
        10,
        {"se": [1.1, 3.1, float("nan")], "tts": [1.9, 1.9, 1.5], "new": [3.0, 3.0, float("nan")]},
    )
    assert record.worst() == pytest.approx(0.1)
    assert (
        record.summary()
        == "old tasks, nats a code: se 2.000 -> 2.100 (+0.100), tts 2.000 -> 1.900 (-0.100); worst +0.100"
    )
    again = Record(tmp_path, ("se",))  # a run that goes on
    again.add(20, {"se": [1.0, 3.0, float("nan")]})
    assert again.worst() == pytest.approx(0.0)


def test_old_tasks_lose_no_more_than_the_bound(tmp_path):
    """Even where the loss does not fall with the square of the way, the weights stop on the line
    between both, as far as the bound lets them.
    """
    torch.manual_seed(0)
    start, model = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    end = {name: value.clone() for name, value in model.state_dict().items()}

    def way():
        return float(
            (model.weight - start.weight).detach().norm()
            / (end["weight"] - start.weight).detach().norm()
        )  # noqa: E731

    def measure():
        return {
            "se": [1.0 + 0.6 * way() ** 1.5, float("nan")],
            "new": [9.0 - 5.0 * way(), float("nan")],
        }  # noqa: E731

    run, record = Run(tmp_path, RunSettings(steps=10)), Record(tmp_path, ("se",))
    run.parts["model"] = model
    record.add(0, {"se": [1.0, float("nan")]})
    record.add(10, measure())
    kept = walk_back(run, model, start, record, 0.05, measure)
    assert (
        kept == pytest.approx(way())
        and 0.1 < kept < (0.05 / 0.6) ** (1 / 1.5)
        and 0.03 < record.worst() <= 0.05
    )
    assert torch.allclose(model.bias, start.bias + kept * (end["bias"] - start.bias))
    saved = weights(tmp_path)
    assert torch.equal(saved["weight"], model.weight)
    assert walk_back(run, model, start, record, 0.05, measure) == 1.0 and torch.equal(
        saved["weight"], model.weight
    )
