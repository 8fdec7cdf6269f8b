"""Refreshes every table of docs/benchmarks.md: runs each benchmark, then writes its section.

Half an hour on two cores; single commands and rows can be run by themselves (see
benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import common
from lm import ROWS

from uniaudio_engine.errors import InputError

COMMANDS = {
    "lm": [["lm.py", "--model", "v1"], ["lm.py", "--model", "base"]],
    "first_chunk": [["first_chunk.py"]],
    "serving": [["serving.py"]],
    "codec": [["codec.py"]],
    "accuracy": [["accuracy.py"]],
    "imported": [
        ["imported.py", "--model", "v1"],
        ["imported.py", "--model", "1b", "--seconds", "4", "--rounds", "3"],
    ],
}
EPILOG = """examples:
  python benchmarks/all.py
  python benchmarks/all.py --only lm,first_chunk
  python benchmarks/all.py --list
"""


def commands(names: Sequence[str]) -> list[list[str]]:
    """Measuring and writing, in order; the LM row by row, so that an interruption loses one row at
    most.
    """
    out = []
    for name in names:
        if name not in COMMANDS:
            raise InputError(f"--only: expected {', '.join(COMMANDS)}, got {name!r}")
        for command in COMMANDS[name]:
            if name == "lm":
                out += [[*command, "--prepare"], *([*command, "--rows", row] for row in ROWS)]
            else:
                out.append(command)
            if name != "codec":  # prints its tables: see run
                out.append([*command, "--write"])
    return out


def run(command: Sequence[str]) -> int:
    """One command; the tables that ``codec.py`` prints become its section here."""
    argv = [sys.executable, str(common.HERE / command[0]), *command[1:]]
    if command[0] != "codec.py":
        return subprocess.run(argv, check=False).returncode
    done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        text = f"### Codecs\n\n{common.today()}, {done.stdout.strip()}\n\nCommand: `python benchmarks/codec.py`."
        common.write_section(common.DOCS, "codec", text)
    return done.returncode


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="all.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", default=",".join(COMMANDS), help="benchmarks to run, separated by commas"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    args = parser.parse_args(argv)
    for command in commands(args.only.split(",")):
        common.say("$ python benchmarks/" + " ".join(command))
        if not args.list:
            code = run(command)
            if code != 0:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(common.run_main(main))
