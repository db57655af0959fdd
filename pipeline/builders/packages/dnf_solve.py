"""Solves for packages with the host's dnf: a script of its own for the system's Python.

Reads a JSON object from standard input and prints one: "packages", or "problem" with its words. It
reads metadata that lies in directories, asks no network, and has no part of the host's own dnf:
neither its repositories, configuration, plugins and database nor its caches. The other side is
dnf_resolve.py, which says what the objects hold.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import dnf
import dnf.comps
import dnf.goal
import dnf.subject
import dnf.util
import hawkey

MINIMUM = ("basesystem", "bash", "coreutils", "filesystem", "rpm", "setup")
"""What a core has in any case; and what provides "system-release"."""
IF_THERE = ("glibc-minimal-langpack",)
"""Chosen where it exists: glibc is content with any language pack, and the largest has 200 MB."""


class Problem(Exception):
    """What cannot be had. kind: "package", "group", "solve" or "parent"."""

    def __init__(self, kind: str, subject: str, why: str, near: Iterable[str] = ()) -> None:
        super().__init__(kind, subject, why)
        self.words = {"kind": kind, "subject": subject, "why": why, "near": list(near)}


def open_base(asked: dict[str, Any], platform: str = "") -> Any:
    """dnf's own object with the repositories' metadata and nothing of the host."""
    conf = dnf.conf.Conf()
    place = asked["scratch"]
    conf.installroot = f"{place}/root"
    os.makedirs(conf.installroot, exist_ok=True)  # noqa: PTH103
    conf.cachedir, conf.persistdir, conf.logdir = asked["cache"], f"{place}/lib", place
    conf.reposdir, conf.pluginpath, conf.varsdir = [], [], []
    conf.plugins = conf.zchunk = False
    conf.module_platform_id = platform
    conf.excludepkgs = asked["exclude"]
    for name, value in (("arch", "arch"), ("basearch", "arch"), ("releasever", "release")):
        conf.substitutions[name] = asked[value]
    base = dnf.Base(conf)
    for name, directory in asked["repositories"]:
        repo = dnf.repo.Repo(name, conf)
        repo.baseurl = [f"file://{directory}"]
        repo.metadata_expire = -1
        repo.skip_if_unavailable = False
        base.repos.add(repo)
    base.fill_sack(load_system_repo=False)
    return base


def open_modular(asked: dict[str, Any]) -> Any:
    """The same, with modules of the platform that the distribution's release package names."""
    base = open_base(asked)
    for package in base.sack.query().filterm(provides="system-release"):
        for provided in map(str, package.provides):
            if asked["modular"] and provided.startswith("base-module("):
                base.close()
                return open_base(asked, provided[len("base-module(") :].partition(")")[0])
    return base


def selector(base: Any, word: str) -> Any:
    """What a word of the recipe stands for: a name, NEVRA, file, capability or pattern."""
    found = dnf.subject.Subject(word).get_best_selector(base.sack, obsoletes=False)
    if not found.matches():
        names = {package.name for package in base.sack.query()}
        excluded = word in {package.name for package in base.sack.query(hawkey.IGNORE_EXCLUDES)}
        why = "the recipe excludes it" if excluded else "no repository has it"
        raise Problem("package", word, why, difflib.get_close_matches(word, sorted(names), 3))
    return found


def release_selector(base: Any, distribution: str, wanted: Iterable[str]) -> Any:
    """What provides "system-release": the package that was asked for, else the family's own."""
    found = base.sack.query().filterm(provides="system-release")
    names = sorted({package.name for package in found})
    if not names:
        raise Problem("package", "system-release", "no repository has what provides it")
    asked = [name for name in names if name in set(wanted)]
    own = [name for name in names if name.startswith(distribution)]
    chosen = (asked or sorted(own, key=len) or names)[0]
    return selector(base, chosen)


def group_members(base: Any, word: str, notes: list[str]) -> tuple[list[str], dict[str, str]]:
    """Names of a group's packages, and of those that are wanted with another package."""
    comps = base.comps
    name = word.removeprefix("@")
    if environment := comps.environment_by_pattern(name.removeprefix("^")):
        groups = [comps.group_by_pattern(each.name) for each in environment.mandatory_groups]
    else:
        groups = [comps.group_by_pattern(name)]
    if not all(groups):
        known = sorted({group.id for group in comps.groups})
        listed = f"; known are {', '.join(known[:40])}" if known else "; there are no groups at all"
        near = difflib.get_close_matches(name, known, 3)
        raise Problem("group", word, f"no repository has the group{listed}", near)
    names: list[str] = []
    conditional: dict[str, str] = {}
    for group in groups:
        for package in group.packages_iter():
            if package.option_type == dnf.comps.CONDITIONAL:
                conditional[package.name] = package.requires
            elif package.option_type in (dnf.comps.MANDATORY, dnf.comps.DEFAULT):
                names.append(package.name)
    there = {package.name for package in base.sack.query()}
    if absent := sorted({each for each in names if each not in there}):
        notes.append(f"the group {word} names what no repository has: {', '.join(absent)}")
    return [each for each in names if each in there], conditional


