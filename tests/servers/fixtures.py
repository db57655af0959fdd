"""Servers that one test session shares; each test takes an account of its own on them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import glance
from tests.servers.keystone import Identity, cloud_settings
from tests.servers.openstack_cloud import Endpoints, running_cloud
from tests.servers.processes import Processes, free_port


@dataclass(frozen=True)
class LoneGlance:
    """A Glance without Keystone: the token "USER:PROJECT:ROLES" is the identity."""

    url: str
    store: Path


@pytest.fixture(scope="session")
def lone_glance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneGlance]:
    directory = tmp_path_factory.mktemp("glance")
    processes = Processes(directory / "logs", tied=True)
    try:
        url = glance.start(processes, directory, free_port(), None)
        yield LoneGlance(url, directory / "store")
    finally:
        processes.stop()


@pytest.fixture(scope="session")
def openstack_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Keystone and Glance."""
    with running_cloud(tmp_path_factory.mktemp("openstack")) as endpoints:
        yield endpoints


@pytest.fixture(scope="session")
def ec2_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Keystone, Glance, Swift's S3 and ec2-api."""
    with running_cloud(tmp_path_factory.mktemp("ec2"), s3=True, ec2=True) as endpoints:
        yield endpoints


def token_settings(endpoint: str, token: str) -> dict[str, Any]:
    """The entry of clouds.yaml for a Glance with fixed tokens."""
    return {"auth_type": "admin_token", "auth": {"endpoint": endpoint, "token": token}}


def fresh_account(endpoints: Endpoints) -> dict[str, Any]:
    """A new project with a member user; the entry of clouds.yaml for it."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = Identity.log_in(cloud_settings(endpoints.keystone, "admin"))
    admin.add_account(name, "member")
    return cloud_settings(endpoints.keystone, name)
