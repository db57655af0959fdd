"""From the user's words to clouds: `local`, `glance:CLOUD`, `ec2:PROFILE`, `ebs:PROFILE`.

A new kind of cloud is one line in `_OPENERS` and one module with that function.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence

from pipeline.clouds.protocol import Cloud
from pipeline.core.errors import InputError
from pipeline.core.text import did_you_mean

# kind -> module and function; the function takes the words after the colon ("" without one).
# By name, so that an upload to the local catalogue does not import the cloud libraries.
_OPENERS: Mapping[str, tuple[str, str]] = {
    "local": ("pipeline.clouds.local", "open_local"),
    "glance": ("pipeline.clouds.glance.cloud", "open_glance"),
    "ec2": ("pipeline.clouds.aws.s3_backed", "open_ec2"),
    "ebs": ("pipeline.clouds.aws.ebs_backed", "open_ebs"),
}


def open_clouds(words: Sequence[str]) -> list[Cloud]:
    """One cloud a word, in order; a word given twice counts once. InputError for unknown kinds.

    Without words the environment decides (`default_words`).
    """
    clouds: list[Cloud] = []
    for word in dict.fromkeys(words or default_words(os.environ)):
        kind, _, argument = word.partition(":")
        if kind not in _OPENERS:
            raise InputError(
                "use the cloud",
                word,
                why=f"{kind or 'an empty word'} is no kind of cloud{did_you_mean(kind, _OPENERS)}",
                next_step="Kinds: local[:DIR], glance[:CLOUD], ec2[:PROFILE], ebs[:PROFILE]",
            )
        module, function = _OPENERS[kind]
        cloud: Cloud = getattr(importlib.import_module(module), function)(argument)
        clouds.append(cloud)
    return clouds


def default_words(environment: Mapping[str, str]) -> list[str]:
    """Where an upload goes that names no cloud.

    IMAGE_PIPELINE_CLOUDS (words separated by spaces) wins. Then Glance, if the environment names
    an OpenStack cloud as its own client would read it (OS_CLOUD or OS_AUTH_URL, set by openrc).
    Otherwise the local catalogue. AWS settings alone never choose a cloud: many shells carry
    them at all times.
    """
    if words := environment.get("IMAGE_PIPELINE_CLOUDS", "").split():
        return words
    if environment.get("OS_CLOUD") or environment.get("OS_AUTH_URL"):
        return ["glance"]
    return ["local"]
