"""The metrics of the eleven tasks: the truth passes, the floor fails, and the model's answers are
kept apart from both.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training package needs torch (the train extra)")
import importlib.util

for _package in (
    "pocketsphinx",
    "resemblyzer",
    "webrtcvad",
    "pesq",
    "pystoi",
    "tinysoundfont",
    "scipy",
):
    if importlib.util.find_spec(_package) is None:
        pytest.skip(
            f"the corpus or evaluate extra is not installed ({_package})", allow_module_level=True
        )

from uniaudio_training.corpus import music, sounds
from uniaudio_training.corpus.flite import flite
from uniaudio_training.corpus.reading import open_corpus
from uniaudio_training.corpus.schema import TASKS
from uniaudio_training.corpus.sentences import wordnet_sentences
from uniaudio_training.corpus.shards import ShardSpec, make_shard, write_manifest

try:
    flite()
    wordnet_sentences()
    music.make(np.random.default_rng(0), 1.0)
except RuntimeError as e:
    pytest.skip(str(e), allow_module_level=True)

from uniaudio_training.evaluate import cases, joint, report, signals
from uniaudio_training.evaluate.classifiers import WEIGHTS, classifier
from uniaudio_training.evaluate.command import main
from uniaudio_training.evaluate.engines import load_subject

SECONDS = {
    "tts": 16.0,
    "vc": 8.0,
    "t2s": 24.0,
    "t2m": 30.0,
    "a_edit": 24.0,
    "i_tts": 10.0,
    "s_edit": 10.0,
}
ITEMS = {"tts": 4, "t2s": 8, "t2m": 6, "a_edit": 6}  # of other tasks 2
# What the truth scores at worst, and the floor at best.
BOUNDS = {
    "tts": {"phone error": (0.25, 0.6), "speaker similarity": (0.75, 0.75)},
    "vc": {"phone error": (0.25, 9.0), "cosine to target - to source": (0.05, 0.0)},
    "se": {"ESTOI gain at 0 dB": (0.2, 0.001)},
    "tse": {"ESTOI gain": (0.2, 0.001), "cosine to target - to interferer": (0.15, 0.12)},
    "svs": {"notes within 50 cents": (0.97, 0.5), "F0 error in cents": (15.0, 50.0)},
    "t2s": {"class": (0.9, 0.6), "count and pitch followed": (0.8, 0.6)},
    "t2m": {"tempo within 5 %": (0.7, 0.69), "instrument": (0.5, 0.49)},
    "a_edit": {"event right": (0.9, 0.1), "largest change outside the span": (0.0, 9.0)},
    "sd": {"ESTOI gain": (0.2, 0.001)},
    "i_tts": {"instruction bins right": (0.95, 0.8)},
    "s_edit": {"samples outside bit-exact": (1.0, 9.0)},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for task in TASKS:
        make_shard(ShardSpec(task, "test", 0, 3, SECONDS.get(task, 6.0)), str(folder))
    make_shard(ShardSpec("t2s", "train", 0, 3, 30.0), str(folder))
    write_manifest(folder, 3)
    return open_corpus(folder)


@pytest.fixture(scope="module")
def echo():
    return load_subject("fake:echo")


@pytest.fixture(scope="module")
def judged(corpus, echo):
    found = {}

    def of(task):
        if task not in found:
            found[task] = joint.judge_task(
                task, echo, corpus, joint.Plan(ITEMS.get(task, 2)), progress=False
            )
        return found[task]

    return of


@pytest.mark.parametrize("task", TASKS)
def test_truth_passes_and_the_floor_fails(task, judged):
    result = judged(task)
    assert not result.trouble and not joint.blind(result.scores)
    by = {(s.measure, s.who): s for s in result.scores}
    for measure, (at_worst, at_best) in BOUNDS[task].items():
        if (measure, joint.TRUTH) not in by:
            continue
        sign = 1 if joint.lower_is_better(measure) else -1
        truth, floor = by[measure, joint.TRUTH].value, by[measure, joint.FLOOR].value
        assert sign * truth <= sign * at_worst, (measure, truth)
        if at_best < 9.0:
            assert sign * floor >= sign * at_best, (measure, floor)
    words = [
        m
        for m in (
            "grammar WER",
            "phone error",
            "WER of the new words",
            "phone error of the new words",
        )
        if (m, joint.TRUTH) in by
    ]
    for measure in words:
        assert by[measure, joint.TRUTH].value < (0.5 if task == "svs" else 0.35)
        if task not in ("vc", "sd"):  # their input says the same words
            assert by[measure, joint.FLOOR].value > by[measure, joint.TRUTH].value + 0.2
    assert any((w, joint.TRUTH) in by for w in [*BOUNDS[task], *words])


@pytest.mark.parametrize("task", ["vc", "se", "sd", "a_edit", "s_edit"])
def test_an_echo_scores_as_the_input_does(task, judged):
    by = {(s.measure, s.who): s.value for s in judged(task).scores}
    for (measure, who), value in by.items():
        if who == joint.MODEL:
            assert value == pytest.approx(by[measure, joint.FLOOR], abs=1e-9), measure


def test_noise_is_mixed_at_exactly_what_is_judged(corpus):
    chosen = cases.choose(corpus["se", "test"], 4)
    for case in cases.JUDGES["se"].cases(chosen):
        noise = case.source - case.truth
        snr = 10 * math.log10(
            float(
                (case.truth.astype(np.float64) ** 2).sum() / (noise.astype(np.float64) ** 2).sum()
            )
        )
        assert snr == pytest.approx(float(case.condition.split()[0]), abs=0.05)


def test_scores_are_whole_songs(corpus):
    for e in corpus["svs", "test"]:
        notes = cases.score(e.label)
        assert sum(n[1] for n in notes) == pytest.approx(e.track().seconds, abs=0.02)
        assert [n[0] for n in notes if n[0]] == [n.pitch for n in e.label.notes]
        assert notes[0][0] == 0 and all(seconds >= 0.02 for _, seconds, _ in notes)


def test_the_engine_reads_such_scores(corpus):
    engine_score = pytest.importorskip(
        "uniaudio_engine.score.reading", reason="the engine does not sing yet"
    )
    for e in corpus["svs", "test"]:
        song = engine_score.lay_out(engine_score.read_score(cases.score(e.label)), 50.0)
        assert sum(song.durations) == pytest.approx(e.track().samples / 320, abs=1.5)


def test_a_speech_edit_asks_for_the_words_that_change(corpus):
    for case in cases.JUDGES["s_edit"].cases(list(corpus["s_edit", "test"])):
        begin, end = case.request["span"]
        edit = case.label.edit
        said = [
            w.word
            for w in case.label.tracks["source"].words
            if begin - 1e-6 <= w.start and w.end <= end + 1e-6
        ]
        assert " ".join(said) == edit.removed and case.request["text"] == edit.added
        assert (
            case.outside[0] <= edit.source.start
            and case.outside[1] <= len(case.source) - edit.source.end
        )


def test_changes_outside_an_edit_are_seen(corpus):
    for task, measure in (
        ("a_edit", "largest change outside the span"),
        ("s_edit", "samples outside bit-exact"),
    ):
        case = next(c for c in cases.JUDGES[task].cases(list(corpus[task, "test"])) if c.outside[0])
        kept = dict(cases.JUDGES[task].measure(case, case.truth))[measure]
        sound = case.truth.copy()
        sound[0] += 0.25
        changed = dict(cases.JUDGES[task].measure(case, sound))[measure]
        if task == "a_edit":
            assert kept == 0 and changed == pytest.approx(0.25)
        else:
            assert kept[0] == kept[1] and changed[0] == changed[1] - 1


def test_counts_and_pitches_on_the_truth_and_on_something_else():
    rng = np.random.default_rng(5)
    right, wrong = [], []
    for name in ("bell", "beep", "knock", "chirp", "drip", "siren", "engine"):
        made = []
        while len(made) < 8:
            s = sounds.make(rng, name)
            if sounds.is_clear(name, s.parameters, s.parameters["seconds"]):
                made.append(({"class": name, **s.parameters}, s.samples))
        for (asked, own), (_, other) in zip(made, made[1:] + made[:1], strict=True):
            right += signals.sound_facts(asked, own).values()
            wrong += signals.sound_facts(asked, other).values()
    assert np.mean(right) > 0.95 and np.mean(wrong) < 0.6
    assert (
        signals.count_events("bell", np.zeros(16000)) == 0
        and signals.pitch_word("siren", np.zeros(16000)) == ""
    )


def test_silence_and_clicks_break_no_judge(corpus):
    for task in TASKS:
        for case in list(cases.JUDGES[task].cases(cases.choose(corpus[task, "test"], 1))):
            case.ceiling = case.truth
            for sound in (np.zeros(1600, np.float32), np.full(1, 0.5, np.float32)):
                for measure, value in cases.JUDGES[task].measure(case, sound):
                    assert not isinstance(value, float) or math.isfinite(value), (task, measure)


@pytest.fixture(scope="module")
def random_model(corpus, tmp_path_factory):
    """A tiny model folder of all tasks through the real engine; its weights are random."""
    pytest.importorskip("uniaudio_engine._C", reason="the engine's core is not built")
    import dataclasses
    import sys

    from uniaudio_training.lm.caption_tokenizer import train_captions

    from uniaudio_engine.request import aligned as aligned_rows
    from uniaudio_engine.request.sequence import aligned_vocab, make_vocabulary, vocab_size
    from uniaudio_engine.storage.config import CodecConfig, SemanticConfig, SpectralConfig
    from uniaudio_engine.storage.folder_writing import save_folder
    from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes
    from uniaudio_engine.text import PHONES
    from uniaudio_engine.tokenizers.captions import CaptionTokenizer

    spec = importlib.util.spec_from_file_location(
        "tiny", Path(__file__).parents[1] / "engine" / "tiny.py"
    )
    tiny = sys.modules.get("tiny") or importlib.util.module_from_spec(spec)
    if "tiny" not in sys.modules:
        spec.loader.exec_module(tiny)
    said = [
        e.label.caption for task in ("t2s", "t2m", "a_edit", "i_tts") for e in corpus[task, "test"]
    ]
    words = train_captions(said * 4, 300)
    config = tiny.tiny_config(len(PHONES))
    vocabulary = make_vocabulary(
        4,
        16,
        len(PHONES),
        TASKS,
        ("caption",),
        CaptionTokenizer(words).size,
        lambda start: aligned_rows.joint_spans(start, 16, 20),
    )
    lm = dataclasses.replace(
        config.lm,
        num_codebooks=4,
        vocab_size=vocab_size(vocabulary),
        aligned_slots=len(vocabulary.aligned_spans),
        aligned_vocab=aligned_vocab(vocabulary),
    )
    spectral = SpectralConfig(
        encoder_width=16,
        encoder_blocks=1,
        encoder_hidden=24,
        encoder_phases=False,
        decoder_blocks=0,
    )
    encoder = CodecConfig(
        "spectral", num_codebooks=1, codebook_size=20, codebook_dim=8, spectral=spectral
    )
    config = dataclasses.replace(
        config,
        codec=dataclasses.replace(config.codec, num_codebooks=8),
        lm=lm,
        vocabulary=vocabulary,
        tasks=TASKS,
        semantic=SemanticConfig(encoder, 2),
    )
    codec = tiny.random_weights(codec_shapes(config.codec))
    codec["decoder.output.bias"] -= 2.0
    path = tmp_path_factory.mktemp("models") / "joint"
    save_folder(
        path,
        config,
        codec,
        tiny.random_weights(lm_shapes(lm), 1),
        PHONES,
        captions=words,
        semantic=tiny.random_weights(codec_shapes(encoder), 2),
    )
    return load_subject(str(path))


@pytest.mark.parametrize("task", TASKS)
def test_the_engine_answers_every_request(task, corpus, random_model):
    chosen = list(cases.JUDGES[task].cases(cases.choose(corpus[task, "test"], 2)))
    given = joint.ask(random_model, task, chosen, 0, progress=False)
    assert not given.trouble and len(given.sounds) == len(chosen)
    for case, sound in zip(chosen, given.sounds, strict=True):
        if task in ("vc", "se", "tse", "sd", "a_edit"):
            assert len(sound) == len(case.source)
        elif task in ("svs", "t2s", "t2m"):
            assert abs(len(sound) - len(case.truth)) <= 2 * 320
        if any(case.outside):
            found = dict(cases.JUDGES[task].measure(case, sound))
            assert found.get("largest change outside the span", 0.0) == 0.0
            assert len({*found.get("samples outside bit-exact", (1,))}) == 1


def test_classifiers_are_small_and_hear_nothing_in_silence():
    assert WEIGHTS.stat().st_size <= 200_000
    assert {
        classifier(name)(np.zeros(8000, np.float32)) for name in ("sound", "event", "instrument")
    } == {"none"}
    rng = np.random.default_rng(8)
    made = [sounds.make(rng) for _ in range(20)]
    assert sum(classifier("sound")(s.samples) == s.name for s in made) >= 19


def test_a_model_that_fails_is_silent_and_named(corpus):
    subject = load_subject("fake:echo")

    def fail(task, **inputs):
        raise ValueError("no")

    subject.engine.generate = fail
    result = joint.judge_task("a_edit", subject, corpus, joint.Plan(2), subject, progress=False)
    assert len(result.trouble) == 2 * result.items and all(
        "ValueError: no" in line for line in result.trouble
    )
    assert {s.who for s in result.scores} == {*joint.WHO, joint.GAIN}


def test_a_codec_alone_has_references_only(corpus):
    subject = load_subject("fake:flite")  # speaks, and does nothing else
    result = joint.judge_task("a_edit", subject, corpus, joint.Plan(2), progress=False)
    assert {s.who for s in result.scores} == {
        joint.CEILING,
        joint.FLOOR,
        joint.TRUTH,
    } and "not supported" in result.trouble[0]


def test_the_command_goes_on_and_writes(corpus, tmp_path, monkeypatch, capsys):
    page = tmp_path / "quality.md"
    page.write_text("# Quality\n\nOlder.\n")
    monkeypatch.setattr(
        report,
        "write_section",
        lambda text, path=page, write=report.write_section: write(text, path),
    )
    asked = []
    monkeypatch.setattr(
        joint,
        "judge_task",
        lambda task, *rest, run=joint.judge_task: asked.append(task) or run(task, *rest),
    )
    kept = tmp_path / "sub" / "report.json"
    command = [
        "--model",
        "fake:echo",
        "--corpus",
        str(corpus.folder),
        "--limit",
        "2",
        "--json",
        str(kept),
        "--quiet",
        "--write",
    ]
    assert main([*command, "--task", "a_edit"]) == 0
    assert main([*command, "--task", "a_edit,t2s", "--single", "t2s=fake:echo"]) == 0
    assert asked == ["a_edit", "t2s"]
    out = capsys.readouterr()
    assert "event right" in out.out and "a_edit: already evaluated" in out.err
    assert main([*command, "--task", "a_edit", "--seed", "1"]) == 0 and asked[2:] == ["a_edit"]
    entries = json.loads(kept.read_text())["tasks"]
    assert set(entries) == {"a_edit", "t2s"}
    gains = [s for s in entries["t2s"]["judged"]["scores"] if s["who"] == joint.GAIN]
    assert [s["measure"] for s in gains] == list(joint.GOALS["t2s"]) and all(
        s["value"] == 0 and not s["low"] and not s["high"] for s in gains
    )  # of itself
    text = page.read_text()
    assert (
        text.startswith("# Quality\n\nOlder.\n")
        and text.count(report.BEGIN) == text.count(report.END) == 1
    )
    assert (
        "| **a_edit** (2) | event right · largest change outside the span |" in text
        and "--seed 1" in text
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--corpus", "x", "--task", "sing"],
            "--task: expected some of tts, vc, se, tse, svs, t2s, t2m, a_edit, sd, i_tts, "
            "s_edit, got 'sing'",
        ),
        (["--write"], "--write: expected --corpus DIR with it"),
        (
            ["--corpus", "x", "--single", "vc"],
            "--single: expected TASK=FOLDER with a task of tts, vc, se, tse, svs, t2s, t2m, "
            "a_edit, sd, i_tts, s_edit, got ['vc']",
        ),
    ],
)
def test_wrong_arguments_give_one_line(arguments, says, capsys):
    assert main(["--model", "fake:echo", *arguments]) == 2
    assert capsys.readouterr().err == f"uniaudio-train evaluate: error: {says}\n"
