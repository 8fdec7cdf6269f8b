"""UniAudio's files: the contents of the imported folder, and files that belong to another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from import_tools import (
    PHONES,
    read_json,
    settings,
    tiny_files,
    token_list,
    write_yaml,
)

from uniaudio_engine import Engine
from uniaudio_engine.errors import InputError
from uniaudio_engine.importers.uniaudio import import_uniaudio


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """torch's threads wait for one another longer than tiny operations take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_folder(tmp_path: Path) -> None:
    """What stands in the folder: vocabulary, labels, lexicon, tasks, card."""
    tiny_files(tmp_path)
    about = import_uniaudio(
        tmp_path / "lm",
        tmp_path / "codec/model.pth",
        tmp_path / "out",
        config=tmp_path / "lm/config.yaml",
        codec_config=tmp_path / "codec/config.yaml",
        phones=tmp_path / "phone_dict",
        lexicon=tmp_path / "lexicon.txt",
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "codec",
        "lexicon.txt",
        "lm",
        "out",
        "phone_dict",
    ]
    names = [
        "README.md",
        "codec.safetensors",
        "config.json",
        "lexicon.txt",
        "lm.safetensors",
        "phones.txt",
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    engine = Engine.from_pretrained(tmp_path / "out")
    vocabulary, lm = engine.config.vocabulary, engine.config.lm
    assert vocabulary is not None and lm is not None
    assert [(s.name, s.start, s.size) for s in vocabulary.spans[:3]] == [
        ("audio", 128, 48),
        ("audio_mask", 176, 1),
        ("phone", 177, 7),
    ]
    assert (
        vocabulary.specials[:3] == ("pad", "continuous_token", "start")
        and len(vocabulary.specials) == 128
    )
    assert vocabulary.specials[-1] == "unused_special_token_74"
    assert (lm.start_id, lm.local_start_id, lm.max_frames, lm.continuous) == (
        23,
        24,
        512,
        {"text_t5": 768},
    )
    assert engine.model.folder.phones == (*PHONES, "<UNK>")
    assert (tmp_path / "out/lexicon.txt").read_text() == "HELLO HH AH0 L OW1\n"
    assert engine.config.codec.num_codebooks == 4 and engine.config.codec.sample_rate == 16000
    assert {"tts", "vc", "se", "s_edit", "svs", "t2s"} <= {t["name"] for t in engine.tasks()}
    assert about["tasks"] == [t["name"] for t in engine.tasks()]
    card = (tmp_path / "out/README.md").read_text()
    assert "unknown" in card and "ep1.checkpoint" in card
    for file in (
        "lm/ep1.checkpoint",
        "lm/config.yaml",
        "codec/model.pth",
        "codec/config.yaml",
        "phone_dict",
        "lexicon.txt",
    ):
        import hashlib

        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() in card, file


def test_speaks(tmp_path: Path) -> None:
    """From the repository's files to a sound, by the tasks that came with them."""
    tiny_files(tmp_path)
    import_uniaudio(
        tmp_path / "lm", tmp_path / "codec", tmp_path / "out", phones=tmp_path / "phone_dict"
    )
    engine = Engine.from_pretrained(tmp_path / "out", dtype="float32")
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1
    audio = engine.generate("se", source=(noise, 16000), seed=3)
    assert len(audio.samples) == 8000 and np.isfinite(audio.samples).all()


def test_foreign_reporter_is_why(tmp_path: Path) -> None:
    """torch's own safe loading refuses the trainer's checkpoints, which is why it is not used."""
    tiny_files(tmp_path)
    with pytest.raises(Exception, match="(?i)weights.only|unsupported"):
        torch.load(tmp_path / "lm/ep1.checkpoint", weights_only=True)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "prefix": (lambda c: c.update(prefix_lm=True), "prefix_lm is true"),
    "layers": (lambda c: c.update(n_layer=5), "n_layer 5 there, 4 here"),
    "width": (lambda c: c.update(n_embd=48), "n_embd 48 there, 24 here"),
    "heads": (lambda c: c.update(n_head=5), "heads: expected a divisor"),
    "slots": (lambda c: c.update(non_acoustic_repeat=8), "non_acoustic_repeat 8 there, 3 here"),
    "context": (lambda c: c.update(block_size=8000), "block_size 8000 there, 512 here"),
    "tokens": (lambda c: c["token_list"].pop(), "length of token_list"),
    "text for a number": (lambda c: c.update(n_layer="4"), "n_layer: expected int"),
    "yes for a number": (lambda c: c.update(n_layer=True), "n_layer: expected int"),
    "missing": (lambda c: [c.pop("n_embd"), c.pop("token_list")], "lacks n_embd, token_list"),
    "another model": (lambda c: c.update(megabytes=False), "megabytes is false"),
    "gap": (lambda c: c["token_list"].__setitem__(130, "<audio_9>"), "<audio_9> at 130"),
    "no mega": (lambda c: c["token_list"].__setitem__(23, "<other>"), "missing <mega_global>"),
    "token twice": (lambda c: c["token_list"].__setitem__(0, "<start>"), "<start> is there twice"),
    "not names": (
        lambda c: c["token_list"].__setitem__(0, 3),
        "token_list: expected a list of names",
    ),
    "foreign": (
        lambda c: c.update(token_list=[f"w{i}" for i in range(len(c["token_list"]))]),
        "no UniAudio vocabulary: missing <pad>, <start>, <end> and",
    ),
    "other codec": (
        lambda c: c["token_list"].__setitem__(
            slice(128, None),
            [f"<audio_{i}>" for i in range(40)]
            + [f"<phone_{i}>" for i in range(len(c["token_list"]) - 168)],
        ),
        "40 audio tokens, the codec makes 3 x 16 codes",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_config_of_another_model(tmp_path: Path, case: str) -> None:
    tiny_files(tmp_path)
    tokens = token_list(3, 16)
    config = settings(tokens, layers=4, heads=3, width=24, slots=3, context=512)
    change, message = WRONG[case]
    change(config)
    write_yaml(tmp_path / "lm/config.yaml", config)
    with pytest.raises(InputError) as e:
        import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "out")
    assert message in str(e.value) and "\n" not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "codec",
        "lexicon.txt",
        "lm",
        "phone_dict",
    ]


