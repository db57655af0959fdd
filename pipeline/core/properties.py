"""Names of image properties that users cannot give, and which option says what they want.

Glance keeps its own fields and an image's properties in one name space: a property called "owner"
would give the image away. The pipeline's own marks lie there, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.core.errors import InputError

MARKS = "image_pipeline_"
"""What the names of the pipeline's own marks begin with (`clouds.identity`)."""

# Name -> what to do instead. Fields of the Image API v2 that an option of `upload` sets.
_BY_OPTION: Mapping[str, str] = {
    "min_disk": "Use --min-disk",
    "min_ram": "Use --min-ram",
    "visibility": "Use --visibility",
    "is_public": "Use --visibility public",
    "protected": "Use --protected or --unprotected",
    "os_hidden": "Use --hidden or --shown",
    "tags": "Use --tag",
    "members": "Use --visibility shared --member PROJECT",
    "store": "Use --store",
    "stores": "Use --store",
}
_BY_PIPELINE: Mapping[str, str] = {
    "name": "Leave it out: images are named after their recipe",
    "architecture": "Leave it out: it is the build's own, the recipe's field architecture",
    "kernel_id": "Leave it out: the machine image is linked to the build's own kernel",
    "ramdisk_id": "Leave it out: the machine image is linked to the build's own ramdisk",
    "disk_format": "Leave it out; --whole-disk registers a disk in place of the triple",
    "container_format": "Leave it out; --whole-disk registers a disk in place of the triple",
}
_BY_CLOUD = frozenset(
    {
        "id", "owner", "size", "virtual_size", "status", "checksum", "created_at", "updated_at",
        "deleted", "deleted_at", "direct_url", "locations", "file", "self", "schema",
    }
)  # fmt: skip
_BY_CLOUD_PREFIXES = ("os_hash_", "os_glance_")
_LONGEST = 255  # characters of a property's name in Glance
# "/" and "~" have a meaning of their own in the paths of a change (RFC 6901).
_UNUSABLE = re.compile(r"[/~\x00-\x1f\x7f]|^\s|\s$")


def refusal(name: str) -> tuple[str, str] | None:
    """Why a property cannot have that name and what to do instead; None when it can.

    Case does not count: databases of clouds find "Owner" where "owner" is meant.
    """
    word = name.lower()
    if word.startswith(MARKS):
        return "it is the pipeline's own mark", "Leave it out: the pipeline sets it"
    for table, why in (
        (_BY_OPTION, "it is a field of the image, not a property"),
        (_BY_PIPELINE, "the pipeline sets it"),
    ):
        if word in table:
            return why, table[word]
    if word in _BY_CLOUD or word.startswith(_BY_CLOUD_PREFIXES):
        return "the cloud sets it", "Leave it out"
    if not name or len(name) > _LONGEST or _UNUSABLE.search(name):
        return (
            f'a name has 1 to {_LONGEST} characters, no "/" or "~", and no blank at its ends',
            "Choose another name",
        )
    return None


def require_free(properties: Mapping[str, str]) -> None:
    """InputError for the first property whose name is taken."""
    for name in properties:
        if refused := refusal(name):
            why, next_step = refused
            raise InputError("set the image property", name, why=why, next_step=next_step)
