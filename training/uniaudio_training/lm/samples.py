"""What a run sounds like while it trains: one answer of each task, asked through the engine, as
audio and picture in tensorboard.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from uniaudio_engine import Engine
from uniaudio_engine.cli.plot import spectrogram_db

from ..bundle import write_folder
from ..corpus.reading import open_corpus
from ..evaluate.cases import JUDGES, choose
from ..loop import Run

_PEAK = 0.99


class Samples:
    """Asks a run's checkpoint for one validation example of each task of ``corpus``.

    ``base``: the model folder whose codec, semantic tokenizer and captions the run was made with.
    """

    def __init__(
        self, corpus: str | Path, base: str | Path, captions: str | Path, tasks: Iterable[str]
    ) -> None:
        self.base, self.captions = Path(base), Path(captions).read_bytes() if captions else b""
        self.begun = False
        found = open_corpus(corpus)
        self.cases = {
            t: next(iter(JUDGES[t].cases(choose(found[t, "valid"], 2))))
            for t in tasks
            if t in JUDGES and "valid" in found.splits(t)
        }

    def write(self, run: Run) -> list[str]:
        """Writes them at the run's step; a line for each task that could not answer."""
        run.save()
        trouble = []
        with tempfile.TemporaryDirectory(dir=run.folder) as folder:
            write_folder(
                Path(folder), "samples", None, str(run.folder), "", self.base, self.captions
            )
            engine = Engine.from_pretrained(folder, threads=1)
            for task, case in self.cases.items():
                if not self.begun:
                    self._put(run, f"{task}/truth", case.truth)
                try:
                    self._put(
                        run, f"{task}/model", engine.generate(task, **case.request, seed=0).samples
                    )
                except (ValueError, RuntimeError) as e:  # a young model may answer with nothing
                    trouble.append(f"{task}: {e}")
        self.begun = True
        return trouble

    @staticmethod
    def _put(run: Run, tag: str, samples: np.ndarray) -> None:
        assert run.writer is not None  # samples are made by the process that leads
        x = torch.from_numpy(np.clip(samples, -_PEAK, _PEAK).astype(np.float32))
        run.writer.add_audio(tag, x[None], run.step, 16000)
        picture = np.flipud(
            1 + spectrogram_db(x.numpy()) / 80
        ).copy()  # dB 0 .. -80 -> 1 .. 0, low frequencies at the bottom
        run.writer.add_image(f"{tag} spectrogram", picture[None], run.step)
