"""What the converter knows of a format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.core.events import Meter
from pipeline.core.image import DiskFormat, Format
from pipeline.disk.blocks.source import Source
from pipeline.host.context import Tools

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Options:
    """What else the user may say of the file.

    variant, compression: one of the format's, or "" for its first. name: of the machine in an
    OVA. cpus, memory_mib: what that machine needs. architecture: as uname(1) names it.
    """

    variant: str = ""
    compression: str = ""
    name: str = "disk"
    cpus: int = 1
    memory_mib: int = 1024
    architecture: str = "x86_64"


@dataclass(frozen=True)
class Work:
    """How a disk is written. meter: is told the disk's bytes as they pass."""

    options: Options
    tools: Tools
    meter: Meter


class Write(Protocol):
    """Writes a disk as one new file."""

    def __call__(self, source: Source, target: Path, work: Work) -> None:
        """The source's size is one that the format can have.

        OSError where the file cannot be written, DiskError where the source cannot be read.
        """


@dataclass(frozen=True)
class OutputFormat:
    """One format.

    says: one line for people. suffix: of the file's name. read_as: how the file is opened again.
    multiple: the disk's size is a multiple of this many bytes, and rounded up. most: bytes of the
    largest disk. variants, compressions: what may be chosen, the usual one first -> one line.
    """

    name: Format
    says: str
    suffix: str
    read_as: DiskFormat
    write: Write
    multiple: int = 512
    most: int = 1 << 62
    variants: Mapping[str, str] = field(default_factory=dict)
    compressions: Mapping[str, str] = field(default_factory=dict)
