"""Fine-tuning of the semantic tokenizer: noise and rooms, voices of recordings, deeper encoders."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from semantic_tools import write_shard
from uniaudio_training.checkpoints import load_semantic
from uniaudio_training.semantic import robust_finetune
from uniaudio_training.semantic import train_semantic as trainer
from uniaudio_training.semantic.augment import random_factors
from uniaudio_training.semantic.robust_finetune import RobustSettings
from uniaudio_training.semantic.views import SemanticData
from uniaudio_training.settings import settings_from

from uniaudio_engine.storage.config import ConfigError


def harden(semantic_run, semantic_corpus, out, **more):
    """A short run of the tokenizer of ``run`` into ``out``, without rooms."""
    settings = {
        "init": str(semantic_run),
        "data": str(semantic_corpus),
        "batch": 8,
        "frames": 48,
        "lr": 2e-3,
        "warmup": 5,
        "reverberant": 0.0,
        "validate_every": 1000,
    }
    robust_finetune.train(settings_from(RobustSettings, settings | more), out, "cpu")


def test_hardened_in_noise_and_the_codebook_stays(semantic_run, semantic_corpus, tmp_path):
    config, teacher = load_semantic(semantic_run)
    harden(semantic_run, semantic_corpus, tmp_path, steps=250, noisy=0.6)
    again, model = load_semantic(tmp_path)
    assert again == config and torch.equal(model.quantizer.codebooks, teacher.quantizer.codebooks)
    valid = robust_finetune.Degraded(
        SemanticData(semantic_corpus, config.encoder.frame_size, 48, "valid"), 1, 1
    )
    before, after = (
        robust_finetune.validate(m, teacher, valid, config.delay) for m in (teacher, model)
    )
    assert before["clean"] == 1.0 and after["clean"] > 0.6, (before, after)
    assert after["white0"] > before["white0"] + 0.05, (before, after)


def test_degraded_crops_keep_their_place(semantic_corpus):
    """Noise and rooms come over the speech and do not move it: a unit goes with the frame that it
    did.
    """
    data = SemanticData(semantic_corpus, 320, 48)
    crops = robust_finetune.Degraded(data, 1.0, 1.0).batch(np.random.default_rng(0), 24)
    clean, worse = crops.clean.numpy(), crops.degraded.numpy()
    assert (crops.phones == -1).all()
    assert clean.shape == worse.shape == (24, 48 * 320) and np.abs(worse).max() <= 1
    correlation = [
        np.corrcoef(x[:-40], y[k : len(y) - 40 + k])[0, 1]
        for x, y in zip(clean, worse, strict=True)
        for k in (0, 40)
    ]
    assert np.mean(correlation[::2]) > 0.3 > abs(np.mean(correlation[1::2]))
    same = robust_finetune.Degraded(data, 0.0, 0.0).batch(np.random.default_rng(0), 4)
    assert torch.equal(same.clean, same.degraded)


def phones_right(model, teacher, voices, known, delay):
    """Share of frames of ``voices`` whose unit means, to the teacher on ``known``, their phone."""
    best = robust_finetune.phone_counts(teacher, known, delay, 60).argmax(1)
    table = robust_finetune.phone_counts(model, voices, delay, 60)
    return table[np.arange(len(table)), best].sum() / table.sum()


def test_other_voices_learn_phones(semantic_run, semantic_corpus, tmp_path_factory, tmp_path):
    """Voices 400 Hz higher: half-way to the next phone of the known voices."""
    other = tmp_path_factory.mktemp("higher")
    for seed, split in enumerate(("train", "valid")):
        write_shard(other, split, 40, 90 + seed, shift=400)
    config, teacher = load_semantic(semantic_run)
    recordings = {"recordings": [str(other)], "recorded": 0.6}
    harden(semantic_run, semantic_corpus, tmp_path, steps=200, noisy=0.2, **recordings)
    again, model = load_semantic(tmp_path)
    assert again == config and torch.equal(model.quantizer.codebooks, teacher.quantizer.codebooks)
    known = SemanticData(semantic_corpus, config.encoder.frame_size, 48)
    voices = SemanticData(other, config.encoder.frame_size, 48, "valid")
    before, after = (
        phones_right(m, teacher, voices, known, config.delay) for m in (teacher, model)
    )
    assert after > before + 0.1, (before, after)
    kept, was = (phones_right(m, teacher, known, known, config.delay) for m in (model, teacher))
    assert kept > was - 0.1, (kept, was)


def test_loss_of_a_phone_counts_every_unit_that_stands_for_it():
    choice = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    given = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])  # [units, phones]
    loss = robust_finetune.phone_loss(choice, torch.log(given + 1e-30), torch.tensor([0, 1]))
    expected = -(np.log(0.5 + 0.3 / 2) + np.log(0.1 / 2 + 0.8)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["recorded", "warped"])
def test_shares_are_checked(name):
    with pytest.raises(ConfigError, match=f"{name}: expected 0 to 1"):
        settings_from(RobustSettings, {name: 1.5})


def test_a_deeper_encoder_gives_the_same_units_at_first(semantic_run, semantic_corpus):
    config, model = load_semantic(semantic_run)
    more, grown = robust_finetune.deeper(config, model, 3)
    assert more.encoder.spectral.encoder_blocks == 3 > config.encoder.spectral.encoder_blocks
    assert len(list(grown.parameters())) > len(list(model.parameters()))
    for spoken in SemanticData(semantic_corpus, 320, 48).clips[:8]:
        x = spoken.samples()
        assert (trainer.units(grown, x, 2) == trainer.units(model, x, 2)).all()
    same, copied = robust_finetune.deeper(config, model, 0)
    assert same == config and copied is not model
    with pytest.raises(ValueError, match="blocks: expected 0 or at least 1, got -1"):
        robust_finetune.deeper(config, model, -1)


def test_a_deeper_encoder_learns_without_validation_recordings(
    semantic_run, semantic_corpus, tmp_path_factory, tmp_path
):
    """A folder without a valid split is learned from; the config that is saved has the new depth."""
    other = tmp_path_factory.mktemp("train only")
    write_shard(other, "train", 10, 91, shift=400)
    recordings = {"recordings": [str(other)], "blocks": 2, "validate_every": 4}
    harden(semantic_run, semantic_corpus, tmp_path, steps=8, noisy=0.2, **recordings)
    config, model = load_semantic(tmp_path)
    assert config.encoder.spectral.encoder_blocks == len(model.encoder.blocks) == 2
    assert model.encoder.blocks[1].down.weight.abs().max() > 0


def test_voices_of_crops_are_warped():
    factors = random_factors(np.random.default_rng(3), 4000, 0.4)
    assert factors.dtype == np.float32 and abs((factors == 1).all(1).mean() - 0.4) < 0.04
    assert 0.7 < factors.min() < 0.8 and 1.3 < factors.max() < 1.4
