"""Glance, the real one: what only it can show. The contract suite holds the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clouds.glance.api import Patience
from pipeline.clouds.glance.cloud import GlanceCloud
from pipeline.clouds.glance.images import MARK_ID, parts, record_id, unfinished
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image
from tests.contract.glance_site import RawGlance
from tests.contract.site import MIB, make_images, with_disk
from tests.servers import glance
from tests.servers.fixtures import LoneGlance, token_settings
from tests.servers.processes import Processes, free_port

pytestmark = pytest.mark.integration

QUICK = Patience(tries=3, first=0.1, most=1.0, poll=0.2)


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_images(tmp_path / "build")


def account(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> RawGlance:
    """A fresh project, configured as the cloud "mine"."""
    token = f"user:{uuid.uuid4().hex}:member,reader"
    config = directory / "clouds.yaml"
    config.write_text(json.dumps({"clouds": {"mine": token_settings(url, token)}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(config))
    return RawGlance(url, token)


@pytest.fixture
def raw(lone_glance: LoneGlance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawGlance:
    return account(lone_glance.url, tmp_path, monkeypatch)


@contextmanager
def own_glance(directory: Path, settings: str = "", **policy: str) -> Iterator[str]:
    """A Glance with other settings and policy rules; its URL."""
    directory.mkdir()
    processes = Processes(directory / "logs", tied=True)
    try:
        yield glance.start(
            processes, directory, free_port(), None, policy=policy, settings=settings
        )
    finally:
        processes.stop()


def cloud() -> GlanceCloud:
    return GlanceCloud("glance:mine", "mine", QUICK)


def test_properties_of_the_triple(raw: RawGlance, images: Image) -> None:
    options = PublishOptions(
        visibility="shared",
        protected=True,
        tags=("nightly",),
        members=("0123456789abcdef",),
        min_disk_gib=2,
        min_ram_mib=256,
        properties={"hw_disk_bus": "virtio", "note": "100 %"},
    )
    cloud().probe(images, options)
    found = cloud().publish(images, options, QuietProgress())
    machine = raw.image(found.machine_id)
    for key, value in {
        "name": "demo",
        "status": "active",
        "container_format": "ami",
        "disk_format": "ami",
        "kernel_id": found.kernel_id,
        "ramdisk_id": found.ramdisk_id,
        "os_command_line": images.command_line,
        "architecture": "x86_64",
        "os_distro": "demo",
        "os_version": "1",
        "hw_disk_bus": "virtio",
        "note": "100 %",
        "min_disk": 2,
        "min_ram": 256,
        "tags": ["nightly"],
        "visibility": "shared",
        "protected": True,
        "os_hidden": False,
        "os_hash_algo": "sha512",
        identity.MARK_VERIFIED: "true",
        identity.MARK_GENERATION: found.generation,
    }.items():
        assert machine[key] == value, key
    for image_id, kind in ((found.kernel_id, "aki"), (found.ramdisk_id, "ari")):
        image = raw.image(image_id)
        assert (image["container_format"], image["disk_format"]) == (kind, kind)
        assert (image["visibility"], image["protected"]) == ("shared", True)
        members = raw.call("GET", f"images/{image_id}/members").json()["members"]
        assert [member["member_id"] for member in members] == ["0123456789abcdef"]


def test_options_of_a_rerun_change_the_images_in_place(raw: RawGlance, images: Image) -> None:
    first = cloud().publish(images, PublishOptions(), QuietProgress())
    raw.call("PUT", f"images/{first.machine_id}/tags/by-hand")
    options = PublishOptions(tags=("v2",), visibility="community", properties={"hw_rng_model": "x"})
    second = cloud().publish(images, options, QuietProgress())
    assert second == replace(first, created=False)
    machine = raw.image(first.machine_id)
    assert sorted(machine["tags"]) == ["by-hand", "v2"]
    assert machine["visibility"] == "community"
    assert machine["hw_rng_model"] == "x"
    assert raw.image(first.kernel_id)["visibility"] == "community"
    # Community images are left out of default lists; ours must be found again all the same.
    third = cloud().publish(images, options, QuietProgress())
    assert third == second


def test_a_record_that_came_late_beside_a_whole_triple_is_deleted(
    raw: RawGlance, images: Image
) -> None:
    found = cloud().publish(images, PublishOptions(), QuietProgress())
    marks = {key: value for key, value in raw.image(found.machine_id).items() if "pipeline" in key}
    late = str(uuid.uuid4())
    marks |= {"id": late, MARK_ID: late, identity.MARK_STATE: identity.PARTIAL}
    raw.add("demo", b"", os_hidden=True, **marks)
    assert f"DELETE /v2/images/{late}: surplus" in cloud().plan(images, PublishOptions())
    again = cloud().publish(images, PublishOptions(), QuietProgress())
    assert again == replace(found, created=False)
    assert len(raw.seen(hidden=True)) == 3


def test_the_snapshot_of_a_server_is_left_alone(raw: RawGlance, images: Image) -> None:
    """Nova gives it all properties of the image that the server was started from."""
    first = cloud().publish(images, PublishOptions(), QuietProgress())
    given = ("image_pipeline", "kernel_id", "ramdisk_id", "os_", "architecture")
    inherited = {
        key: value
        for key, value in raw.image(first.machine_id).items()
        if key.startswith(given) and key not in ("os_hidden", "os_hash_algo", "os_hash_value")
    }
    snapshot = raw.add("before the upgrade", b"a year's work", image_type="snapshot", **inherited)
    assert cloud().plan(images, PublishOptions()) == []
    again = cloud().publish(images, PublishOptions(), QuietProgress())
    assert again == replace(first, created=False)
    assert cloud().generations("demo") == [again]
    with pytest.raises(CloudError, match="not an image of this upload"):
        cloud().withdraw(replace(first, machine_id=snapshot))
    cloud().withdraw(first)
    assert raw.data(snapshot) == b"a year's work"
    assert raw.data(first.kernel_id) == images.kernel.path.read_bytes()
    second = cloud().publish(images, PublishOptions(), QuietProgress())
    assert second.kernel_id == first.kernel_id
    raw.call("DELETE", f"images/{snapshot}")
    cloud().withdraw(second)
    assert raw.seen(hidden=True) == []


def test_a_build_deleted_more_often_than_ids_are_asked_for_is_made_again(
    raw: RawGlance, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.clouds.glance.cloud._DELETED_IDS", 2)
    made = set()
    for _ in range(4):
        found = cloud().publish(images, PublishOptions(), QuietProgress())
        made.add(found.machine_id)
        cloud().withdraw(found)
    assert len(made) == 4
    assert raw.seen(hidden=True) == []


def test_a_record_of_our_id_that_is_not_ours_is_passed_over(raw: RawGlance, images: Image) -> None:
    """Ids can be foreseen by who knows the build."""
    key = identity.content_key(images)
    taken = raw.add("theirs", id=record_id("", key, "kernel", 0))
    found = cloud().publish(images, PublishOptions(), QuietProgress())
    assert found.kernel_id == record_id("", key, "kernel", 1)
    assert raw.data(taken) == b"somebody else's"


def test_a_hidden_triple_stays_hidden_and_is_found(raw: RawGlance, images: Image) -> None:
    options = PublishOptions(hidden=True)
    first = cloud().publish(images, options, QuietProgress())
    assert raw.seen(hidden=False) == []
    assert cloud().publish(images, options, QuietProgress()) == replace(first, created=False)
    assert cloud().generations("demo") == [replace(first, created=False)]


def test_an_unverified_set_says_so(raw: RawGlance, images: Image) -> None:
    unverified = replace(images, checks=())
    found = cloud().publish(unverified, PublishOptions(), QuietProgress())
    for image_id in (found.kernel_id, found.ramdisk_id, found.machine_id):
        assert raw.image(image_id)[identity.MARK_VERIFIED] == "false"


def test_a_protected_triple_is_not_withdrawn(raw: RawGlance, images: Image) -> None:
    found = cloud().publish(images, PublishOptions(protected=True), QuietProgress())
    with pytest.raises(CloudError, match="--unprotected"):
        cloud().withdraw(found)
    assert len(raw.seen(hidden=False)) == 3


def test_an_image_of_others_is_not_withdrawn(raw: RawGlance, images: Image) -> None:
    found = cloud().publish(images, PublishOptions(), QuietProgress())
    theirs = raw.add("demo")
    with pytest.raises(CloudError, match="not an image of this upload"):
        cloud().withdraw(replace(found, machine_id=theirs))
    assert raw.image(theirs)["status"] == "active"


@pytest.mark.parametrize("state", ["lost", "empty"])
def test_a_broken_triple_is_repaired(raw: RawGlance, images: Image, state: str) -> None:
    """The kernel deleted by hand, or replaced by a queued record of ours."""
    first = cloud().publish(images, PublishOptions(), QuietProgress())
    record = raw.image(first.kernel_id)
    raw.call("DELETE", f"images/{first.kernel_id}")
    if state == "empty":
        kept = {
            key: value
            for key, value in record.items()
            if key.startswith("image_pipeline") or key in ("container_format", "disk_format")
        }
        empty = str(uuid.uuid4())
        ours = {"id": empty, MARK_ID: empty, "os_hidden": True}
        raw.call("POST", "images", json=kept | ours)
    second = cloud().publish(images, PublishOptions(), QuietProgress())
    assert second.machine_id == first.machine_id
    assert second.kernel_id != first.kernel_id
    assert raw.image(second.machine_id)["kernel_id"] == second.kernel_id
    assert raw.data(second.kernel_id) == images.kernel.path.read_bytes()
    assert len(raw.seen(hidden=True)) == 3


def test_a_whole_disk(raw: RawGlance, images: Image, tmp_path: Path) -> None:
    disk = tmp_path / "demo.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    whole = with_disk(images, disk)
    options = PublishOptions(whole_disk=True)
    cloud().probe(whole, options)
    found = cloud().publish(whole, options, QuietProgress())
    image = raw.image(found.machine_id)
    assert (image["container_format"], image["disk_format"]) == ("bare", "qcow2")
    assert (found.kernel_id, found.ramdisk_id) == ("", "")
    assert "os_command_line" not in image
    assert raw.data(found.machine_id) == disk.read_bytes()
    assert cloud().publish(whole, options, QuietProgress()).machine_id == found.machine_id
    cloud().withdraw(found)
    assert raw.seen(hidden=True) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (PublishOptions(members=("x",)), "--visibility shared"),
        (PublishOptions(regions=("eu",)), "region"),
        (PublishOptions(whole_disk=True), "--disk-image"),
    ],
)
def test_options_that_do_not_fit_are_told(
    raw: RawGlance, images: Image, options: PublishOptions, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        cloud().probe(images, options)


def test_a_public_image_needs_the_right_before_anything_is_sent(
    raw: RawGlance, images: Image
) -> None:
    with pytest.raises(CloudError, match=r"policy forbids.*HTTP 403"):
        cloud().publish(images, PublishOptions(visibility="public"), QuietProgress())
    assert raw.seen(hidden=True) == []


def test_a_cloud_without_amazon_formats_says_so_in_the_probe(
    images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "[image_format]\ncontainer_formats = bare,ovf\ndisk_formats = raw,qcow2\n"
    with own_glance(tmp_path / "glance", settings) as url:
        account(url, tmp_path, monkeypatch)
        with pytest.raises(CloudError, match=r"container_format aki.*whole disk"):
            cloud().probe(images, PublishOptions())


def test_a_quota_is_told_and_nothing_is_left(
    images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_glance(tmp_path / "glance", f"user_storage_quota = {2 * MIB}\n") as url:
        raw = account(url, tmp_path, monkeypatch)
        with pytest.raises(CloudError, match=r"machine of demo.*glance:mine") as caught:
            cloud().publish(images, PublishOptions(), QuietProgress())
        assert "quota" in str(caught.value)
        assert raw.seen(hidden=True) == []


def test_where_direct_upload_is_forbidden_the_import_is_used(
    images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_glance(tmp_path / "glance", upload_image="!") as url:
        raw = account(url, tmp_path, monkeypatch)
        found = cloud().publish(images, PublishOptions(), QuietProgress())
        for image_id, file in zip(
            (found.kernel_id, found.ramdisk_id, found.machine_id), images.triple, strict=True
        ):
            assert raw.image(image_id)["status"] == "active"
            assert raw.data(image_id) == file.path.read_bytes()
        assert len(raw.seen(hidden=True)) == 3


def test_what_a_killed_import_left_is_replaced(raw: RawGlance, images: Image) -> None:
    """Data staged and never imported: no upload and no import gets such a record going again."""
    (part, *_), key = parts(images, PublishOptions(), ""), identity.content_key(images)
    image_id = record_id("", key, part.role, 0)
    record = unfinished(part, images, PublishOptions(), key, image_id)
    left = raw.call("POST", "images", json=record).json()["id"]
    headers = {"Content-Type": "application/octet-stream"}
    raw.call("PUT", f"images/{left}/stage", data=b"half a kernel", headers=headers)
    assert raw.image(left)["status"] == "uploading"
    hasty = GlanceCloud("glance:mine", "mine", replace(QUICK, busy=1.0))
    found = hasty.publish(images, PublishOptions(), QuietProgress())
    assert found.kernel_id != left
    assert raw.data(found.kernel_id) == images.kernel.path.read_bytes()
    assert len(raw.seen(hidden=True)) == 3


_UPLOAD = """
import sys
from pathlib import Path
from pipeline.clouds.protocol import PublishOptions
from pipeline.clouds.registry import open_clouds
from pipeline.core.events import QuietProgress
from tests.contract.site import make_images
images = make_images(Path(sys.argv[1]), machine_size=int(sys.argv[2]))
(cloud,) = open_clouds(["glance:mine"])
found = cloud.publish(images, PublishOptions(), QuietProgress())
# Not ru_maxrss: it starts with the peak of the process that was forked (getrusage(2)).
print(found.machine_id, Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_does_not_grow_with_the_image(
    lone_glance: LoneGlance, raw: RawGlance, tmp_path: Path
) -> None:
    """Two sparse images, the second 64 times the first: the peak stays where it was."""
    peaks = []
    for size in (32 * MIB, 2048 * MIB):
        done = subprocess.run(
            [sys.executable, "-c", _UPLOAD, str(tmp_path / str(size)), str(size)],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )
        image_id, after = done.stdout.split()
        assert raw.image(image_id)["size"] == size
        raw.call("DELETE", f"images/{image_id}")
        peaks.append(int(after))
    assert peaks[1] - peaks[0] < 8 * 1024  # KiB: a few buffers
    assert peaks[1] < 200 * 1024
