"""Places by hashes of names: what changes moves itself and next to nothing else.

The place of a thing is the first free one of a row of places that its name alone gives. A thing
that comes or goes moves another only where both wanted the same place.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

PROBES = 8
_EIGHT = struct.Struct("<8Q")
_STEPS = 4  # an octave


def probes(name: bytes) -> tuple[int, ...]:
    """PROBES numbers of 64 bits."""
    return _EIGHT.unpack(blake2b(name, digest_size=64).digest())


def coarse(number: int) -> int:
    """`number` rounded up to a quarter of its octave: it changes seldom while a tree grows."""
    if number <= _STEPS:
        return number
    step = 1 << (number.bit_length() - 3)
    return -(-number // step) * step


def bucket(key: int, buckets: int) -> int:
    """A bucket for a 64-bit key; where their number grows, only what goes to new ones moves.

    The jump consistent hash of Lamping and Veach (arXiv:1406.2294).
    """
    found, following = 0, 0
    while following < buckets:
        found = following
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        following = int((found + 1) * (2147483648.0 / ((key >> 33) + 1)))
    return found
