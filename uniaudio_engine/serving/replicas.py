"""The server as a Ray Serve application: replicas on a cluster behind Serve's proxies.

Each replica is a process with the engine and the whole ASGI application, with the limits of its
settings. Serve sends a request to the replica that has fewer, and streams the answer through.
A replica that is taken away gets no more requests, and ends when its sessions have.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application

from .. import cluster
from ..engine import Engine
from ..errors import InputError, shown
from .app import create_app
from .logs import log, set_up_logs
from .server import SWITCH_SECONDS
from .settings import Settings

NAME = "uniaudio"


@dataclass(frozen=True)
class Replicas:
    """How many replicas run, and what each reserves. With ``most`` above ``least``, Serve adds and
    removes replicas so that each has about half of its ``max_sessions``.
    """

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    @classmethod
    def parse(cls, text: str, cpus: float = 1.0, gpus: float = 0.0) -> Replicas:
        """``2``, or ``1:4``. Raises :class:`InputError`."""
        found = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", text)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise InputError(
                f"replicas: expected a number from 1, or MIN:MAX such as 1:4, got {shown(text)}"
            )
        return cls(least, most, cpus, gpus)


def application(
    load: Callable[[], Engine], settings: Settings, replicas: Replicas | None = None
) -> Application:
    """The application, for ``serve.run``. ``load`` is pickled; each replica calls it once.

    Raises :class:`InputError` for settings that one address with many processes cannot have.
    """
    replicas = replicas or Replicas()
    if settings.wyoming is not None:
        raise InputError("wyoming: Ray Serve speaks HTTP and WebSockets only; run uniaudio serve")
    if settings.voices is None:  # an upload would be known to one replica alone
        settings = replace(settings, max_voices=0)
    folder = os.getcwd()

    def build() -> FastAPI:
        os.chdir(folder)  # relative paths mean what they do where the command runs
        set_up_logs()
        sys.setswitchinterval(SWITCH_SECONDS)
        return create_app(load(), settings)

    scaling: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": max(1.0, settings.max_sessions / 2),
            }
        }
    deployment = serve.deployment(
        name=NAME,
        # The application itself says 429 to what is beyond its own queue.
        max_ongoing_requests=settings.max_sessions + settings.max_queue + 1,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        **scaling,
    )
    return deployment(serve.ingress(build)()).bind()


def build(given: dict[str, Any]) -> Application:
    """What ``serve run uniaudio_engine.serving.replicas:build NAME=VALUE …`` and configuration
    files of Serve call.

    Names: ``replicas``, the fields of :class:`Settings`, and the arguments of
    ``Engine.from_pretrained``, with ``model`` for its path. Values may be strings, as on a command
    line. Raises :class:`InputError` for anything else.
    """
    engine, settings, count = {}, {}, "1"
    for name, value in given.items():
        if name == "replicas":
            count = str(value)
        elif name in _ENGINE:
            engine[name] = _ENGINE[name](value)
        elif name in _SETTINGS:
            settings[name] = _SETTINGS[name](value)
        else:
            known = ", ".join(("replicas", *_ENGINE, *_SETTINGS))
            raise InputError(f"expected some of {known}, got {shown(name)}")
    replicas = Replicas.parse(
        count, engine.get("threads", 1), float(engine.get("device", "").startswith("cuda"))
    )
    return application(_Load(engine.pop("model", None), engine), Settings(**settings), replicas)


@dataclass(frozen=True)
class _Load:
    model: str | None
    given: dict[str, Any]

    def __call__(self) -> Engine:
        return Engine.from_pretrained(self.model, **self.given)


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(value.split(",") if isinstance(value, str) else value)


_ENGINE: dict[str, Callable[[Any], Any]] = {
    "model": str,
    "device": str,
    "dtype": str,
    "backend": str,
    "kv_dtype": str,
    "threads": int,
    "max_seconds": float,
}
_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "host": str,
    "api_keys": _strings,
    "cors_origins": _strings,
    "model_aliases": _strings,
    "voice_aliases": dict,
    "voices": Path,
    **dict.fromkeys(("max_sessions", "max_queue", "max_body", "max_text", "max_voices"), int),
    **dict.fromkeys(("max_input_seconds", "max_output_seconds", "drain_seconds"), float),
}


def start(settings: Settings, location: str = "EveryNode") -> None:
    """Start Serve's proxies, one on each node with replicas, where the settings say."""
    network = {"host": settings.host, "port": settings.port}
    serve.start(proxy_location=location, http_options=network)


def serve_on(
    address: str, load: Callable[[], Engine], settings: Settings, replicas: Replicas
) -> int:
    """Deploy on a cluster and wait for SIGTERM or Ctrl-C; then drain. Returns the exit code.

    Raises RuntimeError where the cluster cannot run Serve.
    """
    set_up_logs()
    made = application(load, settings, replicas)
    stop = threading.Event()
    with cluster.connected(address):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        try:
            start(settings)
            serve.run(made, name=NAME, route_prefix="/")
        except RayError as e:
            raise RuntimeError(
                f"--ray: expected Ray Serve to start, got: {cluster.one_line(str(e))}"
            ) from None
        log("listening", host=settings.host, port=settings.port, replicas=replicas.least)
        stop.wait()
        log("draining")
        serve.delete(NAME)
        if not serve.status().applications:  # no one else's either
            serve.shutdown()
        log("stopped")
    return 0
