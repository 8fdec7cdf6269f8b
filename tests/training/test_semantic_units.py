"""Evaluation of semantic units: maps to phones, bits, the speaker, two speakers, the page."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the trainers need torch")

from uniaudio_training.evaluate import unit_measures
from uniaudio_training.evaluate import units as judge
from uniaudio_training.semantic.views import PAUSE_ID

from uniaudio_engine.text.phones import PHONES


def clip_of(ids, now, who="a", said=()):
    return unit_measures.Clip(
        np.zeros(len(ids) * 320, np.float32), who, list(said), np.array(now), np.array(ids)
    )


def test_map_and_spelling():
    s, ah1, ah0 = (PHONES.index(p) for p in ("s", "ah1", "ah0"))
    fitted = unit_measures.Map(
        [
            clip_of(
                [0] * 5 + [1] * 6 + [2] * 4 + [1],
                [PAUSE_ID] * 5 + [s] * 6 + [ah1] * 3 + [ah0] + [ah0],
            )
        ],
        4,
    )
    assert fitted.right(clip_of([0, 1, 2, 2], [PAUSE_ID, s, ah1, ah0]), True) == (3, 4)
    assert fitted.right(clip_of([0, 1, 2, 2], [PAUSE_ID, s, ah1, ah0]), False) == (4, 4)
    assert fitted.heard(np.array([0, 0, 1, 1, 2, 1, 1, 2, 2, 0, 0])) == [
        "s",
        "ah",
    ]  # the single 2 is voted away
    assert fitted.heard(np.array([], np.int64)) == []


def test_bits_are_a_lower_bound():
    rng = np.random.default_rng(0)
    now = rng.integers(0, 16, 20000)
    perfect, nothing = clip_of(now, now), clip_of(rng.integers(0, 512, 20000), now)
    half = clip_of(now // 2, now)
    bits, entropy = unit_measures.Map([perfect], 512).bits([perfect])
    assert entropy == pytest.approx(4, abs=0.01) and bits == pytest.approx(4, abs=0.03)
    assert unit_measures.Map([half], 512).bits([half])[0] == pytest.approx(3, abs=0.03)
    other = clip_of(rng.integers(0, 512, 20000), rng.integers(0, 16, 20000))
    assert -0.6 < unit_measures.Map([nothing], 512).bits([other])[0] < 0.05


def test_attack_finds_a_speaker_who_is_there():
    rng = np.random.default_rng(0)

    def clips(lean):
        return [
            clip_of(
                np.where(rng.random(600) < lean, w, rng.integers(0, 40, 600)),
                np.zeros(600, int),
                f"v{w}",
            )
            for w in range(5)
            for _ in range(5)
        ]

    assert unit_measures.attack(clips(0.2), clips(0.2), 40)[0] > 0.95
    score, windows = unit_measures.attack(clips(0.0), clips(0.0), 40)
    assert windows == 100 and score < 0.4  # chance .2, the best of four


def test_frames_of_two_speakers_are_laid_together():
    a, b = [("pau", 0.1), ("s", 0.2), ("m", 0.4)], [("pau", 0.2), ("s", 0.24), ("m", 0.84)]
    to = unit_measures.aligned(a, b, 20, 42)
    assert to[:5].tolist() == [1, 3, 5, 7, 9] and 10 <= to[5] <= 12 and to[9] == 11 and to[19] == 40
    assert unit_measures.aligned(a, [("pau", 1.0)], 20, 50) is None


def test_pairs_by_flite():
    from uniaudio_training.corpus.flite import flite

    try:
        flite()
    except RuntimeError as e:
        pytest.skip(str(e))
    constant = lambda x: np.zeros(-(-len(x) // 320), np.int64)  # noqa: E731
    counting = lambda x: np.arange(-(-len(x) // 320))  # noqa: E731
    pairs = unit_measures.two_speakers([constant, counting], 1)
    assert set(pairs) == {"of one base voice", "of two base voices", "one, half a frame later"}
    for kind, ((same, n), (other, _)) in pairs.items():
        assert same == 1.0 and n > 50, kind
        # durations of one base voice scale as a whole, those of two do not
        assert other < 0.7 if kind == "of two base voices" else other == 1.0, kind


def test_section_is_replaced(tmp_path):
    path = tmp_path / "quality.md"
    path.write_text("# Quality\n\nabove\n")
    for text in ("one", "two"):
        judge.write_section(path, text)
    path.write_text(path.read_text() + "below\n")
    judge.write_section(path, "three")
    assert path.read_text() == f"# Quality\n\nabove\n\n{judge.BEGIN}\nthree\n{judge.END}\nbelow\n"
