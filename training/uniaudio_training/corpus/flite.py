"""Flite in process: synthetic speech with exact phone times.

The base voices are CMU's, free to redistribute. Debian packages them as ``flite`` / ``libflite1``.
Only the corpus needs flite; the engine never does.

flite's noise comes from libc's ``rand()``, whose state belongs to the whole process. Threads of Ray
and of ONNX Runtime draw from it too. So flite is loaded into a link namespace of its own, with a
libc of its own: nothing else can reach that ``rand()``.
"""

from __future__ import annotations

import ctypes as C
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# The voices at 16 kHz. Left out: kal (8 kHz) and awb_time (speaks only the time).
VOICES = ("slt", "rms", "awb", "kal16")
SAMPLE_RATE = 16000
_F0 = b"int_f0_target_mean"


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


# glibc's dlfcn.h
_LM_ID_NEWLM, _RTLD_DI_LMID, _RTLD_NOW = -1, 1, 2


class _Namespace:
    """Shared libraries that share no state with the rest of the process, libc's included."""

    def __init__(self) -> None:
        libc, p = C.CDLL(None), C.c_void_p
        if not hasattr(libc, "dlmopen"):
            raise RuntimeError("the corpus needs Linux with glibc: this libc has no dlmopen")
        self._open, self._info, self._error = libc.dlmopen, libc.dlinfo, libc.dlerror
        self._open.restype, self._open.argtypes = p, (C.c_long, C.c_char_p, C.c_int)
        self._info.argtypes = (p, C.c_int, p)
        self._error.restype = C.c_char_p
        self._id = C.c_long(_LM_ID_NEWLM)

    def load(self, name: str) -> C.CDLL:
        handle = self._open(self._id, name.encode(), _RTLD_NOW)
        if not handle:
            raise RuntimeError(
                f"the corpus needs flite 2.2: {self._error().decode()}; install it (Debian: "
                "apt-get install libflite1)"
            )
        self._info(handle, _RTLD_DI_LMID, C.byref(self._id))
        return C.CDLL(name, handle=handle)


class Flite:
    """The flite library, one per process. Not thread-safe: flite has global parameters."""

    def __init__(self) -> None:
        p = C.c_void_p
        namespace = _Namespace()
        lib = namespace.load("libflite.so.1")

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
        self._srand = fn("srand", None, C.c_uint)  # of the namespace's libc
        # That libc knows only the thread that loaded it. In any other, its tables of character
        # classes are missing until this is called (glibc bug 19341).
        self._enter_thread = fn("__ctype_init", None)
        self._delete = fn("delete_utterance", None, p)
        parameter = fn("get_param_float", C.c_float, p, C.c_char_p, C.c_float)
        lib.flite_init()
        self._voices, self._f0 = {}, {}
        for voice in VOICES:
            register = getattr(
                namespace.load(f"libflite_cmu_us_{voice}.so.1"), f"register_cmu_us_{voice}"
            )
            register.restype, register.argtypes = p, (C.c_char_p,)
            self._voices[voice] = handle = register(None)
            self._f0[voice] = parameter(self._features(handle), _F0, 0.0) or None

    @staticmethod
    def _features(voice: int) -> int:
        return C.cast(voice, C.POINTER(_Voice)).contents.features

    def say(
        self,
        text: str,
        voice: str,
        f0: float | None = None,
        stretch: float = 1.0,
        noise_seed: int = 1,
    ) -> tuple[np.ndarray, list[Segment]]:
        """Synthesises ``text``; returns float32 samples [N] at 16 kHz and their segments.

        They are a function of the arguments alone. ``f0`` is the mean of the intonation in Hz
        (``rms`` ignores it; None: the voice's own). ``stretch`` multiplies durations.
        ``noise_seed`` draws the excitation's noise.
        """
        self._enter_thread()
        self._srand(noise_seed)
        handle = self._voices[voice]
        features = self._features(handle)
        self._set(features, b"duration_stretch", stretch)
        mean = self._f0[voice] if f0 is None else f0
        if mean is None:
            self._remove(features, _F0)
        else:
            self._set(features, _F0, mean)
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
