"""Training, bundling and evaluation of the semantic tokenizer on an artificial language."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from semantic_tools import SETTINGS, SPOKEN, train
from uniaudio_training.checkpoints import load_semantic
from uniaudio_training.evaluate import unit_measures
from uniaudio_training.evaluate import units as judge
from uniaudio_training.semantic import train_semantic as trainer
from uniaudio_training.semantic.augment import Chances, VoiceWarp, add_at, sound_view
from uniaudio_training.semantic.speech_clips import open_noises, open_speech
from uniaudio_training.semantic.views import PAUSE_ID, SemanticData, frame_labels

from uniaudio_engine.text.phones import PHONES
from uniaudio_engine.tokenizers.semantic import SemanticEncoder

# Data


def test_frame_labels():
    phones = [("pau", 0.045), ("s", 0.085), ("ah1", 0.2)]
    labels = frame_labels(phones, 12)
    s, ah = PHONES.index("s"), PHONES.index("ah1")
    # middles at 10, 30, 50 ms ...
    assert labels.now.tolist() == [PAUSE_ID] * 2 + [s] * 2 + [ah] * 6 + [PAUSE_ID] * 2
    assert labels.before.tolist() == [PAUSE_ID] * 4 + [s] * 6 + [ah] * 2
    assert labels.after.tolist() == [s] * 2 + [ah] * 2 + [PAUSE_ID] * 8
    before = frame_labels(phones, 12, start=-0.04)
    assert (
        before.now[2:].tolist() == labels.now[:10].tolist()
        and before.now[:2].tolist() == [PAUSE_ID] * 2
    )
    fast = frame_labels(phones, 6, speed=2.0)  # middles at 20, 60, 100 ms ... of the clip
    assert fast.now.tolist() == [PAUSE_ID, s, ah, ah, ah, PAUSE_ID]


def test_reads_tracks(semantic_corpus, tmp_path):
    """The same shard as the labels of tasks have it: clips as tracks, some of them twice."""
    pcm = np.load(semantic_corpus / "speech-valid-0000.npy")
    np.save(tmp_path / "tts-valid-0000.npy", pcm)
    np.save(tmp_path / "t2s-valid-0000.npy", pcm[:500])
    (tmp_path / "t2s-valid-0000.jsonl").write_text(
        '{"tracks": {"target": {"offset": 0, "samples": 500}}}\n'
    )
    clips = [
        json.loads(line)
        for line in (semantic_corpus / "speech-valid-0000.jsonl").read_text().splitlines()
    ]
    rows = [
        {"id": "x", "task": "tts", "tracks": {"target": a, "prompt": b}}
        for a, b in zip(clips, clips[1:], strict=False)
    ]
    (tmp_path / "tts-valid-0000.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    plain, tracks = open_speech(semantic_corpus, "valid"), open_speech(tmp_path, "valid")
    assert len(plain) == len(tracks) == len(clips) == 6
    for a, b in zip(plain, tracks, strict=True):
        assert a.speaker == b.speaker and a.phones == b.phones
        np.testing.assert_array_equal(a.samples(), b.samples())
    assert [len(n) for n in open_noises(tmp_path, "valid")] == [500]
    with pytest.raises(FileNotFoundError, match="no test speech"):
        open_speech(tmp_path, "test")


def test_crops_keep_their_labels(semantic_corpus):
    """At any speed and start: the frames that a label calls a phone hold that phone's tone."""
    data = SemanticData(semantic_corpus, 320, 40)
    rng = np.random.default_rng(0)
    right = total = 0
    for _ in range(40):
        x, labels, _ = data.crop(rng)
        assert x.shape == (40 * 320,) and x.dtype == np.float32
        power = np.abs(np.fft.rfft(x.reshape(40, 320) * np.hanning(320), axis=1))
        for t in range(1, 39):
            if len({int(v) for v in labels.now[t - 1 : t + 2]}) > 1:
                continue  # at a border
            total += 1
            if labels.now[t] == PAUSE_ID:
                right += power[t].max() < 1.0
            else:
                p = SPOKEN.index(PHONES[labels.now[t]])
                right += 0.84 < power[t].argmax() * 50 / (500 + 1000 * p) < 1.22
    assert total > 300 and right > 0.97 * total


