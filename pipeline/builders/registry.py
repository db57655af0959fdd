"""From a request to its builder. A new kind is one line here and one module with `open_builder`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from pipeline.builders.protocol import Builder
from pipeline.core.errors import InputError
from pipeline.core.request import BuildRequest, PackageSources
from pipeline.host.context import Tools

# By name, so that a build from a given disk does not import the installers.
_KINDS: Mapping[str, str] = {
    "given": "pipeline.builders.imported",
    "installer": "pipeline.builders.installer.builder",
    "packages": "pipeline.builders.packages.builder",
}


def kind_of(request: BuildRequest) -> str:
    """Which kind of builder the request wants."""
    if request.disk is not None:
        return "given"
    return "packages" if request.recipe.source == "packages" else "installer"


def open_builder(request: BuildRequest, tools: Tools) -> Builder:
    """The builder of a request; nothing is started yet.

    InputError for places of packages where no packages are asked for.
    """
    if kind_of(request) != "packages" and request.sources != PackageSources():
        raise InputError(
            "use mirrors, repositories, keys or a proxy of packages for",
            request.recipe.name,
            why="its disk is given" if request.disk else "an installer makes it",
            next_step="Leave out --mirror, --repository, --key and --proxy",
        )
    module = importlib.import_module(_KINDS[kind_of(request)])
    builder: Builder = module.open_builder(request, tools)
    return builder
