"""One rank of an LM run, for ``torchrun``.

    torchrun ... ranks_case.py SETTINGS OUT [KILL]

SETTINGS: JSON. KILL: "one" or "all" ranks end by SIGKILL, once, before the gradients of step 3 are
averaged; with "all" their launcher too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from uniaudio_training.data_parallel import Team
from uniaudio_training.lm.setup import LMSettings
from uniaudio_training.lm.train_lm import train
from uniaudio_training.settings import settings_from

settings, out, kill = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
average, calls = Team.average, 0


def killed(self, *args):
    global calls
    calls += 1
    mark = out / f"killed-{self.rank}"
    if kill and calls == 3 and (kill[0] == "all" or self.rank == 1) and not mark.exists():
        mark.touch()
        if kill[0] == "all" and self.leads:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return average(self, *args)


Team.average = killed
train(settings_from(LMSettings, settings), out, "cpu")
