"""Speech of a text that arrives: the tokens of the whole text, words in each chunk, interruption,
and what becomes of the source. On the fake core."""

from __future__ import annotations

import asyncio
import itertools
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import fake_core
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uniaudio_engine import FLUSH, AudioChunk, Engine, InputError
from uniaudio_engine.request.task_table import TASKS

TEXT = "Hello there, Dr. Jones. It costs **$3.50**, or so. Is it *late*? Bye."
WHOLE = math.inf  # flush_after of a text of which only whole sentences are spoken


class Source:
    """An iterator that gives what it is told, and says how it ended."""

    def __init__(self, *pieces: Any) -> None:
        self._pieces: queue.Queue[Any] = queue.Queue()
        self.closed = threading.Event()
        self.say(*pieces)

    def say(self, *pieces: Any) -> None:
        for piece in pieces:
            self._pieces.put(piece)

    def end(self, error: BaseException | None = None) -> None:
        self._pieces.put(error or StopIteration())

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                piece = self._pieces.get()
                if isinstance(piece, StopIteration):
                    return
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed.set()


async def arriving(pieces: Any, seconds: float = 0.0) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(seconds)


def within(seconds: float, condition: Callable[[], Any]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def spoken(chunks: list[AudioChunk]) -> str:
    return " ".join(w["word"] for c in chunks for w in c.words if w["word"])


# The tokens


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, len(TEXT)), max_size=20), st.booleans())
def test_pieces_are_spoken_as_the_whole(engine: Engine, places: list[int], at_once: bool) -> None:
    at = [0, *sorted(places), len(TEXT)]
    pieces: Any = [TEXT[a:b] for a, b in itertools.pairwise(at)]
    how: dict[str, Any] = {"seed": 5, "paragraph_pause": 0.3}
    whole = engine.tts(TEXT, **how)
    if not at_once:
        pieces, how["flush_after"] = iter(pieces), WHOLE
    audio = engine.tts(pieces, **how)
    assert np.array_equal(audio.samples, whole.samples)
    for name in ("words", "text", "sentences", "frames"):
        assert audio.meta[name] == whole.meta[name]


def test_every_way_to_ask(engine: Engine) -> None:
    how: dict[str, Any] = {"seed": 3, "flush_after": "inf"}
    expected = engine.tts(TEXT, seed=3).samples
    assert np.array_equal(engine.tts(iter(TEXT), **how).samples, expected)
    assert np.array_equal(engine.tts(arriving(TEXT), **how).samples, expected)
    batch = engine.generate_batch([{"text": iter(TEXT), **how}, {"text": "Hello.", "seed": 1}])
    assert np.array_equal(batch[0].samples, expected)

    async def asked() -> list[AudioChunk]:
        async with engine.astream("tts", text=arriving(TEXT, 0.001), **how) as stream:
            return [chunk async for chunk in stream]

    chunks = asyncio.run(asked())
    assert np.array_equal(np.concatenate([c.samples for c in chunks]), expected)
    assert spoken(chunks).startswith("hello there doctor jones")


@pytest.mark.parametrize("name", [n for n, t in TASKS.items() if t.text_input is None])
def test_tasks_without_a_spoken_text_know_no_pieces(name: str) -> None:
    assert not any(i.modality == "text" for i in TASKS[name].inputs)


# When it is spoken


def test_a_sentence_is_spoken_before_the_next_one_ends(engine: Engine) -> None:
    source = Source("Hello there. T")
    with engine.stream("tts", text=source, seed=1, flush_after=WHOLE) as stream:
        chunks = [next(stream)]
        source.say("he end")
        while "there" not in spoken(chunks):
            chunks.append(next(stream))
        source.say(". ")
        source.end()
        chunks += stream
    assert spoken(chunks) == "hello there the end"
    assert [w for c in chunks for w in c.words] == stream.meta["words"]
    assert stream.meta["text"] == "Hello there. The end. "


def test_the_first_clause_is_spoken_while_the_source_makes_us_wait(engine: Engine) -> None:
    source = Source("Well, I think so, ")
    with engine.stream("tts", text=source, seed=1, flush_after=1000) as stream:
        chunks = []
        while "so" not in spoken(chunks):
            chunks.append(next(stream))
        source.say("but no. ")
        source.end()
        chunks += stream
    assert spoken(chunks) == "well I think so but no"


