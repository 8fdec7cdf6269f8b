"""Rules of scores: repeats keep their order, every syllable is sung once, time is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_tools import (
    bars,
    note,
    text,
)

from uniaudio_engine.score.musicxml import read_musicxml
from uniaudio_engine.score.playback import Marks, order


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.booleans()), min_size=1, max_size=8)
)
def test_repeats_play_their_bars_in_order(sections: list[tuple[int, int, bool]]) -> None:
    """Sections of some bars, played some times each; a repeat says where it begins, or goes back to
    the end of the last one.
    """
    marks: list[Marks] = []
    expected: list[int] = []
    plain = 0  # where a repeat that does not say where it begins goes back to
    for length, times, begins in sections:
        first = len(marks)
        marks += [Marks() for _ in range(length)]
        marks[first].begins = begins
        back = first if begins else plain
        expected += range(first, first + length)
        if times > 1:
            marks[-1].times = times
            expected += list(range(back, first + length)) * (times - 1)
            plain = len(marks)
        elif begins:
            plain = first
    assert [bar for bar, _ in order(marks, "song")] == expected


SYLLABLES = st.sampled_from(["la", "do", "re", "mi"])  # one syllable each also when alone


@given(
    st.lists(
        st.tuples(st.lists(SYLLABLES, max_size=4), st.integers(1, 5), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    )
)
def test_syllables_are_sung_once_and_time_is_kept(
    groups: list[tuple[list[str], int, int]],
) -> None:
    """A word over its notes and the ones that hold it, then a rest."""
    groups[0] = (groups[0][0] or ["la"], *groups[0][1:])
    inside = ""
    quarters = 0
    for syllables, held, rest in groups:
        for i, syllable in enumerate(syllables):
            kinds = {(True, True): "single", (True, False): "begin", (False, True): "end"}
            kind = kinds.get((i == 0, i + 1 == len(syllables)), "middle")
            inside += note(lyrics=text(syllable, kind))
        inside += note("D4") * held + note("R") * rest
        quarters += len(syllables) + held + rest
    last = groups[-1][2]
    notes = read_musicxml(bars(inside).encode(), "song")
    assert sum(n.seconds for n in notes) == pytest.approx((quarters - last) / 2)
    begun = [n.word for n in notes if n.pitch and n.word not in ("-", "_")]
    assert begun == ["".join(s) for s, _, _ in groups if s]
    assert sum(n.word == "-" for n in notes) == sum(max(0, len(s) - 1) for s, _, _ in groups)
