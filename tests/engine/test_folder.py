"""Model folders: a written folder can be read, and any defect gives one line that names it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny import make_tiny_model, random_weights, tiny_config

from uniaudio_engine.errors import InputError
from uniaudio_engine.storage.codec_int8 import to_int8
from uniaudio_engine.storage.config import CodecConfig, SeanetConfig, StackConfig
from uniaudio_engine.storage.folder import check_model, find_folder, load_config, load_folder
from uniaudio_engine.storage.folder_writing import replace_codec
from uniaudio_engine.storage.tensors import from_bfloat16, load_tensors, save_tensors, to_bfloat16
from uniaudio_engine.storage.weight_shapes import codec_shapes, lm_shapes

PHONES = ["sil", "AA", "B", "K"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model", PHONES)


def refused(folder: Path | None, *words: str) -> None:
    with pytest.raises(InputError) as e:
        load_folder(folder)
    message = str(e.value)
    assert "\n" not in message and len(message) < 600
    for word in words:
        assert word in message, message


def test_written_is_read(folder: Path) -> None:
    model = load_folder(folder)
    assert model.config == tiny_config(4)
    assert model.phones == tuple(PHONES)
    for name, value in random_weights(lm_shapes(model.config.lm), 1).items():  # type: ignore[arg-type]
        assert model.lm[name].dtype == np.float32
        assert (model.lm[name] == value).all()


def test_bfloat16_is_kept_as_bits(tmp_path: Path) -> None:
    model = load_folder(make_tiny_model(tmp_path / "m", PHONES, dtype="bfloat16"))
    w = model.lm["head.weight"]
    assert w.dtype == np.uint16
    exact = random_weights(lm_shapes(model.config.lm), 1)["head.weight"]  # type: ignore[arg-type]
    reference = torch.from_numpy(exact).bfloat16()
    assert (w == reference.view(torch.uint16).numpy()).all()
    assert (from_bfloat16(w) == reference.float().numpy()).all()
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32)))).all()


def int8_codec(folder: Path) -> None:
    """Stores the codec of a float32 folder in int8."""
    model = load_folder(folder)
    save_tensors(folder / "codec.safetensors", to_int8(model.codec))


def test_a_codec_in_int8_is_loaded_in_float32(folder: Path) -> None:
    exact = load_folder(folder).codec
    size = (folder / "codec.safetensors").stat().st_size
    int8_codec(folder)
    assert (folder / "codec.safetensors").stat().st_size < 0.5 * size
    for name, value in load_folder(folder).codec.items():
        assert value.dtype == np.float32
        if value.ndim == 1 or "codebooks" in name:
            assert (value == exact[name]).all()
        else:
            rows = np.abs(exact[name]).max(axis=tuple(range(1, value.ndim)), keepdims=True)
            assert (np.abs(value - exact[name]) <= rows / 253).all()
    mapped = load_folder(folder, mapped=True).codec
    assert all((mapped[n] == x).all() for n, x in load_folder(folder).codec.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_replaced_codec_keeps_its_types_and_unchanged_weights(tmp_path: Path, dtype: str) -> None:
    folder = make_tiny_model(tmp_path / "m", PHONES, dtype="bfloat16")
    if dtype != "bfloat16":
        folder = make_tiny_model(tmp_path / "n", PHONES)
    if dtype == "int8":
        int8_codec(folder)
    before, _ = load_tensors(folder / "codec.safetensors")
    changed = {
        n: from_bfloat16(x) if x.dtype == np.uint16 else x
        for n, x in load_folder(folder).codec.items()
    }
    changed["decoder.output.weight"] = 2 * changed["decoder.output.weight"]
    replace_codec(folder, changed)
    after, _ = load_tensors(folder / "codec.safetensors")
    assert before.keys() == after.keys()
    assert all(before[n].dtype == x.dtype for n, x in after.items())
    assert {n for n, x in after.items() if not np.array_equal(x, before[n])} == {
        "decoder.output.weight_scale" if dtype == "int8" else "decoder.output.weight"
    }


def test_bad_codecs_in_int8_are_one_line(folder: Path) -> None:
    int8_codec(folder)
    good, _ = load_tensors(folder / "codec.safetensors")

    def stored(**changes: Any) -> None:
        made = good | changes
        save_tensors(folder / "codec.safetensors", {n: x for n, x in made.items() if x is not None})

    name = "decoder.output.weight"
    stored(**{f"{name}_scale": None})
    refused(folder, f"{name}_scale")
    stored(**{f"{name}_scale": good[f"{name}_scale"][:-1]})
    refused(folder, f"{name}_scale", "wrong shape")
    stored(**{f"{name}_scale": good[f"{name}_scale"] * np.float32(np.nan)})
    refused(folder, f"{name}_scale", "NaN")
    stored(**{f"{name}_scale": good[f"{name}_scale"].astype(np.int32)})
    refused(folder, f"{name}_scale", "wrong dtype")
    stored(**{"quantizer.codebooks": good["quantizer.codebooks"].astype(np.int8)})
    refused(folder, "quantizer.codebooks", "wrong dtype")
    stored(**{"decoder.output.bias": good["decoder.output.bias"].astype(np.int8)})
    refused(folder, "decoder.output.bias", "wrong dtype")


def test_the_safetensors_library_agrees(tmp_path: Path) -> None:
    data = {
        "b": np.arange(6, dtype=np.int32).reshape(2, 3),
        "a": np.float32([[1.5]]),
        "c": np.arange(3, dtype="u1"),
    }
    save_tensors(tmp_path / "ours", data, {"k": "v"})
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    assert theirs.keys() == data.keys() and all((theirs[k] == data[k]).all() for k in data)
    safetensors.numpy.save_file(data, tmp_path / "theirs", {"k": "v"})
    ours, metadata = load_tensors(tmp_path / "theirs")
    assert metadata == {"k": "v"}
    assert all((ours[k] == data[k]).all() and ours[k].dtype == data[k].dtype for k in data)


STACK = StackConfig(layers=2, width=24, heads=4)
LM_CHANGES: list[dict[str, Any]] = [
    {},
    {"embedding": "concat", "conditioning": "add"},
    {"continuous": {"text": 20}, "aligned_slots": 0, "aligned_vocab": 0},
    {
        "global_": dataclasses.replace(
            STACK, norm="layernorm", activation="gelu", positions="learned", kv_heads=2
        )
    },
    {
        "local": dataclasses.replace(
            STACK, q_bias=True, k_bias=True, v_bias=True, o_bias=True, mlp_bias=True
        )
    },
    {
        "global_": dataclasses.replace(STACK, head_width=10, qk_norm=True, kv_heads=2),
        "local": dataclasses.replace(STACK, final_norm=False, activation="gelu_tanh"),
        "tied_local": True,
        "tied_head": True,
    },
    {"tied_head": True},
    {"global_head_start": 3, "global_head_size": 8},
    {"slot_weights": True, "conditioning": "project"},
    {
        "slot_weights": True,
        "conditioning": "project",
        "global_head_size": 8,
        "local": dataclasses.replace(
            STACK, q_bias=True, mlp_bias=True, activation="gelu", positions="learned"
        ),
    },
]


@pytest.mark.parametrize("changes", LM_CHANGES)
def test_lm_shapes_are_the_torch_modules(changes: dict[str, Any]) -> None:
    from uniaudio_training.models.lm import MultiScaleLM

    lm = tiny_config(4, **changes).lm
    assert lm is not None
    assert {k: tuple(v.shape) for k, v in MultiScaleLM(lm).state_dict().items()} == lm_shapes(lm)


@pytest.mark.parametrize(
    "seanet",
    [
        SeanetConfig(ratios=(2, 2), filters=4),
        SeanetConfig(
            ratios=(4, 1),
            filters=4,
            lstm_layers=0,
            conv_shortcut=False,
            residual_layers=2,
            norm="group",
            channels=2,
        ),
    ],
)
def test_seanet_shapes_are_the_torch_modules(seanet: SeanetConfig) -> None:
    from uniaudio_training.models.seanet import SeanetCodec

    c = CodecConfig("seanet", 8000, 4, 2, 8, 6, seanet=seanet)
    assert {k: tuple(v.shape) for k, v in SeanetCodec(c).state_dict().items()} == codec_shapes(c)


def test_spectral_shapes_are_the_torch_modules() -> None:
    from uniaudio_training.models.spectral import SpectralCodec

    c = tiny_config(4).codec
    assert {k: tuple(v.shape) for k, v in SpectralCodec(c).state_dict().items()} == codec_shapes(c)


def edit_tensors(
    change: Callable[[dict[str, Any]], Any], file: str = "lm.safetensors"
) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors, _ = load_tensors(folder / file)
        change(tensors)
        safetensors.numpy.save_file(tensors, folder / file)

    return apply


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return apply


def edit_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Rewrite the header of codec.safetensors and leave its data alone."""

    def apply(folder: Path) -> None:
        raw = (folder / "codec.safetensors").read_bytes()
        n = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + n])
        change(header)
        text = json.dumps(header).encode()
        (folder / "codec.safetensors").write_bytes(
            len(text).to_bytes(8, "little") + text + raw[8 + n :]
        )

    return apply


