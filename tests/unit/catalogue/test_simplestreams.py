"""Documents of the simplestreams format, and identities of images."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalogue import simplestreams as streams
from pipeline.clouds.registry import default_words, open_clouds
from pipeline.clouds.whole_disk import require_disk
from pipeline.core.errors import InputError
from pipeline.core.identity import content_key, next_generation
from pipeline.core.image import Role
from pipeline.disk.blocks.identify import disk_format
from tests.contract.site import make_images, rebuilt

NOW = "Sat, 21 Nov 2026 05:40:00 +0000"


def product(name: str, *generations: str) -> streams.Product:
    item = streams.Item(ftype="root-image", path="p", size=1, sha256="0" * 64, id="ami-1")
    versions = {
        stamp: streams.Version(key="1" * 64, pubname=name, items={"root.img": item})
        for stamp in generations
    }
    return streams.Product(arch="x86_64", name=name, kind="triple", versions=versions)


def test_adding_keeps_other_generations_and_products() -> None:
    catalogue = streams.with_product(streams.empty(NOW), product("a", "1"), NOW)
    catalogue = streams.with_product(catalogue, product("b", "1"), NOW)
    catalogue = streams.with_product(catalogue, product("a", "2"), NOW)
    names = {name: sorted(each.versions) for name, each in catalogue.products.items()}
    assert names == {
        "image-pipeline:triple:a:x86_64": ["1", "2"],
        "image-pipeline:triple:b:x86_64": ["1"],
    }


def test_the_last_generation_takes_its_product_along() -> None:
    key = "image-pipeline:triple:a:x86_64"
    catalogue = streams.with_product(streams.empty(NOW), product("a", "1", "2"), NOW)
    catalogue = streams.without_version(catalogue, key, "1", NOW)
    assert list(catalogue.products[key].versions) == ["2"]
    assert streams.without_version(catalogue, key, "2", NOW).products == {}


def test_the_index_keeps_other_publishers_and_its_date() -> None:
    catalogue = streams.with_product(streams.empty(NOW), product("a", "1"), NOW)
    theirs = {"format": "products:1.0", "anything": ["else"]}
    old = streams.Index(updated="before", index={"com.example": theirs})
    index = streams.index_of(catalogue, old)
    assert index.index["com.example"] == theirs
    assert index.updated == NOW
    assert streams.index_of(catalogue, replace_updated(index, "later")).updated == "later"


def replace_updated(index: streams.Index, updated: str) -> streams.Index:
    return index.model_copy(update={"updated": updated})


def test_documents_survive_writing_and_reading() -> None:
    catalogue = streams.with_product(streams.empty(NOW), product("a", "1"), NOW)
    text = streams.dump(catalogue)
    assert streams.Products.model_validate_json(text) == catalogue
    assert "kernel_id" not in text
    assert json.loads(text)["format"] == "products:1.0"


def test_timestamps_are_of_rfc_2822() -> None:
    assert streams.timestamp(datetime(2026, 11, 21, 5, 40, tzinfo=UTC)) == NOW


MOMENTS = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)


@given(st.lists(MOMENTS, max_size=5), MOMENTS)
def test_generations_always_rise(earlier: list[datetime], now: datetime) -> None:
    existing = [moment.strftime("%Y%m%dT%H%M%SZ") for moment in earlier]
    stamp = next_generation([*existing, "zzz", ""], now)
    assert all(stamp > old for old in existing)
    assert datetime.strptime(stamp, "%Y%m%dT%H%M%SZ")


def test_keys_tell_content_names_and_kinds_apart(tmp_path: Path) -> None:
    images = make_images(tmp_path / "a")
    copy = make_images(tmp_path / "b")
    assert content_key(images) == content_key(copy)
    different = {
        content_key(images),
        content_key(images, whole_disk=True),
        content_key(rebuilt(images, seed=3)),
        content_key(replace(images, name="other")),
        content_key(
            images.replacing(
                replace(images.ramdisk, role=Role.KERNEL), replace(images.kernel, role=Role.RAMDISK)
            )
        ),
        content_key(replace(images, command_line="other"), whole_disk=True),
    }
    assert len(different) == 6
    assert content_key(replace(images, command_line="other")) == content_key(images)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"KDMV\1\0\0\0", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
            "vdi",
        ),
        (b"\xeb\x63\x90", "raw"),
        (b"", "raw"),
    ],
)
def test_disk_formats_are_told_by_their_first_bytes(tmp_path: Path, head: bytes, name: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(head)
    assert disk_format(path) == name


def test_a_build_without_a_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--disk-image"):
        require_disk(make_images(tmp_path), "glance:x")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["local"]),
        ({"AWS_PROFILE": "x", "AWS_ACCESS_KEY_ID": "y"}, ["local"]),
        ({"OS_CLOUD": "x"}, ["glance"]),
        ({"OS_AUTH_URL": "http://x"}, ["glance"]),
        ({"OS_CLOUD": "x", "IMAGE_PIPELINE_CLOUDS": "local ec2:a"}, ["local", "ec2:a"]),
        ({"IMAGE_PIPELINE_CLOUDS": "  "}, ["local"]),
    ],
)
def test_without_words_the_environment_decides(
    environment: dict[str, str], words: list[str]
) -> None:
    assert default_words(environment) == words


def test_words_become_clouds_once_each(tmp_path: Path) -> None:
    word = f"local:{tmp_path}"
    (cloud,) = open_clouds([word, word])
    assert cloud.name == word


def test_an_unknown_kind_is_told_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean glance"):
        open_clouds(["glanse:x"])
