"""The model folder on disk: its configuration, its weights, and how they are checked and written."""
