"""Scores: text, MIDI and MusicXML give the same notes; words and phones fill them to the frame;
invalid scores are rejected.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniaudio_engine import InputError
from uniaudio_engine.score.layout import REST
from uniaudio_engine.score.reading import Note, lay_out, parse_pitch, parse_score, read_score

TEXT = "tempo 120\nR 1\nC4 1 hello  # the first syllable\nE4 1 -\nG4 2 you\n"
NOTES = [Note(0, 0.5), Note(60, 0.5, "hello"), Note(64, 0.5, "-"), Note(67, 1.0, "you")]


def midi(*events: bytes, division: int = 480) -> bytes:
    track = b"".join(events) + b"\x00\xff\x2f\x00"
    return (
        b"MThd\0\0\0\6\0\0\0\1"
        + division.to_bytes(2, "big")
        + b"MTrk"
        + len(track).to_bytes(4, "big")
        + track
    )


def lyric(text: str) -> bytes:
    return b"\x00\xff\x05" + bytes([len(text)]) + text.encode()


ONE = b"\x83\x60"  # 480 ticks
MIDI = midi(
    b"\x00\xff\x51\x03\x07\xa1\x20",
    ONE + b"\xff\x05\x04hel-",
    b"\x00\x90\x3c\x40",
    ONE + b"\x80\x3c\x00",
    lyric("lo"),
    b"\x00\x90\x40\x40",
    ONE + b"\x40\x00",
    lyric("you"),
    b"\x00\x43\x40",
    b"\x87\x40\x43\x00",
)
XML = """<?xml version="1.0"?><score-partwise><part id="P1"><measure>
<attributes><divisions>2</divisions></attributes>
<sound tempo="120"/>
<note><rest/><duration>2</duration></note>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration>
<lyric><syllabic>begin</syllabic><text>hel</text></lyric></note>
<note><pitch><step>E</step><octave>4</octave></pitch><duration>2</duration>
<lyric><syllabic>end</syllabic><text>lo</text></lyric></note>
<note><pitch><step>G</step><octave>4</octave></pitch><duration>2</duration><tie type="start"/>
<lyric><syllabic>single</syllabic><text>you</text></lyric></note>
<note><pitch><step>G</step><octave>4</octave></pitch><duration>2</duration><tie type="stop"/></note>
</measure></part></score-partwise>"""


def test_every_form_gives_the_same_notes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.mid").write_bytes(MIDI)
    (tmp_path / "a.musicxml").write_text(XML)
    assert parse_score(TEXT) == NOTES
    for name in ("a.txt", "a.mid", "a.musicxml"):
        assert read_score(tmp_path / name) == NOTES, name
    assert read_score([(0, 0.5), Note(60, 0.5, "hello"), (64, 0.5, "-"), (67, 1.0, "you")]) == NOTES


def test_phones_fill_the_notes() -> None:
    song = lay_out(NOTES, 50.0)
    assert song.phones == ("pau", "hh", "ax0", "l", "ow1", "y", "uw1", "pau")
    assert song.durations == (25, 4, 21, 4, 21, 4, 46, 10)
    assert song.pitches == (0, 60, 64, 67, 0) and song.note_frames == (25, 25, 25, 50, 10)


@pytest.mark.parametrize(
    "text",
    [
        "C4 0.3 strengths",
        "C4 1 hello\nD4 1 -\nE4 1 -\nF4 1 -",
        "A4 0.7 banana",
        "tempo 97\nC4 1 a\nC4 1 b\nR 0.3\nD4 1 c",
    ],
)
def test_phones_and_notes_are_equally_long(text: str) -> None:
    song = lay_out(parse_score(text), 50.0)
    assert sum(song.durations) == sum(song.note_frames) and min(song.durations) >= 1


def test_a_held_syllable_and_the_next_one() -> None:
    song = lay_out(parse_score("C4 1 gloria\nD4 1 _\nE4 1 _\nD4 1 -\nC4 1 -"), 50.0)
    assert song.phones == ("pau", "g", "l", "ao1", "r", "iy0", "ax0", "pau")
    assert song.durations == (10, 4, 4, 67, 4, 21, 25, 10)
    assert song.note_frames == (10, 25, 25, 25, 25, 25, 10)


def test_a_word_over_a_rest() -> None:
    song = lay_out(parse_score("C4 1 amen\nR 1\nD4 1 -\nR 1\nE4 1 _"), 50.0)
    assert song.phones == ("pau", "ey1", "pau", "m", "eh1", "n", "pau", "eh1", "pau")
    assert song.durations == (10, 25, 25, 4, 17, 4, 25, 25, 10)


def test_syllables_that_share_a_note() -> None:
    song = lay_out(parse_score("C4 1 gloria\nD4 1 -\nE4 2 -\u203fin\nF4 1 _"), 50.0)
    assert song.phones[3:] == ("ao1", "r", "iy0", "ax0", "ih0", "n", "pau")
    assert song.durations[6:] == (25, 46, 4, 10)  # half of a beat; then a beat and a half


def test_a_short_note_takes_frames_from_its_neighbours() -> None:
    """The pitches keep their time; the phones of a word that has no room take it around them."""
    song = lay_out(parse_score("tempo 240\nR 1\nC4 0.2 strengths\nD4 1 la"), 50.0)
    assert song.note_frames == (12, 3, 13, 10)
    assert sum(song.durations) == 38 and min(song.durations) == 1
    assert song.durations[0] == 12 and song.phones[0] == "pau"  # the word still begins on time
    assert song.phones[-3:] == ("l", "aa1", "pau")


@pytest.mark.parametrize("word", ["mm", "hmm", "Mmmm"])
def test_humming(word: str) -> None:
    song = lay_out([Note(60, 1.0, word), Note(62, 1.0, "_")], 50.0)
    assert song.phones == ("pau", "m", "pau") and song.durations == (10, 100, 10)


@pytest.mark.parametrize("word", ["schwebt", "tes", "cleft", "kle", "veux", "eux", "caf\u00e9"])
def test_every_word_with_a_vowel_is_sung_on_one(word: str) -> None:
    song = lay_out([Note(60, 1.0, word)], 50.0)
    assert any(p[0] in "aeiou" for p in song.phones)


NOTE = st.tuples(
    st.sampled_from([0, 55, 60, 67]),
    st.floats(0.02, 1.5),
    st.sampled_from(["la", "hello", "strengths", "banana", "-", "_", "-\u203fa"]),
)


@given(st.lists(NOTE, min_size=1, max_size=40))
def test_layout_keeps_time_and_every_phone(notes: list[tuple[int, float, str]]) -> None:
    sung = [Note(60, 1.0, "la")] + [Note(p, s, w if p else "") for p, s, w in notes]
    song = lay_out(sung, 50.0)
    assert sum(song.durations) == sum(song.note_frames) and min(song.durations) >= 1
    assert min(song.note_frames) >= 1
    total = REST * (1 + bool(sung[-1].pitch)) + sum(n.seconds for n in sung)
    assert abs(sum(song.note_frames) - total * 50) <= max(1, sum(n.seconds < 0.03 for n in sung))
    heard = [p for p in song.phones if p != "pau"]
    words = [w for n in sung if n.pitch for w in n.word.split("\u203f") if w not in ("-", "_")]
    rest = iter(heard)
    for word in words:  # its phones in order; vowels held after a rest may stand between
        for phone in lay_out([Note(60, 1.0, word)], 50.0).phones[1:-1]:
            assert phone in rest


def test_rounding_does_not_add_up() -> None:
    song = lay_out([Note(60, 0.107, "la")] * 100, 50.0)
    assert abs(sum(song.note_frames) - 20 - 535) <= 1


def test_pitches() -> None:
    assert [parse_pitch(p, "x") for p in ("C4", "c#4", "Bb3", "A4", "69", "R", "C-1", "F##5")] == [
        60,
        61,
        58,
        69,
        69,
        0,
        0,
        79,
    ]


REFUSED = {
    "nothing": ("", "expected notes, one a line"),
    "no word": ("C4 1", "expected a word after the length"),
    "no such pitch": ("H4 1 la", "expected a pitch such as C4"),
    "too low": ("C1 1 la", "expected MIDI pitches 36 to 98"),
    "no length": ("C4 x la", "expected a number from 0.01 to 64"),
    "a fast tempo": ("tempo 9999\nC4 1 la", "expected a number from 10 to 1000"),
    "too many words": ("C4 1 la la", "expected PITCH BEATS WORD"),
    "starts with nothing": ("R 1\nC4 1 -", "score line 2: expected a word on the first note"),
    "starts with a held syllable": ("C4 1 _", "expected a word on the first note"),
    "rests only": ("R 1", "expected at least one note"),
    "too short for its phones": (
        "tempo 240\n" + "C4 0.2 strengths\n" * 9,
        "line 2: expected notes of",
    ),
    "no word at all": ("C4 1 la\nC4 1 ???", "score line 2: expected a word in Latin letters"),
    "a word of a thousand letters": ("C4 1 " + "la" * 500, "expected a word in Latin letters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_scores_are_one_line(case: str) -> None:
    text, words = REFUSED[case]
    with pytest.raises(InputError) as e:
        lay_out(read_score(text), 50.0)
    assert words in str(e.value) and "\n" not in str(e.value)


BROKEN = {
    "cut.mid": MIDI[:40],
    "other.mid": b"RIFF" + MIDI[4:],
    "empty.mid": b"",
    "silent.mid": midi(b"\x00\x90\x3c\x40", ONE + b"\x80\x3c\x00"),
    "long.mid": midi(b"\x00\xff\x05\xff\xff\xff\x7fabc"),
    "cut.musicxml": XML[:300].encode(),
    "other.xml": b"<html/>",
    "bomb.xml": b'<!DOCTYPE x [<!ENTITY a "b">]><score-partwise/>',
    "pitchless.xml": XML.replace("<octave>4</octave>", "").encode(),
    "bytes.txt": b"\xff\xfe\x00",
    "zip.xml": b"PK\x03\x04",
    "zip.mxl": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(InputError) as e:
        read_score(tmp_path / name)
    assert "expected" in str(e.value) and "\n" not in str(e.value)


def test_missing_and_wrong_values() -> None:
    for value in (
        "nowhere.mid",
        [],
        7,
        [(1,)],
        [("C4", 1.0, "la")],
        [Note(60, float("nan"), "la")],
        [Note(60, 99.0, "la")],
    ):
        with pytest.raises(InputError, match="expected"):
            read_score(value)
