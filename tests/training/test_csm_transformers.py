"""Imported CSM against CsmForConditionalGeneration of ``transformers``: logits of a conversation, and
what it says next.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from windowed_tools import MIMI

from uniaudio_engine import _C
from uniaudio_engine.importers.csm import CsmModel, Turn, read_csm
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.folder import check_weights
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes

SCALED = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 64}
BOS, AUDIO, AUDIO_END = 40, 41, 42
CONFIG: dict[str, Any] = {
    "num_codebooks": 5,
    "vocab_size": 67,  # three more rows than the codec has codes, as upstream
    "text_vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 400,
    "rope_parameters": {
        **SCALED,
        "rope_theta": 500000.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
    },
    "pad_token_id": 1,
    "codebook_pad_token_id": 66,
    "codebook_eos_token_id": 0,
    "bos_token_id": BOS,
    "audio_token_id": AUDIO,
    "audio_eos_token_id": AUDIO_END,
    "depth_decoder_config": {
        "num_codebooks": 5,
        "backbone_hidden_size": 48,
        "vocab_size": 67,
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 6,
        "rope_parameters": {
            **SCALED,
            "rope_theta": 500000.0,
            "original_max_position_embeddings": 16,
            "low_freq_factor": 0.002,
            "high_freq_factor": 0.008,
        },
    },
    "codec_config": MIMI,
}
SIZE = MIMI["codebook_size"]
UNUSED = list(range(SIZE, 67))


def random_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.CsmConfig(**{**json.loads(json.dumps(CONFIG)), **changes})
    model = transformers.CsmForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("codec_model"):
                continue
            if p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.5 if "embed_" in name else p.shape[-1] ** -0.5))
        model.lm_head.weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CsmModel, Path]:
    folder = tmp_path_factory.mktemp("csm") / "theirs"
    model = random_model()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return model, read_csm(folder), folder


def native(model: CsmModel, dtype: str = "float32") -> _C.LM:
    check_weights(model.tensors, lm_shapes(model.config), "read")
    check_weights(model.codec_tensors, codec_shapes(model.codec), "read")
    return _C.LM(json.dumps(to_dict(model.config)), model.tensors, dtype)


def conversation(seed: int = 0, frames: int = 9) -> list[Turn]:
    """Two speakers' turns with their sound, and a third to be spoken."""
    rng = np.random.default_rng(seed)

    def text(n: int) -> list[int]:
        return [BOS, *rng.integers(2, 40, n).tolist()]

    def codes(n: int) -> np.ndarray:
        return rng.integers(1, SIZE, (n, 5))

    return [Turn(text(6), codes(frames)), Turn(text(3), codes(4)), Turn(text(7))]


def their_rows(model: Any, turns: list[Turn], spoken: np.ndarray) -> Any:
    """Embeddings [1, T, D] of the turns and of what is spoken after them."""
    rows = []
    with torch.no_grad():
        for turn in turns:
            rows.append(model.embed_text_tokens(torch.tensor(turn.text)))
            if turn.codes is not None:
                codes = np.concatenate((turn.codes, np.zeros((1, 5), int)))
                rows.append(model.backbone_model.embed_tokens(torch.tensor(codes)[None])[0])
        if len(spoken):
            rows.append(model.backbone_model.embed_tokens(torch.tensor(spoken)[None])[0])
    return torch.cat(rows)[None]


def their_logits(model: Any, rows: Any, spoken: np.ndarray) -> np.ndarray:
    """Logits [n, K, codes] of the spoken frames, teacher-forced."""
    n = len(spoken)
    with torch.no_grad():
        h = model.backbone_model(inputs_embeds=rows).last_hidden_state[0, -n - 1 : -1]
        first = model.lm_head(h)
        ids = torch.nn.functional.pad(torch.tensor(spoken), (1, 0))
        rest = model.depth_decoder(input_ids=ids[:, :-1], backbone_last_hidden_state=h).logits
    return torch.cat((first[:, None], rest), 1)[..., :SIZE].numpy()


