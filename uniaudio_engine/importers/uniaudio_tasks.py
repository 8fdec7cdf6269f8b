"""The tasks of the UniAudio repository's models, under this engine's names, with that repository's
sequences.

Read from its ``utils/task_definition.py`` (which inputs in which order), ``utils/dataloader.py``
(the tokens around them), the tokenizers (what is one token, prompt length) and ``infer.py`` with
the recipes' ``run.sh`` (sampling, length): top-k 30 at temperature 1; a prompt of 3 s; sound ends
where the model says so, not before 0.5 and not after 7 times the input's frames. Where source and
target are the same sound (cleaning, extraction, editing) the length is the source's, which is
``infer.py``'s ``--fixed_length``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from ..request.tasks import Input, Task

PHONE_RATE = (
    100 / 3
)  # labels a second: the repository's alignments have a label every 30 ms (its AudioTokenizer.py)
UNIT_RATE = 50.0  # HuBERT
MAX_STATES = 100  # T5 tokens

_PROMPT = Input(
    "prompt",
    "voice",
    "audio_prompt",
    "three seconds of the voice, as a sound or a voice file",
    min_seconds=0.5,
    max_seconds=3.0,
)
_TEXT = Input("text", "text", "phone", "English text", collapse=True)
_ALIGNED = Input(
    "phones",
    "tokens",
    "phone",
    "aligned phone labels with places in the word, one every 30 ms",
    rate=PHONE_RATE,
)
_UNITS = Input(
    "source",
    "tokens",
    "semantic",
    "HuBERT k-means units of the speech, 50 a second",
    rate=UNIT_RATE,
    encoder="hubert",
)
_CAPTION = Input(
    "text",
    "states",
    "text_t5",
    "T5 v1.1 base encoder states [n, 768] of the caption",
    max_count=MAX_STATES,
    encoder="t5",
)
_INSTRUCTION = Input(
    "instruction",
    "states",
    "text_t5",
    "T5 v1.1 base encoder states [n, 768] of the instruction",
    max_count=MAX_STATES,
    encoder="t5",
)
_SOUND = Input("source", "audio", "audio", "the sound")
_SHORT = Input("source", "audio", "audio", "three seconds of speech", max_seconds=3.0)
_SPAN = Input(
    "span",
    "span",
    "source",
    "the part to be spoken anew, as begin:end or begin:end:new length in seconds",
)

_task = partial(Task, temperature=1.0, top_k=30)

TASKS: tuple[Task, ...] = (
    _task(
        "tts",
        "speak a text, or phones, in a given voice",
        (_TEXT, _PROMPT),
        "end",
        "uniaudio run tts phones='SIL HH_B AH0_I L_I OW1_E SIL' prompt=voice.wav -o hello.wav",
        token="tts_task",
    ),
    _task(
        "vc",
        "say the same in another voice",
        (_UNITS, _PROMPT),
        "end",
        "uniaudio run vc source=units.npy prompt=voice.wav -o out.wav",
        token="VC_task",
    ),
    _task(
        "se",
        "take the noise out of speech",
        (_SOUND,),
        "source",
        "uniaudio run se source=noisy.wav -o clean.wav",
        token="SE_task",
    ),
    _task(
        "sd",
        "take the room out of speech",
        (_SOUND,),
        "source",
        "uniaudio run sd source=hall.wav -o dry.wav",
        token="Speech_RIR_task",
    ),
    _task(
        "tse",
        "pull one speaker out of a mixture",
        (_SOUND, _PROMPT),
        "source",
        "uniaudio run tse source=mixture.wav prompt=voice.wav -o one.wav",
        token="Spex_task",
    ),
    _task(
        "svs",
        "sing phones to notes",
        (
            Input("phones", "tokens", "sing_phone", "the phone of each frame"),
            Input("notes", "tokens", "sing_midi", "the note number of each frame"),
            _PROMPT,
        ),
        "end",
        "uniaudio run svs phones=phones.txt notes=notes.txt prompt=voice.wav -o song.wav",
        token="sing_task",
    ),
    _task(
        "t2s",
        "make the sound of a caption",
        (_CAPTION,),
        "end",
        "uniaudio run t2s text=states.npy -o sound.wav",
        token="TSS_task",
    ),
    _task(
        "t2m",
        "make the music of a caption",
        (_CAPTION,),
        "end",
        "uniaudio run t2m text=states.npy -o music.wav",
        token="TTM_task",
    ),
    _task(
        "a_edit",
        "change a sound as an instruction says",
        (_INSTRUCTION, _SOUND),
        "source",
        "uniaudio run a_edit instruction=states.npy source=in.wav -o out.wav",
        token="Audit_task",
    ),
    _task(
        "i_tts",
        "speak as an instruction says",
        (_ALIGNED, _INSTRUCTION),
        "end",
        "uniaudio run i_tts phones='SIL:0.2 HH_B:0.06 AY1_E:0.2' instruction=states.npy -o out.wav",
        token="InstructTTS_task",
    ),
    _task(
        "s_edit",
        "speak a part of a recording anew",
        (_ALIGNED, _SOUND, _SPAN),
        "source",
        "uniaudio run s_edit phones=phones.txt source=in.wav span=0.8:1.5 -o out.wav",
        token="speech_edit_task",
    ),
    _task(
        "asr",
        "write down speech",
        (_UNITS,),
        "end",
        "uniaudio run asr source=units.npy -o words.txt",
        target="text",
        token="asr_task",
    ),
    _task(
        "sv",
        "tell whether two recordings are of one speaker (1) or not (0)",
        (_SHORT, _PROMPT),
        "one",
        "uniaudio run sv source=a.wav prompt=b.wav -o same.txt",
        target="sv_bool",
        token="SV_task",
    ),
)


def available_tasks(names: Collection[str]) -> tuple[Task, ...]:
    """The tasks for which a vocabulary has all tokens; ``names``: its special tokens, spans and
    continuous inputs.
    """
    return tuple(t for t in TASKS if t.needs <= set(names))
