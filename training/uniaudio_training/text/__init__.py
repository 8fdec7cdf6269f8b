"""Scripts that build the data of `uniaudio_engine.text`. They need Debian's flite; the engine does
not.
"""
