"""Judging a model's voices beside peers, with judges and a model that answer at once."""

from types import SimpleNamespace

import numpy as np
import pytest
from uniaudio_training.corpus.schema import Label, Track
from uniaudio_training.evaluate import mos, voices
from uniaudio_training.evaluate.real import Reading

RATE = 16000


def tone(hz, seconds=2.0):
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.2 * sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 8))).astype(np.float32)


class Sound:
    def __init__(self, samples):
        self.samples = samples


class Fake:
    """Says everything in one tone, converts to the prompt, and enhances by halving."""

    def voices(self):
        return ["one", "two"]

    asked = 0

    def tts(self, text, voice=None, prompt=None, seed=0, best_of=1):
        Fake.asked = best_of
        hz = {"one": 110, "two": 210, None: 120}[voice]
        return Sound(tone(hz) if prompt is None else prompt[0])

    def convert(self, source, prompt, seed=0):
        return Sound(prompt[0])


class Ear:
    """A speaker's vector is the loudest frequency's place."""

    def embed(self, samples):
        spectrum = np.abs(np.fft.rfft(samples, RATE))
        v = np.zeros(400)
        v[int(spectrum.argmax()) % 400] = 1.0
        return v


@pytest.fixture(autouse=True)
def judges(monkeypatch):
    monkeypatch.setattr(
        voices, "dnsmos", lambda: lambda x: mos.Dnsmos(3.0, 3.0, 3.0, 10 * float(np.abs(x).max()))
    )
    monkeypatch.setattr(voices, "distillmos", lambda: lambda x: 2.0)
    monkeypatch.setattr(voices, "speaker_encoder", Ear)


READERS = [
    Reading(f"{s}{i}", s, tone(hz), "one two")
    for i in range(2)
    for s, hz in (("a", 110), ("b", 170), ("c", 230))
]


def test_tts_beside_a_peer():
    rows = voices.tts(
        ["one two", "three"],
        lambda x: ["one"],
        {"model": voices.bundled(Fake(), ["one"]), "peer": lambda text, seed: tone(200)},
    )
    assert set(rows) == {"model", "peer"}
    assert rows["peer"]["WER"] == pytest.approx(2 / 3, abs=1e-3) and rows["peer"]["clips"] == 2
    assert rows["peer"]["pitch spread"] < 0.1


def test_bundled_voices_take_turns():
    say = voices.bundled(Fake(), ["two", "one"], best_of=3)
    loudest = [int(np.abs(np.fft.rfft(say("", i), RATE)).argmax()) for i in range(3)]
    assert loudest == [210, 110, 210] and Fake.asked == 3


def test_the_codec_of_a_peer_uses_the_codebooks_of_the_model():
    from uniaudio_engine import Engine

    engine = Engine.from_pretrained()
    clip = tone(200)
    made = voices.through_codec(engine, lambda text, seed: clip)("", 0)
    codes = engine.encode((clip, RATE), engine.config.lm.num_codebooks)
    assert codes.shape[0] < engine.num_codebooks()
    np.testing.assert_array_equal(made, engine.decode(codes).samples)


def test_clone_and_conversion_by_likeness():
    row = voices.clone(Fake(), READERS, ["one two"] * 3, None, best_of=2)
    assert row["over ceiling"] == 1.0 and "WER" not in row
    assert Fake.asked == 2
    row = voices.vc(Fake(), READERS, 6, lambda x: ["one", "two"])["vc, held-out readers"]
    assert row["cosine gain"] == 1.0 and row["WER"] == 0.0


def test_clean_up(tmp_path):
    pytest.importorskip("pystoi")
    np.save(
        tmp_path / "t2s-test-0000.npy",
        np.random.default_rng(0).integers(-3000, 3000, RATE).astype(np.int16),
    )
    line = Label(
        "t2s-test-0000-0000", "t2s", "test", {"target": Track(0, RATE)}, caption="rain"
    ).line()
    (tmp_path / "t2s-test-0000.jsonl").write_text(line + "\n")
    pairs = voices.noisy(READERS[:2], tmp_path, 5.0)
    for pair in pairs:
        noise = pair.mixed - pair.clip.samples
        snr = 10 * np.log10((pair.clip.samples**2).sum() / (noise**2).sum())
        assert snr == pytest.approx(5, abs=0.1)
    rows = voices.clean_up(
        "se",
        {"half": lambda p: p.mixed / 2, "perfect": lambda p: p.clip.samples[:-100]},
        pairs,
        None,
    )
    assert rows["se, half"]["OVRL gain"] == pytest.approx(-rows["se, input"]["OVRL"] / 2, abs=1e-3)
    assert rows["se, half"]["ESTOI gain"] == pytest.approx(0, abs=1e-3)
    assert rows["se, perfect"]["ESTOI gain"] > 0.05


