"""Flite in process: synthetic speech with exact phone times.

The base voices are CMU's, free to redistribute. Debian packages them as ``flite`` / ``libflite1``.
Only the corpus needs flite; the engine never does.
"""

from __future__ import annotations

import ctypes as C
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# The voices at 16 kHz. Left out: kal (8 kHz) and awb_time (speaks only the time).
VOICES = ("slt", "rms", "awb", "kal16")
SAMPLE_RATE = 16000


class _Wave(C.Structure):
    _fields_ = [
        ("type", C.c_char_p),
        ("sample_rate", C.c_int),
        ("num_samples", C.c_int),
        ("num_channels", C.c_int),
        ("samples", C.POINTER(C.c_short)),
    ]


class _Voice(C.Structure):
    _fields_ = [("name", C.c_char_p), ("features", C.c_void_p)]


@dataclass(frozen=True)
class Segment:
    """A phone (vowels with their stress digit, "ah1"), its end in seconds, and its word ("" in a
    pause).

    ``begins`` is "word" on the first phone of a word, "syllable" on the first phone of each later
    syllable, else "".
    """

    phone: str
    end: float
    word: str
    begins: str = ""


VOWELS = frozenset("aa ae ah ao aw ax axr ay eh er ey ih iy ow oy uh uw".split())


class Flite:
    """The flite library, one per process. Not thread-safe: flite has global parameters."""

    def __init__(self) -> None:
        p = C.c_void_p
        lib = self._load("libflite.so.1")
        for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
            self._load(name)
        lib.flite_init()

        def fn(name: str, result: object, *args: object):  # type: ignore[no-untyped-def]
            f = getattr(lib, name)
            f.restype, f.argtypes = result, args
            return f

        self._synth = fn("flite_synth_text", p, C.c_char_p, p)
        self._wave = fn("utt_wave", p, p)
        self._relation = fn("utt_relation", p, p, C.c_char_p)
        self._head = fn("relation_head", p, p)
        self._next = fn("item_next", p, p)
        self._string = fn("item_feat_string", C.c_char_p, p, C.c_char_p)
        self._float = fn("ffeature_float", C.c_float, p, C.c_char_p)
        self._fstring = fn("ffeature_string", C.c_char_p, p, C.c_char_p)
        self._set = fn("feat_set_float", None, p, C.c_char_p, C.c_float)
        self._remove = fn("feat_remove", C.c_int, p, C.c_char_p)
        self._srand = C.CDLL(None).srand
        self._srand.restype, self._srand.argtypes = None, (C.c_uint,)
        self._delete = fn("delete_utterance", None, p)
        self._voices = {}
        for voice in VOICES:
            register = getattr(
                self._load(f"libflite_cmu_us_{voice}.so.1"), f"register_cmu_us_{voice}"
            )
            register.restype, register.argtypes = p, (C.c_char_p,)
            self._voices[voice] = register(None)

    @staticmethod
    def _load(name: str) -> C.CDLL:
        try:
            return C.CDLL(name, mode=C.RTLD_GLOBAL)
        except OSError as e:
            raise RuntimeError(
                f"the corpus needs flite 2.2: {e}; install it (Debian: apt-get install libflite1)"
            ) from None

    def say(
        self,
        text: str,
        voice: str,
        f0: float | None = None,
        stretch: float = 1.0,
        noise_seed: int | None = None,
    ) -> tuple[np.ndarray, list[Segment]]:
        """Synthesises ``text``; returns float32 samples [N] at 16 kHz and their segments.

        ``f0`` is the mean of the intonation in Hz (``rms`` ignores it). ``stretch`` multiplies
        durations. ``noise_seed`` makes the samples a function of the arguments alone. Without it
        flite's excitation depends on the state of libc's ``rand()``.
        """
        if noise_seed is not None:
            self._srand(noise_seed)
        handle = self._voices[voice]
        features = C.cast(handle, C.POINTER(_Voice)).contents.features
        self._set(features, b"duration_stretch", stretch)
        if f0 is not None:
            self._set(features, b"int_f0_target_mean", f0)
        utterance = self._synth(text.encode("ascii", "ignore"), handle)
        if not utterance:
            raise RuntimeError(f"flite could not speak {text!r}")
        try:
            wave = C.cast(self._wave(utterance), C.POINTER(_Wave)).contents
            if wave.sample_rate != SAMPLE_RATE:
                raise RuntimeError(
                    f"flite voice {voice} speaks at {wave.sample_rate} Hz, expected {SAMPLE_RATE}"
                )
            samples = (
                np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32)
                / 32768.0
            )
            segments = []
            item = self._head(self._relation(utterance, b"Segment"))
            while item:
                phone = self._string(item, b"name").decode()
                word = self._fstring(item, b"R:SylStructure.parent.parent.name").decode()
                if phone in VOWELS:
                    phone += self._fstring(item, b"R:SylStructure.parent.stress").decode()
                begins = ""
                if word != "0" and self._fstring(item, b"R:SylStructure.p.name") == b"0":
                    begins = (
                        "word"
                        if self._fstring(item, b"R:SylStructure.parent.p.daughter.name") == b"0"
                        else "syllable"
                    )
                segments.append(
                    Segment(
                        phone, float(self._float(item, b"end")), "" if word == "0" else word, begins
                    )
                )
                item = self._next(item)
            return samples, segments
        finally:
            self._delete(utterance)


@lru_cache(maxsize=1)
def flite() -> Flite:
    return Flite()
