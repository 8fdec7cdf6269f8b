"""``python -m uniaudio_engine`` is the command ``uniaudio``."""

import sys

from .cli.main import main

sys.exit(main())
