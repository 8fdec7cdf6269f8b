"""Sound as it comes: tasks whose result is aligned with their source, run while it is heard.

The target's frame t follows from the source's frames up to t + :data:`~.aligned.LOOKAHEAD`, so it
can be generated that soon. All work is done frame by frame, in the same way however the source is
split; the result is therefore a function of the source alone. An offline request of the whole
source hears the same (:func:`run_live`). Memory and the work for each frame are bounded. What the
language model answers is in ``live_answers.py``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..audio.blocks import open_sound
from ..audio.level import RunningGain, scaled
from ..audio.resampling import Resampler, check_rate
from ..audio.sound import Audio
from ..errors import InputError, shown
from ..model import Model
from .live_answers import Answers, Filtered, ModelAnswers
from .options import Option
from .plan import make_plan
from .postfilter import filter_stream
from .tasks import Input, Task

Samples = NDArray[np.float32]
_BLOCK = 1 << 14  # samples of a whole source that are pushed at once
_FIXED_LEVEL = Option("level", "float", None, -90.0, 0.0, "")


class Live:
    """A task on a sound that is still being made; :meth:`Engine.open` makes one.

    ``push`` samples in, samples out; ``flush`` ends the sound, and the next push begins another
    one. The output has exactly the input's length. A sample comes out at most ``latency`` input
    samples after it went in, and the time that its computation takes.

    One call at a time; :meth:`cancel` and :meth:`close` excepted, which any thread may call.

    ``sample_rate``: Hz, of input and output. ``meta``: what is known about the result, as JSON
    values; complete after ``flush``.
    """

    def __init__(
        self,
        model: Model,
        task: str,
        request: Mapping[str, Any],
        *,
        sample_rate: int | None = None,
        level: float | Literal["auto"] = "auto",
    ) -> None:
        """``request``: inputs without the source, and options; the rest as in
        :meth:`Engine.open`.
        """
        rate = model.sample_rate
        self.sample_rate = rate if sample_rate is None else check_rate(sample_rate)
        fixed = None if level == "auto" else _FIXED_LEVEL.check(level)
        spec = _live_source(model, model.task(task), request)
        # Silence stands for the source: the plan has all that does not depend on it.
        short = max(model.config.codec.frame_size, math.ceil(spec.min_seconds * rate))
        silence = (np.zeros(short, np.float32), rate)
        plan = make_plan(model, task, {**request, spec.name: silence})
        self._model, self._plan = model, plan
        self._into = Resampler(self.sample_rate, rate)
        self._out = Resampler(rate, self.sample_rate)
        stream = filter_stream(model, plan)
        self._answers: Answers = (
            ModelAnswers(model, plan, spec)
            if stream is None
            else Filtered(stream, model.filter_of(plan.task).delay)
        )
        self._level = None if fixed is None else float(fixed)
        self._busy = threading.Lock()
        self._closed = self._cancelled = self._over = False
        self.meta: dict[str, Any] = {}
        self._begin()

    @property
    def latency(self) -> int:
        """Samples between the input and the output of a sample, at most: a frame, what the encoders
        and the rows look ahead, what the decoder or the filter of clean-up holds back, and the filters
        of other rates.
        """
        model_rate, rate = self._model.sample_rate, self.sample_rate
        waits = self._model.config.codec.frame_size + self._answers.wait
        if rate == model_rate:
            return waits
        waits += self._out.lookahead
        return math.ceil(waits * rate / model_rate) + self._into.lookahead + 1

    @property
    def latency_seconds(self) -> float:
        return self.latency / self.sample_rate

    def push(self, samples: ArrayLike) -> Samples:
        """float32 [n] in, n from 0 -> the samples [m] that they complete, perhaps none.

        The work for a frame is the same however long the push is. Raises :class:`InputError` for
        another shape, NaN or infinity, and after cancel or close; nothing has then changed.
        """
        x = _checked(samples)
        with self._use():
            if self._over:
                self._begin()
            self._received += len(x)
            return self._join(self._hear(self._into.push(x)))

    def flush(self) -> Samples:
        """End the sound: the rest of its samples. The next push begins a new sound, with the same
        seed. Raises :class:`InputError` after cancel or close.
        """
        with self._use():
            if self._over:
                self._begin()
            parts = list(self._hear(self._into.flush(), last=True))
            if not self._cancelled:
                parts.append(self._out.flush())
            self._over = True
            return self._join(iter(parts))

    def reset(self) -> None:
        """Forget the sound, and begin a new one with the same seed; also after cancel."""
        with self._use(again=True):
            self._begin()

    def cancel(self) -> None:
        """Stop a running push within a frame; it returns what is complete. :meth:`reset` begins
        anew. Any thread may call it.
        """
        self._cancelled = True
        self._answers.cancel()

    def close(self) -> None:
        """Cancel, for good, and free the sessions. Any thread may call it."""
        self._closed = True
        self.cancel()
        self._free()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    @contextmanager
    def _use(self, again: bool = False) -> Iterator[None]:
        """One call at a time, on a sound that goes on; ``again``: also on one that was cancelled."""
        if not self._busy.acquire(blocking=False):
            raise InputError("live: expected one call at a time, but another thread is in one")
        try:
            if self._closed or (self._cancelled and not again):
                what = "closed; open another" if self._closed else "cancelled; reset it"
                raise InputError(f"live: expected a stream that goes on, but this one was {what}")
            if again:
                self._cancelled = False
            begin = time.perf_counter()
            try:
                yield
            except BaseException:  # such as Ctrl-C in the middle of a frame
                self._cancelled = True
                raise
            self._report(time.perf_counter() - begin)
        finally:
            self._busy.release()
            if self._closed:  # by another thread, meanwhile
                self._free()

    def _begin(self) -> None:
        """The state of a sound of which nothing has been heard."""
        model, frame = self._model, self._model.config.codec.frame_size
        self._gain = RunningGain(
            model.sample_rate, frame, model.config.source_level(self._plan.task.name), self._level
        )
        self._gains = np.zeros(0)  # of samples that were heard and not yet returned
        self._frame = np.zeros(0, np.float32)  # the beginning of the next one
        self._received = self._returned = 0  # samples at the caller's rate
        self._compute, self._over = 0.0, False
        for part in (self._into, self._out, self._answers):
            part.reset()

    def _hear(self, samples: Samples, last: bool = False) -> Iterator[Samples]:
        """Samples at the model's rate -> those of the result, frame by frame."""
        size = self._model.config.codec.frame_size
        x = np.concatenate((self._frame, samples))
        whole = len(x) // size * size
        for at in range(0, whole, size):
            if self._cancelled:
                return
            yield from self._heard(x[at : at + size].copy())
        self._frame = x[whole:].copy()
        if last and not self._cancelled:
            if len(self._frame):
                yield from self._heard(self._frame)
            for answer in self._answers.flush():
                if self._cancelled:
                    return
                yield self._out.push(self._fitted(answer))

    def _heard(self, frame: Samples) -> Iterator[Samples]:
        """A frame [n] of the source -> samples of the result that are known now."""
        for answer in self._answers.push(self._levelled(frame)):
            yield self._out.push(self._fitted(answer))

    def _levelled(self, frame: Samples) -> Samples:
        gains = self._gain.push(frame)
        self._gains = np.concatenate((self._gains, gains))
        return scaled(frame, gains)

    def _fitted(self, samples: Samples) -> Samples:
        """Answers at the source's level, and not more than it has."""
        samples = samples[: len(self._gains)]  # the last frame may be too long
        gains, self._gains = self._gains[: len(samples)], self._gains[len(samples) :]
        return np.clip(scaled(samples, 1 / gains), -1.0, 1.0)

    def _join(self, parts: Iterator[Samples]) -> Samples:
        joined = np.concatenate([np.zeros(0, np.float32), *parts])
        joined = joined[: self._received - self._returned]  # the last one of another rate
        self._returned += len(joined)
        return joined

    def _report(self, seconds: float) -> None:
        self._compute += seconds
        heard = self._received / self.sample_rate
        self.meta = {
            **self._plan.describe(self._model),
            "latency": self.latency,
            "latency_seconds": round(self.latency_seconds, 6),
            "frames": self._answers.frames,
            "seconds": heard,
            "compute_seconds": round(self._compute, 6),
            "realtime_factor": round(heard / max(self._compute, 1e-9), 3),
        }

    def _free(self) -> None:
        """Free the sessions; a call that is running does so at its end."""
        if self._busy.acquire(blocking=False):
            self._answers.free()
            self._busy.release()


