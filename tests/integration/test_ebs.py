"""EBS-backed images against the strict stand-in: checksums, parents, resumption, faults."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.clouds.aws import ebs_direct
from pipeline.clouds.aws.ebs_backed import EbsCloud, open_ebs
from pipeline.clouds.aws.ebs_direct import BLOCK
from pipeline.clouds.aws.session import open_site
from pipeline.clouds.protocol import Interrupted, PublishOptions
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image, Registration
from pipeline.disk.blocks.source import RawFile
from tests.contract.observers import Observed
from tests.contract.site import make_images, with_disk
from tests.contract.site import rebuilt as with_another_root
from tests.fakes.protocol import Answer, Fault, Refused
from tests.fakes.server import Cloud, error_answer, running

pytestmark = pytest.mark.integration
OPTIONS = PublishOptions()
_BLOCKS = 41  # of the disk: some 20 MiB


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    with running() as standin:
        environment = standin.environment | {
            "IMAGE_PIPELINE_CONFIG": str(tmp_path / "config"),
            "IMAGE_PIPELINE_CACHE": str(tmp_path / "cache"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield standin


@pytest.fixture
def images(tmp_path: Path) -> Image:
    return make_disk(tmp_path / "build", seed=1)


def make_disk(directory: Path, seed: int) -> Image:
    """A build whose disk holds data, blocks of zeros, holes, and an end that fills no block."""
    images = make_images(directory, seed=seed)
    disk = directory / "demo-disk.raw"
    source = random.Random(seed)
    with disk.open("wb") as file:
        for number in range(0, _BLOCKS, 2):
            file.seek(number * BLOCK)
            file.write(bytes(BLOCK) if number % 8 == 0 else source.randbytes(BLOCK))
        file.seek(_BLOCKS * BLOCK)
        file.write(source.randbytes(4096))
    return with_disk(images, disk)


def publish(images: Image, options: PublishOptions = OPTIONS) -> Registration:
    return open_ebs("").publish(images, options, QuietProgress())


def disk_bytes(images: Image) -> bytes:
    assert images.disk is not None
    return images.disk.path.read_bytes()


def assert_registered(cloud: Cloud, images: Image, registration: Registration) -> None:
    image = cloud.ec2.images[registration.machine_id]
    assert image.state == "available"
    data = disk_bytes(images)
    assert image.data is not None
    assert image.data[: len(data)] == data
    assert not any(image.data[len(data) :])


def at_call(service: str, operation: str, number: int, answer: Answer | None = None) -> Fault:
    """A fault at one call; without an answer the connection is cut."""

    def fault(called: str, name: str, count: int) -> Answer | None:
        if (called, name, count) != (service, operation, number):
            return None
        if answer is None:
            raise ConnectionAbortedError
        return answer

    return fault


def test_a_disk_for_aarch64_is_registered_as_arm64_that_starts_by_uefi(
    cloud: Cloud, images: Image
) -> None:
    arm = replace(images, architecture="aarch64")
    (call,) = (line for line in open_ebs("").plan(arm, OPTIONS) if "RegisterImage" in line)
    assert "BootMode=uefi" in call.split()
    registration = publish(arm)
    request = cloud.ec2.images[registration.machine_id].request
    assert (request["Architecture"], request["BootMode"]) == ("arm64", "uefi")
    assert publish(arm).machine_id == registration.machine_id
    assert publish(images).machine_id != registration.machine_id


def test_a_disk_becomes_a_snapshot_and_an_image(cloud: Cloud, images: Image) -> None:
    open_ebs("").probe(images, OPTIONS)
    registration = publish(images, PublishOptions(tags=("team=release",), visibility="public"))
    assert registration.created
    assert (registration.kernel_id, registration.ramdisk_id) == ("", "")
    assert_registered(cloud, images, registration)
    image = cloud.ec2.images[registration.machine_id]
    assert image.request["BootMode"] == "uefi-preferred"
    assert image.tags["team"] == "release"
    assert image.permissions == [{"Group": "all"}]
    data = [n for n in range(0, _BLOCKS, 2) if n % 8] + [_BLOCKS]
    assert sorted(cloud.ebs.snapshots[registration.location].own) == data
    assert cloud.calls["ebs.PutSnapshotBlock"] == len(data)


def test_a_rerun_sends_nothing(cloud: Cloud, images: Image) -> None:
    first = publish(images, PublishOptions(visibility="public"))
    before = cloud.calls.copy()
    assert publish(images) == replace(first, created=False)
    new = cloud.calls - before
    assert {name for name in new if "Describe" not in name} == set()
    publish(images, PublishOptions(visibility="private"))
    new = cloud.calls - before
    assert {name for name in new if "Describe" not in name} == {"ec2.ModifyImageAttribute"}
    assert cloud.ec2.images[first.machine_id].permissions == []


class Told(QuietProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


_HOLES = set(range(1, _BLOCKS, 2))  # of `make_disk`


@pytest.mark.parametrize("asked", [True, False])
def test_zeros_that_were_written_are_sent_to_an_encrypted_snapshot(
    cloud: Cloud, images: Image, asked: bool
) -> None:
    """A block that was never put reads as random bytes there; the account's default is asked for,
    or, where the user may not ask, told by the snapshot's start."""
    cloud.ebs.encrypts = True
    if not asked:
        cloud.ec2.forbidden.add("GetEbsEncryptionByDefault")
    planned = " ".join(open_ebs("").plan(images, OPTIONS))
    assert ("zeros, too" in planned) is asked
    told = Told()
    first = open_ebs("").publish(images, OPTIONS, told)
    assert any("holes are taken for never written" in text for text in told.said)
    assert set(cloud.ebs.snapshots[first.location].own) == {*range(_BLOCKS + 1)} - _HOLES
    assert_written(cloud, images, first)
    # What the next generation writes over, empties or leaves as it was is known of the first.
    assert images.disk is not None
    with images.disk.path.open("r+b") as disk:
        disk.seek(2 * BLOCK)
        disk.write(bytes(BLOCK))
        disk.seek(8 * BLOCK)
        disk.write(b"no more zeros")
    later = with_another_root(images, seed=5)
    second = open_ebs("").publish(later, OPTIONS, told)
    assert set(cloud.ebs.snapshots[second.location].own) == {2, 8}
    assert_written(cloud, later, second)


