"""The loss that hears phones: nothing for the same sound, more for a worse copy, and a way to a better one."""

import numpy as np
import pytest
import torch
from uniaudio_training.codec.units import UnitLoss
from uniaudio_training.models.spectral import SpectralCodec

from uniaudio_engine import Engine
from uniaudio_engine.storage.folder import bundled_models

FOLDER = next(iter(bundled_models().values()))


@pytest.fixture(scope="module")
def loss() -> UnitLoss:
    return UnitLoss(FOLDER)


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    samples = Engine.from_pretrained(FOLDER).tts("One two three.", seed=1).samples
    return torch.from_numpy(np.array(samples[: len(samples) // 320 * 320]))[None]


def test_worse_copies_are_further_away(loss, speech):
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    found = [float(loss(speech, speech + level * noise)) for level in (0, 0.003, 0.03, 0.3)]
    assert found[0] == 0 and found == sorted(found) and found[1] > 0


def test_the_gradient_is_the_copys_alone_and_leads_to_the_original(loss, speech):
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    original = speech.clone().requires_grad_(True)
    copy = (speech + 0.01 * noise).requires_grad_(True)
    before = loss(original, copy)
    before.backward()
    assert original.grad is None and all(p.grad is None for p in loss.parameters())
    step = 1e-3 * copy.grad / copy.grad.norm()
    assert loss(speech, copy.detach() - step) < before.detach()


def test_the_tokenizer_of_a_folder_is_that_of_the_engine(loss, speech):
    tokenizer: SpectralCodec = loss.tokenizer
    units = tokenizer.quantizer.encode(tokenizer.latent(speech))[0, 0]
    encoder = Engine.from_pretrained(FOLDER).semantic_encoder
    made = encoder.encode(speech[0].numpy())
    delay = encoder.config.delay
    assert np.mean(units.numpy()[delay:] == made[: len(made) - delay]) > 0.99
