"""Random Mimi and CAT checkpoints under their authors' names, and CAT by its definition in float64.

The definition follows OpenMOSS's description of the model, tensor by tensor, in NumPy; Mimi's truth
is ``MimiModel`` of transformers (tests/training/test_mimi_transformers.py).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from uniaudio_engine.importers.archive import Member
from uniaudio_engine.importers.mimi import read_config
from uniaudio_engine.importers.seanet import seanet_names
from uniaudio_engine.storage.tensors import save_tensors
from uniaudio_engine.storage.weight_shapes import codec_shapes

Config = dict[str, Any]
State = dict[str, np.ndarray]

MIMI: Config = {
    "model_type": "mimi",
    "sampling_rate": 2400,
    "audio_channels": 1,
    "hidden_size": 32,
    "num_filters": 4,
    "num_residual_layers": 1,
    "upsampling_ratios": [3, 2],
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "compress": 2,
    "codebook_size": 64,
    "codebook_dim": 16,
    "num_quantizers": 6,
    "vector_quantization_hidden_dimension": 16,
    "num_semantic_quantizers": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "sliding_window": 20,
    "upsample_groups": 32,
}


def patch(size: int) -> Config:
    return {"module_type": "PatchedPretransform", "patch_size": size}


def stage(inputs: int, outputs: int, layers: int, seconds: float, **changes: Any) -> Config:
    return {
        "module_type": "Transformer",
        "input_dimension": inputs,
        "output_dimension": outputs,
        "d_model": 16,
        "num_heads": 2,
        "num_layers": layers,
        "dim_feedforward": 24,
        "causal": True,
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "max_period": 10000,
        "gating": "none",
        "layer_scale": 0.01,
        "conv_layout": True,
        "context_duration": seconds,
    } | changes


CAT: Config = {
    "model_type": "moss-audio-tokenizer",
    "sampling_rate": 1200,
    "downsample_rate": 12,
    "number_channels": 2,
    "enable_channel_interleave": True,
    "encoder_kwargs": [patch(6), stage(6, 8, 2, 0.1), patch(2), stage(16, 16, 1, 0.2), patch(2)],
    "decoder_kwargs": [patch(2), stage(16, 24, 1, 0.2), patch(2), stage(12, 6, 2, 0.1), patch(6)],
    "quantizer_type": "rlfq",
    "quantizer_kwargs": {
        "quantizer_type": "rlfq",
        "input_dim": 32,
        "rvq_dim": 20,
        "output_dim": 32,
        "num_quantizers": 5,
        "codebook_size": 64,
        "codebook_dim": 4,
    },
}


def write(folder: Path, config: Config, state: State) -> Path:
    """A checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_tensors(folder / "model.safetensors", state)
    return folder


# --- Mimi ----------------------------------------------------------------------------------------


def mimi_state(config: Config, folder: Path, seed: int = 0) -> State:
    """Random tensors of a ``MimiModel``."""
    path = folder / "mimi_state.json"
    path.write_text(json.dumps(config))
    codec = read_config(Member(path, path.name, path))[0]
    path.unlink()
    rng = np.random.default_rng(seed)
    assert codec.seanet is not None and codec.quantizer is not None
    shapes = codec_shapes(codec)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        fan = math.prod(shape[1:]) if len(shape) > 1 else 25
        return (rng.standard_normal(shape) * 1.5 / math.sqrt(fan)).astype(np.float32)

    state: State = {}
    for ours, theirs in seanet_names(codec.seanet, "transformers"):
        for part in ("weight", "bias"):
            state[f"{theirs}.{part}"] = values(shapes[f"{ours}.{part}"])
    width, wide = config["hidden_size"], config["intermediate_size"]
    for side in ("encoder", "decoder"):
        for i in range(config["num_hidden_layers"]):
            layer = f"{side}_transformer.layers.{i}"
            for norm in ("input_layernorm", "post_attention_layernorm"):
                state[f"{layer}.{norm}.weight"] = 1 + values((width,))
                state[f"{layer}.{norm}.bias"] = values((width,))
            for part in "qkvo":
                state[f"{layer}.self_attn.{part}_proj.weight"] = values((width, width))
            state[f"{layer}.mlp.fc1.weight"] = values((wide, width))
            state[f"{layer}.mlp.fc2.weight"] = values((width, wide))
            state[f"{layer}.self_attn_layer_scale.scale"] = values((width,))
            state[f"{layer}.mlp_layer_scale.scale"] = values((width,))
    taps = shapes["decoder.up.weight"][1]
    state["downsample.conv.weight"] = values(shapes["encoder.down.weight"])
    state["upsample.conv.weight"] = values((width, 1, taps))
    size, dim = codec.codebook_size, codec.codebook_dim
    semantic = codec.quantizer.semantic_codebooks
    for kind, count in (("semantic", semantic), ("acoustic", codec.num_codebooks - semantic)):
        quantizer = f"quantizer.{kind}_residual_vector_quantizer"
        state[f"{quantizer}.input_proj.weight"] = values((dim, width, 1))
        state[f"{quantizer}.output_proj.weight"] = values((width, dim, 1))
        for i in range(count):
            book = f"{quantizer}.layers.{i}.codebook"
            state[f"{book}.embed_sum"] = rng.standard_normal((size, dim)).astype(np.float32)
            state[f"{book}.cluster_usage"] = rng.uniform(0.5, 2, size).astype(np.float32)
            state[f"{book}.initialized"] = np.ones(1, np.float32)
    return state


