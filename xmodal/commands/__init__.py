"""Commands: each module has a `main` that takes a command line's words, and imports no torch."""
