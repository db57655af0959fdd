"""The clouds under the contract: one line in SITES each."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.local_site import local_site
from tests.contract.site import Site

Factory = Callable[[pytest.FixtureRequest, Path], Site]

SITES: dict[str, Factory] = {
    "local": lambda _request, directory: local_site(directory),
}
_QUICK = ("local",)  # those that start no server
_numbers = itertools.count()


@pytest.fixture(
    params=[
        pytest.param(kind, marks=() if kind in _QUICK else pytest.mark.integration)
        for kind in SITES
    ]
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A fresh account on each kind of cloud in turn."""
    return SITES[request.param](request, tmp_path / "site")
