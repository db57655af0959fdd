"""Glance without a server: what is registered, who wins, what is sent, what errors say."""

from __future__ import annotations

import hashlib
import itertools
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clouds.glance import body as body_module
from pipeline.clouds.glance.api import Patience, missing_formats
from pipeline.clouds.glance.body import ChangedFileError, ImageBody, StalledUploadError
from pipeline.clouds.glance.cloud import open_glance
from pipeline.clouds.glance.errors import explain
from pipeline.clouds.glance.images import (
    MARK_ID,
    attributes,
    claims,
    differences,
    is_own,
    is_whole,
    losers,
    parts,
    record_id,
    server_digest,
    unfinished,
)
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.errors import InputError
from pipeline.core.image import Image
from tests.contract.site import MIB, make_images, with_disk

ROLES = ["kernel", "ramdisk", "machine"]


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build")


def image(number: int, role: str, *, state: str = "", status: str = "active") -> dict[str, Any]:
    marks = {identity.MARK_ROLE: role, identity.MARK_STATE: state}
    return {"id": f"{role}-{number}", "created_at": str(number), "status": status, **marks}


def whole_triple() -> dict[str, dict[str, Any]]:
    claimed = {role: image(1, role) for role in ROLES}
    claimed["machine"] |= {"kernel_id": "kernel-1", "ramdisk_id": "ramdisk-1"}
    claimed["machine"][identity.MARK_STATE] = identity.WHOLE
    return claimed


# -- what is registered


def test_a_triple_has_amazon_formats_in_order(images: Image) -> None:
    found = parts(images, PublishOptions(), "glance")
    assert [(p.role, p.container_format, p.disk_format) for p in found] == [
        ("kernel", "aki", "aki"),
        ("ramdisk", "ari", "ari"),
        ("machine", "ami", "ami"),
    ]
    assert [p.name for p in found] == ["demo-kernel", "demo-ramdisk", "demo"]


def test_a_whole_disk_is_bare_of_its_own_format(images: Image, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"QFI\xfb" + bytes(100))
    (part,) = parts(with_disk(images, disk), PublishOptions(whole_disk=True), "glance")
    assert (part.container_format, part.disk_format) == ("bare", "qcow2")
    assert part.sha256 == hashlib.sha256(disk.read_bytes()).hexdigest()


def test_attributes_of_the_machine_image(images: Image) -> None:
    options = PublishOptions(
        visibility="shared",
        tags=("b", "a", "b"),
        min_disk_gib=3,
        min_ram_mib=512,
        properties={"hw_disk_bus": "virtio", "os_version": "2"},
    )
    kernel, _, machine = parts(images, options, "glance")
    wanted = attributes(machine, images, options)
    assert wanted["os_command_line"] == images.command_line
    assert wanted["architecture"] == "x86_64"
    assert (wanted["min_disk"], wanted["min_ram"]) == (3, 512)
    assert wanted["tags"] == ["a", "b"]
    assert wanted["os_version"] == "2"  # the option's, not the recipe's
    assert wanted[identity.MARK_VERIFIED] == "true"
    assert "os_command_line" not in attributes(kernel, images, options)
    unverified = attributes(machine, replace(images, checks=()), options)
    assert unverified[identity.MARK_VERIFIED] == "false"


def test_an_image_for_aarch64_says_so_in_novas_word_and_asks_for_uefi(
    images: Image, tmp_path: Path
) -> None:
    options = PublishOptions()
    arm = replace(images, architecture="aarch64")
    kernel, _, machine = parts(arm, options, "glance")
    wanted = attributes(machine, arm, options)
    assert wanted["architecture"] == "aarch64", "Nova refuses arm64"
    assert wanted["hw_firmware_type"] == "uefi"
    assert attributes(kernel, arm, options)["architecture"] == "aarch64"
    assert "hw_firmware_type" not in attributes(kernel, arm, options)
    assert "hw_firmware_type" not in attributes(machine, images, options), "x86_64 stays as it was"
    own = PublishOptions(properties={"hw_firmware_type": "bios"})
    assert attributes(machine, arm, own)["hw_firmware_type"] == "bios", "the user's word wins"
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    whole = with_disk(arm, disk)
    (part,) = parts(whole, PublishOptions(whole_disk=True), "glance")
    assert attributes(part, whole, options)["hw_firmware_type"] == "uefi"


def test_a_new_record_is_hidden_marked_and_never_whole(images: Image) -> None:
    for part in parts(images, PublishOptions(), "glance"):
        record = unfinished(part, images, PublishOptions(), "k" * 64, "an-id")
        assert record["id"] == "an-id"
        assert is_own(record, "")
        assert record["os_hidden"] is True
        assert record[identity.MARK_KEY] == "k" * 64
        assert record[identity.MARK_SHA256] == part.sha256
        assert record.get(identity.MARK_STATE) != identity.WHOLE


