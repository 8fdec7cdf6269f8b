"""Imported Qwen3-TTS Base, which clones, against the authors' own classes (qwen-tts 0.1.1) with the
same random weights: the vector of a recording's speaker, logits, and what it says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3_upstream import upstream

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("librosa")  # for upstream's mel filters
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from qwen3_tools import BASE, ENCODER, encoder_state, lm_state, write_lm

from uniaudio_engine import _C, Audio, Engine
from uniaudio_engine.importers.hub_files import Reader, Settings
from uniaudio_engine.importers.qwen3_speaker import speaker_config, speaker_tensors
from uniaudio_engine.importers.qwen3_tts import import_qwen3_tts
from uniaudio_engine.request.sampling import target_sampling
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.folder import load_folder
from uniaudio_engine.tokenizers.ecapa import Ecapa

END = BASE["talker_config"]["codec_eos_token_id"]
SIZE, CODEBOOKS = 64, 4
TEXT, SAID = "hello assistant, hel!", "assistant? hel lo."
PUBLISHED = {
    "mel_dim": 128,
    "sample_rate": 24000,
    "enc_dim": 1024,
    "enc_kernel_sizes": [5, 3, 3, 3, 1],
}
PUBLISHED |= {"enc_channels": [512] * 4 + [1536], "enc_dilations": [1, 2, 3, 4, 1]}
PUBLISHED |= {"enc_res2net_scale": 8, "enc_se_channels": 128, "enc_attention_channels": 128}


def recording(samples: int, seed: int = 3) -> np.ndarray:
    """Harmonics that come and go, and noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 24000
    x = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 20))
    x = x * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)) * 0.1 + rng.standard_normal(samples) * 0.01
    return np.asarray(x, np.float32)


def theirs_of(config: dict[str, Any], state: dict[str, np.ndarray]) -> Any:
    modeling = upstream("models.modeling_qwen3_tts")
    settings = upstream("models.configuration_qwen3_tts").Qwen3TTSConfig(**config)
    model = modeling.Qwen3TTSForConditionalGeneration(settings).eval()
    model.load_state_dict({k: torch.from_numpy(x) for k, x in state.items()}, strict=True)
    return model


@pytest.mark.parametrize("config", [ENCODER, PUBLISHED], ids=["small", "published"])
@pytest.mark.parametrize("samples", [12000, 70001])
def test_the_vector_of_a_speaker(config: dict[str, Any], samples: int) -> None:
    modeling = upstream("models.modeling_qwen3_tts")
    settings = upstream("models.configuration_qwen3_tts").Qwen3TTSSpeakerEncoderConfig(**config)
    theirs = modeling.Qwen3TTSSpeakerEncoder(settings).eval()
    state = encoder_state(config)
    own = {k.removeprefix("speaker_encoder."): torch.from_numpy(x) for k, x in state.items()}
    theirs.load_state_dict(own, strict=True)
    x = recording(samples)
    with torch.no_grad():
        spectra = modeling.mel_spectrogram(
            *(torch.from_numpy(x)[None], 1024, 128, 24000, 256, 1024, 0, 12000)
        )
        expected = theirs(spectra.transpose(1, 2))[0].numpy()
    ours = speaker_config(Settings(config, "config.json"), config["enc_dim"])
    found = Ecapa(ours, speaker_tensors(Reader(state, "weights"), ours)).vector(x)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)
    other = Ecapa(ours, speaker_tensors(Reader(state, "weights"), ours)).vector(x[::-1] * 0.3)
    assert np.linalg.norm(other - expected) > 1e-2 * np.linalg.norm(expected)


