"""Checks that a language model goes on with another codec's codes."""

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainers need torch")

from uniaudio_training.lm.recode import Pairs, read_pairs, recode
from uniaudio_training.lm.setup import Stacks, build_config
from uniaudio_training.models.lm import MultiScaleLM

from uniaudio_engine.storage.config import StackConfig

SIZE, SLOTS, SOURCES, FRAMES = 12, 4, 8, 40_000


@pytest.fixture(scope="module")
def model():
    stack = StackConfig(layers=1, width=16, heads=2, mlp_width=24)
    config, layout = build_config(Stacks(stack, stack), SIZE, SLOTS, 0, 8)
    made = MultiScaleLM(config).eval()
    made.init_weights(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return made, layout


def renamed(seed):
    """Codes of an old codec, and of a new one that has other names for the same codes."""
    rng = np.random.default_rng(seed)
    names = np.stack([rng.permutation(SIZE) for _ in range(SOURCES)])
    old = rng.integers(0, SIZE, (FRAMES, SOURCES))
    return names, Pairs(old, names[np.arange(SOURCES), old])


def outputs(model, layout, codes, sources):
    """Logits [T, K, C] of codes [T, K], with an aligned source [T, K'] and its look-ahead."""
    start = layout.vocabulary.span("audio").start
    frames = torch.from_numpy(codes + start + SIZE * np.arange(SLOTS))[None]
    aligned = torch.full((1, len(codes), model.config.aligned_slots), -1)
    for i, span in enumerate(layout.vocabulary.aligned_spans):
        if span.name.startswith(("source", "ahead")):
            aligned[0, :, i] = torch.from_numpy(sources[:, int(span.name[-1])] + span.start)
    with torch.no_grad():
        logits = model(frames, aligned)[0, :, :, start : start + SIZE * SLOTS]
    return torch.stack([logits[:, k, k * SIZE : (k + 1) * SIZE] for k in range(SLOTS)], 1).numpy()


def test_renamed_codes_are_the_same_model(model):
    made, layout = model
    names, pairs = renamed(1)
    old, new = pairs.old[:50], pairs.new[:50]
    before = outputs(made, layout, old[:, :SLOTS], old)
    moved = copy.deepcopy(made)
    recode(moved, layout.vocabulary, pairs)
    after = outputs(moved, layout, new[:, :SLOTS], new)
    for k in range(SLOTS):
        np.testing.assert_allclose(after[:, k, names[k]], before[:, k], atol=0.02 * before.std())
    # without recoding the new codes mean something else
    assert np.abs(outputs(made, layout, new[:, :SLOTS], new) - before).mean() > 0.5 * before.std()


def test_codes_never_seen_get_average_rows(model):
    made, layout = model
    _, pairs = renamed(2)
    known = Pairs(pairs.old, np.minimum(pairs.new, SIZE - 2))
    moved = copy.deepcopy(made)
    recode(moved, layout.vocabulary, known)
    first = layout.vocabulary.span("audio").start
    seen = np.bincount(known.old[:, 0], minlength=SIZE) / FRAMES
    rows = made.head.weight[first : first + SIZE].detach().numpy()
    np.testing.assert_allclose(
        moved.head.weight[first + SIZE - 1].detach().numpy(), seen @ rows, atol=1e-5
    )


def write(folder: Path, codes, frames, name="tts-train-0000"):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", codes=codes.astype(np.uint16), frames=np.array(frames))
    return str(folder)


def test_only_common_shards_are_read(tmp_path):
    codes = np.arange(40).reshape(10, 4)
    old = write(tmp_path / "old", codes, [4, 6])
    new = write(tmp_path / "new", codes + 1, [4, 6])
    write(tmp_path / "old", codes, [10], "tts-train-0001")
    pairs = read_pairs([old], [new, "another"])
    np.testing.assert_array_equal(pairs.old, codes)
    np.testing.assert_array_equal(pairs.new, codes + 1)


def test_frames_come_from_all_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("uniaudio_training.lm.recode._MOST", 80)
    old, new = [], []
    for i in range(2):
        for j in range(12):
            codes = np.full((10, 4), i * 12 + j)
            for folders, which in ((old, "old"), (new, "new")):
                folders.append(write(tmp_path / f"{which}{i}", codes, [10], f"tts-train-{j:04}"))
    pairs = read_pairs(old, new)  # a folder named several times counts once
    assert len(pairs.old) == len(set(pairs.old[:, 0])) * 10 == 80
    assert 0 < (pairs.old[:, 0] < 12).sum() < 80
    np.testing.assert_array_equal(pairs.old, pairs.new)


def test_folders_that_do_not_belong_together(tmp_path):
    codes = np.zeros((10, 4))
    old = write(tmp_path / "old", codes, [4, 6])
    with pytest.raises(ValueError, match="expected the clips of .*tts-train-0000.npz, got others"):
        read_pairs([old], [write(tmp_path / "new", codes, [5, 5])])
    with pytest.raises(ValueError, match="expected shards that .* has too, got none"):
        read_pairs([old], [write(tmp_path / "empty", codes, [4, 6], "tts-train-0007")])
