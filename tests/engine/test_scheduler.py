"""The scheduler: tokens never depend on who else is there, and nobody's end is anyone else's."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_core
import numpy as np
import pytest
from sounds import tone

from uniaudio_engine import Busy, Engine, InputError
from uniaudio_engine.model import Model
from uniaudio_engine.request import scheduler as scheduling
from uniaudio_engine.request.scheduler import Run, Scheduler
from uniaudio_engine.request.stream import AudioStream
from uniaudio_engine.request.work import Prefill

TEXT = "Hello there. This is a second sentence, and it is longer."
WORDS = "the quick brown fox jumps over a lazy dog and then it goes home to sleep".split()


def codes_of(engine: Engine, task: str, **inputs: Any) -> np.ndarray:
    return np.concatenate([c.codes for c in engine.stream(task, **inputs)])


@pytest.fixture(scope="module")
def exact(joint_folder: Path) -> Engine:
    """All tasks on the compiled core, exact."""
    return Engine.from_pretrained(joint_folder, dtype="float32", threads=2)


@contextmanager
def others(engine: Engine, n: int) -> Iterator[None]:
    """``n`` long streams that are followed meanwhile, each by a thread."""
    streams = [engine.stream("tts", text=TEXT * 20, seed=s) for s in range(n)]
    begun = threading.Barrier(n + 1)

    def follow(stream: AudioStream) -> None:
        next(stream)
        begun.wait()
        for _ in stream:
            pass

    with ThreadPoolExecutor(n) as pool:
        work = [pool.submit(follow, s) for s in streams]
        begun.wait()
        try:
            yield
        finally:
            for s in streams:
                s.cancel()
            for w in work:
                w.result()


def requests(rng: random.Random, n: int) -> list[dict[str, Any]]:
    """Random requests: speech in voices and at speeds, guided captions, conversions."""
    voices = [None, tone(0.7), tone(1.1, hertz=330.0)]
    made: list[dict[str, Any]] = []
    for _ in range(n):
        kind = rng.choice(["tts", "tts", "fast", "t2s", "se"])
        seed = rng.randrange(1 << 30)
        if kind in ("tts", "fast"):
            text = " ".join(rng.choices(WORDS, k=rng.randint(1, 5))) + "."
            one: dict[str, Any] = {"task": "tts", "text": text, "voice": rng.choice(voices)}
            if kind == "fast":
                one["speed"] = rng.choice([1.4, 2.0])
        elif kind == "t2s":
            one = {"task": "t2s", "text": "rain", "seconds": rng.uniform(0.1, 0.8)}
            one["guidance"] = rng.choice([1.0, 3.0])
        else:
            one = {"task": "se", "source": tone(rng.uniform(0.3, 0.8))}
        made.append({**one, "seed": seed})
    return made


@pytest.mark.parametrize("sessions", [1, 2, 7, 32])
def test_tokens_are_those_alone(exact: Engine, sessions: int) -> None:
    """Random joins, cancels and chunk sizes, from several threads."""
    rng = random.Random(sessions)
    given = requests(rng, sessions)
    alone = [codes_of(exact, **r) for r in given]
    plans = [
        (
            rng.uniform(0, 0.2) if i else 0.0,
            [rng.choice([1, 2, 5, 9, 40]) for _ in range(3)],
            rng.random() < 0.3 and rng.randint(0, 3),
        )
        for i in range(sessions)
    ]

    def follow(i: int) -> tuple[np.ndarray, bool]:
        delay, sizes, cut = plans[i]
        time.sleep(delay)
        codes = [np.zeros((0, exact.layout.num_codebooks), np.int32)]
        with exact.stream(**given[i], chunk_frames=sizes) as stream:
            for n, chunk in enumerate(stream):
                codes.append(chunk.codes)
                if cut is not False and n == cut:
                    stream.cancel()
                    return np.concatenate(codes), False
        return np.concatenate(codes), True

    with ThreadPoolExecutor(sessions) as pool:
        found = list(pool.map(follow, range(sessions)))
    for (codes, whole), expected in zip(found, alone, strict=True):
        assert np.array_equal(codes, expected[: len(codes)])
        assert len(codes) == len(expected) or not whole
    assert not exact.scheduler._active and not exact.scheduler._open


def test_a_batch_beside_streams(exact: Engine) -> None:
    given = requests(random.Random(5), 12)
    alone = [codes_of(exact, **r) for r in given]
    batch = [{**r} for r in given[:6]]
    with ThreadPoolExecutor(7) as pool:
        together = pool.submit(exact.generate_batch, batch)
        streams = [pool.submit(codes_of, exact, **r) for r in given[6:]]
        audios = together.result()
        assert all(np.array_equal(s.result(), a) for s, a in zip(streams, alone[6:], strict=True))
    for audio, r in zip(audios, given, strict=False):
        assert np.array_equal(audio.samples, exact.generate(**r).samples)


def test_a_lone_stream_needs_no_thread(engine: Engine) -> None:
    before = set(threading.enumerate())  # some of other tests may end meanwhile
    for _ in engine.stream("tts", text=TEXT, seed=1):
        assert set(threading.enumerate()) <= before
    engine.generate_batch([{"text": TEXT}] * 3)
    assert set(threading.enumerate()) <= before


def test_the_worker_leaves(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda s: engine.tts(TEXT, seed=s), range(8)))
    deadline = time.monotonic() + 5
    while engine.scheduler._worker is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.scheduler._worker is None


def test_prefills_are_cut_beside_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prefill lets the others' frames through."""
    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.001)
    monkeypatch.setattr(scheduling, "SLACK", 1e9)  # nobody can wait
    events: list[tuple[str, int]] = []
    prefill, generate = fake_core.LMSession.prefill, fake_core.LM.generate_batch

    def read(self: Any, frames: np.ndarray, *rest: Any) -> None:
        events.append(("prefill", len(frames)))
        prefill(self, frames, *rest)

    def made(sessions: list[Any], *rest: Any) -> Any:
        events.append(("frames", len(sessions)))
        return generate(sessions, *rest)

    monkeypatch.setattr(fake_core.LMSession, "prefill", read)
    monkeypatch.setattr(fake_core.LM, "generate_batch", staticmethod(made))
    with others(engine, 2):
        events.clear()
        engine.tts("Hello.", voice=tone(3.0), seed=3)
        reads = [i for i, (kind, _) in enumerate(events) if kind == "prefill"]
    rows = [events[i][1] for i in reads]
    assert max(rows) <= scheduling.PREFILL_ROWS and sum(rows) > 150
    assert any(kind == "frames" for kind, _ in events[reads[0] : reads[-1]])


