"""Compares the engine's phones with flite's labels on WordNet's example sentences.

    python -m uniaudio_training.text.agreement --help

Prints the phone edit distance (stress and pauses count) and the words that cause it.
`--golden FILE` stores a few sentences with flite's labels, which the engine's tests use where flite
is not installed.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

from uniaudio_engine.text import PAUSE, phonemize
from uniaudio_training.text.build_lexicon import edit_distance
from uniaudio_training.text.flite_labels import flite


def read_examples(wordnet: Path) -> list[str]:
    """WordNet's example sentences in a fixed order, without duplicates."""
    found: dict[str, None] = {}
    for path in sorted(wordnet.glob("data.*")):
        for line in path.read_text("latin-1").splitlines():
            if not line.startswith("  "):
                found |= dict.fromkeys(re.findall('"([^"]+)"', line.partition("|")[2]))
    return [text for text in found if text.count(" ") >= 2]


def engine_phones(text: str) -> list[str]:
    """The engine's phones of all sentences of `text`, separated by one pause."""
    phones = [PAUSE]
    for sentence in phonemize(text):
        phones += sentence.phones[1:]
    return phones


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument(
        "--show", type=int, default=20, help="number of confusions and sentences to list"
    )
    parser.add_argument(
        "--golden", type=Path, help="write sentences with flite's labels to this file"
    )
    parser.add_argument("--golden-size", type=int, default=60)
    arguments = parser.parse_args()

    voice, texts = flite(), read_examples(arguments.wordnet)
    random.Random(arguments.seed).shuffle(texts)
    texts = texts[: arguments.sentences]
    if arguments.golden:
        chosen = sorted(texts[: arguments.golden_size])
        lines = [f"{text}\t{' '.join(voice.phones(text))}\n" for text in chosen]
        arguments.golden.write_text("".join(lines), "utf-8")
    errors = pauses = phones = exact = 0
    confusions: Counter[str] = Counter()
    wrong: list[str] = []
    seconds = 0.0
    for text in texts:
        truth = voice.segments(text)
        labels, words = [phone for phone, _ in truth], [word for _, word in truth]
        start = time.perf_counter()
        ours = engine_phones(text)
        seconds += time.perf_counter() - start
        distance = edit_distance(ours, labels)
        errors, phones, exact = errors + distance, phones + len(labels), exact + (distance == 0)
        if not distance:
            continue
        wrong.append(text)
        pauses += abs(ours.count(PAUSE) - labels.count(PAUSE))
        for tag, i, j, k, n in difflib.SequenceMatcher(
            None, labels, ours, autojunk=False
        ).get_opcodes():
            if tag != "equal":
                spoken = dict.fromkeys(
                    w for w in words[max(0, i - (i == j)) : max(j, i + 1)] if w != "0"
                )
                change = f"{' '.join(labels[i:j]) or '-'} > {' '.join(ours[k:n]) or '-'}"
                confusions[f"{' '.join(spoken)}: {change}"] += 1
    print(
        json.dumps(
            {
                "sentences": len(texts),
                "phones": phones,
                "phone_error": errors / phones,
                "pause_errors": pauses,
                "sentences_exact": exact / len(texts),
                "ms_per_sentence": 1000 * seconds / len(texts),
            }
        )
    )
    for confusion, count in confusions.most_common(arguments.show):
        print(count, confusion)
    for text in wrong[: arguments.show]:
        print("|", text)


if __name__ == "__main__":
    main()
