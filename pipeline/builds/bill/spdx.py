"""The bill of materials as SPDX 2.3 (ISO/IEC 5962), JSON.

Source: the specification of SPDX 2.3 and its JSON schema. The image's files are packages, not
files, because a file must have a SHA-1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from pipeline.builds.bill.licences import is_expression, references
from pipeline.builds.bill.records import WHAT, Bill, Part, Source, derived_id
from pipeline.builds.manifest import ArtifactRecord
from pipeline.core.image import Role

_DOCUMENT = "SPDXRef-DOCUMENT"
_UNKNOWN = "NOASSERTION"
_MANY = re.compile(r"team|group|maintainers|developers|project|list|packag", re.IGNORECASE)


def document(bill: Bill) -> dict[str, Any]:
    """The document: it describes the image's files, the first of which contains the packages."""
    licences: dict[str, dict[str, Any]] = {}
    packages = [
        *(_artifact(bill, record) for record in bill.artifacts),
        *(_part(part, licences) for part in bill.parts),
        *(_source(source) for source in bill.sources),
    ]
    content: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": bill.name,
        "creationInfo": {
            "created": bill.created,
            "creators": [f"Tool: image-pipeline-{bill.product}"],
        },
        "packages": packages,
        "relationships": [*_relationships(bill)],
    }
    if licences:
        content["hasExtractedLicensingInfos"] = [licences[key] for key in sorted(licences)]
    return {**content, "documentNamespace": f"urn:uuid:{derived_id(content)}"}


def _artifact(bill: Bill, record: ArtifactRecord) -> dict[str, Any]:
    comment = f"{WHAT[record.role]}; {record.format}, {record.size} bytes"
    if record is bill.artifacts[0]:
        if bill.unknown:
            comment += f"; what it contains is not known: {bill.unknown}"
        else:
            comment += f"; {bill.unowned} of its files belong to no package"
    version = bill.kernel_version if record.role in (Role.KERNEL, Role.RAMDISK) else ""
    return {
        **_package(_artifact_id(record), record.file, version, "FILE"),
        "packageFileName": record.file,
        "checksums": [{"algorithm": "SHA256", "checksumValue": record.sha256}],
        "comment": comment,
    }


def _part(part: Part, licences: dict[str, dict[str, Any]]) -> dict[str, Any]:
    package = part.package
    found = {
        **_package(_id(part.ref), package.name, package.version, ""),
        "licenseDeclared": _licence(package.licence, licences),
        "externalRefs": [_locator(part.purl)],
    }
    if vendor := _vendor(package.vendor):
        found["supplier"] = vendor
    return found


def _source(source: Source) -> dict[str, Any]:
    found = _package(_id(source.ref), source.name, source.version, "SOURCE")
    return {**found, "externalRefs": [_locator(source.purl)]}


def _package(ref: str, name: str, version: str, purpose: str) -> dict[str, Any]:
    found = {"SPDXID": ref, "name": name, "downloadLocation": _UNKNOWN, "filesAnalyzed": False}
    if version:
        found["versionInfo"] = version
    if purpose:
        found["primaryPackagePurpose"] = purpose
    return found


def _locator(purl: str) -> dict[str, str]:
    return {
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    }


def _licence(text: str, licences: dict[str, dict[str, Any]]) -> str:
    """The expression, or a reference to the vendor's own words, which are added to `licences`."""
    if not text:
        return _UNKNOWN
    if is_expression(text):
        for ref in references(text):
            licences[ref] = {
                "licenseId": ref,
                "extractedText": f"{ref}: named in the package database, which has no text of it",
            }
        return text
    ref = f"LicenseRef-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    licences[ref] = {"licenseId": ref, "extractedText": text, "name": _line(text)}
    return ref


def _vendor(text: str) -> str:
    """Such as "Person: Jane Doe (jane@example.org)", of dpkg's "Jane Doe <jane@example.org>"."""
    name, _, mail = _line(text).partition("<")
    name, mail = name.strip().replace("(", "[").replace(")", "]"), mail.strip(" >")
    if not name:
        return ""
    kind = "Person" if mail and not _MANY.search(text) else "Organization"
    return f"{kind}: {name} ({mail})" if "@" in mail else f"{kind}: {name}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _relationships(bill: Bill) -> Iterator[dict[str, str]]:
    root = _artifact_id(bill.artifacts[0])
    for record in bill.artifacts:
        yield _relation(_DOCUMENT, "DESCRIBES", _artifact_id(record))
        if record.role is Role.DISK:
            for other in bill.artifacts:
                if other is not record:
                    yield _relation(_artifact_id(record), "GENERATED_FROM", _artifact_id(other))
    if bill.unknown:
        yield {**_relation(root, "CONTAINS", _UNKNOWN), "comment": bill.unknown}
    for part in bill.parts:
        yield _relation(root, "CONTAINS", _id(part.ref))
        if part.source_ref:
            yield _relation(_id(part.ref), "GENERATED_FROM", _id(part.source_ref))
        for needed in part.depends:
            yield _relation(_id(part.ref), "DEPENDS_ON", _id(needed))


def _relation(element: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": other}


def _id(ref: str) -> str:
    return f"SPDXRef-{ref}"


def _artifact_id(record: ArtifactRecord) -> str:
    return f"SPDXRef-{record.role}"