@pytest.mark.parametrize("what", [FLUSH, None])
def test_flush_and_a_pause_of_the_source(engine: Engine, what: str | None) -> None:
    source = Source("And so ", *([FLUSH] if what is FLUSH else []))
    after = 1000 if what is FLUSH else 0.05
    with engine.stream("tts", text=source, seed=1, flush_after=after) as stream:
        chunks: list[AudioChunk] = []
        while "so" not in spoken(chunks):
            chunks.append(next(stream))
        source.say("on. ")
        source.end()
        chunks += stream
    assert spoken(chunks) == "and so on"
    assert repr(FLUSH) == "FLUSH" and FLUSH == "" and "".join(["a", FLUSH]) == "a"


def test_an_empty_string_is_no_flush(engine: Engine) -> None:
    pieces = ["Hello", "", " the", "", "re."]
    assert engine.tts(pieces, seed=1).meta["sentences"] == 1
    assert engine.tts(["Hello ", FLUSH, "there."], seed=1).meta["sentences"] == 2


def test_waiting_for_text_stops_nobody_else(engine: Engine) -> None:
    source = Source("Hello there. T")
    with engine.stream("tts", text=source, seed=1, flush_after=WHOLE) as stream:
        done: list[AudioChunk] = []
        reader = threading.Thread(target=lambda: done.extend(stream))
        reader.start()
        within(30, lambda: "hello" in spoken(done))
        expected = engine.tts(TEXT, seed=2).samples
        assert np.array_equal(engine.tts(TEXT, seed=2).samples, expected) and reader.is_alive()
        source.say("hen. ")
        source.end()
        reader.join(30)
    assert spoken(done) == "hello there then"


# Words


@pytest.mark.parametrize("sizes", [None, [1], [7], [1000]])
def test_words_come_with_the_chunk_in_which_they_begin(
    engine: Engine, sizes: list[int] | None
) -> None:
    stream = engine.stream("tts", text=TEXT, seed=5, chunk_frames=sizes)
    chunks = list(stream)
    assert [w for c in chunks for w in c.words] == stream.meta["words"]
    for chunk in chunks[:-1]:
        begin = chunk.start / chunk.sample_rate
        end = begin + len(chunk.samples) / chunk.sample_rate
        assert all(begin <= w["start"] < end for w in chunk.words)
    assert engine.tts(TEXT, seed=5).meta["words"] == stream.meta["words"]


def test_words_of_a_sentence_that_is_cut_to_fit(fake: None, tiny_folder: Any) -> None:
    engine = Engine.from_pretrained(tiny_folder, max_seconds=3)
    text = "Incomprehensibilities internationalization counterrevolutionaries " * 3
    stream = engine.stream("tts", text=text, seed=1, chunk_frames=[4])
    words = [w for c in stream for w in c.words]
    assert words == stream.meta["words"]
    assert [w["word"] for w in words if w["word"]] == text.lower().split()


def test_words_of_other_tasks_are_none(engine: Engine) -> None:
    phones = list(engine.stream("tts", phones="pau hh ax0 pau", seed=1))
    assert [w["word"] for c in phones for w in c.words] == ["", "hh ax0", ""]


# Interruption


def test_interrupt_says_what_was_spoken(engine: Engine) -> None:
    text = "One two three four five. Six seven eight nine ten."
    with engine.stream("tts", text=text, seed=1) as stream:
        given = []
        for chunk in stream:
            given.append(chunk)
            if len(given) == 6:
                break
        heard = stream.interrupt()
        seconds = sum(len(c.samples) for c in given) / 16000
        assert heard.seconds == pytest.approx(seconds)
        words = [w for c in given for w in c.words if w["word"]]
        assert heard.words == [w for w in words if w["end"] <= seconds]
        assert heard.text == text[: heard.words[-1]["characters"][1]]
        third = words[2]
        played = stream.interrupt(played=third["start"])
        assert played.text == "One two" and len(played.words) == 2
        assert stream.interrupt(played=third["start"] + 0.01).text == "One two three"
        assert stream.interrupt(played=1e6).seconds == heard.seconds
        assert stream.interrupt(played=0).text == ""
        assert next(stream, None) is None and stream.meta["cancelled"]
        for bad in (-1, math.nan, math.inf, "1", True):
            with pytest.raises(InputError, match="played: expected seconds"):
                stream.interrupt(played=bad)  # type: ignore[arg-type]


