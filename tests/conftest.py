"""Fixtures that several directories of tests share."""

from tests.servers.fixtures import ec2_cloud, lone_glance, openstack_cloud

__all__ = ["ec2_cloud", "lone_glance", "openstack_cloud"]
