"""Has images and archives of a layered root made where the ids of the guest are mapped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.convert.ext4.geometry import Parameters
from pipeline.convert.ext4.tree import Entry
from pipeline.convert.ext4.writer import Written
from pipeline.core.errors import HostError, InputError, PipelineError
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.files import finish
from pipeline.host.isolation import Isolation, run_mapped

_SECONDS = 3600.0  # a bound; a full server takes seconds
_ERRORS: dict[str, type[PipelineError]] = {"input": InputError, "host": HostError}


@dataclass(frozen=True)
class Made:
    """What was made. archive_size: bytes.

    digest: sha256 of the tree, sha256: of the image; each "" unless asked for.
    """

    entries: int
    digest: str = ""
    image: Written | None = None
    sha256: str = ""
    archive_size: int = 0


def make_image(
    isolation: Isolation,
    layers: Sequence[Path],
    *,
    tools: Tools,
    epoch: int,
    image: tuple[Path, Parameters] | None = None,
    archive: Path | None = None,
    extra: Sequence[Entry] = (),
    digest: bool = False,
    sha256: bool = False,
) -> Made:
    """Make an ext4 image, a tar.gz, or both of the layers, topmost first.

    Each appears under its name when it is whole. epoch: seconds since 1970, the latest time in
    either. InputError where the tree does not fit, HostError where something cannot be read or
    written.
    """
    request: dict[str, Any] = {
        "layers": [os.fspath(layer) for layer in layers],
        "epoch": epoch,
        "digest": digest,
        "extra": [_plain(entry) for entry in extra],
    }
    with ExitStack() as stack:
        files: list[tuple[Path, Path]] = []

        def target(path: Path) -> int:
            partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
            files.append((partial, path))
            stack.callback(partial.unlink, missing_ok=True)
            file = stack.enter_context(partial.open("w+b"))
            return file.fileno()

        if image:
            path, parameters = image
            fields = asdict(parameters) | {
                "uuid": str(parameters.uuid),
                "hash_seed": str(parameters.hash_seed),
                "to": target(path),
                "sha256": sha256,
            }
            del fields["epoch"]
            request["image"] = fields
        if archive:
            request["archive"] = {"to": target(archive)}
        answer = _asked(isolation, request, tools)
        for partial, path in files:
            finish(partial, path)
    written = answer.get("image")
    told = written.pop("sha256", "") if written else ""
    return Made(
        answer["entries"],
        answer.get("digest", ""),
        Written(**written) if written else None,
        told,
        answer.get("archive", {}).get("size", 0),
    )


def _asked(isolation: Isolation, request: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """What the program answers to a request; its error is raised here."""
    done = run_mapped(
        isolation,
        # -P: a module in the current directory must not stand in for one of ours.
        [sys.executable, "-P", "-m", "pipeline.convert.ext4"],
        tools=tools,
        timeout=_SECONDS,
        env={"PYTHONPATH": os.fspath(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
        input=json.dumps(request).encode(),
        pass_fds=[request[kind]["to"] for kind in ("image", "archive") if kind in request],
        attempted="make an image of the tree",
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    if error := answer.get("error"):
        raise _ERRORS.get(error.pop("kind"), HostError)(**error)
    return answer


def _plain(entry: Entry) -> dict[str, Any]:
    """An entry without a file of the host, as JSON keeps it."""
    return {
        "path": os.fsdecode(entry.path),
        "kind": entry.kind,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
        "rdev": entry.rdev,
        "target": os.fsdecode(entry.target),
    }
