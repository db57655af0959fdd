"""A kickstart's repositories and %packages."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pykickstart import constants
from pykickstart.version import F18, F24, RHEL8

from pipeline.builders.packages.kickstart_words import Words
from pipeline.core.packages import Repository


def take_repositories(words: Words, keys: tuple[Path, ...], unnamed: set[str]) -> None:
    """url and repo as repositories that are signed by `keys`. unnamed: URLs that are none."""
    found: list[tuple[int, str, str, Any]] = []
    for command in words.real.named("url"):
        found.append((command.line, "url", "install", getattr(words.real.handler, "url", None)))
    for repo in words.real.data("repo", "repoList") or ():
        found.append((repo.lineno, f"repo {repo.name}", repo.name, repo))
    repositories = []
    for line, what, name, data in found:
        url = (data.url if what == "url" else data.baseurl) or ""
        if url in unnamed:
            continue
        if getattr(data, "proxy", "") and "proxy" not in words.updates:
            words.field(line, "proxy", data.proxy)
        if words.backend == "apt" or not url:
            why = "Debian's repositories have suites" if url else "it names a list of mirrors"
            words.leave_out(line, what, f"{why}; name repositories in the recipe")
        elif not keys:
            words.leave_out(
                line, what, "what it has must be signed: name it and its keys among the "
                "recipe's repositories"
            )  # fmt: skip
        else:
            label = re.sub(r"[^a-z0-9._-]", "-", name.lower())
            made = words.made(line, Repository, name=label, urls=(url,), keys=keys)
            repositories += [made] if made else []
    if repositories:
        words.field(words.line("url", "repo"), "repositories", tuple(repositories))


def take_packages(words: Words) -> None:
    """Groups, packages and what is left out, with the options that have a meaning here."""
    packages = getattr(words.real.handler, "packages", None)
    line = next(
        (n for n, text in enumerate(words.real.lines, 1) if text.startswith("%packages")), 0
    )
    if packages is None or not line:
        return
    apt = words.backend == "apt"
    sign = "" if apt else "@"
    names = [f"{sign}{group.name}" for group in packages.groupList]
    if packages.environment:
        names.insert(0, f"@^{packages.environment}")
    if not apt and not packages.nocore and "@core" not in names:
        names.insert(0, "@core")
    if not apt and words.real.handler.version < F18 and packages.addBase:
        names.append("@base")  # as those installers had it
    if apt and names:
        words.leave_out(
            line, "the meaning of @ for comps groups",
            f"of a Debian system they are tasks: {', '.join(names)}"
        )  # fmt: skip
    for name in (*packages.packageList, *packages.excludedList):
        if re.search(r"\s", name):
            words.refuse(words.at(name, line), f"%packages: {name!r} are two names on one line")
    words.field(line, "groups", tuple(dict.fromkeys(names)))
    wanted = (*packages.packageList, *_of_language(words, packages.packageList))
    words.field(line, "packages", wanted)
    words.field(line, "exclude", tuple(packages.excludedList))
    weak = not apt and not getattr(packages, "excludeWeakdeps", False)
    words.field(line, "weak_dependencies", weak)
    for group in packages.groupList:
        if group.include != constants.GROUP_DEFAULT:
            words.leave_out(words.at(f"@{group.name}", line), f"an option of @{group.name}")
    for group in packages.excludedGroupList:
        words.leave_out(
            words.at(f"-@{group.name}", line), f"-@{group.name}", "name its packages, each with -"
        )
    for option in ("excludeDocs", "multiLib", "instLangs", "default"):
        if getattr(packages, option, None):
            words.leave_out(line, f"%packages --{option.lower()}")


def _of_language(words: Words, named: Collection[str]) -> tuple[str, ...]:
    """The package with the kickstart's locale, which an installer adds by itself."""
    language = (words.real.data("lang", "lang") or "C").partition(".")[0]
    if language in ("C", "POSIX"):
        return ()
    package = "locales" if words.backend == "apt" else f"glibc-langpack-{language.split('_')[0]}"
    has_langpacks = words.backend == "apt" or words.real.handler.version >= min(F24, RHEL8)
    return (package,) if has_langpacks and package not in named else ()
