"""The simplestreams format: an index and a products file that any static web server can publish.

Pure: documents in, documents out. Source: doc/README of simplestreams (formats "index:1.0" and
"products:1.0"); item types are those of MAAS and Ubuntu (boot-kernel, boot-initrd, root-image,
disk1.img). Readers match items by ftype, follow `path` from the mirror's top, check `size` and
`sha256`, and take the version name that sorts last as the newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INDEX_PATH = "streams/v1/index.json"
PRODUCTS_PATH = "streams/v1/image-pipeline.json"
FILES_PATH = "image-pipeline"
CONTENT_ID = "image-pipeline:images"

FTYPES: Mapping[str, str] = {
    "kernel": "boot-kernel",
    "ramdisk": "boot-initrd",
    "machine": "root-image",
    "qcow2": "disk1.img",
    "raw": "disk.raw",
    "vmdk": "disk.vmdk",
    "vhdx": "disk.vhdx",
    "vdi": "disk.vdi",
}
"""Role of an image, or format of a whole disk -> ftype."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(_Document):
    """One file. kernel_id and ramdisk_id link a root image to its kernel and ramdisk."""

    ftype: str
    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    id: str
    kernel_id: str | None = None
    ramdisk_id: str | None = None


class Attributes(_Document):
    """What can change while the bytes stay. Texts, as readers merge only texts into items."""

    command_line: str = ""
    kernel_version: str = ""
    verified: Literal["true", "false"] = "false"
    protected: Literal["true", "false"] = "false"
    visibility: str = "private"
    tags: str = Field(default="", description="separated by commas")
    min_disk_gib: str = "0"
    min_ram_mib: str = "0"
    properties: dict[str, str] = Field(default_factory=dict)


class Version(Attributes):
    """One generation. `key` is identity.content_key."""

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    pubname: str
    items: dict[str, Item]


class Product(_Document):
    """All generations of one recipe. kind: "triple", or "disk" for whole disks."""

    arch: str
    name: str
    kind: Literal["triple", "disk"]
    versions: dict[str, Version]


class Products(_Document):
    """The products file, PRODUCTS_PATH."""

    format: Literal["products:1.0"] = "products:1.0"
    datatype: Literal["image-downloads"] = "image-downloads"
    content_id: Literal["image-pipeline:images"] = "image-pipeline:images"
    updated: str
    products: dict[str, Product]


class IndexEntry(_Document):
    """What the index says of one products file."""

    format: Literal["products:1.0"] = "products:1.0"
    datatype: Literal["image-downloads"] = "image-downloads"
    path: str
    updated: str
    products: list[str]


class Index(BaseModel):
    """streams/v1/index.json; entries of other publishers are kept as they are."""

    model_config = ConfigDict(frozen=True)

    format: Literal["index:1.0"] = "index:1.0"
    updated: str
    index: dict[str, Any]


def product_name(kind: str, name: str, architecture: str) -> str:
    """Such as "image-pipeline:triple:fedora15:x86_64"."""
    return f"image-pipeline:{kind}:{name}:{architecture}"


def timestamp(now: datetime | None = None) -> str:
    """RFC 2822, as the format asks: "Sat, 21 Nov 2026 05:40:00 +0000"."""
    return format_datetime((now or datetime.now(UTC)).astimezone(UTC))


def empty(updated: str) -> Products:
    """A catalogue with nothing in it."""
    return Products(updated=updated, products={})


def with_product(catalogue: Products, product: Product, updated: str) -> Products:
    """The catalogue with the product's generations added to those it has, or in their place."""
    key = product_name(product.kind, product.name, product.arch)
    old = catalogue.products.get(key)
    versions = {**(old.versions if old else {}), **product.versions}
    return _replace(catalogue, key, product.model_copy(update={"versions": versions}), updated)


def without_version(catalogue: Products, product: str, generation: str, updated: str) -> Products:
    """The catalogue without that generation; a product with none left goes too."""
    old = catalogue.products[product]
    versions = {name: version for name, version in old.versions.items() if name != generation}
    left = old.model_copy(update={"versions": versions}) if versions else None
    return _replace(catalogue, product, left, updated)


def index_of(catalogue: Products, old: Index | None) -> Index:
    """The index that goes with a products file, with the other entries of the old one."""
    entry = IndexEntry(
        path=PRODUCTS_PATH, updated=catalogue.updated, products=sorted(catalogue.products)
    )
    entries = {**(old.index if old else {}), CONTENT_ID: entry.model_dump()}
    changed = old is None or old.index != entries
    updated = catalogue.updated if changed or old is None else old.updated
    return Index(updated=updated, index=entries)


def referenced(catalogue: Products) -> set[str]:
    """Paths of all items."""
    return {
        item.path
        for product in catalogue.products.values()
        for version in product.versions.values()
        for item in version.items.values()
    }


def dump(document: Products | Index) -> str:
    """The document as it lies on disk: stable order, absent links left out."""
    return document.model_dump_json(indent=1, exclude_none=True) + "\n"


def _replace(catalogue: Products, key: str, product: Product | None, updated: str) -> Products:
    products = {name: old for name, old in catalogue.products.items() if name != key}
    if product is not None:
        products[key] = product
    return Products(updated=updated, products=dict(sorted(products.items())))
