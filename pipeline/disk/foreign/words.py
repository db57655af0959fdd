"""How the checks of foreign formats read numbers and say no."""

from __future__ import annotations

from pipeline.core.errors import DiskError, InputError
from pipeline.disk.blocks.source import Source


def refused(source: Source, why: str, next_step: str = "") -> InputError:
    """The image is sound, but not to be used as it is."""
    step = next_step or "Convert it yourself, if you trust it: qemu-img convert -O qcow2"
    return InputError("use the disk", source.name, why=why, next_step=step)


def broken(source: Source, form: str, why: str) -> DiskError:
    """The image is damaged or cut off."""
    return DiskError(
        f"read the {form} image", source.name, why=why, next_step="Check that it was copied whole"
    )


def shown(name: str) -> str:
    """A name that a header holds, for people: short and on one line."""
    clean = "".join(c if c.isprintable() else "?" for c in name)
    return clean if len(clean) <= 120 else clean[:120] + "..."


def little(data: bytes, at: int, width: int) -> int:
    """A number, its lowest byte first."""
    return int.from_bytes(data[at : at + width], "little")


def big(data: bytes, at: int, width: int) -> int:
    """A number, its highest byte first."""
    return int.from_bytes(data[at : at + width], "big")
