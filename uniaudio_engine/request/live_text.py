"""A text that arrives while it is spoken: where it comes from, and when what is there is spoken.

A sentence is spoken as soon as it is certain. Until then its first clauses are spoken only when the
listener would hear silence otherwise: when nothing is being spoken, and the source makes us wait.
Not responsible for where sentences and clauses end: that is ``text/live.py``.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError, shown
from ..text import Sentence
from ..text.plain import TextSentences
from .work import Wait

if TYPE_CHECKING:
    import asyncio  # otherwise imported where it is needed: it would slow the start of every process

T = TypeVar("T")

FLUSH_AFTER = 0.4  # seconds without text after which what is there is spoken
_GRACE = 0.01  # seconds without text before a clause is spoken on its own
_PATIENCE = 0.1  # the same where text keeps coming
_MARGIN = 0.2  # seconds of sound left at which the next clause is wanted
_READ_AHEAD = 1 << 16  # characters that may wait to be read


class Flush(str):
    """The type of :data:`FLUSH`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FLUSH"


FLUSH = Flush()
"""As a piece of a text that arrives: speak what is there, as if a sentence ended here."""

_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("loop", default=None)


def in_loop(loop: asyncio.AbstractEventLoop, make: Callable[[], T]) -> T:
    """Call ``make``, in any thread; asynchronous iterators that it finds run in ``loop``."""
    token = _loop.set(loop)
    try:
        return make()
    finally:
        _loop.reset(token)


class Playback:
    """How much sound a listener who began at once has left to hear."""

    def __init__(self) -> None:
        self._end = 0.0

    def add(self, seconds: float) -> None:
        self._end = max(self._end, time.monotonic()) + seconds

    @property
    def left(self) -> float:
        """Seconds; not below 0."""
        return max(0.0, self._end - time.monotonic())


def is_live(text: object) -> bool:
    """Whether a text is an iterator of strings rather than a string."""
    return isinstance(text, (AsyncIterable, Iterable)) and not isinstance(
        text, (str, bytes, bytearray, memoryview, dict)
    )


