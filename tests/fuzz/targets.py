"""All targets by name; each makes itself ready in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import import_targets
import model_targets
import request_targets
import sound_targets
import text_targets
from target import Target

TARGETS: dict[str, Callable[[Path], Target]] = {
    name: make
    for module in (text_targets, request_targets, model_targets, sound_targets, import_targets)
    for name, make in module.TARGETS.items()
}
