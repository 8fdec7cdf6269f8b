"""``engine.astream``: the chunks of ``engine.stream``, for event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import fake_core
import numpy as np
import pytest

from uniaudio_engine import AudioChunk, Engine, InputError

TEXT = "Hello there. This is a second sentence, and it is longer."


async def chunks_of(engine: Engine, **inputs: Any) -> list[AudioChunk]:
    async with engine.astream("tts", **inputs) as stream:
        return [chunk async for chunk in stream]


def samples(chunks: list[AudioChunk]) -> np.ndarray:
    return np.concatenate([c.samples for c in chunks])


def test_it_is_the_stream(engine: Engine) -> None:
    async def run() -> None:
        stream = engine.astream("tts", text=TEXT, seed=5)
        assert stream.meta == {}
        async with stream:
            assert stream.meta["seed"] == 5
            chunks = [c async for c in stream]
        expected = engine.stream("tts", text=TEXT, seed=5)
        alone = list(expected)
        assert [len(c.codes) for c in chunks] == [len(c.codes) for c in alone]
        assert np.array_equal(samples(chunks), samples(alone))
        assert stream.meta["frames"] == expected.meta["frames"]
        assert stream.meta["words"] == expected.meta["words"]
        assert not stream.cancelled and "cancelled" not in stream.meta

    asyncio.run(run())


def test_without_a_block(engine: Engine) -> None:
    async def run() -> list[AudioChunk]:
        return [c async for c in engine.astream("tts", text=TEXT, seed=5)]

    assert np.array_equal(samples(asyncio.run(run())), engine.tts(TEXT, seed=5).samples)


def test_bad_inputs_are_refused_on_entering(engine: Engine) -> None:
    async def run(**inputs: Any) -> None:
        async with engine.astream("tts", **inputs):
            raise AssertionError("it must not begin")

    with pytest.raises(InputError, match="text: expected words"):
        asyncio.run(run(text=""))
    with pytest.raises(InputError, match="max_ahead_seconds: expected a number"):
        asyncio.run(run(text="a", max_ahead_seconds=-1))
    with pytest.raises(InputError, match="chunk_frames: expected"):
        asyncio.run(run(text="a", chunk_frames=[0]))


def test_many_streams_without_many_threads(engine: Engine) -> None:
    alone = [engine.tts(TEXT, seed=s).samples for s in range(32)]

    async def run() -> list[list[AudioChunk]]:
        async def watched(seed: int) -> list[AudioChunk]:
            made = await chunks_of(engine, text=TEXT, seed=seed)
            most[0] = max(most[0], len(ours()))
            return made

        most = [0]
        found = await asyncio.gather(*(watched(s) for s in range(32)))
        assert most[0] <= 1
        return list(found)

    def ours() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("uniaudio")]

    for made, expected in zip(asyncio.run(run()), alone, strict=True):
        assert np.array_equal(samples(made), expected)


def test_several_event_loops(engine: Engine) -> None:
    alone = [engine.tts(TEXT, seed=s).samples for s in range(6)]
    found: dict[int, np.ndarray] = {}

    def loop(seeds: tuple[int, int]) -> None:
        async def run() -> None:
            made = await asyncio.gather(*(chunks_of(engine, text=TEXT, seed=s) for s in seeds))
            found.update({s: samples(m) for s, m in zip(seeds, made, strict=True)})

        asyncio.run(run())

    threads = [threading.Thread(target=loop, args=((s, s + 3),)) for s in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert all(np.array_equal(found[s], alone[s]) for s in range(6))


def test_a_slow_consumer_holds_the_work_back(engine: Engine) -> None:
    async def run() -> None:
        for ahead, most in ((0, 0), (2.0, 150)):
            text = TEXT * 20
            async with engine.astream(
                "tts", text=text, seed=1, max_ahead_seconds=ahead, chunk_frames=[50]
            ) as stream:
                await anext(stream)
                await asyncio.sleep(0.3)
                run_ = stream._run
                assert run_ is not None
                waiting = sum(len(c.codes) for c in run_.outputs)
                assert (waiting > 0) == (ahead > 0) and waiting <= most

    asyncio.run(run())


@pytest.mark.parametrize("how", ["cancel", "aclose", "task", "break"])
def test_stopping_frees_the_session(
    engine: Engine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.005)

    async def run() -> None:
        stream = engine.astream("tts", text=TEXT * 20, seed=1)
        if how == "task":

            async def consume() -> None:
                async for _ in stream:
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            async with stream:
                await anext(stream)
                if how == "cancel":
                    threading.Timer(0.02, stream.cancel).start()
                    async for _ in stream:
                        pass
                    assert stream.meta["cancelled"]
                elif how == "aclose":
                    await stream.aclose()
        for _ in range(100):
            if not engine.scheduler._active:
                break
            await asyncio.sleep(0.01)
        assert not engine.scheduler._active
        assert await anext(stream, None) is None
        assert stream._run is not None and stream._run.over

    asyncio.run(run())


def test_cancelled_before_it_began(engine: Engine) -> None:
    async def run() -> None:
        stream = engine.astream("tts", text=TEXT)
        stream.cancel()
        assert [c async for c in stream] == []
        await stream.aclose()

    asyncio.run(run())
    assert engine.lm.core.prefilled == 0
