"""``uniaudio import``: its examples, its one-line errors, and that a failed import leaves nothing
behind.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import uniaudio_engine
from uniaudio_engine.cli.arguments import build_parser
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.families import FAMILIES

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from import_tools import tiny_files


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the examples: the released zips' names, tiny random models in
    them.
    """
    source = tmp_path / "source"
    source.mkdir()
    tiny_files(source)
    here = tmp_path / "here"
    here.mkdir()
    for name, folder in (("uniaudio_v1.zip", "lm"), ("universal_model.zip", "codec")):
        with zipfile.ZipFile(here / name, "w", zipfile.ZIP_DEFLATED) as z:
            for p in (source / folder).iterdir():
                z.write(p, f"some/folder/{p.name}")
    (here / "phone_dict").write_bytes((source / "phone_dict").read_bytes())
    monkeypatch.chdir(here)
    return here


def families() -> dict[str, Any]:
    def choices(parser: argparse.ArgumentParser) -> dict[str, Any]:
        return next(
            dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction)
        )

    return choices(choices(build_parser())["import"])


def test_examples_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, command in enumerate((["import"], ["import", "uniaudio"])):
        with pytest.raises(SystemExit) as e:
            main([*command, "--help"])
        assert e.value.code == 0
        example = capsys.readouterr().out.split("example:\n")[1].strip()
        words = shlex.split(example)
        assert words[0] == "uniaudio" and main(words[1:]) == 0, capsys.readouterr().err
        out, err = capsys.readouterr()
        assert out == "uniaudio-v1: 0.1 million parameters as float32\n"
        assert ("no phone dictionary" in err) == (i == 0)
        assert main(["info", "-m", "uniaudio-v1", "--json"]) == 0
        about = json.loads(capsys.readouterr().out)
        assert about["num_codebooks"] == 3 and "tts" in about["tasks"]
        (place / "uniaudio-v1").rename(place / f"done{i}")
    assert families().keys() >= {"uniaudio"}


