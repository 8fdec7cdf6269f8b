"""docs/new-task.md in a minute: a small model of two tasks learns a third from a task file,
performs it, and keeps the other two.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

sf = pytest.importorskip("soundfile")
pytest.importorskip("torch", reason="the trainers need torch")
yaml = pytest.importorskip("yaml")

from uniaudio_training import bundle
from uniaudio_training.evaluate.metrics import log_mel_distance
from uniaudio_training.lm import tokenize
from uniaudio_training.lm.caption_tokenizer import train_captions
from uniaudio_training.lm.setup import LMSettings
from uniaudio_training.lm.validation import FILE, Record
from uniaudio_training.settings import read_settings
from uniaudio_training.train import main as train_main
from uniaudio_training.user_tasks import read_user_tasks

from uniaudio_engine import Engine
from uniaudio_engine.cli.main import main as uniaudio
from uniaudio_engine.storage.folder import bundled_models

BOUND = 0.05  # nats a code that no old task may lose
EXAMPLE = Path(__file__).parents[2] / "training" / "new-task"
CAPTIONS = ["a low melody", "a high melody"]
PITCHES = np.array([[150.0, 200.0, 250.0], [350.0, 400.0, 450.0]])  # multiples of the frame rate
SHIFT = {
    "name": "shift",
    "help": "play a melody a note higher or lower",
    "length": "source",
    "finish": "length",
    "example": "uniaudio run shift",
    "temperature": 0.3,
    "inputs": [
        {"name": "way", "modality": "tokens", "segment": "way", "help": "up or down"},
        {
            "name": "source",
            "modality": "audio",
            "segment": "source",
            "place": "aligned",
            "help": "the melody",
        },
    ],
}
LM = {
    "global": {"layers": 2, "width": 96, "heads": 2, "mlp_width": 192},
    "local": {"layers": 1, "width": 96, "heads": 2, "mlp_width": 192, "positions": "learned"},
}
COMMON = {
    "rows": 4,
    "items": 900,
    "warmup": 10,
    "validate_every": 10000,
    "validation_batches": 2,
    "threads": 1,
}


def melody(pitches):
    """Notes of 0.24 s with overtones up to 7 kHz.

    Whole periods a frame: a note's frames are alike, so little is to be learned.
    """
    t = np.arange(3840) / 16000
    notes = []
    for f0 in pitches:
        partials = np.arange(1, int(7000 / f0) + 1)
        notes.append(
            (
                np.sin(2 * np.pi * f0 * partials[:, None] * t + partials[:, None] ** 2)
                / partials[:, None] ** 0.7
            ).sum(0)
        )
    x = np.concatenate(notes)
    return (0.1 * x / np.sqrt(np.mean(x**2))).astype(np.float32)


def recordings(folder):
    """Sounds and manifests: two old tasks, and the new one, which moves each note to its neighbour
    above or below, round in its octave.
    """
    rng = np.random.default_rng(5)
    old, new = [], []
    for split, count in (("train", 96), ("valid", 24), ("test", 6)):
        for n in range(count):
            name, high, way = f"{split}-{n}", n // 2 % 2, ("up", "down")[n % 2]
            notes = rng.integers(0, 3, 4)
            x = melody(PITCHES[high][notes])
            made = {
                "clean": x,
                "noisy": x + 0.02 * rng.standard_normal(len(x)),
                way: melody(PITCHES[high][(notes + (1 if way == "up" else -1)) % 3]),
            }
            for what, samples in made.items():
                sf.write(folder / f"{name}-{what}.wav", samples, 16000)
            old.append(
                {
                    "audio": f"{name}-clean.wav",
                    "source": f"{name}-noisy.wav",
                    "task": "se",
                    "split": split,
                }
            )
            old.append(
                {
                    "audio": f"{name}-clean.wav",
                    "caption": CAPTIONS[high],
                    "task": "t2s",
                    "split": split,
                }
            )
            new.append(
                {
                    "audio": f"{name}-{way}.wav",
                    "source": f"{name}-clean.wav",
                    "way": way,
                    "task": "shift",
                    "split": split,
                }
            )
    for name, lines in (("old", old), ("mine", new)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [line for line in new if line["split"] == "test"]


@pytest.mark.slow
def test_a_third_task_from_a_file(tmp_path, capsys):
    test = recordings(tmp_path)
    bundled = str(next(iter(bundled_models().values())))
    task_file = str(tmp_path / "shift.json")
    Path(task_file).write_text(json.dumps(SHIFT))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "way.txt").write_text("up\ndown\n")

    # A model of two tasks, as one that a user has.
    assert bundle.main(["--base", bundled, "--out", str(tmp_path / "codec")]) == 0
    (tmp_path / "text.model").write_bytes(train_captions(CAPTIONS * 20, 270))
    assert (
        tokenize.main(
            [
                "--model",
                str(tmp_path / "codec"),
                "--corpus",
                str(tmp_path / "old.jsonl"),
                "--out",
                str(tmp_path / "old-tokens"),
                "--units",
            ]
        )
        == 0
    )
    config = {
        **COMMON,
        "init": str(tmp_path / "codec"),
        "captions": str(tmp_path / "text.model"),
        "data": str(tmp_path / "old-tokens"),
        "tasks": {"se": 0.5, "t2s": 0.5},
        "lm": LM,
        "steps": 120,
        "lr": 3e-3,
        "matrix_lr": 2e-2,
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    assert (
        train_main(
            [
                "lm",
                "--config",
                str(tmp_path / "base.yaml"),
                "--out",
                str(tmp_path / "base-run"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    base = tmp_path / "base"
    bundle.write_folder(
        base,
        "base",
        None,
        str(tmp_path / "base-run"),
        "",
        tmp_path / "codec",
        (tmp_path / "text.model").read_bytes(),
    )
    shutil.copytree(Path(bundled) / "voices", base / "voices")

    # What the user does.
    mine = [
        "--corpus",
        str(tmp_path / "mine.jsonl"),
        "--task-files",
        task_file,
        "--out",
        str(tmp_path / "mine-tokens"),
    ]
    assert tokenize.main(["--model", str(base), *mine]) == 0
    config = {
        **COMMON,
        "init": str(base),
        "task_files": [task_file],
        "data": [str(tmp_path / "old-tokens"), str(tmp_path / "mine-tokens")],
        "tasks": {"shift": 0.95},
        "old": 0.05,
        "bound": BOUND,
        "steps": 90,
        "lr": 2e-3,
        "matrix_lr": 5e-3,
        "decay_share": 0.8,
    }
    (tmp_path / "finetune.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    assert (
        train_main(
            [
                "lm",
                "--config",
                str(tmp_path / "finetune.yaml"),
                "--out",
                str(run),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    folder = tmp_path / "folder"
    assert (
        bundle.main(
            [
                "--base",
                str(base),
                "--lm",
                str(run),
                "--card",
                str(EXAMPLE / "card.md"),
                "--out",
                str(folder),
            ]
        )
        == 0
    )

    # It was measured, within its bound, and said.
    changes = Record(run, ("se", "t2s")).changes()
    assert (
        set(changes) == {"se", "t2s"}
        and max(after - before for before, after in changes.values()) <= BOUND
    )
    rows = [json.loads(line)["losses"]["shift"] for line in (run / FILE).read_text().splitlines()]
    assert np.mean(rows[-1][:4]) < 0.4 * np.mean(rows[0][:4])
    assert "old tasks, nats a code: se" in capsys.readouterr().out

    # The folder says what it can do, and does it: nearer to the truth than what came, and than the
    # other label's answer.
    entries = json.loads((folder / "config.json").read_text())["tasks"]
    assert [e if isinstance(e, str) else e["name"] for e in entries] == ["shift", "se", "t2s"]
    assert (folder / "labels" / "way.txt").read_text() == "up\ndown\n" and len(
        list((folder / "voices").iterdir())
    ) > 1
    engine = Engine.from_pretrained(folder, threads=1)
    distances = []
    for line in test:
        source, truth = (
            sf.read(tmp_path / line[k], dtype="float32")[0] for k in ("source", "audio")
        )
        made = engine.generate("shift", way=line["way"], source=(source, 16000), seed=0).samples
        other = engine.generate(
            "shift", way="down" if line["way"] == "up" else "up", source=(source, 16000), seed=0
        ).samples
        assert len(made) == len(source)
        truth, came = (
            engine.decode(engine.encode((x, 16000), 4)).samples for x in (truth, source)
        )  # in the codes that the answer is made of
        distances.append([log_mel_distance(x, truth, 16000) for x in (made, came, other)])
    made, came, other = np.mean(distances, 0)
    print(
        f"log-mel distance to the truth: {made:.2f} dB, of what came {came:.2f}, with the other "
        f"label {other:.2f}; old tasks {changes}"
    )
    assert made < 0.8 * min(came, other)
    assert (
        uniaudio(
            [
                "run",
                "shift",
                "-m",
                str(folder),
                "way=up",
                f"source={tmp_path / test[1]['source']}",
                "-o",
                str(tmp_path / "out.wav"),
            ]
        )
        == 0
    )
    assert np.isfinite(
        engine.generate("t2s", text="a low melody", seconds=0.5, seed=1).samples
    ).all()


def test_the_example_of_the_walk_through_is_whole():
    """Its task file, labels, settings and recordings fit each other; running it takes minutes
    (docs/new-task.md).
    """
    user = read_user_tasks([EXAMPLE / "effect.json"])["effect"]
    spec = importlib.util.spec_from_file_location(
        "recordings_of_the_example", EXAMPLE / "make_recordings.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert tuple(example.EFFECTS) == user.labels["effect"] and example.TASK == "effect"
    x = 0.3 * np.random.default_rng(0).standard_normal(16000)
    for effect in example.EFFECTS.values():
        y = effect(x)
        assert y.shape == x.shape and np.isfinite(y).all() and np.abs(y - x).max() > 0.05
    settings = read_settings(LMSettings, EXAMPLE / "finetune.yaml")
    assert settings.bound == 0.1 and settings.tasks == {"effect": 0.6}
