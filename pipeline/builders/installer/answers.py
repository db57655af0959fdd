"""Answer files: a recipe's kickstart or preseed, filled in, checked and made to report back.

A template is an ordinary kickstart or preseed with marks `{{name}}`. Every name is declared in
the recipe's `variables`, or is one of BUILTINS; a mark without a value and a value without a mark
are refused. `%include` is resolved here, before anything is installed, so that the text saved
with a build says all there is to know about it.

Success of an install is positive: the last script that runs in the installed system prints a
nonce of this build on the serial port. Markers at the start and on errors tell how far it came.

Sources: the Kickstart documentation (pykickstart 3, "Kickstart Syntax Reference"); Debian's
installation guide, appendix B "Automating the installation using preseeding".
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.builders.installer import preseed
from pipeline.builders.installer.answer_text import Dialect, Finding, Template, load
from pipeline.builders.installer.passwords import (
    PLACEHOLDER,
    clear_words,
    hide_clear_text,
    in_url,
    placeholder,
)
from pipeline.builders.installer.preseed import DONE, FAILED, STARTED
from pipeline.builders.installer.preseed_rules import preseed_findings
from pipeline.core.errors import InputError
from pipeline.core.recipe import Recipe
from pipeline.core.text import did_you_mean
from pipeline.host.download import has_password

BUILTINS = ("tree", "proxy", "proxy_option")
"""Marks with a value of the pipeline's: the tree's URL as the guest sees it, the proxy likewise
("" for none), and the same as a kickstart option, ` --proxy=URL` or ""."""

HIDDEN = "(hidden)"
"""Stands for a secret or the nonce in the saved text."""

_SECTION = re.compile(r"^%(?!include\b|end\b)[a-z]", re.MULTILINE)


@dataclass(frozen=True)
class Answers:
    """An answer file ready to be injected.

    file_name: its name in the initrd. text: with markers and secrets. saved: the same without
    either. nonce and secrets must be masked wherever guest output is kept or shown. masked: what
    else the saved text hides. warnings: what may be wrong, a sentence each.
    """

    file_name: str
    dialect: Dialect
    text: str = field(repr=False)
    saved: str
    nonce: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    masked: tuple[str, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()


def render(
    recipe: Recipe,
    *,
    nonce: str,
    overrides: Mapping[str, str],
    builtins: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Answers:
    """The recipe's answer file with its values, checked for the recipe's release.

    nonce: 16 or more letters and digits nobody can guess. overrides: the user's values for
    declared variables. builtins: values for BUILTINS (see trees.Tree.variables).
    environment: where variables that name an environment variable are read, os.environ by
    default. Reads only the answer file and its includes. InputError lists every fault at once.
    """
    if not re.fullmatch(r"[A-Za-z0-9]{16,64}", nonce):
        raise ValueError("a nonce has 16 to 64 letters and digits")
    dialect: Dialect = "preseed" if recipe.installer == "debian-installer" else "kickstart"
    faults: list[str] = []
    template = load(recipe.answers, dialect, faults)
    values, secrets = variable_values(
        recipe, overrides, os.environ if environment is None else environment, faults
    )
    given = {"tree": recipe.trees[0] if recipe.trees else "", "proxy": "", "proxy_option": ""}
    known = given | dict(builtins or {}) | values
    secrets |= {known[name] for name in BUILTINS if has_password(known[name])}
    faults += mark_faults(recipe, template, known)
    if faults:
        raise refused(recipe, faults)
    found = list(_findings(recipe, template, known, secrets))
    faults = [template.told(each) for each in found if each.fatal]
    if faults:
        raise refused(recipe, faults, secrets)

    def marked(text: str, nonce: str) -> str:
        if dialect == "preseed":
            return preseed.add_markers(text, nonce)
        return add_markers(text, nonce, error_sections(recipe.installer, recipe.release))

    hidden = known | {name: HIDDEN for name in known if known[name] in secrets}
    return Answers(
        file_name="ks.cfg" if dialect == "kickstart" else "preseed.cfg",
        dialect=dialect,
        text=marked(template.fill(known), nonce),
        saved=marked(
            without(secrets, hide_clear_text(template.fill(hidden), dialect, HIDDEN)), HIDDEN
        ),
        nonce=nonce,
        secrets=tuple(sorted(secrets)),
        masked=clear_words(template.fill(placeholders(known, secrets)), dialect),
        warnings=tuple(template.told(each) for each in found if not each.fatal),
    )


def without(secrets: Iterable[str], text: str) -> str:
    """The text without the secrets; shorter than four characters they are ordinary words."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    return text


def mark_faults(recipe: Recipe, template: Template, known: Mapping[str, str]) -> list[str]:
    """Marks without a value and values without a mark."""
    places: dict[str, tuple[str, str]] = {}
    for name, where, text in template.marks():
        places.setdefault(name, (where, text))
    faults = [
        f"{where}: the mark {text} has no value: the recipe declares no such variable"
        f"{did_you_mean(name, known)}; for the braces themselves write \\{text}"
        for name, (where, text) in places.items()
        if name not in known and name not in recipe.variables
    ]
    faults += [
        f"the variable {name} is declared and the file has no mark {{{{{name}}}}} for it"
        for name in sorted(set(recipe.variables) - set(places))
    ]
    if "tree" in places and not known["tree"]:
        faults.append("the mark {{tree}} has no value: the recipe names no trees")
    elif "tree" in places and "://" not in known["tree"]:
        faults.append(
            f"the mark {{{{tree}}}} would become {known['tree']}, a directory of this host, which "
            "the installer cannot reach: name a URL in the recipe's trees"
        )
    return faults


