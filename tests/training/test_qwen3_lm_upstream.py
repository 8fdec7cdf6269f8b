"""Imported Qwen3-TTS against the authors' own language model (qwen-tts 0.1.1) with the same random
weights: logits, and what it says.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3_upstream import upstream

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from qwen3_tools import LM, lm_state, write_lm

from uniaudio_engine import _C, Engine
from uniaudio_engine.importers.qwen3_tts import import_qwen3_tts
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.folder import load_folder

END = LM["talker_config"]["codec_eos_token_id"]
SIZE, CODEBOOKS = 64, 4
NEVER = {"talker.codec_head.weight": lambda head: head.__setitem__(END, 0)}
TEXT = "hello assistant, hel!"


class Pair:
    """Their model and the engine of what was imported from its file."""

    def __init__(self, folder: Path, changes: dict[str, Callable[[Any], None]], **talker: Any):
        modeling = upstream("models.modeling_qwen3_tts")
        config = copy.deepcopy(LM)
        config["talker_config"]["code_predictor_config"].update(talker.pop("predictor", {}))
        config["talker_config"].update(talker)
        state = lm_state(config)
        for name, change in changes.items():
            change(state[name])
        settings = upstream("models.configuration_qwen3_tts").Qwen3TTSConfig(**config)
        self.theirs = modeling.Qwen3TTSForConditionalGeneration(settings).eval()
        self.theirs.load_state_dict({k: torch.from_numpy(x) for k, x in state.items()}, strict=True)
        self.theirs.save_pretrained(folder / "saved")
        write_lm(folder / "theirs", config, state)
        for name in ("config.json", "model.safetensors"):  # as the authors' class writes them
            (folder / "saved" / name).replace(folder / "theirs" / name)
        import_qwen3_tts(folder / "theirs", folder / "ours")
        self.engine = Engine.from_pretrained(folder / "ours", threads=1, dtype="float32")

    def says(self, frames: int, speaker: str, language: str, **more: Any) -> tuple[Any, Any]:
        """(codes [T, K], hidden rows [T, D]) of what theirs says, greedily."""
        start, end, role = 280, 281, [270, 198]
        text = self.engine.model.text.said(TEXT)
        ids = torch.tensor([[start, *role, *text, end, 198, start, *role]])
        with torch.no_grad():
            codes, hidden = self.theirs.generate(
                input_ids=[ids],
                languages=[language],
                speakers=[speaker],
                non_streaming_mode=True,
                max_new_tokens=frames + 1,
                do_sample=False,
                subtalker_dosample=False,
                **more,
            )
        return codes[0].numpy(), hidden[0]

    def prompt(self, speaker: str, language: str) -> np.ndarray:
        """Our frames [T, K + 1] of the same prompt."""
        more = {} if language == "auto" else {"language": language}
        plan = self.engine.plan("tts", text=TEXT, prompt=speaker, seed=0, **more)
        (piece,) = plan.pieces
        sequence = piece.sequence.conditional
        return np.concatenate((sequence.shared.frames, sequence.body.frames))

    def sampling(self, least: int | None) -> Any:
        task = self.engine.task("tts")
        options = task.check_options({"temperature": 0.0, "seed": 0})
        return target_sampling(self.engine.layout, task, options, 0, least)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("qwen3"), NEVER)


@pytest.mark.parametrize("speaker, language", [("ryan", "english"), ("vivian", "auto")])
def test_it_says_what_upstream_says_for_200_frames(pair: Pair, speaker: str, language: str) -> None:
    expected, _ = pair.says(200, speaker, language)
    assert expected.shape == (200, CODEBOOKS) and len(np.unique(expected, axis=0)) > 20
    session = pair.engine.lm.session(400)
    session.prefill(pair.prompt(speaker, language))
    out = session.generate(200, pair.sampling(0))
    np.testing.assert_array_equal(pair.engine.layout.frames_to_codes(out), expected)


def test_logits(pair: Pair) -> None:
    check_logits(pair)


def check_logits(pair: Pair) -> None:
    codes, hidden = pair.says(60, "ryan", "english")
    with torch.no_grad():
        first = pair.theirs.talker.codec_head(hidden)[:, None, :SIZE]
        rest, _ = pair.theirs.talker.forward_sub_talker_finetune(torch.from_numpy(codes), hidden)
    truth = torch.cat((first, rest), 1).numpy()
    layout, config = pair.engine.layout, pair.engine.config.lm
    slot = layout.text_slot
    assert slot is not None
    spoken = layout.codes_to_frames(codes, slot.speaking)
    frames = np.concatenate((pair.prompt("ryan", "english"), spoken))
    start = layout.vocabulary.span("audio").start
    weights = dict(load_folder(pair.engine.model.folder.path).lm)
    for dtype, most, least in (("float32", 1e-4, 0.99), ("int8", 1, 0.7), ("int4", 2, 0.2)):
        lm = _C.LM(json.dumps(to_dict(config)), weights, dtype)
        all_logits = lm.logits(frames)[-len(codes) :]
        ours = np.stack(
            [all_logits[:, k, start + k * SIZE :][:, :SIZE] for k in range(CODEBOOKS)], axis=1
        )
        off = float(np.abs(ours - truth).max() / np.abs(truth).max())
        same = float((ours.argmax(-1) == truth.argmax(-1)).mean())
        print(f"{dtype}: {off:.2g} of the logits, {same:.1%} of codes equal")
        assert off <= most and same >= least


def test_a_predictor_of_another_width(tmp_path: Path) -> None:
    check_logits(Pair(tmp_path, NEVER, predictor={"hidden_size": 24}))


def test_it_ends_where_upstream_ends(tmp_path: Path, pair: Pair) -> None:
    codes, _ = pair.says(40, "ryan", "english")
    # The end takes the place of the code that is first spoken after the most frames, and in the first
    # two frames, where upstream does not let it come.
    at = int(np.unique(codes[:, 0], return_index=True)[1].max())
    assert at > 2
    row = int(codes[at, 0])

    def swap(head: Any) -> None:
        head[END] = head[row] * 1.01

    ending = Pair(tmp_path, {"talker.codec_head.weight": swap})
    expected, _ = ending.says(40, "ryan", "english")
    assert 2 <= len(expected) < 40
    session = ending.engine.lm.session(400)
    session.prefill(ending.prompt("ryan", "english"))
    out = session.generate(60, ending.sampling(0))
    assert session.finished
    np.testing.assert_array_equal(ending.engine.layout.frames_to_codes(out), expected)
