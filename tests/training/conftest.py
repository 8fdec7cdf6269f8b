"""Fixtures of the trainers' tests."""

from semantic_tools import semantic_corpus, semantic_run  # noqa: F401  fixtures