def test_differences_take_nothing_away() -> None:
    current = {"id": "1", "tags": ["theirs", "a"], "note": "theirs", "name": "old", "min_disk": 0}
    wanted = {"tags": ["a", "b"], "name": "new", "min_disk": 0}
    assert differences(current, wanted) == {"tags": ["a", "b", "theirs"], "name": "new"}
    assert differences({**current, "tags": ["a", "b", "c"]}, {"tags": ["a"]}) == {}


# -- who wins


def test_ids_are_made_of_project_build_role_and_number() -> None:
    drawn = itertools.product(("p", "q"), ("key", "other"), ROLES, range(3))
    ids = [record_id(*each) for each in drawn]
    assert len(set(ids)) == len(ids)
    assert ids[0] == record_id("p", "key", "kernel", 0) == str(uuid.UUID(ids[0]))


def test_a_copy_with_our_marks_is_not_ours() -> None:
    ours = {"id": "1", MARK_ID: "1", "owner": "us"}
    assert is_own(ours, "us")
    assert is_own(ours, "")
    assert not is_own({**ours, "id": "2"}, "us")
    assert not is_own({**ours, "owner": "them"}, "us")
    assert not is_own({"id": "1", "owner": "us"}, "us")


@given(st.permutations([image(n, role) for n in (1, 2, 3) for role in ROLES]), st.integers(0, 3))
def test_all_who_see_the_same_images_agree(found: list[dict[str, Any]], whole: int) -> None:
    """The oldest of each role, but a finished machine image before all."""
    for each in found:
        if each["id"] == f"machine-{whole}":
            each[identity.MARK_STATE] = identity.WHOLE
    found.sort(key=lambda each: (each["created_at"], each["id"]))
    claimed = claims(found, ROLES)
    assert claimed["kernel"]["id"] == "kernel-1"
    assert claimed["machine"]["id"] == f"machine-{whole or 1}"
    kept = {each["id"] for each in claimed.values()}
    assert {each["id"] for each in losers(found, claimed)} == {e["id"] for e in found} - kept
    for each in found:
        each[identity.MARK_STATE] = ""


def test_the_kernel_of_a_finished_machine_image_wins() -> None:
    triple = whole_triple()
    older = image(0, "kernel")
    claimed = claims([older, *triple.values()], ROLES)
    assert claimed["kernel"]["id"] == "kernel-1"
    triple["machine"][identity.MARK_STATE] = identity.PARTIAL
    assert claims([older, *triple.values()], ROLES)["kernel"]["id"] == "kernel-0"


def test_a_record_in_use_wins_over_an_older_one() -> None:
    found = [
        image(1, "kernel", status="queued"),
        image(2, "kernel", status="saving"),
        image(3, "kernel", status="active"),
    ]
    assert [claims(found[:n], ROLES)["kernel"]["id"] for n in (1, 2, 3)] == [
        "kernel-1",
        "kernel-2",
        "kernel-3",
    ]


def test_losers_are_of_known_roles_only() -> None:
    found = [image(1, "kernel"), image(2, "kernel"), image(3, "something else")]
    assert [each["id"] for each in losers(found, claims(found, ROLES))] == ["kernel-2"]


def test_a_whole_triple_is_active_linked_and_marked() -> None:
    assert is_whole(whole_triple(), ROLES)


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("kernel", {"status": "queued"}),
        ("machine", {"status": "saving"}),
        ("machine", {identity.MARK_STATE: identity.PARTIAL}),
        ("machine", {"kernel_id": "another"}),
        ("machine", {"ramdisk_id": None}),
    ],
)
def test_anything_less_is_not_whole(role: str, change: Mapping[str, Any]) -> None:
    claimed = whole_triple()
    claimed[role] |= change
    assert not is_whole(claimed, ROLES)


def test_a_missing_role_is_not_whole() -> None:
    claimed = whole_triple()
    del claimed["ramdisk"]
    assert not is_whole(claimed, ROLES)


def test_the_multihash_is_preferred_to_md5() -> None:
    assert server_digest({"os_hash_algo": "sha512", "os_hash_value": "x", "checksum": "y"}) == (
        "sha512",
        "x",
    )
    assert server_digest({"os_hash_algo": None, "os_hash_value": None, "checksum": "y"}) == (
        "md5",
        "y",
    )
    assert server_digest({"checksum": None}) is None


# -- what is sent


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def advance(self, amount: int) -> None:
        self.count += amount

    def describe(self, text: str) -> None:
        raise AssertionError


