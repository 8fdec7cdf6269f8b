"""Foreign checkpoints -> model folders.

Running a model needs none of this. No code from a checkpoint is ever executed.
"""

# Raised where an importer's result changes, so that converted models in caches are made again.
VERSION = 1
