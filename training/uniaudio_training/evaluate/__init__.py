"""Judges: how good a model's answers to each task's test examples are, and how well its codec keeps
sound, next to what is attainable.

``uniaudio-train evaluate --model PATH --corpus DIR`` judges all tasks; ``--model PATH --task
tts,codec`` judges speech and codec without a corpus.
"""
