"""Rows that share a prompt are the same sequences as single ones."""

import numpy as np
import torch
from uniaudio_training.lm.data import AUDIO, DURATION, Clip, TokenData, make_batch
from uniaudio_training.lm.tokens import frame_durations
from uniaudio_training.lm.train import build_config, global_hidden
from uniaudio_training.models.lm import MultiScaleLM

from uniaudio_engine.config import StackConfig


def _data() -> TokenData:
    rng = np.random.default_rng(1)
    data = TokenData.__new__(TokenData)
    clips = []
    for _ in range(8):
        durations = rng.integers(1, 8, 9)
        clips.append(Clip(rng.integers(0, 16, (durations.sum(), 4)), rng.integers(0, 56, 9), durations))
    data.speakers = {"a": clips[:4], "b": clips[4:]}
    data.index()
    return data


def test_shared_prompt_equals_single_sequences():
    stacks = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2}
    config, layout = build_config({"lm": {"global": stacks, "local": {"layers": 1, "width": 16, "heads": 2}}}, 16, 4)
    assert isinstance(config.global_, StackConfig)
    model = MultiScaleLM(config).eval()
    model.init_weights(3)
    batch = make_batch(layout, _data(), np.random.default_rng(5), rows=2, items=900)
    with torch.no_grad():
        packed = global_hidden(model, batch)
        prompt = batch.prompt.shape[1]
        for row in range(2):
            for i in range(batch.inputs.shape[1]):
                inputs = torch.cat((batch.prompt[row], batch.inputs[row, i]))
                frames = torch.cat((inputs[1:], batch.frames[row, i, -1:]))[None]  # what follows each input
                none = torch.full((prompt, batch.guide.shape[-1]), -1)
                single = model.global_hidden(frames, torch.cat((none, batch.guide[row, i]))[None])[0, prompt:]
                used = batch.kind[row, i] > 0
                assert (batch.kind[row, i] == AUDIO).any() and (batch.kind[row, i] == DURATION).sum() == 9
                torch.testing.assert_close(packed[row, i][used], single[used], rtol=1e-4, atol=1e-5)


def test_durations_fill_the_clip():
    assert frame_durations(np.array([0.101, 0.105, 0.5]), 25, 50).tolist() == [5, 1, 19]  # a phone too short still has a frame
    assert frame_durations(np.array([0.3, 0.48, 0.49]), 24, 50).tolist() == [15, 8, 1]  # room is kept for the last
    assert frame_durations(np.array([0.1, 0.2, 0.3]), 2, 50) is None
    assert frame_durations(np.array([]), 5, 50) is None
