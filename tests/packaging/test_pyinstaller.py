"""An app of two lines, built by PyInstaller without options, speaks."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("PyInstaller", reason="needs PyInstaller: pip install pyinstaller")

APP = """from uniaudio_engine import Engine
Engine.from_pretrained().tts("This app speaks.", seed=1).save("app.wav")
"""


@pytest.mark.slow
def test_an_app_speaks(tmp_path: Path) -> None:
    hooks = importlib.metadata.entry_points(group="pyinstaller40")
    if not any(point.value.startswith("uniaudio_engine.") for point in hooks):
        pytest.skip("needs the installed package: pip install .")
    (tmp_path / "app.py").write_text(APP)
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "app.py"]
    subprocess.run(build, check=True, cwd=tmp_path)
    inside = {path.name for path in (tmp_path / "dist" / "app" / "_internal").iterdir()}
    assert "uniaudio_engine" in inside
    assert not inside & {"matplotlib", "onnxruntime", "tensorrt", "torch", "transformers"}
    subprocess.run([tmp_path / "dist" / "app" / "app"], check=True, cwd=tmp_path, env={})
    about = soundfile.info(tmp_path / "app.wav")
    assert about.samplerate == 16000 and about.duration > 0.5
