"""The authors' own classes of Qwen3-TTS, from the package qwen-tts, where they can be had.

The package pulls in sound tools that the models themselves do not use; empty modules stand for those
that are not installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import sys
import types
from typing import Any

import pytest

_TOOLS = (
    *("librosa", "librosa.filters", "torchaudio", "torchaudio.compliance"),
    *("torchaudio.compliance.kaldi", "sox", "onnxruntime", "einops"),
)


class _Nothing(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", type(name, (), {}))


def upstream(module: str) -> Any:
    """A module of ``qwen_tts.core``. Skips the test where it cannot be imported."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("qwen_tts") is None:
        pytest.skip("needs the package qwen-tts: pip install qwen-tts==0.1.1")
    absent = [n for n in _TOOLS if n.partition(".")[0] not in sys.modules and not _there(n)]
    for name in absent:
        stub = _Nothing(name)
        stub.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = stub
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(f"qwen_tts.core.{module}")
    except (ImportError, TypeError, AttributeError, KeyError) as e:
        pytest.skip(f"this version of transformers does not run qwen-tts: {e}")
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _there(name: str) -> bool:
    return importlib.util.find_spec(name.partition(".")[0]) is not None
