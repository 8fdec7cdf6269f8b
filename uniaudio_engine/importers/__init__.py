"""Foreign checkpoints -> model folders.

Running a model needs none of this. No code from a checkpoint is ever executed.
"""
