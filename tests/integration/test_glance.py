"""Glance, the real one: what only it can show. The contract suite holds the rest."""

from __future__ import annotations

import contextlib
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
from pipeline.clouds.glance.errors import StatusError
from pipeline.clouds.glance.images import MARK_ID, parts, record_id, unfinished
from pipeline.clouds.glance.login import connect
from pipeline.clouds.protocol import PublishOptions
from pipeline.core import identity
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image
from tests.contract.glance_site import RawGlance
from tests.contract.site import MIB, make_images, with_disk
from tests.servers import glance
from tests.servers.faults import FaultProxy, Request
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
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(directory / "cache"))
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
    monkeypatch.setattr("pipeline.clouds.glance.upload._DELETED_IDS", 2)
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


class Told(QuietProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_what_an_operator_set_stays_unless_it_is_asked_for(raw: RawGlance, images: Image) -> None:
    found = cloud().publish(images, PublishOptions(), QuietProgress())
    by_hand = {"visibility": "community", "protected": True, "min_disk": 7, "os_hidden": True}
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    changes = [{"op": "replace", "path": f"/{k}", "value": v} for k, v in by_hand.items()]
    raw.call("PATCH", f"images/{found.machine_id}", json=changes, headers=kind)
    before = [raw.image(image_id) for image_id in (found.machine_id, found.kernel_id)]
    told = Told()
    assert cloud().plan(images, PublishOptions()) == []
    assert cloud().publish(images, PublishOptions(), told) == replace(found, created=False)
    assert [raw.image(image["id"]) for image in before] == before
    assert not [text for text in told.said if "->" in text]
    asked = PublishOptions(visibility="private", protected=False, hidden=False, min_disk_gib=0)
    (call,) = [call for call in cloud().plan(images, asked) if found.machine_id in call]
    for words in (
        "visibility: community -> private",
        "protected: True -> False",
        "os_hidden: True -> False",
        "min_disk: 7 -> 0",
    ):
        assert words in call
    assert raw.image(found.machine_id) == before[0]
    cloud().publish(images, asked, told)
    assert any("protected: True -> False" in text for text in told.said)
    machine = raw.image(found.machine_id)
    assert {key: machine[key] for key in by_hand} == {
        "visibility": "private", "protected": False, "min_disk": 0, "os_hidden": False,
    }  # fmt: skip


def test_a_kernel_that_is_made_again_is_like_its_machine_image(
    raw: RawGlance, images: Image
) -> None:
    options = PublishOptions(visibility="community", protected=True)
    found = cloud().publish(images, options, QuietProgress())
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    change = [{"op": "replace", "path": "/protected", "value": False}]
    raw.call("PATCH", f"images/{found.kernel_id}", json=change, headers=kind)
    raw.call("DELETE", f"images/{found.kernel_id}")
    again = cloud().publish(images, PublishOptions(), QuietProgress())
    assert again.machine_id == found.machine_id
    for image_id in (again.kernel_id, again.ramdisk_id, again.machine_id):
        image = raw.image(image_id)
        shown = (image["visibility"], image["protected"], image["os_hidden"])
        assert shown == ("community", True, False)


def test_a_kernel_left_hidden_by_a_kill_is_shown(raw: RawGlance, images: Image) -> None:
    found = cloud().publish(images, PublishOptions(), QuietProgress())
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    change = [{"op": "replace", "path": "/os_hidden", "value": True}]
    raw.call("PATCH", f"images/{found.kernel_id}", json=change, headers=kind)
    cloud().publish(images, PublishOptions(), QuietProgress())
    assert raw.image(found.kernel_id)["os_hidden"] is False


def test_all_protected_images_are_named_at_once(raw: RawGlance, images: Image) -> None:
    found = cloud().publish(images, PublishOptions(protected=True), QuietProgress())
    with pytest.raises(CloudError) as caught:
        cloud().withdraw(found)
    for image_id in (found.kernel_id, found.ramdisk_id, found.machine_id):
        assert f"openstack image set --unprotected {image_id}" in caught.value.next_step


def test_a_build_deleted_often_costs_no_refused_request(
    lone_glance: LoneGlance, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(lone_glance.url).running() as proxy:
        account(proxy.url, tmp_path, monkeypatch)
        for _ in range(4):
            seen = len(proxy.requests)
            cloud().withdraw(cloud().publish(images, PublishOptions(), QuietProgress()))
            posts = [r for r in proxy.requests[seen:] if r.method == "POST"]
            assert len(posts) == 3
        # Another host knows nothing of them and asks; what it learns it keeps, too.
        monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "elsewhere"))
        for tried in (3 * 5, 3):
            seen = len(proxy.requests)
            cloud().withdraw(cloud().publish(images, PublishOptions(), QuietProgress()))
            assert len([r for r in proxy.requests[seen:] if r.method == "POST"]) == tried


