"""S3-backed EC2 clouds under the contract: OpenStack's ec2-api, and the strict stand-in.

Observed with plain boto3 and the Image API. EC2 has no hidden images: what an ordinary user sees
are the machine images that are available and the kernels and ramdisks they name; a kernel that
nothing names is private, of no use to anybody, and taken over by the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pipeline.clouds.aws.keys import signing_key
from pipeline.clouds.aws.s3_backed import open_ec2
from tests.contract.glance_site import RawGlance
from tests.contract.site import Seen, Site
from tests.fakes.ec2 import Image
from tests.fakes.server import ACCESS, SECRET, Cloud, running
from tests.servers.fixtures import fresh_account
from tests.servers.keystone import Identity
from tests.servers.openstack_cloud import Endpoints

_QUICK = Config(retries={"total_max_attempts": 3}, read_timeout=60)


@dataclass(frozen=True)
class Account:
    """Where an account is and its keys."""

    ec2: str
    s3: str
    region: str
    access: str
    secret: str

    def client(self) -> Any:
        """The EC2 API as anybody speaks it."""
        return boto3.client(
            "ec2",
            endpoint_url=self.ec2,
            region_name=self.region,
            aws_access_key_id=self.access,
            aws_secret_access_key=self.secret,
            config=_QUICK,
        )

    def images(self) -> list[dict[str, Any]]:
        images: list[dict[str, Any]] = self.client().describe_images(Owners=["self"])["Images"]
        return images

    def everything(self) -> list[Seen]:
        return [_seen(image) for image in self.images()]

    def visible(self) -> list[Seen]:
        found = [_seen(i) for i in self.images() if i["State"] == "available"]
        linked = {i for image in found for i in (image.kernel_id, image.ramdisk_id)}
        return [i for i in found if i.role == "machine" or i.id in linked]

    def profiles(self, **settings: str) -> str:
        """An AWS configuration file with this account as "mine", and "stranger" with no rights."""
        common = {"region": self.region, "services": "here", **settings}
        right = {"aws_access_key_id": self.access, "aws_secret_access_key": self.secret}
        wrong = {"aws_access_key_id": self.access, "aws_secret_access_key": "x" * 32}
        sections: dict[str, Mapping[str, str]] = {
            "profile mine": common | right,
            "profile stranger": common | wrong,
            "services here": {
                "ec2": f"\n  endpoint_url = {self.ec2}",
                "s3": f"\n  endpoint_url = {self.s3}",
                "ebs": f"\n  endpoint_url = {self.ec2}",
            },
        }
        return "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in section.items())
            for name, section in sections.items()
        )


def _seen(image: Mapping[str, Any]) -> Seen:
    role = {"aki": "kernel", "ari": "ramdisk"}.get(image["ImageId"][:3], "machine")
    return Seen(image["ImageId"], role, image.get("KernelId", ""), image.get("RamdiskId", ""))


def ec2_site(
    kind: str,
    account: Account,
    certificate: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    data: Callable[[str], bytes | None],
    foreign: Callable[[str], str],
) -> Site:
    config = directory / "aws-config"
    config.write_text(
        account.profiles(
            image_pipeline_bucket="images", image_pipeline_certificate=str(certificate)
        )
    )
    environment = {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "IMAGE_PIPELINE_CONFIG": str(directory / "config"),
        "IMAGE_PIPELINE_CACHE": str(directory / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Site(
        kind=kind,
        word="ec2:mine",
        open=lambda: open_ec2("mine"),
        visible=account.visible,
        everything=account.everything,
        data=data,
        foreign=foreign,
        stranger=lambda: open_ec2("stranger"),
        environment=environment,
    )


def ec2api_site(request: pytest.FixtureRequest, directory: Path) -> Site:
    """ec2-api over Glance and Swift: a new project and user with EC2 keys for each test."""
    endpoints: Endpoints = request.getfixturevalue("ec2_cloud")
    directory.mkdir(parents=True, exist_ok=True)
    account, glance = openstack_account(endpoints)

    def name_of(image_id: str) -> str:
        return next(str(i["Name"]) for i in account.images() if i["ImageId"] == image_id)

    def data(image_id: str) -> bytes:
        (image,) = glance.images(name=name_of(image_id))
        return glance.data(image["id"])

    def foreign(name: str) -> str:
        glance.add(name)
        return next(str(i["ImageId"]) for i in account.images() if i["Name"] == name)

    return ec2_site(
        "ec2-api",
        account,
        Path(endpoints.cloud_certificate),
        directory,
        request.getfixturevalue("monkeypatch"),
        data=data,
        foreign=foreign,
    )


def openstack_account(endpoints: Endpoints) -> tuple[Account, RawGlance]:
    """A new project of the OpenStack cloud, by EC2 keys and by a token."""
    settings = fresh_account(endpoints)
    mine = Identity.log_in(settings)
    keys = mine.call("POST", f"users/{mine.user}/credentials/OS-EC2", tenant_id=mine.project)
    account = Account(endpoints.ec2, endpoints.s3, endpoints.region, keys["access"], keys["secret"])
    return account, RawGlance(endpoints.glance, mine.token)


def standin_site(request: pytest.FixtureRequest, directory: Path) -> Site:
    """The strict stand-in, a fresh one for each test."""
    directory.mkdir(parents=True, exist_ok=True)
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("IMAGE_PIPELINE_CONFIG", str(directory / "config"))
    cloud, certificate = _start(request, directory)

    def data(image_id: str) -> bytes | None:
        return cloud.ec2.images[image_id].data

    def foreign(name: str) -> str:
        image = Image(cloud.ebs.ids.next("ami"), {"Name": name}, "stand-in-1", state="available")
        cloud.ec2.images[image.id] = image
        return image.id

    return ec2_site(
        "ec2-stand-in",
        standin_account(cloud),
        certificate,
        directory,
        monkeypatch,
        data=data,
        foreign=foreign,
    )


def standin_account(cloud: Cloud) -> Account:
    return Account(cloud.url, cloud.url, "stand-in-1", ACCESS, SECRET)


@contextmanager
def standin(directory: Path) -> Iterator[tuple[Cloud, Path]]:
    """A running stand-in that opens bundles, and its certificate's file."""
    key: RSAPrivateKey = generate_private_key(public_exponent=65537, key_size=2048)
    certificate = directory / "cloud-cert.pem"
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    certificate.write_bytes(public)
    with running(key, signing_key().public_key()) as cloud:
        yield cloud, certificate


def _start(request: pytest.FixtureRequest, directory: Path) -> tuple[Cloud, Path]:
    context = standin(directory)
    started = context.__enter__()
    request.addfinalizer(lambda: context.__exit__(None, None, None))
    return started
