"""registrations.json beside the manifest: which images a build has on which cloud."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.image import Registration
from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive

FILE = "registrations.json"
RECORD_SCHEMA = 1


def add_to_record(path: Path, registration: Registration) -> None:
    """Add a registration to registrations.json, replacing the entry of the same image."""
    entry = {key: value for key, value in asdict(registration).items() if key != "created"}
    with _locked(path):
        others = [e for e in read_record(path) if not _same_image(e, entry)]
        _write(path, [*others, entry])


def remove_from_record(path: Path, registration: Registration) -> None:
    """Take a withdrawn registration out of registrations.json, if it is there."""
    with _locked(path):
        entries = read_record(path)
        others = [e for e in entries if not _same_image(e, asdict(registration))]
        if others != entries:
            _write(path, others)


def read_record(path: Path) -> list[dict[str, Any]]:
    """The entries of registrations.json; none when there is no file yet."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError("read", path, why=str(error), next_step="Move it away") from error
    entries: list[dict[str, Any]] = document.get("registrations", [])
    return entries


def registrations(path: Path) -> list[Registration]:
    """The entries of registrations.json as records, newest last."""
    known = {field.name for field in fields(Registration)} - {"created"}
    try:
        return [
            Registration(**{k: v for k, v in entry.items() if k in known}, created=False)
            for entry in read_record(path)
        ]
    except (TypeError, AttributeError) as error:
        raise InputError(
            "read", path, why=f"an entry is incomplete: {error}", next_step="Move it away"
        ) from error


def superseded(
    generations: Sequence[Registration], newest: Registration, keep: int
) -> list[Registration]:
    """Which of `generations` (newest first) go so that `keep` stay, `newest` being one of them.

    Triples and whole disks of one name are counted apart. Beside one that was just made, later
    ones are another upload's, which keeps and prunes for itself: both would delete each other's.
    """
    alike = [g for g in generations if bool(g.kernel_id) == bool(newest.kernel_id)]
    others = [
        g
        for g in alike
        if g.machine_id != newest.machine_id
        and not (newest.created and g.generation > newest.generation > "")
    ]
    return others[max(keep, 1) - 1 :]


def _same_image(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(word) == other.get(word) for word in ("cloud", "machine_id"))


def _locked(path: Path) -> AbstractContextManager[None]:
    return exclusive(path.with_name(f".{path.name}.lock"), f"the record {path}", wait=60)


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    document = {"schema": RECORD_SCHEMA, "registrations": entries}
    write_whole(path, json.dumps(document, indent=2) + "\n")
