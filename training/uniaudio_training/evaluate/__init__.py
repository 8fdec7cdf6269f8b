"""Evaluation of a model on the test examples of each task, and of its codec, next to the upper
bounds.

``uniaudio-train evaluate --model PATH --corpus DIR`` evaluates all tasks.
``--model PATH --task tts,codec`` evaluates speech and codec without a corpus.
"""
