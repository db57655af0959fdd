"""The two checksums of ext4 that zlib does not have."""

from __future__ import annotations


def _table(polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _table(0x82F63B78)  # Castagnoli's, reflected (RFC 3720, appendix B.4)
_CRC16 = _table(0xA001)  # the kernel's lib/crc16.c


def crc32c(data: bytes, value: int = 0xFFFFFFFF) -> int:
    """CRC-32C as ext4 uses it: no final inversion, so that values chain."""
    table = _CRC32C
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value


def crc16(data: bytes, value: int = 0xFFFF) -> int:
    """CRC-16 as ext4's group descriptors use it."""
    table = _CRC16
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value
