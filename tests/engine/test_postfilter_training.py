"""Training and bundling the filters of clean-up, on a tiny model and artificial sounds."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from joint import POSTFILTER, VOICE_FILTER, make_joint_model
from live_tools import speech
from uniaudio_training import bundle
from uniaudio_training.checkpoints import load_postfilter
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.schema import SAMPLE_RATE, Label, Track
from uniaudio_training.corpus.shards import write_shard
from uniaudio_training.models.postfilter import PostFilter
from uniaudio_training.postfilter import train_postfilter
from uniaudio_training.postfilter.mixtures import NoisySpeech, TwoVoices, through_codec, voices_of
from uniaudio_training.postfilter.train_postfilter import (
    Pair,
    PostFilterSettings,
    loss_of,
    snr_loss,
)
from uniaudio_training.postfilter.voices import contrast, learn_voices
from uniaudio_training.postfilter.weights import started
from uniaudio_training.precision import Arithmetic
from uniaudio_training.settings import ConfigError

from uniaudio_engine import Engine
from uniaudio_engine.audio.level import level_db

SECONDS = 2.0


def pcm(x: np.ndarray) -> np.ndarray:
    return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


def shard(
    folder: Path, task: str, split: str, clips: int, seed: int, seconds: float = SECONDS
) -> None:
    """Clips of a harmonic sound by two speakers in turn."""
    folder.mkdir(exist_ok=True)
    sounds, labels, at = [], [], 0
    for i in range(clips):
        sounds.append(pcm(speech(seconds, seed + i)))
        track = Track(at, len(sounds[-1]), "words", f"speaker{i % 2}")
        at += len(sounds[-1])
        labels.append(Label(f"{task}-{split}-0000-{i:04d}", task, split, {"target": track}))
    write_shard(folder / f"{task}-{split}-0000.jsonl", np.concatenate(sounds), labels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_joint_model(tmp_path_factory.mktemp("models") / "joint")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shard(folder / "corpus", "tts", "train", 4, 30)
    shard(folder / "corpus", "tts", "valid", 4, 70)
    shard(folder / "corpus", "t2s", "train", 2, 80)
    return folder


def small(folder: Path, **more: object) -> PostFilterSettings:
    return PostFilterSettings(
        **{  # type: ignore[arg-type]
            "postfilter": POSTFILTER,
            "speech": (str(folder / "corpus"),),
            "steps": 40,
            "batch": 4,
            "seconds": 0.5,
            "precision": "float32",
            "validate_every": 1000,
            **more,
        }
    )


def test_what_is_missing_counts_more() -> None:
    target = torch.full((1, 1, 4), 0.5, dtype=torch.complex64)
    pair, ones = Pair.of(target, target), torch.ones(1, 1, 4)
    less, more = (float(loss_of(g * ones, pair, 3.0, 0.0)) for g in (0.5, 2.0))
    same = float(loss_of(ones, pair, 3.0, 1.0))
    softer = (0.5**0.3 - 0.25**0.3) ** 2
    assert same == pytest.approx(0, abs=1e-6) and less == pytest.approx(3 * softer, rel=1e-5)
    assert more == pytest.approx((1.0 - 0.5**0.3) ** 2, rel=1e-5)


def test_training_takes_noise_away_and_the_model_uses_it(
    data: Path, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_postfilter.train(small(data, steps=250, snr=(0.0, 10.0), rooms=0.0), run, "cpu")
    folder = tmp_path / "folder"
    assert bundle.main(["--base", str(model), "--out", str(folder)]) == 0  # no LM: no filter
    for path in model.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    assert bundle.main(["--postfilter", str(run), "--out", str(folder)]) == 0
    config, weights = load_postfilter(run)
    assert config == POSTFILTER
    stored = load_postfilter(folder)[1]
    assert all(torch.allclose(w, stored[k], atol=0.02, rtol=0.01) for k, w in weights.items())
    clean = speech(2.0, 77)
    noisy = clean + 0.05 * np.random.default_rng(1).standard_normal(len(clean)).astype(np.float32)
    made = Engine.from_pretrained(folder, threads=1).enhance((noisy, 16000), seed=1).samples
    pauses = clean.reshape(-1, 320)[np.abs(clean.reshape(-1, 320)).max(1) < 0.01].size
    assert pauses > 3200
    quiet = np.abs(clean) < 0.01
    before, after = level_db(noisy[quiet], 16000), level_db(made[quiet], 16000)
    assert before is not None and (after is None or after < before - 6)  # dB


def test_mixtures_are_made_anew(data: Path, tmp_path: Path) -> None:
    arithmetic = Arithmetic(torch.device("cpu"), torch.float32)
    s = small(data, snr=(0.0, 0.0), rooms=0.0)
    batch = train_postfilter.PostFilterTrainer(s, arithmetic).batch(np.random.default_rng(3))
    noise = batch.source - batch.target
    for x, n in zip(batch.target, noise, strict=True):
        snr = 10 * torch.log10(x.square().sum() / n.square().sum())
        assert abs(float(snr)) < 0.5
        level = level_db((x + n).numpy(), 16000)
        assert level is not None and -31 < level < -17


def test_some_speech_is_in_a_room(data: Path) -> None:
    corpus = open_corpus(data / "corpus")
    speech_ = [corpus["tts", "train"]]
    rng = np.random.default_rng(3)
    quieter = []
    for _ in range(12):
        m = NoisySpeech(speech_, [], (10.0, 10.0), rooms=1.0).draw(rng, 12000, 0)
        assert m.source.shape == m.target.shape == (12000,) and not len(m.voice)
        # In the pauses of the target the source still sounds.
        pauses = np.abs(m.target) < 0.02 * np.abs(m.target).max()
        quieter.append(np.abs(m.target[pauses]).mean() / np.abs(m.source[pauses]).mean())
    assert np.median(quieter) < 0.5
    shares = []
    for rooms in (0.0, 0.5):
        drawn = [
            NoisySpeech(speech_, [], (90.0, 90.0), rooms).draw(rng, 6000, 0) for _ in range(40)
        ]
        far = [np.abs(m.source - m.target).max() > 0.05 * np.abs(m.target).max() for m in drawn]
        shares.append(np.mean(far))
    assert shares[0] == 0 and 0.2 < shares[1] < 0.8


def of_voices(folder: Path, **more: object) -> PostFilterSettings:
    both = {"postfilter": VOICE_FILTER, "noises": (str(folder / "corpus"),)}
    return small(folder, **{**both, **more})


def test_two_voices_are_mixed(data: Path, model: Path) -> None:
    corpus = open_corpus(data / "corpus")
    engine = Engine.from_pretrained(model, threads=1)
    speech_, sounds = [corpus["tts", "train"]], [corpus["t2s", "train"]]
    rng = np.random.default_rng(3)
    mixed = TwoVoices(speech_, sounds, (3.0, 3.0), engine, alone=0, absent=0, noisy=0)
    for _ in range(5):
        m = mixed.draw(rng, 12000, 9000)
        assert m.source.shape == m.target.shape == (12000,) and m.voice.shape == (9000,)
        other = m.source - m.target
        assert 10 * np.log10((m.target**2).sum() / (other**2).sum()) == pytest.approx(3, abs=0.1)
        for x in (m.source, m.voice):
            level = level_db(x, 16000)
            assert level is not None and -31 < level < -17
    same = mixed.draw(np.random.default_rng(8), 4000, 4000)
    again = mixed.draw(np.random.default_rng(8), 4000, 4000)
    assert np.array_equal(same.source, again.source) and np.array_equal(same.voice, again.voice)
    alone = TwoVoices(speech_, sounds, (0.0, 0.0), engine, alone=1, absent=1, noisy=0)
    m = alone.draw(rng, 12000, 9000)
    assert np.array_equal(m.source, m.target) and m.target.any()
    absent = TwoVoices(speech_, sounds, (0.0, 0.0), engine, alone=0, absent=1, noisy=0)
    m = absent.draw(rng, 12000, 9000)
    assert m.source.any() and not m.target.any()
    noisy = TwoVoices(speech_, sounds, (0.0, 0.0), engine, alone=1, absent=0, noisy=1)
    m = noisy.draw(rng, 12000, 9000)
    snr = 10 * np.log10((m.target**2).sum() / ((m.source - m.target) ** 2).sum())
    assert 4.9 < snr < 25.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"voice_steps": 1}, "voice_steps: expected 0 without a voice, got 1"),
        ({"speech": ()}, "speech: expected corpora, got"),
        ({"rooms": 1.5}, "rooms: expected 0 to 1, got 1.5"),
        ({"snr": (5.0, 0.0)}, "snr: expected lowest and highest"),
    ],
)
def test_settings_that_do_not_fit(data: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(data, **wrong).check()


def test_corpora_may_have_the_same_ids(data: Path, model: Path, tmp_path: Path) -> None:
    """The voice that is heard is one of the speaker's, whatever its recordings are called."""
    shard(tmp_path / "other", "tts", "train", 4, 90)
    file = tmp_path / "other" / "tts-train-0000.jsonl"
    file.write_text(re.sub(r"speaker(\d)", r"other\1", file.read_text()))
    speech_ = [open_corpus(f)["tts", "train"] for f in (data / "corpus", tmp_path / "other")]
    engine = Engine.from_pretrained(model, threads=1)
    mixed = TwoVoices(speech_, [], (0.0, 0.0), engine, 0, 0, 0)
    assert len({p.example.id for v in mixed.voices for p in v}) == 4  # of eight
    rng = np.random.default_rng(1)
    for _ in range(60):
        mixed.draw(rng, 800, 800)
    assert len(mixed._heard_voices) == 8
    for (voice, k), heard in mixed._heard_voices.items():
        said = mixed.voices[voice][k].example.audio()[: 5 * 16000]
        assert np.array_equal(heard, through_codec(engine, said))


