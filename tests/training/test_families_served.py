"""MOSS-TTS-Nano with its codec in a second repository of a hub; its languages and lengths as the
command line and the Wyoming server give them.
"""

from __future__ import annotations

import json
import shutil
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("huggingface_hub")
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import family_models as family
from family_models import MOSS
from hub_stand_in import Hub, serving, use_hub
from test_speech_families import CODEC
from windowed_tools import cat_state, write

from uniaudio_engine import Engine, InputError
from uniaudio_engine.cli.main import main
from uniaudio_engine.importers.auto import located
from uniaudio_engine.importers.families import FAMILIES
from uniaudio_engine.importers.moss_nano import LANGUAGES, import_moss_nano
from uniaudio_engine.storage.folder import load_config

FAMILY = next(f for f in FAMILIES if f.name == "moss-nano")
MODEL, (CODEC_MODEL,) = FAMILY.published[0].name, (name for _, name in FAMILY.parts)
CARD = "---\nlicense: {}\n---\n"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downloads")
    write(root / "codec", CODEC, cat_state(CODEC))
    settings = MOSS | {"model_type": FAMILY.model_types[0]}
    family.save(root / "moss", settings, family.moss_tensors(MOSS))
    for name, licence in (("codec", "other"), ("moss", "apache-2.0")):
        (root / name / "README.md").write_text(CARD.format(licence))
        (root / name / "modeling.py").write_text("raise SystemExit('never run')")
    return root


@pytest.fixture(scope="module")
def folder(downloads: Path) -> Path:
    import_moss_nano(downloads / "moss", downloads / "out", codec=downloads / "codec")
    return downloads / "out"


@pytest.fixture
def hub(downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        for name, files in ((MODEL, "moss"), (CODEC_MODEL, "codec")):
            hub.models[name] = tmp_path / files
            shutil.copytree(downloads / files, tmp_path / files)
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


def asked(hub: Hub, name: str) -> set[str]:
    """The files of a model that were downloaded."""
    start = f"GET /{name}/"
    return {a.rpartition("/")[2] for a in hub.asked if a.startswith(start)}


def test_the_codec_comes_from_a_second_repository(hub: Hub, folder: Path) -> None:
    engine = Engine.from_pretrained(MODEL, dtype="float32", threads=1)
    request = {"text": "hello there, my friend.", "seed": 1, "seconds": 0.5}
    expected = Engine.from_pretrained(folder, dtype="float32", threads=1).tts(**request)
    np.testing.assert_array_equal(engine.tts(**request).samples, expected.samples)
    assert engine.config.licence == "apache-2.0"  # of the model, not of its codec
    weights = {"config.json", "model.safetensors", "README.md"}
    assert asked(hub, CODEC_MODEL) == weights
    assert asked(hub, MODEL) == weights | {"tokenizer.model"}
    hub.asked.clear()
    assert located(MODEL) == engine.model.folder.path
    assert not asked(hub, MODEL) | asked(hub, CODEC_MODEL)
    hub.status = 503  # from the cache alone
    assert located(MODEL) == engine.model.folder.path


def test_another_codec_is_another_model(hub: Hub, tmp_path: Path) -> None:
    first = located(MODEL)
    shutil.rmtree(tmp_path / "cache" / "hub")
    write(hub.models[CODEC_MODEL], CODEC, cat_state(CODEC, seed=1))
    second = located(MODEL)
    assert first != second and Path(str(first)).is_dir()


def test_without_its_codec_a_model_is_refused_in_one_line(hub: Hub, tmp_path: Path) -> None:
    del hub.models[CODEC_MODEL]
    with pytest.raises(InputError, match=CODEC_MODEL) as e:
        located(MODEL)
    assert "\n" not in str(e.value)
    hub.models[CODEC_MODEL] = hub.models[MODEL]  # no codec
    with pytest.raises(InputError) as e:
        located(MODEL)
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache").glob("converted/*/*/config.json"))


def test_text_is_read_as_the_project_reads_it(folder: Path) -> None:
    tokenizer = Engine.from_pretrained(folder, threads=1).model.text
    assert tokenizer.said("hello there  [you]") == family.pieces('        Hello there "you".')
    assert tokenizer.said("你好，  [hello]") == family.pieces('你好，"hello"。')


def test_seconds_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.wav"
    for command in ("tts", "stream"):
        said = [command, "-m", str(folder), "hello there.", "--seconds", "2"]
        assert main([*said, "-o", str(output)]) == 0
        frames = round(2 * load_config(folder).codec.frame_rate)
        with wave.open(str(output)) as sound:
            assert sound.getnframes() == frames * CODEC["downsample_rate"]
    capsys.readouterr()
    assert main(["tts", "hello", "--seconds", "2", "-o", str(output)]) == 2  # the bundled model
    assert "--seconds: expected none" in capsys.readouterr().err
    assert main(["tts", "-m", str(folder), "hello", "--seconds", "x", "-o", str(output)]) == 2
    assert "seconds: expected a number" in capsys.readouterr().err


def test_wyoming_announces_the_models_languages(folder: Path) -> None:
    pytest.importorskip("wyoming")
    from uniaudio_engine.serving.wyoming import describe

    engine = Engine.from_pretrained(folder, threads=1)
    voices = SimpleNamespace(names=lambda owner: [("one", False)])
    (program,) = describe(SimpleNamespace(engine=engine, voices=voices)).tts  # type: ignore[arg-type]
    assert program.voices[0].languages == list(LANGUAGES)
    assert json.loads(engine.config.to_json())["text_slot"]["languages"] == list(LANGUAGES)
