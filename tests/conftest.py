"""Fixtures that several directories of tests share."""

from hypothesis import settings

from tests.servers.fixtures import ec2_cloud, lone_glance, openstack_cloud

__all__ = ["ec2_cloud", "lone_glance", "openstack_cloud"]

# A deadline of milliseconds would time the machine, not the code; pytest-timeout bounds each test.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")