# --- CAT -----------------------------------------------------------------------------------------


def cat_state(config: Config, seed: int = 0, layout: int = 1) -> State:
    """Random tensors; ``layout`` 1 or 2: the names of the model's first or second version."""
    rng = np.random.default_rng(seed)
    state: State = {}

    def values(name: str, *shape: int, scale: float = 1.5) -> None:
        fan = math.prod(shape[1:]) if len(shape) > 1 else 25
        x = rng.standard_normal(shape) * scale / math.sqrt(fan)
        state[name] = (x + name.endswith(("norm1.weight", "norm2.weight"))).astype(np.float32)

    def convolution(name: str, inputs: int, outputs: int) -> None:
        if layout == 2 and inputs == outputs:
            return  # nothing there: the identity
        values(f"{name}.parametrizations.weight.original0", outputs, 1, 1)
        values(f"{name}.parametrizations.weight.original1", outputs, inputs, 1)
        values(f"{name}.bias", outputs, scale=0.1)

    for side in ("encoder", "decoder"):
        for i, m in enumerate(config[f"{side}_kwargs"]):
            if m["module_type"] != "Transformer":
                continue
            width, wide = m["d_model"], m["dim_feedforward"]
            for name, inputs, outputs in (
                ("input_proj", m["input_dimension"], width),
                ("output_proj", width, m["output_dimension"]),
            ):
                # the first version has none where it would change no width
                if layout == 2 or inputs != outputs:
                    scale = 12.0 if (side, i) == ("encoder", 1) else 1.5
                    values(f"{side}.{i}.{name}.weight", outputs, inputs, scale=scale)
            parts = (
                ("self_attn.in_projs.0", "self_attn.out_projs.0", "linear1", "linear2")
                if layout == 1
                else ("self_attn.in_proj", "self_attn.out_proj", "ffn.0", "ffn.2")
            )
            for n in range(m["num_layers"]):
                layer = f"{side}.{i}.transformer.layers.{n}"
                shapes = ((3 * width, width), (width, width), (wide, width), (width, wide))
                for part, shape in zip(parts, shapes, strict=True):
                    values(f"{layer}.{part}.weight", *shape)
                for k in (1, 2):
                    values(f"{layer}.norm{k}.weight", width)
                    values(f"{layer}.norm{k}.bias", width)
                    values(f"{layer}.layer_scale_{k}.scale", width)
    q = config["quantizer_kwargs"]
    convolution("quantizer.input_proj", q["input_dim"], q["rvq_dim"])
    convolution("quantizer.output_proj", q["rvq_dim"], q["output_dim"])
    for k in range(q["num_quantizers"]):
        name = f"quantizer.quantizers.{k}"
        convolution(f"{name}.in_proj", q["rvq_dim"], q["codebook_dim"])
        convolution(f"{name}.out_proj", q["codebook_dim"], q["rvq_dim"])
        values(f"{name}.codebook.weight", q["codebook_size"], q["codebook_dim"])
    return state


