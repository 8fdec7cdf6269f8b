"""Structured logs: one JSON object per line, without texts, keys and query strings."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

LOGGER = logging.getLogger("uniaudio.serve")
_HIDDEN = ("Uvicorn running", "Started server", "Finished server", "Press CTRL+C")


class JsonFormatter(logging.Formatter):
    """``extra={"fields": {…}}`` adds fields to a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line; fields that are None are left out."""
    given = {k: v for k, v in fields.items() if v is not None}
    LOGGER.log(level, event, extra={"fields": given})


def set_up_logs(level: int = logging.INFO) -> None:
    """Write the server's log and uvicorn's to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("uniaudio.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    # The server says itself where it listens and when it stops.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not str(record.msg).startswith(_HIDDEN)
    )
