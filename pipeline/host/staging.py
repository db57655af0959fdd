"""Layers where they cannot be stacked: a copy of the whole root takes the place of an overlay."""

from __future__ import annotations

import os
from functools import partial

from pipeline.host.context import Tools
from pipeline.host.isolation import Isolation, Root, own, run_mapped

_SECONDS = 3600.0  # for copying a root, on a slow disk


def stage_copy(isolation: Isolation, root: Root, tools: Tools) -> Root:
    """Where layers cannot be stacked, fill `upper` with the topmost of `lower`, which is whole; the
    root to run in. Nothing where they can be stacked."""
    if isolation.overlay or not root.lower:
        return root
    own(isolation, (root.upper, root.work), tools)
    argv = ["cp", "--archive", "--reflink=auto", "--", f"{root.lower[0]}/.", f"{root.upper}/"]
    run = tools.run.run if os.geteuid() == 0 else partial(run_mapped, isolation, tools=tools)
    run(argv, timeout=_SECONDS, attempted="copy the layer")
    return Root((), root.upper, root.work)
