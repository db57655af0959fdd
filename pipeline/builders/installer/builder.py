"""The builder that installs: a distribution's own installer, run by virt-install."""

from __future__ import annotations

import hashlib
import secrets as random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pipeline.builders.installer.answers import Answers, render
from pipeline.builders.installer.install import identity, install, plan
from pipeline.builders.installer.trees import Tree, obtain
from pipeline.builders.protocol import Builder, Built
from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.material import Material
from pipeline.core.passwords import without_passwords
from pipeline.core.request import BuildRequest
from pipeline.core.steps import Action
from pipeline.host.context import Tools
from pipeline.host.download import masked
from pipeline.host.files import write_whole
from pipeline.host.versions import tool_versions


def open_builder(request: BuildRequest, tools: Tools) -> Builder:
    """See registry.py."""
    return _Installer(request, tools)


class _Installer:
    def __init__(self, request: BuildRequest, tools: Tools) -> None:
        self._request, self._tools = request, tools

    @cached_property
    def _tree(self) -> Tree:
        return obtain(self._request.recipe, self._tools)

    @cached_property
    def _answers(self) -> Answers:
        return self._render(random.token_hex(16), self._tree.variables)

    def _render(self, nonce: str, builtins: Mapping[str, str] | None = None) -> Answers:
        request = self._request
        answers = render(
            request.recipe, nonce=nonce, overrides=request.variables, builtins=builtins
        )
        for warning in answers.warnings:
            self._tools.progress.warn(warning)
        return answers

    def check(self) -> None:
        """See Builder: the answer file is filled in and linted."""
        self._render("0" * 32)

    def given(self) -> DiskImage | None:
        """See Builder: it must be installed."""
        return None

    def identity(self) -> Mapping[str, object]:
        """See Builder; obtains the install tree, whose identity is part of it."""
        return identity(self._request.recipe, self._answers, self._tree)

    def build(
        self, out: Path, *, acceleration: Acceleration, evidence: Path, tools: Tools
    ) -> Built:
        """See Builder; the answers are kept beside `out`, without their secrets."""
        write_whole(out.with_name(self._answers.file_name), self._answers.saved)
        disk = install(
            self._request.recipe,
            self._answers,
            self._tree,
            out,
            acceleration,
            tools,
            evidence=evidence,
        )
        versions = tool_versions(tools.run, ["qemu", "virt-install"])
        materials = (*_installer(self._tree), _answer_file(self._answers))
        return Built(disk, versions, materials=materials)

    def describe(self, acceleration: Acceleration) -> Sequence[Action]:
        """See Builder."""
        recipe = self._request.recipe
        tree = "make the stand-in install tree from this host's packages"
        if recipe.trees:
            trees = ", ".join(map(masked, recipe.trees))
            tree = f"use the first install tree that answers: {trees}"
        return [
            Action(f"check and fill in {recipe.answers}"),
            Action(tree),
            Action(
                f"install on a sparse disk of {recipe.disk_gib} GiB with {recipe.memory_mib} MiB of"
                f" memory, at most {recipe.install_minutes} min",
                (shlex.join(plan(recipe, None, acceleration)),),
            ),
        ]


def _installer(tree: Tree) -> Iterator[Material]:
    """Kernel and initrd of the install tree."""
    for path in dict.fromkeys((tree.kernel, tree.initrd)):
        with (tree.path / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        uri = without_passwords(f"{tree.url}/{path}") if tree.url else ""
        yield Material(name=path, sha256=digest, uri=uri)


def _answer_file(answers: Answers) -> Material:
    return Material(
        name=answers.file_name,
        sha256=hashlib.sha256(answers.saved.encode()).hexdigest(),
        note="the answer file with its variables filled in and its secrets left out",
    )
