"""A reader of simplestreams mirrors written from the format's description, not from our writer.

It does what sstream-query and sstream-mirror do: index, then each products file of the datatype
"image-downloads", then items with the attributes of their version, product and file merged in.
"""

from __future__ import annotations

import hashlib
import json
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any


def read_mirror(top: Path, content_id: str | None = None) -> list[dict[str, str]]:
    """Every item of every version, newest version last; [] for a mirror with no index yet.

    Each item is its own texts over those of its version, product and products file, with
    "product_name", "version_name", "item_name" and, as text, "size". Raises AssertionError for
    whatever the format forbids, and for a file whose length or sha256 is not the announced one.
    """
    path = top / "streams" / "v1" / "index.json"
    if not path.exists():
        return []
    index = json.loads(path.read_text())
    assert index["format"] == "index:1.0", index["format"]
    parsedate_to_datetime(index["updated"])
    items = []
    for name, entry in index["index"].items():
        if content_id not in (None, name) or entry["datatype"] != "image-downloads":
            continue
        assert entry["format"] == "products:1.0", entry["format"]
        parsedate_to_datetime(entry["updated"])
        document = json.loads((top / _relative(entry["path"])).read_text())
        assert document["format"] == "products:1.0", document["format"]
        assert document["content_id"] == name, document["content_id"]
        # An index may be older than its products file, never newer: it is written last.
        assert set(entry["products"]) <= set(document["products"]), entry["products"]
        items += _items(top, document)
    return items


def _items(top: Path, document: dict[str, Any]) -> list[dict[str, str]]:
    items = []
    for product_name, product in document["products"].items():
        for version_name in sorted(product["versions"]):
            version = product["versions"][version_name]
            for item_name, item in version["items"].items():
                merged = _texts(document) | _texts(product) | _texts(version) | _texts(item)
                merged |= {
                    "product_name": product_name,
                    "version_name": version_name,
                    "item_name": item_name,
                    "size": str(item["size"]),
                }
                _check(top / _relative(item["path"]), item)
                items.append(merged)
    return items


def _texts(mapping: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in mapping.items() if isinstance(value, str)}


def _check(path: Path, item: dict[str, Any]) -> None:
    assert path.stat().st_size == item["size"], path
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == item["sha256"], path


def _relative(path: str) -> str:
    assert not path.startswith("/"), path
    assert ".." not in PurePosixPath(path).parts, path
    return path