def test_a_machine_image_is_linked_when_it_is_created(
    lone_glance: LoneGlance, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloud that reserves kernel_id then refuses before any data is sent."""
    with FaultProxy(lone_glance.url).running() as proxy:
        raw = account(proxy.url, tmp_path, monkeypatch)
        links: list[str] = []

        def look(request: Request) -> None:
            if request.method == "PUT" and not links:
                links.extend(image.kernel_id for image in raw.seen(hidden=True))

        proxy.choose = look
        found = cloud().publish(images, PublishOptions(), QuietProgress())
        assert found.kernel_id in links


@contextmanager
def two_stores(directory: Path) -> Iterator[str]:
    """A Glance with the stores "fast" (the default) and "slow"."""
    settings = (
        "enabled_backends = fast:file,slow:file\n[slow]\n"
        f"filesystem_store_datadir = {directory}/slow\n"
    )
    (directory / "slow").mkdir()
    with own_glance(directory / "glance", settings) as url:
        yield url


def test_a_store_is_chosen(images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_stores(tmp_path) as url:
        raw = account(url, tmp_path, monkeypatch)
        with pytest.raises(InputError, match=r"no store quick\. Use one of: fast, slow"):
            cloud().probe(images, PublishOptions(store="quick"))
        options = PublishOptions(store="slow")
        cloud().probe(images, options)
        found = cloud().publish(images, options, QuietProgress())
        ids = (found.kernel_id, found.ramdisk_id, found.machine_id)
        assert [raw.image(image_id)["stores"] for image_id in ids] == ["slow"] * 3
        assert len(list((tmp_path / "slow").iterdir())) == 3
        told = Told()
        cloud().publish(images, PublishOptions(store="fast"), told)
        assert any("stays in the store slow" in text for text in told.said)


def test_one_store_is_no_choice(raw: RawGlance, images: Image) -> None:
    with pytest.raises(InputError, match="no store slow"):
        cloud().probe(images, PublishOptions(store="slow"))


def test_a_cloud_that_converts_at_import_is_told_after_one_upload(
    images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imports alone are allowed, and the plugin makes qcow2 of what is raw."""
    settings = (
        "[image_import_opts]\nimage_import_plugins = ['image_conversion']\n"
        "[image_conversion]\noutput_format = qcow2\n"
    )
    with contextlib.ExitStack() as servers:
        url = servers.enter_context(own_glance(tmp_path / "glance", settings, upload_image="!"))
        proxy = servers.enter_context(FaultProxy(url).running())
        raw = account(proxy.url, tmp_path, monkeypatch)
        disk = tmp_path / "demo.raw"
        disk.write_bytes(b"disk" * 100_000)
        with pytest.raises(CloudError, match=r"converts what is imported, raw to qcow2"):
            cloud().publish(
                with_disk(images, disk), PublishOptions(whole_disk=True), QuietProgress()
            )
        staged = [r for r in proxy.requests if r.path.endswith("/stage")]
        assert len(staged) == 1
        with pytest.raises(CloudError, match=r"its import failed 2 times: \w+") as caught:
            cloud().publish(images, PublishOptions(), QuietProgress())
        assert "aki/aki" in caught.value.next_step
        assert raw.seen(hidden=True) == []


def test_a_refusal_is_told_without_entities(raw: RawGlance) -> None:
    with connect("glance:mine", "mine", QUICK) as api:
        image_id = raw.add("x")
        with pytest.raises(StatusError) as caught:
            api.patch(image_id, {"checksum": "0"}, "change")
    assert "'checksum'" in str(caught.value)
    assert "&#" not in str(caught.value)


def test_the_check_asks_the_endpoint_that_uploads_use(
    raw: RawGlance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cloud().check() == f"logged in; images are at {raw.url}/v2"
    settings = token_settings(raw.url, raw.token)
    closed = {**settings, "image_endpoint_override": "http://user:never-shown@127.0.0.1:9"}
    config = tmp_path / "closed.yaml"
    config.write_text(json.dumps({"clouds": {"mine": closed}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(config))
    with pytest.raises(CloudError, match=r"127\.0\.0\.1:9") as caught:
        cloud().check()
    assert "never-shown" not in str(caught.value)
    config.write_text(
        json.dumps({"clouds": {"mine": {**closed, "image_endpoint_override": "https://127.0.0.1:9",
                                        "cacert": str(tmp_path / "gone.pem")}}})
    )  # fmt: skip
    with pytest.raises(CloudError, match=r"gone\.pem.*cacert"):
        cloud().check()


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
