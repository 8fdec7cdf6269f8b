"""Scripts that build the data of `uniaudio_engine.text` (they need Debian's flite; the engine does
not).
"""
