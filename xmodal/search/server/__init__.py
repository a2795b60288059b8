"""The page of an index and its JSON API: `python launch/search.py INDEX --serve`."""
