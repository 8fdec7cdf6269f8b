"""A run that was stopped and resumed ends with the same weights as an uninterrupted one."""

import json

import pytest
import torch
from joint_items import write_shards
from safetensors.torch import save_file
from uniaudio_training.codec import train_codec as codec_train
from uniaudio_training.corpus.shards import ShardSpec, make_shard
from uniaudio_training.lm import train_lm as lm_train
from uniaudio_training.lm.setup import LMSettings
from uniaudio_training.models.lm import MultiScaleLM
from uniaudio_training.run_checkpoint import read_run
from uniaudio_training.settings import settings_from

from uniaudio_engine.storage.config import (
    CodecConfig,
    LMConfig,
    ModelConfig,
    VocabularyConfig,
    from_dict,
)

LM = {
    "tasks": {"tts": 2.0, "svs": 1.0, "se": 1.0},
    "rows": 2,
    "items": 300,
    "codebook_size": 16,
    "units": 32,
    "validate_every": 1000,
    "precision": "float32",
    "warmup": 2,
    "lm": {
        "global": {"layers": 1, "width": 16, "heads": 2, "mlp_width": 24},
        "local": {"layers": 1, "width": 16, "heads": 2, "mlp_width": 24, "positions": "learned"},
    },
}
CODEC = {
    "precision": "float32",
    "batch": 2,
    "frames": 8,
    "warmup": 2,
    "unquantized": 2,
    "few_stages": 2,
    "weights": {"t2s": 1.0},
    "codec": {
        "family": "spectral",
        "num_codebooks": 3,
        "codebook_size": 8,
        "codebook_dim": 4,
        "spectral": {
            "encoder_width": 8,
            "encoder_blocks": 1,
            "encoder_hidden": 16,
            "decoder_width": 8,
            "decoder_blocks": 1,
            "decoder_hidden": 16,
        },
    },
}


def train_lm(settings, folder):
    lm_train.train(settings_from(LMSettings, settings), folder, "cpu")


def train_codec(settings, folder):
    codec_train.train(settings_from(codec_train.CodecSettings, settings), folder, "cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_shards(folder, ("tts", "svs", "se"))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    make_shard(ShardSpec("t2s", "train", 0, seed=3, seconds=20), str(folder))
    return folder


def _weights(run):
    return read_run(run)["parts"]


def _equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("kind", ["lm", "codec"])
def test_resume_is_exact(kind, tokens, corpus, tmp_path, monkeypatch):
    train, config, data = (train_lm, LM, tokens) if kind == "lm" else (train_codec, CODEC, corpus)
    config = {**config, "data": str(data), "steps": 6}
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
    train(config, tmp_path / "parts")  # a run that is done is not trained on
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=False)["step"] == 6
    assert _equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


@pytest.mark.slow
def test_processes_keep_equal_weights_and_resume(tokens, tmp_path):
    """Two processes: their own batches, one model; stopped and resumed it is the model of a run
    that was not.
    """
    config = {**LM, "data": str(tokens), "processes": 2}
    train_lm({**config, "steps": 4, "decay_share": 1e-9}, tmp_path / "whole")
    for steps in (2, 4):
        train_lm({**config, "steps": steps, "decay_share": 1e-9}, tmp_path / "parts")
    train_lm({**config, "steps": 4, "decay_share": 1e-9, "processes": 1}, tmp_path / "alone")
    whole, parts, alone = (
        _weights(tmp_path / name)["model"] for name in ("whole", "parts", "alone")
    )
    assert _equal(whole, parts)
    assert not _equal(whole, alone)


