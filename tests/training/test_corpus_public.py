"""Public corpora become shards: layouts, levels, silence, splits, licences, and dropped clips."""

import json

import numpy as np
import pytest
import soundfile as sf
from uniaudio_training.corpus import public
from uniaudio_training.corpus.reading import CorpusError, open_corpus
from uniaudio_training.corpus.speech import loud_level

RATE = 16000


def speech(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Something with a syllable's rise and fall."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    tone = np.sin(2 * np.pi * 150 * t) + 0.1 * rng.standard_normal(len(t))
    return (level * envelope * tone).astype(np.float32)


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for reader in ("61", "1089", "121"):
        folder = root / "test-clean" / reader / "7"
        folder.mkdir(parents=True)
        lines = []
        for n in range(3):
            name = f"{reader}-7-{n:04d}"
            x = np.concatenate((np.zeros(RATE), speech(1.5, 0.03 * (n + 1), n), np.zeros(RATE)))
            sf.write(folder / f"{name}.flac", x, RATE)
            lines.append(f"{name} HE HOPED THERE WOULD BE STEW")
        (folder / f"{reader}-7.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def test_librispeech(librispeech, tmp_path):
    out = tmp_path / "real"
    report = public.convert("librispeech", librispeech, out)
    assert report["licence"] == "CC BY 4.0" and "LibriVox" in report["attribution"]
    assert report["speakers"] == 3 and report["held_out"] == ["ls61"]
    corpus = open_corpus(out)
    test = corpus["tts", "test"]
    assert {e.track().speaker for e in test} == {"ls61"}
    heard = {
        e.track().speaker
        for s in ("train", "valid")
        if ("tts", s) in list(corpus)
        for e in corpus["tts", s]
    }
    assert heard == {"ls1089", "ls121"}
    first = test[0]
    assert first.track().text == "He hoped there would be stew"
    assert first.track("prompt").speaker == "ls61"
    assert first.track("prompt").offset != first.track().offset
    assert 1.5 < first.track().seconds < 1.5 + 2 * public.EDGE_SECONDS + 0.05
    levels = [loud_level(e.audio()) for e in test]
    assert np.ptp(levels) < 0.5 and abs(np.mean(levels) - public.LEVEL_DB) < 0.5
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sources"]["librispeech"]["hours"]["test"] > 0


def test_a_source_is_added_once(librispeech, tmp_path):
    public.convert("librispeech", librispeech, tmp_path / "real")
    with pytest.raises(CorpusError, match="already"):
        public.convert("librispeech", librispeech, tmp_path / "real")


def test_what_is_dropped(tmp_path):
    root = tmp_path / "some"
    root.mkdir()
    sf.write(root / "good.wav", speech(2), RATE)
    sf.write(root / "short.wav", speech(0.1), RATE)
    sf.write(root / "silent.wav", np.full(2 * RATE, 1e-5, np.float32), RATE, subtype="FLOAT")
    sf.write(root / "clipped.wav", np.clip(40 * speech(2), -1, 1), RATE, subtype="FLOAT")
    (root / "no.wav").write_bytes(b"RIFF nothing")
    report = public.convert("unlabelled", root, tmp_path / "out")
    assert report["dropped"] == {"too short": 1, "silent": 1, "clipped": 1, "unreadable": 1}


def test_layouts(tmp_path):
    def sound(path, rate=RATE):
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, speech(1), rate)

    lj = tmp_path / "lj"
    sound(lj / "wavs" / "LJ001-0001.wav", 22050)
    (lj / "metadata.csv").write_text("LJ001-0001|Dr. No|Doctor No\n")
    assert [c.text for c in public.ljspeech(lj)] == ["Doctor No"]

    vctk = tmp_path / "vctk"
    sound(vctk / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac")
    (vctk / "txt" / "p225").mkdir(parents=True)
    (vctk / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    (clip,) = public.vctk(vctk)
    assert clip.path.is_file() and clip.speaker == "vctk-p225"

    tts = tmp_path / "tts" / "train" / "14" / "208"
    sound(tts / "14_208_000001_000000.wav")
    (tts / "14_208_000001_000000.normalized.txt").write_text("Chapter one.")
    (clip,) = public.libritts(tmp_path / "tts")
    assert clip.path.is_file() and clip.speaker == "lt14" and clip.text == "Chapter one."

    voice = tmp_path / "voice"
    (voice / "clips").mkdir(parents=True)
    (voice / "validated.tsv").write_text('client_id\tpath\tsentence\nabc\ta.mp3\tHe said "no".\n')
    (clip,) = public.common_voice(voice)
    assert clip.speaker == "abc" and clip.text == 'He said "no".'

    kathleen = tmp_path / "kathleen"
    for n in range(60):
        for time in (1, 2):
            sound(kathleen / f"arctic_b{n:04d}_{time}.wav")
            (kathleen / f"arctic_b{n:04d}_{time}.txt").write_text("A sentence.")
    clips = list(public.kathleen(kathleen))
    assert len(clips) == 60 and all(c.id.endswith("_2") for c in clips)
    assert sum(c.split == "test" for c in clips) == 50 and clips[0].split == ""

    esc = tmp_path / "esc"
    sound(esc / "001 - Dog bark" / "1-100-A.wav")
    (esc / "001 - Dog bark" / "1-100-A.wav").rename(esc / "001 - Dog bark" / "1-100-A.ogg")
    sound(esc / "001 - Dog bark" / "5-100-A.wav")
    (esc / "001 - Dog bark" / "5-100-A.wav").rename(esc / "001 - Dog bark" / "5-100-A.ogg")
    clips = list(public.esc10(esc))
    assert [c.split for c in clips] == ["train", "test"] and clips[0].text == "a dog barking"


@pytest.mark.parametrize(
    "name", ["librispeech", "libritts", "vctk", "ljspeech", "kathleen", "common-voice", "esc10"]
)
def test_a_folder_that_is_no_corpus(name, tmp_path, capsys):
    assert public.main([name, str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "expected" in capsys.readouterr().err


def test_the_command_knows_the_other_commands(librispeech, tmp_path, capsys):
    from uniaudio_training.corpus import make as cli

    arguments = ["public", "librispeech", str(librispeech), "--out", str(tmp_path / "real")]
    assert cli.main(arguments) == 0 and "CC BY 4.0" in capsys.readouterr().out
    for name in ("teach", "align", "derive", "join"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([name, "--help"])
        assert (
            stopped.value.code == 0 and f"uniaudio-train corpus {name}" in capsys.readouterr().out
        )


def test_joined_corpora(librispeech, tmp_path):
    from uniaudio_training.corpus.join import join

    for name in ("a", "b"):
        public.convert("librispeech", librispeech, tmp_path / name)
    one, both = open_corpus(tmp_path / "a"), tmp_path / "both"
    join([tmp_path / "a", tmp_path / "b"], both)
    joined = open_corpus(both)
    for task, split in one:
        assert len(joined[task, split]) == 2 * len(one[task, split])
        assert len({e.id for e in joined[task, split]}) == len(joined[task, split])
        assert np.array_equal(joined[task, split][0].pcm(), one[task, split][0].pcm())
    assert "librispeech" in json.loads((both / "manifest.json").read_text())["sources"]
    with pytest.raises(CorpusError, match="already"):
        join([tmp_path / "a"], both)
