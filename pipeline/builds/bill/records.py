"""What an image is made of, as any form of a bill of materials tells it.

Pure: from a manifest and an inventory, nothing read and nothing written. The same records give the
same bill, in the same order, wherever and whenever.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.builds.bill.purl import purl, source_purl
from pipeline.builds.manifest import ArtifactRecord, Manifest
from pipeline.core.image import Role
from pipeline.guest.inventory import Inventory, Package

_NAMESPACE = uuid.UUID("6a0f6a0e-6f0b-5d0e-9d3c-0f6f2c1b7e55")
"""Of all identifiers that are derived from content; never to be changed."""
_NO_INVENTORY = "nobody could tell what the root file system holds"
WHAT = {
    Role.MACHINE: "machine image: the root file system",
    Role.KERNEL: "the kernel that starts it",
    Role.RAMDISK: "the ramdisk that starts it",
    Role.DISK: "bootable whole disk made from machine image, kernel and ramdisk",
}


@dataclass(frozen=True)
class Part:
    """An installed package.

    ref: unique in the bill, of letters, digits, "." and "-". source_ref: that of its source
    package, "" where none is known. depends: refs of the packages that it needs.
    """

    package: Package
    ref: str
    purl: str
    source_ref: str
    depends: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A source package that parts were built from."""

    name: str
    version: str
    ref: str
    purl: str


@dataclass(frozen=True)
class Bill:
    """artifacts: in the order of `WHAT`, so that the one that holds the packages comes first.

    unknown: why there are no parts; "" where they are all that the package manager knows. unowned:
    files of the root that belong to no part. created: UTC, ISO 8601.
    """

    name: str
    product: str
    created: str
    artifacts: tuple[ArtifactRecord, ...]
    system: Mapping[str, str]
    parts: tuple[Part, ...]
    sources: tuple[Source, ...]
    unknown: str
    unowned: int
    kernel_version: str


def bill_of(manifest: Manifest, inventory: Inventory | None, epoch: str | None = None) -> Bill:
    """The bill of a finished build. inventory: None where there is none.

    epoch: the date to give in place of the build's own, UTC, ISO 8601; by default that of what the
    build is made of, where the manifest has one.
    """
    known = manifest.inputs.epoch if manifest.inputs is not None else None
    parts, sources = _parts(inventory) if inventory is not None else ((), ())
    files = [] if inventory is None else [e for e in inventory.entries if e.kind != "d"]
    return Bill(
        name=manifest.name,
        product=manifest.product,
        created=epoch or known or manifest.created,
        # The disk in another format has the same content.
        artifacts=tuple(
            sorted(
                (record for record in manifest.artifacts if record.format == "raw"),
                key=lambda record: [*WHAT].index(record.role),
            )
        ),
        system={} if inventory is None else dict(sorted(inventory.system.items())),
        parts=parts,
        sources=sources,
        unknown=_NO_INVENTORY if inventory is None else inventory.unknown,
        unowned=sum(entry.owner < 0 for entry in files),
        kernel_version=manifest.boot.kernel_version,
    )


def _parts(inventory: Inventory) -> tuple[tuple[Part, ...], tuple[Source, ...]]:
    manager, system = inventory.manager, inventory.system
    refs = [reference("package", *package[:3]) for package in inventory.packages]
    sources: dict[str, Source] = {}
    parts: dict[str, Part] = {}  # a database may hold a package twice
    for package, ref in zip(inventory.packages, refs, strict=True):
        origin = ""
        if package.source:
            origin = reference("source", package.source, package.source_version)
            sources[origin] = Source(
                package.source,
                package.source_version,
                origin,
                source_purl(package, manager, system),
            )
        parts[ref] = Part(
            package=package,
            ref=ref,
            purl=purl(package, manager, system),
            source_ref=origin,
            depends=tuple(sorted({refs[i] for i in package.depends} - {ref})),
        )
    ordered = sorted(parts.values(), key=lambda part: part.package[:3])
    return tuple(ordered), tuple(sorted(sources.values(), key=lambda s: (s.name, s.version)))


def reference(kind: str, *words: str) -> str:
    """An identifier for these words: readable, and another one for other words.

    Of letters, digits, "." and "-", which is what SPDX allows.
    """
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]
    return f"{kind}-{re.sub(r'[^A-Za-z0-9.]+', '-', words[0])[:80]}-{digest}"


def derived_id(document: Mapping[str, Any]) -> uuid.UUID:
    """A UUID of the document's content (RFC 9562, version 5): other content, other id."""
    text = json.dumps(document, sort_keys=True)
    return uuid.uuid5(_NAMESPACE, hashlib.sha256(text.encode()).hexdigest())
