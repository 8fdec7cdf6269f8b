"""Judges: how well a model folder speaks and how well its codec keeps sound, each number beside what is attainable.

``python -m uniaudio_training.evaluate --model PATH --task tts,codec --json OUT``
"""
