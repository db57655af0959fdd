"""A kickstart that was written for an installer, read as the settings of a system of packages.

What of it decides a root is taken: packages, accounts, names, services, scripts, the size of "/".
What only an installer does with a disk has no meaning here and is passed over; all else is told as
left out, with its line. Source: pykickstart 3, "Kickstart Syntax Reference".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.builders.installer.answer_text import Finding, Template, load
from pipeline.builders.installer.answers import (
    HIDDEN,
    mark_faults,
    placeholders,
    refused,
    variable_values,
    without,
)
from pipeline.builders.installer.passwords import hide_clear_text
from pipeline.builders.packages.settings import Script
from pipeline.core.packages import BACKENDS, PackageSystem
from pipeline.core.recipe import Recipe

_NO_TREE = "https://tree.invalid/"
"""Stands for the mark {{tree}} of a recipe without trees: it names its repositories itself."""
_JOINED = (
    *("groups", "packages", "exclude", "files", "users", "user_groups", "root_ssh_keys"),
    *("services_enabled", "services_disabled"),
)


@dataclass(frozen=True)
class Taken:
    """What a kickstart says of a system.

    updates: fields of `PackageSystem` with their values; `merged` joins them with a recipe's own.
    scripts: to be run in the guest, in order. command_line: what it adds to the kernel's. fstype
    and label: of "/", "" where it names none. notes: what was left out, a sentence each, with its
    place. saved: the text as it is kept with a build. secrets: to be masked wherever output is.
    """

    updates: Mapping[str, Any] = field(repr=False)
    scripts: tuple[Script, ...] = ()
    command_line: str = ""
    fstype: str = ""
    label: str = ""
    notes: tuple[str, ...] = ()
    saved: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


def read(
    recipe: Recipe,
    distribution: str,
    *,
    overrides: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    keys: Sequence[Path] = (),
) -> Taken:
    """The kickstart `recipe.answers`, for the release whose syntax `recipe.release` names.

    distribution: the word of `PackageSystem`. overrides: the user's values for the recipe's
    variables. environment: where secret ones are looked up, os.environ by default. keys: those
    that url and repo are signed by; without them both are left out, for the recipe names
    repositories of its own. Reads the kickstart and its includes only. InputError lists every
    fault at once, each with its line.
    """
    from pipeline.builders.installer import kickstart_syntax
    from pipeline.builders.packages import kickstart_accounts, kickstart_packages, kickstart_system
    from pipeline.builders.packages.kickstart_words import Words

    faults: list[str] = []
    template = load(recipe.answers, "kickstart", faults)
    values, secrets = variable_values(
        recipe, overrides or {}, os.environ if environment is None else environment, faults
    )
    tree = next((tree for tree in recipe.trees if "://" in tree), _NO_TREE)
    known = {"tree": tree, "proxy": "", "proxy_option": ""} | values
    faults += mark_faults(recipe, template, known)
    fault = kickstart_syntax.release_fault(recipe.release)
    if faults or fault:
        raise refused(recipe, [*faults, *([fault] if fault else [])], secrets)
    files = [line.file for line in template.lines]
    real = kickstart_syntax.read(template.fill(known), recipe.release, files)
    judged = kickstart_syntax.read(
        template.fill(placeholders(known, secrets)), recipe.release, files
    )
    words = Words(real, judged, template, recipe.variables, BACKENDS[distribution])
    kickstart_packages.take_repositories(words, tuple(keys), {_NO_TREE})
    kickstart_packages.take_packages(words)
    kickstart_accounts.take_accounts(words)
    kickstart_system.take_names(words)
    kickstart_system.take_services(words)
    kickstart_system.take_volumes(words)
    kickstart_system.take_scripts(words)
    kickstart_system.tell_others(words)
    found = [*_syntax(real, judged, values), *sorted(words.findings, key=lambda each: each.line)]
    faults = [_told(template, each, secrets) for each in found if each.fatal]
    if faults:
        raise refused(recipe, faults, secrets)
    hidden = known | {name: HIDDEN for name in known if known[name] in secrets}
    return Taken(
        updates=words.updates,
        scripts=tuple(words.scripts),
        command_line=words.command_line,
        fstype=words.fstype,
        label=words.label,
        notes=tuple(_told(template, each, secrets) for each in found),
        saved=without(secrets, hide_clear_text(template.fill(hidden), "kickstart", HIDDEN)),
        secrets=tuple(sorted(secrets)),
    )


def merged(table: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
    """The fields of a `PackageSystem`: a recipe's own words before a kickstart's; lists joined.

    table: the recipe's words, as TOML gives them.
    """
    fields = dict(taken.updates)
    for name, value in table.items():
        both = (*fields.get(name, ()), *value) if name in _JOINED else value
        fields[name] = both
    unknown = set(fields) - set(PackageSystem.model_fields) - set(table)
    assert not unknown, f"no such fields: {unknown}"
    return fields


def _syntax(real: Any, judged: Any, values: Mapping[str, str]) -> list[Finding]:
    """Complaints about the syntax, and secrets in clear text; what is one is never quoted."""
    from pipeline.builders.installer import kickstart_secrets

    cut = list(kickstart_secrets.cut_values(real, judged, values))
    told = {finding.line for finding in cut}
    return [
        *kickstart_secrets.complaints(real, judged, told),
        *cut,
        *kickstart_secrets.clear_text(judged),
    ]


def _told(template: Template, finding: Finding, secrets: set[str]) -> str:
    return without(secrets, template.told(finding))