def test_interrupt_within_a_frame_and_from_any_thread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.01)
    with engine.stream("tts", text=TEXT * 20, seed=1, chunk_frames=[1000]) as stream:
        found = []
        threading.Timer(0.1, lambda: found.append(stream.interrupt())).start()
        assert list(stream) == []
    within(5, lambda: found)
    assert found[0].text == "" and found[0].words == [] and found[0].seconds == 0


def test_interrupt_while_the_source_is_waited_for(engine: Engine) -> None:
    source = Source("Hello there. And")
    with engine.stream("tts", text=source, seed=1, flush_after=WHOLE) as stream:
        found: list[Any] = []
        threading.Timer(0.5, lambda: found.append(stream.interrupt())).start()
        list(stream)
        within(5, lambda: found)
    assert found[0].text in ("Hello there", "Hello")  # the decoder holds the end back
    source.say("more")
    assert source.closed.wait(10)


def test_interrupt_of_an_asynchronous_stream(engine: Engine) -> None:
    async def asked() -> Any:
        async with engine.astream("tts", text=arriving(["Hello there. ", "A"], 60)) as stream:
            async for chunk in stream:
                if any(w["word"] == "there" for w in chunk.words):
                    return stream.interrupt(played=chunk.words[-1]["start"] + 0.001)

    begin = time.monotonic()
    heard = asyncio.run(asked())
    assert heard.text.startswith("Hello") and heard.words[0]["word"] == "hello"
    assert time.monotonic() - begin < 50  # the source is not waited for


# The source


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_the_source_comes_after_what_it_said(
    engine: Engine, asynchronous: bool
) -> None:
    def failing() -> Iterator[str]:
        yield "Hello there. And th"
        raise LookupError("the line is dead")

    async def failing_async() -> AsyncIterator[str]:
        for piece in failing():
            yield piece

    chunks: list[AudioChunk] = []
    source: Any = failing_async() if asynchronous else failing()
    with (
        pytest.raises(LookupError, match="the line is dead"),
        engine.stream("tts", text=source, seed=1) as stream,
    ):
        for chunk in stream:
            chunks.append(chunk)
    assert spoken(chunks).startswith("hello there")


def test_what_is_no_text_is_refused(engine: Engine) -> None:
    for pieces in (["Hello. ", 7], [b"Hello"], [None]):
        with pytest.raises(InputError, match="text: expected strings from the iterator, got"):
            engine.tts(pieces)
        with pytest.raises(InputError, match="text: expected strings from the iterator, got"):
            engine.tts(iter(pieces))
    for empty in ([], ["", " "], ["*** "]):
        with pytest.raises(InputError, match="text: expected text with letters or digits"):
            engine.tts(empty)
    for bad in (-1, "soon", math.nan, True, None):
        with pytest.raises(InputError, match="flush_after: expected seconds"):
            engine.tts(["Hello."], flush_after=bad if bad is not None else [])
    with pytest.raises(InputError, match="pause"):
        engine.tts(["Hello. [pause", " 99] Bye."])


@pytest.mark.parametrize("how", ["close", "cancel", "drop", "unread"])
def test_the_source_is_left_when_the_stream_ends(engine: Engine, how: str) -> None:
    source = Source("Hello there. ", "And then")
    stream = engine.stream("tts", text=source, seed=1, flush_after=WHOLE)
    if how != "unread":
        next(stream)
    if how == "cancel":
        stream.cancel()
        assert list(stream) == []
    elif how == "close":
        stream.close()
    del stream
    source.say("more")
    assert source.closed.wait(10)


def test_a_source_without_end_is_not_read_without_end(engine: Engine) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "One more sentence. "

    with engine.stream("tts", text=endless(), seed=1) as stream:
        for _ in range(5):
            next(stream)
        time.sleep(0.1)
        assert taken < 50_000


def test_a_stream_leaves_no_thread(engine: Engine) -> None:
    engine.tts(iter(TEXT), seed=1)
    within(10, lambda: not any(t.name == "uniaudio-text" for t in threading.enumerate()))