def parent_package(base: Any, parent: dict[str, str]) -> Any:
    """The package of a layer below, as the repositories have it."""
    for package in base.sack.query(hawkey.IGNORE_EXCLUDES).filterm(
        name=parent["name"], arch=parent["arch"]
    ):
        if package.evr == parent["evr"] and package.chksum[1].hex() == parent["sha256"]:
            return package
    label = f"{parent['name']}-{parent['evr']}.{parent['arch']}"
    raise Problem("parent", label, "the repositories have another or none by now")


def solve(base: Any, asked: dict[str, Any], notes: list[str]) -> list[Any]:
    """The packages of the whole root, those of the parents among them."""
    wanted = list(asked["packages"])
    conditional: dict[str, str] = {}
    for group in asked["groups"]:
        members, more = group_members(base, group, notes)
        wanted += members
        conditional |= more
    selectors = [selector(base, word) for word in dict.fromkeys(wanted)]
    if asked["core"]:
        # A repository of one's own may lack some of it, and the packages know what they need.
        there = {package.name for package in base.sack.query()}
        minimum = [name for name in (*MINIMUM, *IF_THERE) if name in there]
        selectors += [selector(base, name) for name in minimum]
        selectors.append(release_selector(base, asked["distribution"], wanted))
    parents = [parent_package(base, parent) for parent in asked["parents"]]
    added: set[str] = set()
    while True:
        chosen = run_goal(base, selectors, parents, asked["weak"])
        got = {package.name for package in chosen}
        new = {n for n, needs in conditional.items() if needs in got} - got - added
        new &= {package.name for package in base.sack.query()}
        if not new:
            break
        added |= new
        selectors += [selector(base, name) for name in sorted(new)]
    for parent in parents:
        if parent not in chosen and not replaced(parent, chosen):
            why = (
                f"it cannot be together with what the layer adds: {fight(base, parent, selectors)}"
            )
            raise Problem("solve", str(parent), why)
    return chosen


def run_goal(base: Any, selectors: list[Any], parents: list[Any], weak: bool) -> list[Any]:
    """Solve once. Parents are wished for, since what the layer adds may take their place."""
    goal = dnf.goal.Goal(base.sack)
    for parent in parents:
        goal.install(parent, optional=True)
    for each in selectors:
        goal.install(select=each, optional=False)
    if not goal.run(ignore_weak_deps=not weak):
        raise Problem("solve", "", dnf.util._format_resolve_problems(goal.problem_rules()).strip())
    return list(goal.list_installs())


def replaced(parent: Any, chosen: list[Any]) -> bool:
    """Whether a package takes the parent's place: another version, or one that obsoletes it."""
    if any(package.name == parent.name for package in chosen):
        return True
    return any(
        str(old).split(" ")[0] == parent.name for package in chosen for old in package.obsoletes
    )


def fight(base: Any, parent: Any, selectors: list[Any]) -> str:
    """Why a parent had to go, in the solver's words."""
    goal = dnf.goal.Goal(base.sack)
    goal.install(parent)
    for each in selectors:
        goal.install(select=each, optional=False)
    if goal.run(ignore_weak_deps=True):
        return "together with other packages of the layers below"
    return str(dnf.util._format_resolve_problems(goal.problem_rules())).strip()


def told(package: Any) -> dict[str, Any]:
    """A package as the other side takes it."""
    kind, digest = package.chksum
    if kind != hawkey.CHKSUM_SHA256:
        raise Problem("solve", str(package), "its repository gives no sha256 of it")
    return {
        "name": package.name,
        "evr": package.evr,
        "arch": package.arch,
        "sha256": digest.hex(),
        "size": package.downloadsize,
        "url": package.location,
        "repository": package.reponame,
        "sourcerpm": package.sourcerpm or "",
    }


def main() -> None:
    """Read, solve, print."""
    asked = json.load(sys.stdin)
    notes: list[str] = []
    # What dnf prints would stand before the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        base = open_modular(asked)
        base.read_comps(arch_filter=True)
        packages = [told(package) for package in solve(base, asked, notes)]
        said: dict[str, Any] = {"packages": packages, "notes": notes}
    except Problem as problem:
        said = {"problem": problem.words, "notes": notes}
    json.dump(said, answer)
    answer.close()


if __name__ == "__main__":
    main()
