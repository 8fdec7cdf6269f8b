"""The built-in tasks as methods, on top of ``Engine.generate``.

Every method also takes the task's options (``engine.tasks()`` lists them) and returns
:class:`Audio` with the seed in ``meta``. All raise :class:`InputError` for bad inputs.
"""

from __future__ import annotations

from typing import Any

from .audio.sound import Audio


class Verbs:
    """Mixed into :class:`Engine`."""

    def generate(self, task: str, **inputs: Any) -> Audio:
        raise NotImplementedError

    def tts(self, text: str | None = None, **inputs: Any) -> Audio:
        """Speak a text in the voice of ``prompt``; ``phones`` may replace the text."""
        return self.generate("tts", text=text, **inputs)

    def convert(self, source: Any, prompt: Any = None, **inputs: Any) -> Audio:
        """The words of ``source`` in the voice of ``prompt`` (or ``voice``)."""
        return self.generate("vc", source=source, prompt=prompt, **inputs)

    def enhance(self, source: Any, **inputs: Any) -> Audio:
        """Speech without its noise, as long as ``source``.

        It is the recording, filtered; ``postfilter=0`` returns what the language model makes of it.
        ``attenuation_limit``: the most, in dB, by which a part of the spectrum is turned down (20).
        It leaves a little of the noise, and more of the words in it; 100 is no limit.
        """
        return self.generate("se", source=source, **inputs)

    def dereverb(self, source: Any, **inputs: Any) -> Audio:
        """Speech without its room, as long as ``source``; made as in :meth:`enhance`."""
        return self.generate("sd", source=source, **inputs)

    def extract(self, source: Any, prompt: Any = None, **inputs: Any) -> Audio:
        """Only the speaker of ``prompt``, out of the mixture ``source``, as long as that.

        It is the recording, filtered by a network that hears the speaker's voice. ``postfilter=0``
        returns what the language model makes of both. ``attenuation_limit``: as in
        :meth:`enhance`, but there is none by default (100).
        """
        return self.generate("tse", source=source, prompt=prompt, **inputs)

    def sing(self, score: Any, **inputs: Any) -> Audio:
        """Sing a score: a file, a text, or a list of notes."""
        return self.generate("svs", score=score, **inputs)

    def sound(self, text: Any, **inputs: Any) -> Audio:
        """The sound of a caption, ``seconds`` long."""
        return self.generate("t2s", text=text, **inputs)

    def music(self, text: Any, **inputs: Any) -> Audio:
        """The music of a caption, ``seconds`` long."""
        return self.generate("t2m", text=text, **inputs)

    def edit(self, instruction: Any, source: Any, **inputs: Any) -> Audio:
        """Change ``source`` as an instruction says.

        ``span``: begin and end in seconds; no sample outside of it changes.
        """
        return self.generate("a_edit", instruction=instruction, source=source, **inputs)

    def instruct(self, instruction: Any, text: str | None = None, **inputs: Any) -> Audio:
        """Speak a text as an instruction says."""
        return self.generate("i_tts", instruction=instruction, text=text, **inputs)

    def speech_edit(self, source: Any, span: Any, text: str | None = None, **inputs: Any) -> Audio:
        """Speak ``text`` in place of ``span`` (begin and end in seconds) of a recording.

        No sample outside of it changes.
        """
        return self.generate("s_edit", source=source, span=span, text=text, **inputs)
