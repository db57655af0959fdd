"""Which clouds this user has set up, and whether their credentials still work.

Nothing secret is returned: names, places and the service's own words of refusal only.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping

from pipeline.clouds.aws.session import code_of, open_site, step
from pipeline.clouds.local import open_local
from pipeline.clouds.registry import default_words, open_clouds
from pipeline.core.errors import CloudError

_MADE_UP = {"envvars", "defaults", ""}
_SECONDS = 20.0  # a token from a cloud on another continent takes two


def configured(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The clouds an upload could be told to use, the default ones first.

    Sources: the environment, OpenStack's clouds.yaml wherever its SDK finds it, AWS profiles.
    """
    words = default_words(environ)
    words += [f"glance:{name}" for name in _openstack_names()]
    words += [f"ec2:{name}" for name in _aws_profiles()]
    if environ.get("AWS_ACCESS_KEY_ID") or environ.get("EC2_ACCESS_KEY"):
        words.append("ec2")
    return list(dict.fromkeys([*words, "local"]))


def check(word: str) -> str:
    """One request as this user; a line that says who or where. PipelineError when it fails."""
    kind, _, argument = word.partition(":")
    if kind == "local":
        return _local(argument)
    if kind == "glance":
        return _openstack(word, argument)
    if kind in ("ec2", "ebs"):
        return _aws(word, argument)
    open_clouds([word])
    return "configured; a kind without a check of its own"


def _local(argument: str) -> str:
    directory = open_local(argument).directory
    parent = next(path for path in (directory, *directory.parents) if path.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise CloudError(
            "write the local catalogue",
            directory,
            why=f"{parent} is closed to this user",
            next_step="Set IMAGE_PIPELINE_CATALOGUE to a directory of yours",
        )
    return str(directory)


def _openstack_names() -> list[str]:
    import openstack.config
    from openstack.exceptions import ConfigException

    try:
        # Without clouds.yaml the SDK makes up names for what the environment alone may hold.
        return sorted(set(openstack.config.OpenStackConfig().get_cloud_names()) - _MADE_UP)
    except ConfigException:
        return []  # check() of the default cloud says what is wrong with the file


def _openstack(word: str, name: str) -> str:
    import openstack.config
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import ConfigException

    # Without a handler its warnings, which the error repeats, would go to standard error.
    logging.getLogger("keystoneauth").addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SDK's deprecations are not this user's business
            region = openstack.config.OpenStackConfig().get_one(
                cloud=name or None, api_timeout=_SECONDS
            )
            session = region.get_session()
            session.get_token()
            place = session.get_endpoint(
                service_type="image",
                interface=region.get_interface("image"),
                region_name=region.get_region_name("image"),
            )
    except (ConfigException, ClientException) as error:
        raise CloudError(
            "log in to",
            word,
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            next_step="Check clouds.yaml, or source the openrc file of the cloud again",
        ) from error
    if not place:
        raise CloudError(
            "find the image service of",
            word,
            why="the catalogue of services has none for this region",
            next_step="Set region_name in clouds.yaml, or OS_REGION_NAME",
        )
    return f"logged in; images are at {place}"


def _aws_profiles() -> list[str]:
    import boto3

    return sorted(boto3.Session().available_profiles)


def _aws(word: str, profile: str) -> str:
    site = open_site(word, profile, read_seconds=_SECONDS)
    client = site.ec2(retry=False)
    try:
        with step(word, "ask", word):
            client.describe_availability_zones()
    except CloudError as error:
        cause = error.__cause__
        # Known, but not allowed to ask this: the credentials themselves are good.
        if not (isinstance(cause, Exception) and code_of(cause) == "UnauthorizedOperation"):
            raise
    return f"credentials work at {client.meta.endpoint_url}"
