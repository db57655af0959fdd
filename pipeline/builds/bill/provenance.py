"""How a build came to be, as a statement of in-toto about its files.

Source: in-toto Attestation Framework, Statement v1; SLSA 1.0, Provenance v1. The build type and its
parameters are described in docs/reference/provenance.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipeline.builds.bill.records import derived_id
from pipeline.builds.manifest import Manifest
from pipeline.core.material import Material

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:x-image-pipeline:build:1"
"""Changes when what stands in the parameters would be misread."""
_UNKNOWN_BUILDER = "urn:x-image-pipeline:builder:unknown"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def statement(
    manifest: Manifest,
    materials: Iterable[Material] = (),
    byproducts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The statement about all files of a finished build.

    materials: what went in besides what the manifest lists, such as packages. byproducts: names and
    texts of documents about the same build.
    """
    known = manifest.inputs
    all_materials = [*(known.materials if known is not None else ()), *materials]
    subject = [{"name": r.file, "digest": {"sha256": r.sha256}} for r in manifest.artifacts]
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": _external(manifest),
        "internalParameters": _internal(manifest),
        "resolvedDependencies": [
            _descriptor(each) for each in sorted(all_materials, key=lambda m: (m.name, m.sha256))
        ],
    }
    started, finished = times(manifest)
    invocation = derived_id({"subject": subject, "finished": finished, "definition": definition})
    details = {
        "builder": {
            "id": known.builder if known is not None else _UNKNOWN_BUILDER,
            "version": {"image-pipeline": manifest.product, **_told(manifest.tools)},
        },
        "metadata": {
            "invocationId": f"urn:uuid:{invocation}",
            "startedOn": started,
            "finishedOn": finished,
        },
        "byproducts": [
            {"name": name, "digest": {"sha256": hashlib.sha256(text.encode()).hexdigest()}}
            for name, text in sorted((byproducts or {}).items())
        ],
    }
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }


def times(manifest: Manifest) -> tuple[str, str]:
    """When the run that wrote the build down began and ended, UTC, ISO 8601."""
    ends = [step.begun + step.seconds for step in manifest.steps.values() if step.begun is not None]
    finished = datetime.strptime(manifest.created, _TIME)
    started = finished - timedelta(seconds=round(max(ends, default=0)))
    return started.strftime(_TIME), manifest.created


def _external(manifest: Manifest) -> dict[str, Any]:
    words = dict(manifest.inputs.parameters) if manifest.inputs is not None else {}
    return {"recipe": manifest.recipe.name, **words}


def _internal(manifest: Manifest) -> dict[str, Any]:
    return {
        "inputsDigest": manifest.recipe.digest,
        "source": manifest.source.model_dump(mode="json", exclude={"copied"}),
        "root": manifest.root.model_dump(mode="json"),
        "kernel": {"version": manifest.boot.kernel_version, "chosen": manifest.boot.chosen},
        "architecture": manifest.boot.architecture,
        "commandLine": manifest.boot.command_line,
        "edits": manifest.customization.backend,
        "acceleration": manifest.acceleration,
    }


def _descriptor(material: Material) -> dict[str, Any]:
    found: dict[str, Any] = {"name": material.name, "digest": {"sha256": material.sha256}}
    if material.uri:
        found["uri"] = material.uri
    if material.note:
        found["annotations"] = {"note": material.note}
    return found


def _told(tools: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in sorted(tools.items()) if version}