def test_batches_are_pairs_and_the_seeds_alone(semantic_corpus):
    data = SemanticData(semantic_corpus, 320, 24)
    a, b = (data.batch(np.random.default_rng(5), 6) for _ in range(2))
    for name, value in vars(a).items():
        assert torch.equal(value, getattr(b, name)), name
    assert torch.equal(a.now[0::2], a.now[1::2]) and torch.equal(a.speaker[0::2], a.speaker[1::2])
    assert not torch.equal(a.samples[0::2], a.samples[1::2])
    assert a.samples.abs().max() <= 1 and torch.isfinite(a.samples).all()


# Augmentation


def test_noise_is_as_loud_as_asked():
    rng = np.random.default_rng(0)
    x = np.sin(np.arange(16000) * 0.3).astype(np.float32)
    noise = add_at(x, rng.standard_normal(16000).astype(np.float32) * 7, 10.0) - x
    assert 10 * np.log10((x**2).mean() / (noise**2).mean()) == pytest.approx(10, abs=0.05)
    assert np.isfinite(add_at(np.zeros(3200, np.float32), noise[:3200], 10.0)).all()


def test_views_keep_time():
    """Rooms and equalizers leave the direct path where it was."""
    x = np.zeros(8000, np.float32)
    x[4000] = 0.5
    everything = Chances(noise=0, other=0, room=1, equalizer=1, telephone=0)
    for seed in range(20):
        y = sound_view(np.random.default_rng(seed), x, None, everything)
        assert abs(int(np.abs(y).argmax()) - 4000) <= 1 and np.abs(y).max() <= 1


def test_harmonics_and_formants_move_apart():
    warp = VoiceWarp(201)
    hz = torch.arange(201) * 40.0
    envelope = 0.5 * torch.exp(-(((hz - 2000) / 700) ** 2))
    comb = 0.2 * torch.cos(2 * torch.pi * hz / 240)  # harmonics of 240 Hz
    x = (envelope + comb)[None, None]
    one = torch.ones(1)
    torch.testing.assert_close(warp(x, one, one), x, atol=2e-3, rtol=0)
    higher = warp(x, one * 1.25, one)[0, 0]
    moved = envelope + 0.2 * torch.cos(2 * torch.pi * hz / 300)
    assert (higher - moved)[5:150].abs().max() < 0.06 < (x[0, 0] - moved)[5:150].abs().max()
    wider = warp(x, one, one * 1.15)[0, 0]
    moved = 0.5 * torch.exp(-(((hz / 1.15 - 2000) / 700) ** 2)) + comb
    assert (wider - moved)[5:180].abs().max() < 0.05


# Training


def _weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=False)["parts"]


def _equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_resume_is_exact(semantic_corpus, tmp_path, monkeypatch):
    config = {**SETTINGS, "data": str(semantic_corpus), "steps": 6}
    train(config, tmp_path / "whole")

    from uniaudio_training.loop import Run

    tick = Run.tick

    def stop_at_three(self):
        going = tick(self)
        if self.step == 3:
            self.save()
            return False
        return going

    monkeypatch.setattr(Run, "tick", stop_at_three)
    train(config, tmp_path / "parts")
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=False)["step"] == 3
    monkeypatch.setattr(Run, "tick", tick)
    train(config, tmp_path / "parts")
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_unknown_setting_is_refused(tmp_path, semantic_corpus):
    with pytest.raises(ValueError, match="pair_wait"):
        train({**SETTINGS, "pair_wait": 1}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_learns_and_the_core_says_the_same(semantic_run, semantic_corpus):
    config, model = load_semantic(semantic_run)
    encoder = SemanticEncoder.native(
        config, {k: np.ascontiguousarray(v.numpy()) for k, v in model.state_dict().items()}, 1
    )
    clips = unit_measures.read_clips(semantic_corpus, "test", 30)
    units = lambda x: encoder.encode(x).astype(np.int64)  # noqa: E731
    fitted = unit_measures.Map(
        unit_measures.tokenized(unit_measures.read_clips(semantic_corpus, "train", 60), units), 24
    )
    heard = unit_measures.tokenized(clips, units)
    hits = np.array([fitted.right(c, True) for c in heard]).sum(0)
    assert hits[0] > 0.75 * hits[1]
    agree = [np.mean(c.ids == trainer.units(model, c.samples, config.delay)) for c in heard]
    assert np.mean(agree) > 0.99  # near-ties may differ


def write_codec_folder(folder):
    """A codec with phones, without a language model."""
    from uniaudio_engine.storage.config import CodecConfig, ModelConfig, SpectralConfig
    from uniaudio_engine.storage.folder_writing import save_folder
    from uniaudio_engine.storage.weight_shapes import codec_shapes

    codec = CodecConfig(
        "spectral",
        num_codebooks=2,
        codebook_size=8,
        codebook_dim=4,
        spectral=SpectralConfig(
            encoder_width=8,
            encoder_blocks=1,
            encoder_hidden=16,
            decoder_width=8,
            decoder_blocks=1,
            decoder_hidden=16,
        ),
    )
    rng = np.random.default_rng(0)
    weights = {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()}
    save_folder(folder, ModelConfig(1, "m", codec), weights, phones=PHONES)


def test_bundled_into_a_folder(semantic_run, tmp_path):
    from uniaudio_training.bundle import main

    from uniaudio_engine import Engine

    write_codec_folder(tmp_path / "m")
    for _ in range(2):  # again replaces it
        assert main(["--semantic", str(semantic_run), "--out", str(tmp_path / "m")]) == 0
    engine = Engine.from_pretrained(tmp_path / "m")
    assert engine.semantic((np.zeros(16000, np.float32), 16000)).shape == (50,)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "m")])


