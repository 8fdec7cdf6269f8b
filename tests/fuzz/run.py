"""Hands changed examples to everything that reads what others made, and counts what goes wrong.

    python tests/fuzz/run.py                       every target for a minute
    python tests/fuzz/run.py midi yaml --seconds 5
    python tests/fuzz/run.py midi --seed 3 --only 1234     one input again, in this process
    python tests/fuzz/run.py --programs build/fuzz         the C++ targets too (cmake --target fuzz)

An input follows from seed, target and number alone. Each target runs in a process of its own. An
input is a fault if an exception other than a refusal escapes, a refusal has several lines, the
process ends, computes for more than 5 s, waits for more than 120 s, or asks for more than 512 MB.
Exit code 1: there was a fault.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import multiprocessing
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS / "engine")]

from target import Target
from targets import TARGETS

SANITIZER = "max_allocation_size_mb=512"
COMPUTING, WAITING = 5.0, 120.0  # seconds for one input
MEMORY = 512 << 20  # bytes for one input, above what the process had before the first
SHOWN = 3  # inputs that are named for one kind of fault
ENDS = {
    signal.SIGPROF: f"computes for more than {COMPUTING:g} s",
    signal.SIGALRM: f"waits for more than {WAITING:g} s",
}


class Counts:
    """Counters in a file, which outlive the process that counts: its last input's number is known."""

    _FORMAT = struct.Struct("QQQd")  # number, done, accepted, slowest in seconds; fuzz.h has it too

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(self._FORMAT.size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), self._FORMAT.size)

    def get(self) -> tuple[int, int, int, float]:
        number, done, accepted, slowest = self._FORMAT.unpack(self._shared[:])
        return number, done, accepted, slowest

    def set(self, number: int, done: int, accepted: int, slowest: float) -> None:
        self._shared[:] = self._FORMAT.pack(number, done, accepted, slowest)


def input_of(target: Target, name: str, seed: int, number: int) -> Any:
    return target.make(Random(f"{seed}/{name}/{number}"))


def fault_of(target: Target, value: Any) -> str | None:
    """What is wrong about how the target takes an input; "" where it refuses it, None for nothing."""
    try:
        target.use(value)
    except target.refusals as e:
        if isinstance(e, ValueError) and "\n" not in str(e):
            return ""
        return f"a refusal of several lines{_place(e)}"
    except MemoryError as e:
        return f"asks for more than {MEMORY >> 20} MB{_place(e)}"
    except BaseException as e:
        said = re.sub(r"\d{2,}", "N", " ".join(str(e).split())[:80])
        return f"{type(e).__name__}: {said}{_place(e)}"
    return None


def _place(e: BaseException) -> str:
    frames = traceback.extract_tb(e.__traceback__)
    ours = [f for f in frames if "uniaudio_engine" in f.filename] or frames
    return f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def work(
    name: str, seed: int, first: int, last: int, end: float, counts: Counts, log: Path
) -> None:
    """Runs inputs from number ``first`` up to ``last`` or until ``end``; in a child process."""
    folder = log.parent / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    warnings.simplefilter("ignore")
    target = TARGETS[name](folder)
    _number, done, accepted, slowest = counts.get()
    used = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with log.open("ab", buffering=0) as out:
        faulthandler.enable(out, all_threads=False)
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
            faulthandler.register(number, out, all_threads=False, chain=True)
        for number in range(first, last):
            if time.monotonic() > end:
                return
            counts.set(number, done, accepted, slowest)
            value = input_of(target, name, seed, number)
            signal.setitimer(signal.ITIMER_PROF, COMPUTING)
            signal.setitimer(signal.ITIMER_REAL, WAITING)
            begin = time.process_time()
            fault = fault_of(target, value)
            slowest = max(slowest, time.process_time() - begin)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            done += 1
            accepted += fault is None
            counts.set(number + 1, done, accepted, slowest)
            if fault:
                out.write(f"FAULT {number} {fault}\n".encode())


