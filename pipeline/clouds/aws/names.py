"""Names of bundles: made of content, so that a build is found again without tags.

`kernel-NAME-DIGEST` and `ramdisk-NAME-DIGEST` carry the file's sha256, `machine-NAME-DIGEST` the
triple's content key. The role comes first because Eucalyptus takes a bundle whose name begins
with "vmlinuz" or "initrd" for a kernel or ramdisk, whatever its manifest says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.clouds.aws.images import RegisteredImage
from pipeline.core import identity
from pipeline.core.image import Artifact, Image, Role

MANIFEST = ".manifest.xml"
_DIGITS = 32  # of a digest: 128 bits, and the longest name stays within EC2's 128 characters


@dataclass(frozen=True)
class Names:
    """Names in one bucket. A *stem* is a bundle's name: its image's, and its objects' prefix."""

    bucket: str
    prefix: str = ""

    def machine(self, images: Image) -> str:
        """The stem of the machine image."""
        return self._stem(Role.MACHINE, images.name, identity.content_key(images))

    def of(self, images: Image, file: Artifact) -> str:
        """The stem of any of the three."""
        if file.role is Role.MACHINE:
            return self.machine(images)
        return self._stem(file.role, images.name, file.sha256)

    def location(self, stem: str) -> str:
        """The ImageLocation of a stem."""
        return f"{self.bucket}/{stem}{MANIFEST}"

    def stem(self, location: str) -> str:
        """The stem of an ImageLocation; "" when it is not in this bucket or is no manifest."""
        bucket, _, key = location.partition("/")
        return key.removesuffix(MANIFEST) if bucket == self.bucket and MANIFEST in key else ""

    def is_machine(self, stem: str, name: str) -> bool:
        """Whether a stem is a machine image's of that recipe."""
        return self.is_part(stem, Role.MACHINE, name)

    def is_part(self, stem: str, role: Role, name: str) -> bool:
        """Whether a stem is that of an image of that role and recipe."""
        pattern = re.escape(f"{self.prefix}{role}-{name}-") + rf"[0-9a-f]{{{_DIGITS}}}"
        return re.fullmatch(pattern, stem) is not None

    def prefixes(self, name: str) -> list[str]:
        """What the keys of all of a recipe's bundles begin with, and those of a few others."""
        return [f"{self.prefix}{role}-{name}-" for role in Role]

    def orphans(
        self, ages: Mapping[str, float], own: Sequence[RegisteredImage], name: str, seconds: float
    ) -> list[str]:
        """Keys of that recipe's bundles that were begun and never finished.

        ages: of the objects in the bucket, by key, in seconds. A bundle is spared that an image of
        `own` uses, that has a manifest, since another account may have registered it, and that has
        an object younger than `seconds`, since another host may be sending it.
        """
        pattern = re.compile(
            re.escape(self.prefix)
            + rf"(?:{'|'.join(Role)})-{re.escape(name)}-[0-9a-f]{{{_DIGITS}}}(?=\.)"
        )
        bundles: dict[str, list[str]] = {}
        for key in ages:
            if match := pattern.match(key):
                bundles.setdefault(match[0], []).append(key)
        used = {self.stem(image.location) for image in own}
        return sorted(
            key
            for stem, keys in bundles.items()
            if stem not in used
            and f"{stem}{MANIFEST}" not in ages
            and min(ages[key] for key in keys) > seconds
            for key in keys
        )

    def whole(self, own: Sequence[RegisteredImage], stem: str) -> list[RegisteredImage]:
        """The available machine images of a stem whose kernel and ramdisk are available too."""
        ids = {image.id for image in own if image.state == "available"}
        return [
            image
            for image in own
            if image.location == self.location(stem)
            and {image.id, image.kernel_id, image.ramdisk_id} <= ids
        ]

    def _stem(self, role: Role, name: str, digest: str) -> str:
        return f"{self.prefix}{role}-{name}-{digest[:_DIGITS]}"


def to_metadata(marks: Mapping[str, str]) -> dict[str, str]:
    """Marks as S3 user metadata: in HTTP headers many servers drop underscores."""
    return {key.replace("_", "-"): value for key, value in marks.items()}


def from_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The other way round."""
    return {key.lower().replace("-", "_"): value for key, value in metadata.items()}
