"""Sound in and out: files and arrays, encoded audio, voices."""

from .encoded import EncodedAudio
from .sound import Audio, AudioChunk, AudioSource, concatenate, read_audio, trim_silence
from .voice import Voice, codec_fingerprint

__all__ = [
    "Audio",
    "AudioChunk",
    "AudioSource",
    "EncodedAudio",
    "Voice",
    "codec_fingerprint",
    "concatenate",
    "read_audio",
    "trim_silence",
]
