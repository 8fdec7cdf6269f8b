"""Kyutai's delayed-streams TTS from download to sound; its numbers are held against the authors' own
in tests/training/test_kyutai_upstream.py.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kyutai_tools import lm_config, lm_state, write_lm
from windowed_tools import MIMI, mimi_state, write

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.kyutai_tts import import_kyutai_tts, read_kyutai_tts

sentencepiece = pytest.importorskip("sentencepiece")

TEXT = "Hello there: it is (nearly) the sea’s end."
CONFIG = {"card": 64, "text_card": 300}


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 9),
        model_writer=out,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


@pytest.fixture(scope="module", params=[False, True], ids=["ahead", "plain"])
def download(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: bytes
) -> Path:
    root = tmp_path_factory.mktemp("download")
    config = lm_config(request.param, **CONFIG)
    write_lm(root / "kyutai", config, lm_state(config))
    (root / "kyutai" / "tokenizer.model").write_bytes(tokenizer)
    write(root / "mimi", MIMI, mimi_state(MIMI, root))
    import_kyutai_tts(root / "kyutai", root / "ours")
    return root


@pytest.fixture
def engine(download: Path) -> Engine:
    return Engine.from_pretrained(download / "ours", threads=1, dtype="float32")


def test_from_download_to_sound(download: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "hello.wav"
    source, codec = str(download / "kyutai"), str(download / "mimi")
    assert main(["import", "kyutai-tts", source, "--codec", codec, "-o", str(model)]) == 0
    assert main(["tts", "-m", str(model), TEXT, "-o", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert (model / "README.md").read_text().count("CC-BY-4.0")


def test_the_text_is_fed_word_by_word(engine: Engine) -> None:
    """As the authors' code splits it, each word with ids of its own."""
    model = engine.model
    ids = model.text.ids(TEXT)
    between, pieces = 300, sentencepiece.SentencePieceProcessor(model_proto=model.folder.captions)
    words = ["Hello", "there", "it", "is", "nearly", "the", "sea's", "end."]
    expected = [i for w in words for i in (*pieces.encode(w), between)][:-1]
    assert ids == expected
    with pytest.raises(InputError, match="expected text with tokens"):
        model.text.ids(" () ")


@pytest.mark.parametrize("voice", [False, True])
def test_streamed_and_batched_as_in_one_call(engine: Engine, voice: bool) -> None:
    rate = engine.sample_rate
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, rate).astype(np.float32)
    given: dict[str, Any] = {"voice": (sound, rate)} if voice else {}
    whole = engine.tts(TEXT, seed=3, **given)
    assert len(whole.samples) > rate / 8 and np.abs(whole.samples).max() > 0
    names = {"prompt": given["voice"]} if voice else {}
    chunks = [c.samples for c in engine.stream("tts", text=TEXT, seed=3, **names)]
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate(chunks), whole.samples)
    requests = [{"task": "tts", "text": t, "seed": 3, **names} for t in (TEXT, "The end.")]
    both = engine.generate_batch(requests)
    np.testing.assert_array_equal(both[0].samples, whole.samples)
    free = engine.tts(TEXT, seed=3, guidance=1.0, **given)
    assert not np.array_equal(free.samples, whole.samples)
    other = engine.tts("The end.", seed=3, **given)
    np.testing.assert_array_equal(both[1].samples, other.samples)
    assert not np.array_equal(other.samples, whole.samples)
    silent = engine.tts(TEXT, seed=4, **given)
    assert not np.array_equal(silent.samples, whole.samples)


