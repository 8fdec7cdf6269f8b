"""The phone recogniser: features, alignment, weights; speech is recognised, noise is not."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training package needs torch (the train extra)")

import torch
from uniaudio_training.evaluate import recogniser as r
from uniaudio_training.evaluate import train_recogniser as t


def test_features_ignore_level_and_length_is_50_hz():
    x = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * np.linspace(
        0, 0.3, 16000, dtype=np.float32
    )
    a, b = (r.normalise(r.mel_power(g * x)) for g in (1.0, 0.01))
    assert a.shape == (50, 128) and np.abs(a - b).max() < 1e-2


def test_alignment_is_a_ctc_path_that_keeps_doubled_phones():
    ids = np.array([0, 5, 5, 7])
    path = t.alignment(ids, np.array([0.1, 0.2, 0.3, 0.32]), 18)
    assert path[:5].tolist() == [0] * 5
    heard = [i for i in torch.unique_consecutive(torch.from_numpy(path)).tolist() if i]
    assert heard == [5, 5, 7]


def test_augmented_speech_keeps_its_shape():
    power = np.random.default_rng(0).random((200, r.BANDS)).astype(np.float32)
    for seed in range(20):
        out, stretch = t.augment(power, np.random.default_rng(seed))
        assert (
            out.shape == (int(200 * stretch), r.BANDS)
            and np.isfinite(out).all()
            and (out >= 0).all()
        )


def test_saved_weights_come_back(tmp_path):
    torch.manual_seed(0)
    model = r.Recogniser().eval()
    model.save(tmp_path / "w.safetensors")
    again = r.Recogniser.load(tmp_path / "w.safetensors")
    x = torch.randn(1, 40, 128)
    with torch.no_grad():
        assert (model(x) - again(x)).abs().max() < 0.05
    assert again.phones == r.PHONE_SET
    with pytest.raises(FileNotFoundError, match="train one"):
        r.Recogniser.load(tmp_path / "absent.safetensors")


def test_bundled_weights_are_small_and_hear_nothing_in_silence():
    assert r.WEIGHTS.stat().st_size <= 4_000_000
    model = r.recogniser()
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert model.phones == r.PHONE_SET
    assert (
        model.hear(np.zeros(16000, np.float32)) == [] and model.hear(np.zeros(10, np.float32)) == []
    )