def test_most_mixtures_are_of_one_corpus(data: Path, model: Path, tmp_path: Path) -> None:
    shard(tmp_path / "other", "tts", "train", 8, 90)
    speech_ = [open_corpus(f)["tts", "train"] for f in (data / "corpus", tmp_path / "other")]
    engine = Engine.from_pretrained(model, threads=1)
    mixed = TwoVoices(speech_, [], (0.0, 0.0), engine, 0, 0, 0)
    rng = np.random.default_rng(1)
    pairs = np.array([mixed._both(rng) for _ in range(600)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    corpus_of = np.concatenate([np.full(len(g.voices), i) for i, g in enumerate(mixed.groups)])
    alike = (corpus_of[pairs[:, 0]] == corpus_of[pairs[:, 1]]).mean()
    assert 0.75 < alike < 0.97  # the rest are drawn from any
    assert set(pairs.flatten()) == set(range(len(mixed.voices)))


def test_a_recording_of_nobody_is_a_voice(data: Path, model: Path, tmp_path: Path) -> None:
    shard(tmp_path / "other", "tts", "train", 4, 90, 3.2)
    file = tmp_path / "other" / "tts-train-0000.jsonl"
    file.write_text(re.sub(r',"speaker":"[^"]*"', "", file.read_text()))
    (unknown,) = [open_corpus(tmp_path / "other")["tts", "train"]]
    voices = voices_of(unknown)
    assert len(voices) == 4
    for one, other in voices:
        assert one.example.id == other.example.id and one.stop == other.start
        assert abs(len(one.pcm()) - len(other.pcm())) < 0.6 * SAMPLE_RATE
        assert len(one.pcm()) + len(other.pcm()) > 2 * SAMPLE_RATE
    engine = Engine.from_pretrained(model, threads=1)
    m = TwoVoices([unknown], [], (0.0, 0.0), engine, 0, 0, 0).draw(
        np.random.default_rng(1), 800, 800
    )
    assert m.target.any() and m.voice.any()


def test_halves_have_as_much_sound(tmp_path: Path) -> None:
    shard(tmp_path, "tts", "train", 2, 90, 7.2)
    file = tmp_path / "tts-train-0000.jsonl"
    file.write_text(re.sub(r',"speaker":"[^"]*"', "", file.read_text()))
    sounds, n = np.load(file.with_suffix(".npy")), round(7.2 * SAMPLE_RATE)
    sounds[: n // 2] = 0  # the first half of the one, the last of the other are silent
    sounds[n + n // 2 : 2 * n] = 0
    np.save(file.with_suffix(".npy"), sounds)
    first, last = voices_of(open_corpus(tmp_path)["tts", "train"])
    for one, other in (first, last):
        sizes = [np.abs(p.pcm().astype(float)).mean() for p in (one, other)]
        assert 0.5 < sizes[0] / sizes[1] < 2
    assert first[0].start >= n // 2 - SAMPLE_RATE // 50 and last[0].start == 0


def test_speech_of_no_corpus(data: Path, tmp_path: Path) -> None:
    shard(tmp_path / "valid", "tts", "valid", 2, 1)
    s = small(data, speech=(str(tmp_path / "valid"),))
    with pytest.raises(CorpusError, match="no tts of the split train"):
        train_postfilter.train(s, tmp_path / "x", "cpu")


def test_two_voices_need_two_speakers(data: Path, model: Path, tmp_path: Path) -> None:
    shard(tmp_path / "one", "tts", "train", 1, 1)
    engine = Engine.from_pretrained(model, threads=1)
    with pytest.raises(CorpusError, match="two speakers with two recordings each"):
        TwoVoices([open_corpus(tmp_path / "one")["tts", "train"]], [], (0.0, 0.0), engine, 0, 0, 0)


@pytest.mark.parametrize("formants", [0.0, 0.1])
def test_a_voice_filter_is_trained_and_bundled(
    data: Path, model: Path, tmp_path: Path, formants: float
) -> None:
    s = of_voices(
        data, model=str(model), steps=3, snr_weight=0.01, voice_steps=2, formants=formants
    )
    train_postfilter.train(s, tmp_path / "run", "cpu")
    config, weights = load_postfilter(tmp_path / "run")
    assert config == VOICE_FILTER and "modulation.weight" in weights
    folder = tmp_path / "folder"
    shutil.copytree(model, folder)
    before = (folder / "postfilter.safetensors").read_bytes()
    assert bundle.main(["--postfilter", str(tmp_path / "run"), "--out", str(folder)]) == 0
    assert (folder / "postfilter.safetensors").read_bytes() == before
    stored = load_postfilter(folder, "voice_filter")[1]
    for name, w in weights.items():
        assert (w - stored[name]).abs().max() <= w.abs().max() / 127
    x = speech(1.0, 3)
    made = Engine.from_pretrained(folder, threads=1).extract((x, 16000), (x, 16000), seed=1)
    assert made.meta["postfilter"] == 1 and len(made.samples) == len(x)


def test_weights_between_two_filters(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = tmp_path / "folder", tmp_path / "run"
    shutil.copytree(model, folder)
    s = of_voices(data, model=str(model), init=str(folder), steps=2)
    train_postfilter.train(s, run, "cpu")
    begin, end = started(folder, VOICE_FILTER), load_postfilter(run)[1]
    put = ["--postfilter", str(run), "--postfilter-share", "0.25", "--out", str(folder)]
    assert bundle.main(put) == 0
    stored = load_postfilter(folder, "voice_filter")[1]
    for name, w in stored.items():
        between = 0.75 * begin[name] + 0.25 * end[name]
        assert (w - between).abs().max() <= between.abs().max() / 127
    other = of_voices(data, model=str(model), steps=1)
    other = dataclasses.replace(other, postfilter=dataclasses.replace(VOICE_FILTER, width=12))
    train_postfilter.train(other, tmp_path / "other", "cpu")
    put[1] = str(tmp_path / "other")
    capsys.readouterr()
    assert bundle.main(put) == 2
    error = capsys.readouterr().err
    assert "init: expected a filter of the shape" in error and error.count("\n") == 1


def test_voices_are_told_apart(data: Path, model: Path) -> None:
    corpus = open_corpus(data / "corpus")
    engine = Engine.from_pretrained(model, threads=1)
    mixed = TwoVoices([corpus["tts", "train"]], [], (0.0, 0.0), engine, 0, 0, 0)
    pairs = mixed.pairs(np.random.default_rng(1), 5, 3000)
    assert pairs.shape == (2, 5, 3000) and not np.array_equal(pairs[0], pairs[1])
    torch.manual_seed(0)
    network = PostFilter(VOICE_FILTER)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    arithmetic = Arithmetic(torch.device("cpu"), torch.float32)
    assert 0 <= learn_voices(network, mixed, 2, 0, arithmetic) <= 1
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("voice.") for k in changed)
    with pytest.raises(SystemExit, match="run it again"):
        learn_voices(network, mixed, 2, 0, arithmetic, lambda: True)


def test_contrast_finds_the_pairs() -> None:
    vectors = torch.eye(4)
    loss, found = contrast(vectors, 3 * vectors, torch.tensor(3.0))
    assert float(loss) < 0.01 and float(found) == 1
    loss, found = contrast(vectors, vectors.roll(1, 0), torch.tensor(3.0))
    assert float(loss) > 10 and float(found) == 0


def test_the_ratio_of_error_to_target() -> None:
    target = torch.ones(1, 2, 3, dtype=torch.complex64)
    pair, ones = Pair.of(2 * target, target), torch.ones(1, 2, 3)
    same = float(snr_loss(0.5 * ones, pair))
    half = float(snr_loss(0.25 * ones, pair))
    assert half == pytest.approx(10 * np.log10((0.25 + 0.04) / (1 + 0.4)), abs=1e-4)
    assert same < half - 8
    silent = float(snr_loss(0 * ones, Pair.of(0 * target, 0 * target)))
    assert np.isfinite(silent)
    absent = Pair.of(2 * target, 0 * target)
    assert float(snr_loss(ones, absent)) > float(snr_loss(0 * ones, absent))


def test_the_losses_are_those_of_complex_spectra() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 2, 5, 9, dtype=torch.complex64)
    gains, softened, weight = torch.rand(2, 5, 9), 1.5, 0.3
    kept, pair = gains * source, Pair.of(source, target)
    less = kept.abs() ** 0.3 - target.abs() ** 0.3
    apart = kept * kept.abs() ** -0.7 - target * target.abs() ** -0.7
    sizes = less**2 * torch.where(less < 0, softened, 1.0)
    expected = sizes.mean() + weight * apart.abs().square().mean()
    assert float(loss_of(gains, pair, softened, weight)) == pytest.approx(float(expected), rel=1e-5)
    assert torch.allclose(pair.error(gains), (kept - target).abs().square(), atol=1e-5)


def test_a_voice_filter_begins_as_the_filter_of_clean_up(data: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train_postfilter.train(small(data, steps=3), first, "cpu")
    still = {"steps": 1, "lr": 0.0, "matrix_lr": 0.0, "weight_decay": 0.0}
    s = of_voices(data, init=str(first), **still)
    train_postfilter.train(s, tmp_path / "second", "cpu")
    (_, a), (_, b) = (load_postfilter(tmp_path / n) for n in ("first", "second"))
    assert all(torch.equal(a[k], b[k]) for k in a) and set(b) > set(a)
    s = of_voices(data, init=str(tmp_path / "second"), **still)
    s = dataclasses.replace(s, postfilter=dataclasses.replace(VOICE_FILTER, kernel_size=5))
    train_postfilter.train(s, tmp_path / "longer", "cpu")
    c = load_postfilter(tmp_path / "longer")[1]
    assert {k for k in c if c[k].shape != b[k].shape} == {
        f"net.blocks.{i}.depthwise.weight" for i in range(VOICE_FILTER.blocks)
    }
    assert all(torch.equal(c[k], b[k]) for k in c if c[k].shape == b[k].shape)


def test_a_run_goes_on_from_another(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_postfilter.train(small(data, steps=3), first, "cpu")
    train_postfilter.train(
        small(data, steps=1, init=str(first), lr=0.0, matrix_lr=0.0), second, "cpu"
    )
    a, b = load_postfilter(first)[1], load_postfilter(second)[1]
    assert all(torch.equal(a[k], b[k]) for k in a)
    longer = dataclasses.replace(POSTFILTER, kernel_size=7)
    more = small(
        data, steps=1, postfilter=longer, init=str(first), lr=0.0, matrix_lr=0.0, weight_decay=0.0
    )
    train_postfilter.train(more, tmp_path / "longer", "cpu")
    models = []
    for run in (first, tmp_path / "longer"):
        config, weights = load_postfilter(run)
        models.append(PostFilter(config).eval())
        models[-1].load_state_dict(weights)
    x = torch.from_numpy(speech(1.0, 3))[None]
    with torch.no_grad():
        assert torch.allclose(models[0](x), models[1](x), atol=1e-6)
    other = dataclasses.replace(POSTFILTER, width=8)
    with pytest.raises(ConfigError, match="init: expected a filter of the shape of postfilter"):
        train_postfilter.train(
            small(data, postfilter=other, init=str(first)), tmp_path / "x", "cpu"
        )
    assert json.loads((first / "postfilter.json").read_text())["width"] == POSTFILTER.width