def placeholders(known: Mapping[str, str], secrets: Collection[str]) -> dict[str, str]:
    """The values with placeholders for those that are secret; in a URL for its password alone."""
    values = dict(known)
    for name, value in known.items():
        if value in secrets and name in BUILTINS:
            for begin, end in reversed(list(in_url(value))):
                values[name] = value[:begin] + PLACEHOLDER + value[end:]
        elif value in secrets:
            values[name] = placeholder(name)
    return values


def _findings(
    recipe: Recipe, template: Template, known: Mapping[str, str], secrets: Collection[str]
) -> Iterator[Finding]:
    """What is wrong with the text; all but its syntax is judged with placeholders for secrets."""
    probe = template.fill(placeholders(known, secrets))
    if recipe.installer == "debian-installer":
        yield from preseed_findings(probe)
        return
    from pipeline.builders.installer import kickstart_rules, kickstart_secrets, kickstart_syntax

    fault = kickstart_syntax.release_fault(recipe.release)
    if fault:
        yield Finding(0, fault)
        return
    real = kickstart_syntax.read(template.fill(known), recipe.release)
    judged = kickstart_syntax.read(probe, recipe.release, [line.file for line in template.lines])
    cut = list(kickstart_secrets.cut_values(real, judged, known))
    yield from kickstart_secrets.complaints(real, judged, {finding.line for finding in cut})
    yield from cut
    yield from kickstart_rules.findings(judged, recipe)


def refused(recipe: Recipe, faults: Sequence[str], secrets: Iterable[str] = ()) -> InputError:
    """The error that tells all faults of a recipe's answer file, without the secrets."""
    told = list(dict.fromkeys(without(secrets, fault) for fault in faults))
    return InputError(
        "use the answer file",
        recipe.answers,
        why=f"{len(told)} fault{'s' if len(told) > 1 else ''}: " + "; ".join(told),
        next_step=f"Correct it, or the table [{recipe.name}] of the recipes",
    )


def variable_values(
    recipe: Recipe,
    overrides: Mapping[str, str],
    environment: Mapping[str, str],
    faults: list[str],
) -> tuple[dict[str, str], set[str]]:
    """Values of the declared variables, and those that came from the environment."""
    values: dict[str, str] = {}
    secrets: set[str] = set()
    for name in overrides:
        if name not in recipe.variables:
            near = did_you_mean(name, recipe.variables)
            faults.append(f"the recipe declares no variable {name}{near}")
    for name, default in recipe.variables.items():
        if name in BUILTINS:
            faults.append(f"the variable {name} has the name of a built-in one")
            continue
        if isinstance(default, str):
            value = overrides.get(name, default)
        else:
            if name in overrides:
                faults.append(f"{name} is taken from ${default.environment} only: it is a secret")
                continue
            if not environment.get(default.environment):
                faults.append(f"{name} comes from ${default.environment}, which is not set")
                continue
            value = environment[default.environment]
            secrets.add(value)
        if any(not c.isprintable() for c in value):
            faults.append(f"the value of {name} has a line break or control character")
        values[name] = value
    return values, secrets


_LOGS = "/tmp/anaconda.log /tmp/program.log /tmp/storage.log /tmp/packaging.log /tmp/syslog"  # noqa: S108 # the guest's
_SERIAL = "/dev/ttyS0"
_FIRST_ONERROR = {"F": 27, "RHEL": 8}  # older anacondas refuse a kickstart with this section


def add_markers(text: str, nonce: str, error_sections: Sequence[str]) -> str:
    """The kickstart with scripts that report on the serial port, the nonce's as the last %post.

    A script that reports an error sends the tails of the installer's logs after it.
    """
    logs = f'for log in {_LOGS}; do test -f "$log" && tail -n 20 "$log" >{_SERIAL}; done'
    scripts = [(s, f"{preseed.say(FAILED, nonce)}\n{logs}") for s in error_sections]
    scripts += [("%post", f"sync\n{preseed.say(DONE, nonce)}")]
    first = _SECTION.search(text)
    at = first.start() if first else len(text)  # scripts run in order, and any %pre can fail
    started = f"%pre\n{preseed.say(STARTED, nonce)}\n%end\n\n"
    last = "".join(f"\n{section}\n{body}\n%end\n" for section, body in scripts)
    return f"{text[:at].rstrip()}\n\n{started}{text[at:].rstrip()}\n{last}"


def error_sections(installer: str, release: str) -> tuple[str, ...]:
    """Sections of this installer's release that run when it fails.

    %traceback, on crashes, is known to every anaconda; %onerror, on fatal errors, to those of
    Fedora 27 and RHEL 8 and later.
    """
    if installer != "anaconda":
        return ()
    match = re.fullmatch(r"(F|RHEL)(\d+)", release)
    if match and int(match[2]) >= _FIRST_ONERROR[match[1]]:
        return ("%onerror", "%traceback")
    return ("%traceback",)
