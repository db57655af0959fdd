"""The bill of materials as CycloneDX 1.6 (ECMA-424), JSON.

Source: the specification of CycloneDX 1.6 and its JSON schema.
"""

from __future__ import annotations

from typing import Any

from pipeline.builds.bill.licences import is_expression
from pipeline.builds.bill.records import WHAT, Bill, Part, Source, derived_id
from pipeline.builds.manifest import ArtifactRecord
from pipeline.core.image import Role

_SYSTEM = "operating-system"


def document(bill: Bill) -> dict[str, Any]:
    """The document: its subject is the image's first file, which the packages are assembled to."""
    first, *others = bill.artifacts
    sources = {source.ref: source for source in bill.sources}
    components = [_artifact(bill, record) for record in others]
    if bill.system:
        components.append(_system(bill))
    components += [_part(part, sources) for part in bill.parts]
    content: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": bill.created,
            "tools": {
                "components": [
                    {"type": "application", "name": "image-pipeline", "version": bill.product}
                ]
            },
            "component": _artifact(bill, first),
        },
        "components": components,
        "dependencies": _dependencies(bill),
        "compositions": _compositions(bill),
    }
    return {**content, "serialNumber": f"urn:uuid:{derived_id(content)}"}


def _artifact(bill: Bill, record: ArtifactRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "file",
        "bom-ref": _artifact_ref(record),
        "name": record.file,
        "description": WHAT[record.role],
        "hashes": [{"alg": "SHA-256", "content": record.sha256}],
        "properties": [
            _property("format", record.format),
            _property("role", record.role),
            _property("size", str(record.size)),
        ],
    }
    if record.role in (Role.KERNEL, Role.RAMDISK):
        found["version"] = bill.kernel_version
    if record is bill.artifacts[0]:
        told = ("unknown", bill.unknown) if bill.unknown else ("unowned-files", str(bill.unowned))
        found["properties"] += [_property(*told)]
    return found


def _system(bill: Bill) -> dict[str, Any]:
    system = bill.system
    found = {"type": _SYSTEM, "bom-ref": _SYSTEM, "name": system.get("ID", "linux")}
    if system.get("VERSION_ID"):
        found["version"] = system["VERSION_ID"]
    if system.get("PRETTY_NAME"):
        found["description"] = system["PRETTY_NAME"]
    return found


def _part(part: Part, sources: dict[str, Source]) -> dict[str, Any]:
    package = part.package
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": part.ref,
        "name": package.name,
        "version": package.version,
        "purl": part.purl,
    }
    if package.vendor:
        found["supplier"] = {"name": package.vendor}
    if package.licence:
        named = {"license": {"name": package.licence}}
        found["licenses"] = [
            {"expression": package.licence} if is_expression(package.licence) else named
        ]
    if part.source_ref:
        source = sources[part.source_ref]
        ancestor = {"type": "library", "name": source.name, "purl": source.purl}
        found["pedigree"] = {"ancestors": [{**ancestor, "version": source.version}]}
    return found


def _dependencies(bill: Bill) -> list[dict[str, Any]]:
    """Only where the database tells: an empty list would say that a part needs nothing."""
    root = bill.artifacts[0]
    every = [
        # Readers look from the subject downwards for what belongs to it.
        (_artifact_ref(root), [part.ref for part in bill.parts]),
        *(
            (_artifact_ref(r), [_artifact_ref(root)])
            for r in bill.artifacts[1:]
            if r.role is Role.DISK
        ),
        *((part.ref, [*part.depends]) for part in bill.parts),
    ]
    return [{"ref": ref, "dependsOn": needs} for ref, needs in every if needs]


def _compositions(bill: Bill) -> list[dict[str, Any]]:
    """How much of the image the bill tells."""
    aggregate = "unknown" if bill.unknown else "incomplete" if bill.unowned else "complete"
    return [{"aggregate": aggregate, "assemblies": [_artifact_ref(bill.artifacts[0])]}]


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"image-pipeline:{name}", "value": value}


def _artifact_ref(record: ArtifactRecord) -> str:
    return f"artifact-{record.role}"
