"""Commands: `main` of each module takes the arguments of a command line; no torch is imported."""
