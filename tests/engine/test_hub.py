"""Models by their names on a hub: found, downloaded, recognised, converted once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from encodec_case import COMMON, codec_of, hf_state, write_hf
from hub_stand_in import COMMIT, Hub, environment, serving, use_hub

from uniaudio_engine import Engine
from uniaudio_engine.cli.main import main
from uniaudio_engine.errors import InputError
from uniaudio_engine.importers import hub as hub_module
from uniaudio_engine.importers.auto import import_auto, located
from uniaudio_engine.importers.encodec import import_encodec
from uniaudio_engine.importers.families import recognise
from uniaudio_engine.importers.hub_files import INDEX, WEIGHTS
from uniaudio_engine.storage.folder import find_folder
from uniaudio_engine.storage.tensors import load_tensors, save_tensors
from uniaudio_engine.storage.weight_shapes import codec_shapes

pytest.importorskip("huggingface_hub")

SMALL = COMMON | {
    "num_filters": 2,
    "hidden_size": 5,
    "codebook_dim": 5,
    "codebook_size": 16,
    "upsampling_ratios": [3, 2],
    "sampling_rate": 6000,
    "target_bandwidths": [4.0, 12.0],
}
NAME = "some/encodec_tiny"
CARD = "---\ntags:\n- audio\nlicense: mit\n---\n# A codec\nlicense: other\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    codec = codec_of(SMALL, tmp_path_factory.mktemp("config"))
    rng = np.random.default_rng(0)
    ours = {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()}
    write_hf(folder, SMALL, hf_state(codec, ours))
    (folder / "README.md").write_text(CARD)
    (folder / "setup.py").write_text("raise SystemExit('never run')")
    return folder


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    with serving(Hub()) as hub:
        hub.models[NAME] = folder
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


def split(folder: Path, parts: int = 3) -> dict[str, str]:
    """The weights of a folder in several files, and the index's map."""
    tensors, _ = load_tensors(folder / WEIGHTS)
    names = sorted(tensors)
    files = {
        n: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, n in enumerate(names)
    }
    for file in set(files.values()):
        save_tensors(folder / file, {n: tensors[n] for n in names if files[n] == file})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / WEIGHTS).unlink()
    return files


def test_an_engine_from_a_name(hub: Hub, tmp_path: Path) -> None:
    import_encodec(hub.models[NAME], tmp_path / "direct")
    sound = np.sin(np.arange(3000) / 20).astype(np.float32), 6000
    expected = Engine.from_pretrained(tmp_path / "direct").encode(sound)
    engine = Engine.from_pretrained(NAME)
    assert np.array_equal(engine.encode(sound), expected)
    assert engine.config.licence == "mit" and engine.config.name == "encodec_tiny"
    # Only what the importer reads was downloaded, and the second time nothing at all is.
    got = {a.rpartition("/")[2] for a in hub.asked if a.startswith("GET /some")}
    assert got == {"config.json", WEIGHTS, "README.md"}
    hub.asked.clear()
    assert Engine.from_pretrained(NAME, revision="main").model.folder.path == located(NAME)
    assert not [a for a in hub.asked if a.startswith("GET /some")]
    assert Engine.from_pretrained(NAME, revision="v1").config.licence == "mit"
    assert Engine.from_pretrained(NAME, revision=COMMIT).config.licence == "mit"
    assert len(list((tmp_path / "cache" / "converted").iterdir())) == 1


