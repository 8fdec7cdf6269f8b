"""``uniaudio-train evaluate``: evaluates a model and writes a report."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engines import Subject
    from .rows import Row

TASKS = ("tts", "codec")
NO_OUTSIDE_JUDGE = {"t2s", "t2m", "a_edit"}  # evaluated only with this package's own classifiers
# Commands with their own arguments, ``uniaudio-train evaluate NAME``, and their modules.
OTHERS = {
    "units": "units",
    "recogniser": "train_recogniser",
    "classifiers": "classifiers",
    "real": "real",
    "voices": "voices",
}


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="uniaudio-train evaluate",
        description=(
            "Evaluate a model. Each number comes with its count, its 95 % confidence interval and "
            "the value of the original recordings. `evaluate units` evaluates semantic units, "
            "`evaluate real` codecs and `evaluate voices` speech, both on real speakers; "
            "`evaluate recogniser` and `evaluate classifiers` train the evaluation models."
        ),
        epilog=("example: uniaudio-train evaluate --model bundled --corpus data/corpus --write"),
    )
    p.add_argument(
        "--model",
        required=True,
        help=(
            "a model folder, 'bundled', the folder of a codec run, or the references 'fake:flite', "
            "'fake:echo' and 'fake:noise'"
        ),
    )
    p.add_argument(
        "--corpus",
        type=Path,
        help=(
            "evaluate all tasks on the test split of this corpus (of uniaudio-train corpus make), "
            "including upper bound, lower bound and reference"
        ),
    )
    p.add_argument(
        "--task",
        help=(
            "what to evaluate: with --corpus, some of its tasks (default: all); without, tts or "
            "codec or both (default: both)"
        ),
    )
    p.add_argument(
        "--single",
        action="append",
        default=[],
        metavar="TASK=FOLDER",
        help=(
            "with --corpus: a model of the same size trained on this task alone, for comparison; "
            "may be repeated"
        ),
    )
    p.add_argument(
        "--json",
        type=Path,
        help=(
            "also write the report to this file; with --corpus it is saved after each task, and a "
            "stopped run resumes (default: judged/MODEL.json in the corpus folder)"
        ),
    )
    p.add_argument(
        "--write", action="store_true", help="with --corpus: write the tables into docs/quality.md"
    )
    p.add_argument(
        "--limit",
        type=int,
        help=(
            "approximate number of examples per task with --corpus (default: 48), of sentences per "
            "voice without (default: 100)"
        ),
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of the sentences and of the model (default: %(default)s)",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads of the model and the evaluation models (default: %(default)s)",
    )
    p.add_argument(
        "--dtype",
        default="auto",
        help="storage of the LM weights, as in the engine (default: %(default)s)",
    )
    p.add_argument(
        "--lm-codebooks",
        type=int,
        default=4,
        help="for a codec run: number of codebooks that its LM will use (default: %(default)s)",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bars")
    return p


def main(argv: list[str] | None = None) -> int:
    """Returns exit code 0 with a report, 2 with one line that states the error."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in OTHERS:
        other = importlib.import_module(f".{OTHERS[given[0]]}", __package__)
        return int(other.main(given[1:]))
    args = _parser().parse_args(given)
    known = TASKS
    if args.corpus is not None:
        from ..corpus.schema import TASKS as known  # type: ignore[assignment]
    tasks = list(known) if args.task is None else [t for t in args.task.split(",") if t]
    if not tasks or set(tasks) - set(known):
        return _error(f"--task: expected some of {', '.join(known)}, got {args.task!r}")
    if args.limit is not None and args.limit < 1:
        return _error(f"--limit: expected 1 or more, got {args.limit}")
    singles = dict(s.partition("=")[::2] for s in args.single)
    if not all(task in known and folder for task, folder in singles.items()):
        return _error(
            f"--single: expected TASK=FOLDER with a task of {', '.join(known)}, got {args.single}"
        )
    if args.corpus is None and (args.write or singles):
        return _error(f"{'--write' if args.write else '--single'}: expected --corpus DIR with it")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(args.threads))  # before numpy is imported

    import torch

    from .engines import load_subject
    from .judges import JudgeMissing, require_judges

    torch.set_num_threads(args.threads)
    try:
        if set(tasks) - NO_OUTSIDE_JUDGE:
            require_judges()
        subject = load_subject(args.model, args.threads, args.lm_codebooks, args.dtype)
        if args.corpus is not None:
            return _judge_corpus(args, subject, tasks, singles)
        return _judge_sentences(args, subject, tasks)
    except (JudgeMissing, OSError, RuntimeError, ValueError) as e:
        return _error(str(e))


