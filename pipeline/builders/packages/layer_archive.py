"""A layer as one file, which another user of the host unpacks with ids of his own.

`KEY.DIGEST.tar`: `layer.json` first, then the tree. DIGEST is that of the tree, and is compared
with what was unpacked. The same layer gives the same bytes.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.builders.packages import layers
from pipeline.builders.packages.layers import RECORD, TREE, Filled, Layer, Wish
from pipeline.core.errors import InputError
from pipeline.host.context import Tools
from pipeline.host.files import finish
from pipeline.host.isolation import Isolation, run_mapped

_SECONDS = 3600.0
_MOST_RECORD = 64 << 20  # bytes; a record of 3,000 packages has one


def export(layer: Layer, directory: Path, isolation: Isolation, tools: Tools) -> Path:
    """Write the archive of a layer into `directory`; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"{layer.wish.key}.{layer.shape.digest}.tar"
    # Who made it, when, and with what ids is no part of what it is.
    filled = asdict(Filled(layer.packages, layer.epoch))
    head = {"wish": asdict(layer.wish), "filled": filled, "stacked": layer.stacked}
    partial = directory / f".{final.name}.{os.getpid()}.partial"
    try:
        with tempfile.NamedTemporaryFile("w", dir=tools.scratch) as record:
            json.dump(head, record, sort_keys=True)
            record.flush()
            with partial.open("wb") as out:
                run_mapped(
                    isolation,
                    layers.script("pack", layer.tree, str(out.fileno()), record.name),
                    tools=tools,
                    timeout=_SECONDS,
                    pass_fds=[out.fileno()],
                    attempted=f"write the archive {final}",
                )
        finish(partial, final)
    finally:
        partial.unlink(missing_ok=True)
    return final


def find(directory: Path, key: str) -> Path | None:
    """The archive of the key that lies in the directory."""
    return next(iter(sorted(directory.glob(f"{key}.*.tar"))), None) if directory.is_dir() else None


def unpack(archive: Path, staged: Path, wish: Wish, isolation: Isolation, tools: Tools) -> Filled:
    """Fill `staged`'s tree from an archive; with what, as its record says.

    InputError for an archive of another layer, and for one whose content is not what its name says.
    """
    with archive.open("rb") as file:
        filled = _filled(archive, wish, isolation)
        run_mapped(
            isolation,
            layers.script("unpack", staged / TREE, str(file.fileno())),
            tools=tools,
            timeout=_SECONDS,
            pass_fds=[file.fileno()],
            attempted=f"unpack {archive}",
        )
    found = layers.measure(staged / TREE, isolation, tools).digest
    if archive.name != f"{wish.key}.{found}.tar":
        raise InputError(
            "use", archive, why=f"its content has the digest {found}, not that of its name"
        )
    return filled


def _filled(archive: Path, wish: Wish, isolation: Isolation) -> Filled:
    try:
        with tarfile.open(archive, "r|") as content:
            first = content.next()
            if first is None or first.name != RECORD or first.size > _MOST_RECORD:
                raise InputError("use", archive, why="it is no archive of a layer")
            source = content.extractfile(first)
            head = json.loads(source.read() if source else b"{}")
    except (tarfile.TarError, ValueError) as error:
        raise InputError("use", archive, why=f"it is no archive of a layer: {error}") from error
    if head.get("wish") != json.loads(json.dumps(asdict(wish))):
        raise InputError("use", archive, why="it is the archive of another layer")
    if head.get("stacked") != isolation.overlay:
        raise InputError("use", archive, why="this host stacks layers otherwise")
    return TypeAdapter(Filled).validate_python(head["filled"])
