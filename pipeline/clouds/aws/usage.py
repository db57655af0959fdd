"""What would miss an image: instances, launch templates and scaling groups that name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.clouds.aws.session import Site, is_aws, is_transient, status_of, step
from pipeline.clouds.protocol import InUseError
from pipeline.host.retry import Pauses, pause

if TYPE_CHECKING:
    from types_boto3_ec2.client import EC2Client

_ALIVE = ("pending", "running", "stopping", "stopped")
_TRIES = 3
_PAUSES = Pauses(first=1.5, jitter=2 / 3)  # 0.5 to 1.5 seconds
_NAMED = 5  # of what uses an image, in an error


def require_unused(site: Site, image_id: str, *, region: str = "") -> None:
    """InUseError when something names the image.

    What the cloud does not know, or this user may not ask, is left out.
    """
    users = Usage(site, region=region).of(image_id)
    if users:
        more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
        raise InUseError(
            "withdraw",
            f"{image_id} on {site.word}",
            why=f"it is in use by {', '.join(users[:_NAMED])}{more}",
            next_step="Have them use a newer image, then prune again",
        )


class Usage:
    """Questions to one region of a cloud."""

    def __init__(self, site: Site, *, region: str = "") -> None:
        self._word = site.word
        self._client: EC2Client = site.ec2(retry=False, region=region)
        self._scaling: Any = site.scaling(region=region)
        self._amazon = is_aws(self._client.meta.endpoint_url)

    def of(self, image_id: str) -> list[str]:
        """Such as "instance i-0123", "launch template web", "scaling group web"."""
        found = [*self._instances(image_id), *self._templates(image_id)]
        return list(dict.fromkeys([*found, *self._groups(image_id)]))

    def _instances(self, image_id: str) -> list[str]:
        reservations = self._known(
            lambda: self._client.describe_instances(
                Filters=[{"Name": "image-id", "Values": [image_id]}]
            )["Reservations"]
        )
        # Looked at again: not every cloud knows the filter.
        return [
            f"instance {instance['InstanceId']}"
            for reservation in reservations
            for instance in reservation.get("Instances", [])
            if instance.get("ImageId") == image_id and instance["State"]["Name"] in _ALIVE
        ]

    def _templates(self, image_id: str) -> list[str]:
        versions = self._known(
            lambda: self._client.describe_launch_template_versions(
                Versions=["$Latest", "$Default"],
                Filters=[{"Name": "image-id", "Values": [image_id]}],
            )["LaunchTemplateVersions"]
        )
        return [
            f"launch template {version['LaunchTemplateName']}"
            for version in versions
            if version["LaunchTemplateData"].get("ImageId") == image_id
        ]

    def _groups(self, image_id: str) -> list[str]:
        if self._scaling is None:
            return []
        configurations = self._pages("describe_launch_configurations", "LaunchConfigurations")
        launched = {
            one["LaunchConfigurationName"]
            for one in configurations
            if one.get("ImageId") == image_id
        }
        found = [f"launch configuration {name}" for name in sorted(launched)]
        for group in self._pages("describe_auto_scaling_groups", "AutoScalingGroups"):
            named = group.get("LaunchConfigurationName") in launched
            if named or any(self._starts(one, image_id) for one in _templates(group)):
                found.append(f"scaling group {group['AutoScalingGroupName']}")
        return found

    def _pages(self, call: str, key: str) -> Sequence[Any]:
        return self._known(
            lambda: [
                one for page in self._scaling.get_paginator(call).paginate() for one in page[key]
            ]
        )

    def _starts(self, template: Mapping[str, str], image_id: str) -> bool:
        """Whether that version of a launch template starts the image."""
        versions = self._known(
            lambda: self._client.describe_launch_template_versions(
                LaunchTemplateId=template["LaunchTemplateId"],
                Versions=[template.get("Version") or "$Default"],
            )["LaunchTemplateVersions"]
        )
        return any(one["LaunchTemplateData"].get("ImageId") == image_id for one in versions)

    def _known(self, ask: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """The answer; an empty one where the cloud has no such call, or not for this user.

        CloudError where an answer could be had and was not: nobody knows then what is in use.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        with step(self._word, "ask what uses images of", self._word):
            for left in reversed(range(_TRIES)):
                try:
                    return ask()
                except ResponseParserError:  # no such service at that endpoint
                    return []
                except (BotoCoreError, ClientError) as error:
                    if not is_transient(error):
                        if isinstance(error, ClientError):
                            return []
                        raise
                    if not left:
                        # Some clouds answer calls that they know by name alone with an error.
                        if status_of(error) >= 500 and not self._amazon:
                            return []
                        raise
                pause(_PAUSES.after(1))
        raise AssertionError("the last try returns or raises")


def _templates(group: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The launch templates that a scaling group starts instances of."""
    mixed = group.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    found = [group.get("LaunchTemplate"), mixed.get("LaunchTemplateSpecification")]
    found += [one.get("LaunchTemplateSpecification") for one in mixed.get("Overrides", [])]
    return [one for one in found if one and "LaunchTemplateId" in one]
