"""Reads the manifest of version 1, in which the whole disk stood beside the triple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1
_FILES = ("machine", "kernel", "ramdisk", "disk")
_CHECKS = {"triple": ("verification", _FILES[:3]), "disk": ("disk_verification", _FILES[3:])}


def upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """The same build as a document of version 2. KeyError or TypeError when `old` is no manifest.

    What version 1 did not say is not made up: the files a check booted are those of the manifest.
    """
    gone = {*_FILES, "stages", *(field for field, _ in _CHECKS.values())}
    new = {name: value for name, value in old.items() if name not in gone}
    new["version"] = 2
    new["artifacts"] = [_artifact(role, old[role]) for role in _FILES if old.get(role) is not None]
    new["checks"] = [
        {
            **old[field],
            "target": target,
            "artifacts": {role: old[role]["sha256"] for role in roles if old.get(role)},
        }
        for target, (field, roles) in _CHECKS.items()
        if old.get(field) is not None
    ]
    new["steps"] = old["stages"]
    return new


def _artifact(role: str, record: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {("size" if name == "bytes" else name): value for name, value in record.items()}
    return {"role": role, "format": "raw", **renamed}
