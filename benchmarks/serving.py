"""Many listeners at the same time: first sound, stutters, and how many can be served.

Simulated listeners (``listeners.py``) ask for one new sentence after another, each in its own
voice, and play what they get at its own speed. The ways to listen:

engine      over ``engine.astream``, in this process
http        over ``POST /v1/audio/speech`` of a ``uniaudio serve`` that is started for it
websocket   over its ``/v1/stream``
words       the same, with a text that is written word by word: the time from the last word of the
            first clause to its first sound
piper       a Piper server under the same load (``--peer-python``)
kokoro      a Kokoro server under the same load (``--peer-python``, ``--kokoro-model``)

A load is smooth if nobody heard a stutter and 95 % of the sentences began within ``--patience``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import common
from common import say
from listeners import Heard, load, percentile, sentence
from models import bundled, split_format
from speech_servers import SpeechServer, peer, uniaudio

from uniaudio_engine import Engine, __version__
from uniaudio_engine.errors import InputError

LOADS = {
    "engine": (1, 16, 24, 32),
    "http": (1, 8, 16, 20, 24, 28, 32, 40, 48),
    "websocket": (1, 16, 24, 32),
    "words": (1,),
    "piper": (1, 2, 4, 8, 12),
    "kokoro": (1, 2),
}
SESSIONS = 256  # more than any load needs: nobody waits for a slot
WORDS_TURNS = 15
NAMES = {
    "engine": "in process",
    "http": "HTTP",
    "websocket": "WebSocket",
    "piper": "Piper, HTTP",
    "kokoro": "Kokoro, HTTP",
}
EPILOG = """examples:
  python benchmarks/serving.py
  python benchmarks/serving.py --ways http --clients 16,24 --seconds 60
  python benchmarks/serving.py --ways piper,kokoro --peer-python ENV/bin/python \\
    --kokoro-model FOLDER
  python benchmarks/serving.py --write                     the table into docs/benchmarks.md
