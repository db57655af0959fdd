"""Places by hashes of names: what changes moves itself and next to nothing else.

The place of a thing is the first free one of a row of places that its name alone gives. A thing
that comes or goes moves another only where both wanted the same place.
"""

from __future__ import annotations

import re
import struct
from hashlib import blake2b

_PROBES = struct.Struct("<16I")
_STEP_BITS = 3  # eight steps an octave
_VERSION = re.compile(rb"\d+(?:\.\d+)+(?:[-+~]\d+)*")


def probes(name: bytes) -> tuple[int, ...]:
    """Sixteen numbers of 32 bits."""
    return _PROBES.unpack(blake2b(name, digest_size=64).digest())


def key(path: bytes) -> bytes:
    """The path without version numbers: what is updated wants the place of what it was."""
    return _VERSION.sub(b"#", path)


def coarse(number: int) -> int:
    """`number` rounded up to an eighth of its octave: it changes seldom while a tree grows."""
    step = 1 << max(number.bit_length() - 1 - _STEP_BITS, 0)
    return -(-number // step) * step


def bucket(key: int, buckets: int) -> int:
    """A bucket for a key; where their number grows, only what goes to new ones moves.

    Linear hashing (Litwin, 1980): of twice as many buckets as there may be, those that do not exist
    yet are the ones that they will be split from.
    """
    size = 1 << (buckets - 1).bit_length()
    found = key & (size - 1)
    return found if found < buckets else found & (size // 2 - 1)
