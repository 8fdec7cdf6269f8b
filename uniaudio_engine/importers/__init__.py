"""Foreign checkpoints -> model folders.

Nothing here is needed to run a model, and nothing of a file is ever run.
"""
