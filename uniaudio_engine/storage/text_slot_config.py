"""The configuration of models whose frames have a slot of text beside the codec's codes.

One slot of a frame holds a text id, the others one code of each codebook. A row of text has the
special token ``pad`` in place of codes. Sequences follow the prompt that is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .json_config import require, require_within
from .lm_config import LMConfig, VocabularyConfig
from .speaker_config import EcapaConfig

_MAX_PROMPT = 4096  # ids
VECTOR = "speaker"  # the LM's continuous input of a voice's vector


@dataclass(frozen=True)
class PromptPart:
    """A part of a prompt.

    ``kind``: ``ids``, these text ids; ``text``, the ids of the text to be spoken; ``voice``, the
    codes of the voice's recording, each frame with the one text id in ``ids`` (none: ``pad``);
    ``transcript``, the ids of what is said in that recording, where that is known; with such a part,
    the recording is heard only then; ``vector``, one row, the voice's vector as the LM's continuous
    input :data:`VECTOR` maps it; or ``input``, the tokens of the task's input with the segment
    ``input`` (where it is absent, those in ``ids``), each in the slot of the text. ``when``: whether
    the part is there only with a voice's recording, or only without one; or only with that input
    (``given``), or only without it (``absent``).
    """

    kind: Literal["ids", "text", "voice", "transcript", "vector", "input"]
    ids: tuple[int, ...] = ()
    when: Literal["always", "voice", "no_voice", "given", "absent"] = "always"
    input: str = ""


@dataclass(frozen=True)
class WordByWord:
    """A text that is fed while it is spoken (``csrc/words.h``): the text id ``new_word``, drawn in the
    slot of text, says that the next word begins; ``pad`` that nothing does.

    ``ahead``: above 0, the second slot, which is given, has the ids of the word that is so many later,
    from the span ``ahead``. ``between``: steps without a new word after each word's ids, at least.
    ``max_padding``: in a row, at most. ``initial_padding``: at first. ``final_frames``: of the sound,
    after the step that asks for a word too many. The last id of the span ``text`` stands between two
    words, wherever a text is one list of ids.
    """

    new_word: int
    pad: int
    ahead: int = 0
    between: int = 0
    max_padding: int = 6
    initial_padding: int = 2
    final_frames: int = 0


@dataclass(frozen=True)
class TextSlotConfig:
    """How a text is read, how a prompt is laid out, and how frames are drawn.

    ``position``: of the text among a frame's slots. ``tokenizer``: what makes ids of a text:
    ``sentencepiece`` (text.model) or ``tokenizers`` (tokenizer.json). ``phones``: what makes phones
    of it before that. ``normalization``: what is done to a sentence before its tokenizer, nothing or
    ``written`` (text/written.py). ``languages``: codes of those that the model speaks. ``prompt``:
    without its first row, which is the LM's start frame.

    ``speaking``: the text id of a generated frame (-1: ``pad``); ``end``: the one that ends them
    (-1: none does). ``end_code``: a frame ends them too whose codes are all this one, except for
    the last codebook's; it is not part of the sound (-1: none does). ``end_token``: the special
    token ``end`` ends them, drawn in place of the first codebook's code once there are
    ``least_frames``. By default one of ``speaking``
    and ``end`` is drawn, as ``temperature``, ``top_k`` and ``top_p`` say. ``forced``: the likeliest
    of all text ids is looked at, and ``speaking`` goes on in any case. ``keep_end_frame``: the
    frame in which the end comes is part of the sound.

    ``before``: goes before each sentence's text; ``{speaker}`` in it is the speaker's number.
    ``first``: the text id that a turn begins with; the start frame stands for that of the first
    turn (-1: the model takes no turns). ``voice_width``: of the vector that a voice has beside its
    recording; 0: none. ``max_tokens``: text ids of a sentence, 0 for no limit; a longer one is
    split. ``max_frames_per_token``: a sentence is ended after that many, and a few more. ``pause``:
    seconds between sentences. ``guard``: the codebooks that the option repetition_penalty is about.
    ``words``: the text is not part of the prompt, but fed word by word. ``speaker``: what makes the
    voice's vector, a part of the prompt; without one, a vector is added to every row.
    """

    tokenizer: Literal["sentencepiece", "tokenizers"]
    prompt: tuple[PromptPart, ...]
    phones: Literal["", "sea_g2p"] = ""
    position: Literal["first", "last"] = "first"
    speaking: int = -1
    end: int = -1
    forced: bool = False
    keep_end_frame: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    voice_width: int = 0
    max_tokens: int = 0
    max_frames_per_token: float = 4.0
    pause: float = 0.0
    end_code: int = -1
    before: str = ""
    first: int = -1
    normalization: Literal["", "written"] = ""
    languages: tuple[str, ...] = ("en",)
    end_token: bool = False
    least_frames: int = 0
    guard: Literal["all", "first"] = "all"
    words: WordByWord | None = None
    speaker: EcapaConfig | None = None

    def check(self, lm: LMConfig, vocabulary: VocabularyConfig) -> None:
        """Raise :class:`ConfigError` unless it fits the language model and its vocabulary."""
        require(lm.num_codebooks >= 2, "lm.num_codebooks", "2 or more slots", lm.num_codebooks)
        size = vocabulary.span("text").size
        vocabulary.special("pad")
        kinds = [p.kind for p in self.prompt]
        if self.words is not None:
            self._check_words(self.words, lm, vocabulary)
            require("text" not in kinds, "text_slot.prompt", "no text, which words feed", kinds)
        else:
            require(kinds.count("text") == 1, "text_slot.prompt", "one part of kind text", kinds)
            require(lm.given_slots == 0, "lm.given_slots", "0 without words", lm.given_slots)
        require(kinds.count("voice") <= 1, "text_slot.prompt", "one voice at most", kinds)
        written = kinds.count("transcript")
        require(written <= kinds.count("voice"), "text_slot.prompt", "a transcript's voice", kinds)
        for i, part in enumerate(self.prompt):
            where = f"text_slot.prompt[{i}]"
            most = {"ids": _MAX_PROMPT, "voice": 1, "input": 1}.get(part.kind, 0)
            require_within(f"{where}.ids", int(part.kind == "ids"), len(part.ids), most, "ids")
            named = part.kind == "input" or part.when in ("given", "absent")
            require(bool(part.input) == named, f"{where}.input", "a name where one is meant", part)
            limit = vocabulary.span(part.input).size if part.kind == "input" else size
            for id in part.ids:
                require_within(f"{where}.ids", 0, id, limit - 1)
        require_within("text_slot.speaking", -1, self.speaking, size - 1)
        require_within("text_slot.end", -1, self.end, size - 1)
        require(self.end < 0 or self.speaking >= 0, "text_slot.speaking", "an id, as end has", -1)
        ends = self.end < 0 or self.position == "first"
        require(ends, "text_slot.end", "-1 unless position is first", self.end)
        require_within("text_slot.temperature", 0, self.temperature, 5)
        require_within("text_slot.top_k", 0, self.top_k, 1 << 20)
        require_within("text_slot.top_p", 0.001, self.top_p, 1)
        require_within("text_slot.voice_width", 0, self.voice_width, 16384)
        require_within("text_slot.max_tokens", 0, self.max_tokens, 1 << 16)
        require_within("text_slot.max_frames_per_token", 0, self.max_frames_per_token, 1000)
        most = vocabulary.span("audio").size // (lm.num_codebooks - 1) - 1
        require_within("text_slot.end_code", -1, self.end_code, most)
        require_within("text_slot.first", -1, self.first, size - 1)
        require(
            self.first < 0 or self.end_code >= 0,
            "text_slot.end_code",
            "a code, as turns have a first id",
            self.end_code,
        )
        require_within("text_slot.least_frames", 0, self.least_frames, 1 << 16)
        if self.end_token:
            vocabulary.special("end")
            require(
                self.position == "last" and self.end < 0 and self.end_code < 0,
                "text_slot.end_token",
                "position last, and no other end",
                self.position,
            )
        require_within("text_slot.before", 0, len(self.before), 100, "characters")
        require_within("text_slot.languages", 1, len(self.languages), 200, "codes")
        for code in self.languages:
            known = code.isascii() and code.isalnum() and 2 <= len(code) <= 3 and code.islower()
            require(known, "text_slot.languages", "codes of two or three letters", code)
        require_within("text_slot.pause", 0, self.pause, 10, "seconds")
        self._check_speaker(lm, kinds.count("vector"))

    def _check_speaker(self, lm: LMConfig, vectors: int) -> None:
        wanted = int(self.speaker is not None)
        require(vectors == wanted, "text_slot.prompt", f"{wanted} parts of kind vector", vectors)
        if self.speaker is None:
            return
        self.speaker.check("text_slot.speaker")
        width = self.speaker.width
        require(self.voice_width == width, "text_slot.voice_width", str(width), self.voice_width)
        got = lm.continuous.get(VECTOR)
        require(got == width, f"lm.continuous.{VECTOR}", f"{width}, as of the vector", got)

    def _check_words(self, words: WordByWord, lm: LMConfig, vocabulary: VocabularyConfig) -> None:
        size = vocabulary.span("text").size
        for name in ("new_word", "pad"):
            require_within(f"text_slot.words.{name}", 0, getattr(words, name), size - 2)
        for name in ("ahead", "between", "max_padding", "initial_padding", "final_frames"):
            require_within(f"text_slot.words.{name}", 0, getattr(words, name), 1000)
        second = int(words.ahead > 0)
        require(
            lm.given_slots == second and not any(lm.delays[: 1 + second]),
            "text_slot.words.ahead",
            "above 0 exactly with a given slot, and slots of text without delays",
            words.ahead,
        )
        if second:
            ahead = vocabulary.span("ahead").size
            require(ahead == size, "vocabulary.spans.ahead", f"{size} ids, as of text", ahead)
        ends = self.end < 0 and self.end_code < 0 and not self.end_token and self.speaking < 0
        require(
            ends and self.position == "first" and self.tokenizer == "sentencepiece",
            "text_slot.words",
            "position first, a sentencepiece tokenizer, and no other end or speaking",
            self.position,
        )
