"""Whole recipes put together: what is trained, and what was trained, to be used."""
