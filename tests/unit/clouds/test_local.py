"""The local catalogue: what the contract suite does not ask."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalogue import store
from pipeline.catalogue.lookup import local_files
from pipeline.catalogue.store import copy_sparse
from pipeline.clouds.local import LocalCloud, image_id, open_local
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image, Role
from tests.contract.observers import Observed
from tests.contract.site import MIB, make_images, rebuilt, with_disk
from tests.fixtures.simplestreams_reader import read_mirror

OPTIONS = PublishOptions()


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build")


@pytest.fixture
def catalogue(tmp_path: Path) -> LocalCloud:
    return open_local(str(tmp_path / "catalogue"))


def upload(catalogue: LocalCloud, images: Image, options: PublishOptions = OPTIONS) -> str:
    return catalogue.publish(images, options, QuietProgress()).machine_id


def stamps(directory: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_second_upload_writes_no_file(catalogue: LocalCloud, images: Image) -> None:
    upload(catalogue, images)
    before = stamps(catalogue.directory)
    upload(catalogue, images)
    assert stamps(catalogue.directory) == before


def test_a_standard_reader_finds_the_triple(catalogue: LocalCloud, images: Image) -> None:
    machine_id = upload(catalogue, images, PublishOptions(tags=("nightly", "x")))
    items = {item["ftype"]: item for item in read_mirror(catalogue.directory)}
    assert set(items) == {"boot-kernel", "boot-initrd", "root-image"}
    root = items["root-image"]
    assert root["id"] == machine_id
    assert root["kernel_id"] == items["boot-kernel"]["id"]
    assert root["ramdisk_id"] == items["boot-initrd"]["id"]
    assert root["command_line"] == images.command_line
    assert root["tags"] == "nightly,x"
    assert root["arch"] == "x86_64"
    assert root["product_name"] == "image-pipeline:triple:demo:x86_64"
    for item, file in (("boot-kernel", images.kernel), ("boot-initrd", images.ramdisk)):
        assert items[item]["sha256"] == file.sha256


def test_aarch64_stands_in_the_catalogue_as_arm64_and_is_booted_as_aarch64(
    catalogue: LocalCloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = replace(images, architecture="aarch64")
    machine_id = upload(catalogue, arm)
    assert upload(catalogue, arm) == machine_id
    items = {item["ftype"]: item for item in read_mirror(catalogue.directory)}
    assert items["root-image"]["arch"] == "arm64"
    assert items["root-image"]["product_name"] == "image-pipeline:triple:demo:arm64"
    monkeypatch.setenv("IMAGE_PIPELINE_CATALOGUE", str(catalogue.directory))
    assert local_files(machine_id).architecture == "aarch64"
    other = upload(catalogue, images)
    assert other != machine_id, "the same files for x86_64 are another image"
    assert local_files(other).architecture == "x86_64"


def test_ids_are_of_ec2s_form_and_the_same_everywhere(images: Image, tmp_path: Path) -> None:
    one = open_local(str(tmp_path / "one")).publish(images, OPTIONS, QuietProgress())
    two = open_local(str(tmp_path / "two")).publish(images, OPTIONS, QuietProgress())
    ids = (one.kernel_id, one.ramdisk_id, one.machine_id)
    assert ids == (two.kernel_id, two.ramdisk_id, two.machine_id)
    for prefix, value in zip(("aki", "ari", "ami"), ids, strict=True):
        assert re.fullmatch(rf"{prefix}-[0-9a-f]{{17}}", value)
    assert image_id(Role.KERNEL, "x") != image_id(Role.RAMDISK, "x")


def test_changed_options_update_the_same_generation(catalogue: LocalCloud, images: Image) -> None:
    first = upload(catalogue, images)
    options = PublishOptions(properties={"hw_disk_bus": "virtio"}, min_ram_mib=512)
    assert upload(catalogue, images, options) == first
    document = json.loads((catalogue.directory / "streams/v1/image-pipeline.json").read_text())
    (product,) = document["products"].values()
    (version,) = product["versions"].values()
    assert version["properties"]["hw_disk_bus"] == "virtio"
    assert version["min_ram_mib"] == "512"
    assert len(catalogue.generations("demo")) == 1


def test_a_deleted_file_is_stored_again(catalogue: LocalCloud, images: Image) -> None:
    upload(catalogue, images)
    lost = catalogue.files / images.ramdisk.sha256
    lost.unlink()
    upload(catalogue, images)
    assert lost.read_bytes() == images.ramdisk.path.read_bytes()


def test_a_damaged_file_of_the_right_size_is_stored_again(
    catalogue: LocalCloud, images: Image
) -> None:
    """A flipped bit, told and mended by the build that has the file."""
    upload(catalogue, images)
    damaged = catalogue.files / images.machine.sha256
    with damaged.open("r+b") as file:
        file.seek(100)
        file.write(bytes([file.read(1)[0] ^ 1]))
    said: list[str] = []
    catalogue.publish(images, OPTIONS, Observed(lambda _number, text: said.append(text)))
    assert any("holds other bytes" in text for text in said)
    assert damaged.read_bytes() == images.machine.path.read_bytes()
    damaged.write_bytes(bytes(damaged.stat().st_size))
    catalogue.withdraw(catalogue.generations("demo")[0])
    damaged.write_bytes(bytes(images.machine.size))  # left there under its name
    upload(catalogue, images)
    assert damaged.read_bytes() == images.machine.path.read_bytes()


INCUS = {
    "format": "index:1.0",
    "index": {
        "images": {
            "datatype": "image-downloads",
            "path": "streams/v1/images.json",
            "format": "products:1.0",
            "products": ["alpine:edge:amd64:default"],
            "note": None,
        }
    },
    "content_id": "theirs",
}
"""As incus-simplestreams 7.0 writes it, without `updated`; with fields that nobody here knows."""


def test_the_index_of_another_publisher_is_kept(catalogue: LocalCloud, images: Image) -> None:
    path = catalogue.directory / "streams/v1/index.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(INCUS))
    catalogue.probe(images, OPTIONS)
    upload(catalogue, images)
    merged = json.loads(path.read_text())
    assert merged["index"]["images"] == INCUS["index"]["images"]  # type: ignore[index]
    assert merged["content_id"] == "theirs"
    assert list(merged["index"]) == ["images", "image-pipeline:images"]
    assert len(read_mirror(catalogue.directory, "image-pipeline:images")) == 3
    before = path.read_bytes()
    upload(catalogue, images)
    assert path.read_bytes() == before
    # Their tool writes its index anew and leaves ours out: the next upload puts it back.
    path.write_text(json.dumps(INCUS))
    upload(catalogue, images)
    assert "image-pipeline:images" in json.loads(path.read_text())["index"]


@pytest.mark.parametrize("text", ["{", '{"format": "index:2.0", "index": {}}', '{"index": []}'])
def test_an_index_that_cannot_be_kept_is_told_before_anything_is_stored(
    catalogue: LocalCloud, images: Image, text: str
) -> None:
    path = catalogue.directory / "streams/v1/index.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for ask in (lambda: catalogue.probe(images, OPTIONS), lambda: upload(catalogue, images),
                catalogue.check):  # fmt: skip
        with pytest.raises(CloudError, match=r"index\.json.*other publishers"):
            ask()
    assert path.read_text() == text
    assert not catalogue.files.exists()


def test_a_protected_generation_stays(catalogue: LocalCloud, images: Image) -> None:
    upload(catalogue, images, PublishOptions(protected=True))
    (registration,) = catalogue.generations("demo")
    for _ in range(2):
        with pytest.raises(CloudError, match="--unprotected"):
            catalogue.withdraw(registration)
        upload(catalogue, images)  # nobody asks for the protection to go
    upload(catalogue, images, PublishOptions(protected=False))
    catalogue.withdraw(registration)
    assert catalogue.generations("demo") == []


def test_withdrawal_keeps_a_kernel_that_another_triple_uses(
    catalogue: LocalCloud, images: Image
) -> None:
    upload(catalogue, images)
    upload(catalogue, rebuilt(images, seed=9))
    newest, oldest = catalogue.generations("demo")
    catalogue.withdraw(oldest)
    assert newest.kernel_id == oldest.kernel_id
    assert len(read_mirror(catalogue.directory)) == 3
    catalogue.withdraw(newest)
    assert list(catalogue.files.iterdir()) == []
    assert read_mirror(catalogue.directory) == []


def test_what_a_killed_upload_left_is_collected(catalogue: LocalCloud, images: Image) -> None:
    catalogue.files.mkdir(parents=True)
    left = [catalogue.files / f"{'0' * 64}.partial", catalogue.files / ("1" * 64)]
    for path in left:
        path.write_bytes(b"of another build")
    theirs = catalogue.files / "README"
    theirs.write_text("not ours")
    upload(catalogue, images)
    assert [path.exists() for path in left] == [False, True]  # there was no list to go by
    upload(catalogue, images)
    assert not any(path.exists() for path in left)
    assert theirs.exists()


def test_the_files_of_a_list_that_was_moved_away_stay(catalogue: LocalCloud, images: Image) -> None:
    upload(catalogue, images)
    files = set(catalogue.files.iterdir())
    (catalogue.directory / "streams/v1/image-pipeline.json").rename(catalogue.directory / "broken")
    upload(catalogue, rebuilt(images, seed=9))
    assert files < set(catalogue.files.iterdir())


def test_an_index_left_behind_by_a_kill_is_completed(catalogue: LocalCloud, images: Image) -> None:
    upload(catalogue, images)
    index = catalogue.directory / "streams/v1/index.json"
    whole = index.read_text()
    index.unlink()
    assert read_mirror(catalogue.directory) == []
    upload(catalogue, images)
    assert index.read_text() == whole


def test_whole_disks_are_a_product_of_their_own(
    catalogue: LocalCloud, images: Image, tmp_path: Path
) -> None:
    disk = tmp_path / "demo.qcow2"
    disk.write_bytes(b"QFI\xfb" + bytes(60))
    whole = with_disk(images, disk)
    upload(catalogue, whole)
    registration = catalogue.publish(whole, PublishOptions(whole_disk=True), QuietProgress())
    assert registration.kernel_id == ""
    items = [i for i in read_mirror(catalogue.directory) if i["id"] == registration.machine_id]
    assert [item["ftype"] for item in items] == ["disk1.img"]
    assert items[0]["product_name"] == "image-pipeline:disk:demo:x86_64"
    assert len(catalogue.generations("demo")) == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (PublishOptions(visibility="shared"), "visibility shared"),
        (PublishOptions(members=("x",)), "members"),
        (PublishOptions(hidden=True), "hidden"),
        (PublishOptions(regions=("eu",)), "regions"),
        (PublishOptions(store="fast"), "stores"),
        (PublishOptions(tags=("a,b",)), "comma"),
        (PublishOptions(whole_disk=True), "--disk-image"),
    ],
)
def test_probe_refuses_what_a_directory_cannot_say(
    catalogue: LocalCloud, images: Image, options: PublishOptions, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        catalogue.probe(images, options)


def test_a_place_that_cannot_be_written_is_told(images: Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CloudError, match="IMAGE_PIPELINE_CATALOGUE"):
        open_local(str(tmp_path / "file" / "below")).probe(images, OPTIONS)


def test_a_damaged_products_file_is_told_and_left_alone(
    catalogue: LocalCloud, images: Image
) -> None:
    upload(catalogue, images)
    path = catalogue.directory / "streams/v1/image-pipeline.json"
    document: dict[str, Any] = json.loads(path.read_text())
    (product,) = document["products"].values()
    del product["arch"]
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    with pytest.raises(CloudError, match="arch"):
        upload(catalogue, images)
    assert path.read_bytes() == before


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12),
    reflink=st.booleans(),
)
def test_copies_are_equal_and_keep_holes(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[bool, int]], reflink: bool
) -> None:
    """Files of data and holes in units of 4 KiB, by reference where possible or piece by piece."""
    directory = tmp_path_factory.mktemp("copy")
    source, target = directory / "source", directory / "target"
    with source.open("wb") as file:
        for data, count in runs:
            if data:
                file.write(os.urandom(4096 * count))
            else:
                file.seek(4096 * count, os.SEEK_CUR)
        file.truncate()
    progress = Observed(lambda _number, _text: None)
    with pytest.MonkeyPatch.context() as patch, progress.task("copy") as meter:
        if not reflink:
            patch.setattr(store, "_FICLONE", 0)  # ENOTTY on every file system
        copy_sparse(source, target, meter)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 8


def test_copies_count_every_byte(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    counted = []

    class Counter:
        def advance(self, amount: int) -> None:
            counted.append(amount)

        def describe(self, text: str) -> None:
            raise AssertionError

    copy_sparse(source, tmp_path / "target", Counter())
    assert sum(counted) == source.stat().st_size
