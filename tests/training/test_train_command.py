"""The command ``uniaudio-train``: its subcommands, their settings, and its errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the trainers need torch")
pytest.importorskip("yaml")

import importlib

from uniaudio_training import train
from uniaudio_training.settings import read_settings

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
# a config's trainer is the longest name that its own begins with
BY_CONFIG = {
    # named after their trainer; whole models are language models
    path.name: max((t for t in train.TRAINERS if path.stem.startswith(t)), key=len, default="lm")
    for path in sorted(CONFIGS.glob("*.yaml"))
}


def settings_class(name):
    module, kind, _ = train.TRAINERS[name]
    return getattr(importlib.import_module(f"uniaudio_training.{module}"), kind)


@pytest.mark.parametrize("name", BY_CONFIG)
def test_the_configs_that_come_along_are_read(name):
    kind = settings_class(BY_CONFIG[name])
    assert isinstance(read_settings(kind, CONFIGS / name), kind)


@pytest.mark.parametrize("name", [*train.COMMANDS, *train.TRAINERS])
def test_every_subcommand_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert f"usage: uniaudio-train {name}" in text
    assert re.search(rf"examples?: uniaudio-train {name}", text)


@pytest.mark.parametrize("name", train.TRAINERS)
def test_settings_are_listed(name, capsys):
    assert train.main([name, "--settings"]) == 0
    text = capsys.readouterr().out
    assert "precision: Precision = 'auto'" in text
    assert re.search(r"^  (data|sources|speech): ", text, re.M)


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom uniaudio_training.train import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in (*train.COMMANDS, *train.TRAINERS):
        assert re.search(rf"\n    {name}\s", done.stdout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz: 1", "unknown key 'stepz'"),
        ("steps: many", "steps: expected int"),
        ("steps: 0", "steps: expected 1 or more, got 0"),
        ("precision: float16", "expected one of 'auto', 'float32', 'bfloat16'"),
        ("caption_dropout: 1.5", "caption_dropout: expected 0 to 1, got 1.5"),
        ("aligned_dropout: -1", "aligned_dropout: expected 0 to 1, got -1"),
        ("noise: {beside: 0.5}", "unknown key 'beside'"),
        ("[1, 2]", "expected a mapping of settings"),
        ("tasks: {se: [", "expected YAML"),
    ],
)
def test_a_wrong_config_gets_one_line(text, said, tmp_path, capsys):
    config = tmp_path / "lm.yaml"
    config.write_text(text)
    assert train.main(["lm", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_numbers_without_a_point(tmp_path):
    config = tmp_path / "lm.yaml"
    config.write_text("lr: 2e-4\nmatrix_lr: 1\n")
    settings = read_settings(
        settings_class("lm"), config, ["old=1e-1", "tasks={se: 2e-1}", "corpus="]
    )
    assert (settings.lr, settings.matrix_lr, settings.old) == (2e-4, 1.0, 0.1)
    assert settings.tasks == {"se": 0.2} and settings.corpus == ""
