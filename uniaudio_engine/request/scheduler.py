"""Continuous batching: one scheduler per loaded model runs the work of all its streams.

A :class:`Run` is one stream's work: a generator that yields units of work for the language model
(:class:`Prefill`, :class:`Step`) and outputs. The scheduler takes turns. In a turn it reads some
known frames and generates a few frames in each of the chosen sessions, with one pass over the
weights for a frame of all. Runs join and leave between turns, so that none waits for another to end.

Who is chosen: a run's deadline is the time at which its listener has played all that it was given.
One that has given nothing yet has a little longer, because a late start is heard less than a gap.
Runs that must go on now are stepped without those that can wait; otherwise the ones with the
earliest deadlines are. Long prefills are cut into pieces, so that they delay nobody else by more
than a few frames.

Threads. A thread that waits for outputs runs the turns itself as long as no other thread's run is
wanted, and then generates whole chunks without returning to Python: a lone stream costs what a
plain loop costs. As soon as there are several, or an asynchronous one, a worker thread runs the
turns and everyone else waits. The worker ends when nothing was wanted for a moment. It is not a
daemon: at exit, the interpreter waits until what is wanted is done. After a fork the child starts
with an idle scheduler; streams that were open in the parent are over there.

Results never depend on any of this: the frames of a run are those that it gives alone.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from ..errors import Busy, InputError, shown
from ..model import Model
from .memory import plan_memory, run_bytes
from .plan import Plan
from .work import Prefill, Step, Wait, Work

T = TypeVar("T")

# Sessions that are stepped together. With more, a frame takes longer in proportion on CPUs.
SLOTS = 12
DEVICE_SLOTS = 32
# Known frames that are read between two generated ones while several runs are wanted.
PREFILL_ROWS = 32
PREFILL_ROWS_ALONE = 128
# Frames that the chosen sessions generate in a turn while others wait for theirs.
FRAMES = 4
# Seconds before a run must go on at which it counts as urgent. With fewer, turns have fewer sessions,
# and cost more for each.
SLACK = 0.4
# Seconds within which a new run is to begin.
PATIENCE = 0.3
# Seconds that an idle worker stays.
LINGER = 0.2


class Run(Generic[T]):
    """One stream's work and its outputs that nobody has taken yet.

    ``length``: the seconds of an output; ``ahead``: outputs are made in advance while fewer
    seconds than this are waiting. With 0 one is made when it is asked for. Only the thread that
    runs the turn touches the generator; the other fields belong to the scheduler's lock.
    """

    def __init__(
        self,
        work: Generator[Work | Wait | T, None, None],
        length: Callable[[T], float] = lambda _: 0.0,
        ahead: float = 0.0,
        memory: int = 0,
    ) -> None:
        self._work = work
        self._length = length
        self.ahead = ahead
        self.unit: Work | Wait | None = None  # what the generator waits for
        self.outputs: deque[T] = deque()
        self.error: BaseException | None = None
        self.over = False  # no output will follow those that wait
        self.cancelled = False
        self.memory = memory  # bytes, at most
        self.began = time.monotonic()
        self.deadline = self.began + PATIENCE
        self.is_heard = False  # a part of its sound was made
        self.notify: Callable[[], object] | None = None  # called once there is something to take

    @property
    def is_ready(self) -> bool:
        return bool(self.outputs) or self.over

    @property
    def has_room(self) -> bool:
        """Whether another output is to be made now."""
        if self.over:
            return False
        return not self.outputs or sum(map(self._length, self.outputs)) < self.ahead

    def stop(self) -> None:
        """Ask for the end after the current frame. Any thread; takes no lock."""
        if self.over and not self.outputs:
            return
        self.cancelled = True
        unit = self.unit
        if isinstance(unit, Step):
            unit.session.cancel()

    def resume(self) -> None:
        """Run the generator to its next unit of work or output."""
        self.unit = None
        if self.over:
            return
        try:
            item = next(self._work)
        except StopIteration:
            self.over = True
        except BaseException as e:
            self.fail(e)
        else:
            if isinstance(item, (Prefill, Step, Wait)):
                self.unit = item
            else:
                self.outputs.append(item)

    def fail(self, error: BaseException) -> None:
        """End with an error, which whoever takes the next output gets."""
        if not self.over:
            self.error = error
            self.close()

    def close(self) -> None:
        """End and free the sessions."""
        if not self.over:
            self.unit, self.over = None, True
            self._work.close()


class Scheduler:
    """Runs the streams of one model; safe to use from any number of threads."""

    def __init__(
        self,
        model: Model,
        slots: int | None = None,
        max_sessions: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """``slots``: sessions that are stepped together; by default what suits the device. The
        limits are those of :meth:`limit`.
        """
        self.model = model
        self.slots = slots or (SLOTS if model.device == "cpu" else DEVICE_SLOTS)
        self._frame_seconds = 1 / model.frame_rate
        self._start()
        self.limit(max_sessions, max_bytes)
        _schedulers.add(self)

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # the worker waits here
        self._active: dict[Run[Any], None] = {}  # wanted, in order of arrival
        self._turn: Sequence[Run[Any]] = ()  # whose turn it is
        self._is_alone = False  # nobody else waits for its end
        self._driver = 0  # the thread that runs it
        self._worker: threading.Thread | None = None
        self._frame_time = 0.0  # seconds of a turn per frame of each session, of late
        self._open: weakref.WeakSet[Run[Any]] = weakref.WeakSet()  # that are not over
        self._life = 0.0  # seconds that a run took, of late

    def after_fork(self) -> None:
        """In a forked child: forget the threads and the work of the parent."""
        for run in list(self._active):
            run.over, run.error = True, RuntimeError("this stream was open before the fork")
        self._start()
        self.model.after_fork()

    # Admission

    def limit(self, max_sessions: int | None = None, max_bytes: int | None = None) -> None:
        """Refuse streams beyond these limits with :class:`Busy`; None: no limit.

        ``max_sessions``: streams that are open at the same time. ``max_bytes``: what they, the
        weights and the kept voices may take. A stream counts with the longest sentence that fits,
        so that it can never grow beyond; load the model with ``max_seconds`` to make room for more.

        Raises :class:`InputError` where not even one session fits.
        """
        self._base = 0
        if max_sessions is not None and (type(max_sessions) is not int or max_sessions < 1):
            raise InputError(
                f"max_sessions: expected a whole number from 1, got {shown(max_sessions)}"
            )
        if max_bytes is not None:
            one = plan_memory(self.model, 1)
            if type(max_bytes) is not int or max_bytes < one.total:
                raise InputError(
                    f"max_bytes: expected at least {one.total} bytes, which the weights, the kept "
                    f"voices and one session take, got {shown(max_bytes)}; give it more, or load "
                    "the model with a smaller max_seconds"
                )
            self._base = one.total - one.session
        self._max_sessions, self._max_bytes = max_sessions, max_bytes

    def check_room(self, memory: int = 0) -> None:
        """Raise :class:`Busy` where a run of ``memory`` bytes would not be admitted now."""
        with self._lock:
            runs = list(self._open)
            used = self._base + sum(run.memory for run in runs)
            if self._max_sessions is not None and len(runs) >= self._max_sessions:
                why = f"{len(runs)} of {self._max_sessions} sessions are in use"
            elif self._max_bytes is not None and used + memory > self._max_bytes:
                why = f"{used} of {self._max_bytes} bytes are in use, and a session takes {memory}"
            else:
                return
            after = max(0.1, self._life / max(1, len(runs))) if self._life else 1.0
        raise Busy(f"{why}; try again in {after:.1f} s", round(after, 3))

    def bytes_of(self, plan: Plan) -> int:
        """What a plan's run counts with; 0 where bytes are not limited."""
        return 0 if self._max_bytes is None else run_bytes(self.model, plan)

    def admit(self, run: Run[T]) -> Run[T]:
        """The run, which counts from here on until it is over. Raises :class:`Busy`."""
        with self._lock:
            self.check_room(run.memory)
            self._open.add(run)
            return run

    # Asking for outputs

    def take(self, run: Run[T]) -> T | None:
        """The next output of a run, or None at its end. Raises what the run raised."""
        self.wait([run])
        with self._lock:
            if run.error is not None:
                error, run.error = run.error, None
                raise error
            output = run.outputs.popleft() if run.outputs else None
            if run.ahead > 0 and run.has_room:  # go on while this one is played
                self._want(run)
                self._call_worker()
            return output

    def wait(self, runs: Sequence[Run[T]]) -> None:
        """Return once one of the runs has an output or is over.

        An exception here, such as KeyboardInterrupt, ends these runs and no others.
        """
        mine = set(runs)
        with self._lock:
            if any(run.is_ready for run in runs):
                return
            for run in runs:
                self._want(run)
            ready = threading.Condition(self._lock)
            try:
                while not any(run.is_ready for run in runs):
                    if not self._driver and self._active and mine.issuperset(self._active):
                        self._take_turn(alone=True)
                        continue
                    self._call_worker()
                    for run in runs:
                        run.notify = ready.notify
                    ready.wait()
            except BaseException:
                for run in runs:
                    self.cancel(run)
                raise
            finally:
                for run in runs:
                    run.notify = None

    def start(self, run: Run[T]) -> None:
        """Begin to make outputs before one is asked for."""
        with self._lock:
            self._want(run)
            self._call_worker()

    def poll(self, run: Run[T], notify: Callable[[], object]) -> bool:
        """Whether :meth:`take` would return at once. Where not, ``notify`` will be called when it
        does, once, from any thread.
        """
        with self._lock:
            run.notify = None if run.is_ready else notify
            if run.notify is not None:
                self._want(run)
                self._call_worker()
            return run.is_ready

    def cancel(self, run: Run[T]) -> bool:
        """End a run: within a frame where it is its turn, else at once. Any thread.

        Its outputs are dropped. Returns whether its sessions are free already.
        """
        run.stop()
        with self._lock:
            run.outputs.clear()
            run.error = None
            if run in self._turn:
                return False
            run.close()
            self._settle(run)
            return True

    def close(self, run: Run[T]) -> None:
        """:meth:`cancel`, and return once the sessions are free."""
        with self._lock:
            if self.cancel(run) or self._driver == threading.get_ident():
                return
            gone = threading.Condition(self._lock)
            run.notify = gone.notify
            gone.wait_for(lambda: run not in self._turn)

    def _want(self, run: Run[T]) -> None:
        if not run.has_room or run in self._active or isinstance(run.unit, Wait):
            return
        # a listener that was slow to ask has not been kept waiting
        run.deadline = max(run.deadline, time.monotonic())
        self._active[run] = None
        for unit in (other.unit for other in self._turn if self._is_alone):
            if isinstance(unit, Step):
                unit.session.cancel()  # let it join after this frame

    # Turns

    def _call_worker(self) -> None:
        if self._worker is None and self._active:
            self._worker = threading.Thread(target=self._serve, name="uniaudio-scheduler")
            self._worker.start()
        self._work.notify()

    def _serve(self) -> None:
        """The worker thread."""
        with self._lock:
            idle = time.monotonic()
            while True:
                if self._active and not self._driver:
                    self._take_turn(alone=len(self._active) == 1)
                    idle = time.monotonic()
                elif set(self._turn).issuperset(self._active) and (
                    time.monotonic() - idle >= LINGER
                ):  # a thread that runs its own turns needs no worker
                    self._worker = None
                    return
                else:
                    self._work.wait(LINGER)

    def _take_turn(self, alone: bool) -> None:
        """One turn of those who must go on first. Called with the lock, which is free meanwhile.

        ``alone``: nobody else waits for it to end. Whoever comes meanwhile interrupts its frames.
        """
        chosen = self._turn = self._chosen(alone)
        self._is_alone = alone
        self._driver = threading.get_ident()
        self._lock.release()
        begin, frames = time.monotonic(), 0
        try:
            frames = self._run_turn(chosen, alone)
        except BaseException as e:
            for run in chosen:
                run.fail(e)
            if threading.current_thread() is not self._worker:
                raise
        finally:
            for run in chosen:
                if run.cancelled:
                    run.close()
            self._lock.acquire()
            self._driver, self._turn = 0, ()
            if len(chosen) > 1 and frames:
                took = (time.monotonic() - begin) / frames
                self._frame_time += 0.1 * (took - self._frame_time)
            for run in chosen:
                self._settle(run)
                if isinstance(run.unit, Wait):
                    self._park(run, run.unit)
            if self._worker is not None:
                self._work.notify()

    def _settle(self, run: Run[T]) -> None:
        """What follows from a run's outputs or its end."""
        if run.cancelled:
            run.outputs.clear()
        if run.over or (run.outputs and not run.has_room):
            self._active.pop(run, None)
        if run.over and run in self._open:
            self._open.discard(run)
            life = time.monotonic() - run.began
            self._life = life if not self._life else self._life + 0.1 * (life - self._life)
        if run.is_ready and run.notify is not None:
            notify, run.notify = run.notify, None
            notify()

    def _park(self, run: Run[Any], unit: Wait) -> None:
        """Leave a run out until there is something for it to do."""
        self._active.pop(run, None)
        scheduler, parked = weakref.ref(self), weakref.ref(run)

        def wake() -> None:
            mine, its = scheduler(), parked()
            if mine is not None and its is not None:
                mine._unpark(its, unit)

        unit.subscribe(wake)

    def _unpark(self, run: Run[Any], unit: Wait) -> None:
        with self._lock:
            if run.unit is unit:
                run.unit = None
                self._want(run)
                self._call_worker()

    def _chosen(self, alone: bool = False) -> list[Run[Any]]:
        active = list(self._active)
        if alone and len(active) <= self.slots:  # one caller's: all together take the least time
            return active
        start = {run: self._latest_start(run) for run in active}
        active.sort(key=start.__getitem__)
        now = time.monotonic()
        urgent = [run for run in active if start[run] <= now + SLACK]
        return (urgent or active)[: self.slots]

    def _latest_start(self, run: Run[Any]) -> float:
        """When a run must begin with its next output to have it in time."""
        unit = run.unit
        left = unit.left if isinstance(unit, Step) else 0
        return run.deadline - left * self._frame_time

    def _run_turn(self, runs: Sequence[Run[Any]], alone: bool) -> int:
        """Returns the frames that each session was asked for."""
        # A prefill is not interrupted: an open stream may ask for its next chunk meanwhile.
        others = len(self._open) > len(runs)
        rows = PREFILL_ROWS_ALONE if alone and not others else PREFILL_ROWS
        steps: list[Run[Any]] = []
        for run in runs:
            if run.unit is None:
                run.resume()
            unit = run.unit
            if isinstance(unit, Step):
                steps.append(run)
            elif isinstance(unit, Prefill) and rows > 0:
                try:
                    rows -= unit.advance(rows)
                except Exception as e:
                    run.fail(e)
                else:
                    if unit.over:
                        run.resume()
        if not steps:
            return 0
        n = min(run.unit.left for run in steps if isinstance(run.unit, Step))
        n = n if alone else min(n, FRAMES)
        self._generate(steps, n)
        return n

    def _generate(self, runs: Sequence[Run[Any]], n: int) -> None:
        """Up to ``n`` frames of each of these runs, whose units are steps."""
        units = [run.unit for run in runs if isinstance(run.unit, Step)]
        frames_before = [unit.session.frames for unit in units]
        try:
            if len(units) == 1:
                unit = units[0]
                made = [unit.session.generate(n, unit.sampling, unit.rows(n))]
            else:
                made = self.model.lm.generate_batch(
                    [unit.session for unit in units],
                    n,
                    [unit.sampling for unit in units],
                    [unit.rows(n) for unit in units],
                )
        except Exception as e:
            for run, unit, before in zip(runs, units, frames_before, strict=True):
                if len(runs) == 1 or unit.session.frames != before:  # what it made is lost
                    run.fail(e)
                else:  # perhaps it is not the one that cannot go on
                    self._generate([run], n)
            return
        for run, unit, frames in zip(runs, units, made, strict=True):
            unit.add(frames)
            if unit.left or run.cancelled:
                continue
            if unit.is_target:
                new, now = (unit.done - unit.taken) * self._frame_seconds, time.monotonic()
                run.deadline = (max(run.deadline, now) if run.is_heard else now) + new
                run.is_heard = True
            run.resume()


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    for scheduler in list(_schedulers):
        scheduler.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
