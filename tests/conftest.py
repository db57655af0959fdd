"""Fixtures that several directories of tests share."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from tests.fixtures.demo import finished_demo
from tests.servers.fixtures import ec2_cloud, lone_glance, openstack_cloud

__all__ = ["ec2_cloud", "finished_demo", "lone_glance", "openstack_cloud"]

# A deadline of milliseconds would time the machine, not the code; pytest-timeout bounds each test.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# Under nohup or behind a shell's "&" these are ignored, and every program of the tests would
# inherit that: the tests that interrupt one would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(
    config: pytest.Config,
    val: object,
    argname: str,
) -> str | None:
    """Bytes are named by their argument and place: their text may carry the time they were made.

    Two workers that collect one test under two names run none at all.
    """
    return argname if isinstance(val, bytes) else None