def _judge_corpus(
    args: argparse.Namespace, subject: Subject, tasks: list[str], singles: dict[str, str]
) -> int:
    """Evaluates the tasks on the test split of the corpus; tasks in the report are not repeated."""
    from ..corpus.reading import open_corpus
    from .engines import load_subject
    from .joint import LIMIT, Judged, Plan, blind, judge_task
    from .report import Report, corpus_digest, digest, markdown, table, write_section

    corpus = open_corpus(args.corpus)
    if not corpus.folder.is_dir():
        raise ValueError(
            f"--corpus: expected a folder of uniaudio-train corpus make, got {args.corpus}"
        )
    plan = Plan(args.limit or LIMIT, args.seed)
    name = (
        args.model.replace(":", "-")
        if args.model.startswith("fake:")
        else Path(args.model).resolve().name
    )
    report = Report(args.json or args.corpus / "judged" / f"{name}.json")
    results: list[Judged] = []
    trouble: list[str] = []
    about = {"model": digest(subject), "dtype": args.dtype, "limit": plan.limit, "seed": plan.seed}
    for task in tasks:
        if "test" not in corpus.splits(task):
            trouble.append(f"{task}: {args.corpus} has no test examples")
            continue
        single = (
            load_subject(singles[task], args.threads, args.lm_codebooks, args.dtype)
            if task in singles
            else None
        )
        key = {**about, "single": digest(single), "corpus": corpus_digest(corpus, task)}
        judged = report.find(task, key)
        if judged is not None:
            print(f"{task}: already evaluated, in {report.path}", file=sys.stderr)
        else:
            judged = judge_task(task, subject, corpus, plan, single, not args.quiet)
            report.add(key, judged)
        results.append(judged)
        trouble += judged.trouble
        trouble += [
            f"{task}: {measure} does not separate floor and truth"
            for measure in blind(judged.scores)
        ]
    if not results:
        raise ValueError(
            f"{args.corpus}: no test examples of {', '.join(tasks)}; make them: "
            "uniaudio-train corpus make"
        )
    print(table(results))
    for line in trouble:
        print(f"! {line}")
    print(f"written: {report.path} ({sum(j.seconds for j in results):.0f} s of evaluation)")
    if args.write:
        said = f"{plan.limit} examples per task, seed {plan.seed}, dtype {args.dtype}"
        write_section(markdown(results, _command(args), said))
        print("written: docs/quality.md")
    return 0


def _command(args: argparse.Namespace) -> str:
    """The command that remakes these tables, without local paths."""
    parts = [
        "--model",
        args.model if ":" in args.model else Path(args.model).name,
        "--corpus",
        args.corpus.name,
    ]
    for flag in ("task", "limit", "seed"):
        if (value := getattr(args, flag)) not in (None, 0):
            parts += [f"--{flag}", str(value)]
    if args.dtype != "auto":
        parts += ["--dtype", args.dtype]
    for single in args.single:
        task, _, folder = single.partition("=")
        parts += ["--single", f"{task}={Path(folder).name}"]
    return f"uniaudio-train evaluate {shlex.join(parts)} --write"


def _judge_sentences(args: argparse.Namespace, subject: Subject, tasks: list[str]) -> int:
    """Evaluates speech and codec on sentences synthesised on the fly, without a corpus."""
    from . import codec_quality, tts
    from .engines import able
    from .rows import table

    begin = time.monotonic()
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    can = able(subject, tasks)
    rows: list[Row] = []
    trouble = [f"{t}: not supported by this model" for t in tasks if t not in can]
    for task, module in (("tts", tts), ("codec", codec_quality)):
        if task in can:
            plan = (
                module.Plan.limited(args.limit, args.seed)
                if args.limit
                else module.Plan(seed=args.seed)
            )  # type: ignore[attr-defined]
            more, lines = module.judge(subject, plan, not args.quiet)  # type: ignore[attr-defined]
            rows += more
            trouble += lines
    print(table(rows))
    for line in trouble:
        print(f"! {line}")
    if args.json is not None:
        report = {
            "model": args.model,
            "dtype": args.dtype,
            "seed": args.seed,
            "limit": args.limit,
            "codebooks": subject.codebooks,
            "lm_codebooks": subject.lm_codebooks,
            "seconds": round(time.monotonic() - begin, 1),
            "judges": _versions(),
            "rows": [r.as_json() for r in rows],
            "trouble": trouble,
        }
        part = args.json.with_name(f".{args.json.name}.{os.getpid()}")
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        part.replace(args.json)
        print(f"written: {args.json}")
    return 0 if rows else 2


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in (
        "pocketsphinx",
        "resemblyzer",
        "webrtcvad-wheels",
        "pesq",
        "pystoi",
        "torch",
        "numpy",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _error(text: str) -> int:
    print(f"uniaudio-train evaluate: error: {text}", file=sys.stderr)
    return 2