class Pair:
    """Their model and the engine of what was imported from the file that theirs wrote."""

    def __init__(self, folder: Path) -> None:
        write_lm(folder / "theirs", BASE)
        state = lm_state(BASE)
        state["talker.codec_head.weight"][END] = 0  # it never ends
        self.theirs = theirs_of(BASE, state)
        self.theirs.save_pretrained(folder / "saved")
        for name in ("config.json", "model.safetensors"):
            (folder / "saved" / name).replace(folder / "theirs" / name)
        import_qwen3_tts(folder / "theirs", folder / "ours")
        self.engine = Engine.from_pretrained(folder / "ours", threads=1, dtype="float32")
        sound = Audio(recording(24000), 24000)
        self.voices = {
            said: self.engine.encode_voice(sound, text=SAID if said else "")
            for said in (False, True)
        }

    def says(self, frames: int, language: str, said: bool) -> tuple[np.ndarray, Any]:
        """(codes [T, K], hidden rows [T, D]) of what theirs says in the voice, greedily. ``said``: it
        knows what is said in the recording.
        """
        start, end, role = 280, 281, [270, 198]
        text, words = (self.engine.model.text.said(t) for t in (TEXT, SAID))
        ids = torch.tensor([[start, *role, *text, end, 198, start, *role]])
        voice = {
            "ref_code": [
                torch.from_numpy(self.voices[said].codes.T.astype("i8")) if said else None
            ],
            "ref_spk_embedding": [torch.from_numpy(self.voices[said].vector)],
            "x_vector_only_mode": [not said],
            "icl_mode": [said],
        }
        with torch.no_grad():
            codes, hidden = self.theirs.generate(
                input_ids=[ids],
                ref_ids=[torch.tensor([[start, *role, *words, end, 198]])],
                languages=[language],
                voice_clone_prompt=voice,
                non_streaming_mode=True,
                max_new_tokens=frames + 1,
                do_sample=False,
                subtalker_dosample=False,
            )
        return codes[0].numpy(), hidden[0]

    def prompt(self, language: str, said: bool) -> tuple[Any, Any]:
        """Our shared part and our body of the same prompt."""
        more = {} if language == "auto" else {"language": language}
        plan = self.engine.plan("tts", text=TEXT, prompt=self.voices[said], seed=0, **more)
        (piece,) = plan.pieces
        return piece.sequence.conditional.shared, piece.sequence.conditional.body


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("qwen3-base"))


@pytest.mark.parametrize(
    "language, said", [("english", False), ("auto", False), ("english", True)], ids=str
)
def test_it_says_what_upstream_says_for_200_frames(pair: Pair, language: str, said: bool) -> None:
    expected, _ = pair.says(200, language, said)
    assert expected.shape == (200, CODEBOOKS) and len(np.unique(expected, axis=0)) > 10
    engine = pair.engine
    task, session = engine.task("tts"), engine.lm.session(500)
    for part in pair.prompt(language, said):
        session.prefill(part.frames, None, part.continuous or None)
    options = task.check_options({"temperature": 0.0, "seed": 0})
    out = session.generate(200, target_sampling(engine.layout, task, options, 0, 0))
    np.testing.assert_array_equal(engine.layout.frames_to_codes(out), expected)


@pytest.mark.parametrize("said", [False, True])
def test_logits(pair: Pair, said: bool) -> None:
    codes, hidden = pair.says(60, "english", said)
    with torch.no_grad():
        first = pair.theirs.talker.codec_head(hidden)[:, None, :SIZE]
        rest, _ = pair.theirs.talker.forward_sub_talker_finetune(torch.from_numpy(codes), hidden)
    truth = torch.cat((first, rest), 1).numpy()
    layout, config = pair.engine.layout, pair.engine.config.lm
    shared, body = pair.prompt("english", said)
    frames = np.concatenate(
        (shared.frames, body.frames, layout.codes_to_frames(codes, layout.text_slot.speaking))
    )
    start = layout.vocabulary.span("audio").start
    lm = _C.LM(
        json.dumps(to_dict(config)), dict(load_folder(pair.engine.model.folder.path).lm), "float32"
    )
    found = lm.logits(frames, None, shared.continuous)[-len(codes) :]
    ours = np.stack([found[:, k, start + k * SIZE :][:, :SIZE] for k in range(CODEBOOKS)], axis=1)
    assert np.abs(ours - truth).max() <= 1e-4 * np.abs(truth).max()
    del shared.continuous["speaker"]
    without = lm.logits(frames)[-len(codes) :, 0, start:][:, :SIZE]
    assert np.abs(without - truth[:, 0]).max() > 1e-2  # the voice counts