def run_live(model: Model, task: str, request: Mapping[str, Any]) -> Audio:
    """A request with its whole source (see :func:`read_audio`), as a live stream answers it.

    The samples are those that a live source of the same samples gets, bit for bit.
    """
    spec = model.task(task).aligned_input
    source = None if spec is None else request.get(spec.name)
    if spec is None or source is None:
        _live_source(model, model.task(task), {})
        model.task(task).check_inputs(request)
    level = request.get("level", "auto")
    rest = {k: v for k, v in request.items() if k != "level" and (spec is None or k != spec.name)}
    with Live(model, task, rest, level=level) as live:
        assert spec is not None
        reader = open_sound(source, live.sample_rate, spec.name, spec.min_seconds)
        parts = []
        while len(block := reader.read(_BLOCK)):
            parts.append(live.push(block))
        parts.append(live.flush())
        meta = {**live.meta, "notes": [*live.meta["notes"], *reader.notes]}
    return Audio(np.concatenate(parts), live.sample_rate, meta)


def _live_source(model: Model, task: Task, request: Mapping[str, Any]) -> Input:
    """The input that is heard live. Raises :class:`InputError` where the task has none."""
    spec = task.aligned_input
    if spec is None or spec.modality not in ("audio", "units") or task.finish != "length":
        known = [t.name for t in model.tasks.values() if _is_live(t)]
        raise InputError(
            f"{task.name}: its result does not follow a sound frame by frame, so it cannot be done "
            f"live; the model does {', '.join(known) or 'no task'} live"
        )
    if spec.max_seconds:
        raise InputError(
            f"{task.name}: its source ends after {spec.max_seconds:g} s, so it cannot be done live"
        )
    if request.get(spec.name) is not None:
        raise InputError(f"{spec.name}: expected none, since it is pushed; leave it out")
    return spec


def _is_live(task: Task) -> bool:
    spec = task.aligned_input
    return task.finish == "length" and spec is not None and spec.modality in ("audio", "units")


def _checked(samples: ArrayLike) -> Samples:
    """A copy of samples [n] as float32."""
    x = np.asarray(samples)
    if x.ndim != 1 or (x.size and x.dtype.kind != "f"):
        raise InputError(
            f"samples: expected floating-point numbers [n], got {x.dtype} {list(x.shape)}"
        )
    x = np.array(x, np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"samples: expected finite numbers, got {shown(x[~np.isfinite(x)][0])}")
    return x
