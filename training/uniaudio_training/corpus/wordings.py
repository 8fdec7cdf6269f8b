"""Captions in many wordings, so that a text encoder has to understand them.

A function takes a random generator and the facts. It names every fact that an evaluation may check
(counts, pitches, tempo, bins).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

Rng = np.random.Generator

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def pick(rng: Rng, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


_PITCH = {
    "low": ("low", "low-pitched", "deep", "dark"),
    "medium": ("medium", "mid-pitched", "medium-pitched", "middling"),
    "high": ("high", "high-pitched", "bright", "shrill"),
}
_TIMES = {1: ("once", "one time", "a single time"), 2: ("twice", "two times")}


def _times(rng: Rng, count: int) -> str:
    return str(pick(rng, _TIMES.get(count, (f"{NUMBERS[count]} times", f"{count} times"))))


def _count(rng: Rng, count: int) -> str:
    return str(pick(rng, (NUMBERS[count], str(count)) if count > 1 else ("one", "a single", "1")))


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _siren(rng: Rng, p: dict[str, Any]) -> str:
    speed = pick(
        rng,
        {
            "slow": ("slow", "slowly wailing", "lazy"),
            "steady": ("steady", "steadily wailing", "even"),
            "fast": ("fast", "rapid", "quickly yelping"),
        }[p["speed"]],
    )
    pitch, noun = (
        pick(rng, _PITCH[p["pitch"]]),
        pick(rng, ("siren", "alarm siren", "emergency siren", "police siren")),
    )
    return str(
        pick(
            rng,
            (
                _a(f"{speed}, {pitch} {noun}"),
                f"{_a(pitch)} {noun}, {speed}",
                f"{_a(f'{speed} {noun}')} at {_a(p['pitch'])} pitch",
            ),
        )
    )


def _bell(rng: Rng, p: dict[str, Any]) -> str:
    pitch, n = pick(rng, _PITCH[p["pitch"]]), p["count"]
    noun, s = pick(rng, ("bell", "church bell", "metal bell")), "s" * (n > 1)
    return str(
        pick(
            rng,
            (
                f"{_a(pitch)} {noun} {pick(rng, ('rings', 'tolls', 'chimes', 'sounds'))} "
                f"{_times(rng, n)}",
                f"{_count(rng, n)} {pick(rng, ('stroke', 'strike', 'ring', 'toll'))}{s} of "
                f"{_a(pitch)} {noun}",
                f"{_a(pitch)} {noun} struck {_times(rng, n)}",
                f"a {noun} {pick(rng, ('ringing', 'chiming'))} {_times(rng, n)}, {pitch}",
            ),
        )
    )


def _beep(rng: Rng, p: dict[str, Any]) -> str:
    pitch, n = pick(rng, _PITCH[p["pitch"]]), p["count"]
    noun, s = pick(rng, ("beep", "electronic beep", "bleep", "blip")), "s" * (n > 1)
    return str(
        pick(
            rng,
            (
                f"{_count(rng, n)} {pitch} {noun}{s}",
                f"{_a(pitch)} tone {pick(rng, ('beeps', 'bleeps'))} {_times(rng, n)}",
                f"{noun}{s}: {_count(rng, n)}, {pitch}",
                f"a device beeping {_times(rng, n)} at {_a(p['pitch'])} pitch",
            ),
        )
    )


def _rain(rng: Rng, p: dict[str, Any]) -> str:
    how = pick(
        rng,
        {
            "light": ("light", "gentle", "soft", "thin"),
            "steady": ("steady", "moderate", "constant"),
            "heavy": ("heavy", "pouring", "hard", "strong"),
        }[p["strength"]],
    )
    return str(
        pick(
            rng,
            (
                f"{how} rain",
                f"{how} rain falling",
                f"the sound of {how} rain",
                f"{how} rainfall",
                f"it rains, {how}",
                f"{how} raindrops on {pick(rng, ('a roof', 'leaves', 'the street'))}",
            ),
        )
    )


def _wind(rng: Rng, p: dict[str, Any]) -> str:
    how = pick(
        rng,
        {
            "calm": ("calm", "gentle", "slow"),
            "gusty": ("gusty", "blustery", "fresh"),
            "stormy": ("stormy", "raging", "violent"),
        }[p["strength"]],
    )
    return str(
        pick(
            rng,
            (
                f"{how} wind",
                f"{_a(how)} wind blows",
                f"the sound of {how} wind",
                f"wind blowing, {how}",
                f"{how} wind outdoors",
            ),
        )
    )


def _engine(rng: Rng, p: dict[str, Any]) -> str:
    change = pick(
        rng,
        {
            "slowing down": ("slowing down", "losing speed", "winding down"),
            "running": ("running", "running evenly", "idling steadily"),
            "speeding up": ("speeding up", "accelerating", "revving up"),
        }[p["change"]],
    )
    pitch, noun = (
        pick(rng, _PITCH[p["pitch"]][:3]),
        pick(rng, ("engine", "motor", "machine engine")),
    )
    return str(
        pick(
            rng,
            (
                f"{_a(pitch)} {noun} {change}",
                f"{_a(noun)} {change}, {pitch}",
                f"the sound of {_a(pitch)} {noun}, {change}",
            ),
        )
    )


def _knock(rng: Rng, p: dict[str, Any]) -> str:
    n, where = p["count"], pick(rng, ("on a door", "at the door", "on wood"))
    s = "s" * (n > 1)
    return str(
        pick(
            rng,
            (
                f"{_count(rng, n)} knock{s} {where}",
                f"someone knocks {_times(rng, n)} {where}",
                f"knocking {where}, {_times(rng, n)}",
                f"a fist {pick(rng, ('bangs', 'raps'))} {_times(rng, n)} {where}",
            ),
        )
    )


def _chirp(rng: Rng, p: dict[str, Any]) -> str:
    n, noun = p["count"], pick(rng, ("bird", "small bird", "songbird"))
    way = pick(
        rng, ("rising", "going up", "upward") if p["up"] else ("falling", "going down", "downward")
    )
    return str(
        pick(
            rng,
            (
                f"a {noun} chirps {_times(rng, n)}, {way}",
                f"{_count(rng, n)} {way} chirps of a {noun}",
                f"a {noun} {pick(rng, ('tweets', 'sings'))} {_times(rng, n)}, each note {way}",
                f"birdsong: {_count(rng, n)} {way} chirps",
            ),
        )
    )


def _drip(rng: Rng, p: dict[str, Any]) -> str:
    n = p["count"]
    return str(
        pick(
            rng,
            (
                f"water drips {_times(rng, n)}",
                f"{_count(rng, n)} {pick(rng, ('drops', 'drips'))} of water",
                f"a tap dripping {_times(rng, n)}",
                f"{_count(rng, n)} water drops {pick(rng, ('falling', 'plopping'))}",
            ),
        )
    )


def _clock(rng: Rng, p: dict[str, Any]) -> str:
    how = pick(
        rng,
        {
            1.0: ("slowly", "once a second", "at a slow pace"),
            2.0: ("steadily", "twice a second", "at a steady pace"),
            4.0: ("quickly", "four times a second", "at a fast pace"),
        }[p["per_second"]],
    )
    noun = pick(rng, ("clock", "wall clock", "old clock", "watch"))
    return str(
        pick(
            rng,
            (
                f"{_a(noun)} ticks {how}",
                f"{_a(noun)} ticking {how}",
                f"the ticking of {_a(noun)}, {how}",
            ),
        )
    )


_SOUND = {
    "siren": _siren,
    "bell": _bell,
    "beep": _beep,
    "rain": _rain,
    "wind": _wind,
    "engine": _engine,
    "knock": _knock,
    "chirp": _chirp,
    "drip": _drip,
    "clock": _clock,
}


def sound(rng: Rng, name: str, parameters: dict[str, Any]) -> str:
    """A caption for one of the ten sound classes."""
    return _SOUND[name](rng, parameters)


_DOING = {
    "rings": "ringing",
    "tolls": "tolling",
    "chimes": "chiming",
    "sounds": "sounding",
    "beeps": "beeping",
    "bleeps": "bleeping",
    "knocks": "knocking",
    "bangs": "banging",
    "raps": "rapping",
    "chirps": "chirping",
    "tweets": "tweeting",
    "sings": "singing",
    "drips": "dripping",
    "ticks": "ticking",
    "blows": "blowing",
}
_CLAUSE = re.compile(
    rf"\b(bell|tone|someone|fist|bird|songbird|water|clock|watch|wind) ({'|'.join(_DOING)})\b"
)


def sound_noun(rng: Rng, name: str, parameters: dict[str, Any]) -> str:
    """The caption as a noun phrase, for use within an instruction.

    "a bird chirping twice", not "a bird chirps twice".
    """
    caption = _CLAUSE.sub(lambda m: f"{m[1]} {_DOING[m[2]]}", sound(rng, name, parameters))
    return caption.replace("it rains, ", "rain, ").replace(": ", ", ")


def music(rng: Rng, p: dict[str, Any], key: str) -> str:
    """A caption with instrument, key, mode, tempo, chords and drums. It sometimes says what is
    absent.
    """
    tempo = p["tempo"]
    pace = pick(
        rng,
        ("slow", "calm", "relaxed")
        if tempo < 90
        else ("fast", "lively", "quick")
        if tempo > 120
        else ("medium", "moderate", "walking"),
    )
    lead, speed = (
        p["instrument"],
        pick(rng, (f"{tempo} beats per minute", f"{tempo} bpm", f"a tempo of {tempo}")),
    )
    where = pick(rng, (f"in {key} {p['mode']}", f"in the key of {key} {p['mode']}"))
    start = pick(
        rng,
        (
            f"{_a(pace)} {pick(rng, ('tune', 'melody', 'piece', 'song'))} "
            f"{pick(rng, ('played on', 'for', 'on'))} {lead}",
            f"{pace} {lead} music",
            f"{lead} playing {_a(pace)} {pick(rng, ('tune', 'melody'))}",
            f"{_a(f'{pace} {lead}')} {pick(rng, ('solo', 'line', 'theme'))}",
        ),
    )
    extras = []
    if p["chords"]:
        extras.append(
            pick(
                rng,
                (
                    f"with {p['chords']} chords",
                    f"over chords of {p['chords']}",
                    f"{p['chords']} chords behind it",
                ),
            )
        )
    elif rng.random() < 0.3:
        extras.append(pick(rng, ("no chords", "without chords")))
    if p["drums"]:
        extras.append(
            pick(rng, ("with drums", "with a drum beat", "drums keep the beat", "and percussion"))
        )
    elif rng.random() < 0.3:
        extras.append(pick(rng, ("no drums", "without drums")))
    middle = [where, speed, *extras]
    order = rng.permutation(len(middle))
    return ", ".join([str(start), *(str(middle[i]) for i in order)])


_VOICE = {
    "man": ("man", "male voice", "male speaker", "guy"),
    "woman": ("woman", "female voice", "female speaker", "lady"),
}
_F0 = {
    "low": ("low-pitched", "deep", "low"),
    "medium": ("medium-pitched", "normal-pitched", "ordinary"),
    "high": ("high-pitched", "high", "raised"),
}
_RATE = {
    "slow": ("slowly", "at a slow pace", "taking time", "with slow speech"),
    "medium": ("at a normal pace", "at a medium speed", "neither fast nor slow"),
    "fast": ("quickly", "fast", "at a fast pace", "in a hurry"),
}
_GAIN = {
    "quiet": ("quietly", "softly", "in a low volume", "at a low level"),
    "medium": ("at a normal volume", "at a medium level", "neither loud nor quiet"),
    "loud": ("loudly", "with a loud voice", "at a high volume", "at full volume"),
}


def instruction(rng: Rng, voice: str, f0: str, rate: str, gain: str) -> str:
    """An i_tts instruction.

    A "medium" bin is left out half of the time: no mention means medium.
    """
    who = pick(rng, _VOICE[voice])
    pitch = "" if f0 == "medium" and rng.random() < 0.5 else pick(rng, _F0[f0])
    how = [
        pick(rng, table[value])
        for table, value in ((_RATE, rate), (_GAIN, gain))
        if value != "medium" or rng.random() < 0.5
    ]
    if rng.random() < 0.5:
        how.reverse()
    named = _a(f"{pitch} {who}".strip())
    manner = pick(rng, (", ", " and ")).join(how)
    if not how:
        return str(
            pick(
                rng,
                (
                    named,
                    f"{named} speaking",
                    f"{named} talks",
                    f"spoken by {named}",
                    f"read by {named}",
                ),
            )
        )
    return str(
        pick(
            rng,
            (
                f"{named}, speaking {manner}",
                f"{named} {pick(rng, ('speaks', 'talks', 'says it'))} {manner}",
                f"{pick(rng, ('say', 'read', 'speak'))} this {manner}, as {named}",
                f"{manner}, {named}",
                f"{pick(rng, ('spoken', 'read', 'said'))} {manner} by {named}",
            ),
        )
    )


def position(rng: Rng, start: float, end: float, length: float) -> str:
    """The position of an event in a clip: the third that its centre lies in."""
    third = int(3 * 0.5 * (start + end) / length)
    near = (
        ("at the beginning", "near the start", "at the start"),
        ("in the middle", "halfway through", "around the middle"),
        ("at the end", "near the end", "towards the end"),
    )[min(third, 2)]
    return str(pick(rng, near))


def edit(rng: Rng, operation: str, removed: str, added: str, where: str, background: str) -> str:
    """An a_edit instruction."""
    words: tuple[str, ...]
    if operation == "add":
        words = (
            f"{pick(rng, ('add', 'insert', 'put in', 'mix in'))} {added} {where}",
            f"{where}, {pick(rng, ('add', 'insert'))} {added}",
            f"{added} should be heard {where}",
        )
    elif operation == "drop":
        words = (
            f"{pick(rng, ('remove', 'drop', 'take out', 'delete'))} {removed} {where}",
            f"{pick(rng, ('get rid of', 'cut'))} {removed}, {where}",
            f"{where}, remove {removed}",
        )
    elif operation == "replace":
        words = (
            f"replace {removed} {where} {pick(rng, ('with', 'by'))} {added}",
            f"{pick(rng, ('turn', 'change'))} {removed} {where} into {added}",
            f"{added} instead of {removed}, {where}",
        )
    elif operation == "inpaint":
        words = (
            f"fill in the {pick(rng, ('gap', 'missing part', 'hole'))} {where}: {background}",
            f"{pick(rng, ('restore', 'complete'))} the missing part of {background}",
            f"{background}: {pick(rng, ('repair', 'fill'))} the {pick(rng, ('silence', 'gap'))} "
            f"{where}",
        )
    else:
        words = (
            f"{pick(rng, ('restore', 'bring back', 'add'))} the high frequencies of {background}",
            f"{pick(rng, ('increase', 'raise'))} the resolution of {background}",
            f"super-resolve {background}",
            f"make {background} {pick(rng, ('brighter', 'full band', 'clear'))} again",
        )
    return str(pick(rng, words))
