"""Our own phone recogniser: log-mel -> small ConvNeXt -> CTC over phones without stress.

A grammar or a language model hides a wrong phone behind a likely word; this one hears phones and
nothing else. It is trained on the corpus (whose phone times are exact) and its weights lie beside
this file, so that everyone measures alike.

``python -m uniaudio_training.evaluate.recogniser --corpus data/corpus --out runs/recogniser``
trains or resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from uniaudio_engine.text.phones import PAUSE, PHONES

from .metrics import Errors, band_powers, edit_errors, error_rate, mel_filters, plain_phones

SAMPLE_RATE = 16000
WEIGHTS = Path(__file__).with_name("recogniser.safetensors")
PHONE_SET = tuple(sorted({p.rstrip("012") for p in PHONES} - {PAUSE}))  # ids 1..; 0 is CTC's blank
BANDS, WINDOW, HOP, STACK = (
    64,
    400,
    160,
    2,
)  # 25 ms windows every 10 ms, two of them a step: 50 steps a second
STEP_RATE = SAMPLE_RATE / HOP / STACK
# of the clip's loudest band: 60 dB of range, so that a recording's own noise floor says nothing
_FLOOR = 1e-6
_WIDTH, _HIDDEN, _BLOCKS, _KERNEL = 192, 448, 6, 9

Floats = NDArray[np.float32]


def mel_power(samples: NDArray[Any]) -> Floats:
    """Mel band powers [T, 64] at 100 Hz."""
    return band_powers(samples, WINDOW, HOP, mel_filters(SAMPLE_RATE, WINDOW, BANDS, 50.0, 7600.0))


def normalise(power: Floats) -> Floats:
    """Band powers [T, 64] -> features [T // 2, 128]: log, without the clip's level and colour (the
    mean of its loud part).
    """
    if len(power) < STACK:
        power = np.pad(power, ((0, STACK - len(power)), (0, 0)))
    x = np.log(power / max(float(power.max()), 1e-12) + _FLOOR)
    energy = power.sum(1)
    x -= x[energy >= energy.max() * 1e-3].mean(0)
    n = len(x) // STACK * STACK
    return (x[:n] / 3.0).reshape(-1, STACK * BANDS).astype(np.float32)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(_WIDTH, _WIDTH, _KERNEL, padding=_KERNEL // 2, groups=_WIDTH)
        self.norm = nn.LayerNorm(_WIDTH)
        self.up = nn.Linear(_WIDTH, _HIDDEN)
        self.down = nn.Linear(_HIDDEN, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(y))))


class Recogniser(nn.Module):
    """features [B, T, 128] at 50 Hz -> log-probabilities [B, T, 1 + phones]; sees 0.5 s to each
    side.
    """

    def __init__(self, phones: Sequence[str] = PHONE_SET) -> None:
        super().__init__()
        self.phones = tuple(phones)
        self.input = nn.Linear(STACK * BANDS, _WIDTH)
        self.input_norm = nn.LayerNorm(_WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, len(self.phones) + 1)
        for block in self.blocks:
            nn.init.trunc_normal_(block.down.weight, std=0.02)
            nn.init.zeros_(block.down.bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self.input_norm(self.input(features))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).float().log_softmax(-1)

    @torch.no_grad()
    def hear(self, samples: NDArray[Any]) -> list[str]:
        """float32 [N] at 16 kHz -> phones without stress and pauses (best path)."""
        if len(samples) < HOP * STACK or not np.any(samples):
            return []
        path = self(torch.from_numpy(normalise(mel_power(samples)))[None])[0].argmax(-1)
        return [self.phones[i - 1] for i in torch.unique_consecutive(path).tolist() if i]

    @classmethod
    def load(cls, path: str | Path = WEIGHTS) -> Recogniser:
        """Reads saved weights.  Raises FileNotFoundError when there are none."""
        from safetensors import safe_open

        if not Path(path).exists():
            raise FileNotFoundError(
                f"no recogniser at {path}; train one: python -m "
                "uniaudio_training.evaluate.recogniser"
            )
        with safe_open(str(path), "pt") as f:
            phones = f.metadata()["phones"].split()
            state = {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118 (not a mapping)
        model = cls(phones)
        model.load_state_dict(state)
        return model.eval()

    def save(self, path: str | Path, **about: str) -> None:
        """Writes float16 weights with the phones in the metadata."""
        from safetensors.torch import save_file

        state = {k: v.detach().half().contiguous() for k, v in self.state_dict().items()}
        save_file(
            state,
            str(path),
            {"format": "uniaudio-recogniser-1", "phones": " ".join(self.phones), **about},
        )


@lru_cache(maxsize=1)
def recogniser() -> Recogniser:
    return Recogniser.load()


# Training


def alignment(ids: NDArray[np.int64], ends: NDArray[np.float64], steps: int) -> NDArray[np.int64]:
    """phone ids [P] (0 in pauses) that end at ``ends`` [P] s -> target of each step [steps]: a CTC
    path with exact times.

    A phone takes the first half of its steps, blank the rest, so that a phone said twice stays two.
    """
    target = np.zeros(steps, np.int64)
    bounds = np.concatenate(([0.0], ends)) * STEP_RATE
    for i, phone in enumerate(ids):
        first = int(bounds[i] + 0.5)
        last = max(first + 1, int((bounds[i] + bounds[i + 1]) / 2 + 0.5))
        target[first:last] = phone
    return target


def augment(power: Floats, rng: np.random.Generator) -> tuple[Floats, float]:
    """Band powers [T, 64] of another throat, pace, room and recorder -> (powers, factor by which
    time was stretched).
    """
    t = len(power)
    stretch = float(rng.uniform(0.85, 1.18)) if rng.random() < 0.6 else 1.0
    warp = float(rng.uniform(0.9, 1.11)) if rng.random() < 0.6 else 1.0
    if stretch != 1.0 or warp != 1.0:
        rows = np.clip(np.arange(int(t * stretch)) / stretch, 0, t - 1.001)
        i = rows.astype(int)
        w = (rows - i).astype(np.float32)[:, None]
        power = power[i] * (1 - w) + power[i + 1] * w if t > 1 else power
        columns = np.clip(np.arange(BANDS) * warp, 0, BANDS - 1.001)
        j = columns.astype(int)
        v = (columns - j).astype(np.float32)
        power = power[:, j] * (1 - v) + power[:, j + 1] * v
    if rng.random() < 0.5:  # steady noise of a random colour, 10 to 40 dB below the speech
        colour = np.exp(np.cumsum(rng.normal(0, 0.25, BANDS)))
        noise = colour / colour.mean() * power.mean() * 10 ** (-rng.uniform(1.0, 4.0))
        power = power + noise * rng.gamma(2.0, 0.5, power.shape)
    if rng.random() < 0.4:  # smeared over 20 to 40 ms, as codecs and vocoders with long windows do
        width = int(rng.integers(2, 5))
        sums = np.cumsum(
            np.pad(power, ((width, 0), (0, 0))), 0, dtype=np.float64
        )  # quiet bands survive the difference
        power = ((sums[width:] - sums[:-width]) / width).clip(0)
    if (
        rng.random() < 0.7
    ):  # wrong by some dB in patches: what quantizing an envelope does; no codec of ours is used
        across, along = int(rng.integers(1, 7)), int(rng.integers(1, 4))
        patches = rng.normal(
            0, rng.uniform(0.2, 0.9), (len(power) // along + 1, BANDS // across + 1)
        )
        power = power * np.exp(patches.repeat(along, 0).repeat(across, 1)[: len(power), :BANDS])
    if rng.random() < 0.4:
        first = int(rng.integers(BANDS - 8))
        power = power.copy()
        power[:, first : first + int(rng.integers(1, 9))] *= 1e-3
    return power.astype(np.float32), stretch


class _Data:
    """The corpus' tts clips as (features, CTC path, phone ids)."""

    def __init__(self, folder: str | Path, split: str) -> None:
        from ..corpus.reading import open_corpus

        index = {p: i + 1 for i, p in enumerate(PHONE_SET)}
        self.examples = open_corpus(folder)["tts", split]
        self.clips = range(len(self.examples))
        self._index = index

    def example(
        self, clip: int, rng: np.random.Generator | None
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        example = self.examples[clip]
        track = example.track()
        power, stretch = mel_power(example.audio()), 1.0
        if rng is not None:
            power, stretch = augment(power, rng)
        x = normalise(power)
        ids = np.array([self._index.get(p.rstrip("012"), 0) for p, _ in track.phones])
        ends = np.array([p.end for p in track.phones]) * stretch
        return x, alignment(ids, ends, len(x)), ids[ids > 0]

    def batch(
        self, rng: np.random.Generator, size: int
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """features [B, T, 128], CTC path [B, T] (-1 beyond the clip), lengths [B], phone ids; clips
        of like length.
        """
        draw = rng.integers(len(self.clips), size=size * 4)
        lengths = [self.examples[int(c)].track().samples for c in draw]
        start = int(rng.integers(3 * size + 1))
        rows = [self.example(int(c), rng) for c in draw[np.argsort(lengths)[start : start + size]]]
        longest = max(len(x) for x, _, _ in rows)
        features = torch.zeros(size, longest, STACK * BANDS)
        path = torch.full((size, longest), -1)
        for b, (x, target, _) in enumerate(rows):
            features[b, : len(x)], path[b, : len(x)] = torch.from_numpy(x), torch.from_numpy(target)
        return (
            features,
            path,
            torch.tensor([len(x) for x, _, _ in rows]),
            [torch.from_numpy(ids) for _, _, ids in rows],
        )


def shard_errors(model: Recogniser, data: _Data, limit: int) -> dict[str, list[Errors]]:
    """Phone errors on the first ``limit`` clips, by speaker."""
    rows: dict[str, list[Errors]] = {}
    model.eval()
    for i in data.clips[:limit]:
        example = data.examples[i]
        track = example.track()
        errors = edit_errors(
            plain_phones([p for p, _ in track.phones]), model.hear(example.audio())
        )
        rows.setdefault(track.speaker, []).append(errors)
    model.train()
    return rows


def train(corpus: str, out: Path, steps: int, batch: int, seed: int = 0) -> Recogniser:
    """Trains or resumes in ``out``: cross-entropy on the exact alignment, then more and more CTC
    alone.
    """
    from ..run import Run, decay_groups, learning_rate, set_learning_rate

    torch.manual_seed(seed)
    model = Recogniser().train()
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blocks.")]
    ids = {id(p) for p in hidden}
    groups = decay_groups(model, 0.01)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    optimizers = [
        (torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.01), 0.02),
        (torch.optim.AdamW(groups, lr=3e-3), 3e-3),
    ]
    data, valid = _Data(corpus, "train"), _Data(corpus, "valid")
    run = Run(out, steps, minutes=2.0)
    run.register(model=model, **{f"optimizer{i}": o for i, (o, _) in enumerate(optimizers)})
    run.resume()
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(data.clips)} "
        f"clips, {len(PHONE_SET)} phones"
    )
    with run.progress() as bar:
        while run.step < steps:
            features, path, lengths, phones = data.batch(
                np.random.default_rng((seed, run.step)), batch
            )
            for o, peak in optimizers:
                set_learning_rate(o, learning_rate(run.step, steps, peak, 50, floor=0.01))
            with torch.autocast("cpu", torch.bfloat16):
                logp = model(features)
            aligned = F.nll_loss(logp.flatten(0, 1), path.flatten(), ignore_index=-1)
            counts = torch.tensor([len(p) for p in phones])
            ctc = F.ctc_loss(
                logp.transpose(0, 1), torch.cat(phones), lengths, counts, zero_infinity=True
            )
            (ctc + 2.0 * (1.0 - run.step / steps) * aligned).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for o, _ in optimizers:
                o.step()
                o.zero_grad(set_to_none=True)
            bar.update()
            run.log(
                bar,
                every=25,
                **{"train/ctc": float(ctc.detach()), "train/aligned": float(aligned.detach())},
            )
            going = run.tick()
            if run.step % 250 == 0 or not going:
                rows = [e for group in shard_errors(model, valid, 100).values() for e in group]
                run.writer.add_scalar("valid/phone_error", error_rate(rows), run.step)
                bar.write(f"step {run.step}: valid phone error {error_rate(rows):.4f}")
            if not going:
                break
    model.save(
        out / WEIGHTS.name,
        steps=str(run.step),
        corpus="uniaudio procedural corpus, flite virtual speakers",
    )
    return model.eval()


