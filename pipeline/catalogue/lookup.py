"""Files of the local catalogue by the id of what they were registered as."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from pipeline.catalogue import simplestreams as streams
from pipeline.core import settings
from pipeline.core.architecture import Architecture, from_stream
from pipeline.core.errors import InputError
from pipeline.core.resources import COMMAND


@dataclass(frozen=True)
class RegisteredFiles:
    """A generation of the local catalogue: machine, kernel and ramdisk, or disk alone.

    properties: the image properties it was registered with. architecture: as uname(1) names it.
    """

    name: str
    command_line: str
    files: dict[str, Path]
    properties: dict[str, str] = field(default_factory=dict)
    architecture: Architecture = "x86_64"


_ROLES = {"root.img": "machine", "vmlinuz": "kernel", "initrd": "ramdisk", "disk": "disk"}


def local_files(identity: str) -> RegisteredFiles:
    """What is registered under that machine id; InputError when nothing is."""
    directory = settings.catalogue_dir()
    try:
        document = streams.Products.model_validate_json(
            (directory / streams.PRODUCTS_PATH).read_bytes()
        )
    except (OSError, ValidationError):
        document = streams.empty("")
    for product in document.products.values():
        for version in product.versions.values():
            if identity in {item.id for item in version.items.values()}:
                paths = {_ROLES[name]: directory / i.path for name, i in version.items.items()}
                return RegisteredFiles(
                    product.name,
                    version.command_line,
                    paths,
                    version.properties,
                    from_stream(product.arch),
                )
    raise InputError(
        "find the image",
        identity,
        why=f"the catalogue {directory} has none of that id",
        next_step=f"`{COMMAND} list` shows what is registered where",
    )
