"""Random numbers of a sample: a function of the seed, the position and the purpose.

They never depend on a worker, a rank, or earlier draws. Use `fraction` for a number that every
sample draws once: it takes a tenth of the time of a generator.
"""

import hashlib
import struct
from collections.abc import Mapping

import numpy as np

# Purposes of a fraction.
CAPTION, SECOND_CAPTION, NO_TEXT, NO_SECOND_TEXT, VIEW, NEGATIVE = range(6)


def generator(seed: int, position: int, view: int) -> np.random.Generator:
    """Return the random generator for a view of the sample at a position."""
    return np.random.Generator(np.random.Philox(counter=[0, view, position, 0], key=[seed, 1]))


def fraction(seed: int, position: int, purpose: int = CAPTION) -> float:
    """Return the random number in [0, 1) for a position and purpose."""
    packed = struct.pack("<Qq", seed, position)
    digest = hashlib.blake2b(packed, digest_size=8, salt=purpose.to_bytes()).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def choose_text(
    drawn: float, counts: Mapping[str, int], keys: Mapping[str, float]
) -> tuple[str, int]:
    """Return the text selected by a random number `drawn` in [0, 1): its key and its number.

    A key is selected by its probability, then one of its texts, of which `counts` has the numbers.
    Probabilities of keys without texts are distributed over the others.
    """
    drawn *= sum(keys[name] for name in counts)
    name = next(iter(counts))
    for name in counts:
        if drawn < keys[name]:
            break
        drawn -= keys[name]
    return name, int(min(max(drawn, 0) / keys[name], 1 - 1e-9) * counts[name])