def test_shards_are_made_again_bit_for_bit(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_shard(ShardSpec("t2s", "train", 7, seed=1, seconds=15), str(tmp_path / name))
    for suffix in ("npy", "jsonl"):
        first, second = (
            (tmp_path / n / f"t2s-train-0007.{suffix}").read_bytes() for n in ("a", "b")
        )
        assert first == second
    (tmp_path / "c").mkdir()
    make_shard(ShardSpec("t2s", "train", 8, seed=1, seconds=15), str(tmp_path / "c"))
    assert (tmp_path / "c" / "t2s-train-0008.npy").read_bytes() != (
        tmp_path / "a" / "t2s-train-0007.npy"
    ).read_bytes()


def test_unknown_setting_is_refused(tmp_path, tokens):
    with pytest.raises(ValueError, match="learning_rat"):
        train_lm({**LM, "data": str(tokens), "learning_rat": 1}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_of_the_command_line(tokens, tmp_path, capsys):
    from uniaudio_training.train import main

    config = tmp_path / "lm.yaml"
    config.write_text(json.dumps({**LM, "data": str(tokens), "steps": 50}))
    command = [
        "lm",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--set",
    ]
    # YAML takes 1e-3 for a text; --set may be repeated
    assert main([*command, "steps=1", "tasks={se: 1}", "--set", "lr=1e-3"]) == 0
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=False)["step"] == 1
    assert json.loads((tmp_path / "run" / "lm.json").read_text())["tasks"] == ["se"]
    for wrong, named in (
        ("steps", "NAME=VALUE"),
        ("stepz=1", "stepz"),
        ("tasks={se: [", "YAML"),
        ("lr=fast", "lr: expected float"),
        ("steps=1.5", "steps: expected int"),
    ):
        capsys.readouterr()
        assert main([*command, wrong]) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1


def test_described_lm_builds_again(tokens, tmp_path):
    train_lm({**LM, "data": str(tokens), "steps": 1}, tmp_path)
    described = json.loads((tmp_path / "lm.json").read_text())
    from_dict(LMConfig, described["lm"], "lm").check()


def _folder(run, path):
    """A model folder of a run's LM and a random codec."""
    described = json.loads((run / "lm.json").read_text())
    codec = from_dict(
        CodecConfig, {**CODEC["codec"], "num_codebooks": 8, "codebook_size": 16}, "codec"
    )
    config = ModelConfig(
        1,
        "old",
        codec,
        from_dict(LMConfig, described["lm"], "lm"),
        from_dict(VocabularyConfig, described["vocabulary"], "v"),
        ("tts",),
    )
    path.mkdir()
    (path / "config.json").write_text(config.to_json())
    save_file(
        {k: v.to(torch.bfloat16) for k, v in _weights(run)["model"].items()},
        path / "lm.safetensors",
    )
    save_file({"quantizer.codebooks": torch.randn(8, 16, 4)}, path / "codec.safetensors")
    return path


def test_lm_starts_from_a_folder(tokens, tmp_path):
    """A deeper model with more aligned ids starts as the old one: the same logits wherever the new
    ids are not used.
    """
    train_lm({**LM, "data": str(tokens), "steps": 2}, tmp_path / "first")
    learned = _weights(tmp_path / "first")["model"]
    folder = _folder(tmp_path / "first", tmp_path / "folder")
    deeper = {**LM["lm"], "global": {**LM["lm"]["global"], "layers": 2}}
    config = {
        **LM,
        "data": str(tokens),
        "steps": 1,
        "lr": 0.0,
        "matrix_lr": 0.0,
        "init": str(folder),
        "lm": deeper,
        "units": 48,
    }
    train_lm(config, tmp_path / "second")
    models = []
    for run, layers in (("first", 1), ("second", 2)):
        described = from_dict(
            LMConfig, json.loads((tmp_path / run / "lm.json").read_text())["lm"], "lm"
        )
        assert described.global_.layers == layers
        models.append(MultiScaleLM(described).eval())
        models[-1].load_state_dict(_weights(tmp_path / run)["model"])
    models[0].load_state_dict({k: v.to(torch.bfloat16).float() for k, v in learned.items()})
    frames = torch.randint(64, 100, (1, 9, 4), generator=torch.Generator().manual_seed(0))
    aligned = torch.full((1, 9, models[0].config.aligned_slots), -1)
    aligned[..., 0] = 5  # a phone
    with torch.no_grad():
        # ids below 64 that nothing is called are new rows in each
        torch.testing.assert_close(
            models[0](frames, aligned)[..., 64:], models[1](frames, aligned)[..., 64:]
        )
    assert models[1].config.aligned_vocab > models[0].config.aligned_vocab
    # what was learned about sources stays, though their ids moved
    vocabularies = [
        from_dict(
            VocabularyConfig,
            json.loads((tmp_path / run / "lm.json").read_text())["vocabulary"],
            "v",
        )
        for run in ("first", "second")
    ]
    for name in ("source0", "ahead3"):
        rows = [
            m.guide.weight[s.start : s.start + s.size]
            for m, v in zip(models, vocabularies, strict=True)
            for s in [v.aligned_span(name)]
        ]
        assert torch.equal(*rows)


def test_finish_keeps_codes_and_moves_the_decoder(corpus, tmp_path):
    from uniaudio_training.checkpoints import load_codec
    from uniaudio_training.codec import adversarial

    train_codec({**CODEC, "data": str(corpus), "steps": 3}, tmp_path / "codec")
    settings = {
        "batch": 2,
        "frames": 10,
        "warmup": 1,
        "channels": 4,
        "judge_from": 1,
        "few_stages": 2,
        "weights": {"t2s": 1.0},
    }
    settings |= {"data": str(corpus), "steps": 3, "init": str(tmp_path / "codec")}
    finish = settings_from(adversarial.FinishSettings, settings)
    adversarial.train(finish, tmp_path / "finish", "cpu")
    before, after = load_codec(tmp_path / "codec"), load_codec(tmp_path / "finish")
    samples = 0.1 * torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before.encode(samples), after.encode(samples))
    codes = before.encode(samples)
    assert not torch.equal(before.decode(codes), after.decode(codes))
