"""S3-backed images beyond the contract: resumption, wrong keys, lying clouds, other servers."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipeline.clouds.aws import objects, publication
from pipeline.clouds.aws.images import Images, RegisteredImage
from pipeline.clouds.aws.objects import Bucket, PartUploads
from pipeline.clouds.aws.s3_backed import open_ec2
from pipeline.clouds.aws.session import open_site
from pipeline.clouds.aws.unbundle import unbundle_image
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.errors import CloudError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image, Registration
from tests.contract.ec2_site import openstack_account, standin
from tests.contract.observers import Observed
from tests.contract.site import image_file, make_images, rebuilt
from tests.fakes.protocol import Answer, Refused
from tests.fakes.s3 import Object
from tests.fakes.server import Cloud, error_answer
from tests.servers.openstack_cloud import Endpoints

pytestmark = pytest.mark.integration
OPTIONS = PublishOptions()
MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "EC2_", "S3_", "EUCALYPTUS_")):
            monkeypatch.delenv(name)
    for name, value in {
        "IMAGE_PIPELINE_CONFIG": str(tmp_path / "config"),
        "IMAGE_PIPELINE_CACHE": str(tmp_path / "cache"),
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "EC2_BUCKET": "images",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    with standin(tmp_path) as (running, certificate):
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EUCALYPTUS_CERT", str(certificate))
        yield running


@pytest.fixture
def images(tmp_path: Path) -> Image:
    """A root that takes several parts."""
    images = make_images(tmp_path / "build")
    path = images.machine.path
    path.write_bytes(os.urandom(35 * MIB))
    return images.replacing(image_file(images.machine.role, path))


def publish(images: Image, options: PublishOptions = OPTIONS) -> Registration:
    return open_ec2("").publish(images, options, QuietProgress())


def assert_registered(cloud: Cloud, images: Image, registration: Registration) -> None:
    ids = (registration.kernel_id, registration.ramdisk_id, registration.machine_id)
    for file, image_id in zip(images.triple, ids, strict=True):
        image = cloud.ec2.images[image_id]
        assert (image.state, image.kind) == ("available", str(file.role))
        assert image.data == file.path.read_bytes()
    machine = cloud.ec2.images[registration.machine_id]
    assert (machine.kernel_id, machine.ramdisk_id) == ids[:2]


def another_certificate(directory: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    path = directory / "another.pem"
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_parts_lie_at_the_root_readable_by_ec2_and_marked(cloud: Cloud, images: Image) -> None:
    registration = publish(images)
    assert_registered(cloud, images, registration)
    stored_objects = cloud.s3.buckets["images"]
    assert {stored.acl for stored in stored_objects.values()} == {"aws-exec-read"}
    assert not any("/" in key for key in stored_objects)
    stem = f"machine-demo-{registration.key[:32]}"
    assert sum(key.startswith(f"{stem}.") for key in stored_objects) == 5
    marks = stored_objects[f"{stem}.manifest.xml"].metadata
    assert marks["image-pipeline-sha256"] == images.machine.sha256
    assert cloud.ec2.images[registration.machine_id].tags["image_pipeline_role"] == "machine"


def test_a_cloud_without_acls_and_tags_is_served(cloud: Cloud, images: Image) -> None:
    cloud.s3.acls = False
    cloud.ec2.tagging = False
    cloud.ec2.unique_names = False
    registration = publish(images)
    assert_registered(cloud, images, registration)
    assert publish(images) == replace(registration, created=False)


def break_off(cloud: Cloud, images: Image) -> None:
    """An upload that ends at its fifth object; the cloud is well again afterwards."""

    def refuse(service: str, operation: str, number: int) -> Answer | None:
        if operation == "PutObject" and number == 5:
            return error_answer(service, Refused(403, "AccessDenied", "no more"))
        return None

    cloud.fault = refuse
    with pytest.raises(CloudError, match="no more"):
        publish(images)
    cloud.fault = lambda service, operation, number: None


def test_an_interrupted_upload_goes_on_with_the_parts_that_are_there(
    cloud: Cloud, images: Image
) -> None:
    break_off(cloud, images)
    assert cloud.ec2.images == {}
    before = {key: stored.modified for key, stored in cloud.s3.buckets["images"].items()}
    assert len(before) >= 4
    assert_registered(cloud, images, publish(images))
    after = {key: cloud.s3.buckets["images"][key].modified for key in before}
    assert after == before


def test_a_killed_upload_goes_on_with_the_parts_that_are_there(cloud: Cloud, images: Image) -> None:
    """SIGKILL once three parts of the machine image are stored."""
    program = f"""
