"""uniaudio-engine: speech and sound from one small model, fast enough to live inside an app.

Importing it loads next to nothing; its parts load when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio import Audio, AudioChunk, EncodedAudio, Voice, read_audio
    from .backends.token_lm import Sampling
    from .engine import Engine
    from .errors import Busy, InputError
    from .request.batch import Answer
    from .request.conversation import Conversation
    from .request.heard import Interrupted
    from .request.live import Live
    from .request.live_text import FLUSH

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Audio",
    "AudioChunk",
    "Busy",
    "Conversation",
    "EncodedAudio",
    "Engine",
    "FLUSH",
    "InputError",
    "Interrupted",
    "Live",
    "Sampling",
    "Voice",
    "read_audio",
]

# The module of each public name; it is imported at first use.
_HOME = {
    "Answer": "request.batch",
    "Conversation": "request.conversation",
    "Audio": "audio",
    "AudioChunk": "audio",
    "Busy": "errors",
    "read_audio": "audio",
    "EncodedAudio": "audio",
    "Engine": "engine",
    "InputError": "errors",
    "FLUSH": "request.live_text",
    "Interrupted": "request.heard",
    "Live": "request.live",
    "Sampling": "backends.token_lm",
    "Voice": "audio",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
