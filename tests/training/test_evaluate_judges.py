"""The external metrics must separate speech from noise, as given by the two fake engines."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training package needs torch (the train extra)")
import importlib.util

for _package in ("pocketsphinx", "resemblyzer", "webrtcvad", "pesq", "pystoi"):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"the evaluate extra is not installed ({_package})", allow_module_level=True)

from uniaudio_training.corpus.flite import flite

try:
    flite()
except RuntimeError as e:
    pytest.skip(str(e), allow_module_level=True)

from uniaudio_training.evaluate import codec_quality, judges, originals, tts
from uniaudio_training.evaluate.command import main
from uniaudio_training.evaluate.engines import load_subject

VOICE = "slt-102-163"


def test_items_are_drawn_alike_and_from_test():
    from uniaudio_training.corpus.sentences import split_of

    assert (
        originals.grammar_sentences(5, 1)
        == originals.grammar_sentences(9, 1)[:5]
        != originals.grammar_sentences(5, 2)
    )
    assert {split_of(s) for s in originals.grammar_sentences(9)} == {"test"}
    text = originals.grammar_sentences(1)[0]
    first = originals.original.__wrapped__(text, VOICE).samples
    originals.original.__wrapped__("something else in between", "rms-102-102")
    assert np.array_equal(first, originals.original.__wrapped__(text, VOICE).samples)
    assert len(originals.prompt(VOICE)) == 48000
    names = [s.name for s in originals.SPEAKERS if s.split == "train"]
    assert len(set(originals.choose_voices(names, 10))) == 10 and originals.choose_voices(
        ["mine"], 10
    ) == ["mine"]


def test_listener_hears_each_clip_alike_in_any_order():
    clips = [originals.original(t, VOICE).samples for t in originals.grammar_sentences(3)]
    hear = judges.Listener(True)
    first = [hear(c) for c in clips]
    assert first == [hear(c) for c in reversed(clips)][::-1]
    assert first[0] == originals.grammar_sentences(3)[0].split()
    assert hear(np.zeros(100, np.float32)) == []


def test_speaker_similarity_tells_speakers_apart():
    a, b = originals.prompt("rms-102-102"), originals.prompt("slt-118-189")
    other = originals.original(originals.grammar_sentences(1)[0], "rms-102-102").samples
    assert judges.speaker_similarity(a, a) == pytest.approx(1.0, abs=1e-5)
    assert judges.speaker_similarity(a, other) > 0.75 > judges.speaker_similarity(b, other)


def test_pesq_and_estoi_fall_with_noise():
    x = originals.original(originals.grammar_sentences(1)[0], VOICE).samples
    noise = np.random.default_rng(0).standard_normal(len(x)).astype(np.float32) * x.std()
    for judge, best in ((judges.pesq_wb, codec_quality.PESQ_BEST), (judges.estoi, 1.0)):
        clean, some, much = (judge(x, x + g * noise) for g in (0.0, 0.1, 1.0))
        assert clean == pytest.approx(best, abs=0.01) and clean > some > much
    assert (
        judges.pesq_wb(x, np.zeros_like(x)) == judges.PESQ_WORST
        and judges.estoi(x, np.zeros_like(x)) == judges.ESTOI_WORST
    )


@pytest.fixture(scope="module")
def reports():
    plan = tts.Plan(sentences=2, voices=2, open_sentences=4, clone_sentences=1, similar_sentences=2)
    found = {}
    for name in ("fake:flite", "fake:noise"):
        subject = load_subject(name)
        rows, trouble = tts.judge(subject, plan, progress=False)
        more, _ = codec_quality.judge(
            subject, codec_quality.Plan(sentences=3, clips=0), progress=False
        )
        assert not trouble
        found[name] = {(r.task, r.measure): r for r in rows + more}
    return found


@pytest.mark.parametrize(
    "measure", ["grammar WER", "open WER", "phone error", "grammar WER, cloned"]
)
def test_speech_passes_and_noise_fails(reports, measure):
    good, bad = (reports[name]["tts", measure] for name in ("fake:flite", "fake:noise"))
    assert good.value <= good.ceiling + 0.1 and bad.value > 0.7
    assert good.ceiling == bad.ceiling and good.count == good.ceiling_count == bad.count


@pytest.mark.parametrize("measure", ["speaker similarity", "speaker similarity, cloned"])
def test_voices_pass_and_noise_fails(reports, measure):
    good, bad = (reports[name]["tts", measure] for name in ("fake:flite", "fake:noise"))
    assert good.value > 0.8 and good.value > good.details["originals_of_different_speakers"] + 0.1
    assert bad.value < 0.6


def test_codec_measures_rank(reports):
    good, bad = reports["fake:flite"], reports["fake:noise"]
    assert {m for _, m in good if "@ 8" in m} == {
        m.replace("@ 4", "@ 8") for _, m in good if "@ 4" in m
    }
    for key, row in good.items():
        if key[0] == "codec":
            sign = 1 if row.lower_is_better else -1
            assert sign * row.value < sign * bad[key].value, key
    assert good["codec", "PESQ-wb @ 8"].value > good["codec", "PESQ-wb @ 4"].value


def test_report_is_written(tmp_path, capsys):
    path = tmp_path / "sub" / "report.json"
    assert (
        main(
            [
                "--model",
                "fake:flite",
                "--task",
                "codec",
                "--limit",
                "1",
                "--json",
                str(path),
                "--quiet",
            ]
        )
        == 0
    )
    report = json.loads(path.read_text())
    assert report["codebooks"] == 8 and {r["task"] for r in report["rows"]} == {"codec"}
    assert "PESQ-wb @ 8" in capsys.readouterr().out


def test_a_model_that_raises_is_counted_as_silent():
    subject = load_subject("fake:flite")

    def fail(task, **inputs):
        raise ValueError("no")

    subject.engine.generate = fail
    rows, trouble = tts.judge(subject, tts.Plan(1, 1, 1, 1, 1), progress=False)
    assert len(trouble) == 1 + 1 + 6 and all("ValueError: no" in line for line in trouble)
    assert rows[0].value == 1.0
