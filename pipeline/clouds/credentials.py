"""Which clouds this user has set up. Whether they work, each cloud's own `check` says."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pipeline.clouds.registry import default_words

_MADE_UP = {"envvars", "defaults", ""}


def configured(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The clouds an upload could be told to use, the default ones first.

    Sources: the environment, OpenStack's clouds.yaml wherever its SDK finds it, AWS profiles. An
    AWS account is one for bundles (`ec2`) where a certificate for them is set, else for disks.
    """
    words = default_words(environ)
    words += [f"glance:{name}" for name in _openstack_names()]
    certified = bool(environ.get("EUCALYPTUS_CERT") or environ.get("EC2_CERT"))
    words += [
        f"{'ec2' if certified or with_certificate else 'ebs'}:{name}"
        for name, with_certificate in _aws_profiles()
    ]
    if environ.get("EC2_ACCESS_KEY") or (certified and environ.get("AWS_ACCESS_KEY_ID")):
        words.append("ec2")
    elif environ.get("AWS_ACCESS_KEY_ID"):
        words.append("ebs")
    return list(dict.fromkeys([*words, "local"]))


def _openstack_names() -> list[str]:
    import openstack.config
    from openstack.exceptions import ConfigException

    try:
        # Without clouds.yaml the SDK makes up names for what the environment alone may hold.
        return sorted(set(openstack.config.OpenStackConfig().get_cloud_names()) - _MADE_UP)
    except ConfigException:
        return []  # the check of the default cloud says what is wrong with the file


def _aws_profiles() -> list[tuple[str, bool]]:
    """Names of the profiles, and whether a certificate for bundles is set in each."""
    import botocore.session

    profiles = botocore.session.Session().full_config["profiles"]
    return [(name, "image_pipeline_certificate" in profiles[name]) for name in sorted(profiles)]
