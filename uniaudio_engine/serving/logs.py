"""Structured logs: one JSON object per line, without texts, keys and query strings."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

from .errors import BrokenOff

LOGGER = logging.getLogger("uniaudio.serve")


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
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's says what the server has not said itself."""
    broken_off = record.exc_info is not None and isinstance(record.exc_info[1], BrokenOff)
    return record.levelno >= logging.WARNING and not broken_off
