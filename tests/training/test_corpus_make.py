"""The corpus: remade bit for bit, resumed after a kill, disjoint splits, and labels that match the
sound.
"""

import ctypes
import importlib.util
import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the corpus needs the train extra")
pytest.importorskip("tqdm", reason="the corpus needs the train extra")

from uniaudio_training.corpus import (
    check,
    degrade,
    make,
    recipes,
    singing,
    speech,
    wordings,
)
from uniaudio_training.corpus.flite import flite
from uniaudio_training.corpus.music import SOUNDFONT
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.schema import SPLITS, TASK_ROLES, TASKS
from uniaudio_training.corpus.sentences import WORDNET, split_of
from uniaudio_training.corpus.shards import (
    ShardSpec,
    draw_shard,
    make_shard,
    read_manifest,
    write_manifest,
)
from uniaudio_training.workers import Workers

PLAIN = ("t2s", "a_edit")  # need nothing but NumPy
SPOKEN = ("tts", "vc", "tse", "sd", "svs", "i_tts", "s_edit")
PLAYED = ("t2m", "se")  # the sound font as well


def _has_flite():
    try:
        flite()
    except RuntimeError:
        return False
    return WORDNET.is_dir()


def _tasks():
    """What can be made on this machine."""
    font = SOUNDFONT.exists() and importlib.util.find_spec("tinysoundfont") is not None
    spoken = _has_flite()
    return [
        t
        for t in TASKS
        if t in PLAIN
        or (t in SPOKEN and spoken)
        or (t == "t2m" and font)
        or (t == "se" and spoken and font)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for task in _tasks():
        for split in ("train", "test"):
            make_shard(
                ShardSpec(task, split, 0, seed=5, seconds=20 if split == "train" else 8),
                str(folder),
            )
    write_manifest(folder, 5)
    return open_corpus(folder)


def _need(corpus, *tasks):
    for task in tasks:
        if task not in corpus.tasks:
            pytest.skip(
                f"{task} cannot be made here: flite, WordNet or the sound font is not installed"
            )


def _all(corpus, task):
    return [e for split in corpus.splits(task) for e in corpus[task, split]]


def _shared_draws(between):
    """What the process's shared generators draw after ``between`` has run."""
    libc = ctypes.CDLL(None)
    random.seed(1)
    np.random.seed(1)
    libc.srand(1)
    between()
    return random.random(), np.random.random(), libc.rand()


@pytest.mark.parametrize("task", TASKS)
def test_a_shard_is_a_function_of_its_spec(task, corpus, tmp_path):
    _need(corpus, task)
    other = SPOKEN if task in SPOKEN else PLAIN
    draw_shard(
        ShardSpec(next(t for t in other if t != task), "valid", 3, seed=1, seconds=1)
    )  # whatever was made before
    spec = ShardSpec(task, "train", 0, seed=5, seconds=20)
    # A shared generator that a shard draws from is one that other threads draw from too.
    assert _shared_draws(lambda: make_shard(spec, str(tmp_path))) == _shared_draws(lambda: None)
    for suffix in ("npy", "jsonl"):
        assert (tmp_path / f"{task}-train-0000.{suffix}").read_bytes() == (
            corpus.folder / f"{task}-train-0000.{suffix}"
        ).read_bytes()


@pytest.mark.parametrize("task", PLAIN)
def test_seed_split_and_index_make_other_shards(task):
    pcm, _ = draw_shard(ShardSpec(task, "train", 0, seed=5, seconds=4))
    for spec in (
        ShardSpec(task, "train", 1, 5, 4),
        ShardSpec(task, "valid", 0, 5, 4),
        ShardSpec(task, "train", 0, 6, 4),
    ):
        assert not np.array_equal(pcm, draw_shard(spec)[0])


def _make(out, stop_at=0):
    """27 small shards in a process of its own, which kills itself before it finishes its
    ``stop_at``-th file.
    """
    code = f"""
import os, signal, sys
from uniaudio_engine.storage import files
from uniaudio_training.corpus import make, shards
shards.SHARD_SECONDS["train"] = 20.0
files._SETTLED = 0.0  # nothing else writes here
done, replace = [], os.replace
def count(part, target):
    done.append(target)
    if len(done) == {stop_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, target)
os.replace = count
sys.exit(make.main(sys.argv[1:]))
"""
    arguments = [
        "make",
        "--tasks",
        "t2s",
        "--hours",
        "0.15",
        "--out",
        str(out),
        "--workers",
        "1",
        "--splits",
        "train",
        "--seed",
        "3",
    ]
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


def _bytes(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_workers_change_nothing(tmp_path):
    specs = [ShardSpec("t2s", "train", i, 3, 20.0) for i in range(3)]
    make.make(tmp_path / "one", specs, 3, Workers(), progress=False)
    make.make(tmp_path / "two", specs[::-1], 3, Workers(2), progress=False)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


@pytest.mark.parametrize(
    "stop_at", [4, 5]
)  # the manifest, a shard's two files, then the second's audio or labels
def test_a_killed_run_goes_on(stop_at, tmp_path):
    whole = tmp_path / "whole"
    make.make(
        whole,
        [ShardSpec("t2s", "train", i, 3, 20.0) for i in range(27)],
        3,
        Workers(),
        progress=False,
    )
    killed = _make(tmp_path / "killed", stop_at)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in (tmp_path / "killed").glob("*.jsonl") if p.name[0] != "."] == [
        "t2s-train-0000.jsonl"
    ]
    assert any(
        p.name.startswith(".t2s-train-0001") for p in (tmp_path / "killed").iterdir()
    )  # half written
    assert len(open_corpus(tmp_path / "killed")["t2s", "train"]) == len(
        open_corpus(whole).shards("t2s", "train")[0]
    )
    resumed = _make(tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert _bytes(tmp_path / "killed") == _bytes(whole)
    assert "t2s" in resumed.stdout and "manifest.json" in resumed.stdout


def test_manifest_names_sources_and_shards(corpus):
    manifest = read_manifest(corpus.folder)
    assert manifest["seed"] == 5 and set(manifest["hours"]) == set(corpus.tasks)
    assert all(s["licence"] for s in manifest["sources"].values())
    for name, entry in manifest["shards"].items():
        assert entry["seconds"] > 7 and len(entry["sha256"]) == 64, name
    assert set(manifest["shards"]) == {
        f"{t}-{s}-0000" for t in corpus.tasks for s in ("train", "test")
    }


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_right(task, corpus):
    _need(corpus, task)
    for example in _all(corpus, task):
        assert check._wrong(example) == "", example.id
        assert set(example.roles) == set(TASK_ROLES[task])


def test_splits_share_no_speaker_and_no_sentence(corpus):
    names = [{s.name for s in speech.speakers(split)} for split in SPLITS]
    assert all(names) and sum(map(len, names)) == len(set().union(*names)) == len(speech.SPEAKERS)
    said = {split: set() for split in ("train", "test")}
    for task, split in corpus:
        for example in corpus[task, split]:
            for role in example.roles:
                track = example.track(role)
                if track.text:
                    said[split].add(track.text)
                    assert (
                        split_of(track.text) == split
                        and track.speaker in names[SPLITS.index(split)]
                    )
    assert not said["train"] & said["test"]


def test_conversion_keeps_time(corpus):
    _need(corpus, "vc")
    for e in _all(corpus, "vc"):
        source, target, prompt = (e.track(r) for r in ("source", "target", "prompt"))
        assert (
            source.speaker != target.speaker == prompt.speaker
            and source.text == target.text != prompt.text
        )
        assert source.speaker.split("-")[0] == target.speaker.split("-")[0]
        assert (
            max(abs(a.end - b.end) for a, b in zip(source.phones, target.phones, strict=True))
            <= recipes.VC_DRIFT + 1e-5
        )


def test_noise_is_what_is_left_over(corpus):
    _need(corpus, "se", "tse")
    for task in ("se", "tse"):
        for e in _all(corpus, task):
            label = e.label.noise or e.label.interferer
            clean, noisy = (e.pcm(r).astype(float) for r in ("target", "source"))
            measured = 10 * np.log10((clean**2).sum() / ((noisy - clean) ** 2).sum())
            assert abs(measured - label.snr_db) < 0.01
            assert -5.1 < label.snr_db < (20.1 if task == "se" else 5.1)
    kinds = {
        recipes.se(np.random.default_rng(i), "train", recipes.ShardVoices("train"))[0]
        .labels["noise"]
        .kind
        for i in range(12)
    }
    assert len(kinds) >= 4


@pytest.mark.parametrize("rt60", [0.25, 0.5, 0.9])
def test_rooms_decay_as_labelled_and_start_with_the_direct_sound(rt60):
    response = degrade.room(np.random.default_rng(1), rt60)
    assert degrade.decay_time(response.taps) == pytest.approx(rt60, rel=0.06)
    assert (
        response.taps[0] == pytest.approx(1.0, abs=1e-6) and np.abs(response.taps[1:]).max() < 1.0
    )
    click = np.zeros(8000)
    click[1000] = 0.3
    dry, wet = degrade.reverberate(click, response)
    assert not wet[:999].any() and wet[1000] == dry[1000]


def test_singing_is_on_its_notes(corpus):
    _need(corpus, "svs")
    for e in _all(corpus, "svs"):
        assert np.median(np.abs(check.voiced_cents(e))) < 10
        assert np.mean(check.notes_within(e)) > 0.9
        notes, phones = e.label.notes, e.track().phones
        starts = {0.0, *(round(p.end, 4) for p in phones)}
        for n in notes:
            assert (
                n.lyric == "-" or round(n.start, 4) in starts
            )  # a lyric begins where a phone does
        assert all(
            a.start + a.duration <= b.start + 1e-4 for a, b in zip(notes, notes[1:], strict=False)
        )
        assert " ".join(n.lyric for n in notes if n.lyric != "-").split() == [
            w.word for w in e.track().words
        ]


def test_contour_is_the_melody():
    from uniaudio_training.corpus.schema import Note, Vibrato

    notes = (Note(60, 0.1, 0.3, "a"), Note(64, 0.4, 0.8, "b"))
    f0 = singing.contour(notes, Vibrato(50.0, 5.0), 20000)
    assert f0[2000] == pytest.approx(261.63, rel=1e-4) and f0[:1000] == pytest.approx(
        261.63, rel=1e-4
    )
    late = 1200 * np.log2(f0[12000:16000] / 329.63)
    assert 45 < late.max() < 51 and -51 < late.min() < -45  # vibrato at full depth, to both sides


def test_edits_leave_the_rest_alone(corpus):
    for e in _all(corpus, "a_edit"):
        assert (
            check.outside_equal(e)
            and e.label.edit.operation in recipes.OPERATIONS
            and e.label.caption
        )
        assert not np.array_equal(e.pcm("source"), e.pcm("target"))
        if e.label.edit.operation in ("add", "drop"):
            assert check.event_db(e) > 3
    for e in [e for t in ("s_edit",) if t in corpus.tasks for e in _all(corpus, t)]:
        assert check.outside_equal(e)
        edit, source, target = e.label.edit, e.track("source"), e.track()
        assert edit.removed in source.text and edit.added in target.text
        assert source.text.replace(edit.removed, edit.added, 1) == target.text
        for track, span, words in (
            (source, edit.source, edit.removed),
            (target, edit.target, edit.added),
        ):
            inside = [
                w.word
                for w in track.words
                if span.start / 16000 <= (w.start + w.end) / 2 < span.end / 16000
            ]
            assert [w for w in words.lower().split() if w in inside], (e.id, words, inside)


def test_instructions_measure_in_their_bins(corpus):
    _need(corpus, "i_tts")
    assert check._measure("i_tts", _all(corpus, "i_tts"))["bins_right"] == 1.0


@pytest.mark.parametrize("name", sorted(wordings._SOUND))
def test_captions_vary_and_keep_the_facts(name):
    from uniaudio_training.corpus import sounds

    rng = np.random.default_rng(0)
    _, parameters = sounds.CLASSES[name](np.random.default_rng(1), 3.0)
    made = {wordings.sound(rng, name, parameters) for _ in range(200)}
    assert len(made) >= 10
    if "count" in parameters:
        n = parameters["count"]
        words = {wordings.NUMBERS[n], str(n), *{1: ("once", "single"), 2: ("twice",)}.get(n, ())}
        assert all(words & set(c.replace(":", " ").replace(",", " ").split()) for c in made), made
    if "pitch" in parameters:
        wanted = wordings._PITCH[parameters["pitch"]]
        assert all(any(w in c for w in wanted) for c in made)


def test_corpus_is_read_lazily_and_across_processes(corpus):
    import pickle

    examples = corpus["t2s", "train"]
    assert isinstance(examples[0].pcm().base, np.memmap) or isinstance(examples[0].pcm(), np.memmap)
    assert examples[-1].id == list(examples)[-1].id and len(examples[:2]) == 2
    again = pickle.loads(pickle.dumps(examples))
    assert np.array_equal(again[1].audio(), examples[1].audio())
    assert examples[0].audio().dtype == np.float32 and np.abs(examples[0].audio()).max() <= 1
    with pytest.raises(IndexError):
        examples[len(examples)]
    with pytest.raises(CorpusError, match="no source track"):
        examples[0].audio("source")
    with pytest.raises(CorpusError, match="uniaudio-train corpus make"):
        corpus["t2s", "valid"]


def test_folder_of_another_seed_or_kind_is_left_alone(corpus, tmp_path, capsys):
    assert (
        make.main(
            [
                "make",
                "--tasks",
                "t2s",
                "--hours",
                "0.01",
                "--seed",
                "6",
                "--out",
                str(corpus.folder),
            ]
        )
        == 2
    )
    assert "--seed 5" in capsys.readouterr().err
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert make.main(["make", "--tasks", "t2s", "--hours", "0.01", "--out", str(tmp_path)]) == 2
    assert "mine.jsonl" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    assert make.main(["make", "--tasks", "t2s", "--hours", "0.01", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(CorpusError, match="tts-train-0003"):
        open_corpus(tmp_path)


def test_damaged_shards_are_named(tmp_path):
    make_shard(ShardSpec("t2s", "train", 0, 1, 4), str(tmp_path))
    audio = tmp_path / "t2s-train-0000.npy"
    audio.write_bytes(audio.read_bytes()[:5000])
    with pytest.raises(CorpusError, match="make it again"):
        open_corpus(tmp_path)["t2s", "train"][0].pcm()
    (tmp_path / "t2s-train-0000.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(CorpusError, match="line 1"):
        open_corpus(tmp_path)["t2s", "train"][0]


def test_check_and_show(corpus, tmp_path, capsys):
    assert make.main(["check", str(corpus.folder), "--examples", "2"]) == 0
    assert "0 wrong" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    assert (
        make.main(
            ["show", str(corpus.folder), "--task", "a_edit", "--count", "1", "--out", str(tmp_path)]
        )
        == 0
    )
    assert {p.suffix for p in tmp_path.iterdir()} == {".wav", ".png"}


def test_trainers_read_it(corpus):
    """The codec's crops carry the phone of each frame; token shards keep a clip's phones."""
    _need(corpus, "tts", "se")
    pytest.importorskip("torch", reason="the trainers need torch")
    from uniaudio_training.codec.crops import NO_PHONE, CodecData
    from uniaudio_training.lm.items import Given, make_item
    from uniaudio_training.lm.tokenize import tokenize

    from uniaudio_engine.request.task_table import TASKS as ENTRIES

    data = CodecData(corpus.folder, 320, 40, {"tts": 0.4, "se": 0.3, "t2s": 0.3})
    samples, phones = data.batch(np.random.default_rng(0), 12)
    assert samples.shape == (12, 12800) and phones.shape == (12, 40) and samples.abs().max() <= 1
    known = phones[phones != NO_PHONE]
    assert len(known) > 40 and known.max() < len(data.phones) and (phones == NO_PHONE).all(1).any()

    def encode(samples):
        return np.full((8, -(-len(samples) // 320)), len(samples) % 1024, np.int32)

    (shard,) = corpus.shards("tts", "train")
    tokens = tokenize(shard, encode, lambda samples: encode(samples)[0] + 1)
    lengths = [len(e.audio(role)) for e in shard for role in e.roles]
    assert tokens["frames"].tolist() == [-(-n // 320) for n in lengths]
    assert tokens["codes"].shape == (tokens["frames"].sum(), 8) and np.array_equal(
        tokens["units"], tokens["codes"][:, 0] + 1
    )
    assert tokens["codes"][0, 0] == lengths[0] % 1024
    label = shard[0].label
    tracks = dict(
        zip(
            label.tracks,
            np.split(tokens["codes"], np.cumsum(tokens["frames"]))[: len(label.tracks)],
            strict=True,
        )
    )
    item = make_item(Given(ENTRIES["tts"], label, tracks, {}, None, {}))
    spoken = item.inputs["text"]
    assert spoken.durations.sum() == len(item.codes) and len(spoken) == len(
        label.tracks["target"].phones
    )
