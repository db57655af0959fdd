"""A whole small cloud on loopback: Keystone and Glance, on demand Swift's S3 and EC2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers import ec2api, glance, keystone, swift
from tests.servers.environments import interpreter
from tests.servers.keystone import REGION
from tests.servers.processes import Processes, free_port, stop_recorded


@dataclass(frozen=True)
class Endpoints:
    """Where everything is. Empty texts for what was not asked for.

    clouds_yaml: names the clouds "demo", "other" (members) and "admin". access, secret: EC2 keys
    of demo; other_access, other_secret: of other. cloud_certificate: PEM file that bundles are
    encrypted for. store: the directory where Glance keeps image bytes, one file an id.
    """

    clouds_yaml: str
    keystone: str
    glance: str
    store: str
    region: str = REGION
    s3: str = ""
    ec2: str = ""
    cloud_certificate: str = ""
    access: str = ""
    secret: str = ""
    other_access: str = ""
    other_secret: str = ""


@contextmanager
def running_cloud(directory: Path, *, s3: bool = False, ec2: bool = False) -> Iterator[Endpoints]:
    """A cloud in `directory` until the context ends; `ec2` implies `s3`."""
    processes = Processes(directory / "logs", tied=True)
    try:
        yield _start(processes, directory, s3=s3, ec2=ec2)
    finally:
        processes.stop()


def start_detached(directory: Path, *, s3: bool, ec2: bool) -> Endpoints:
    """A cloud that outlives this process, until `stop_detached`; also writes endpoints.json."""
    processes = Processes(directory / "logs", tied=False)
    try:
        endpoints = _start(processes, directory, s3=s3, ec2=ec2)
    except BaseException:
        processes.stop()
        raise
    (directory / "processes.json").write_text(json.dumps(processes.record()))
    (directory / "endpoints.json").write_text(json.dumps(asdict(endpoints), indent=1) + "\n")
    return endpoints


def stop_detached(directory: Path) -> None:
    stop_recorded(json.loads((directory / "processes.json").read_text()))


def _start(processes: Processes, directory: Path, *, s3: bool, ec2: bool) -> Endpoints:
    directory = directory.absolute()
    s3 = s3 or ec2
    interpreter("openstack")
    glance_port, s3_port = free_port(), free_port()
    glance_url, s3_url = f"http://127.0.0.1:{glance_port}", f"http://127.0.0.1:{s3_port}"
    services = {
        "image": glance_url,
        "object-store": f"{s3_url}/v1/AUTH_%(project_id)s",
        # ec2-api looks block storage up before it registers any image, and reads its version.
        "volumev3": "http://127.0.0.1:9/v3",
    }
    identity = directory / "keystone"
    keystone_url = keystone.start(processes, identity, free_port(), services)
    glance.start(processes, directory / "glance", glance_port, keystone_url)
    clouds = {n: keystone.cloud_settings(keystone_url, n) for n in (*keystone.PROJECTS, "admin")}
    clouds_yaml = directory / "clouds.yaml"
    clouds_yaml.write_text(json.dumps({"clouds": clouds}, indent=1))  # JSON is YAML
    keys = keystone.ec2_keys(identity)
    ec2_url = certificate = ""
    if s3:
        swift.start(processes, directory / "swift", s3_port, keystone_url)
    if ec2:
        ec2_url = ec2api.start(processes, directory / "ec2api", free_port(), keystone_url, s3_url)
        certificate = str(ec2api.certificate(directory / "ec2api"))
    return Endpoints(
        clouds_yaml=str(clouds_yaml),
        keystone=keystone_url,
        glance=glance_url,
        store=str(directory / "glance" / "store"),
        s3=s3_url if s3 else "",
        ec2=ec2_url,
        cloud_certificate=certificate,
        access=keys["demo"]["access"],
        secret=keys["demo"]["secret"],
        other_access=keys["other"]["access"],
        other_secret=keys["other"]["secret"],
    )
