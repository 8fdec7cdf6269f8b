"""Model folders from parts of others: a codec's file, another folder's semantic tokenizer, a corpus' voices."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from uniaudio_training import bundle, packed
from uniaudio_training.checkpoints import float32_tensors, read_codec
from uniaudio_training.corpus import teacher
from uniaudio_training.corpus.reading import CorpusError
from uniaudio_training.corpus.schema import Label, Track
from uniaudio_training.models.spectral import SpectralCodec

from uniaudio_engine.engine import Engine
from uniaudio_engine.storage.config import to_dict
from uniaudio_engine.storage.folder import bundled_models, load_folder
from uniaudio_engine.storage.tensors import from_bfloat16

RATE = 16000


def corpus(folder, clips):
    """A corpus of tts training clips, (speaker, seconds) each, that sound like their number."""
    labels, pcm, at = [], [], 0
    for i, (speaker, seconds) in enumerate(clips):
        n = round(seconds * RATE)
        name = f"tts-train-0000-{i:04d}"
        track = Track(at, n, text="one", speaker=speaker)
        labels.append(Label(name, "tts", "train", {"target": track}).line())
        pcm.append(np.full(n, 1000 * (i + 1), np.int16))
        at += n
    np.save(folder / "tts-train-0000.npy", np.concatenate(pcm))
    (folder / "tts-train-0000.jsonl").write_text("\n".join(labels) + "\n")
    return folder


def test_a_speakers_prompt_is_the_clip_that_is_just_long_enough(tmp_path):
    clips = [("kokoro-b", 9.0), ("kokoro-b", 3.5), ("a", 2.0), ("a", 4.0), ("a", 5.0), ("c", 1.0)]
    prompts = bundle.speakers(corpus(tmp_path, clips))
    assert list(prompts) == ["a", "b"]
    assert all(len(p) == 3 * RATE for p in prompts.values())
    assert np.allclose(prompts["a"], 4000 / 32768, atol=1e-4)
    assert np.allclose(prompts["b"], 2000 / 32768, atol=1e-4)


def test_a_corpus_of_short_clips_gives_no_voices(tmp_path):
    with pytest.raises(CorpusError, match="3 s or more"):
        bundle.speakers(corpus(tmp_path, [("a", 2.0)]))


def test_tokenizers_from_a_codecs_file_and_a_folders_semantic_tokenizer(tmp_path, capsys):
    base = next(iter(bundled_models().values()))
    config, weights = read_codec(base)
    packed.save(
        weights, tmp_path / "codec.safetensors", about={"codec": json.dumps(to_dict(config))}
    )
    out = tmp_path / "tokenizers"
    given = ["--codec", str(tmp_path / "codec.safetensors"), "--semantic", str(base)]
    assert bundle.main([*given, "--out", str(out)]) == 0
    made, old = load_folder(out), load_folder(base)
    assert made.config.codec == old.config.codec and made.config.semantic == old.config.semantic
    assert set(made.semantic) == set(old.semantic)
    assert all(np.array_equal(v, old.semantic[k]) for k, v in made.semantic.items())
    found = read_codec(out)[1]
    for name, value in weights.items():
        assert float((found[name] - value).norm()) <= 0.02 * float(value.norm()), name
    assert bundle.main(["--semantic", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "none" in capsys.readouterr().err


def _codes_of(weights):
    return {k: v for k, v in weights.items() if k.startswith(("encoder.", "quantizer."))}


def test_a_decoder_replaces_that_of_a_folder_with_the_same_codes(tmp_path, capsys):
    base = next(iter(bundled_models().values()))
    out = tmp_path / "model"
    shutil.copytree(base, out)
    config, weights = read_codec(base)

    def packed_codec(name, **changed):
        file = tmp_path / f"{name}.safetensors"
        packed.save({**weights, **changed}, file, about={"codec": json.dumps(to_dict(config))})
        return str(file)

    decoder = weights["decoder.output.weight"]
    given = packed_codec("other", **{"decoder.output.weight": decoder * 2})
    assert bundle.main(["--decoder", given, "--out", str(out)]) == 0
    made, old = load_folder(out).codec, load_folder(base).codec
    assert {k: v.dtype for k, v in made.items()} == {k: v.dtype for k, v in old.items()}
    assert all(np.array_equal(v, made[k]) for k, v in old.items() if not k.startswith("decoder."))
    found = read_codec(out)[1]["decoder.output.weight"]
    assert torch.allclose(found, decoder * 2, rtol=1e-2, atol=1e-2 * float(decoder.abs().max()))
    assert (out / "lm.safetensors").read_bytes() == (base / "lm.safetensors").read_bytes()

    half = tmp_path / "half"
    shutil.copytree(base, half)
    between = ["--decoder", given, "--decoder-share", "0.5", "--out", str(half)]
    assert bundle.main(between) == 0
    found = read_codec(half)[1]["decoder.output.weight"]
    assert torch.allclose(found, decoder * 1.5, rtol=1e-2, atol=1e-2 * float(decoder.abs().max()))

    shape = replace(config.spectral, decoder_window=640, decoder_subframes=2, decoder_blocks=1)
    other = SpectralCodec(replace(config, spectral=shape))
    other.load_state_dict({**other.state_dict(), **_codes_of(weights)})
    file = tmp_path / "shorter.safetensors"
    packed.save(other.state_dict(), file, about={"codec": json.dumps(to_dict(other.config))})
    between = ["--decoder", str(file), "--decoder-share", "0.5", "--out", str(half)]
    assert bundle.main(between) == 2 and "--decoder-share" in capsys.readouterr().err
    assert bundle.main(["--decoder", str(file), "--out", str(half)]) == 0
    made = load_folder(half)
    assert made.config == replace(load_folder(base).config, codec=other.config)
    assert all(np.array_equal(v, made.codec[k]) for k, v in old.items() if "decoder." not in k)
    found = read_codec(half)[1]["decoder.output.weight"]
    assert torch.allclose(found, other.state_dict()["decoder.output.weight"], atol=1e-2)
    made = Engine.from_pretrained(half).decode(np.zeros((4, 50), np.int32))
    assert made.samples.shape == (16000,)

    before = (out / "codec.safetensors").read_bytes()
    encoder = weights["encoder.output.weight"]
    wrong = packed_codec("wrong", **{"encoder.output.weight": encoder * 2})
    assert bundle.main(["--decoder", wrong, "--out", str(out)]) == 2
    assert "encoder.output.weight differs" in capsys.readouterr().err
    smaller = SpectralCodec(replace(config, num_codebooks=4))
    file = tmp_path / "smaller.safetensors"
    packed.save(smaller.state_dict(), file, about={"codec": json.dumps(to_dict(smaller.config))})
    assert bundle.main(["--decoder", str(file), "--out", str(out)]) == 2
    assert "expected the encoder and the codebooks" in capsys.readouterr().err
    assert (out / "codec.safetensors").read_bytes() == before


def test_a_codec_in_int8_is_kept_as_it_is_stored(tmp_path):
    bundled = next(iter(bundled_models().values()))
    first, second = tmp_path / "first", tmp_path / "second"
    made = ["--codec", str(bundled), "--codec-dtype", "int8", "--level", "-24"]
    assert bundle.main([*made, "--out", str(first)]) == 0
    model = load_folder(first)
    size = (first / "codec.safetensors").stat().st_size
    assert size < 1.3 * sum(x.size for x in model.codec.values())
    assert model.config.level == -24 and not model.config.source_levels
    assert bundle.main(["--base", str(first), "--out", str(second)]) == 0
    assert (second / "codec.safetensors").read_bytes() == (first / "codec.safetensors").read_bytes()
    assert load_folder(second).config.level is None


def packed_lm(folder, model, state):
    """A file of an LM like the model's with these weights."""
    described = {
        "lm": to_dict(model.config.lm),
        "vocabulary": to_dict(model.config.vocabulary),
        "tasks": list(model.config.tasks),
    }
    [file] = packed.save(state, folder / "lm.safetensors", 10**9, {"lm": json.dumps(described)})
    return file


