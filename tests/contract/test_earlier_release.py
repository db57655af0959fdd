"""A build that the release of manifest version 1 registered is found again, and nothing is sent."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.builds.manifest import FILE, read_manifest
from pipeline.clouds.aws.s3_backed import open_ec2
from pipeline.clouds.glance.cloud import GlanceCloud
from pipeline.clouds.local import LocalCloud
from pipeline.clouds.protocol import PublishOptions
from pipeline.core.events import QuietProgress
from pipeline.core.image import Image, Registration
from tests.contract.ec2_site import standin, standin_account
from tests.contract.glance_site import RawGlance
from tests.fakes.ec2 import Image as FakeImage
from tests.fakes.s3 import Object
from tests.fixtures.finished import finished_build
from tests.servers.fixtures import LoneGlance, token_settings

RECORDS = Path(__file__).parents[1] / "fixtures" / "earlier_release"
PROJECT_OF_OLD = "project1"
_SET_BY_GLANCE = frozenset(
    [
        "size",
        "virtual_size",
        "status",
        "checksum",
        "owner",
        "os_hash_algo",
        "os_hash_value",
        "created_at",
        "updated_at",
        "self",
        "file",
        "schema",
        "stores",
    ]
)


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return found


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """The build as that release left it: the files, and its own manifest."""
    directory = tmp_path / "build" / "small"
    finished_build(directory)
    (directory / FILE).write_bytes((RECORDS / "manifest.json").read_bytes())
    assert json.loads((directory / FILE).read_text())["version"] == 1
    return read_manifest(directory).image(directory)


def assert_same(found: Registration, old: dict[str, Any]) -> None:
    assert found.created is False
    ids = ("name", "kernel_id", "ramdisk_id", "machine_id", "generation", "key")
    assert {name: asdict(found)[name] for name in ids} == {name: old[name] for name in ids}


def test_in_the_local_catalogue(image: Image, tmp_path: Path) -> None:
    old, directory = record("local"), tmp_path / "catalogue"
    for name, text in old["files"].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "image-pipeline").mkdir()
    for artifact in image.triple:
        stored = directory / "image-pipeline" / artifact.sha256
        stored.write_bytes(artifact.path.read_bytes())
    before = {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}
    cloud = LocalCloud(f"local:{directory}", directory)
    assert_same(cloud.publish(image, PublishOptions(), QuietProgress()), old["registration"])
    after = {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}
    assert {p for p in after if before.get(p) != after[p]} <= {directory / ".lock"}
    assert len(cloud.generations("small")) == 1


@pytest.mark.integration
def test_in_glance(
    image: Image, lone_glance: LoneGlance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = record("glance")
    token = f"user:{PROJECT_OF_OLD}:member,reader"
    raw = RawGlance(lone_glance.url, token)
    files = {artifact.sha256: artifact.path.read_bytes() for artifact in image.triple}
    for entry in old["images"]:
        sent = {k: v for k, v in entry.items() if k not in _SET_BY_GLANCE}
        raw.call("POST", "images", json=sent)
        raw.call(
            "PUT",
            f"images/{entry['id']}/file",
            data=files[entry["image_pipeline_sha256"]],
            headers={"Content-Type": "application/octet-stream"},
        )
    before = {i["id"]: i for i in (*raw.images(), *raw.images(os_hidden="true"))}
    assert len(before) == 3
    settings = tmp_path / "clouds.yaml"
    settings.write_text(json.dumps({"clouds": {"mine": token_settings(lone_glance.url, token)}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(settings))
    cloud = GlanceCloud("glance:mine", "mine")
    assert_same(cloud.publish(image, PublishOptions(), QuietProgress()), old["registration"])
    after = {i["id"]: i for i in (*raw.images(), *raw.images(os_hidden="true"))}
    assert after == before


@pytest.mark.integration
def test_on_an_s3_backed_cloud(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = record("ec2")
    monkeypatch.setenv("IMAGE_PIPELINE_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("IMAGE_PIPELINE_CACHE", str(tmp_path / "cache"))
    with standin(tmp_path) as (cloud, certificate):
        profile = standin_account(cloud).profiles(
            image_pipeline_bucket="images", image_pipeline_certificate=str(certificate)
        )
        (tmp_path / "aws").write_text(profile)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        cloud.s3.buckets["images"] = {
            name: Object(
                base64.b64decode(each["data"]), each["etag"], each["acl"], each["metadata"]
            )
            for name, each in old["objects"].items()
        }
        for each in old["images"]:
            cloud.ec2.images[each["id"]] = FakeImage(**each)
        objects = dict(cloud.s3.buckets["images"])
        found = open_ec2("mine").publish(image, PublishOptions(), QuietProgress())
        assert_same(found, old["registration"])
        assert cloud.s3.buckets["images"] == objects
        assert set(cloud.ec2.images) == {each["id"] for each in old["images"]}
        assert not cloud.calls["ec2.RegisterImage"]
        assert not cloud.calls["s3.PutObject"]
