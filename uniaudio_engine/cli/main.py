"""The command ``uniaudio``: one-line errors, exit codes and Ctrl-C.

``arguments.py`` has the arguments, ``commands.py`` the subcommands. Exit codes: 0 success, 2 a bad
request, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from .arguments import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    _open_standard_streams()
    with _Terminated():
        try:
            args = _parse(argv)
            return int(args.run(args))
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except BrokenPipeError:  # the reader of our output is gone: nothing to report to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (ValueError, OSError, MemoryError, RuntimeError) as e:
            if os.environ.get("UNIAUDIO_DEBUG"):
                raise
            return _fail(_one_line(e), 2)


def _open_standard_streams() -> None:
    """Standard streams that are closed, as services may have them, become the null device.

    Otherwise the next file that is opened would take their place.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is not None:
            continue
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
        setattr(sys, name, open(os.devnull, mode))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; NAME=VALUE pairs may also follow flags, which argparse does not support."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "values") or any(r.startswith("-") for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.values += rest
    return args


class _Terminated:
    """Turns terminating signals into an exception, so that partial files are removed.

    Only in the main thread. An ignored signal, as under ``nohup``, stays ignored.
    """

    def __enter__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        for name in ("SIGTERM", "SIGHUP", "SIGQUIT"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is None or signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._raise)
            except ValueError:  # not the main thread
                return

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @staticmethod
    def _raise(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)


def _fail(message: str, code: int) -> int:
    print(f"uniaudio: error: {message}", file=sys.stderr)
    return code


def _one_line(e: BaseException) -> str:
    if isinstance(e, MemoryError):
        return "not enough memory; a lower --max-seconds needs less"
    if isinstance(e, OSError) and e.strerror:
        return f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    return " ".join(str(e).split()) or type(e).__name__


if __name__ == "__main__":
    sys.exit(main())