def test_an_lm_from_a_packed_file(tmp_path, capsys):
    bundled = next(iter(bundled_models().values()))
    model = load_folder(bundled)
    lm = {k: v.numpy() for k, v in float32_tensors(model.lm).items()}
    file = packed_lm(tmp_path, model, float32_tensors(model.lm))
    out = tmp_path / "model"
    assert bundle.main(["--base", str(bundled), "--lm", str(file), "--out", str(out)]) == 0
    made = load_folder(out)
    [codec] = packed.save(
        {"x": torch.zeros(1)}, tmp_path / "codec.safetensors", 10**9, {"codec": "{}"}
    )
    wrong = ["--base", str(bundled), "--lm", str(codec), "--out", str(out)]
    assert bundle.main(wrong) == 2 and "expected a packed lm" in capsys.readouterr().err
    assert made.config.lm == model.config.lm and made.config.tasks == model.config.tasks
    assert made.voices.keys() == model.voices.keys()
    for name, value in made.lm.items():
        found = from_bfloat16(value) if value.dtype == np.uint16 else value
        assert np.abs(found - lm[name]).max() <= 0.01 * np.abs(lm[name]).max(), name


def test_an_lm_between_its_run_and_where_it_began(tmp_path, capsys):
    bundled = next(iter(bundled_models().values()))
    model = load_folder(bundled)
    begin = float32_tensors(model.lm)
    file, out = packed_lm(tmp_path, model, {k: v + 1 for k, v in begin.items()}), tmp_path / "model"
    made = ["--base", str(bundled), "--lm", str(file), "--out", str(out), "--lm-share"]
    assert bundle.main([*made, "0.25"]) == 0
    for name, value in float32_tensors(load_folder(out).lm).items():
        assert torch.allclose(value, begin[name] + 0.25, atol=0.02), name
    codec = ["--codec", str(bundled / "codec.safetensors"), *made[2:]]
    assert bundle.main([*codec, "0.25"]) == 2
    assert "the LM that the run began with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bundle.main([*made, "1.5"])
    assert "expected 0 to 1, got 1.5" in capsys.readouterr().err
    for part in ("lm", "decoder"):
        with pytest.raises(SystemExit):
            bundle.main(["--base", str(bundled), "--out", str(out), f"--{part}-share", "0.5"])
        assert f"expected --{part} with it" in capsys.readouterr().err