def cut(file: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size]) and None


def write(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


def set_nan(tensors: dict[str, Any]) -> None:
    tensors["bridge.weight"][1, 1] = np.nan


BOOKS = "quantizer.codebooks"
CASES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing tensor": (edit_tensors(lambda t: t.pop("bridge.weight")), ["missing bridge.weight"]),
    "extra tensor": (
        edit_tensors(lambda t: t.update(more=np.zeros(3, np.float32))),
        ["left over more"],
    ),
    "many": (
        edit_tensors(lambda t: [t.pop(k) for k in list(t) if "local" in k], "lm.safetensors"),
        ["missing local.embed.weight", "more"],
    ),
    "misshapen": (
        edit_tensors(lambda t: t.update({"bridge.bias": np.zeros(3, np.float32)})),
        ["bridge.bias [3] (expected [16])"],
    ),
    "dtype": (
        edit_tensors(lambda t: t.update({"bridge.bias": np.zeros(16, np.int32)})),
        ["bridge.bias int32"],
    ),
    "nan": (edit_tensors(set_nan), ["NaN", "bridge.weight"]),
    "bf16 infinity": (
        lambda f: save_tensors(
            f / "codec.safetensors",
            {
                k: np.full(v.shape, 0x7F80, np.uint16)
                for k, v in load_tensors(f / "codec.safetensors")[0].items()
            },
        ),
        ["infinity"],
    ),
    "truncated data": (cut("lm.safetensors", 9000), ["truncated"]),
    "truncated header": (cut("codec.safetensors", 100), ["truncated"]),
    "empty weights": (cut("codec.safetensors", 0), ["got 0 bytes"]),
    "no weights": (lambda f: (f / "codec.safetensors").unlink(), ["codec.safetensors"]),
    "trailing bytes": (
        lambda f: write("codec.safetensors", (f / "codec.safetensors").read_bytes() + b"x" * 9)(f),
        ["expected"],
    ),
    "header length": (
        write("codec.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        ["header length"],
    ),
    "header garbage": (
        write("codec.safetensors", (5).to_bytes(8, "little") + b"\xff{}]["),
        ["JSON header"],
    ),
    "header nested": (
        write("codec.safetensors", (60000).to_bytes(8, "little") + b"[" * 60000),
        ["JSON header"],
    ),
    "overlap": (
        edit_header(lambda h: h[BOOKS].update(data_offsets=[8, 8 + 3 * 16 * 8 * 4])),
        ["overlap or gap"],
    ),
    "huge shape": (
        edit_header(lambda h: h[BOOKS].update(shape=[1 << 61, 1 << 61])),
        ["does not fill"],
    ),
    "huge empty shape": (
        edit_header(
            lambda h: h.update(
                {"a": {"dtype": "F32", "shape": [1 << 61, 0], "data_offsets": [0, 0]}}
            )
        ),
        ["shape"],
    ),
    "offsets beyond": (
        edit_header(lambda h: h[BOOKS].update(shape=[1 << 40], data_offsets=[0, 4 << 40])),
        ["truncated"],
    ),
    "negative": (edit_header(lambda h: h[BOOKS].update(data_offsets=[-4, 0])), ["whole numbers"]),
    "bool shape": (edit_header(lambda h: h[BOOKS].update(shape=[True])), ["whole numbers"]),
    "odd dtype": (edit_header(lambda h: h[BOOKS].update(dtype="F8")), ["dtype"]),
    "unknown key": (edit_config(lambda c: c.update(colour="red")), ["unknown key 'colour'"]),
    "unknown nested key": (
        edit_config(lambda c: c["lm"]["global"].update(colour=1)),
        ["lm.global", "colour"],
    ),
    "missing key": (edit_config(lambda c: c["lm"].pop("vocab_size")), ["'vocab_size' is missing"]),
    "newer format": (
        edit_config(lambda c: c.update(format_version=99)),
        ["format_version", "upgrade"],
    ),
    "hostile config": (
        edit_config(lambda c: c["lm"].update(vocab_size=1 << 40)),
        ["lm.vocab_size"],
    ),
    "larger config": (
        edit_config(lambda c: c["codec"]["spectral"].update(decoder_blocks=9000)),
        ["codec.safetensors"],
    ),
    "wrong type": (
        edit_config(lambda c: c["lm"].update(vocab_size="12")),
        ["lm.vocab_size", "expected int"],
    ),
    "not json": (write("config.json", b"{"), ["JSON"]),
    "long number": (write("config.json", b'{"format_version": ' + b"9" * 6000 + b"}"), ["JSON"]),
    "nested json": (write("config.json", b"[" * 100000), ["config.json"]),
    "not utf-8": (write("config.json", b"\xff\xfe"), ["config.json"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "phones": (write("phones.txt", b"sil\nAA\n"), ["phones.txt 2 phones"]),
    "phones twice": (write("phones.txt", b"sil\nAA\nB\nB\n"), ["once"]),
    "left over lm": (
        edit_config(lambda c: (c.pop("lm"), c.pop("vocabulary"))),
        ["lm.safetensors is left over"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_folders_are_one_line(case: str, folder: Path) -> None:
    damage, words = CASES[case]
    damage(folder)
    refused(folder, *words)


def test_codec_only_folder(folder: Path) -> None:
    edit_config(lambda c: (c.pop("lm"), c.pop("vocabulary")))(folder)
    (folder / "lm.safetensors").unlink()
    assert load_folder(folder).lm == {}


def test_no_such_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "expected a model folder")
    with pytest.raises(InputError, match="expected a model folder"):
        find_folder("somebody/model")


def test_saving_wrong_weights_writes_nothing(tmp_path: Path) -> None:
    from uniaudio_engine.storage.folder_writing import save_folder

    config = tiny_config(4)
    assert config.lm is not None
    lm = random_weights(lm_shapes(config.lm))
    lm.pop("head.weight")
    with pytest.raises(InputError, match="missing head"):
        save_folder(tmp_path / "m", config, random_weights(codec_shapes(config.codec)), lm, PHONES)
    assert not (tmp_path / "m").exists()


BUNDLED = load_config(find_folder("base"))


@pytest.mark.parametrize("name", [s.name for s in BUNDLED.vocabulary.aligned_spans])  # type: ignore[union-attr]
def test_a_task_whose_aligned_span_is_missing_is_refused_at_load(name: str) -> None:
    assert BUNDLED.vocabulary is not None
    spans = tuple(
        dataclasses.replace(s, name="other") if s.name == name else s
        for s in BUNDLED.vocabulary.aligned_spans
    )
    changed = dataclasses.replace(
        BUNDLED, vocabulary=dataclasses.replace(BUNDLED.vocabulary, aligned_spans=spans)
    )
    if name == "time_left":  # counted where the model knows it
        check_model(changed, (), Path("model"))
        return
    with pytest.raises(InputError, match=f"needs .*{name}, which|needs {name}"):
        check_model(changed, (), Path("model"))
