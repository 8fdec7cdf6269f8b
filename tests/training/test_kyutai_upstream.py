"""Imported delayed-streams TTS against the authors' own classes (PyPI ``moshi`` 0.2.13) with the same
random weights: logits, and what it says word by word.

    pip install --no-deps moshi==0.2.13
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moshi")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from kyutai_tools import lm_config, lm_state, write_lm

from uniaudio_engine import _C
from uniaudio_engine.importers.kyutai_tts import read_kyutai_tts
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.request.text_slot import feed_words
from uniaudio_engine.storage.config import to_dict

KINDS = {"ahead": False, "plain": True}
LATE = 4  # steps that the sound comes after the text


def upstream(name: str) -> Any:
    try:
        importlib.import_module("sphn")
    except ImportError:  # it reads files, which this does not
        sys.modules["sphn"] = types.ModuleType("sphn")
    return importlib.import_module(f"moshi.models.{name}")


class Pair:
    """Their model, and ours as read from its file."""

    def __init__(self, folder: Path, plain: bool, seed: int = 0) -> None:
        config = lm_config(plain)
        state = lm_state(config, seed)
        write_lm(folder, config, state)
        (folder / "tokenizer.model").write_bytes(b"not read here")
        self.model = read_kyutai_tts(folder)
        self.config = config
        drop = ("model_type", "conditioners", "tts_config")
        theirs = {k: v for k, v in config.items() if k not in drop}
        theirs["demux_second_text_stream"] = theirs.pop("demux_second_stream")
        self.theirs = upstream("lm").LMModel(**theirs).eval()
        tensors = {k: torch.from_numpy(v) for k, v in state.items()}
        self.theirs.load_state_dict(tensors, strict=True)

    def lm(self, dtype: str = "float32") -> _C.LM:
        return _C.LM(json.dumps(to_dict(self.model.config)), self.model.tensors, dtype)

    def spoken(
        self, words: list[list[int]], prefix: np.ndarray | None, steps: int, guidance: float
    ) -> Any:
        """(text [T], second text [T], codes [T, K], frames of the sound) of what theirs says,
        greedily.
        """
        tts, lm = upstream("tts"), self.theirs
        ahead = self.config["tts_config"]["second_stream_ahead"]
        rows = self.config["text_card"] + 1
        lm.condition_provider = types.SimpleNamespace(
            prepare_and_provide=lambda _: {}, conditioners={}
        )
        machine = tts.StateMachine(tts.TokenIds(rows), ahead, max_padding=8, initial_padding=2)
        codec = types.SimpleNamespace(frame_rate=12.5)
        sizes = {"n_q": self.config["n_q"], "max_gen_length": steps}
        model = tts.TTSModel(lm, codec, None, "", "", machine, LATE, cfg_coef=guidance, **sizes)
        entries = [tts.Entry(list(w), "w", padding=len(w)) for w in words]
        prefixes = None
        if prefix is not None:
            nothing = np.full((1, len(prefix)), -1)
            prefixes = [torch.from_numpy(np.concatenate((nothing, prefix.T)))]
        result = model.generate([entries], [], prefixes=prefixes, use_sampling=False)
        lm.condition_provider = None
        out = torch.cat(result.frames, -1)[0].T.numpy()  # [T, 1 + K]
        text = out[:, 0]
        second = np.where(text >= 0, text // rows - 1, -1)
        text = np.where(text >= 0, text % rows, -1)
        return text, second, out[LATE:, 1:], result.end_steps[0]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(tmp_path / "theirs", KINDS[request.param])


def split(pair: Pair, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text ids [T], second text ids [T], codes [T, K] of frames; -1 for none."""
    layout = pair.model.layout
    text = frames[:, 0] - layout.vocabulary.span("text").start
    second = np.full(len(frames), -1)
    if layout.given_slots:
        second = frames[:, 1] - layout.vocabulary.span("ahead").start
    return (
        np.where(text < 0, -1, text),
        np.where(second < 0, -1, second),
        layout.frames_to_codes(frames),
    )


