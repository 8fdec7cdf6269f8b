"""Judges: what a model folder makes of each task's test examples, and how well its codec keeps
sound, each number beside what is attainable.

``uniaudio-train evaluate --model PATH --corpus DIR`` judges all tasks, ``--model PATH
--task tts,codec`` speech and codec without a corpus.
"""
