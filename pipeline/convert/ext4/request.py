"""What one run of this package is asked for and answers, as JSON of plain values.

Names that are not UTF-8 are written with surrogates, as os.fsdecode does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from pipeline.convert.ext4.contents import digest_tree
from pipeline.convert.ext4.geometry import Parameters
from pipeline.convert.ext4.nodes import needed_bytes
from pipeline.convert.ext4.tarball import write_archive
from pipeline.convert.ext4.tree import Entry, scan
from pipeline.convert.ext4.writer import write_image
from pipeline.core.errors import HostError
from pipeline.host.files import finish, naming
from pipeline.host.sparse import digests


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked for.

    request: "layers": directories, topmost first; "extra": entries by the names of the fields of
    `Entry`; "epoch": seconds; "digest": whether to tell that of the tree; "image": none, or the
    fields of `Parameters`, "to" (a path or a descriptor) and "sha256" (whether to tell that); a
    size of 0 is as large as needed; "archive": none, or "to". Answer: "entries": how many;
    "digest"; "needed": bytes that an image should have, where its size was 0; "image": the fields
    of `Written`, "sha256"; "archive": "size".
    """
    entries = scan(
        [Path(layer) for layer in request["layers"]],
        [_extra(each) for each in request.get("extra", ())],
    )
    epoch = int(request["epoch"])
    result: dict[str, Any] = {"entries": len(entries)}
    if request.get("digest"):
        result["digest"] = digest_tree(entries)
    image = request.get("image")
    if image:
        fields = {name: value for name, value in image.items() if name not in ("to", "sha256")}
        fields |= {name: UUID(fields[name]) for name in ("uuid", "hash_seed")}
        least = fields["size"] or 1 << 30
        parameters = Parameters(**fields | {"size": least}, epoch=epoch)
        if not fields["size"]:
            result["needed"] = needed_bytes(entries, parameters)
            parameters = Parameters(**fields | {"size": result["needed"]}, epoch=epoch)
        with _target(image["to"]) as (descriptor, path):
            result["image"] = asdict(write_image(entries, descriptor, parameters))
            if image.get("sha256"):
                result["image"]["sha256"] = digests(path, ["sha256"])["sha256"]
    archive = request.get("archive")
    if archive:
        with (
            _target(archive["to"]) as (descriptor, _),
            os.fdopen(descriptor, "wb", closefd=False) as file,
        ):
            result["archive"] = {"size": write_archive(entries, file, epoch)}
    return result


def _extra(fields: Mapping[str, Any]) -> Entry:
    known = dict(fields)
    for name in ("path", "target"):
        if name in known:
            known[name] = os.fsencode(known[name])
    if "rdev" in known:
        major, minor = known["rdev"]
        known["rdev"] = (int(major), int(minor))
    return Entry(**known)


@contextlib.contextmanager
def _target(to: int | str) -> Iterator[tuple[int, Path]]:
    """An empty file to write to, and a path to read it by: a descriptor's own, or a file that is
    whole under its name or not there. HostError where it cannot be written."""
    try:
        if isinstance(to, int):
            os.ftruncate(to, 0)
            with naming(Path(f"/proc/self/fd/{to}").readlink()):
                yield to, Path(f"/proc/self/fd/{to}")
            return
        path = Path(to)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(partial, flags, 0o644)
            try:
                with naming(path):
                    yield descriptor, partial
            finally:
                os.close(descriptor)
            finish(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(
            "write the image or archive",
            str(error.filename or ""),
            why=f"{error.strerror}",
            next_step="Free some space there, or choose another directory",
        ) from error
