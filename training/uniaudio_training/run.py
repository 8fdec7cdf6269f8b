"""What every training run shares: its folder, atomic checkpoints, exact resume, learning-rate
schedule and tensorboard.
"""

from __future__ import annotations

import math
import os
import queue
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


def pick_device(name: str = "auto") -> torch.device:
    return torch.device(
        "cuda"
        if name == "auto" and torch.cuda.is_available()
        else "cpu"
        if name == "auto"
        else name
    )


def load_yaml(path: str | Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as f:
        data = yaml.safe_load(f)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {type(data).__name__}")
    return data


def overridden(config: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The config with settings "NAME=VALUE" in place of its own; values are YAML.

    What a name means is the trainer's to check.
    """
    found = dict(config)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ValueError(f"--set: expected NAME=VALUE, got {setting!r}")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set {name}: expected a YAML value, got {value!r}") from None
    return found


def settings_from(
    config: dict[str, Any], defaults: dict[str, Any], parts: tuple[str, ...]
) -> dict[str, Any]:
    """Defaults overlaid with the config's settings; a misspelt one is an error, never ignored."""
    unknown = set(config) - set(defaults) - set(parts)
    if unknown:
        raise ValueError(
            f"unknown setting {sorted(unknown)[0]!r}; known: {', '.join(sorted(defaults))}, "
            f"{', '.join(parts)}"
        )
    given = {k: _number(k, v, defaults[k]) for k, v in config.items() if k not in parts}
    return {**defaults, **given}


def _number(name: str, value: Any, default: Any) -> Any:
    """The value, where it is of the default's kind; YAML 1.1 takes 2e-4, without a point, for a
    text.
    """
    if type(default) not in (int, float):
        return value
    try:
        number = float(value)
        if isinstance(value, bool) or (isinstance(default, int) and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(
            f"{name}: expected {kind}, as in {name}: {default}, got {value!r}"
        ) from None
    return type(default)(number)


class Prefetch:
    """Makes the batch of each step ahead in a thread; step i's batch depends on (*seed, i) alone,
    so that a resume is exact.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], Any],
        seed: int | tuple[int, ...],
        first: int,
        depth: int = 4,
    ) -> None:
        key = (seed,) if isinstance(seed, int) else seed
        self._queue: queue.Queue[Any] = queue.Queue(depth)

        def work() -> None:
            step = first
            while True:
                try:
                    item = make(np.random.default_rng(np.random.SeedSequence((*key, step))))
                except Exception as e:
                    item = e
                self._queue.put(item)
                step += 1

        threading.Thread(target=work, daemon=True).start()

    def next(self) -> Any:
        item = self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item


# How often a run saves; a machine that is lent for minutes asks for more.
SAVE_MINUTES = float(os.environ.get("UNIAUDIO_SAVE_MINUTES", "4"))


class Run:
    """One training run in ``folder``: ``checkpoint.pt`` (weights, optimizers, step, random states),
    ``tensorboard/``.

    A checkpoint is written every ``minutes`` and when the process is asked to stop (SIGTERM,
    Ctrl-C); writing is atomic.
    """

    def __init__(
        self, folder: str | Path, steps: int, minutes: float = SAVE_MINUTES, leads: bool = True
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "checkpoint.pt"
        self.steps, self.minutes = steps, minutes
        self.step = 0
        self.parts: dict[str, Any] = {}
        self.leads = leads  # of several processes one writes
        self.writer = SummaryWriter(str(self.folder / "tensorboard")) if leads else None
        self.stopping = False
        self._saved = time.monotonic()
        self._means: dict[str, tuple[float, int]] = {}
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def register(self, **parts: Any) -> None:
        """Anything with ``state_dict``/``load_state_dict`` that a resumed run needs."""
        self.parts.update(parts)

    def resume(self) -> bool:
        """Loads the checkpoint if there is one."""
        if not self.path.exists():
            return False
        state = torch.load(
            self.path, map_location="cpu", weights_only=False
        )  # our own file: optimizer and RNG states
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.step = state["step"]
        torch.set_rng_state(state["rng"]["torch"])
        np.random.set_state(state["rng"]["numpy"])
        random.setstate(state["rng"]["python"])
        return True

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all; only where this process leads."""
        if not self.leads:
            return
        state = {
            "step": self.step,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "rng": {
                "torch": torch.get_rng_state(),
                "numpy": np.random.get_state(),
                "python": random.getstate(),
            },
        }
        part = self.path.with_suffix(f".{os.getpid()}")
        torch.save(state, part)
        part.replace(self.path)
        self._saved = time.monotonic()

    def progress(self, unit: str = "step") -> tqdm:
        return tqdm(
            total=self.steps,
            initial=self.step,
            unit=unit,
            smoothing=0.05,
            mininterval=5,
            disable=not self.leads,
        )

    def log(self, bar: tqdm | None = None, every: int = 50, **values: float) -> None:
        """Averages values over ``every`` steps, then writes them."""
        for name, value in values.items():
            total, count = self._means.get(name, (0.0, 0))
            self._means[name] = (total + value, count + 1)
        if self.step % every == 0 and self.writer is not None:
            means = {name: total / count for name, (total, count) in self._means.items()}
            self._means.clear()
            for name, value in means.items():
                self.writer.add_scalar(name, value, self.step)
            if bar is not None:
                bar.set_postfix(
                    {k.rsplit("/", 1)[-1]: f"{v:.3g}" for k, v in means.items()}, refresh=False
                )

    def tick(self) -> bool:
        """Counts one step and saves when it is time; False when the run should end."""
        self.step += 1
        done = self.step >= self.steps or self.stopping
        if done or time.monotonic() - self._saved > 60 * self.minutes:
            self.save()
        return not done


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.05) -> float:
    """Linear warm-up, then cosine to ``floor`` x peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    x = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases and embeddings do not."""
    decay = [p for n, p in module.named_parameters() if p.dim() >= 2 and "embed" not in n]
    rest = [p for n, p in module.named_parameters() if p.dim() < 2 or "embed" in n]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