@pytest.mark.slow
def test_speech_on_a_device_is_the_cpus(host: Any, engine: Engine, download: Path) -> None:
    gpu = Engine.from_pretrained(download / "ours", device="cuda", threads=1, dtype="float32")
    for options in ({"seed": 3}, {"seed": 4, "guidance": 1.0}):
        a, b = (e.generate("tts", text="The end.", **options) for e in (engine, gpu))
        assert b.meta["device"] == "cuda" and np.abs(a.samples).max() > 0
        np.testing.assert_array_equal(a.samples, b.samples)


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def rewritten(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        config = lm_config(**CONFIG)
        state = lm_state(config)
        change(state)
        write_lm(folder, config, state)

    return rewrite


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "through attention": (changed(cross_attention=True), "without voices through cross attention"),
    "conditioners": (
        changed(conditioners={"cfg": {"type": "lut"}}),
        "a model without conditioners",
    ),
    "norm_emb": (changed(norm_emb=True), "a model without normalised embeddings"),
    "gating": (changed(gating="none"), "gating: expected 'silu'"),
    "norm": (changed(norm="layer_norm"), "norm: expected one of"),
    "dep_q": (changed(dep_q=2), "dep_q: expected 4, got 2"),
    "codebooks": (changed(n_q=10**9, dep_q=10**9), "expected up to 62 codebooks"),
    "delays": (changed(delays=[0, 0, 2]), "delays: expected 5 of 0 to 64, 0 first"),
    "text delay": (changed(delays=[1, 0, 2, 2, 2]), "delays: expected 5 of 0 to 64, 0 first"),
    "no delay": (changed(tts_config={"audio_delay": 0.0, "second_stream_ahead": 2}), "audio_delay"),
    "late": (changed(tts_config={"audio_delay": 1e9, "second_stream_ahead": 2}), "audio_delay"),
    "no tts": (changed(tts_config=None), "key 'tts_config' is missing"),
    "two speakers": (
        changed(tts_config={"audio_delay": 0.32, "second_stream_ahead": 2, "multistream": True}),
        "multistream: expected False",
    ),
    "one text": (changed(demux_second_stream=False), "demux_second_stream: expected True"),
    "schedule": (
        changed(depformer_weights_per_step_schedule=[0, 1, 2, 9]),
        "weights_per_step_schedule: expected 4 of 0 to 3",
    ),
    "heads": (changed(depformer_num_heads=7), "depformer_num_heads: expected a divisor"),
    "width": (changed(depformer_dim_feedforward=[72, 96]), "expected the same for all codebooks"),
    "huge": (changed(dim=10**6), "lm.global.width"),
    "other shape": (changed(dim=64), "expected the shape"),
    "path": (
        changed(moshi_name="../weights.safetensors"),
        "moshi_name: expected the name of a file",
    ),
    "tokenizer path": (changed(tokenizer_name="/etc/passwd"), "tokenizer_name: expected the name"),
    "no weights": (lambda f: (f / "dsm_tts.safetensors").unlink(), "dsm_tts.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "the model's tokenizer"),
    "not a tokenizer": (
        lambda f: (f / "tokenizer.model").write_bytes(b"x" * 99),
        "expected a sentencepiece model",
    ),
    "missing": (rewritten(lambda s: s.pop("linears.1.weight")), "linears.1.weight is missing"),
    "left over": (
        rewritten(lambda s: s.update(more=np.zeros(3, np.float32))),
        "left over more",
    ),
    "NaN": (rewritten(lambda s: s["emb.1.weight"].fill(np.nan)), "NaN or infinity"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_downloads_get_one_line(case: str, tmp_path: Path, tokenizer: bytes) -> None:
    folder, config = tmp_path / "kyutai", lm_config(**CONFIG)
    write_lm(folder, config, lm_state(config))
    (folder / "tokenizer.model").write_bytes(tokenizer)
    read_kyutai_tts(folder)
    change, message = WRONG[case]
    change(folder)
    with pytest.raises(InputError, match=message) as e:
        import_kyutai_tts(folder, tmp_path / "out", codec=tmp_path)
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()


def test_the_codec_is_looked_for(download: Path, tmp_path: Path) -> None:
    shutil.copytree(download / "kyutai", tmp_path / "kyutai")
    with pytest.raises(InputError, match="expected the codec kyutai/mimi in a folder mimi"):
        import_kyutai_tts(tmp_path / "kyutai", tmp_path / "out")
