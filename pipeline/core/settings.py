"""Where things live: XDG base directories and the environment variables that override them.

Source: XDG Base Directory Specification 0.8.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.resources import KICKSTART

_NAME = "image-pipeline"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")


def _xdg(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification says to ignore relative paths.
    base = Path(value) if value.startswith("/") else Path.home() / default
    return base / _NAME


def cache_dir() -> Path:
    """Downloads and measurements; safe to delete. IMAGE_PIPELINE_CACHE overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_CACHE")
    return Path(value) if value else _xdg("XDG_CACHE_HOME", ".cache")


def layers_dir() -> Path:
    """The layers of systems made of packages. IMAGE_PIPELINE_LAYERS overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_LAYERS")
    return Path(value).absolute() if value else cache_dir().absolute() / "layers"


def shared_layers_dir() -> Path:
    """Layers that others of this host made. IMAGE_PIPELINE_SHARED_LAYERS overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_SHARED_LAYERS")
    return Path(value).absolute() if value else Path("/var/cache") / _NAME / "layers"


def layers_bytes() -> int:
    """What all layers may take together; IMAGE_PIPELINE_LAYERS_GIB, 20 GiB by default."""
    return _number("IMAGE_PIPELINE_LAYERS_GIB", 20) << 30


def layers_days() -> int:
    """Days that an unused layer is kept; IMAGE_PIPELINE_LAYERS_DAYS, 60 by default."""
    return _number("IMAGE_PIPELINE_LAYERS_DAYS", 60)


def _number(variable: str, default: int) -> int:
    value = os.environ.get(variable) or str(default)
    if not (value.isascii() and value.isdecimal() and len(value) < 7):
        raise InputError(
            "use",
            variable,
            why=f"{value!r} is no whole number",
            next_step=f"Set it to digits, such as {default}",
        )
    return int(value)


def config_dir() -> Path:
    """The user's own settings, such as the signing key pair. IMAGE_PIPELINE_CONFIG overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_CONFIG")
    return Path(value) if value else _xdg("XDG_CONFIG_HOME", ".config")


def catalogue_dir() -> Path:
    """The local catalogue. IMAGE_PIPELINE_CATALOGUE overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_CATALOGUE")
    return Path(value) if value else _xdg("XDG_DATA_HOME", ".local/share") / "catalogue"


def build_dir() -> Path:
    """Where builds go: ./build. IMAGE_PIPELINE_BUILD overrides it."""
    return Path(os.environ.get("IMAGE_PIPELINE_BUILD") or "build").absolute()


def recipes_file() -> Path:
    """The recipes table. IMAGE_PIPELINE_RECIPES overrides it."""
    value = os.environ.get("IMAGE_PIPELINE_RECIPES")
    return Path(value).absolute() if value else KICKSTART / "recipes.toml"


def builder() -> str:
    """Who builds, a URI, as provenance names it. IMAGE_PIPELINE_BUILDER says it.

    InputError for a value that is no URI.
    """
    value = os.environ.get("IMAGE_PIPELINE_BUILDER") or "urn:x-image-pipeline:builder:unnamed"
    if not _URI.fullmatch(value):
        raise InputError(
            "name the builder",
            value,
            why="IMAGE_PIPELINE_BUILDER is not a URI",
            next_step="Write one that you control, such as https://example.org/builders/images",
        )
    return value