def assert_written(cloud: Cloud, images: Image, registration: Registration) -> None:
    """What lies in the disk's file is on the volume; its holes may be anything."""
    image, data = cloud.ec2.images[registration.machine_id], disk_bytes(images)
    assert image.data is not None
    for number in {*range(_BLOCKS + 1)} - _HOLES:
        block = data[number * BLOCK : (number + 1) * BLOCK]
        assert image.data[number * BLOCK :][: len(block)] == block, number


def test_holes_are_sent_to_an_encrypted_snapshot_where_that_is_set(
    cloud: Cloud, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.ebs.encrypts = True
    profiles = tmp_path / "aws"
    profiles.write_text("[default]\nimage_pipeline_holes = send\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
    assert_registered(cloud, images, publish(images))
    profiles.write_text("[default]\nimage_pipeline_holes = maybe\n")
    with pytest.raises(InputError, match="maybe"):
        open_ebs("")


def test_an_account_that_begins_to_encrypt_gets_a_snapshot_without_parent(
    cloud: Cloud, images: Image
) -> None:
    publish(images)
    cloud.ebs.encrypts = True
    later = with_another_root(images, seed=5)
    second = publish(later)
    assert cloud.ebs.snapshots[second.location].parent is None
    assert_written(cloud, later, second)


def test_options_of_a_rerun_are_told_and_planned(cloud: Cloud, images: Image) -> None:
    asked = PublishOptions(protected=True, visibility="public", tags=("team=a",))
    found = publish(images, asked)
    machine = cloud.ec2.images[found.machine_id]
    assert machine.tags["image_pipeline_state"] == "whole"
    assert machine.tags["image_pipeline_verified"] == "true"
    told = Told()
    assert open_ebs("").plan(images, OPTIONS) == [f"nothing: {found.machine_id} holds this build"]
    open_ebs("").publish(images, OPTIONS, told)
    assert machine.protected
    assert machine.permissions == [{"Group": "all"}]
    assert told.said == []
    asked = PublishOptions(protected=False, visibility="private", tags=("team=b",))
    unverified = replace(images, checks=())
    planned = open_ebs("").plan(unverified, asked)
    open_ebs("").publish(unverified, asked, told)
    for words in ("launch permission - all", "DisableImage", "team=b", "verified=false"):
        assert any(words in call for call in planned)
        assert any(words in text for text in told.said)
    assert (machine.protected, machine.permissions) == (False, [])
    assert (machine.tags["team"], machine.tags["image_pipeline_verified"]) == ("b", "false")


def test_the_check_asks_for_snapshots_too(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "snapshots by EBS direct" in open_ebs("").check()
    cloud.services = ("ec2", "s3")
    with pytest.raises(CloudError, match="no bucket is named"):
        open_ebs("").check()
    monkeypatch.setenv("EC2_BUCKET", "imports")
    assert "the bucket imports is made by the first upload" in open_ebs("").check()


def test_the_next_generation_sends_only_what_changed(cloud: Cloud, images: Image) -> None:
    first = publish(images)
    changed = rebuilt(images)
    before = cloud.calls["ebs.PutSnapshotBlock"]
    second = publish(changed)
    assert_registered(cloud, changed, second)
    assert_registered(cloud, images, first)
    snapshot = cloud.ebs.snapshots[second.location]
    assert snapshot.parent is cloud.ebs.snapshots[first.location]
    assert sorted(snapshot.own) == [1, 2, 4]
    assert not any(snapshot.own[4]), "a block zeroed since must be written over the parent's"
    assert cloud.calls["ebs.PutSnapshotBlock"] == before + 3
    assert second.generation > first.generation
    assert [g.machine_id for g in open_ebs("").generations("demo")] == [
        second.machine_id,
        first.machine_id,
    ]


def rebuilt(images: Image) -> Image:
    """One block changed, one new, one zeroed."""
    assert images.disk is not None
    disk = images.disk.path.with_name("rebuilt.raw")
    data = bytearray(images.disk.path.read_bytes())
    data[2 * BLOCK] ^= 1
    data[BLOCK : BLOCK + 5] = b"added"
    data[4 * BLOCK : 5 * BLOCK] = bytes(BLOCK)
    disk.write_bytes(data)
    return with_disk(images, disk).replacing(replace(images.machine, sha256="f" * 64))


def test_a_host_that_never_saw_the_parent_sends_all(
    cloud: Cloud, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(images)
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "another-host"))
    changed = rebuilt(images)
    second = publish(changed)
    assert cloud.ebs.snapshots[second.location].parent is None
    assert_registered(cloud, changed, second)


def test_a_snapshot_unknown_at_first_is_waited_for(cloud: Cloud, images: Image) -> None:
    cloud.ebs.late = 5
    assert_registered(cloud, images, publish(images))


@pytest.mark.parametrize("status", [None, 429, 500, 503])
def test_transient_faults_of_every_call_are_survived(
    status: int | None, cloud: Cloud, images: Image
) -> None:
    failed: set[str] = set()

    def once(service: str, operation: str, number: int) -> Answer | None:
        if operation in failed:
            return None
        failed.add(operation)
        if status is None:
            raise ConnectionAbortedError
        return error_answer(service, Refused(status, "Throttling", "busy"))

    cloud.fault = once
    assert_registered(cloud, images, publish(images))
    assert len(cloud.ec2.images) == 1
    assert len(cloud.ebs.snapshots) == 1
    assert {"StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage"} <= failed


def test_a_proxy_that_answers_in_the_cloud_s_place_is_told(cloud: Cloud, images: Image) -> None:
    page = Answer(502, b"<html>Bad gateway", {"Content-Type": "text/html"})
    cloud.fault = lambda service, operation, number: page if service == "ec2" else None
    with pytest.raises(CloudError, match=r"answered in its place|502"):
        open_ebs("").probe(images, OPTIONS)


def test_an_answer_lost_after_registering_makes_no_second_image(
    cloud: Cloud, images: Image
) -> None:
    """The image is made, the answer is cut: the name and tags give it away."""
    register = cloud.ec2._RegisterImage

    def cut(given: dict[str, object], region: str) -> dict[str, object]:
        register(given, region)
        cloud.ec2._RegisterImage = register  # type: ignore[method-assign] # once
        raise ConnectionAbortedError

    cloud.ec2._RegisterImage = cut  # type: ignore[method-assign] # the point of the test
    assert_registered(cloud, images, publish(images))
    assert len(cloud.ec2.images) == 1


@pytest.mark.parametrize("call", ["PutSnapshotBlock", "CompleteSnapshot"])
def test_what_the_cloud_refuses_is_told_and_the_next_run_goes_on(
    call: str, cloud: Cloud, images: Image
) -> None:
    body = json.dumps({"Message": "You may not."}).encode()
    number = 5 if call == "PutSnapshotBlock" else 1
    refusal = Answer(403, body, {"x-amzn-ErrorType": "AccessDeniedException"})
    cloud.fault = at_call("ebs", call, number, refusal)
    with pytest.raises(CloudError, match="You may not") as caught:
        publish(images)
    assert "permissions" in str(caught.value)
    assert cloud.ec2.images == {}
    before = cloud.calls["ebs.PutSnapshotBlock"]
    # How many of the blocks under way were written when one was refused is the network's affair;
    # that none of those is sent again is ours.
    written = sum(len(snapshot.own) for snapshot in cloud.ebs.snapshots.values())
    assert_registered(cloud, images, publish(images))
    (snapshot,) = cloud.ebs.snapshots.values()
    sent_again = cloud.calls["ebs.PutSnapshotBlock"] - before
    assert sent_again == len(snapshot.own) - written
    if call == "CompleteSnapshot":
        assert sent_again == 0


def test_blocks_that_the_cloud_lost_are_sent_again(cloud: Cloud, images: Image) -> None:
    def lose(service: str, operation: str, number: int) -> Answer | None:
        if operation == "CompleteSnapshot" and number == 1:
            (snapshot,) = cloud.ebs.snapshots.values()
            snapshot.own.pop(2)
        return None

    cloud.fault = lose
    with pytest.raises(CloudError, match="blocks were written"):
        publish(images)
    assert_registered(cloud, images, publish(images))


def test_a_snapshot_that_ended_in_an_error_is_replaced(cloud: Cloud, images: Image) -> None:
    cloud.fault = at_call("ebs", "CompleteSnapshot", 1, Answer(400, b"{}"))
    with pytest.raises(CloudError):
        publish(images)
    (snapshot,) = cloud.ebs.snapshots.values()
    snapshot.state = "error"
    registration = publish(images)
    assert registration.location != snapshot.id
    assert_registered(cloud, images, registration)


def test_withdraw_takes_image_and_snapshot_and_can_be_repeated(cloud: Cloud, images: Image) -> None:
    registration = publish(images, PublishOptions(regions=("elsewhere-1",)))
    assert len(cloud.ec2.images) == 2
    open_ebs("").withdraw(registration)
    assert (cloud.ec2.images, cloud.ebs.snapshots) == ({}, {})
    open_ebs("").withdraw(registration)
    again = publish(images)
    assert again.created
    assert_registered(cloud, images, again)


def test_a_foreign_image_is_never_withdrawn(cloud: Cloud, images: Image) -> None:
    registration = publish(images)
    cloud.ec2.images[registration.machine_id].tags.clear()
    with pytest.raises(CloudError, match="by hand"):
        open_ebs("").withdraw(registration)
    assert registration.machine_id in cloud.ec2.images
    assert open_ebs("").generations("demo") == []


def test_a_disk_that_changes_while_it_is_sent_is_not_completed(cloud: Cloud, images: Image) -> None:
    assert images.disk is not None
    disk = images.disk.path

    def at(_call: int, text: str) -> None:
        if "advance" in text and "uploading the disk" in text:
            os.truncate(disk, disk.stat().st_size // 2)

    with pytest.raises(CloudError):
        open_ebs("").publish(images, OPTIONS, Observed(at))
    assert cloud.ec2.images == {}
    assert "completed" not in {snapshot.state for snapshot in cloud.ebs.snapshots.values()}


def test_a_copy_that_somebody_made_with_its_tags_is_left_alone(cloud: Cloud, images: Image) -> None:
    registration = publish(images)
    site = open_site("ebs", "")
    copy = site.ec2().copy_image(
        Name="to be kept",
        SourceImageId=registration.machine_id,
        SourceRegion="stand-in-1",
        CopyImageTags=True,
    )["ImageId"]
    assert cloud.ec2.images[copy].tags == cloud.ec2.images[registration.machine_id].tags
    assert open_ebs("").generations("demo") == [replace(registration, created=False)]
    with pytest.raises(CloudError, match="by hand"):
        open_ebs("").withdraw(replace(registration, machine_id=copy))
    open_ebs("").withdraw(registration)
    assert set(cloud.ec2.images) == {copy}
    assert publish(images).machine_id != copy


def test_two_regions_hold_the_image(cloud: Cloud, images: Image) -> None:
    options = PublishOptions(regions=("elsewhere-1", "stand-in-1"))
    registration = publish(images, options)
    assert sorted(i.region for i in cloud.ec2.images.values()) == ["elsewhere-1", "stand-in-1"]
    assert replace(registration, created=False) == publish(images, options)
    assert len(cloud.ec2.images) == 2


def test_a_copy_that_went_is_made_again_and_shared_like_the_image(
    cloud: Cloud, images: Image
) -> None:
    publish(images, PublishOptions(regions=("elsewhere-1",)))
    (gone,) = (i for i in cloud.ec2.images.values() if i.region == "elsewhere-1")
    del cloud.ec2.images[gone.id]
    options = PublishOptions(regions=("elsewhere-1",), visibility="public")
    publish(images, options)
    (copy,) = (i for i in cloud.ec2.images.values() if i.region == "elsewhere-1")
    assert copy.permissions == [{"Group": "all"}]
    publish(images, replace(options, visibility="private"))
    assert copy.permissions == []
    assert len(cloud.ec2.images) == 2


def test_a_copy_withdrawn_in_its_region_takes_no_other_along(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second copy is made when the image names the first."""
    publish(images, PublishOptions(regions=("elsewhere-1", "elsewhere-2")))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "elsewhere-2")
    (copy,) = open_ebs("").generations("demo")
    assert cloud.ec2.images[copy.machine_id].region == "elsewhere-2"
    open_ebs("").withdraw(copy)
    assert sorted(i.region for i in cloud.ec2.images.values()) == ["elsewhere-1", "stand-in-1"]


def test_without_ebs_direct_the_disk_is_imported(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.services = ("ec2", "s3")
    with pytest.raises(CloudError, match="EC2_BUCKET"):
        open_ebs("").probe(images, OPTIONS)
    monkeypatch.setenv("EC2_BUCKET", "disks")
    open_ebs("").probe(images, OPTIONS)
    registration = publish(images)
    assert_registered(cloud, images, registration)
    assert cloud.s3.buckets["disks"] == {}
    assert cloud.calls["s3.UploadPart"] == 2


def test_an_import_goes_on_with_the_parts_that_are_there(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.services = ("ec2", "s3")
    monkeypatch.setenv("EC2_BUCKET", "disks")
    cloud.fault = at_call("s3", "CompleteMultipartUpload", 1, Answer(403, b""))
    with pytest.raises(CloudError):
        publish(images)
    sent = cloud.calls["s3.UploadPart"]
    assert_registered(cloud, images, publish(images))
    assert cloud.calls["s3.UploadPart"] == sent
    assert cloud.s3.uploads == {}


def test_an_import_that_the_cloud_gave_up_is_begun_anew(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.services = ("ec2", "s3")
    monkeypatch.setenv("EC2_BUCKET", "disks")

    def give_up(_service: str, operation: str, _number: int) -> None:
        if operation == "DescribeImportSnapshotTasks":
            for task in cloud.ec2.tasks.values():
                task.status, task.message = "deleted", "the service was tired"

    cloud.fault = give_up
    with pytest.raises(CloudError, match="tired"):
        publish(images)
    cloud.fault = lambda _service, _operation, _number: None
    registration = publish(images)
    assert_registered(cloud, images, registration)
    open_ebs("").withdraw(registration)
    assert_registered(cloud, images, publish(images))


def test_a_refused_registration_is_known_before_the_upload(cloud: Cloud, images: Image) -> None:
    cloud.ec2.forbidden.add("RegisterImage")
    with pytest.raises(CloudError, match="not authorized"):
        open_ebs("").probe(images, OPTIONS)
    assert cloud.calls["ebs.StartSnapshot"] == 0


def test_a_build_without_a_disk_is_told_the_option(cloud: Cloud, images: Image) -> None:
    with pytest.raises(InputError, match="--disk-image"):
        open_ebs("").probe(replace(images, artifacts=images.triple), OPTIONS)


def test_a_qcow2_disk_is_told_how_to_become_raw(cloud: Cloud, images: Image) -> None:
    assert images.disk is not None
    images.disk.path.write_bytes(b"QFI\xfb" + bytes(508))
    with pytest.raises(InputError, match="qemu-img convert -O raw"):
        open_ebs("").probe(images, OPTIONS)


class Stop(Interrupted):
    """Raised where the user's interrupt would be."""


def test_an_interrupt_at_any_step_leaves_one_image_after_the_rerun(
    cloud: Cloud, images: Image
) -> None:
    calls = Observed(lambda _number, _text: None)
    open_ebs("").publish(images, OPTIONS, calls)
    stopped = 0
    for number in range(0, calls.calls, 5):
        build = images.replacing(replace(images.machine, sha256=f"{number:064x}"))

        def stop(call: int, _text: str, number: int = number) -> None:
            if call >= number:
                raise Stop

        try:
            open_ebs("").publish(build, OPTIONS, Observed(stop))
        except Stop:
            stopped += 1
        assert_registered(cloud, build, publish(build))
    assert stopped >= 3
    assert len({i.request["Name"] for i in cloud.ec2.images.values()}) == len(cloud.ec2.images)


def test_a_killed_upload_goes_on_with_the_blocks_that_are_there(
    cloud: Cloud, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL after the tenth block; the rerun sends the others, to the same snapshot."""
    assert images.disk is not None
    program = f"""
import os, signal
from dataclasses import replace
from pathlib import Path
from pipeline.clouds.aws import ebs_direct
from pipeline.clouds.aws.session import open_site
from tests.integration.test_ebs import make_disk, publish
write = ebs_direct.BlockIndex.write
count = 0
def killing(self, *record):
    global count
    write(self, *record)
    count += 1
    if count == 10:
        os.kill(os.getpid(), signal.SIGKILL)
ebs_direct.BlockIndex.write = killing
images = make_disk(Path({str(tmp_path / "child")!r}), seed=1)
os.utime(images.disk.path, ns=(0, 0))
publish(images)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ.copy(),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (snapshot,) = cloud.ebs.snapshots.values()
    build = with_disk(images, tmp_path / "child" / "demo-disk.raw")
    sent: list[int] = []
    put = ebs_direct.DirectUpload._put

    def counted(self: ebs_direct.DirectUpload, name: str, block: int, *rest: bytes) -> None:
        sent.append(block)
        put(self, name, block, *rest)

    # Counted here: the stand-in may still be taking what the dead process had sent.
    monkeypatch.setattr(ebs_direct.DirectUpload, "_put", counted)
    registration = publish(build)
    assert registration.location == snapshot.id
    assert_registered(cloud, build, registration)
    assert len(sent) == len(snapshot.own) - 10


def test_memory_is_bounded_by_blocks_under_way(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the cloud, only so many blocks are read ahead of what it took."""
    monkeypatch.setattr(ebs_direct, "_PUTS", 2)
    ahead: list[int] = []
    read = ebs_direct.data_blocks

    def counted(image: RawFile, zeros: ebs_direct.Zeros) -> Iterator[tuple[int, bytes]]:
        for number, block in enumerate(read(image, zeros)):
            taken = sum(len(s.own) for s in cloud.ebs.snapshots.values())
            ahead.append(number - taken)
            yield block

    monkeypatch.setattr(ebs_direct, "data_blocks", counted)
    publish(images)
    assert max(ahead) <= 6


def test_the_cloud_is_a_value(cloud: Cloud) -> None:
    assert isinstance(open_ebs(""), EbsCloud)
    assert open_ebs("").name == "ebs"
