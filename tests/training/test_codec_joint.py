"""Training the whole codec: growing preserves the output, levels, exact resume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uniaudio_training.checkpoints import load_codec, read_codec
from uniaudio_training.codec import growth, joint
from uniaudio_training.codec.adversarial import Discriminators, contest
from uniaudio_training.codec.losses import SpectralLoss
from uniaudio_training.corpus.schema import Label, Phone, Track
from uniaudio_training.models.spectral import SpectralCodec
from uniaudio_training.precision import Arithmetic
from uniaudio_training.settings import settings_from

from uniaudio_engine.storage.config import CodecConfig, ConfigError, from_dict
from uniaudio_engine.storage.folder import bundled_models

SMALL = {
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
}
LARGE = {
    **SMALL,
    "spectral": {
        "encoder_width": 12,
        "encoder_blocks": 2,
        "encoder_hidden": 20,
        "decoder_width": 12,
        "decoder_blocks": 3,
        "decoder_hidden": 24,
    },
}


def codec(described, seed):
    torch.manual_seed(seed)
    return SpectralCodec(from_dict(CodecConfig, described, "codec")).eval()


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for task in ("tts", "t2s"):
        phones = (Phone("pau", 0.5), Phone("s", 1.0)) if task == "tts" else ()
        pcm = (3000 * rng.standard_normal(4 * 16000)).astype(np.int16)
        tracks = [Track(16000 * i, 16000, phones=phones) for i in range(4)]
        np.save(folder / f"{task}-train-0000.npy", pcm)
        (folder / f"{task}-train-0000.jsonl").write_text(
            "".join(
                Label(f"{task}-train-0000-{i:04d}", task, "train", {"target": t}).line() + "\n"
                for i, t in enumerate(tracks)
            )
        )
    return folder


def sources(corpus):
    return [
        {"data": str(corpus), "task": "tts", "weight": 1},
        {"data": str(corpus), "task": "t2s", "weight": 1, "speech": False},
    ]


def test_a_grown_decoder_says_nearly_the_same():
    old, new = codec(SMALL, 1), codec(LARGE, 2)
    growth.grown(new, old.state_dict())
    codes = torch.randint(8, (2, 3, 40))
    with torch.no_grad():
        a, b, other = old.decode(codes), new.decode(codes), codec(LARGE, 3).decode(codes)
    assert (a - b).square().mean() < 0.15 * a.square().mean()
    assert (a - other).square().mean() > 0.5 * a.square().mean()


OTHER_WINDOWS = {**SMALL, "spectral": {**SMALL["spectral"], "decoder_window": 320}}


def test_a_decoder_with_other_windows_says_what_the_old_one_says():
    old, new = codec(SMALL, 1), codec(OTHER_WINDOWS, 2)
    torch.manual_seed(3)
    with torch.no_grad():
        old.decoder.output.weight *= 3  # louder than what its bias says
    state = old.state_dict()
    growth.grown(new, {k: v for k, v in state.items() if not k.startswith("decoder.output")})
    batches = [torch.randn(2, 320 * 40) * 0.1 for _ in range(8)]
    fresh = [x.clone() for x in new.decoder.output.parameters()]
    codes = torch.randint(8, (2, 3, 40))
    with torch.no_grad():
        want, first = old.decode(codes), new.decode(codes)
        growth.fit_head(new, old, batches, 3)
        found = new.decode(codes)
    assert not any(
        torch.equal(x, y) for x, y in zip(new.decoder.output.parameters(), fresh, strict=True)
    )
    likeness = [float(joint.PairedLoss(16000)(want, x)[0]) for x in (first, found)]
    assert likeness[1] < 0.5 * likeness[0], likeness


def test_growth_of_the_same_shape_is_a_copy():
    old, new = codec(SMALL, 1), codec(SMALL, 2)
    growth.grown(new, old.state_dict())
    assert all(torch.equal(v, new.state_dict()[k]) for k, v in old.state_dict().items())


def test_a_codec_cannot_shrink():
    with pytest.raises(ValueError, match="only grow"):
        growth.grown(codec(SMALL, 1), codec(LARGE, 2).state_dict())


def test_levels_vary_and_gains_undo_them(corpus):
    mixture = joint.Mixture([joint.Source(**s) for s in sources(corpus)], 320, 16, wide_share=0.5)
    x, gains, phones = mixture.batch(np.random.default_rng(0), 64)
    assert x.shape == (64, 5120) and gains.shape == (64, 1) and phones.shape == (64, 16)
    levels = x.square().mean(1).log10() * 10
    assert levels.max() - levels.min() > 30 and x.abs().max() <= 1
    back = ((x * gains).square().mean(1)).log10() * 10
    assert (back.max() - back.min()) < 12  # what is left is where crops lie and what is mixed in
    assert set(phones.unique().tolist()) == {
        -1,
        mixture.phones.index("pau"),
        mixture.phones.index("s"),
    }


def test_misspelt_sources(corpus):
    for sources_, text in (
        ([{"data": "x", "task": "tts", "wieght": 1}], "wieght"),
        ([{"data": "x", "task": "tts"}], "weight"),
        ([], "at least one"),
    ):
        with pytest.raises(ConfigError, match=text):
            settings_from(joint.JointSettings, {"sources": sources_})


def test_paired_losses_are_the_losses():
    x, y = torch.randn(2, 4000), torch.randn(2, 4000)
    for a, b in zip(SpectralLoss(16000)(x, y), joint.PairedLoss(16000)(x, y), strict=True):
        assert torch.allclose(a, b, rtol=1e-4)


def test_a_contest_gives_the_gradient_of_its_losses_and_teaches_the_judges():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2, 3000) * 0.1
    discriminators = Discriminators(4, (256, 128))
    judge = discriminators.all()
    optimizer = torch.optim.SGD(discriminators.parameters(), lr=0.05)
    arithmetic = Arithmetic(torch.device("cpu"), torch.float32)
    copy = fake.clone().requires_grad_(True)
    fool = -sum(score.mean() for score, _ in [part(copy) for part in judge]) / 2
    feature = sum(
        (a.detach() - b).abs().mean() / a.detach().abs().mean()
        for (_, want), (_, made) in [(part(real), part(copy)) for part in judge]
        for a, b in zip(want, made, strict=True)
    )
    (expected,) = torch.autograd.grad(fool + 3 * feature / 2, copy)
    first = contest(judge, optimizer, real, fake, 3.0, arithmetic)
    assert torch.allclose(first.gradient, expected, rtol=1e-3, atol=1e-7)
    assert torch.allclose(first.fool, fool) and torch.allclose(first.feature, feature / 2)
    for _ in range(20):
        last = contest(judge, optimizer, real, fake, 3.0, arithmetic)
    assert last.judge < first.judge


def test_the_judges_of_a_step_are_drawn_and_the_others_learn_nothing():
    torch.manual_seed(0)
    judge = Discriminators(4, (256, 128, 64))
    drawn = [judge.some(2, np.random.default_rng((7, step))) for step in range(40)]
    assert all(len({*map(id, some)}) == 2 for some in drawn)
    assert {id(part) for some in drawn for part in some} == {*map(id, judge.all())}
    assert judge.some(0, np.random.default_rng(0)) == judge.all()
    [left_out] = [part for part in judge.all() if part not in drawn[0]]
    before = [[x.clone() for x in part.parameters()] for part in judge.all()]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=0.05)
    real, fake = torch.randn(2, 2, 3000) * 0.1
    contest(drawn[0], optimizer, real, fake, 1.0, Arithmetic(torch.device("cpu"), torch.float32))
    for part, old in zip(judge.all(), before, strict=True):
        same = [torch.equal(x, y) for x, y in zip(part.parameters(), old, strict=True)]
        assert all(same) if part is left_out else not any(same)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-2, 1e2), st.floats(1e-2, 1e2))
def test_the_discriminators_pull_is_balanced_at_any_scale(ours, theirs):
    balance, again = joint.Balance(), joint.Balance()
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        ratio = balance(x * ours, x * theirs)
    assert ratio == pytest.approx(theirs / ours, rel=1e-4)
    again.load_state_dict(balance.state_dict())
    assert again(x * ours, x * theirs) == pytest.approx(ratio)


def small(corpus, **more):
    return settings_from(
        joint.JointSettings,
        {
            "batch": 4,
            "frames": 16,
            "warmup": 2,
            "few_stages": 2,
            "judge_from": 2,
            "judge_warmup": 2,
            "channels": 4,
            "judged_clips": 2,
            "windows": [256],
            "encoder_until": 4,
            "steps": 6,
            "sources": sources(corpus),
            "codec": SMALL,
            "precision": "float32",
            **more,
        },
    )


def parts(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=False)["parts"]


def test_a_run_begins_with_the_codes_and_the_judges_of_another(corpus, tmp_path):
    joint.train(small(corpus), tmp_path / "first", "cpu")
    more = {"codec": OTHER_WINDOWS, "init": str(tmp_path / "first"), "encoder_until": 0}
    more |= {"judges": str(tmp_path / "first"), "judges_a_step": 1, "steps": 1}
    joint.train(small(corpus, **more), tmp_path / "second", "cpu")
    first, second = parts(tmp_path / "first"), parts(tmp_path / "second")
    for name, value in first["average"].items():
        if name.startswith(("encoder.", "quantizer.")):
            assert torch.equal(value, second["average"][name]), name
    assert second["model"]["decoder.output.weight"].shape == (161 * 3 * 2, 8)
    with pytest.raises(ValueError, match="judges: expected discriminators of these windows"):
        joint.train(small(corpus, **more, windows=[128]), tmp_path / "third", "cpu")
    assert all(torch.equal(v, second["judge"][k]) for k, v in first["judge"].items())


def test_resume_is_exact_and_the_encoder_stops(corpus, tmp_path, monkeypatch):
    joint.train(small(corpus), tmp_path / "whole", "cpu")
    tick = joint.Run.tick

    def stop_at(step):
        def stopping(run):
            run.stopping |= run.step + 1 == step
            return tick(run)

        monkeypatch.setattr(joint.Run, "tick", stopping)

    stop_at(3)
    joint.train(small(corpus), tmp_path / "parts", "cpu")
    stop_at(4)
    joint.train(small(corpus), tmp_path / "parts", "cpu")
    before = parts(tmp_path / "parts")
    stop_at(0)
    joint.train(small(corpus), tmp_path / "parts", "cpu")
    whole, resumed = parts(tmp_path / "whole"), parts(tmp_path / "parts")
    for part in ("model", "judge", "average"):
        assert all(torch.equal(v, resumed[part][k]) for k, v in whole[part].items()), part
    moved = {k for k, v in before["model"].items() if not torch.equal(v, whole["model"][k])}
    assert any(k.startswith("decoder.") for k in moved)
    assert not any(k.startswith("quantizer.") for k in moved)


def test_going_on_from_a_run(corpus, tmp_path):
    joint.train(small(corpus, steps=1), tmp_path / "a", "cpu")
    joint.train(
        small(corpus, steps=1, codec=LARGE, init=str(tmp_path / "a")), tmp_path / "b", "cpu"
    )
    joint.export(tmp_path / "b", tmp_path / "warm.safetensors")
    found, weights = read_codec(tmp_path / "warm.safetensors")
    assert found == from_dict(CodecConfig, LARGE, "codec") and len(weights) > 10
    averaged, plain = load_codec(tmp_path / "b"), load_codec(tmp_path / "b", averaged=False)
    assert averaged.config == plain.config == found


def test_units_change_what_is_learned(corpus, tmp_path):
    tokenizer = str(next(iter(bundled_models().values())))
    for name, units in (("with", tokenizer), ("without", "")):
        joint.train(small(corpus, steps=2, units=units), tmp_path / name, "cpu")
    heard, plain = parts(tmp_path / "with"), parts(tmp_path / "without")
    assert set(heard) == set(plain)  # the tokenizer itself is no part of a checkpoint
    name = "decoder.output.weight"
    assert not torch.equal(heard["model"][name], plain["model"][name])
