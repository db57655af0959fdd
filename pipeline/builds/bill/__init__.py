"""The documents beside a manifest: bills of materials and provenance.

They are derived from the manifest and the inventory and hold nothing else, so that they can be
written anew at any time and come out the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.builds.bill import cyclonedx, provenance, spdx
from pipeline.builds.bill.records import Bill, bill_of
from pipeline.builds.manifest import Manifest, read_manifest
from pipeline.builds.workspace import LOCK
from pipeline.core.errors import DiskError
from pipeline.core.image import Role
from pipeline.core.material import Material
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory
from pipeline.host.files import Replacements
from pipeline.host.locks import exclusive
from pipeline.host.sparse import image_file

Form = Literal["spdx", "cyclonedx", "provenance"]
FORMS: tuple[Form, ...] = get_args(Form)

_BILLS: Mapping[Form, Callable[[Bill], dict[str, Any]]] = {
    "spdx": spdx.document,
    "cyclonedx": cyclonedx.document,
}


def file_names(name: str) -> dict[Form, str]:
    """What the documents of the build `name` are called in its directory."""
    return {
        "spdx": f"{name}.spdx.json",
        "cyclonedx": f"{name}.cdx.json",
        "provenance": "provenance.json",
    }


def documents(
    manifest: Manifest,
    contents: Inventory | None,
    *,
    materials: Iterable[Material] = (),
    epoch: str | None = None,
) -> dict[Form, str]:
    """The text of each document.

    contents: what the root is made of, None where nobody can tell. materials: what went in besides
    what the manifest lists. epoch: the date of the bills in place of the build's.
    """
    bill = bill_of(manifest, contents, epoch)
    texts = {form: _text(make(bill)) for form, make in _BILLS.items()}
    names = file_names(manifest.name)
    about = {names[form]: text for form, text in texts.items()}
    return {**texts, "provenance": _text(provenance.statement(manifest, materials, about))}


def read_documents(directory: Path) -> dict[Form, str]:
    """The documents of the finished build in `directory`, made anew from what it wrote down.

    InputError when there is no finished build.
    """
    return derive(read_manifest(directory), directory)


def derive(manifest: Manifest, directory: Path) -> dict[Form, str]:
    """The documents of a build by its manifest, whose inventory and image lie in `directory`.

    Where an earlier release took the inventory, which knew less, the machine image is looked
    through again.
    """
    contents = inventory.read(directory / inventory.FILE)
    if contents is None or contents.schema < inventory.SCHEMA:
        contents = _taken_again(manifest, directory) or contents
    return documents(manifest, contents)


def rewrite(directory: Path) -> dict[Form, Path]:
    """Write the documents of the finished build in `directory` anew; where each of them is.

    InputError when there is no finished build, BusyError while it is being built.
    """
    with exclusive(directory / LOCK, f"the build {directory.name}"):
        manifest = read_manifest(directory)
        texts = derive(manifest, directory)
        paths = {form: directory / name for form, name in file_names(manifest.name).items()}
        with Replacements() as new:
            for form, path in paths.items():
                new.add(path, texts[form])
            new.commit()
    return paths


def _taken_again(manifest: Manifest, directory: Path) -> Inventory | None:
    """What the machine image holds; None unless it is there and the very one of the manifest."""
    record = manifest.find(Role.MACHINE)
    if record is None:
        return None
    path = directory / record.file
    try:
        if image_file(Role.MACHINE, path).sha256 != record.sha256:
            return None
        return inventory.take(path, manifest.root.filesystem)
    except (OSError, DiskError):
        return None


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