def test_two_readers_at_once():
    pairs = voices.overlapped(READERS)
    assert [p.clip.id for p in pairs] == [r.id for r in READERS]
    for pair in pairs:
        other = pair.mixed - pair.clip.samples
        level = 10 * np.log10((pair.clip.samples**2).sum() / (other**2).sum())
        assert level == pytest.approx(0, abs=0.1)
        assert Ear().embed(pair.prompt).argmax() == Ear().embed(pair.clip.samples).argmax()
        assert Ear().embed(other).argmax() != Ear().embed(pair.clip.samples).argmax()
    assert voices.overlapped(READERS[:3]) == []  # a reader's only clip leaves none to enrol with


def test_readers_in_rooms():
    pairs = voices.reverberant(READERS)
    assert [p.clip.id for p in pairs] == [r.id for r in READERS]
    for pair, again in zip(pairs, voices.reverberant(READERS), strict=True):
        assert np.array_equal(pair.mixed, again.mixed)
        assert len(pair.mixed) == len(pair.clip.samples)
        # the room adds what follows the direct sound, and begins where that does
        first = np.flatnonzero(np.abs(pair.clip.samples) > 0.01)[0]
        assert np.abs(pair.mixed[: first - 1]).max(initial=0) < 0.02
        tail = pair.mixed - pair.clip.samples
        assert 0.01 < (tail**2).sum() / (pair.clip.samples**2).sum() < 100


class Filtered:
    """An engine whose task has a post-filter, or none; it answers with what it was asked for."""

    def __init__(self, postfilter):
        self.postfilter, self.asked = postfilter, []

    def task(self, name):
        return SimpleNamespace(postfilter=self.postfilter)

    def generate(self, task, **inputs):
        self.asked.append((task, inputs))
        return SimpleNamespace(samples=inputs["source"][0])


def test_a_model_is_judged_with_its_post_filter_and_without():
    pair = voices.reverberant(READERS[:1])[0]
    both = Filtered(True)
    systems = voices.answers_of(both, "se")
    assert list(systems) == ["model", "model without its post-filter"]
    for system in systems.values():
        assert np.array_equal(system(pair), pair.mixed)
    assert [("postfilter" in i, i.get("postfilter")) for _, i in both.asked] == [
        (False, None),
        (True, 0),
    ]
    assert all("prompt" not in inputs for _, inputs in both.asked)
    one = Filtered(False)
    enrolled = voices.overlapped(READERS)[0]
    for system in voices.answers_of(one, "tse").values():
        system(enrolled)
    ((task, inputs),) = one.asked
    assert task == "tse" and np.array_equal(inputs["prompt"][0], enrolled.prompt)


def test_limits_of_the_attenuation_are_judged_too():
    engine = Filtered(True)
    pair = voices.reverberant(READERS[:1])[0]
    systems = voices.answers_of(engine, "se", [20, 14.5])
    assert list(systems)[1:3] == ["model, at most 20 dB", "model, at most 14.5 dB"]
    for system in systems.values():
        system(pair)
    assert [i.get("attenuation_limit") for _, i in engine.asked] == [None, 20, 14.5, None]
    assert list(voices.answers_of(Filtered(False), "vc", [20])) == ["model"]


def test_pitch_spread_of_a_glide():
    t = np.arange(2 * RATE) / RATE
    glide = np.sin(2 * np.pi * np.cumsum(120 * 2 ** (t / 4)) / RATE).astype(np.float32)
    assert voices.pitch_spread(tone(150)) < 0.1 < 1 < voices.pitch_spread(glide)
    assert voices.pitch_spread(np.zeros(RATE, np.float32)) == 0.0


def test_rnnoise_keeps_length_and_quietens_noise():
    try:
        denoise = voices.RNNoise()
    except voices.JudgeMissing as e:
        pytest.skip(str(e))
    noise = (0.05 * np.random.default_rng(0).standard_normal(2 * RATE)).astype(np.float32)
    out = denoise(noise)
    assert len(out) == len(noise) and (out[RATE:] ** 2).mean() < 0.2 * (noise[RATE:] ** 2).mean()


def test_too_few_clips_to_enrol_a_reader(monkeypatch, capsys):
    monkeypatch.setattr(voices, "readings", lambda corpus, count: READERS[:3])
    assert voices.main(["--task", "tse", "--readers", "x"]) == 2
    assert "two clips of a reader" in capsys.readouterr().err


def test_arguments(capsys):
    assert voices.main(["--task", "svs"]) == 2 and "expected some of tts" in capsys.readouterr().err
    assert voices.main(["--task", "vc"]) == 2 and "--readers" in capsys.readouterr().err
    assert (
        voices.main(["--task", "tts", "--peers", "piper"]) == 2
        and "--piper" in capsys.readouterr().err
    )
    assert (
        voices.main(["--task", "tts", "--peers", "kokoro-codec"]) == 2
        and "needs --kokoro" in capsys.readouterr().err
    )
    assert (
        voices.main(["--task", "tts", "--voices", "nobody"]) == 2
        and "got 'nobody'" in capsys.readouterr().err
    )
