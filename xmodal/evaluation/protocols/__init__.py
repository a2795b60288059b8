"""Evaluation protocols, one a file: needs, measurement, and display of the results."""