@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
def test_a_stopped_stream_frees_its_session(
    engine: Engine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engine.stream("tts", text=TEXT, seed=1)
    next(stream)
    assert len(engine.scheduler._open) == 1
    if how == "drop":
        del stream
    else:
        getattr(stream, how)()
    assert len(engine.scheduler._open) == 0


def test_an_error_ends_one_stream(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that cannot go on takes no other one with it."""
    generate = fake_core.LMSession.generate

    def bad(self: Any, n: int, sampling: Any, aligned: Any = None) -> Any:
        if sampling.seed == 13 and self.frames > 60:
            raise RuntimeError("not finite")
        return generate(self, n, sampling, aligned)

    def bad_batch(sessions: list[Any], n: int, samplings: list[Any], rows: Any = None) -> Any:
        if any(s.seed == 13 and x.frames > 60 for x, s in zip(sessions, samplings, strict=True)):
            raise RuntimeError("not finite")
        return [generate(x, n, s, r) for x, s, r in zip(sessions, samplings, rows, strict=True)]

    alone = {s: engine.tts(TEXT, seed=s).samples for s in (1, 2, 3)}
    monkeypatch.setattr(fake_core.LMSession, "generate", bad)
    monkeypatch.setattr(fake_core.LM, "generate_batch", staticmethod(bad_batch))
    with ThreadPoolExecutor(4) as pool:
        work = {s: pool.submit(engine.tts, TEXT, seed=s) for s in (1, 13, 2, 3)}
        with pytest.raises(RuntimeError, match="not finite"):
            work[13].result()
        assert all(np.array_equal(work[s].result().samples, alone[s]) for s in alone)
    assert not engine.scheduler._open


def test_the_most_urgent_come_first(engine: Engine) -> None:
    """Of more runs than slots, those that must go on soonest are stepped."""

    def nothing() -> Iterator[Any]:
        yield Prefill(engine.lm.session(10), np.zeros((1, 2), np.int32))

    scheduler = Scheduler(engine.model, slots=2)
    runs = [Run(nothing()) for _ in range(5)]
    now = time.monotonic()
    scheduler._active.update(dict.fromkeys(runs))
    for run, left in zip(runs, (9.0, 2.0, 7.0, 1.0, 5.0), strict=True):
        run.deadline = now + left
    assert scheduler._chosen() == [runs[3], runs[1]]
    runs[4].deadline = now - 1  # late: the others can wait
    assert scheduler._chosen() == [runs[4]]


def test_a_gap_is_worse_than_a_late_start(engine: Engine) -> None:
    """Who is about to run dry goes before who has just come, but not for ever."""

    def nothing() -> Iterator[Any]:
        yield Prefill(engine.lm.session(10), np.zeros((1, 2), np.int32))

    scheduler = Scheduler(engine.model, slots=1)
    playing, new = Run(nothing()), Run(nothing())
    scheduler._active.update(dict.fromkeys((new, playing)))
    now = time.monotonic()
    playing.deadline = now + scheduling.PATIENCE / 2
    assert scheduler._chosen() == [playing]
    playing.deadline = now + 2 * scheduling.PATIENCE
    assert scheduler._chosen() == [new]


def test_the_clock_of_a_listener_starts_with_its_first_chunk(engine: Engine) -> None:
    stream = engine.stream("tts", text=TEXT, seed=1, chunk_frames=[4])
    run = stream._run
    assert run.deadline == run.began + scheduling.PATIENCE
    begin = time.monotonic()
    next(stream)
    sound = 4 / engine.model.frame_rate
    assert begin + sound <= run.deadline <= time.monotonic() + sound
    before = run.deadline
    next(stream)
    assert run.deadline >= before + sound
    stream.close()


def test_shared_turns_are_short(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for more than a few frames of the others."""
    asked: list[int] = []
    generate = fake_core.LM.generate_batch

    def made(sessions: list[Any], n: int, *rest: Any) -> Any:
        asked.append(n)
        return generate(sessions, n, *rest)

    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.001)
    monkeypatch.setattr(fake_core.LM, "generate_batch", staticmethod(made))
    with others(engine, 3):
        engine.tts("Hello.", seed=3)
    assert asked and max(asked) == scheduling.FRAMES


def test_limits(engine: Engine) -> None:
    engine.scheduler.limit(max_sessions=2)
    a, b = engine.stream("tts", text=TEXT), engine.stream("tts", text=TEXT)
    next(a)
    with pytest.raises(Busy, match="2 of 2 sessions are in use; try again in") as e:
        engine.stream("tts", text=TEXT)
    assert e.value.retry_after > 0
    a.close()
    assert engine.tts("Hello.", seed=1).meta["frames"] > 0
    b.close()
    assert len(engine.generate_batch([{"text": TEXT}] * 5)) == 5  # two at a time
    engine.scheduler.limit()
    assert len([engine.stream("tts", text=TEXT) for _ in range(20)]) == 20


def test_limits_of_memory(engine: Engine) -> None:
    one = engine.memory(1)
    assert engine.memory(3).total == one.total + 2 * one.session
    engine.scheduler.limit(max_bytes=engine.memory(2).total)
    streams = [engine.stream("tts", text=TEXT) for _ in range(2)]
    with pytest.raises(Busy, match="bytes are in use, and a session takes"):
        engine.stream("tts", text=TEXT)
    for stream in streams:
        assert list(stream)
    assert engine.tts("Hello.").meta["frames"] > 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_sessions": 0}, "max_sessions: expected a whole number from 1, got 0"),
        ({"max_sessions": 1.5}, "max_sessions: expected"),
        ({"max_bytes": 1000}, "max_bytes: expected at least"),
    ],
)
def test_limits_that_leave_no_room(engine: Engine, limits: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        engine.scheduler.limit(**limits)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_starts_anew(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.tts("Hello.", seed=1).samples
    monkeypatch.setattr(fake_core, "FRAME_SECONDS", 0.001)
    with others(engine, 3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                fake_core.FRAME_SECONDS = 0.0
                same = np.array_equal(engine.tts("Hello.", seed=1).samples, expected)
                status = 0 if same and not engine.scheduler._active else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_wanted_is_done_at_exit(tiny_folder: Path, tmp_path: Path) -> None:
    """Threads that wait for chunks get them, although the main thread has ended."""
    import subprocess

    code = f"""
import threading
from uniaudio_engine import Engine
engine = Engine.from_pretrained({str(tiny_folder)!r}, threads=1)
def work(seed):
    audio = engine.tts("Hello there, all of you.", seed=seed)
    open({str(tmp_path)!r} + f"/{{seed}}", "w").write(str(audio.meta["frames"]))
for seed in range(4):
    threading.Thread(target=work, args=(seed,)).start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_prefixes_are_read_once(exact: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that begin with the same voice at the same time share its prefix."""
    rows: list[int] = []
    advance = Prefill.advance

    def counted(self: Prefill, most: int | None = None) -> int:
        n = advance(self, most)
        rows.append(n)
        return n

    voice = exact.encode_voice(tone(1.3, hertz=290.0))
    monkeypatch.setattr(Prefill, "advance", counted)
    made: list[int] = []
    original = Model.prefix

    def seen(self: Model, shared: Any) -> Any:
        found = original(self, shared)
        made.append(id(found))
        return found

    monkeypatch.setattr(Model, "prefix", seen)
    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(exact.tts, "Hello.", seed=s, voice=voice) for s in range(6)]
        for w in work:
            w.result()
    assert len(set(made)) == 1 and len(made) >= 12
    assert sum(rows) < 6 * 65  # it alone has 65 frames and some
