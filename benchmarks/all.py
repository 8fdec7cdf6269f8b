"""Updates all tables of docs/benchmarks.md: runs each benchmark, then writes its section.

Takes half an hour on two cores. Single commands and rows can be run on their own (see
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
    """The commands that measure and write, in order. The LM is measured row by row, so that an
    interruption loses at most one row.
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
            if name != "codec":  # codec.py prints its tables: see run
                out.append([*command, "--write"])
    return out


def run(command: Sequence[str]) -> int:
    """Runs one command; the tables printed by ``codec.py`` become its section here."""
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
        "--only", default=",".join(COMMANDS), help="benchmarks to run, comma-separated"
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
