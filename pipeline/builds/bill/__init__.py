"""The documents beside a manifest: bills of materials and provenance.

They are derived from the manifest and the inventory and hold nothing else, so that they can be
written anew at any time and come out the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pipeline.builds.bill import cyclonedx, provenance, spdx
from pipeline.builds.bill.records import Bill, bill_of
from pipeline.builds.manifest import Manifest, read_manifest
from pipeline.builds.workspace import LOCK, Document, document_names
from pipeline.core.errors import DiskError
from pipeline.core.image import Role
from pipeline.core.material import Material
from pipeline.guest import inventory
from pipeline.guest.inventory import Inventory
from pipeline.host.files import Replacements
from pipeline.host.locks import exclusive
from pipeline.host.sparse import image_file

FORMS: tuple[Document, ...] = get_args(Document)
_BILLS: Mapping[Document, Callable[[Bill], dict[str, Any]]] = {
    "spdx": spdx.document,
    "cyclonedx": cyclonedx.document,
}


def documents(
    manifest: Manifest,
    contents: Inventory | None,
    *,
    materials: Iterable[Material] = (),
    epoch: str | None = None,
) -> dict[Document, str]:
    """The text of each document.

    contents: what the root is made of, None where nobody can tell. materials: what went in besides
    what the manifest lists. epoch: the date of the bills in place of the build's.
    """
    bill = bill_of(manifest, contents, epoch)
    texts = {form: _text(make(bill)) for form, make in _BILLS.items()}
    names = document_names(manifest.name)
    about = {names[form]: text for form, text in texts.items()}
    statement = provenance.statement(manifest, materials, about)
    return {**texts, "provenance": json.dumps(statement, indent=1, sort_keys=True) + "\n"}


def read_documents(directory: Path) -> dict[Document, str]:
    """The documents of the finished build in `directory`, made anew from what it wrote down.

    InputError when there is no finished build.
    """
    return derive(read_manifest(directory), directory)


def derive(manifest: Manifest, directory: Path) -> dict[Document, str]:
    """The documents of a build by its manifest, whose inventory and image lie in `directory`.

    Where an earlier release took the inventory, which knew less, the machine image is looked
    through again.
    """
    contents = inventory.read(directory / inventory.FILE)
    if contents is None or contents.schema < inventory.SCHEMA:
        contents = _taken_again(manifest, directory) or contents
    return documents(manifest, contents)


def rewrite(directory: Path) -> dict[Document, Path]:
    """Write the documents of the finished build in `directory` anew; where each of them is.

    InputError when there is no finished build, BusyError while it is being built.
    """
    with exclusive(directory / LOCK, f"the build {directory.name}"):
        manifest = read_manifest(directory)
        texts = derive(manifest, directory)
        paths = {form: directory / name for form, name in document_names(manifest.name).items()}
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
    """One line a member of each list, which `diff` and people read, and json writes fast."""
    return "{\n" + ",\n".join(_lines(document)) + "\n}\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    for name in sorted(document):
        value = document[name]
        if isinstance(value, list) and value:
            members = ",\n  ".join(json.dumps(member, sort_keys=True) for member in value)
            yield f' "{name}": [\n  {members}\n ]'
        else:
            yield f' "{name}": {json.dumps(value, sort_keys=True)}'