class CatReference:
    """The codec by its definition, in float64; rows are [T, width]."""

    def __init__(self, config: Config, state: State) -> None:
        self.c, self.s = config, {k: v.astype(np.float64) for k, v in state.items()}
        self.channels, self.q = config["number_channels"], config["quantizer_kwargs"]

    def latent(self, samples: np.ndarray) -> np.ndarray:
        """samples [C, N] -> [T, latent]."""
        frame, rate = self.c["downsample_rate"], float(self.c["sampling_rate"] * self.channels)
        x = np.pad(samples.astype(np.float64), ((0, 0), (0, -samples.shape[1] % frame)))
        x = x.T.reshape(-1, 1)
        for i, m in enumerate(self.c["encoder_kwargs"]):
            if m["module_type"] == "Transformer":
                x = self.stage(f"encoder.{i}", m, x, rate)
            else:  # a row lists a channel's steps, channel after channel
                size = m["patch_size"]
                x = x.reshape(-1, size, x.shape[1]).swapaxes(1, 2).reshape(len(x) // size, -1)
                rate /= size
        return x

    def encode(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes [K, T], how far the best cosine is above the second [K, T])."""
        residual = self.convolution("quantizer.input_proj", self.latent(samples))
        codes, gaps = [], []
        for k in range(self.q["num_quantizers"]):
            name = f"quantizer.quantizers.{k}"
            e = self.convolution(f"{name}.in_proj", residual)
            book = self.s[f"{name}.codebook.weight"]
            unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (e, book)]
            cosines = unit[0] @ unit[1].T
            codes.append(cosines.argmax(1))
            best = np.sort(cosines, axis=1)
            gaps.append(best[:, -1] - best[:, -2])
            residual = residual - self.convolution(f"{name}.out_proj", book[codes[-1]])
        return np.stack(codes), np.stack(gaps)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes [K', T] -> samples [C, N]."""
        x = np.zeros((codes.shape[1], self.q["rvq_dim"]))
        for k, row in enumerate(codes):
            name = f"quantizer.quantizers.{k}"
            x += self.convolution(f"{name}.out_proj", self.s[f"{name}.codebook.weight"][row])
        x = self.convolution("quantizer.output_proj", x)
        rate = self.c["sampling_rate"] / self.c["downsample_rate"]
        for i, m in enumerate(self.c["decoder_kwargs"]):
            if m["module_type"] == "Transformer":
                x = self.stage(f"decoder.{i}", m, x, rate)
            else:
                size = m["patch_size"]
                x = x.reshape(len(x), -1, size).swapaxes(1, 2).reshape(len(x) * size, -1)
                rate *= size
        return x.reshape(-1, self.channels).T

    def convolution(self, name: str, x: np.ndarray) -> np.ndarray:
        if f"{name}.bias" not in self.s:
            return x
        gain, way = (self.s[f"{name}.parametrizations.weight.original{i}"] for i in (0, 1))
        weight = (gain * way / np.linalg.norm(way, axis=1, keepdims=True))[:, :, 0]
        return x @ weight.T + self.s[f"{name}.bias"]

    def linear(self, x: np.ndarray, *names: str) -> np.ndarray:
        """By the first of the names that is there; unchanged where none is."""
        found = next((self.s[f"{n}.weight"] for n in names if f"{n}.weight" in self.s), None)
        return x if found is None else x @ found.T

    def stage(self, name: str, m: Config, x: np.ndarray, rate: float) -> np.ndarray:
        x = self.linear(x, f"{name}.input_proj")
        window = round(rate * m["context_duration"])
        for i in range(m["num_layers"]):
            layer = f"{name}.transformer.layers.{i}"
            y = self.attention(layer, self.norm(x, f"{layer}.norm1"), m, window)
            x = x + self.s[f"{layer}.layer_scale_1.scale"] * y
            y = self.linear(self.norm(x, f"{layer}.norm2"), f"{layer}.linear1", f"{layer}.ffn.0")
            y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
            y = self.linear(y, f"{layer}.linear2", f"{layer}.ffn.2")
            x = x + self.s[f"{layer}.layer_scale_2.scale"] * y
        return self.linear(x, f"{name}.output_proj")

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * self.s[f"{name}.weight"] + self.s[f"{name}.bias"]

    def attention(self, layer: str, x: np.ndarray, m: Config, window: int) -> np.ndarray:
        steps, heads = len(x), m["num_heads"]
        name = f"{layer}.self_attn"
        qkv = self.linear(x, f"{name}.in_projs.0", f"{name}.in_proj")
        q, k, v = qkv.reshape(steps, 3, heads, -1).transpose(1, 2, 0, 3)
        half = q.shape[-1] // 2
        angle = np.arange(steps)[:, None] * float(m["max_period"]) ** (-np.arange(half) / half)
        turn = np.exp(1j * angle)

        def rope(a: np.ndarray) -> np.ndarray:  # neighbours are a complex number
            turned = (a[..., ::2] + 1j * a[..., 1::2]) * turn
            return np.stack((turned.real, turned.imag), -1).reshape(a.shape)

        scores = rope(q) @ rope(k).swapaxes(1, 2) / math.sqrt(2 * half)
        delta = np.arange(steps)[:, None] - np.arange(steps)
        scores = np.where((delta >= 0) & (delta < window), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = (weights / weights.sum(-1, keepdims=True)) @ v
        return self.linear(
            y.swapaxes(0, 1).reshape(steps, -1), f"{name}.out_projs.0", f"{name}.out_proj"
        )
