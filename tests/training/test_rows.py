"""Rows with a shared prompt equal separate sequences, for every task; and labels become the right
items.
"""

import hashlib

import numpy as np
import pytest
import torch
from joint_items import CODEBOOKS, ENTRIES, SIZE, given, random_items, random_label, tokenizer
from uniaudio_training.corpus.schema import TASKS
from uniaudio_training.lm.data import (
    AUDIO,
    DURATION,
    PAD,
    Noise,
    TaskData,
    make_batch,
    task_batch,
    with_noise,
)
from uniaudio_training.lm.items import frame_durations, make_item, song_notes
from uniaudio_training.lm.objective import global_hidden
from uniaudio_training.lm.setup import Stacks, build_config
from uniaudio_training.models.lm import MultiScaleLM

from uniaudio_engine.storage.config import StackConfig


@pytest.fixture(scope="module")
def captions():
    return tokenizer()


@pytest.fixture(scope="module")
def model(captions):
    stacks = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2}
    config, layout = build_config(
        Stacks(StackConfig(**stacks), StackConfig(layers=1, width=16, heads=2)),
        SIZE,
        4,
        captions.size,
        32,
    )
    assert isinstance(config.global_, StackConfig)
    model = MultiScaleLM(config).eval()
    model.init_weights(3)
    return model, layout


@pytest.mark.parametrize("task", TASKS)
def test_shared_prompt_equals_single_sequences(task, model, captions):
    lm, layout = model
    batch = task_batch(
        layout,
        TaskData(ENTRIES[task], random_items(task, captions)),
        np.random.default_rng(5),
        rows=2,
        items=600,
    )
    with torch.no_grad():
        packed = global_hidden(lm, batch)
        prompt = batch.prompt.shape[1]
        for row in range(len(batch.prompt)):
            for i in range(batch.inputs.shape[1]):
                inputs = torch.cat((batch.prompt[row], batch.inputs[row, i]))
                frames = torch.cat((inputs[1:], batch.frames[row, i, -1:]))[
                    None
                ]  # what follows each input
                none = torch.full((prompt, batch.aligned.shape[-1]), -1)
                single = lm.global_hidden(frames, torch.cat((none, batch.aligned[row, i]))[None])[
                    0, prompt:
                ]
                used = batch.kind[row, i] != PAD
                assert (batch.kind[row, i] == AUDIO).any()
                assert bool((batch.kind[row, i] == DURATION).any()) == (
                    task in ("tts", "i_tts", "s_edit")
                )
                torch.testing.assert_close(packed[row, i][used], single[used], rtol=1e-4, atol=1e-5)


# Of batches as the bundled model saw them: a model can only go on with sequences that are bit for
# bit what it was trained on.
SEEN = {
    "tts": "b76cdbbfa7c44cf7",
    "vc": "88a0216974303b1d",
    "se": "2ca75a3b0151310d",
    "tse": "0bcf628160fbe515",
    "svs": "98fb4683c8558e19",
    "t2s": "1ebc1f9b7401510d",
    "t2m": "54d60eed99394c94",
    "a_edit": "547478d49d098dcc",
    "sd": "baa26ca149e69be4",
    "i_tts": "b7d80358d91c60a2",
    "s_edit": "1c0668be234339c1",
}


class Bytes:
    """Captions as bytes: pieces that no version of sentencepiece changes."""

    def encode(self, text, name=""):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