def our_logits(model: CsmModel, lm: _C.LM, turns: list[Turn], spoken: np.ndarray) -> np.ndarray:
    layout, start = model.layout, model.config.global_head_start
    frames = np.concatenate((model.prompt(turns), layout.codes_to_frames(spoken)))
    logits = lm.logits(frames)[-len(spoken) :, :5]
    return np.stack(
        [logits[:, k, start + k * SIZE : start + (k + 1) * SIZE] for k in range(5)], axis=1
    )


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def test_logits_of_a_conversation(pair: tuple[Any, CsmModel, Path]) -> None:
    theirs, ours, _ = pair
    turns, spoken = conversation(), np.random.default_rng(3).integers(0, SIZE, (60, 5))
    truth = their_logits(theirs, their_rows(theirs, turns, spoken), spoken)
    exact = our_logits(ours, native(ours), turns, spoken)
    assert relative(exact, truth) <= 1e-4
    for dtype, least in (("int8", 0.8), ("int4", 0.3)):
        rounded = our_logits(ours, native(ours, dtype), turns, spoken)
        same = float((rounded.argmax(-1) == truth.argmax(-1)).mean())
        print(f"{dtype}: {relative(rounded, truth):.3f} of the logits, {same:.1%} of codes equal")
        assert same >= least


def greedy_sampling(model: CsmModel) -> _C.Sampling:
    return target_sampling(model.layout, model.task, {"temperature": 0.0}, 0, 0)


def greedy(model: Any, rows: Any, frames: int) -> np.ndarray:
    """What CSM's own ``generate`` says after these rows [1, T, D]: codes [n, K]."""
    model.depth_decoder.generation_config.suppress_tokens = UNUSED
    with torch.no_grad():
        out = model.generate(
            inputs_embeds=rows,
            attention_mask=torch.ones(rows.shape[:2], dtype=torch.long),
            max_new_tokens=frames,
            do_sample=False,
            suppress_tokens=UNUSED,
            depth_decoder_do_sample=False,
        )
    return out[0].numpy()


def test_it_says_what_upstream_says_for_200_frames(pair: tuple[Any, CsmModel, Path]) -> None:
    theirs, ours, _ = pair
    turns = conversation(1)
    expected = greedy(theirs, their_rows(theirs, turns, np.zeros((0, 5), int)), 200)
    assert expected.shape == (200, 5) and len(np.unique(expected, axis=0)) > 20
    session = native(ours).session(400)
    session.prefill(ours.prompt(turns))
    out = session.generate(200, greedy_sampling(ours))
    np.testing.assert_array_equal(ours.layout.frames_to_codes(out), expected)


def test_it_ends_where_upstream_ends(tmp_path: Path) -> None:
    theirs = random_model()
    turns, nothing = conversation(2), np.zeros((0, 5), int)
    spoken = greedy(theirs, their_rows(theirs, turns, nothing), 30)
    # Make some frame the end: swap code 0 with that frame's codes, in the tables and heads.
    at = next(i for i in range(5, 30) if (spoken[:i] != spoken[i]).any(1).all())
    with torch.no_grad():
        table = theirs.backbone_model.embed_tokens.embed_audio_tokens.weight
        for k, code in enumerate(spoken[at].tolist()):
            pair, head = [0, code], [code, 0]
            rows = [k * 67 + i for i in pair]
            table[rows] = table[[k * 67 + i for i in head]]
            weight = (
                theirs.lm_head.weight.T
                if k == 0
                else theirs.depth_decoder.codebooks_head.weight[k - 1]
            )
            weight[:, pair] = weight[:, head]
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_csm(tmp_path / "theirs")
    plain = [Turn(t.text) for t in turns]
    session = native(ours).session(100)
    session.prefill(ours.prompt(plain))
    out = session.generate(60, greedy_sampling(ours))
    expected = greedy(theirs, their_rows(theirs, plain, nothing), 60)
    ended = np.nonzero((expected[:, :-1] == 0).all(1))[0]
    np.testing.assert_array_equal(ours.layout.frames_to_codes(out), expected[: len(out)])
    assert session.finished == (len(ended) > 0)
    assert len(out) == (ended[0] if len(ended) else 60)


def test_untied_tables_and_plain_rope(tmp_path: Path) -> None:
    depth = {**CONFIG["depth_decoder_config"], "rope_parameters": None}
    theirs = random_model(
        tie_codebooks_embeddings=False, rope_parameters=None, depth_decoder_config=depth
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_csm(tmp_path / "theirs")
    turns, spoken = conversation(), np.random.default_rng(3).integers(0, SIZE, (20, 5))
    truth = their_logits(theirs, their_rows(theirs, turns, spoken), spoken)
    assert relative(our_logits(ours, native(ours), turns, spoken), truth) <= 1e-4
