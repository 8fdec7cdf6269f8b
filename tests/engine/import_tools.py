"""Random models in the file layout of the UniAudio repository, including everything else that its
trainers save.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

# Ids 0 to 52 of every UniAudio vocabulary; <unused_special_token> follows up to 127.
SPECIALS = (
    "pad continuous_token start end phone_start phone_end text_start text_end audio_start "
    "audio_end image_start image_end "
    "audio_prompt_start audio_prompt_end text_prompt_start text_prompt_end semantic_start "
    "semantic_end tts_task "
    "plain_tts_task lm_task phone_to_semantic_task semantic_to_acoustic_task mega_global "
    "mega_local text_emb_start "
    "text_emb_end asr_task VC_task AT_task class_event_start class_event_end Spex_task TTA_task "
    "rvq_start rvq_end TSS_task "
    "text_t5_start text_t5_end SV_task sv_bool_start sv_bool_end SE_task sing_task "
    "sing_phone_start sing_phone_end "
    "sing_midi_start sing_midi_end TTM_task Audit_task InstructTTS_task Speech_RIR_task "
    "speech_edit_task"
).split()
PHONES = ["<unk>", "SIL", "HH_B", "AH0_I", "L_I", "OW1_E"]  # the reference adds <UNK>


def token_list(slots: int, codes: int, spans: dict[str, int] | None = None) -> list[str]:
    """``spans`` after audio, in their order."""
    spans = (
        {"phone": len(PHONES) + 1, "semantic": 9, "sing_phone": 4, "sing_midi": 5, "sv_bool": 2}
        if spans is None
        else spans
    )
    tokens = [f"<{s}>" for s in SPECIALS]
    tokens += ["<unused_special_token>"] * (128 - len(tokens))
    return tokens + [
        f"<{n}_{i}>"
        for n, size in {"audio": slots * codes + 1, **spans}.items()
        for i in range(size)
    ]


def settings(
    tokens: list[str], *, layers: int, heads: int, width: int, slots: int, context: int
) -> dict[str, Any]:
    """config.yaml: all arguments of the training, of which few matter here."""
    return {
        "seed": 999,
        "train_data_jsons": ["data.ALL.json"],
        "learning_rate": 0.0006,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "dropout": 0.0,
        "bias": False,
        "block_size": context,
        "prefix_lm": False,
        "non_acoustic_repeat": slots,
        "whisper_model": True,
        "megabytes": True,
        "use_task_id": True,
        "audio_tokenizer": "soundstream",
        "resume": None,
        "token_list": tokens,
    }


def write_yaml(path: Path, data: dict[str, Any]) -> Path:
    import yaml

    path.write_text(
        yaml.safe_dump(data, indent=4, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return path


def save_training(path: Path, state: Any, prefix: str = "", **options: Any) -> Path:
    """A checkpoint as the trainer saves it, with the optimizer and a reporter beside the weights;
    the reporter's numbers are NumPy's, its times ``datetime``'s, and here some are of a class that
    cannot be imported.
    """
    import datetime

    import numpy as np
    import torch

    module = types.ModuleType("utils.reporter")
    average = dataclasses.make_dataclass(
        "WeightedAverage", [("value", float), ("weight", float)], frozen=True
    )
    average.__module__, module.WeightedAverage = "utils.reporter", average  # type: ignore[attr-defined]
    stats = defaultdict(lambda: None)
    stats.default_factory = None
    stats["train"] = {
        "loss": average(2.5, 10.0),
        "seq_len": np.float64(3),
        "time": datetime.timedelta(seconds=3),
    }
    model = OrderedDict((prefix + k, v) for k, v in state.items())
    moments = {
        k: {"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(v, dtype=torch.float32)}
        for k, v in model.items()
        if v.dim() == 1
    }
    checkpoint = {
        "model": model,
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]},
        "scheduler": {"warmup_steps": 10000, "last_epoch": 7},
        "reporter": {"stats": {1: stats}, "epoch": 1},
    }
    known = {name: sys.modules.get(name) for name in ("utils", "utils.reporter")}
    sys.modules.update({"utils": types.ModuleType("utils"), "utils.reporter": module})
    try:
        torch.save(checkpoint, path, **options)
    finally:
        for name, before in known.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
    return path


def write_lm(folder: Path, model: Any, tokens: list[str], dtype: Any = None, **save: Any) -> Path:
    """``ep1.checkpoint`` and ``config.yaml`` of a ``reference_lm.ReferenceLM``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v if dtype is None else v.to(dtype) for k, v in model.state_dict().items()}
    save_training(folder / "ep1.checkpoint", state, **save)
    attention = model.g_layers[0].attn
    write_yaml(
        folder / "config.yaml",
        settings(
            tokens,
            layers=len(model.g_layers),
            heads=attention.heads,
            width=attention.query.in_features,
            slots=model.slots,
            context=model.context,
        ),
    )
    return folder


def write_codec(folder: Path, codec: Any, sample_rate: int = 16000) -> Path:
    """``model.pth`` and ``config.yaml`` of a ``reference_codec.ReferenceCodec``."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = codec.state_dict()
    torch.save(
        {
            "codec_model": state,
            "disc_models": {"x": torch.zeros(3)},
            "optimizer_g": {"state": {}},
            "epoch": 3,
        },
        folder / "model.pth",
    )
    ratios = [m.stride for m in codec.decoder.model if hasattr(m, "convtr")]
    bandwidth = len(codec.books) * -(-sample_rate // codec.hop) * 10 / 1000
    config = {
        "n_filters": state["encoder.model.0.conv.conv.bias"].shape[0],
        "D": codec.books[0].embed.shape[1],
        "ratios": ratios,
        "target_bandwidths": [bandwidth / 2, bandwidth],
        "sample_rate": sample_rate,
        "bins": codec.books[0].embed.shape[0],
    }
    write_yaml(
        folder / "config.yaml",
        {"generator": {"name": "SoundStream", "config": config}, "audio_norm_scale": 0.95},
    )
    return folder


def tiny_files(
    folder: Path,
    slots: int = 3,
    width: int = 24,
    layers: int = 4,
    codes: int = 16,
    context: int = 512,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A tiny model's folders ``folder/lm`` and ``folder/codec``; returns both mirrors."""
    import torch
    from reference_codec import ReferenceCodec
    from reference_lm import ReferenceLM

    torch.manual_seed(seed)
    tokens = token_list(slots, codes)
    lm = ReferenceLM(len(tokens), context, width, 2 if slots == 8 else 3, layers, slots).randomize(
        seed
    )
    codec = ReferenceCodec(
        filters=4, width=12, ratios=(5, 4, 2), codebooks=max(slots, 4), codes=codes
    ).randomize(seed)
    write_lm(folder / "lm", lm, tokens)
    write_codec(folder / "codec", codec)
    (folder / "phone_dict").write_text("".join(f"{p} {i}\n" for i, p in enumerate(PHONES)))
    (folder / "lexicon.txt").write_text("HELLO HH AH0 L OW1\n")
    return lm, codec


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
