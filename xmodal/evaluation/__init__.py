"""Evaluation: exact ranks, recall beside chance, and the report that shows both."""