def body(images: Image, meter: Counter | None = None) -> ImageBody:
    file = images.machine
    return ImageBody(file.path, file.size, file.sha256, meter or Counter(), ("sha512",))


def test_a_body_is_the_file_and_its_digests(images: Image) -> None:
    meter = Counter()
    sent = body(images, meter)
    assert len(sent) == images.machine.size
    data = b"".join(bytes(piece) for piece in sent)
    assert data == images.machine.path.read_bytes()
    assert sent.hexdigest("sha512") == hashlib.sha512(data).hexdigest()
    assert sent.hexdigest("sha384") is None
    assert meter.count == len(data)


def test_a_body_starts_again_and_counts_once(images: Image) -> None:
    meter = Counter()
    sent = body(images, meter)
    pieces = iter(sent)
    next(pieces)
    next(pieces)
    assert b"".join(bytes(piece) for piece in sent) == images.machine.path.read_bytes()
    assert meter.count == images.machine.size


def test_holes_are_not_read(tmp_path: Path) -> None:
    """A terabyte of hole at the start: the first piece is there at once, and all zeros."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    first = next(iter(ImageBody(path, 1 << 40, "0" * 64, Counter(), ())))
    assert not any(first)


@pytest.mark.parametrize("position", [0, 2 * MIB, -1])
def test_the_last_piece_of_a_changed_file_is_kept_back(images: Image, position: int) -> None:
    path = images.machine.path
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    sent = 0
    with pytest.raises(ChangedFileError, match="sha256"):
        for piece in body(images):
            sent += len(piece)
    assert sent < images.machine.size


def test_a_file_of_another_length_is_not_begun(images: Image) -> None:
    with images.machine.path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ChangedFileError, match="long"):
        next(iter(body(images)))


def test_a_file_that_goes_or_shrinks_is_not_the_connections_fault(images: Image) -> None:
    path = images.machine.path
    pieces = iter(body(images))
    next(pieces)
    with path.open("r+b") as file:
        file.truncate(2 * MIB)
    with pytest.raises(ChangedFileError, match="cannot be read"):
        list(pieces)
    path.unlink()
    with pytest.raises(ChangedFileError, match="No such file"):
        next(iter(body(images)))


def test_a_receiver_that_takes_next_to_nothing_is_given_up(
    images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "FLOOR_SECONDS", 0.0)
    monkeypatch.setattr(body_module, "FLOOR_BYTES_PER_SECOND", 1)
    assert list(body(images))  # nothing is below a floor of no bytes

    clock = iter(range(0, 100_000, 1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(body_module, "FLOOR_SECONDS", 999.0)
    monkeypatch.setattr(body_module, "FLOOR_BYTES_PER_SECOND", MIB)
    with pytest.raises(StalledUploadError, match="bytes went"):
        list(body(images))


# -- what is told


@pytest.mark.parametrize(
    ("status", "words", "part"),
    [
        (413, "<html><head><title>x</title></head><body>too <b>big</b></body></html>", "too big"),
        (403, '{"message": "not yours", "code": 403}', "not yours"),
        (409, '{"error": {"message": "in use"}}', "in use"),
        (500, "plain\n\n words.", "plain words"),
        (404, "", "HTTP 404)"),
        (418, "x" * 9999, "xxx"),
        (400, "[1]", "[1]"),
        (400, "{}", "{}"),
    ],
)
def test_a_clouds_words_become_one_short_line(status: int, words: str, part: str) -> None:
    why, next_step = explain(status, words)
    assert part in why
    assert "\n" not in why
    assert "<" not in why
    assert len(why) < 500
    assert next_step


def test_formats_that_a_schema_leaves_out() -> None:
    schema = {
        "properties": {
            "container_format": {"enum": [None, "bare", "aki"]},
            "disk_format": {"enum": [None, "raw", "aki", "ami"]},
        }
    }
    assert missing_formats(schema, [("aki", "aki")]) == []
    assert missing_formats(schema, [("ami", "ami")]) == ["container_format ami"]
    assert missing_formats({}, [("ami", "ami")]) == []


def test_delays_grow_to_a_limit_and_differ() -> None:
    random.seed(1)
    patience = Patience(first=1.0, most=30.0)
    for failures in range(1, 12):
        delays = {patience.delay(failures, None) for _ in range(20)}
        longest = min(30.0, 2.0 ** (failures - 1))
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(delays) > 1
    assert patience.delay(1, 7.0) == 7.0
    assert patience.delay(1, 1e6) == 300.0


def test_a_cloud_that_no_file_names_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "clouds.yaml"
    config.write_text("clouds: {known: {auth: {auth_url: 'http://127.0.0.1:9'}}}")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(config))
    with pytest.raises(InputError, match="unknown"):
        open_glance("unknown")