def test_logits(pair: Pair) -> None:
    """Teacher-forced, of a sequence as it is spoken: the sound late, its later codebooks later."""
    c, layout = pair.config, pair.model.layout
    rng = np.random.default_rng(3)
    t, k, rows = 30, c["n_q"], c["text_card"] + 1
    text = rng.integers(0, 5, t)
    second = rng.integers(-1, rows - 1, t) if layout.given_slots else np.full(t, -1)
    codes = rng.integers(0, c["card"], (t, k))
    frames = layout.codes_to_frames(codes)
    frames[:, 0] = layout.vocabulary.span("text").start + text
    if layout.given_slots:
        ahead = layout.vocabulary.span("ahead").start
        frames[:, 1] = np.where(second < 0, layout.text_id(-1), ahead + second)
    found = pair.lm().logits(frames)
    # theirs, step by step
    steps = t + LATE + 2
    inputs = np.full((steps, 1 + k), -1)
    inputs[:, 0] = 3
    inputs[:t, 0] = (second + 1) * rows + text if layout.given_slots else text
    delays = np.array(c["delays"][1:])
    for i, d in enumerate(delays):
        inputs[:d, 1 + i] = c["card"]
        inputs[LATE + d : LATE + d + t, 1 + i] = codes[:, i]
    sequence = torch.from_numpy(inputs.T)[None]
    first = pair.theirs._get_initial_token()
    with torch.no_grad():
        before = torch.cat((first, sequence[:, :, :-1]), 2)
        hidden, text_logits = pair.theirs.forward_text(before)
        depth = pair.theirs.forward_depformer_training(sequence, hidden)[0].numpy()
    expected = text_logits[0, 0].numpy()[:t]
    start = layout.vocabulary.span("text").start
    own = found[:, 0, start : start + expected.shape[1]]
    worst = np.abs(own - expected).max() / np.abs(expected).max()
    size, at = c["card"], layout.vocabulary.span("audio").start
    for i, d in enumerate(delays):
        own = found[:, 1 + layout.given_slots + i, at + i * size : at + (i + 1) * size]
        expected = depth[i, LATE + d : LATE + d + t]
        worst = max(worst, np.abs(own - expected).max() / np.abs(expected).max())
    print(f"logits: {worst:.1e} of the largest")
    assert worst < 1e-4


WORDS = [[7, 8], [9], [10, 11, 12], [13], [14, 15], [16, 17, 18, 19, 20], [21], [22, 23]]


@pytest.mark.parametrize(("heard", "guidance"), [(0, 1.0), (9, 1.0), (0, 2.0), (9, 2.0)])
def test_greedy_codes(pair: Pair, heard: int, guidance: float) -> None:
    """Over 200 frames: when each word begins, what is fed, every code, and where the sound ends."""
    layout, rng = pair.model.layout, np.random.default_rng(5)
    prefix = rng.integers(0, pair.config["card"], (heard, pair.config["n_q"])) if heard else None
    words = [list(w) for w in WORDS * 6]
    text, second, codes, end = pair.spoken(words, prefix, 600, guidance)
    assert end is not None and end - heard > 200
    sampling = target_sampling(layout, pair.model.task, {**options(pair), "temperature": 0.0}, 0, 0)
    flat = [i for w in words for i in (*w, pair.config["text_card"])][:-1]

    def speak(parts: list[int]) -> tuple[np.ndarray, bool]:
        lm = pair.lm()
        session, other = lm.session(600), lm.session(600)
        if prefix is not None:
            known = layout.codes_to_frames(prefix)
            session.prefill(known)
            other.prefill(np.full_like(known, layout.text_id(-1)))
        if guidance != 1.0:
            session.set_guidance(other, guidance)
        feed_words(session, layout, np.array(flat))
        made = [session.generate(n, greedy(sampling, pair)) for n in parts]
        return np.concatenate(made), session.finished

    frames, finished = speak([590 - heard])
    assert finished and heard + len(frames) == end + 2
    found = split(pair, frames)
    stop = heard + len(frames)
    np.testing.assert_array_equal(found[0], text[heard:stop])
    np.testing.assert_array_equal(found[1], second[heard:stop])
    np.testing.assert_array_equal(found[2], codes[heard:stop])
    again, _ = speak([1, 2, 3, 50, 100, 400])
    np.testing.assert_array_equal(again, frames)


def options(pair: Pair) -> dict[str, Any]:
    return {o.name: o.default for o in pair.model.task.options}


def greedy(sampling: _C.Sampling, pair: Pair) -> _C.Sampling:
    """The same ids allowed, the likeliest taken in all slots."""
    return _C.Sampling(allowed=sampling.allowed, greedy=True)


def test_int8_agreement(pair: Pair) -> None:
    rng = np.random.default_rng(1)
    layout = pair.model.layout
    frames = layout.codes_to_frames(
        rng.integers(0, pair.config["card"], (200, layout.num_codebooks))
    )
    frames[:, 0] = layout.vocabulary.span("text").start + rng.integers(0, 5, 200)
    best = {}
    for dtype in ("float32", "int8", "int4"):
        logits = pair.lm(dtype).logits(frames)[:, 1 + layout.given_slots :]
        at, size = layout.vocabulary.span("audio").start, layout.codebook_size
        own = [
            logits[:, i, at + i * size : at + (i + 1) * size] for i in range(layout.num_codebooks)
        ]
        best[dtype] = np.stack(own, 1).argmax(-1)
    for dtype, least in (("int8", 0.85), ("int4", 0.35)):
        same = np.mean(best[dtype] == best["float32"])
        print(f"{dtype}: the likeliest code is the same for {same:.0%}")
        assert same > least