import dataclasses, os, pickle, signal, sys
from pathlib import Path
from pipeline.clouds.aws import objects
from pipeline.clouds.aws.s3_backed import open_ec2
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.events import QuietProgress
put = objects.Bucket.put
count = 0
def killing(self, key, *rest, **named):
    global count
    put(self, key, *rest, **named)
    count += key.startswith("machine")
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
objects.Bucket.put = killing
images = pickle.loads(Path({str(images.machine.path.with_name("set"))!r}).read_bytes())
open_ec2("").publish(images, PublishOptions(), QuietProgress())
"""
    images.machine.path.with_name("set").write_bytes(pickle.dumps(images))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ.copy(),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    before = dict(cloud.s3.buckets["images"])
    assert_registered(cloud, images, publish(images))
    assert all(cloud.s3.buckets["images"][key] is stored for key, stored in before.items())


def test_parts_of_a_build_that_was_never_finished_are_swept_after_a_day(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(cloud, images)
    orphans = {key for key in cloud.s3.buckets["images"] if key.startswith("machine-")}
    assert orphans
    cloud.s3.buckets["images"]["machine-demo-of-somebody-else"] = Object(b"x", "etag")
    rebuilt_images = rebuilt(images, 2)
    publish(rebuilt_images)
    assert orphans <= cloud.s3.buckets["images"].keys(), "another host may be sending them"
    for stored in cloud.s3.buckets["images"].values():
        stored.modified -= timedelta(days=2)
    registration = publish(rebuilt_images)
    assert not orphans & cloud.s3.buckets["images"].keys()
    assert "machine-demo-of-somebody-else" in cloud.s3.buckets["images"]
    assert_registered(cloud, rebuilt_images, registration)
    assert not registration.created


def test_a_part_damaged_on_its_way_is_sent_again_and_stays_readable_by_ec2(
    cloud: Cloud, images: Image
) -> None:
    def damage(service: str, operation: str, number: int) -> Answer | None:
        if operation == "PutObject" and number in (3, 4):
            return error_answer(service, Refused(400, "BadDigest", "it has another MD5"))
        return None

    cloud.fault = damage
    assert_registered(cloud, images, publish(images))
    assert {stored.acl for stored in cloud.s3.buckets["images"].values()} == {"aws-exec-read"}


def test_a_line_that_damages_every_part_is_told(cloud: Cloud, images: Image) -> None:
    def damage(service: str, operation: str, number: int) -> Answer | None:
        if operation == "PutObject":
            return error_answer(service, Refused(400, "BadDigest", "it has another MD5"))
        return None

    cloud.fault = damage
    with pytest.raises(CloudError, match="BadDigest: it has another MD5"):
        publish(images)
    assert cloud.s3.buckets["images"] == {}


def test_a_listing_that_lags_is_asked_again(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_LISTING_SECONDS", 0.1)
    behind = iter([True, True, False])
    empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"

    def lag(service: str, operation: str, number: int) -> Answer | None:
        sent = cloud.s3.buckets.get("images")
        if operation == "ListObjectsV2" and sent and next(behind, False):
            return Answer(200, empty.encode())
        return None

    cloud.fault = lag
    assert_registered(cloud, images, publish(images))
    assert next(behind, None) is None


def test_a_bucket_that_another_upload_makes_meanwhile_is_used(cloud: Cloud, images: Image) -> None:
    def overtake(service: str, operation: str, number: int) -> Answer | None:
        if operation == "CreateBucket":
            cloud.s3.buckets["images"] = {}
            return error_answer(service, Refused(409, "BucketAlreadyOwnedByYou", "it is yours"))
        return None

    cloud.fault = overtake
    assert_registered(cloud, images, publish(images))


def test_a_part_that_the_store_lost_is_told_and_sent_again(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_LISTING_SECONDS", 0.1)

    def lose(service: str, operation: str, number: int) -> Answer | None:
        if operation == "ListObjectsV2":
            held = cloud.s3.buckets["images"]
            for key in [k for k in held if k.startswith("machine") and "part.01" in k]:
                del held[key]
        return None

    cloud.fault = lose
    with pytest.raises(CloudError, match="lists 1 of them not"):
        publish(images)
    cloud.fault = lambda service, operation, number: None
    assert_registered(cloud, images, publish(images))


def test_the_wrong_certificate_is_told_and_leaves_no_image(
    cloud: Cloud, images: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = os.environ["EUCALYPTUS_CERT"]
    monkeypatch.setenv("EUCALYPTUS_CERT", str(another_certificate(tmp_path)))
    with pytest.raises(CloudError, match="certificate"):
        publish(images)
    assert cloud.ec2.images == {}
    monkeypatch.setenv("EUCALYPTUS_CERT", right)
    assert_registered(cloud, images, publish(images))


@pytest.mark.parametrize("status", [None, 503])
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
        return error_answer(service, Refused(status, "ServiceUnavailable", "busy"))

    cloud.fault = once
    assert_registered(cloud, images, publish(images))
    assert len(cloud.ec2.images) == 3
    assert {"PutObject", "RegisterImage", "DescribeImages"} <= failed


def test_a_kernel_that_two_builds_share_goes_with_the_last(cloud: Cloud, images: Image) -> None:
    first = publish(images)
    second = publish(rebuilt(images, seed=9))
    assert (first.kernel_id, first.ramdisk_id) == (second.kernel_id, second.ramdisk_id)
    open_ec2("").withdraw(first)
    assert set(cloud.ec2.images) == {second.kernel_id, second.ramdisk_id, second.machine_id}
    open_ec2("").withdraw(second)
    assert cloud.ec2.images == {}
    assert cloud.s3.buckets["images"] == {}


def test_a_kernel_that_went_while_the_machine_image_was_made_is_noticed(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another host's upload of the build rolls back."""
    monkeypatch.setattr(publication, "_LOOK_SECONDS", 0.0)

    def take_the_kernel(_service: str, operation: str, _number: int) -> None:
        if operation == "CreateTags":
            for image in [i for i in cloud.ec2.images.values() if i.kind == "kernel"]:
                del cloud.ec2.images[image.id]

    cloud.fault = take_the_kernel
    with pytest.raises(CloudError, match="deregistered meanwhile"):
        publish(images)
    cloud.fault = lambda _service, _operation, _number: None
    assert not [i for i in cloud.ec2.images.values() if i.kind == "machine"]
    assert_registered(cloud, images, publish(images))


