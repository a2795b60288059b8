"""Evaluation protocols, one a file: what it needs, how it measures, how its results are shown."""
