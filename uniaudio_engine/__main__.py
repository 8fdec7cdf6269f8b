"""``python -m uniaudio_engine`` is the command ``uniaudio``."""

import sys

from .cli import main

sys.exit(main())
