"""MusicXML as written by notation programs is sung as written."""

from __future__ import annotations

from pathlib import Path

import pytest
from score_tools import (
    bars,
    ending,
    metronome,
    note,
    packed,
    part,
    read,
    repeat,
    said,
    score,
    text,
    transpose,
    words,
)

from uniaudio_engine import InputError

QUARTER = "<beat-unit>quarter</beat-unit>"
ONE, TWO, THREE = note(lyrics="one"), note(lyrics="two"), note(lyrics="three")
VERSES = text("one") + text("two", number="2")
BACK = '<repeat direction="backward"/>'
VOLTA = (
    ONE,
    ending("1", "start") + TWO + ending("1", "stop", BACK),
    ending("2", "start") + THREE + ending("2", "discontinue"),
)
SLOW = "60:1:one 60:1:two"
PAIR = "60:one 60:two"

CASES: dict[str, tuple[str, str]] = {
    # words
    "a melisma": (
        bars(
            note("C5", text("Glo", "begin"))
            + note("D5")
            + note("E5")
            + note("D5")
            + note("C5", text("ri", "middle"))
            + note("B4", text("a", "end"))
        ),
        "72:Gloria 74:_ 76:_ 74:_ 72:- 71:-",
    ),
    "a word in one piece": (
        bars(note(lyrics="glorious") + note() + note()),
        "60:glorious 60:- 60:-",
    ),
    "a word in one piece, held": (
        bars(note(lyrics="hello") + note() + note()),
        "60:hello 60:_ 60:_",
    ),
    "a word over a rest": (
        bars(note(lyrics=text("A", "begin")) + note("R") + note(lyrics=text("men", "end"))),
        "60:Amen R 60:-",
    ),
    "a note without words after a rest": (
        bars(ONE + note("R") + note("G4") + TWO),
        "60:one R 67:_ 60:two",
    ),
    "notes before the words": (bars(note() + note() + ONE), "60:ah 60:_ 60:one"),
    "an extender": (
        bars(ONE + note(lyrics="<lyric><extend/></lyric>") + TWO),
        "60:one 60:_ 60:two",
    ),
    "low lines as extenders": (bars(ONE + note(lyrics="_") + TWO), "60:one 60:_ 60:two"),
    "a dash as an extender": (bars(ONE + note(lyrics="\u2014") + TWO), "60:one 60:_ 60:two"),
    "hyphens in the text": (
        bars(
            note(lyrics="<lyric><text>hel-</text></lyric>")
            + note(lyrics="<lyric><text>lo</text></lyric>")
        ),
        "60:hello 60:-",
    ),
    "elision": (
        bars(
            note(lyrics="<lyric><syllabic>begin</syllabic><text>glo</text></lyric>")
            + note(
                lyrics="<lyric><syllabic>end</syllabic><text>ria</text><elision>\u203f</elision>"
                "<syllabic>begin</syllabic><text>ex</text></lyric>"
            )
            + note(lyrics=text("celsis", "end"))
        ),
        "60:gloria 60:-\u203fexcelsis 60:-",
    ),
    "two words on a note": (
        bars(note(lyrics="to_a") + note(lyrics="to a")),
        "60:to\u203fa 60:to\u203fa",
    ),
    "soft hyphens and quotes": (
        bars(note(lyrics="a\u00adgain") + note(lyrics="don\u2019t")),
        "60:again 60:don\u2019t",
    ),
    "the number of a verse": (
        bars(
            note(lyrics="1. Oh")
            + note(lyrics="<lyric><text>2.</text><elision/><text>my</text></lyric>")
        ),
        "60:Oh 60:my",
    ),
    "humming and laughing": (
        bars(note(lyrics="<lyric><humming/></lyric>") + note(lyrics="<lyric><laughing/></lyric>")),
        "60:mm 60:ha",
    ),
    "words on a grace note": (bars(note("D4", "one", "grace") + note() + TWO), PAIR),
    "words on both": (bars(note("D4", "one", "grace") + TWO), "60:one\u203ftwo"),
    "a grace note without words": (bars(ONE + note("D4", "", "grace") + TWO), PAIR),
    # verses
    "the second verse listed first": (
        bars(note(lyrics=text("two", number="2") + text("one"))),
        "60:one",
    ),
    "a verse on each repeat": (bars(note(lyrics=VERSES) + repeat("backward")), PAIR),
    "a refrain": (
        bars(
            repeat("forward") + note(lyrics=VERSES),
            note(lyrics="la"),
            note(lyrics="la") + repeat("backward"),
        ),
        "60:one 60:la 60:la 60:two 60:la 60:la",
    ),
    "a verse that holds": (
        bars(note(lyrics=VERSES), note(lyrics="x"), note(lyrics=VERSES) + repeat("backward")),
        "60:one 60:x 60:one 60:two 60:_ 60:two",
    ),
    "named verses": (
        bars(note(lyrics=text("two", number="part1verse2") + text("one", number="part1verse1"))),
        "60:one",
    ),
    "a verse on a pass": (
        bars(
            note(
                lyrics=text("one", attributes='time-only="1"')
                + text("two", number="9", attributes='time-only="2"')
            )
            + repeat("backward")
        ),
        PAIR,
    ),
    # order
    "a repeat": (
        bars(repeat("forward") + ONE + TWO + repeat("backward"), THREE),
        "60:one 60:two 60:one 60:two 60:three",
    ),
    "a repeat from the beginning": (bars(ONE, TWO + repeat("backward")), f"{PAIR} {PAIR}"),
    "three times": (bars(ONE + repeat("backward", 'times="3"')), "60:one 60:one 60:one"),
    "endings": (bars(*VOLTA), "60:one 60:two 60:one 60:three"),
    "an ending for two passes": (
        bars(
            ONE,
            ending("1, 2", "start") + TWO + ending("1, 2", "stop", BACK),
            ending("3", "start") + THREE + ending("3", "stop"),
        ),
        f"{PAIR} {PAIR} 60:one 60:three",
    ),
    "endings of two bars": (
        bars(
            ONE,
            ending("1", "start") + TWO,
            TWO + ending("1", "stop", BACK),
            ending("2", "start") + THREE,
            ONE + ending("2", "discontinue"),
            TWO,
        ),
        f"{PAIR} 60:two 60:one 60:three 60:one 60:two",
    ),
    "da capo al fine": (
        bars(
            ONE + words("Fine", '<sound fine="yes"/>'),
            TWO + words("D.C. al Fine", '<sound dacapo="yes"/>'),
        ),
        "60:one 60:two 60:one",
    ),
    "da capo in words": (bars(ONE + words("Fine"), TWO + words("D. C. al Fine")), f"{PAIR} 60:one"),
    "dal segno al coda": (
        bars(
            note(lyrics="a"),
            '<sound segno="s"/>' + ONE + '<sound tocoda="c"/>',
            TWO + '<sound dalsegno="s"/>',
            '<sound coda="c"/>' + THREE,
        ),
        "60:a 60:one 60:two 60:one 60:three",
    ),
    "dal segno in signs": (
        bars(
            note(lyrics="a"),
            "<direction><direction-type><segno/></direction-type></direction>"
            + ONE
            + words("To Coda"),
            TWO + words("D.S. al Coda"),
            "<direction><direction-type><coda/></direction-type></direction>" + THREE,
        ),
        "60:a 60:one 60:two 60:one 60:three",
    ),
    "last endings after da capo": (
        bars(*VOLTA[:2], VOLTA[2] + '<sound dacapo="yes"/>'),
        "60:one 60:two 60:one 60:three 60:one 60:three",
    ),
    "a note on a pass": (
        bars(ONE + TWO.replace("<note>", '<note time-only="2">') + repeat("backward")),
        "60:one R 60:one 60:two",
    ),
    # time
    "a metronome mark": (bars(metronome(QUARTER, "60") + ONE + TWO), SLOW),
    "a dotted metronome mark": (
        bars(metronome(QUARTER + "<beat-unit-dot/>", "40") + ONE + TWO),
        SLOW,
    ),
    "about": (bars(metronome(QUARTER, "ca. 60") + ONE + TWO), SLOW),
    "a metronome mark and a sound": (
        bars(
            metronome(QUARTER, "200").replace("</direction>", '<sound tempo="60"/></direction>')
            + ONE
            + TWO
        ),
        SLOW,
    ),
    "a sound": (bars('<sound tempo="60"/>' + ONE + TWO), SLOW),
    "a tempo with a comma": (bars('<sound tempo="60,0"/>' + ONE + TWO), SLOW),
    "a tempo in another part": (
        score(part(ONE + TWO), part('<sound tempo="60"/>' + note() + note())),
        SLOW,
    ),
    "a tempo between notes": (bars(ONE + '<sound tempo="60"/>' + TWO), "60:one 60:1:two"),
    "a tempo of nothing": (bars('<sound tempo="0"/>' + ONE), "60:one"),
    "ties": (
        bars(
            note(lyrics="one", inside='<tie type="start"/>')
            + note(inside='<tie type="stop"/><tie type="start"/>')
            + note(inside='<tie type="stop"/>')
            + TWO
        ),
        "60:1.5:one 60:two",
    ),
    "ties in notations": (
        bars(ONE + note(inside='<notations><tied type="stop"/></notations>')),
        "60:1:one",
    ),
    "ties over a bar": (
        bars(ONE, note(inside='<tie type="stop"/>')),
        "60:1:one",
    ),
    "a tie across a rest": (
        bars(ONE + note("R") + note(inside='<tie type="stop"/>')),
        "60:one R 60:_",
    ),
    "a gap by forward": (
        bars(ONE + "<forward><duration>4</duration></forward>" + TWO),
        "60:one R 60:two",
    ),
    "a bar of rest": (
        bars(ONE, '<note><rest measure="yes"/><duration>16</duration></note>', TWO),
        "60:one R:2 60:two",
    ),
    "a bar with nothing in it": (bars(ONE, "", TWO), "60:one R:2 60:two"),
    "a bar that another part fills": (
        score(part(ONE, "", TWO), part(note(), note(), note())),
        "60:one R 60:two",
    ),
    "no duration": (
        bars(ONE.replace("<duration>4</duration>", "<type>half</type><dot/>")),
        "60:1.5:one",
    ),
    "triplets without durations": (
        bars(
            ONE.replace(
                "<duration>4</duration>",
                "<type>quarter</type><time-modification>"
                "<actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>",
            )
        ),
        "60:0.3333:one",
    ),
    "broken durations": (bars(note(lyrics="one", duration="2.6667")), "60:0.3333:one"),
    "a note too short to hear": (
        bars(
            note(lyrics="one", duration="1")
            + note(duration="1")
            + note(lyrics="two", duration="96"),
            divisions=96,
        ),
        "60:0.02:one 60:0.4904:two",
    ),
    # pitch
    "an octave lower": (
        bars(
            ONE, attributes=transpose("<chromatic>0</chromatic><octave-change>-1</octave-change>")
        ),
        "48:one",
    ),
    "in B flat": (bars(ONE, attributes=transpose("<chromatic>-2</chromatic>")), "58:one"),
    "accidentals": (
        bars(
            note("B3", "one").replace("</step>", "</step><alter>1</alter>")
            + note("F4", "two").replace("</step>", "</step><alter>-2</alter>")
            + note("C4", "three").replace("</step>", "</step><alter>0.5</alter>")
        ),
        "60:one 63:two 60:three",
    ),
    "chords": (bars(ONE + note("G5", "", "chord") + note("E4", "", "chord")), "79:one"),
    "words on the chord": (bars(note() + note("G5", "one", "chord")), "79:one"),
    # voices
    "another voice": (bars(note(lyrics="one", voice="2") + note(lyrics="two", voice="2")), PAIR),
    "a voice after a backup": (
        bars(
            note("R", duration="16")
            + "<backup><duration>16</duration></backup>"
            + note(lyrics="one", voice="2")
            + note(lyrics="two", voice="2")
        ),
        PAIR,
    ),
    "another part": (score(part(note("E4") + note("E4")), part(ONE + TWO)), PAIR),
    "words move to another voice": (bars(ONE, note(lyrics="two", voice="2")), PAIR),
    "the first of two voices": (
        bars(
            ONE
            + TWO
            + "<backup><duration>8</duration></backup>"
            + note("C3", "x", voice="2")
            + note("C3", "y", voice="2")
        ),
        PAIR,
    ),
    "a stray word in the piano": (
        score(part(note(lyrics="ped") + note()), part(ONE + TWO + ONE)),
        f"{PAIR} 60:one",
    ),
    "cues": (
        bars(ONE + note("G4", "x").replace("<note>", "<note><cue/>") + TWO),
        "60:one R 60:two",
    ),
    "silent notes": (
        bars(ONE + note("G4").replace("<note>", '<note dynamics="0">') + TWO),
        "60:one R 60:two",
    ),
    "slashes": (
        bars(ONE + note("G4", inside="<notehead>slash</notehead>") + TWO),
        "60:one R 60:two",
    ),
    "unpitched": (
        bars(ONE + "<note><unpitched/><duration>4</duration></note>" + TWO),
        "60:one R 60:two",
    ),
    "spoken": (
        bars(note("G4", "one") + f"<note><unpitched/><duration>4</duration>{text('two')}</note>"),
        "67:one 67:two",
    ),
    # files
    "a namespace": (
        bars(ONE).replace("<score-partwise>", '<score-partwise xmlns="urn:x">'),
        "60:one",
    ),
    "timewise": (
        "<score-timewise>"
        + "".join(
            f'<measure number="{i}"><part id="P1">{n}</part></measure>'
            for i, n in enumerate(("<attributes><divisions>4</divisions></attributes>" + ONE, TWO))
        )
        + "</score-timewise>",
        PAIR,
    ),
    "timewise by name only": (bars(ONE).replace("score-partwise", "score-timewise"), "60:one"),
    "no attributes": (
        f"<score-partwise><part><measure>{ONE}</measure></part></score-partwise>",
        "60:2:one",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sung_as_written(case: str, tmp_path: Path) -> None:
    data, expected = CASES[case]
    assert said(read(tmp_path, "song.musicxml", data)) == expected


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UTF-8", "utf-8"),
        ("UTF-8", "utf-8-sig"),
        ("UTF-16", "utf-16"),
        ("UTF-16", "utf-16-be"),
        ("UTF-8", "utf-16"),
        ("UTF-16", "utf-8"),
        ("ISO-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("UTF-8", "latin-1"),
        ("macintosh", "mac_roman"),
    ],
)
def test_encodings(declared: str, encoding: str, tmp_path: Path) -> None:
    data = score(part(note(lyrics="caf\u00e9") + TWO), declared=declared).encode(encoding)
    assert said(read(tmp_path, "song.xml", data)) == "60:caf\u00e9 60:two"


@pytest.mark.parametrize("name", ["song.mxl", "song.musicxml", "song.xml"])
def test_compressed(name: str, tmp_path: Path) -> None:
    container = '<container><rootfiles><rootfile full-path="b.xml"/></rootfiles></container>'
    both = {"a.xml": bars(ONE), "b.xml": bars(TWO)}
    named = packed(**{"META-INF/container.xml": container, **both})
    assert said(read(tmp_path, name, named)) == "60:two"
    assert said(read(tmp_path, name, packed(**both))) == "60:one"


REFUSED = {
    "no words": (bars(note()), "expected lyrics under the notes"),
    "no part": ("<score-partwise/>", "expected a MusicXML score with parts"),
    "another document": ("<html/>", "got <'html'>"),
    "cut off": (bars(ONE)[:300], "expected MusicXML, got"),
    "entities": ('<!DOCTYPE x [<!ENTITY a "b">]><score-partwise/>', "without definitions"),
    "default attributes": ('<!DOCTYPE x [<!ATTLIST a b CDATA "c">]><x/>', "without definitions"),
    "too deep": ("<part>" * 100, "at most 64 deep"),
    "no octave": (bars(ONE.replace("<octave>4</octave>", "")), "bar 1: expected octave from"),
    "a step of none": (bars(ONE, ONE.replace("<step>C", "<step>H")), "bar 2: expected a step"),
    "an endless alter": (
        bars(ONE.replace("</step>", "</step><alter>inf</alter>")),
        "bar 1: expected alter from",
    ),
    "an endless duration": (bars(note(lyrics="a", duration="9" * 400)), "bar 1: expected duration"),
    "no divisions": (bars(ONE, divisions=0), "bar 1: expected divisions from"),
    "no duration or type": (
        bars(ONE, ONE.replace("<duration>4</duration>", "")),
        "bar 2: expected a duration or a type",
    ),
    "too low": (bars(ONE, note("C1", "low")), "bar 2: expected MIDI pitches 36 to 98"),
    "repeats without end": (
        bars(*[ONE] * 40 + [ONE + repeat("backward", 'times="999"')]),
        "at most 32 times",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    data, expected = REFUSED[case]
    with pytest.raises(InputError) as e:
        read(tmp_path, "song.musicxml", data)
    assert expected in str(e.value) and "song.musicxml" in str(e.value) and "\n" not in str(e.value)
