"""The tasks of the UniAudio repository's models under this engine's names, with that repository's
sequence layouts.

Sources: ``utils/task_definition.py`` (inputs and their order), ``utils/dataloader.py`` (the tokens
around them), the tokenizers (token units, prompt length), and ``infer.py`` with ``run.sh`` of the
recipes (sampling and length). Sampling is top-k 30 at temperature 1, a prompt lasts 3 s, and the
model ends the sound after 0.5 to 7 times the frames of the input. Where source and target are the
same sound (enhancement, extraction, editing), the target is as long as the source, which is
``--fixed_length`` of ``infer.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from ..request.tasks import Input, Task

# Labels per second: the repository's alignments have one per 30 ms (its AudioTokenizer.py).
PHONE_RATE = 100 / 3
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
    "aligned phone labels with their position in the word, one per 30 ms",
    rate=PHONE_RATE,
)
_UNITS = Input(
    "source",
    "tokens",
    "semantic",
    "HuBERT k-means units of the speech, 50 per second",
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
    "the part to speak again, as begin:end or begin:end:new length in seconds",
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
        "convert speech to another voice",
        (_UNITS, _PROMPT),
        "end",
        "uniaudio run vc source=units.npy prompt=voice.wav -o out.wav",
        token="VC_task",
    ),
    _task(
        "se",
        "remove noise from speech",
        (_SOUND,),
        "source",
        "uniaudio run se source=noisy.wav -o clean.wav",
        token="SE_task",
    ),
    _task(
        "sd",
        "remove reverberation from speech",
        (_SOUND,),
        "source",
        "uniaudio run sd source=hall.wav -o dry.wav",
        token="Speech_RIR_task",
    ),
    _task(
        "tse",
        "extract one speaker from a mixture",
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
        "generate a sound from a caption",
        (_CAPTION,),
        "end",
        "uniaudio run t2s text=states.npy -o sound.wav",
        token="TSS_task",
    ),
    _task(
        "t2m",
        "generate music from a caption",
        (_CAPTION,),
        "end",
        "uniaudio run t2m text=states.npy -o music.wav",
        token="TTM_task",
    ),
    _task(
        "a_edit",
        "edit a sound by an instruction",
        (_INSTRUCTION, _SOUND),
        "source",
        "uniaudio run a_edit instruction=states.npy source=in.wav -o out.wav",
        token="Audit_task",
    ),
    _task(
        "i_tts",
        "speak in the style of an instruction",
        (_ALIGNED, _INSTRUCTION),
        "end",
        "uniaudio run i_tts phones='SIL:0.2 HH_B:0.06 AY1_E:0.2' instruction=states.npy -o out.wav",
        token="InstructTTS_task",
    ),
    _task(
        "s_edit",
        "replace a part of recorded speech",
        (_ALIGNED, _SOUND, _SPAN),
        "source",
        "uniaudio run s_edit phones=phones.txt source=in.wav span=0.8:1.5 -o out.wav",
        token="speech_edit_task",
    ),
    _task(
        "asr",
        "transcribe speech",
        (_UNITS,),
        "end",
        "uniaudio run asr source=units.npy -o words.txt",
        target="text",
        token="asr_task",
    ),
    _task(
        "sv",
        "tell whether two recordings have the same speaker (1) or not (0)",
        (_SHORT, _PROMPT),
        "one",
        "uniaudio run sv source=a.wav prompt=b.wav -o same.txt",
        target="sv_bool",
        token="SV_task",
    ),
)


def available_tasks(names: Collection[str]) -> tuple[Task, ...]:
    """The tasks that a vocabulary has tokens for.

    ``names``: its special tokens, spans and continuous inputs.
    """
    return tuple(t for t in TASKS if t.needs() <= set(names))