def test_old_revision_without_task_tokens(tmp_path: Path) -> None:
    tiny_files(tmp_path)
    config = settings(token_list(3, 16), layers=4, heads=3, width=24, slots=3, context=512) | {
        "use_task_id": False
    }
    write_yaml(tmp_path / "lm/config.yaml", config)
    about = import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "out")
    assert about["tasks"] == [] and any("use_task_id" in n for n in about["notes"])
    assert read_json(tmp_path / "out/config.json")["tasks"] == []


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (
        lambda s: [s.pop("g_ln.bias"), s.pop("l_layers.1.mlp.2.weight")],
        "missing g_ln.bias, l_layers.1.mlp.2.weight",
    ),
    "left over": (
        lambda s: s.update({"g_layers.0.cross_attn.key.weight": torch.zeros(2)}),
        "left over g_layers.0.cross_attn.key.weight",
    ),
    "shape": (
        lambda s: s.update({"l_ln.bias": torch.zeros(25)}),
        "wrong shape: l_ln.bias [25] (expected [24])",
    ),
    "rank": (lambda s: s.update({"g_emb.weight": torch.zeros(3)}), "wrong shape: g_emb.weight [3]"),
    "nan": (lambda s: s["g_ln.bias"].__setitem__(3, float("nan")), "NaN or infinity in g_ln.bias"),
    "infinite": (
        lambda s: s["lm_head.weight"].__setitem__((3, 3), float("inf")),
        "NaN or infinity in lm_head.weight",
    ),
    "too large for float32": (
        lambda s: s.update({"g_ln.bias": torch.full((24,), 1e300, dtype=torch.float64)}),
        "NaN or infinity in g_ln.bias",
    ),
    "integers": (
        lambda s: s.update({"l_ln.bias": torch.zeros(24, dtype=torch.int64)}),
        "wrong type: l_ln.bias int64",
    ),
    "complex": (
        lambda s: s.update({"l_ln.bias": torch.zeros(24, dtype=torch.complex64)}),
        "wrong type: l_ln.bias complex64",
    ),
    "object": (lambda s: s.update({"l_ln.bias": {"a": 1}}), "expected tensors only"),
    "local layers": (
        lambda s: [s.pop(n) for n in list(s) if n.startswith("l_layers.1")],
        "1 local layers",
    ),
    "prefix twice": (lambda s: s.update({"module.g_ln.bias": torch.zeros(24)}), "there twice"),
    "sparse": (
        lambda s: s.update({"l_ln.bias": torch.zeros(24).to_sparse()}),
        "expected tensors only",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_weights_of_another_model(tmp_path: Path, case: str) -> None:
    lm, _ = tiny_files(tmp_path)
    state = {k: v.clone() for k, v in lm.state_dict().items()}
    change, message = STATES[case]
    change(state)
    torch.save({"model": state}, tmp_path / "lm/ep1.checkpoint")
    with pytest.raises(InputError) as e:
        import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "out")
    assert message in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_files_in_each_others_place(tmp_path: Path) -> None:
    tiny_files(tmp_path)
    (tmp_path / "loose.pt").symlink_to(tmp_path / "lm/ep1.checkpoint")
    for lm, codec, message in (
        ("codec", "codec", "lacks n_layer"),
        ("lm", "lm/ep1.checkpoint", "expected UniAudio's codec"),
        ("codec/model.pth", "codec", "it looks like the codec's"),
        ("loose.pt", "codec", "expected the training's config.yaml"),
    ):
        with pytest.raises(InputError, match=message) as e:
            import_uniaudio(tmp_path / lm, tmp_path / codec, tmp_path / "out")
        assert "\n" not in str(e.value)
    with pytest.raises(
        InputError,
        match=r"expected a UniAudio language model with the tensor g_emb.weight, found 'codec_model'",
    ):
        import_uniaudio(
            tmp_path / "codec/model.pth",
            tmp_path / "codec",
            tmp_path / "out",
            config=tmp_path / "lm/config.yaml",
        )


