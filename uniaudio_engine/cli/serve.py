"""``uniaudio serve``: the engine over HTTP and WebSockets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cluster
from ..errors import InputError, shown

if TYPE_CHECKING:
    from ..engine import Engine

EPILOG = """examples:
  uniaudio serve
  curl localhost:8000/v1/audio/speech -H 'Content-Type: application/json' \\
    -d '{"model": "base", "input": "Hello there.", "voice": "default"}' -o hello.mp3

  openssl rand -hex 24 > key && uniaudio serve --host 0.0.0.0 --api-key-file key
  uniaudio serve --ray --replicas 2:8 --api-key-file key --host 0.0.0.0
"""
_MIB = 1 << 20


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Those beside the model's; the defaults are those of :class:`serving.settings.Settings`."""
    p.epilog = EPILOG
    g = p.add_argument_group("network")
    g.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1); any that others can reach needs an API key",
    )
    g.add_argument("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    g.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that clients must send; may be repeated. Other users of the machine can see it; "
        "prefer a file or the variable UNIAUDIO_API_KEY",
    )
    g.add_argument("--api-key-file", metavar="FILE", help="a file with a key on each line")
    g.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web origin that may use the server, such as https://app.example; may be repeated",
    )
    g.add_argument(
        "--wyoming",
        metavar="[HOST:]PORT",
        help="also speak the Wyoming protocol of Home Assistant there; it has no keys, and answers "
        "private networks only",
    )
    g = p.add_argument_group("cluster")
    g.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help=f"run replicas of the server on a Ray cluster, by Ray Serve: {cluster.ADDRESS}",
    )
    g.add_argument(
        "--replicas",
        metavar="N",
        help="with --ray: replicas, of --threads processors each, or MIN:MAX for as many as the "
        "load needs (default 1); the limits below are those of each",
    )
    g = p.add_argument_group("limits")
    for flag, kind, metavar, help in (
        ("max-sessions", int, "N", "requests that run at once (default 16)"),
        ("max-queue", int, "N", "requests that wait (default 32); more are told to come later"),
        ("max-connections", int, "N", "open HTTP connections (default 256)"),
        ("max-body", float, "MIB", "largest request in MiB (default 25)"),
        ("max-text", int, "N", "longest text in characters (default 10000)"),
        ("max-input-seconds", float, "S", "longest sound that is sent (default 600)"),
        ("max-output-seconds", float, "S", "longest sound that is made (default 1800)"),
        ("stall-seconds", float, "S", "a client that takes nothing for so long is cut (default 2)"),
        ("drain-seconds", float, "S", "time for running streams after SIGTERM (default 30)"),
    ):
        g.add_argument(f"--{flag}", type=kind, metavar=metavar, help=help)
    g = p.add_argument_group("names")
    g.add_argument(
        "--voices", metavar="DIR", help="keep uploaded voices there (default: in memory)"
    )
    g.add_argument(
        "--model-alias",
        action="append",
        default=[],
        metavar="NAME",
        help="another name for the model, such as tts-1; may be repeated",
    )
    g.add_argument(
        "--voice-alias",
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="another name for a voice, such as alloy=default; may be repeated",
    )


def run_server(args: argparse.Namespace, load_engine: Callable[[], Engine]) -> int:
    """Check the settings, load the model, and serve it until SIGTERM or Ctrl-C."""
    from ..serving import check_installed

    check_installed()
    from ..serving.server import serve
    from ..serving.settings import Settings, read_api_keys

    limits = (
        "max_sessions",
        "max_queue",
        "max_connections",
        "max_text",
        "max_input_seconds",
        "max_output_seconds",
        "stall_seconds",
        "drain_seconds",
    )
    given = {name: value for name in limits if (value := getattr(args, name)) is not None}
    if args.max_body is not None:
        given["max_body"] = round(args.max_body * _MIB)
    settings = Settings(
        host=args.host,
        port=args.port,
        api_keys=read_api_keys(args.api_key, args.api_key_file),
        cors_origins=tuple(args.cors_origin),
        voices=None if args.voices is None else Path(args.voices),
        model_aliases=tuple(args.model_alias),
        voice_aliases=dict(_pair(v) for v in args.voice_alias),
        wyoming=args.wyoming,
        **given,
    )
    if args.ray is None:
        if args.replicas is not None:
            raise InputError("--replicas: expected --ray with it, got one server")
        return serve(load_engine(), settings)
    cluster.check_installed()
    from ..serving.replicas import Replicas, serve_on

    replicas = Replicas.parse(
        args.replicas or "1", args.threads or 1, float(args.device.startswith("cuda"))
    )
    return serve_on(args.ray, load_engine, settings, replicas)


def _pair(value: str) -> tuple[str, str]:
    name, equals, voice = value.partition("=")
    if not (name and equals and voice):
        raise InputError(f"--voice-alias: expected NAME=VOICE, got {shown(value)}")
    return name, voice