def test_a_roll_back_spares_what_another_upload_uses(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts: the lock of one does not bind the other."""
    monkeypatch.setattr(
        "pipeline.clouds.aws.s3_backed.one_at_a_time", lambda *_: contextlib.nullcontext()
    )
    others: list[Registration] = []
    second = rebuilt(images, seed=9)

    def at(_call: int, text: str) -> None:
        if "registering the machine" in text and not others:
            others.append(publish(second))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_ec2("").publish(images, OPTIONS, Observed(at))
    assert_registered(cloud, second, others[0])
    assert len(cloud.ec2.images) == 3


def test_a_network_that_goes_while_an_image_is_waited_for_is_the_clouds_fault(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Images(open_site("ec2", ""))

    def gone(**_words: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://gone")

    monkeypatch.setattr(account._client, "describe_images", gone)
    with pytest.raises(CloudError, match="wait for"):
        account.wait("ami-1", "the image", 1.0, lambda: None)


def test_public_and_shared_images_and_back(cloud: Cloud, images: Image) -> None:
    registration = publish(images, PublishOptions(visibility="public"))
    machine = cloud.ec2.images[registration.machine_id]
    kernel = cloud.ec2.images[registration.kernel_id]
    assert machine.permissions == kernel.permissions == [{"Group": "all"}]
    publish(images, PublishOptions(visibility="shared", members=("123456789012",)))
    assert machine.permissions == [{"UserId": "123456789012"}]
    publish(images)
    assert machine.permissions == kernel.permissions == []


def test_a_kernel_of_a_public_image_stays_public(cloud: Cloud, images: Image) -> None:
    first = publish(images, PublishOptions(visibility="public"))
    second = publish(rebuilt(images, seed=9))
    assert first.kernel_id == second.kernel_id
    assert cloud.ec2.images[first.kernel_id].permissions == [{"Group": "all"}]
    assert cloud.ec2.images[second.machine_id].permissions == []


def test_an_image_that_an_earlier_run_left_stuck_is_replaced(
    cloud: Cloud, images: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = publish(images)
    del cloud.ec2.images[registration.machine_id]
    stuck = cloud.ec2.images[registration.kernel_id]
    stuck.state, stuck.looks = "pending", 10_000
    monkeypatch.setattr(publication, "_AVAILABLE_SECONDS", 1.0)
    with pytest.raises(CloudError, match="still pending"):
        publish(images)
    again = publish(images)
    assert again.kernel_id != stuck.id
    assert_registered(cloud, images, again)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PublishOptions(hidden=True), "hidden"),
        (PublishOptions(visibility="community"), "community"),
        (PublishOptions(whole_disk=True), "whole disks"),
        (PublishOptions(protected=True), "protected"),
        (PublishOptions(regions=("x",)), "regions"),
    ],
)
def test_what_ec2_does_not_know_is_refused_before_any_request(
    options: PublishOptions, words: str, cloud: Cloud, images: Image
) -> None:
    with pytest.raises(InputError, match=words):
        open_ec2("").probe(images, options)
    assert not cloud.calls


def test_unbundle_reads_a_bundle_from_the_bucket(
    cloud: Cloud, images: Image, tmp_path: Path
) -> None:
    registration = publish(images)
    source = f"s3://{registration.location}"
    unbundle_image(source, tmp_path / "out", progress=QuietProgress())
    assert (tmp_path / "out").read_bytes() == images.machine.path.read_bytes()


def test_progress_moves_while_parts_are_sent(cloud: Cloud, images: Image) -> None:
    words: list[str] = []
    open_ec2("").publish(images, OPTIONS, Observed(lambda _number, text: words.append(text)))
    moving = [word for word in words if word.startswith("advance") and "machine" in word]
    assert len(moving) >= 35


@pytest.fixture
def openstack(
    ec2_cloud: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> tuple[Endpoints, dict[str, str]]:
    """A new account of Keystone, Glance, Swift and ec2-api, named as euca2ools' users do."""
    account, _ = openstack_account(ec2_cloud)
    environment = {
        "EC2_URL": account.ec2,
        "S3_URL": account.s3,
        "EC2_ACCESS_KEY": account.access,
        "EC2_SECRET_KEY": account.secret,
        "AWS_REGION": account.region,
        "EUCALYPTUS_CERT": ec2_cloud.cloud_certificate,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return ec2_cloud, environment


def test_ec2_api_takes_a_bundle_of_several_parts(
    openstack: tuple[Endpoints, dict[str, str]], images: Image
) -> None:
    """Several parts and a hole: the bytes Glance stores are ours."""
    endpoints, _ = openstack
    with images.machine.path.open("r+b") as root:
        root.truncate(80 * MIB)
        root.seek(60 * MIB)
        root.write(b"after the hole")
    build = images.replacing(image_file(images.machine.role, images.machine.path))
    registration = publish(build)
    assert registration.machine_id.startswith("ami-")
    assert registration.kernel_id.startswith("aki-")
    assert registration.ramdisk_id.startswith("ari-")
    stored = [p for p in Path(endpoints.store).rglob("*") if p.is_file()]
    for file in build.triple:
        data = file.path.read_bytes()
        assert any(p.stat().st_size == len(data) and p.read_bytes() == data for p in stored)
    open_ec2("").withdraw(registration)


def test_ec2_api_refuses_the_wrong_certificate(
    openstack: tuple[Endpoints, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = make_images(tmp_path / "small")
    monkeypatch.setenv("EUCALYPTUS_CERT", str(another_certificate(tmp_path)))
    with pytest.raises(CloudError, match="certificate"):
        publish(small)
    _, environment = openstack
    client = boto3.client(
        "ec2",
        endpoint_url=environment["EC2_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["EC2_ACCESS_KEY"],
        aws_secret_access_key=environment["EC2_SECRET_KEY"],
    )
    assert client.describe_images(Owners=["self"])["Images"] == []


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The popular AWS mock as a server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield f"http://{host}:{port}"
    server.stop()


def test_moto_s_s3_keeps_objects_and_parts(moto: str) -> None:
    bucket = Bucket(open_site("ec2", "").s3(), "images", "ec2")
    assert not bucket.check()
    bucket.ensure()
    bucket.put("a.manifest.xml", b"text", {"image-pipeline-name": "demo"})
    assert bucket.metadata("a.manifest.xml") == {"image-pipeline-name": "demo"}
    assert bucket.metadata("b") is None
    assert bucket.get("a.manifest.xml", 10) == b"text"
    with PartUploads(bucket, lambda i: f"p.part.{i:02d}", {}, lambda: None) as uploads:
        for index in range(7):
            uploads(index, bytes([index]) * 1000)
        uploads.finish("p.")
    assert len(uploads.sent) == 7
    with PartUploads(bucket, lambda i: f"p.part.{i:02d}", bucket.list("p."), lambda: None) as again:
        for index in range(7):
            again(index, bytes([index + (index == 3)]) * 1000)
        again.finish("p.")
    assert again.sent == ["p.part.03"]
    assert bucket.delete("p.") == 7
    assert set(bucket.list("")) == {"a.manifest.xml"}


def test_moto_s_ec2_registers_finds_shares_and_tags(moto: str) -> None:
    """It keeps an image's name and tags; what a request links or leaves out it does not check."""
    account = Images(open_site("ebs", ""))
    request = {
        "Name": "demo-1",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [],
        "TagSpecifications": [
            {"ResourceType": "image", "Tags": [{"Key": "image_pipeline_name", "Value": "demo"}]}
        ],
    }

    def find() -> list[RegisteredImage]:
        return [image for image in account.own() if image.name == "demo-1"]

    image_id, created = account.register("demo-1", request, find, lambda: None)
    assert created
    assert account.register("demo-1", request, find, lambda: None) == (image_id, False)
    account.wait(image_id, "demo-1", 60, lambda: None)
    account.tag([image_id], {"image_pipeline_name": "demo"})
    account.share(image_id, PublishOptions(visibility="public"))
    account.share(image_id, PublishOptions())
    (image,) = find()
    assert image.tags["image_pipeline_name"] == "demo"
    account.deregister(image_id)
    account.deregister(image_id)
    assert find() == []
