"""From a system to its package manager. A new one is one line here and one module."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.builders.packages.protocol import Backend
from pipeline.core.packages import BackendName, PackageSystem
from pipeline.host.context import Tools

MODULES: Mapping[BackendName, str] = {
    "apt": "pipeline.builders.packages.apt",
    "dnf": "pipeline.builders.packages.dnf",
}
"""By name, so that a build imports its own package manager alone."""


def open_backend(system: PackageSystem, tools: Tools, cache: Path) -> Backend:
    """The backend of a system; nothing is started yet. cache: shared by all builds."""
    module = importlib.import_module(MODULES[system.backend])
    backend: Backend = module.open_backend(system, tools, cache)
    return backend
