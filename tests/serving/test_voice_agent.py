"""The example of a voice agent: against a server, and as a plug-in of a framework would use it."""

from __future__ import annotations

import asyncio
import re
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from server_tools import Running

PROGRAM = Path(__file__).parents[2] / "examples" / "voice_agent.py"


def test_the_program(
    server: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    monkeypatch.setattr(sys, "argv", ["voice_agent.py", "--url", url, "--voice", "one"])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert not e.value.code
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"made \d+\.\d\d s; heard: '.*'", first)
    assert re.fullmatch(r"made \d+\.\d\d s", second)


def test_a_plug_in(server: Running) -> None:
    """A framework asks for frames of text after text, and interrupts between them."""
    speech_class = runpy.run_path(str(PROGRAM))["Speech"]

    async def words(*all_words: str) -> AsyncIterator[str]:
        for word in all_words:
            yield word

    async def conversation() -> list[bytes]:
        speech = await speech_class.open(f"ws://127.0.0.1:{server.port}/v1/stream")
        sounds = []
        for i in range(3):
            async with aclosing(speech.run_tts(words("Hello ", "there. "), "one")) as frames:
                sounds.append(b"")
                async for frame in frames:
                    sounds[-1] += frame
                    if i == 1:
                        break
            if i == 1:
                assert "Hello there. ".startswith(await speech.interrupt())
        await speech.socket.close()
        return sounds

    first, broken_off, last = asyncio.run(conversation())
    assert len(first) > len(broken_off) > 0 and len(last) > len(broken_off)
    for sound in (first, last):
        assert np.abs(np.frombuffer(sound, "<i2")).max() > 100


def test_the_agent_says_what_is_wrong(server: Running) -> None:
    speech_class = runpy.run_path(str(PROGRAM))["Speech"]

    async def words() -> AsyncIterator[str]:
        yield "Hello."

    async def conversation() -> None:
        speech = await speech_class.open(f"ws://127.0.0.1:{server.port}/v1/stream")
        with pytest.raises(RuntimeError, match="expected one of one, two"):
            async with aclosing(speech.run_tts(words(), "nobody")) as frames:
                async for _ in frames:
                    pass
        await speech.socket.close()

    asyncio.run(conversation())
