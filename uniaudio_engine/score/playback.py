"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda,
fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

_MOST_PASSES = 32  # through the whole score, in bars played
_SHORT_SCORE = 1000  # bars that may be played in any case


@dataclass
class Marks:
    """What a bar says about the order: ``begins`` a repeat; ``times`` it is played in all where a
    repeat ends, else 0; ``ending``: the passes on which it is played, none where on all;
    ``segno``, ``coda``: it begins there; ``to_coda``, ``fine``: it ends there; ``jump``: ``capo``
    or ``segno``, back to which it leads.
    """

    begins: bool = False
    times: int = 0
    ending: frozenset[int] = frozenset()
    segno: bool = False
    coda: bool = False
    to_coda: bool = False
    fine: bool = False
    jump: str = ""


def order(bars: Sequence[Marks], where: str) -> list[tuple[int, int]]:
    """(bar, pass) in the order of playing; a pass counts how often a section is played, from 1.

    After a jump back repeats are not made again and last endings are taken.  Raises
    :class:`InputError` where the repeats ask for more than a score can mean.
    """
    played: list[tuple[int, int]] = []
    lasts = _last_passes(bars)
    segno = next((i for i, bar in enumerate(bars) if bar.segno), 0)
    codas = [len(bars)] * (len(bars) + 1)  # the next coda after each bar
    for i in range(len(bars) - 1, 0, -1):
        codas[i - 1] = i if bars[i].coda else codas[i]
    jumped: set[int] = set()
    at = first = 0
    now = 1
    while at < len(bars):
        bar = bars[at]
        if bar.begins and at != first:
            first, now = at, 1
        passing = lasts[at] if jumped and bar.ending else now
        if bar.ending and passing not in bar.ending:
            at += 1
            if at == len(bars) or not bars[at].ending:
                first, now = at, 1
            continue
        played.append((at, passing))
        if len(played) > max(_SHORT_SCORE, _MOST_PASSES * len(bars)):
            raise InputError(
                f"{where}: expected repeats that play the score at most {_MOST_PASSES} times, got "
                "more"
            )
        if bar.times and not jumped and now < max(bar.times, lasts[at]):
            now, at = now + 1, first
            continue
        if bar.fine and jumped:
            break
        if bar.jump and at not in jumped:
            jumped.add(at)
            at = first = segno if bar.jump == "segno" else 0
            now = 1
            continue
        if bar.to_coda and jumped and codas[at] < len(bars):
            at = first = codas[at]
            now = 1
            continue
        at += 1
        leaves_endings = bar.ending and (at == len(bars) or not bars[at].ending)
        if leaves_endings or (bar.times and not bar.ending):
            first, now = at, 1
    return played


def _last_passes(bars: Sequence[Marks]) -> list[int]:
    """For each bar the last pass of its group of endings; 0 outside of any."""
    lasts = [0] * len(bars)
    at = 0
    while at < len(bars):
        end = at
        while end < len(bars) and bars[end].ending:
            end += 1
        if end > at:
            group = {n for bar in bars[at:end] for n in bar.ending}
            lasts[at:end] = [max(group)] * (end - at)
        at = max(end, at + 1)
    return lasts