Each run replaces the ways that it measured. peers/speech_server.py says what the environment and the
folder need.
"""


def in_process(engine: Engine, number: int) -> Callable[[str, int], AsyncGenerator[float, None]]:
    voices = engine.voices()
    voice = voices[number % len(voices)] if voices else None

    async def speak(text: str, seed: int) -> AsyncGenerator[float, None]:
        async with engine.astream("tts", text=text, voice=voice, seed=seed) as stream:
            async for chunk in stream:
                yield len(chunk.samples) / chunk.sample_rate

    return speak


def alone(engine: Engine, seed: int) -> dict[str, float]:
    """One stream in a plain loop: ``engine.stream``, without an event loop."""
    first, factor = [], []
    for turn in range(5):
        audio = engine.tts(sentence(0, turn), seed=seed + turn)
        first.append(audio.meta["first_chunk_ms"])
        factor.append(audio.meta["realtime_factor"])
    return {"first_chunk_ms": common.median(first), "realtime_factor": common.median(factor)}


def smooth(row: dict[str, Any], patience: float) -> bool:
    return row["stutters"] == 0 and row["first_p95_ms"] <= patience


def loads(
    way: str, args: argparse.Namespace, heard: Callable[[int, float], Heard]
) -> list[dict[str, Any]]:
    """A row for each load, until one is far from smooth. ``heard``: clients and seconds of a load."""
    rows: list[dict[str, Any]] = []
    heard(2, 2.0)  # warm
    for clients in args.clients or LOADS[way]:
        row = {"clients": clients, **heard(clients, args.seconds).row()}
        rows.append(row)
        say(
            f"{way}, {clients} clients: first {row['first_p50_ms']} / {row['first_p95_ms']} ms, "
            f"{row['stutters']} stutters of {row['chunks']} chunks"
        )
        too_late = row["stutters"] > args.most_stutters * row["chunks"]
        if too_late or row["first_p95_ms"] > 5 * args.patience:
            break  # more clients hear less
    return rows


def of_engine(args: argparse.Namespace) -> dict[str, Any]:
    dtype, options = split_format(args.format)
    engine = Engine.from_pretrained(
        bundled(), dtype=dtype, threads=args.threads, **cast(Any, options)
    )
    for voice in engine.voices():
        engine.tts("Warm up.", voice=voice)
    single = alone(engine, args.seed)
    say(f"alone: {single['first_chunk_ms']:.1f} ms, {single['realtime_factor']:.1f} x realtime")

    def heard(clients: int, seconds: float) -> Heard:
        speakers = [in_process(engine, i) for i in range(clients)]
        return asyncio.run(load(speakers, seconds, args.seed))

    return {"alone": single, "rows": loads("engine", args, heard)}


def of_server(server: SpeechServer, way: str, args: argparse.Namespace) -> dict[str, Any]:
    if way == "words":
        taken = server.listen("--words", str(WORDS_TURNS), "--seed", str(args.seed))["words_ms"]
        found = {"p50_ms": percentile(taken, 50), "p95_ms": percentile(taken, 95)}
        say(f"words: {found['p50_ms']} / {found['p95_ms']} ms from the last word to sound")
        return {**found, "turns": len(taken)}
    protocol = way if way == "websocket" else "http"

    def heard(clients: int, seconds: float) -> Heard:
        given = {"clients": clients, "seconds": seconds, "seed": args.seed, "way": protocol}
        pairs = ((f"--{name}", str(value)) for name, value in given.items())
        return Heard(**server.listen(*(part for pair in pairs for part in pair)))

    rows = loads(way, args, heard)
    return {"rows": rows, "megabytes": server.resident() / 1e6, "version": server.version}


def measured(way: str, args: argparse.Namespace) -> dict[str, Any]:
    if way == "engine":
        return of_engine(args)
    if way in ("piper", "kokoro"):
        with peer(way, args.peer_python, args.threads, args.kokoro_model) as server:
            return of_server(server, way, args)
    with uniaudio(args.format, args.threads, SESSIONS) as server:
        # The first request of each voice computes its prefix.
        server.listen("--clients", "16", "--seconds", "2")
        return of_server(server, way, args)


def run(args: argparse.Namespace) -> dict[str, Any]:
    results = common.load_results(args.results)
    ways = results.get("ways", {})
    about = {
        "date": common.today(),
        "machine": common.machine(),
        "threads": args.threads,
        "seed": args.seed,
        "seconds": args.seconds,
        "patience": args.patience,
        "format": args.format,
        "version": __version__,
    }
    for way in args.ways:
        found = measured(way, args)
        if "rows" in found:
            good = [r["clients"] for r in found["rows"] if smooth(r, args.patience)]
            found["most"] = max(good, default=0)
        ways[way] = found
        results = {**about, "ways": ways}
        common.save_results(args.results, results)
    return results


def section(results: dict[str, Any]) -> str:
    ways = results["ways"]
    head = ["listeners", "clients", "first sound p50, ms", "p95, ms", "chunks", "stutters"]
    head += ["longest, ms", "seconds of sound a second"]
    rows = [
        [
            NAMES[way],
            str(r["clients"]),
            f"{r['first_p50_ms']:.0f}",
            f"{r['first_p95_ms']:.0f}",
            str(r["chunks"]),
            str(r["stutters"]),
            f"{r['worst_ms']:.0f}",
            f"{r['sound_per_second']:.1f}",
        ]
        for way in NAMES
        for r in ways.get(way, {}).get("rows", ())
    ]
    lines = [
        f"{results['date']}, {common.machine_line(results['machine'])}; {results['threads']} "
        f"threads, {results['format']}, seed {results['seed']}, uniaudio-engine "
        f"{results['version']}; {results['seconds']:g} s for each load. The listeners of a server "
        "are a process on the same cores.",
        common.table(head, rows),
    ]
    if most := [f"{NAMES[w]} {ways[w]['most']}" for w in NAMES if w in ways]:
        lines.append(
            f"Most clients without a stutter, 95 % of first sounds within {results['patience']:g} "
            f"ms: {', '.join(most)}."
        )
    if "words" in ways:
        words = ways["words"]
        lines.append(
            "Text that is written word by word over the WebSocket: from the last word of the first "
            f"clause to its first sound {words['p50_ms']:.0f} ms (p50), {words['p95_ms']:.0f} ms "
            f"(p95) of {words['turns']} utterances."
        )
    if "engine" in ways:
        single = ways["engine"]["alone"]
        lines.append(
            f"One stream alone in a plain loop: first chunk {single['first_chunk_ms']:.0f} ms, "
            f"{single['realtime_factor']:.1f} × realtime."
        )
    memory = [
        f"{NAMES[w]} {ways[w]['megabytes']:.0f}" for w in NAMES if "megabytes" in ways.get(w, {})
    ]
    if memory:
        lines.append(f"Memory of the server after it, MB: {', '.join(memory)}.")
    peers = [ways[w]["version"] for w in ("piper", "kokoro") if w in ways]
    if peers:
        lines.append(
            f"Peers: {', '.join(peers)}, ONNX Runtime with as many threads, one sentence after "
            "another (`benchmarks/peers/speech_server.py`). They send a sentence once all of it is "
            "made, so it cannot stutter, and begins late."
        )
    return "\n\n".join(
        [
            "### Many listeners",
            *lines,
            "Command: `python benchmarks/serving.py`, for the peers with `--peer-python` and "
            "`--kokoro-model`, then the same with `--write`.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ways",
        type=lambda text: text.split(","),
        help=f"of {','.join(LOADS)}; by default all that are there",
    )
    parser.add_argument(
        "--clients",
        type=lambda text: [int(n) for n in text.split(",")],
        help=f"loads, one after the other; by default {json.dumps(LOADS)}",
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load (20)")
    parser.add_argument("--format", default="int8", help="weights, as the engine's dtype (int8)")
    parser.add_argument(
        "--patience", type=float, default=400.0, help="milliseconds to the first sound (400)"
    )
    parser.add_argument(
        "--most-stutters",
        type=float,
        default=0.05,
        help="the part of chunks that may come late before larger loads are left out (0.05)",
    )
    parser.add_argument("--peer-python", help="Python of an environment with the peers")
    parser.add_argument("--kokoro-model", type=Path, help="folder of Kokoro's weights")
    common.add_common(parser, "serving.json", rounds=False)
    args = parser.parse_args(argv)
    if args.write:
        common.write_section(args.docs, "serving", section(common.load_results(args.results)))
        return 0
    there = {
        "piper": args.peer_python is not None,
        "kokoro": args.peer_python is not None and args.kokoro_model is not None,
    }
    args.ways = args.ways or [way for way in LOADS if there.get(way, True)]
    for way in args.ways:
        if way not in LOADS or not there.get(way, True):
            raise InputError(
                f"--ways: expected some of {', '.join(LOADS)}, piper with --peer-python and kokoro "
                f"also with --kokoro-model, got {way}"
            )
    print(section(run(args)))
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
