"""A request's system with all that it leaves unsaid: a kickstart's words, the places, the base."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.builders.packages import front_door
from pipeline.core.errors import InputError
from pipeline.core.packages import PackageSystem, Repository, is_url
from pipeline.core.passwords import without_passwords
from pipeline.core.request import BuildRequest, PackageSources

if TYPE_CHECKING:
    from pipeline.builders.packages.kickstart.reading import Taken

_SYNTAX = {"fedora": "F{}", "centos": "RHEL{}", "rocky": "RHEL{}", "almalinux": "RHEL{}"}
"""pykickstart's names of the syntax that a release's installer reads."""


@dataclass(frozen=True)
class Complete:
    """A system with nothing left unsaid.

    taken: what it has of a kickstart, None without one. notes: what of it is not taken, a sentence
    each, beside its own.
    """

    system: PackageSystem
    taken: Taken | None = None
    notes: tuple[str, ...] = ()


def complete(request: BuildRequest) -> Complete:
    """The request's system; asks no network.

    InputError for a kickstart that cannot be used, with the line of the user's file, and for
    repositories that nobody named.
    """
    recipe = request.recipe
    assert recipe.system is not None
    system, taken = recipe.system, None
    fields: dict[str, Any] = {name: getattr(system, name) for name in system.model_fields_set}
    if recipe.answers.name:
        if not recipe.release:
            recipe = recipe.model_copy(update={"release": syntax_of(system)})
        keys = request.sources.keys or tuple(k for r in system.repositories for k in r.keys)
        # Imported where it is needed: most recipes of packages have no kickstart.
        from pipeline.builders.packages.kickstart import reading as kickstart

        taken = kickstart.read(recipe, system.distribution, overrides=request.variables, keys=keys)
        fields = kickstart.merged(fields, taken)
        if system.mirrors:
            fields.pop("repositories", None)  # the kickstart's own
        system = _system(fields, recipe.name)
    fields["repositories"] = repositories(system, request.sources)
    fields.pop("mirrors", None)
    if request.sources.proxy:
        fields["proxy"] = request.sources.proxy
    if "base" not in fields:
        fields["base"] = front_door.base(system.distribution, system.release, system.architecture)
    return Complete(_system(fields, recipe.name), taken, tuple(_untaken(taken)))


def _untaken(taken: Taken | None) -> Iterator[str]:
    """What a kickstart says and a system of packages has elsewhere, a sentence each."""
    if taken is not None and taken.command_line:
        yield (
            f"the kickstart's kernel arguments ({taken.command_line}) are not taken: write them"
            " into the recipe's command_line"
        )
    if taken is not None and taken.fstype not in ("", "ext4"):
        yield f"the kickstart's {taken.fstype} is not taken: a root of packages is ext4"


def syntax_of(system: PackageSystem) -> str:
    """pykickstart's name for the release; "" where it has none, and its newest syntax is taken."""
    release = re.match(r"\d+", system.release)
    name = _SYNTAX.get(system.distribution, "RHEL{}" if system.backend == "dnf" else "")
    return name.format(release[0]) if release and name else ""


def repositories(system: PackageSystem, sources: PackageSources) -> tuple[Repository, ...]:
    """Where the packages come from: the request's places before the recipe's, before the usual."""
    if sources.repositories:
        if not sources.keys:
            raise InputError(
                "use the repository",
                sources.repositories[0],
                why="no key is named that it is signed by",
                next_step="Name the file of its OpenPGP keys with --key",
            )
        return tuple(
            front_door.repository(word, number, system.distribution, sources.keys)
            for number, word in enumerate(sources.repositories, 1)
        )
    mirrors = sources.mirrors or system.mirrors
    _judge(sources.mirrors)
    if system.repositories and not mirrors:
        if not sources.keys:
            return system.repositories
        changed = {"keys": sources.keys}
        return tuple(each.model_copy(update=changed) for each in system.repositories)
    every = [
        front_door.repositories(
            system.distribution,
            system.release,
            system.architecture,
            mirror=mirror,
            keys=sources.keys,
            snapshot=system.snapshot,
        )
        for mirror in mirrors or ("",)
    ]
    for key in every[0][0].keys if not sources.keys else ():
        if not key.is_file():
            package = front_door.key_package(system.distribution)
            raise InputError(
                "check the repositories of",
                system.distribution,
                why=f"its keys are not on this host: there is no {key}",
                next_step=f"Install them (the package {package}, where this host's distribution has"
                " it), or name files of them: --key FILE",
            )
    return tuple(
        one.model_copy(
            update={"urls": tuple(dict.fromkeys(url for each in same for url in each.urls))}
        )
        for same in zip(*every, strict=True)
        for one in same[:1]
    )


def _judge(mirrors: Sequence[str]) -> None:
    """InputError for a word of the command line that is no URL."""
    for mirror in mirrors:
        if "://" not in mirror or not is_url(mirror):
            raise InputError(
                "use the mirror",
                without_passwords(mirror),
                why="it is no URL",
                next_step="Write it as https://HOST/debian",
            )


def _system(fields: Mapping[str, Any], name: str) -> PackageSystem:
    return front_door.checked(PackageSystem, fields, name, "use the recipe")
