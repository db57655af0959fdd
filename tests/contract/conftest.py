"""The clouds under the contract: one line in SITES each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.ec2_site import ec2api_site, standin_site
from tests.contract.glance_site import keystone_site, lone_site
from tests.contract.local_site import local_site
from tests.contract.site import Site

Factory = Callable[[pytest.FixtureRequest, Path], Site]

SITES: dict[str, Factory] = {
    "local": lambda _request, directory: local_site(directory),
    "glance": lone_site,
    "glance-keystone": keystone_site,
    "ec2-stand-in": standin_site,
    "ec2-api": ec2api_site,
}
_QUICK = ("local",)  # those that start no server


@pytest.fixture(
    params=[
        pytest.param(kind, marks=() if kind in _QUICK else pytest.mark.integration)
        for kind in SITES
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A fresh account on each kind of cloud in turn."""
    return SITES[request.param](request, tmp_path / "site")
