"""Character map of a sentencepiece model, by the longest match, as sentencepiece applies it.

The library tokenizers looks at one grapheme at a time, and drops marks of some of them.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

_LABEL = (1 << 31) | 0xFF
_VALUE = (1 << 31) - 1


class CharacterMap:
    """Replacements of sequences of characters, held in a double-array trie (Yata et al. 2007).

    `table` is the `precompiled_charsmap` of a model: the size of the trie in bytes, its units of 32
    bits, and the replacements, each ended by a zero. Raises `ValueError` for any other.
    """

    def __init__(self, table: bytes) -> None:
        size = int.from_bytes(table[:4], "little")
        if size % 4 or not 0 < size <= len(table) - 4:
            raise ValueError("its table of characters is broken")
        self.units = np.frombuffer(table[4 : 4 + size], "<u4").tolist()
        self.replacements = table[4 + size :]
        self.find = lru_cache(100_000)(self._find)

    def __call__(self, text: str) -> str:
        """Return a text whose characters are replaced, from left to right."""
        if text.isascii() and text.isprintable():
            return text
        data, made, place = text.encode(), b"", 0
        while place < len(data):
            length, replacement = self.find(data[place : place + 32])
            made += replacement
            place += length
        return made.decode()

    def _find(self, data: bytes) -> tuple[int, bytes]:
        """Return the longest key that `data` begins with and its replacement, or a character."""
        found = character = 1 + (data[0] >= 0xC0) + (data[0] >= 0xE0) + (data[0] >= 0xF0)
        replacement, place = data[:character], _offset(self.units[0])
        for length, byte in enumerate(data, 1):
            place ^= byte
            if place >= len(self.units) or self.units[place] & _LABEL != byte:
                break
            is_key = self.units[place] >> 8 & 1
            place ^= _offset(self.units[place])
            if is_key:
                start = self.units[place] & _VALUE
                end = self.replacements.index(b"\0", start)
                found, replacement = length, self.replacements[start:end]
        return found, replacement


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def take_character_map(tokenizer: Tokenizer) -> tuple[Tokenizer, Callable[[str], str]]:
    """Return a tokenizer without the character map of its normalizer, and the map.

    Where it has none, both do nothing more than before.
    """
    described = json.loads(tokenizer.to_str())
    steps = (described["normalizer"] or {}).get("normalizers", [])
    tables = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    if not tables:
        return tokenizer, str
    steps[:] = [step for step in steps if step["type"] != "Precompiled"]
    return Tokenizer.from_str(json.dumps(described)), CharacterMap(b64decode(tables[0]))