def test_levels_and_guidance_are_the_models(tmp_path, capsys):
    bundled = str(next(iter(bundled_models().values())))
    model = load_folder(bundled)
    lm = packed_lm(tmp_path, model, {k: torch.zeros(v.shape) for k, v in model.lm.items()})
    out = tmp_path / "model"
    made = ["--base", bundled, "--lm", str(lm), "--level", "-24", "--out", str(out), "--guidance"]
    assert bundle.main([*made, "tts=1.5", "t2s=3.5", "--default-voice", "bm_george"]) == 0
    config = load_folder(out).config
    default, chosen = (out / "voices" / f"{n}.safetensors" for n in ("default", "bm_george"))
    assert default.read_bytes() == chosen.read_bytes()
    assert bundle.main([*made, "tts=1.5", "--default-voice", "nobody"]) == 2
    assert "expected one of the voices, got nobody" in capsys.readouterr().err
    assert config.source_levels == {"a_edit": -31.0, "sd": -17.0}
    assert config.guidance == {"tts": 1.5, "t2s": 3.5}
    for wrong in ("tts", "tts=loud", "nothing=2", "tts=21"):
        assert bundle.main([*made, wrong]) == 2
        assert "guidance" in capsys.readouterr().err


def test_the_voices_of_a_teacher_replace_those_of_a_folder(tmp_path, monkeypatch, capsys):
    pitches = {"af_anna": 0.09, "bm_ben": 0.05}
    kokoro, out = tmp_path / "kokoro", tmp_path / "model"

    def hum(who, text, name):
        x = 0.1 * np.sin(np.arange(70000) * pitches[name])
        return teacher.Spoken(x.astype(np.float32), text, (), ())

    (kokoro / "voices").mkdir(parents=True)
    for name in (teacher.MODEL, *(f"voices/{n}.bin" for n in (*pitches, "jf_yumi"))):
        (kokoro / name).touch()
    shutil.copytree(next(iter(bundled_models().values())), out)
    lm = (out / "lm.safetensors").read_bytes()
    monkeypatch.setattr(teacher, "Kokoro", lambda folder: folder)
    monkeypatch.setattr(teacher, "speak", hum)
    given = ["--voices", str(kokoro), "--out", str(out), "--default-voice"]
    assert bundle.main([*given, "bm_ben"]) == 0
    engine = Engine.from_pretrained(out)
    assert engine.voices() == [*pitches, "default"]
    codes = {n: engine.voice(n).codes for n in engine.voices()}
    assert codes["bm_ben"].shape[-1] == 150 and np.array_equal(codes["default"], codes["bm_ben"])
    assert not np.array_equal(codes["af_anna"], codes["bm_ben"])
    assert (out / "lm.safetensors").read_bytes() == lm
    for name in pitches:
        (kokoro / "voices" / f"{name}.bin").rename(kokoro / "voices" / f"j{name}.bin")
    assert bundle.main([*given, "bm_ben"]) == 2
    assert "expected English voices such as voices/af_heart.bin" in capsys.readouterr().err
    assert bundle.main(["--voices", "procedural", *given[2:], "nobody"]) == 2
    assert "expected one of the voices, got nobody" in capsys.readouterr().err
    assert Engine.from_pretrained(out).voices() == [*pitches, "default"]