def test_offline_and_unreachable(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    online = located(NAME)
    hub.status = 503
    assert located(NAME) == online
    hub.status = 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert located(NAME) == online and not hub.asked
    with pytest.raises(InputError, match="cannot be reached, and its cache does not have"):
        located("some/other")
    shutil.rmtree(tmp_path / "cache" / "converted")
    assert located(NAME) == online and Path(str(online)).is_dir()


def test_what_it_was_made_from_is_the_key(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uniaudio_engine.importers import auto

    found = {located(NAME)}
    monkeypatch.setattr(auto, "VERSION", 0)
    found.add(located(NAME))
    shutil.rmtree(tmp_path / "cache" / "hub")
    (hub.models[NAME] / "README.md").write_text(CARD.replace("mit", "apache-2.0"))
    found.add(located(NAME))
    assert len(found) == 3
    monkeypatch.undo()


def test_two_processes_at_once(hub: Hub, tmp_path: Path) -> None:
    env = {**os.environ, **environment(hub, tmp_path / "cache")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "uniaudio_engine", "info", "-m", NAME, "--json"]
    running = [
        subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["licence"] == "mit"
        assert f"{NAME}: licence: mit" in err
    (place,) = (tmp_path / "cache" / "converted").iterdir()
    assert {p.name for p in place.iterdir()} == {"lock", "encodec_tiny"}


def test_a_checkpoint_in_several_files(hub: Hub, tmp_path: Path) -> None:
    import_auto(NAME, tmp_path / "whole")
    files = split(hub.models[NAME])
    shutil.rmtree(tmp_path / "cache")
    about = import_auto(NAME, tmp_path / "split")
    whole, parts = (load_tensors(tmp_path / f / "codec.safetensors")[0] for f in ("whole", "split"))
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[k], parts[k]) for k in whole)
    assert {f["name"] for f in about["files"]} == {"config.json", INDEX, *files.values()}
    assert about["family"] == "encodec" and about["licence"] == "mit" and about["commit"] == COMMIT


def test_import_auto_of_a_folder(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "model")
    assert main(["import", "auto", str(checkpoint), "-o", output]) == 0
    assert "encodec, licence: mit" in capsys.readouterr().err
    assert main(["info", "-m", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "mit"
    assert main(["info", "-m", str(checkpoint)]) == 2
    assert f"uniaudio import auto {checkpoint} -o FOLDER" in capsys.readouterr().err
    assert main(["import", "auto", output, "-o", str(tmp_path / "again")]) == 2
    assert "is a model folder of this engine already" in capsys.readouterr().err


def test_every_file_of_the_bundled_model_would_be_downloaded() -> None:
    folder = find_folder(None)
    about = {"config.json", "README.md"}  # read first, and not read
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - about
    wanted = recognise({"format_version": 1, "codec": {}}, "").files
    assert not [f for f in files if not any(fnmatch(f, pattern) for pattern in wanted)]


def test_a_model_folder_on_a_hub_is_used_as_it_is(hub: Hub, tmp_path: Path) -> None:
    import_encodec(hub.models[NAME], tmp_path / "native", licence="mine")
    hub.models["some/native"] = tmp_path / "native"
    engine = Engine.from_pretrained("some/native")
    assert engine.config.licence == "mine" and COMMIT in str(engine.model.folder.path)


def test_a_checkpoint_in_a_folder_of_the_model(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = hub.models[NAME]
    (folder / "update").mkdir()
    for name in ("config.json", WEIGHTS):
        (folder / name).rename(folder / "update" / name)
    source = hub_module.hub_source(NAME)
    assert source.folder.name == COMMIT and source.licence == "mit"
    assert set(source.files) == {"update/config.json", f"update/{WEIGHTS}", "README.md"}
    split(folder / "update")
    shutil.rmtree(tmp_path / "cache")
    again = hub_module.hub_source(NAME)
    assert f"update/{INDEX}" in again.files and len(again.files) == 6
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_module.hub_source(NAME) == again


def refused(hub: Hub, tmp_path: Path, match: str, name: str = NAME, **options: str) -> None:
    with pytest.raises(InputError, match=match) as e:
        import_auto(name, tmp_path / "refused", **options)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("info", "match"),
    [
        (b"<html>", "cannot be used"),
        (b"[]", "cannot be used"),
        (b"{}", "cannot be used"),
        ({"sha": "../../etc"}, "expected a commit"),
        ({"sha": None}, "expected a commit"),
        ({"siblings": None}, "expected at most"),
        ({"siblings": 5}, "cannot be used"),
        ({"siblings": []}, "expected a config.json"),
        ({"siblings": [{"rfilename": "../config.json", "size": 9}]}, "expected a config.json"),
        ({"siblings": [{"rfilename": "config.json"}]}, "expected a size"),
        ({"siblings": [{"rfilename": "config.json", "size": 1 << 60}]}, "expected at most"),
        ({"siblings": [{"rfilename": "config.json", "size": 3}]}, "expected 3 bytes, got"),
    ],
)
def test_hostile_descriptions(
    hub: Hub, tmp_path: Path, info: bytes | dict[str, object], match: str
) -> None:
    hub.info = info
    refused(hub, tmp_path, match)


def test_files_that_are_missing_or_too_large(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.models[NAME]
    sizes = [
        {"rfilename": p.name, "size": 1 << 60 if p.name == WEIGHTS else p.stat().st_size}
        for p in folder.iterdir()
    ]
    hub.info = {"siblings": sizes}
    refused(hub, tmp_path, f"{WEIGHTS}: expected at most")
    for s in sizes:
        s["size"] = 1 << 35 if s["rfilename"] == WEIGHTS else s["size"]
    with monkeypatch.context() as m:
        m.setattr(hub_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
        refused(hub, tmp_path, "needs 34.36 GB")
    hub.info = {}
    (folder / WEIGHTS).unlink()
    refused(hub, tmp_path, "expected model.safetensors among its files")
    (folder / "config.json").write_text("{")
    shutil.rmtree(tmp_path / "cache")
    refused(hub, tmp_path, "expected JSON")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    shutil.rmtree(tmp_path / "cache")
    refused(hub, tmp_path, "got 'llama'; see: uniaudio models")


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ("[]", "expected an object"),
        ('{"weight_map": {}}', "expected files by tensor"),
        ('{"weight_map": {"a": "../../x.safetensors"}}', "in the same folder"),
        ('{"weight_map": {"a": "/etc/x.safetensors"}}', "in the same folder"),
        ('{"weight_map": {"a": "x.bin"}}', "in the same folder"),
        ('{"weight_map": {"a": 3}}', "in the same folder"),
        ('{"weight_map": {"a": "absent.safetensors"}}', "absent.safetensors, which is not there"),
        ('{"weight_map": {"a": "x.safetensors"}}', "missing a; left over"),
    ],
)
def test_hostile_indices(hub: Hub, tmp_path: Path, index: str, match: str) -> None:
    folder = hub.models[NAME]
    (folder / WEIGHTS).rename(folder / "x.safetensors")
    (folder / INDEX).write_text(index)
    refused(hub, tmp_path, match)
    refused(hub, tmp_path, match, str(folder))


def test_names_revisions_and_errors(hub: Hub, tmp_path: Path) -> None:
    refused(hub, tmp_path, "there is no such model", "some/absent")
    refused(hub, tmp_path, "no such revision: 'nightly'", revision="nightly")
    refused(hub, tmp_path, "expected a branch, tag or commit", revision="")
    refused(hub, tmp_path, "expected a folder with a config.json", "a/b/c")
    refused(hub, tmp_path, "expected a folder with a config.json", "../x")
    with pytest.raises(InputError, match="expected a model on a hub with it"):
        Engine.from_pretrained(hub.models[NAME], revision="main")
    hub.status = 403
    refused(hub, tmp_path, "the hub answers 403")
    hub.status = 500
    refused(hub, tmp_path, "cannot be reached")