def start(
    name: str,
    program: Path | None,
    seed: int,
    first: int,
    last: int,
    end: float,
    counts: Counts,
    log: Path,
) -> int:
    """A child process that does the work; its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if program is not None:
            with log.open("ab") as out:
                os.dup2(out.fileno(), 2)
            seconds = f"{max(0.0, end - time.monotonic()):.3f}"
            argv = [str(program), str(counts.path), seconds, str(seed), str(first)]
            os.execve(program, argv, {**os.environ, "ASAN_OPTIONS": SANITIZER})
        work(name, seed, first, last, end, counts, log)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(name: str, program: Path | None, seed: int, seconds: float, inputs: int) -> dict[str, Any]:
    """Runs one target for so long; returns its counts and faults. ``program``: a C++ target's.
    ``inputs``: the most that a Python target takes.
    """
    end, first = time.monotonic() + seconds, 0
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    log, counts = place / "log", Counts(place / "counts")
    log.touch()
    faults: dict[str, list[int]] = {}
    try:
        while time.monotonic() < end:
            child = start(name, program, seed, first, inputs, end, counts, log)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            number, done, accepted, slowest = counts.get()
            lines = log.read_text(errors="replace").splitlines()
            log.write_text("")
            for line in lines:
                if line.startswith("FAULT "):
                    _, at, fault = line.split(" ", 2)
                    faults.setdefault(fault, []).append(int(at))
            if code == 0:
                break
            if code > 0 and program is None:
                raise RuntimeError(f"{name}: not ready, or an input could not be made")
            faults.setdefault(end_of(code, lines), []).append(number)
            counts.set(number, done + 1, accepted, slowest)
            first = number + 1
    finally:
        shutil.rmtree(place, ignore_errors=True)
    _number, done, accepted, slowest = counts.get()
    return {
        "inputs": done,
        "accepted": accepted,
        "slowest_seconds": round(slowest, 3),
        "faults": {f: {"count": len(n), "inputs": n[:SHOWN]} for f, n in faults.items()},
    }


def end_of(code: int, log: list[str]) -> str:
    """What a process that ended within an input says about it."""
    if code > 0:  # a sanitizer's report
        return next((line.strip() for line in log if "ERROR" in line), f"ends with {code}")
    ended = signal.Signals(-code)
    fault = ENDS.get(ended, f"ends by {ended.name}")
    frames = [line.strip() for line in log if line.lstrip().startswith(("File ", "expected "))]
    ours = [f for f in frames if "uniaudio_engine" in f] or frames
    return f"{fault} {ours[0]}" if ours else fault


def again(name: str, seed: int, number: int) -> None:
    """One input, without limits, with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        value = input_of(target, name, seed, number)
        print(repr(value)[:4000])
        target.use(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument(
        "--inputs", type=int, default=sys.maxsize, help="the most for each Python target"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run this input alone")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default 1)")
    parser.add_argument("--programs", type=Path, help="build folder of the C++ targets")
    parser.add_argument("--output", type=Path, help="JSON file of the counts")
    args = parser.parse_args()
    programs = {p.stem: p.resolve() for p in (args.programs or Path("no")).glob("fuzz_*[a-z]")}
    known = [*programs, *TARGETS]
    unknown = sorted(set(args.target) - set(known))
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(known)}")
    names = args.target or known
    if args.only is not None:
        for name in names:
            again(name, args.seed, args.only)
        return 0
    results: dict[str, Any] = {"seed": args.seed, "targets": {}}
    ask = partial(run, seed=args.seed, seconds=args.seconds, inputs=args.inputs)
    with multiprocessing.Pool(args.jobs) as pool:
        asked = [(name, pool.apply_async(ask, (name, programs.get(name)))) for name in names]
        for name, answer in asked:
            result = results["targets"][name] = answer.get()
            print(
                f"{name:16} {result['inputs']:8} inputs, {result['accepted']:8} accepted, slowest "
                f"{result['slowest_seconds']:.2f} s",
                flush=True,
            )
            for fault, where in result["faults"].items():
                print(f"    {where['count']} x {fault}  --only {where['inputs']}", flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=2) + "\n")
    total = sum(r["inputs"] for r in results["targets"].values())
    faults = sum(f["count"] for r in results["targets"].values() for f in r["faults"].values())
    print(f"{total} inputs, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