def test_all_files_in_one_folder(tmp_path: Path) -> None:
    """The config of the language model beside both: the codec does without."""
    tiny_files(tmp_path)
    (tmp_path / "codec/model.pth").rename(tmp_path / "lm/model.pth")
    about = import_uniaudio(
        tmp_path / "lm/ep1.checkpoint", tmp_path / "lm/model.pth", tmp_path / "out"
    )
    assert any("config.yaml, which is not the codec's" in n for n in about["notes"])
    assert [f["role"] for f in about["files"]] == ["lm checkpoint", "lm config", "codec checkpoint"]
    with pytest.raises(
        InputError,
        match=r"expected one checkpoint, found ep1.checkpoint, model.pth; name the one that is meant",
    ):
        import_uniaudio(tmp_path / "lm", tmp_path / "lm/model.pth", tmp_path / "out2")


def test_plain_state_dict_and_safetensors(tmp_path: Path) -> None:
    from uniaudio_engine.storage.tensors import save_tensors

    lm, codec = tiny_files(tmp_path)
    torch.save(lm.state_dict(), tmp_path / "plain.pt")
    save_tensors(tmp_path / "lm.safetensors", {k: v.numpy() for k, v in lm.state_dict().items()})
    torch.save(codec.state_dict(), tmp_path / "codec.pth")
    config = tmp_path / "lm/config.yaml"
    import_uniaudio(tmp_path / "lm", tmp_path / "codec", tmp_path / "a")
    for i, source in enumerate(("plain.pt", "lm.safetensors")):
        import_uniaudio(
            tmp_path / source, tmp_path / "codec.pth", tmp_path / f"b{i}", config=config
        )
        for name in ("lm.safetensors", "codec.safetensors"):
            assert (tmp_path / f"b{i}" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