def test_json_and_refusals(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [
        "import",
        "uniaudio",
        "--lm",
        "uniaudio_v1.zip",
        "--codec",
        "universal_model.zip",
        "-o",
        "out",
    ]
    assert main([*good, "--json", "--dtype", "bfloat16"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (
        about["output"] == "out"
        and about["dtype"] == "bfloat16"
        and about["vocabulary"]["audio"] == 48
    )
    assert [f["name"] for f in about["files"]][:2] == [
        "uniaudio_v1.zip: some/folder/ep1.checkpoint",
        "uniaudio_v1.zip: some/folder/config.yaml",
    ]
    before = sorted(os.listdir())

    def changed(option: str, value: str) -> list[str]:
        words = [*good[:-1], "new"]
        if option in words:
            words[words.index(option) + 1] = value
            return words
        return [*words, option, value]

    for words, message in (
        (good, "out: already exists"),
        (changed("--dtype", "int8"), "dtype: expected float32 or bfloat16, got 'int8'"),
        (changed("--lm", "none"), "none: expected a checkpoint"),
        (changed("--codec", "phone_dict"), "phone_dict: expected a torch checkpoint"),
        (changed("-o", "no/where"), "does not exist"),
        (changed("--phones", "none"), "No such file"),
        (changed("--lexicon", "phone_dict"), "name them with --phones"),
        (changed("--config", "."), "expected a file, got a folder"),
        (changed("--config", "phone_dict"), "expected a YAML"),
        (changed("--labels", "x"), "expected SPAN=FILE"),
        (changed("--labels", "none=phone_dict"), "expected the name of a span"),
        (["import", "moshi"], "uniaudio import --help"),
        (["import"], "--help"),
        (["import", "uniaudio"], "required: -o/--output, --lm, --codec"),
    ):
        assert main(words) == 2, words
        out, err = capsys.readouterr()
        assert (
            not out
            and err.startswith("uniaudio: error: ")
            and err.count("\n") == 1
            and message in err
        ), err
        assert sorted(os.listdir()) == before


def test_ctrl_c_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import uniaudio_engine.importers.uniaudio as module

    before = sorted(os.listdir())
    words = [
        "import",
        "uniaudio",
        "--lm",
        "uniaudio_v1.zip",
        "--codec",
        "universal_model.zip",
        "-o",
        "out",
    ]
    for step in ("read_codec", "read_lm", "save_folder", "write_card", "load_folder", "sha256"):

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as m:
            m.setattr(module, step, interrupted)
            assert main(words) == 130
        assert sorted(os.listdir()) == before, step
    assert capsys.readouterr().err.count("interrupted") == 6


def test_signals_leave_nothing(place: Path) -> None:
    """A real process, stopped while it works."""
    code = (
        "import sys, time, uniaudio_engine.importers.uniaudio as m; from uniaudio_engine.cli.main "
        "import main\n"
        "def slow(*a, **k):\n    print('here', flush=True); time.sleep(60)\n"
        "m.save_folder = slow\nsys.exit(main(sys.argv[1:]))"
    )
    before = sorted(os.listdir())
    words = [
        "import",
        "uniaudio",
        "--lm",
        "uniaudio_v1.zip",
        "--codec",
        "universal_model.zip",
        "-o",
        "out",
    ]
    root = str(Path(uniaudio_engine.__file__).parents[1])
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        env = os.environ | {"PYTHONPATH": root}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        assert len(os.listdir()) == len(before) + 1
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == status
        assert sorted(os.listdir()) == before


def test_hostile_checkpoint_through_the_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A zip whose checkpoint would run code: refused, nothing run, nothing left."""
    import pickle

    class Reduce:
        def __reduce__(self) -> Any:
            return os.system, ("touch canary",)

    with zipfile.ZipFile(place / "evil.checkpoint", "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps({"model": Reduce()}, 2))
    with (
        zipfile.ZipFile(place / "evil.zip", "w") as z,
        zipfile.ZipFile(place / "uniaudio_v1.zip") as good,
    ):
        z.write(place / "evil.checkpoint", "x/ep1.checkpoint")
        z.writestr("x/config.yaml", good.read("some/folder/config.yaml"))
    before = sorted(os.listdir())
    assert (
        main(
            [
                "import",
                "uniaudio",
                "--lm",
                "evil.zip",
                "--codec",
                "universal_model.zip",
                "-o",
                "out",
            ]
        )
        == 2
    )
    assert "expected a UniAudio language model" in capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_the_page_of_the_released_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands and the Python of docs/reference-weights.md run (on random weights, so the
    figures mean nothing).
    """
    import re

    import numpy as np

    page = Path(__file__).parents[2] / "docs/reference-weights.md"
    text = page.read_text(encoding="utf-8")
    command = next(
        line for line in text.splitlines() if line.startswith("uniaudio import uniaudio")
    )
    assert main(shlex.split(command)[1:]) == 0
    from uniaudio_engine import Audio

    Audio((np.random.default_rng(0).normal(size=4800) * 0.1).astype(np.float32), 16000).save(
        "voice.wav"
    )
    scope: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, scope)
    out = capsys.readouterr().out
    assert out.count("codebooks: distance") == 4 and out.count("nats a code") == 3
    assert "nan" not in out


def test_encodec_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its help's example, and what is refused; what it makes of a checkpoint is
    test_import_encodec.py's matter.
    """
    import numpy as np
    from encodec_case import COMMON, codec_of, hf_state, write_hf

    from uniaudio_engine.storage.weight_shapes import codec_shapes

    monkeypatch.chdir(tmp_path)
    config = COMMON | {
        "num_filters": 2,
        "upsampling_ratios": [3, 2],
        "hidden_size": 5,
        "codebook_dim": 5,
        "codebook_size": 16,
        "sampling_rate": 6000,
        "target_bandwidths": [4.0, 12.0],
    }
    codec = codec_of(config, tmp_path)
    os.unlink("codec_of.json")
    rng = np.random.default_rng(0)
    write_hf(
        tmp_path / "encodec_24khz",
        config,
        hf_state(
            codec,
            {k: rng.standard_normal(s).astype(np.float32) for k, s in codec_shapes(codec).items()},
        ),
    )
    with pytest.raises(SystemExit):
        main(["import", "encodec", "--help"])
    words = shlex.split(capsys.readouterr().out.split("example:\n")[1].strip())[1:]
    assert main([*words, "--json", "--licence", "none given"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["output"] == "encodec-24khz" and about["sample_rate"] == 6000
    assert main(["info", "-m", "encodec-24khz"]) == 0 and "none given" in capsys.readouterr().out
    for bad in (
        words,
        ["import", "encodec", "none", "-o", "new"],
        ["import", "encodec"],
        [*words[:-1], "new", "--dtype", "int8"],
    ):
        assert main(bad) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("uniaudio: error: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == ["encodec-24khz", "encodec_24khz"]
    assert families().keys() == {"uniaudio", "auto", *(f.name for f in FAMILIES)}
