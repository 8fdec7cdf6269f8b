"""The training loop shared by all trainers: steps, curves, checkpoints, exact resume.

A :class:`Trainer` provides the model, its data and its loss; :func:`fit` does the rest. A run
stopped by Ctrl-C, SIGTERM or a power cut resumes bit-exactly from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import queue
import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from . import kernels, run_checkpoint
from .data_parallel import Team
from .precision import Arithmetic, name
from .settings import RunSettings

LOG_EVERY = 25  # steps averaged into one point of a curve

B = TypeVar("B")


class Stateful(Protocol):
    """A part of a checkpoint: a module, an optimizer, a clock."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


@dataclass(frozen=True)
class Validation:
    """The result of a validation: points of curves by tag, and a line for the terminal."""

    scalars: Mapping[str, float]
    text: str


class Trainer(ABC, Generic[B]):
    """One kind of training.

    ``optimizers``: pairs of optimizer and peak learning rate. The loop also sets the rates of
    ``inner_optimizers``, which are stepped inside the loss.
    """

    optimizers: list[tuple[torch.optim.Optimizer, float]]
    inner_optimizers: Sequence[tuple[torch.optim.Optimizer, float]] = ()
    clip = 1.0  # maximum gradient norm of ``parameters()``

    @abstractmethod
    def parts(self) -> dict[str, Stateful]:
        """The parts of a checkpoint by name; the model is named ``model``."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the loop's backward pass trains."""

    @abstractmethod
    def batch(self, rng: np.random.Generator) -> B:
        """The batch of a step, on the CPU; called from another thread."""

    @abstractmethod
    def rate(self, step: int, done: float) -> float:
        """Learning rate relative to the peak; ``done`` is the finished part of the run, 0 to 1."""

    @abstractmethod
    def loss(self, batch: B, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of a step, and values for the curves."""

    def begin(self, run: Run, resumed: bool) -> None:
        """Called once, after the checkpoint, if any, was read."""

    def validate(self, run: Run) -> Validation | None:
        """Called every ``validate_every`` steps and after the last one, in all processes."""
        return None

    def end(self, run: Run) -> None:
        """Called in all processes when the run is complete, not when it was stopped."""


def fit(
    trainer: Trainer[B],
    settings: RunSettings,
    folder: str | Path,
    arithmetic: Arithmetic,
    team: Team | None = None,
) -> None:
    """Trains or resumes the run in ``folder``."""
    team = team or Team()
    kernels.select(settings.kernels)
    clock = Clock(60 * settings.minutes)
    with Run(folder, settings, name(arithmetic.dtype), team) as run:
        run.parts |= trainer.parts() | ({"clock": clock} if settings.minutes else {})
        trainer.begin(run, run.resume())
        share = clock.share()
        keys = team.keys(settings.seed, run.step)
        with Prefetch(trainer.batch, keys) as batches, run.progress() as bar:
            while run.step < run.steps and share < 1:
                rate = trainer.rate(run.step, max(run.step / run.steps, share))
                for optimizer, peak in (*trainer.optimizers, *trainer.inner_optimizers):
                    set_learning_rate(optimizer, peak * rate)
                total = torch.zeros(())
                for _ in team.own_parts:
                    loss, values = trainer.loss(batches.next(), run.step)
                    loss.backward()
                    total = total.to(loss.device) + loss.detach()
                    run.add(values)
                mine = run.stopping or clock.over(), run.due(), clock.share()
                mean, (stopping, saving, share) = team.average(trainer.parameters(), total, mine)
                run.stopping, run.saving = stopping > 0, saving > 0
                if team.parts > 1:
                    run.add({"train/loss": mean})
                nn.utils.clip_grad_norm_(trainer.parameters(), trainer.clip)
                for optimizer, _ in trainer.optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                bar.update()
                going = run.tick()
                run.log(bar)
                if run.step % settings.validate_every == 0 or not going:
                    run.report(bar, trainer.validate(run))
                if not going:
                    break
        if team.agree(lambda: run.step >= run.steps or clock.over()):
            trainer.end(run)


class Run:
    """A run folder: a checkpoint (all parts, step, random states) and ``tensorboard/``.

    As a context manager it handles SIGTERM and Ctrl-C: the run stops after the current step and
    writes a last checkpoint. Only the leading process of the ``team`` writes, but for shards, which
    their processes write.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: RunSettings,
        precision: str = "float32",
        team: Team | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.steps, self.minutes = settings.steps, settings.checkpoint_minutes
        self.precision, self.team = precision, team or Team()
        self.leads = self.team.leads
        self.step = 0
        self.parts: dict[str, Stateful] = {}
        self.writer = SummaryWriter(str(self.folder / "tensorboard")) if self.leads else None
        self.stopping = self.saving = False
        self._checkpoints = run_checkpoint.Writer(self.folder, self.team)
        self._saved = time.monotonic()
        self._sums: dict[str, tuple[Tensor | float, int]] = {}
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Run:
        for s in (signal.SIGTERM, signal.SIGINT):
            self._handlers[s] = signal.signal(s, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for s, handler in self._handlers.items():
            signal.signal(s, handler)
        if self.writer is not None:
            self.writer.close()
        # after an error the other processes may be gone, and the checkpoint with them
        with contextlib.suppress(Exception) if error is not None else contextlib.nullcontext():
            self._checkpoints.wait()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def resume(self) -> bool:
        """Reads the checkpoint; False where there is none."""
        path = self.team.agree(lambda: run_checkpoint.newest(self.folder))
        if path is None:
            return False
        state = run_checkpoint.read(path, like=run_checkpoint.placements(self.parts))
        for part, value in self.parts.items():
            value.load_state_dict(state["parts"][part])
        self.step = state["step"]
        torch.set_rng_state(state["rng"]["torch"])
        np.random.set_state(state["rng"]["numpy"])
        random.setstate(state["rng"]["python"])
        return True

    def save(self, wait: bool = False) -> None:
        """Writes the checkpoint atomically. All processes call it. Shards are written in the
        background; ``wait`` returns when the checkpoint can be read.
        """
        if self.leads or self.team.sharded:
            self._checkpoints.write(
                {
                    "step": self.step,
                    "precision": self.precision,
                    "parts": {part: value.state_dict() for part, value in self.parts.items()},
                    "rng": {
                        "torch": torch.get_rng_state(),
                        "numpy": np.random.get_state(),
                        "python": random.getstate(),
                    },
                }
            )
        if wait:
            self._checkpoints.wait()
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > 60 * self.minutes

    def progress(self) -> tqdm[Any]:
        """A progress bar over the steps, disabled unless this process leads."""
        return tqdm(
            total=self.steps,
            initial=self.step,
            unit="step",
            smoothing=0.05,
            mininterval=5,
            disable=not self.leads,
        )

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Adds values to the current points of the curves."""
        for tag, value in values.items():
            total, count = self._sums.get(tag, (0.0, 0))
            self._sums[tag] = (total + torch.as_tensor(value).detach(), count + 1)

    def log(self, bar: tqdm[Any]) -> None:
        """Writes the means of the values of ``LOG_EVERY`` steps."""
        if self.step % LOG_EVERY:
            return
        means = {tag: float(total) / count for tag, (total, count) in self._sums.items()}
        self._sums.clear()
        shown = {tag.rsplit("/", 1)[-1]: f"{mean:.3g}" for tag, mean in means.items()}
        bar.set_postfix(shown, refresh=False)
        self.scalars(means)

    def report(self, bar: tqdm[Any], found: Validation | None) -> None:
        """Writes a validation to the curves and the terminal."""
        if found is not None:
            self.scalars(found.scalars)
            bar.write(f"step {self.step}: {found.text}")

    def scalars(self, values: Mapping[str, float]) -> None:
        """Writes points of curves at this step, in the leading process."""
        if self.writer is not None:
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, self.step)

    def tick(self) -> bool:
        """Counts one step and saves if ``saving``; False where the run should end."""
        self.step += 1
        done = self.step >= self.steps or self.stopping
        if done or self.saving:
            self.save()
        return not done


class Clock:
    """Seconds of training over all resumes, against a limit; a limit of 0 means none."""

    def __init__(self, limit: float) -> None:
        self.limit, self.before, self.begin = limit, 0.0, time.monotonic()

    def spent(self) -> float:
        return self.before + time.monotonic() - self.begin

    def share(self) -> float:
        """The spent part of the time; 1 at the limit, may exceed 1."""
        return self.spent() / self.limit if self.limit else 0.0

    def over(self) -> bool:
        return bool(self.limit) and self.spent() >= self.limit

    def state_dict(self) -> dict[str, float]:
        return {"spent": self.spent()}

    def load_state_dict(self, state: dict[str, float], /) -> None:
        self.before, self.begin = state["spent"], time.monotonic()


class Prefetch(Generic[B]):
    """Makes batches ahead of the steps, in a thread.

    A batch depends on its key alone, one of ``keys`` (see ``Team.keys``), so that a resume is
    exact.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], B],
        keys: Iterator[tuple[int, ...]],
        depth: int = 4,
    ) -> None:
        self._make = make
        self._queue: queue.Queue[B | Exception] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(keys,), daemon=True)
        self._thread.start()

    def _work(self, keys: Iterator[tuple[int, ...]]) -> None:
        for key in keys:
            try:
                rng = np.random.default_rng(np.random.SeedSequence(key))
                item: B | Exception = self._make(rng)
            except Exception as e:
                item = e
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if self._closed.is_set():
                return

    def next(self) -> B:
        """The batch of the next step; re-raises exceptions of the thread."""
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    def __enter__(self) -> Prefetch[B]:
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the batch that is being made: a thread that is still in torch when Python exits
        aborts the process.
        """
        self._closed.set()
        self._thread.join()


def pick_device(device: str = "auto") -> torch.device:
    """The torch device of that name; ``auto`` is a GPU where torch finds one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