def read_flush_after(value: Any) -> float:
    """Seconds from 0 to infinity, also as a string."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"flush_after: expected seconds from 0 up, or inf, got {shown(value)}")
    return seconds


class LiveText:
    """Strings from an iterator, read ahead in a thread of its own or in an event loop.

    ``flush_after``: seconds without text after which what is there is spoken; with infinity only
    whole sentences are, and the result depends on nothing but the text.
    """

    def __init__(
        self,
        source: Iterable[str] | AsyncIterable[str],
        name: str = "text",
        flush_after: float = FLUSH_AFTER,
    ) -> None:
        self._source = source
        self._name = name
        self._flush_after = flush_after
        self._lock = threading.Condition()
        self._waiting: deque[str] = deque()  # read, but not yet looked at
        self._size = 0  # their characters
        self._pieces: list[str] = []  # all that was looked at
        self._arrived = time.monotonic()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._callback: Callable[[], object] | None = None
        self._stop: Callable[[], object] | None = None
        if isinstance(source, (list, tuple)):  # all of it is there
            for piece in source:
                self._put(piece)
            self._end(None)
        elif isinstance(source, AsyncIterable):
            import asyncio

            loop = _loop.get()
            if loop is not None:
                self._stop = asyncio.run_coroutine_threadsafe(self._pump(source), loop).cancel
            else:
                self._start(lambda: asyncio.run(self._pump(source)))
        else:
            self._start(self._read)

    @property
    def text(self) -> str:
        """All that was taken from the source."""
        with self._lock:
            return "".join((*self._pieces, *self._waiting))

    def close(self) -> None:
        """Take no more from the source. Any thread.

        An iterator that is in the middle of its next piece is left when that comes.
        """
        with self._lock:
            stop, self._stop = self._stop, None
            self._closed = True
            self._lock.notify_all()
        if stop is not None:
            try:
                stop()
            except RuntimeError:
                pass  # its event loop is closed
        self._wake()

    # The source

    def _start(self, read: Callable[[], object]) -> None:
        threading.Thread(target=read, name="uniaudio-text", daemon=True).start()

    def _read(self) -> None:
        """The thread that reads an iterator."""
        assert isinstance(self._source, Iterable)
        error: BaseException | None = None
        iterator = None
        try:
            iterator = iter(self._source)
            for piece in iterator:
                self._put(piece)
                with self._lock:
                    self._lock.wait_for(lambda: self._closed or self._size < _READ_AHEAD)
                    if self._closed:
                        break
        except BaseException as e:
            error = e
        finally:
            close = getattr(iterator, "close", None)
            if self._closed and callable(close):
                close()
            self._end(error)

    async def _pump(self, source: AsyncIterable[str]) -> None:
        """What reads an asynchronous iterator."""
        import asyncio

        error: BaseException | None = None
        task = asyncio.current_task()
        if task is not None and self._stop is None:
            loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            async for piece in source:
                self._put(piece)
                while self._size >= _READ_AHEAD and not self._closed:
                    await asyncio.sleep(_GRACE)
                if self._closed:
                    break
        except asyncio.CancelledError as e:
            error = None if self._closed else e
            raise
        except BaseException as e:
            error = e
        finally:
            close = getattr(source, "aclose", None)
            if self._closed and callable(close):
                await close()
            self._end(error)

    def _put(self, piece: object) -> None:
        if not isinstance(piece, str):
            raise InputError(
                f"{self._name}: expected strings from the iterator, got {type(piece).__name__}"
            )
        with self._lock:
            self._waiting.append(piece)
            self._size += len(piece)
            self._arrived = time.monotonic()
        self._wake()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            self._error, self._ended = error, True
            self._stop = None
        self._wake()

    # The sentences

    def sentences(self, playback: Playback, reader: TextSentences) -> Iterator[Sentence | Wait]:
        """The sentences; where none can be spoken yet, :class:`Wait` until the next look.

        ``playback``: of what was made so far. Raises what the source raised, after what came
        before it; :class:`NothingToSpeak` at the end, if there was nothing.
        """
        fresh = False  # whether there is text in which no clause was looked for
        starving: float | None = None  # since when the listener waits for text that has begun
        while not self._closed:
            with self._lock:
                pieces, ended = list(self._waiting), self._ended
                self._waiting.clear()
                self._pieces += pieces
                self._size = 0
                self._lock.notify_all()
            for piece in pieces:
                if isinstance(piece, Flush):
                    yield from reader.flush()
                else:
                    reader.push(piece)
            fresh |= bool(pieces)
            for sentence in reader.ready():
                starving = None
                yield sentence
            if ended:
                yield from reader.flush() if self._error else reader.end()
                if self._error is not None:
                    raise self._error
                return
            now, due = time.monotonic(), math.inf
            if not reader.pending or self._flush_after == math.inf:
                starving = None
            elif playback.left > _MARGIN:
                starving, due = None, now + playback.left - _MARGIN
            else:
                starving = now if starving is None else starving
                due = self._arrived + _GRACE
                if now >= min(due, starving + _PATIENCE):
                    due = self._arrived + self._flush_after
                    early = list(reader.clause()) if fresh else []
                    fresh = False
                    if not early and now >= due:
                        early, due = list(reader.flush()), math.inf
                    if early:
                        starving = None
                        yield from early
                        continue
            if now < due:
                yield Wait(partial(self._subscribe, due))

    def _subscribe(self, due: float, callback: Callable[[], object]) -> None:
        """Call ``callback`` once there is something new, or at the time ``due``; at once if there
        is."""
        with self._lock:
            is_new = bool(self._waiting) or self._ended or self._closed
            self._callback = None if is_new else callback
        if is_new:
            callback()
        elif due < math.inf:
            _alarm.set(due, weakref.WeakMethod(self._wake))

    def _wake(self) -> None:
        with self._lock:
            callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Alarm:
    """Calls methods at given times, in one thread for all; it ends when there is nothing left."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Condition()
        self._calls: list[tuple[float, int, weakref.WeakMethod[Callable[[], None]]]] = []
        self._count = itertools.count()
        self._thread: threading.Thread | None = None

    def set(self, due: float, method: weakref.WeakMethod[Callable[[], None]]) -> None:
        with self._lock:
            heapq.heappush(self._calls, (due, next(self._count), method))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="uniaudio-alarm", daemon=True
                )
                self._thread.start()
            self._lock.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._thread = None
                    return
                left = self._calls[0][0] - time.monotonic()
                if left > 0:
                    self._lock.wait(left)
                    continue
                method = heapq.heappop(self._calls)[2]()
            if method is not None:
                method()


_alarm = _Alarm()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alarm.reset)
