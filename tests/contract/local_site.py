"""The local catalogue under the contract; read by tests/fixtures/simplestreams_reader.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline.clouds.local import LocalCloud
from tests.contract.site import Seen, Site
from tests.fixtures.simplestreams_reader import read_mirror

_ROLES = {"boot-kernel": "kernel", "boot-initrd": "ramdisk", "root-image": "machine"}
_FOREIGN = "com.example:images"
_DATE = "Sat, 21 Nov 2026 05:40:00 +0000"


def local_site(directory: Path) -> Site:
    def seen() -> list[Seen]:
        # A kernel that two triples share is one image with one id.
        return list(
            dict.fromkeys(
                Seen(
                    item["id"],
                    _ROLES[item["ftype"]],
                    item.get("kernel_id", ""),
                    item.get("ramdisk_id", ""),
                )
                for item in read_mirror(directory)
            )
        )

    def data(image_id: str) -> bytes | None:
        paths = {item["id"]: item["path"] for item in read_mirror(directory)}
        return (directory / paths[image_id]).read_bytes()

    return Site(
        kind="local",
        word=f"local:{directory}",
        open=lambda: LocalCloud(f"local:{directory}", directory),
        visible=seen,
        everything=seen,
        data=data,
        foreign=lambda name: _add_publisher(directory, name),
    )


def _add_publisher(directory: Path, name: str) -> str:
    """Another publisher's stream on the same mirror, with a root image of that name."""
    content = b"somebody else's root"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "theirs.img").write_bytes(content)
    item = {
        "ftype": "root-image",
        "path": "theirs.img",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "id": "ami-0123456789abcdef0",
    }
    product = {"arch": "x86_64", "versions": {"20200101": {"pubname": name, "items": {"r": item}}}}
    document = {
        "format": "products:1.0",
        "datatype": "image-downloads",
        "content_id": _FOREIGN,
        "products": {name: product},
    }
    streams = directory / "streams" / "v1"
    streams.mkdir(parents=True, exist_ok=True)
    (streams / "theirs.json").write_text(json.dumps(document))
    entry = {
        "format": "products:1.0",
        "datatype": "image-downloads",
        "path": "streams/v1/theirs.json",
        "updated": _DATE,
        "products": [name],
    }
    path = streams / "index.json"
    index = {"format": "index:1.0", "updated": _DATE, "index": {}}
    if path.exists():
        index = json.loads(path.read_text())
    assert isinstance(index["index"], dict)
    index["index"][_FOREIGN] = entry
    path.write_text(json.dumps(index))
    return str(item["id"])