def report(model: Recogniser, corpus: str, limit: int) -> dict[str, Any]:
    """Phone error on the test split: by speakers that training knew, and by those it did not."""
    from ..corpus.speech import SPEAKERS

    unseen = {s.name for s in SPEAKERS if s.split == "test"}
    rows = shard_errors(model, _Data(corpus, "test"), limit)
    known = [e for name, group in rows.items() if name not in unseen for e in group]
    new = [e for name, group in rows.items() if name in unseen for e in group]
    return {
        "phone_error": error_rate(known + new),
        "phone_error_known_speakers": error_rate(known),
        "phone_error_unseen_speakers": error_rate(new),
        "clips": len(known + new),
        "by_speaker": {name: round(error_rate(group), 4) for name, group in sorted(rows.items())},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m uniaudio_training.evaluate.recogniser",
        description=(
            "Train (or resume) the phone recogniser that judges speech; ends with its test errors."
        ),
        epilog=(
            "example: python -m uniaudio_training.evaluate.recogniser --corpus data/corpus "
            "--out runs/recogniser"
        ),
    )
    parser.add_argument(
        "--corpus", required=True, help="folder of corpus shards (tts: train, valid, test)"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="the run's folder; its checkpoint is resumed; recogniser.safetensors ends up there",
    )
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--test-only",
        action="store_true",
        help="no training: test the weights in --out, or the bundled ones",
    )
    parser.add_argument("--test-clips", type=int, default=400)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        if args.test_only:
            path = args.out / WEIGHTS.name
            model = Recogniser.load(path if path.exists() else WEIGHTS)
        else:
            model = train(args.corpus, args.out, args.steps, args.batch)
        print(json.dumps(report(model, args.corpus, args.test_clips), indent=2))
    except (OSError, ValueError) as e:
        print(f"recogniser: error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
