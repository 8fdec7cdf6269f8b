"""Many listeners at the same time: first sound, stutters, and how many can be served.

Simulated clients ask for one new sentence after another, each in its own voice, and play what they
get at its own speed: the next sentence is asked for when the last one was heard. All of them run in
this process on one event loop, over ``engine.astream``. A stutter is a chunk that came after its
playback time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import common
from common import say
from models import bundled, split_format

from uniaudio_engine import Engine, __version__

WORDS = (
    "the water was still and the light of the morning lay on every roof while people came out of "
    "their houses and began to talk about the long winter that had ended at last"
).split()
EPILOG = """examples:
  python benchmarks/serving.py
  python benchmarks/serving.py --clients 16 --seconds 60
  python benchmarks/serving.py --write                     the table into docs/benchmarks.md
"""


@dataclass
class Heard:
    """What the clients of one load heard. Milliseconds from asking to the first samples."""

    first: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # milliseconds of each stutter
    chunks: int = 0
    sound: float = 0.0  # seconds

    def row(self, clients: int, seconds: float) -> dict[str, Any]:
        return {
            "clients": clients,
            "sentences": len(self.first),
            "first_p50_ms": percentile(self.first, 50),
            "first_p95_ms": percentile(self.first, 95),
            "chunks": self.chunks,
            "stutters": len(self.late),
            "worst_ms": round(max(self.late, default=0.0), 1),
            "sound_per_second": round(self.sound / seconds, 2),
        }


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that ``part`` percent are not above."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * int(part) // 100) - 1)], 1) if ordered else 0.0


def sentence(client: int, turn: int) -> str:
    """A sentence that no other client and no other turn has."""
    at = (client * 7 + turn * 11) % len(WORDS)
    words = [
        WORDS[(at + i * (1 + client % 3)) % len(WORDS)] for i in range(6 + (client + turn) % 9)
    ]
    return " ".join(words).capitalize() + "."


async def client(engine: Engine, number: int, until: float, seed: int, heard: Heard) -> None:
    voices = engine.voices()
    voice = voices[number % len(voices)] if voices else None
    await asyncio.sleep(number % 16 / 16)  # they do not all begin at once
    turn = 0
    while time.monotonic() < until:
        asked, end = time.monotonic(), 0.0
        given = {
            "text": sentence(number, turn),
            "voice": voice,
            "seed": seed + 1000 * number + turn,
        }
        async with engine.astream("tts", **given) as stream:
            async for chunk in stream:
                now = time.monotonic()
                seconds = len(chunk.samples) / chunk.sample_rate
                if seconds == 0:
                    continue
                if end == 0.0:
                    heard.first.append(1000 * (now - asked))
                    end = now
                elif now > end:
                    heard.late.append(1000 * (now - end))
                    end = now
                end += seconds
                heard.chunks += 1
                heard.sound += seconds
        await asyncio.sleep(max(0.0, end - time.monotonic()))  # until it was heard
        turn += 1


async def load(engine: Engine, clients: int, seconds: float, seed: int) -> Heard:
    heard = Heard()
    until = time.monotonic() + seconds
    await asyncio.gather(*(client(engine, i, until, seed, heard) for i in range(clients)))
    return heard


def alone(engine: Engine, seed: int) -> dict[str, float]:
    """One stream in a plain loop: ``engine.stream``, without an event loop."""
    first, factor = [], []
    for turn in range(5):
        audio = engine.tts(sentence(0, turn), seed=seed + turn)
        first.append(audio.meta["first_chunk_ms"])
        factor.append(audio.meta["realtime_factor"])
    return {"first_chunk_ms": common.median(first), "realtime_factor": common.median(factor)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    dtype, options = split_format(args.format)
    engine = Engine.from_pretrained(
        bundled(), dtype=dtype, threads=args.threads, **cast(Any, options)
    )
    for voice in engine.voices()[:2]:
        engine.tts("Warm up.", voice=voice)
    single = alone(engine, args.seed)
    say(f"alone: {single['first_chunk_ms']:.1f} ms, {single['realtime_factor']:.1f} x realtime")
    rows = []
    for clients in args.clients:
        begin = time.monotonic()
        heard = asyncio.run(load(engine, clients, args.seconds, args.seed))
        row = heard.row(clients, time.monotonic() - begin)
        rows.append(row)
        say(
            f"{clients} clients: first {row['first_p50_ms']} / {row['first_p95_ms']} ms, "
            f"{row['stutters']} stutters of {row['chunks']} chunks"
        )
        if row["stutters"] > args.most_stutters * row["chunks"]:
            break  # more clients stutter more
    smooth = [r["clients"] for r in rows if r["stutters"] == 0]
    return {
        "date": common.today(),
        "machine": common.machine(),
        "threads": args.threads,
        "seed": args.seed,
        "seconds": args.seconds,
        "command": (
            f"python benchmarks/serving.py --clients {','.join(map(str, args.clients))} "
            f"--seconds {args.seconds:g} --format {args.format} --threads {args.threads} "
            f"--seed {args.seed} --most-stutters {args.most_stutters:g}"
        ),
        "version": __version__,
        "format": engine.dtype,
        "session_bytes": engine.memory(1, 5.0).session,
        "alone": single,
        "rows": rows,
        "most_without_stutter": max(smooth, default=0),
    }


def section(results: dict[str, Any]) -> str:
    head = ["clients", "first sound p50, ms", "p95, ms", "chunks", "stutters", "longest, ms"]
    head += ["seconds of sound a second"]
    rows = [
        [
            str(r["clients"]),
            f"{r['first_p50_ms']:.0f}",
            f"{r['first_p95_ms']:.0f}",
            str(r["chunks"]),
            str(r["stutters"]),
            f"{r['worst_ms']:.0f}",
            f"{r['sound_per_second']:.1f}",
        ]
        for r in results["rows"]
    ]
    single = results["alone"]
    return "\n\n".join(
        [
            "### Many listeners",
            f"{results['date']}, {common.machine_line(results['machine'])}; {results['threads']} "
            f"threads, {results['format']}, seed {results['seed']}, uniaudio-engine "
            f"{results['version']}; {results['seconds']:g} s for each load. One stream alone: first "
            f"chunk {single['first_chunk_ms']:.0f} ms, {single['realtime_factor']:.1f} × realtime.",
            common.table(head, rows),
            f"Most clients without a stutter: {results['most_without_stutter']}.",
            f"Command: `{results['command']}`, then the same with `--write`.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clients",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[1, 4, 8, 16, 24, 32, 40, 48, 64],
        help="loads, one after the other (1,4,8,16,24,32,40,48,64)",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load (30)")
    parser.add_argument("--format", default="int8", help="weights, as the engine's dtype (int8)")
    parser.add_argument(
        "--most-stutters",
        type=float,
        default=0.05,
        help="the part of chunks that may come late before larger loads are left out (0.05)",
    )
    common.add_common(parser, "serving.json", rounds=False)
    args = parser.parse_args(argv)
    if args.write:
        common.write_section(args.docs, "serving", section(common.load_results(args.results)))
        return 0
    results = run(args)
    common.save_results(args.results, results)
    print(section(results))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
