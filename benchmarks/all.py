"""Refreshes every table of docs/benchmarks.md: runs each benchmark, then writes its section.

Half an hour on two cores; single commands and rows can be run by themselves (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import common
from lm import ROWS

COMMANDS = (
    ["lm.py", "--model", "v1"],
    ["lm.py", "--model", "base"],
    ["first_chunk.py"],
    ["codec.py"],
    ["accuracy.py"],
)


def commands(skip: Sequence[str]) -> list[list[str]]:
    """Measuring and writing, in order; the LM row by row, so that an interruption loses one row at most."""
    out = []
    for command in COMMANDS:
        if command[0].removesuffix(".py") in skip or not (common.HERE / command[0]).exists():
            continue
        if command[0] == "lm.py":
            out += [[*command, "--prepare"], *([*command, "--rows", row] for row in ROWS)]
        else:
            out.append(command)
        out.append([*command, "--write"])
    return out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="all.py", description=__doc__, epilog="example:\n  python benchmarks/all.py --skip accuracy",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--skip", default="", help="benchmarks to leave out, separated by commas: lm, first_chunk, codec, accuracy")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args(argv)
    for command in commands(args.skip.split(",")):
        common.say("$ python benchmarks/" + " ".join(command))
        if not args.list:
            code = subprocess.run([sys.executable, str(common.HERE / command[0]), *command[1:]], check=False).returncode
            if code != 0:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
