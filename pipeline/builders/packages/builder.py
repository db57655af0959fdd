"""The builder of roots from packages: layers out of a store, written as one file system.

No installer, no virtual machine, no root: what runs of the packages runs in isolation
(host/isolation.py). The disk that it gives is the bare file system of the root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from uuid import UUID

from pipeline.builders.packages.layered import LayeredRoot
from pipeline.builders.protocol import Builder, Built
from pipeline.convert.ext4.geometry import Parameters
from pipeline.convert.ext4.make import make_image
from pipeline.core.checks import ROOT_LABEL
from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.material import Material
from pipeline.core.request import BuildRequest
from pipeline.core.steps import Action
from pipeline.host.context import Tools
from pipeline.host.files import write_whole
from pipeline.host.fingerprint import code_of, step_key
from pipeline.host.versions import tool_versions

_WRITER = "pipeline.convert.ext4.make"
_ELSEWHERE = ("pipeline.core", "pipeline.host")
_KICKSTART = "ks.cfg"


def open_builder(request: BuildRequest, tools: Tools) -> Builder:
    """See registry.py."""
    return _Packages(request, tools)


class _Packages:
    def __init__(self, request: BuildRequest, tools: Tools) -> None:
        self._request, self._tools = request, tools
        self._root = LayeredRoot(request, tools)

    def check(self) -> None:
        """See Builder: the words are looked at, no mirror is asked."""
        self._root.backend.check()

    def given(self) -> DiskImage | None:
        """See Builder: it must be made."""
        return None

    @cached_property
    def _identity(self) -> Mapping[str, object]:
        return {
            "layers": [layer.key for layer in self._root.layers],
            "MiB": self._root.system.root_mib,
            "writer": step_key("writer", {}, code_of(_WRITER, without=_ELSEWHERE)),
        }

    def identity(self) -> Mapping[str, object]:
        """See Builder; asks the mirrors where they were never asked, or shall be again."""
        return self._identity

    def build(
        self, out: Path, *, acceleration: Acceleration, evidence: Path, tools: Tools
    ) -> Built:
        """See Builder; a kickstart is kept beside `out`, without its secrets."""
        root = self._root
        if root.complete.taken is not None:
            write_whole(out.with_name(_KICKSTART), root.complete.taken.saved)
        with root.made(self._request.recipe.name, evidence) as layers:
            epoch = layers[0].epoch
            tools.progress.say("writing the file system")
            make_image(
                root.isolation,
                [layer.tree for layer in layers],
                tools=tools,
                epoch=epoch,
                image=(out, self._parameters(epoch)),
            )
        return Built(
            DiskImage(out, "raw"),
            tool_versions(tools.run, [root.system.backend]),
            epoch=epoch,
            layers=tuple((layer.kind, layer.key) for layer in root.layers),
            materials=tuple(
                Material(name=f"{p.name} {p.version}", sha256=p.sha256, uri=root.url_of(p))
                for p in root.packages
            ),
        )

    def _parameters(self, epoch: int) -> Parameters:
        """Of the file system: its ids are a digest of what is in it."""
        digest = hashlib.sha256(step_key("file system", self._identity).encode()).digest()
        return Parameters(
            size=self._root.system.root_mib << 20,
            uuid=UUID(bytes=digest[:16], version=4),
            hash_seed=UUID(bytes=digest[16:], version=4),
            label=ROOT_LABEL,
            epoch=epoch,
        )

    def describe(self, acceleration: Acceleration) -> Sequence[Action]:
        """See Builder."""
        return [
            *(Action(line) for line in self._root.describe()),
            Action("write the layers as one ext4 file system"),
        ]
