"""Continuous batching: one scheduler per loaded model runs the work of all its streams.

A :class:`Run` is one stream's work: a generator that yields units of work for the language model
(:class:`Prefill`, :class:`Step`) and outputs. The scheduler takes turns. In a turn it reads some
known frames and generates one frame in each of the chosen sessions, with one pass over the weights
for all. Runs join and leave between turns, so that none waits for another to end.

Who is chosen: a run's deadline is the time at which its listener has played all that it was given.
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

from ..model import Model
from .work import Prefill, Step, Wait, Work

T = TypeVar("T")

# Sessions that are stepped together. Beyond about eight, arithmetic is the limit on CPUs.
SLOTS = 8
# Known frames that are read between two generated ones while several runs are wanted.
PREFILL_ROWS = 32
# Seconds before a run must go on at which it counts as urgent.
SLACK = 0.1
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
    ) -> None:
        self._work = work
        self._length = length
        self.ahead = ahead
        self.unit: Work | Wait | None = None  # what the generator waits for
        self.outputs: deque[T] = deque()
        self.error: BaseException | None = None
        self.over = False  # no output will follow those that wait
        self.cancelled = False
        self.deadline = time.monotonic()
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
    """Runs the streams of one model; safe to use from any number of threads.

    ``slots``: sessions that are stepped together.
    """

    def __init__(self, model: Model, slots: int = SLOTS) -> None:
        self.model = model
        self.slots = slots
        self._frame_seconds = 1 / model.frame_rate
        self._start()
        _schedulers.add(self)

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # the worker waits here
        self._active: dict[Run[Any], None] = {}  # wanted, in order of arrival
        self._turn: Sequence[Run[Any]] = ()  # whose turn it is
        self._driver = 0  # the thread that runs it
        self._worker: threading.Thread | None = None
        self._turn_seconds = 0.0  # of late

    def after_fork(self) -> None:
        """In a forked child: forget the threads and the work of the parent."""
        for run in list(self._active):
            run.over, run.error = True, RuntimeError("this stream was open before the fork")
        self._start()
        self.model.after_fork()

    # Asking for outputs

    def take(self, run: Run[T]) -> T | None:
        """The next output of a run, or None at its end. Raises what the run raised."""
        with self._lock:
            if not run.is_ready:
                self.wait([run])
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
            for run in runs:
                self._want(run)
            ready = threading.Condition(self._lock)
            try:
                while not any(run.is_ready for run in runs):
                    if not self._driver and self._active and mine.issuperset(self._active):
                        self._take_turn()
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
        if len(self._turn) == 1:  # let it join after this frame
            unit = self._turn[0].unit
            if isinstance(unit, Step):
                unit.session.cancel()

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
                    self._take_turn()
                    idle = time.monotonic()
                elif set(self._turn).issuperset(self._active) and (
                    time.monotonic() - idle >= LINGER
                ):  # a thread that runs its own turns needs no worker
                    self._worker = None
                    return
                else:
                    self._work.wait(LINGER)

    def _take_turn(self) -> None:
        """One turn of those who must go on first. Called with the lock, which is free meanwhile."""
        chosen = self._turn = self._chosen()
        self._driver = threading.get_ident()
        self._lock.release()
        begin = time.monotonic()
        try:
            self._run_turn(chosen)
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
            if len(chosen) > 1:
                self._turn_seconds += 0.1 * (time.monotonic() - begin - self._turn_seconds)
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

    def _chosen(self) -> list[Run[Any]]:
        active = list(self._active)
        if len(active) == 1:
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
        return run.deadline - left * self._turn_seconds

    def _run_turn(self, runs: Sequence[Run[Any]]) -> None:
        alone = len(runs) == 1
        rows = PREFILL_ROWS * 4 if alone else PREFILL_ROWS
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
        if alone and steps:
            unit = steps[0].unit
            self._generate(steps, unit.left if isinstance(unit, Step) else 1)
        elif steps:
            self._generate(steps, 1)

    def _generate(self, runs: Sequence[Run[Any]], n: int) -> None:
        """Up to ``n`` frames of each of these runs, whose units are steps."""
        units = [run.unit for run in runs if isinstance(run.unit, Step)]
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
            if len(runs) == 1:
                runs[0].fail(e)
            else:  # no session got a frame: find those that cannot go on
                for run in runs:
                    self._generate([run], n)
            return
        for run, unit, frames in zip(runs, units, made, strict=True):
            unit.add(frames)
            if unit.left or run.cancelled:
                continue
            if unit.is_target:
                new = (unit.done - unit.taken) * self._frame_seconds
                run.deadline = max(run.deadline, time.monotonic()) + new
            run.resume()


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    for scheduler in list(_schedulers):
        scheduler.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