def test_what_units_stand_for_is_counted(semantic_run, semantic_corpus, tmp_path, capsys):
    from uniaudio_training.bundle import main

    from uniaudio_engine import Engine

    folder = tmp_path / "m"
    write_codec_folder(folder)
    assert main(["--unit-phones", str(semantic_corpus), "--out", str(folder)]) == 2
    assert "has no semantic tokenizer" in capsys.readouterr().err
    assert main(["--semantic", str(semantic_run), "--out", str(folder)]) == 0
    assert main(["--unit-phones", str(tmp_path), "--out", str(folder)]) == 2
    assert "no train speech" in capsys.readouterr().err
    assert main(["--unit-phones", str(semantic_corpus), "--out", str(folder)]) == 0
    model = Engine.from_pretrained(folder).model
    table = model.folder.unit_phones
    one_of_each = [PHONES.index(p) for p in {q.rstrip("012"): q for q in PHONES}.values()]
    assert table[:, one_of_each].sum(1) == pytest.approx(np.ones(len(table)), rel=1e-2)
    for label in SPOKEN:  # whatever the stress
        variants = [i for i, p in enumerate(PHONES) if p.rstrip("012") == label.rstrip("012")]
        assert (table[:, variants] == table[:, variants[:1]]).all()
    right, wrong = [], []
    for spoken in SemanticData(semantic_corpus, 320, 48, "valid").clips[:12]:
        ids = [PHONES.index(p) for p, _ in spoken.phones]
        others = [
            PHONES.index(SPOKEN[(SPOKEN.index(p) + 1) % 5]) if p in SPOKEN else PAUSE_ID
            for p, _ in spoken.phones
        ]
        right.append(model.hearing(spoken.samples(), ids).missed)
        wrong.append(model.hearing(spoken.samples(), others).missed)
    assert np.mean(right) < 0.35 < np.mean(wrong)


# Judging


def test_the_report_of_a_perfect_and_a_deaf_tokenizer(semantic_corpus, monkeypatch):
    from uniaudio_training.corpus import speech

    who = [
        speech.Speaker(f"tone-{i}", "tone", 1.0, 100.0, split="test" if i == 2 else "train")
        for i in range(3)
    ]
    monkeypatch.setattr(speech, "SPEAKERS", tuple(who))
    monkeypatch.setattr(judge, "two_speakers", lambda *a: {})

    def perfect(x):
        frames = np.pad(x, (0, -len(x) % 320)).reshape(-1, 320)
        power = np.abs(np.fft.rfft(frames * np.hanning(320), axis=1))
        return np.where(
            power.max(1) < 2, 5, np.clip(np.round((power.argmax(1) * 50 - 500) / 1000), 0, 4)
        ).astype(np.int64)

    lines = judge.judge(
        perfect,
        lambda x: np.zeros(-(-len(x) // 320), np.int64),
        6,
        3,
        semantic_corpus,
        judge.Sizes(60, 20, 4, 60, 1),
        lambda s: None,
    )
    by_name = {x.measure: x for x in lines}
    accuracy = by_name["frame phone accuracy"]
    assert (
        accuracy.value > 0.9
        and accuracy.low <= accuracy.value <= accuracy.high
        and accuracy.codec < 0.4
    )
    assert (
        by_name["phone error of the units spelt out"].value < 0.25
        and by_name["phone error of the units spelt out"].codec > 0.8
    )
    assert (
        by_name["bits told of the phone"].value > 1.5
        and abs(by_name["bits told of the phone"].codec) < 0.1
    )
    text = judge.table(lines)
    assert text.count("\n") == len(lines) + 1 and "nan" not in text
