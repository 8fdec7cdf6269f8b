"""The built-in tasks. A model's ``config.json`` lists those it was trained for."""

from __future__ import annotations

from dataclasses import replace

from .tasks import Input, Task

_VOICE = Input(
    "prompt",
    "voice",
    "audio_prompt",
    "a voice's name or file, or a sound to take the voice from",
    required=False,
    min_seconds=0.5,
    max_seconds=3.0,
)
_REQUIRED_VOICE = replace(_VOICE, required=True)
_TEXT = Input("text", "text", "phone", "English text")
_CAPTION = Input("text", "caption", "caption", "what it is to sound like, in English")
_INSTRUCTION = Input("instruction", "caption", "caption", "what to do, in English")
_SOURCE = Input("source", "audio", "source", "the sound", place="aligned")
_SPEECH = replace(_SOURCE, units=True)
_SPAN = Input("span", "span", "source", "the part to change, as begin:end in seconds")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "tts",
            "speak a text in a given voice",
            (_VOICE, _TEXT),
            "durations",
            'uniaudio tts "Hello there." -o hello.wav',
            0.3,
            64,
            0.95,
            verb="tts",
        ),
        Task(
            "vc",
            "say the same in another voice",
            (
                _REQUIRED_VOICE,
                Input("source", "units", "unit", "the speech", place="aligned"),
            ),
            "source",
            "uniaudio convert --source examples/speech.flac --voice examples/voice.flac -o "
            "converted.wav",
            0.3,
            64,
            0.95,
            finish="length",
            verb="convert",
        ),
        Task(
            "se",
            "take the noise out of speech",
            (_SPEECH,),
            "source",
            "uniaudio enhance --source examples/noisy.flac -o clean.wav",
            0.3,
            64,
            0.95,
            finish="length",
            postfilter=True,
            verb="enhance",
        ),
        Task(
            "tse",
            "pull one speaker out of a mixture",
            (_REQUIRED_VOICE, _SPEECH),
            "source",
            "uniaudio extract --source examples/mixture.flac --voice examples/wanted.flac -o "
            "alone.wav",
            0.3,
            64,
            0.95,
            finish="length",
            postfilter=True,
            attenuation_limit=100.0,
            verb="extract",
        ),
        Task(
            "svs",
            "sing a score",
            (
                _VOICE,
                Input(
                    "score",
                    "score",
                    "note",
                    "notes and words: .txt, .mid or .musicxml",
                    place="aligned",
                ),
            ),
            "source",
            "uniaudio sing --score examples/song.txt --voice examples/singer.flac -o song.wav",
            0.5,
            64,
            0.95,
            verb="sing",
        ),
        Task(
            "t2s",
            "make the sound of a caption",
            (_CAPTION,),
            "seconds",
            'uniaudio sound "three knocks on wood" -o knocks.wav',
            0.8,
            128,
            0.98,
            verb="sound",
            guidance=3.0,
        ),
        Task(
            "t2m",
            "make the music of a caption",
            (_CAPTION,),
            "seconds",
            'uniaudio music "a slow tune on piano, in C major, 70 bpm" -o music.wav',
            0.9,
            128,
            0.98,
            verb="music",
            guidance=5.0,
        ),
        Task(
            "a_edit",
            "change a sound as an instruction says",
            (_INSTRUCTION, _SOURCE, replace(_SPAN, required=False)),
            "source",
            'uniaudio edit "around the middle, add birdsong, 2 falling chirps" --source '
            "examples/rain.flac --span 1.14:2.84 -o birds.wav",
            0.5,
            64,
            0.95,
            finish="span",
            verb="edit",
            guidance=4.0,
        ),
        Task(
            "sd",
            "take the room out of speech",
            (_SPEECH,),
            "source",
            "uniaudio dereverb --source examples/hall.flac -o dry.wav",
            0.3,
            64,
            0.95,
            finish="length",
            postfilter=True,
            verb="dereverb",
        ),
        Task(
            "i_tts",
            "speak a text as an instruction says",
            (_INSTRUCTION, _TEXT),
            "durations",
            'uniaudio instruct "a low-pitched man, speaking slowly" --text "Hello there." -o '
            "low.wav",
            0.3,
            64,
            0.95,
            verb="instruct",
            guidance=2.0,
        ),
        Task(
            "s_edit",
            "speak a part of a recording anew",
            (
                Input("source", "context", "audio_prompt", "the recording", min_seconds=0.5),
                _SPAN,
                replace(_TEXT, help="the words for that part"),
            ),
            "durations",
            "uniaudio speech-edit mountain --source examples/sentence.flac --span 1.88:2.34 -o "
            "mountain.wav",
            0.3,
            64,
            0.95,
            finish="span",
            verb="speech-edit",
        ),
    )
}


def task_table(entries: tuple[str | Task, ...]) -> dict[str, Task]:
    """The tasks of a model's configuration by name; names unknown to this version are left out."""
    known = [TASKS.get(e) if isinstance(e, str) else e for e in entries]
    return {t.name: t for t in known if t is not None}