@pytest.mark.parametrize("task", TASKS)
def test_sequences_stay_what_they_were(task, model):
    _, layout = model
    data = TaskData(ENTRIES[task], random_items(task, Bytes()))
    h = hashlib.sha256()
    for i in range(3):
        b = task_batch(layout, data, np.random.default_rng((1, i)), 2, 600)
        for tensor in (b.prompt, b.inputs, b.frames, b.aligned, b.kind):
            a = tensor.numpy().astype(np.int32)
            h.update(str(a.shape).encode() + a.tobytes())
    assert h.hexdigest()[:16] == SEEN[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_target_may_lack_its_aligned_rows(task, model, captions):
    """In tasks without a caption; nothing else of the batch differs."""
    _, layout = model
    data = TaskData(ENTRIES[task], random_items(task, captions))
    whole, half, none = (
        task_batch(layout, data, np.random.default_rng(1), 2, 600, aligned_dropout=p)
        for p in (0.0, 0.5, 1.0)
    )
    for made in (half, none):
        for name in ("prompt", "inputs", "frames", "kind"):
            assert torch.equal(getattr(made, name), getattr(whole, name))
    audio = whole.kind == AUDIO
    assert torch.equal(none.aligned[~audio], whole.aligned[~audio])
    if ENTRIES[task].guided_by != "rows":
        assert torch.equal(none.aligned, whole.aligned)
        return
    assert (whole.aligned[audio] >= 0).any() and (none.aligned[audio] == -1).all()
    lacks = [
        bool((a[k] == -1).all())
        for a, k in zip(half.aligned.flatten(0, 1), audio.flatten(0, 1), strict=True)
    ]
    assert 0 < sum(lacks) < len(lacks)


def test_the_mix_follows_its_weights(model, captions):
    _, layout = model
    data = {t: TaskData(ENTRIES[t], random_items(t, captions)) for t in ("se", "t2s", "tts")}
    rng = np.random.default_rng(0)
    drawn = [
        make_batch(layout, data, {"se": 1.0, "t2s": 3.0, "tts": 0.0}, rng, 2, 100, Noise()).task
        for _ in range(80)
    ]
    assert drawn.count("tts") == 0 and 45 <= drawn.count("t2s") <= 75


@pytest.mark.parametrize("task", ["se", "tts"])
def test_noise_is_in_what_is_fed_back_alone(task, model, captions):
    _, layout = model
    data = TaskData(ENTRIES[task], random_items(task, captions))
    noise = Noise(aligned=0.8, others=0.2)
    clean, wrong = (task_batch(layout, data, np.random.default_rng(4), 2, 3000) for _ in range(2))
    wrong = with_noise(wrong, np.random.default_rng(5), noise.of(ENTRIES[task]))
    for name in ("prompt", "frames", "aligned", "kind"):
        assert torch.equal(getattr(clean, name), getattr(wrong, name))
    changed = (clean.inputs != wrong.inputs).any(-1)
    fed_back = (clean.kind == AUDIO) & (clean.kind.roll(1, -1) == AUDIO)
    assert not (changed & ~fed_back).any()
    share = float(changed.sum() / fed_back.sum())
    most = noise.of(ENTRIES[task])
    assert 0.25 * most < share < 0.75 * most  # up to most a sentence: half of it on average
    for at in np.ndindex(*changed.shape[:2]):
        own = {tuple(f.tolist()) for f in wrong.frames[at][wrong.kind[at] == AUDIO]}
        assert all(tuple(f.tolist()) in own for f in wrong.inputs[at][changed[at]])


def test_of_an_edit_the_span_alone_is_predicted(model, captions):
    _, layout = model
    items = random_items("a_edit", captions)
    batch = task_batch(layout, TaskData(ENTRIES["a_edit"], items), np.random.default_rng(4), 2, 600)
    assert ((batch.kind == AUDIO).sum(-1) == 34 - 20).all() and not (batch.kind == DURATION).any()
    for item in items:  # and what it goes on from is the source's
        outside = np.r_[0:20, 34 : len(item.codes)]
        assert np.array_equal(item.codes[outside], item.inputs["source"][outside])
        assert not np.array_equal(item.codes[20:34], item.inputs["source"][20:34])
    for at in np.ndindex(*batch.kind.shape[:2]):
        span = np.flatnonzero(batch.kind[at] == AUDIO)
        assert any(
            np.array_equal(
                batch.inputs[at][span[0] - 19 : span[0] + 1],
                layout.codes_to_frames(i.inputs["source"][:20, : layout.num_codebooks]),
            )
            for i in items
        )


@pytest.mark.parametrize("task", ["t2s", "a_edit", "tts"])
def test_some_captions_are_left_out(task, model, captions):
    _, layout = model
    data = TaskData(ENTRIES[task], random_items(task, captions))
    complete, some, none = (
        task_batch(layout, data, np.random.default_rng(4), 2, 3000, dropout)
        for dropout in (0.0, 0.4, 1.0)
    )
    begin, end = (layout.vocabulary.special(f"caption_{side}") for side in ("start", "end"))

    def empty(batch):
        """Of each example: is the end of its caption fed right after its beginning?"""
        ids = torch.cat(
            (
                batch.prompt[:, None, :, 0].expand(-1, batch.inputs.shape[1], -1),
                batch.inputs[..., 0],
            ),
            -1,
        )
        return ((ids[..., :-1] == begin) & (ids[..., 1:] == end)).any(-1)

    if task == "tts":
        assert torch.equal(complete.inputs, none.inputs) and torch.equal(
            complete.frames, some.frames
        )
    else:
        assert (
            not empty(complete).any()
            and empty(none).all()
            and 0.1 < empty(some).float().mean() < 0.7
        )
    for batch in (some, none):
        assert torch.equal(
            batch.frames[batch.kind == AUDIO], complete.frames[complete.kind == AUDIO]
        )


def columns(layout, seq, name):
    span = layout.vocabulary.aligned_span(name)
    values = seq.aligned[seq.audio, layout.aligned_column(name)]
    return np.where(values >= 0, values - span.start, -1)


def test_a_source_is_aligned_with_its_target(model, captions):
    _, layout = model
    (item, *_) = random_items("se", captions)
    seq = item.sequence(layout).complete(item.codes)
    for k in range(8):
        assert np.array_equal(columns(layout, seq, f"source{k}"), item.inputs["source"][:, k])
    assert (
        np.array_equal(columns(layout, seq, "ahead2")[:-3], item.inputs["source"][3:, 2])
        and (columns(layout, seq, "ahead2")[-3:] == -1).all()
    )
    assert np.array_equal(layout.frames_to_codes(seq.frames[seq.audio]), item.codes[:, :4])
    assert (seq.aligned[: seq.audio.start] == -1).all() and len(seq.frames) == 3 + len(item.codes)


def test_a_song_s_notes_and_rests(model, captions):
    _, layout = model
    label, (frames, _) = random_label(np.random.default_rng(0), "svs", 0)
    pitches, counts = song_notes(label, frames)
    assert pitches.tolist() == [0, 60, 64, 0] and counts.tolist() == [5, 15, 10, frames - 30]
    codes = np.zeros((frames, CODEBOOKS), int)
    item = make_item(given(label, {"target": codes, "prompt": codes}))
    seq = item.sequence(layout, codes[:20]).complete(item.codes)
    assert columns(layout, seq, "note").tolist() == [0] * 5 + [25] * 15 + [29] * 10 + [0] * (
        frames - 30
    )
    assert columns(layout, seq, "note_left")[5:20].tolist() == list(range(14, -1, -1))
    assert (
        columns(layout, seq, "phone_now") >= 0
    ).all() and seq.durations.start == seq.durations.stop


def test_a_speech_edit_is_its_span_in_its_surroundings(model, captions):
    _, layout = model
    label, (frames, _) = random_label(np.random.default_rng(1), "s_edit", 0)
    codes = np.arange(frames)[:, None].repeat(CODEBOOKS, 1) % SIZE
    item = make_item(given(label, {"target": codes, "source": codes}))
    assert np.array_equal(item.codes, codes[20:34]) and item.inputs["text"].durations.sum() == 14
    assert np.array_equal(item.inputs["source"], np.concatenate((codes[34:], codes[:20])))


def test_labels_that_cannot_be_items(captions):
    label, (frames,) = random_label(np.random.default_rng(1), "i_tts", 0)
    assert (
        make_item(given(label, {"target": np.zeros((3, CODEBOOKS), int)}, captions=captions))
        is None
    )  # fewer frames than phones
    with pytest.raises(ValueError, match="expected a caption tokenizer"):
        make_item(given(label, {"target": np.zeros((frames, CODEBOOKS), int)}))
    label, frames = random_label(np.random.default_rng(1), "se", 0)
    with pytest.raises(ValueError, match="expected source of"):
        make_item(
            given(label, {"target": np.zeros((frames[0], 8), int), "source": np.zeros((3, 8), int)})
        )
    with pytest.raises(ValueError, match="expected examples of up to"):
        TaskData(ENTRIES["se"], [])


def test_durations_fill_the_clip():
    assert frame_durations([0.101, 0.105, 0.5], 25).tolist() == [
        5,
        1,
        19,
    ]  # a phone too short still has a frame
    assert frame_durations([0.3, 0.48, 0.49], 24).tolist() == [
        15,
        8,
        1,
    ]  # room is kept for the last
    assert frame_durations([0.1, 0.2, 0.3], 2) is None
    assert frame_durations([], 5) is None
