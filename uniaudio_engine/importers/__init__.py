"""Weights of other projects -> native model folders.  Names of other projects live here and nowhere else."""
