"""Studies, one a module: what `python -m benchmarks.study NAME` trains, measures and compares."""
