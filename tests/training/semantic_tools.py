"""An artificial language for tests of the semantic tokenizer: phone p is a noise band, its speakers are
levels; and a tokenizer that has learned it.
"""

import json

import numpy as np
import pytest
from uniaudio_training.semantic import train_semantic
from uniaudio_training.semantic.train_semantic import SemanticSettings
from uniaudio_training.settings import settings_from

SPOKEN = ("s", "m", "ah1", "iy0", "sh")
SETTINGS = {
    "precision": "float32",
    "batch": 4,
    "frames": 24,
    "warmup": 2,
    "unquantized": 2,
    "validate_every": 100,
    "speaker_weight": 0.1,
    "semantic": {
        "delay": 2,
        "encoder": {
            "family": "spectral",
            "num_codebooks": 1,
            "codebook_size": 24,
            "codebook_dim": 8,
            "spectral": {
                "encoder_window": 400,
                "encoder_width": 24,
                "encoder_blocks": 1,
                "encoder_hidden": 32,
                "encoder_phases": False,
                "decoder_blocks": 0,
            },
        },
    },
}


def tone(hz, n, rng):
    return np.sin(2 * np.pi * hz * np.arange(n) / 16000 + rng.uniform(0, 6)) * np.float32(0.5)


def write_shard(folder, split, clips, seed, shift=0.0):
    """A phone is a tone of its own (so that a test can read it back); speakers are a little sharper
    or flatter.
    """
    rng = np.random.default_rng(seed)
    pcm, lines, offset = [], [], 0
    for c in range(clips):
        who = c % 3
        phones, parts, end = [], [], 0
        for _ in range(12):
            p = int(rng.integers(-1, len(SPOKEN)))
            n = int(rng.integers(900, 2600))
            end += n
            phones.append(("pau" if p < 0 else SPOKEN[p], end / 16000))
            parts.append(
                np.zeros(n) if p < 0 else tone((500 + 1000 * p + shift) * (1 + 0.01 * who), n, rng)
            )
        x = np.round(np.concatenate(parts) * 32767).astype(np.int16)
        lines.append(
            json.dumps(
                {
                    "offset": offset,
                    "samples": len(x),
                    "text": "",
                    "speaker": f"tone-{who}",
                    "phones": phones,
                }
            )
        )
        pcm.append(x)
        offset += len(x)
    np.save(folder / f"speech-{split}-0000.npy", np.concatenate(pcm))
    (folder / f"speech-{split}-0000.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def semantic_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, clips) in enumerate((("train", 60), ("valid", 6), ("test", 30))):
        write_shard(folder, split, clips, seed)
    return folder


def train(settings, folder):
    train_semantic.train(settings_from(SemanticSettings, settings), folder, "cpu")


@pytest.fixture(scope="module")
def semantic_run(semantic_corpus, tmp_path_factory):
    """120 steps, enough for tones."""
    folder = tmp_path_factory.mktemp("run")
    config = {
        **SETTINGS,
        "data": str(semantic_corpus),
        "steps": 120,
        "unquantized": 20,
        "warmup": 5,
        "lr": 4e-3,
        "frames": 48,
    }
    train(config, folder)
    return folder
