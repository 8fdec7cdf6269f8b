"""Files of requests: one JSON object per line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ..errors import InputError, shown
from ..storage.opening import read_regular
from .say_as import standard_input

_MAX_BYTES = 256 << 20


def read_requests(path: str) -> list[tuple[int, dict[str, Any]]]:
    """(line number, request) of a JSONL file, or of standard input for -. Skips empty lines."""
    try:
        lines = (
            standard_input().splitlines()
            if path == "-"
            else read_regular(path, _MAX_BYTES).decode("utf-8").splitlines()
        )
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"{path}: expected a readable UTF-8 file of JSON lines, got: {e}"
        ) from None
    requests = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        with in_line(path, number):
            try:
                request = json.loads(line)
            except (ValueError, RecursionError) as e:
                raise InputError(f"expected a JSON object, got: {e}") from None
            if not isinstance(request, dict):
                raise InputError(f"expected a JSON object, got {shown(request)}")
            requests.append((number, request))
    if not requests:
        raise InputError(
            f"{path}: expected at least one request, got none; write one JSON object per line"
        )
    return requests


@contextlib.contextmanager
def in_line(path: str, number: int) -> Iterator[None]:
    """Errors in the block name the file and the line."""
    try:
        yield
    except (ValueError, TypeError) as e:
        raise InputError(f"{path} line {number}: {e}") from None
