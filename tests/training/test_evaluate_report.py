"""The numbers of the report: errors within a part, Fréchet distances, joint against single-task
models.
"""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch", reason="the judges need torch")
pytest.importorskip("scipy", reason="the judges need scipy")

from uniaudio_training.evaluate import engines, joint, report
from uniaudio_training.evaluate import metrics as m

from uniaudio_engine.storage.folder import bundled_models


def test_errors_of_a_part():
    said, heard = (
        "the old man saw two red boats".split(),
        "the man saw ten big red boats here".split(),
    )
    assert (
        m.edit_errors(said, heard, 4, 6).edits == 2
        and m.edit_errors(said, heard, 4, 6).reference == 2
    )
    assert (
        m.edit_errors(said, heard, 0, 3).deletions == 1
        and m.edit_errors(said, heard, 5, 6).substitutions == 0
    )
    assert (
        m.edit_errors(said, heard, 6, 7).insertions == 1
        and m.edit_errors(said, heard, 2, 3).edits == 0
    )
    parts = sum((m.edit_errors(said, said, i, i + 1) for i in range(len(said))), m.Errors())
    assert (parts.edits, parts.reference) == (0, len(said))
    assert m.alignment("a b c".split(), "b c d".split()) == [(0, -1), (1, 0), (2, 1), (-1, 2)]


def test_frechet_distance_of_known_distributions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20000, 3))
    a, b = (
        m.Moments.of(x),
        m.Moments.of(2 * rng.standard_normal((20000, 3)) + np.array([3.0, 0, 0])),
    )
    assert m.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert m.frechet_distance(a, b) == pytest.approx(9 + 3 * (2 - 1) ** 2, rel=0.05)
    halves = m.Moments.of(x[:7000]) + m.Moments.of(x[7000:])
    assert m.frechet_distance(a, halves) == pytest.approx(0.0, abs=1e-6)


def test_joint_against_single():
    def task(name, measure, ours, theirs):
        scores = [
            joint.Score(name, measure, who, v, v, v, 1)
            for who, v in (("model", ours), ("single", theirs))
        ]
        gain = ours - theirs
        return joint.Judged(
            name,
            [*scores, joint.Score(name, measure, joint.GAIN, gain, gain - 0.02, gain + 0.02, 1)],
            [],
            1,
            0.0,
        )

    results = [
        task("tts", "grammar WER", 0.1, 0.2),
        task("sd", "ESTOI gain", 0.1, 0.2),
        task("se", "ESTOI gain at 0 dB", 0.2, 0.2),
        task("vc", "grammar WER", 0.11, 0.1),
    ]
    line = (
        "at least as good as the single-task one on the first measure of 2 of 4 tasks "
        "(significantly better: tts; significantly worse: sd)."
    )
    assert line in report.joint_against_single(results) and line in report.markdown(
        results, "x", "y"
    )
    assert [r.scores[0].verdict for r in results] == ["floor", "floor", "goal", "floor"]
    assert report.joint_against_single([]) == "" and "single" not in report.joint_against_single(
        [joint.Judged("tts", results[0].scores[:2], [], 1, 0.0)]
    )


def test_the_gain_is_of_the_same_items():
    """Items that differ widely, each a tenth better: the difference is certain though both
    intervals overlap.
    """
    rng = np.random.default_rng(0)
    theirs = {f"i{n}": [float(rng.normal(0, 5))] for n in range(30)}
    ours = {item: [v + 0.1 for v in values] for item, values in theirs.items()}
    mean = joint._Statistic(None).of("ESTOI gain")
    score = joint._gain("sd", "ESTOI gain", ours, theirs, mean, 0)
    assert (score.who, score.count) == (joint.GAIN, 30) and (
        score.value,
        score.low,
        score.high,
    ) == pytest.approx((0.1, 0.1, 0.1))


def test_another_model_in_the_same_folder_is_evaluated_again(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(next(iter(bundled_models().values())), folder)
    bundled = engines.load_subject("bundled", 1)
    assert report.digest(bundled) == report.digest(engines.load_subject(str(folder), 1))
    with (folder / "lm.safetensors").open("r+b") as f:
        f.seek(-2, 2)
        f.write(b"\x80\x3f")
    assert report.digest(engines.load_subject(str(folder), 1)) != report.digest(bundled)
