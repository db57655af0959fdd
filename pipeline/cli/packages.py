"""Roots of packages without a recipe: genfs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from invoke.context import Context

from pipeline.cli import MANY, PACKAGE_SOURCES, command, help_for, package_sources
from pipeline.cli.session import session


@command(
    iterable=["group", "package", "exclude", "mirror", "repository", "key"],
    help=help_for(
        "json",
        "quiet",
        "verbose",
        "debug",
        "dry_run",
        **PACKAGE_SOURCES,
        distribution="debian, ubuntu, fedora, centos, rocky, almalinux, or el with repositories",
        release="the release as its repositories name it: bookworm, 43, 9",
        out="the tar.gz that is written",
        architecture="x86_64 or aarch64",
        package="a package beside the distribution's minimum; may be repeated",
        group="a group (@core) or task; may be repeated",
        exclude="a package that must not come in; may be repeated",
        refresh="ask the mirrors for what is new",
    ),
)
def genfs(
    c: Context,
    distribution: str,
    release: str,
    out: str,
    architecture: str = "x86_64",
    package: Iterable[str] = MANY,
    group: Iterable[str] = MANY,
    exclude: Iterable[str] = MANY,
    refresh: bool = False,
    mirror: Iterable[str] = MANY,
    repository: Iterable[str] = MANY,
    key: Iterable[str] = MANY,
    proxy: str = "",
    dry_run: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Make a tar.gz of a root from a distribution, groups and packages, in one line."""
    with session(quiet=quiet, as_json=json, debug=debug) as view:
        from pipeline.core.text import human_bytes, human_seconds
        from pipeline.workflows import root_archive

        words = {
            "distribution": distribution,
            "release": release,
            "architecture": architecture,
            "packages": (*package,),
            "groups": (*group,),
            "exclude": (*exclude,),
        }
        request = root_archive.root_request(
            words, refresh=refresh, sources=package_sources(mirror, repository, key, proxy)
        )
        echo = view.progress.say if verbose else None
        if dry_run:
            lines = root_archive.plan(request, Path(out), view.progress, view.secrets)
            view.result({"plan": lines}, lines)
            return
        made = root_archive.make(request, Path(out), view.progress, view.secrets, echo=echo)
        view.result(
            made.record(),
            [
                f"made {made.path} in {human_seconds(made.seconds)}: {human_bytes(made.size)}, "
                f"{made.packages} packages, sha256 {made.sha256}"
            ],
        )
