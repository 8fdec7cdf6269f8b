"""pyproject.toml matches the repository, and both distributions have the same version."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import uniaudio_engine
from uniaudio_engine.cli import export
from uniaudio_engine.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
ENGINE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TRAINING = tomllib.loads((ROOT / "training" / "pyproject.toml").read_text(encoding="utf-8"))


def entry_points(project: dict[str, Any]) -> dict[str, str]:
    groups = {"scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    return {f"{g}/{name}": value for g, points in groups.items() for name, value in points.items()}


POINTS = {**entry_points(ENGINE["project"]), **entry_points(TRAINING["project"])}


@pytest.mark.parametrize("point", POINTS)
def test_entry_points_are_functions(point: str) -> None:
    module, _, function = POINTS[point].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("folder", "config"), [("", ENGINE), ("training", TRAINING)], ids=["engine", "training"]
)
def test_every_pattern_of_package_data_matches_a_file(folder: str, config: dict[str, Any]) -> None:
    optional = {"*.pyi"}  # stubs of the compiled module
    for package, patterns in config["tool"]["setuptools"]["package-data"].items():
        place = {"uniaudio_engine.examples": "examples"}.get(package, package)
        for pattern in set(patterns) - optional:
            assert any((ROOT / folder / place).glob(pattern)), f"{package}: {pattern}"


def test_one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **about: said.update(about))
    runpy.run_path(str(ROOT / "training" / "setup.py"))
    assert said["version"] == uniaudio_engine.__version__
    assert f"uniaudio-engine=={uniaudio_engine.__version__}" in said["install_requires"]
    for file in (ROOT / "pyproject.toml", ROOT / "training" / "pyproject.toml"):
        assert not re.search(r"^version = \"", file.read_text(encoding="utf-8"), re.MULTILINE)


def test_extras_that_errors_and_pages_name_exist() -> None:
    extras = {
        "uniaudio-engine": ENGINE["project"]["optional-dependencies"],
        "uniaudio-training": TRAINING["project"]["optional-dependencies"],
    }
    named = re.compile(r"""["'](uniaudio-(?:engine|training)|\.|\./training)\[([a-z,-]+)\]["']""")
    places = {".": "uniaudio-engine", "./training": "uniaudio-training"}
    pages = [ROOT / "README.md", ROOT / "training" / "README.md", *(ROOT / "docs").glob("*.md")]
    sources = [
        p for d in ("uniaudio_engine", "training", "benchmarks") for p in (ROOT / d).rglob("*.py")
    ]
    found = 0
    for path in (*pages, *sources):
        for where, words in named.findall(path.read_text(encoding="utf-8")):
            for extra in words.split(","):
                assert extra in extras[places.get(where, where)], f"{path}: {where}[{extra}]"
                found += 1
    assert found > 5


def test_without_the_trainer_export_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(
        InputError, match=r"export onnx: expected the training package.*pip install"
    ):
        export._exporter("onnx")


def test_the_engine_does_not_import_the_trainer() -> None:
    for path in (ROOT / "uniaudio_engine").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) uniaudio_training", text, re.MULTILINE), path
        assert not re.search(r"import_module\(\s*[\"']uniaudio_training", text), path


def test_the_hook_is_where_the_entry_point_says() -> None:
    from uniaudio_engine.pyinstaller import hook_folders

    (folder,) = hook_folders()
    assert (Path(folder) / "hook-uniaudio_engine.py").is_file()
    assert importlib.util.find_spec("uniaudio_engine.pyinstaller") is not None
