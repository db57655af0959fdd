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

import contextlib
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.builders.installer import preseed
from pipeline.builders.installer.preseed import CRYPT, DONE, FAILED, STARTED
from pipeline.core.errors import InputError
from pipeline.core.recipe import Recipe
from pipeline.core.text import did_you_mean
from pipeline.host.download import has_password

BUILTINS = ("tree", "proxy", "proxy_option")
"""Marks with a value of the pipeline's: the tree's URL as the guest sees it, the proxy likewise
("" for none), and the same as a kickstart option, ` --proxy=URL` or ""."""

HIDDEN = "(hidden)"
"""Stands for a secret or the nonce in the saved text."""

_MARK = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_INCLUDE = re.compile(r"^\s*%(include|ksappend)\s+(\S+)\s*(?:#.*)?$")
_GUEST_INCLUDES = ("/tmp/", "/run/")  # noqa: S108 # the guest's, written by %pre, never read here
_SECTION = re.compile(r"^%(?!include\b|end\b)[a-z]", re.MULTILINE)
_MAX_BYTES = 1 << 20  # an answer file is read whole into an initrd; real ones are a few KiB
_MAX_DEPTH = 16

Dialect = Literal["kickstart", "preseed"]


@dataclass(frozen=True)
class Answers:
    """An answer file ready to be injected.

    file_name: its name in the initrd. text: with markers and secrets. saved: the same without
    either. nonce and secrets must be masked wherever guest output is kept or shown.
    """

    file_name: str
    dialect: Dialect
    text: str = field(repr=False)
    saved: str
    nonce: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)


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
    template = _load(recipe.answers, dialect, faults)
    values, secrets = _values(
        recipe, overrides, os.environ if environment is None else environment, faults
    )
    given = {"tree": recipe.trees[0] if recipe.trees else "", "proxy": "", "proxy_option": ""}
    known = given | dict(builtins or {}) | values
    secrets |= {known[name] for name in BUILTINS if has_password(known[name])}
    used = set(_MARK.findall(template))
    faults += [
        f"the mark {{{{{name}}}}} has no value: the recipe declares no such variable"
        f"{did_you_mean(name, known)}"
        for name in sorted(used - set(known))
        if name not in recipe.variables
    ]
    faults += [
        f"the variable {name} is declared and the file has no mark {{{{{name}}}}} for it"
        for name in sorted(set(recipe.variables) - used)
    ]
    if "tree" in used and not known["tree"]:
        faults.append("the mark {{tree}} has no value: the recipe names no trees")
    if faults:
        raise _refused(recipe, faults)
    plain = _fill(template, known)
    faults += (
        _kickstart_faults(plain, recipe.release, secrets)
        if dialect == "kickstart"
        else preseed.faults(plain, secrets)
    )
    if faults:
        raise _refused(recipe, faults)

    def marked(text: str, nonce: str) -> str:
        if dialect == "preseed":
            return preseed.add_markers(text, nonce)
        return add_markers(text, nonce, error_sections(recipe.installer, recipe.release))

    hidden = known | {name: HIDDEN for name in known if known[name] in secrets}
    return Answers(
        file_name="ks.cfg" if dialect == "kickstart" else "preseed.cfg",
        dialect=dialect,
        text=marked(plain, nonce),
        saved=marked(_fill(template, hidden), HIDDEN),
        nonce=nonce,
        secrets=tuple(sorted(secrets)),
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _MARK.sub(lambda match: values[match[1]], template)


def _refused(recipe: Recipe, faults: list[str]) -> InputError:
    return InputError(
        "use the answer file",
        recipe.answers,
        why=f"{len(faults)} fault{'s' if len(faults) > 1 else ''}: " + "; ".join(faults),
        next_step=f"Correct it, or the table [{recipe.name}] of the recipes",
    )


def _values(
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


def _load(path: Path, dialect: Dialect, faults: list[str]) -> str:
    """The file's text with its includes in place."""
    base = path.parent.resolve()

    def load(file: Path, above: tuple[Path, ...]) -> str:
        real = file.resolve()
        if real in above:
            faults.append(f"{file.name} includes itself")
            return ""
        if len(above) > _MAX_DEPTH:
            faults.append(f"includes are nested deeper than {_MAX_DEPTH}")
            return ""
        try:
            with real.open("rb") as stream:
                data = stream.read(_MAX_BYTES + 1)
            text = data.decode()
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{file}: {error}")
            return ""
        if len(data) > _MAX_BYTES or "\0" in text:
            faults.append(f"{file}: it is no text of at most {_MAX_BYTES >> 10} KiB")
            return ""
        text = text.replace("\r\n", "\n")
        if dialect == "preseed":  # debconf's own `preseed/include` is resolved on the guest
            return text
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            match = _INCLUDE.match(line)
            if match is None:
                lines.append(line)
                continue
            where, name = f"{file.name} line {number}", match[2].strip("\"'")
            if match[1] == "ksappend":
                faults.append(f"{where}: %ksappend is not supported; use %include")
            elif name.startswith(_GUEST_INCLUDES) and ".." not in Path(name).parts:
                lines.append(line)
            elif "://" in name or not (target := (file.parent / name).resolve()).is_relative_to(
                base
            ):
                faults.append(f"{where}: %include {name} is outside {base}")
            else:
                lines.append(load(target, (*above, real)).rstrip("\n"))
        return "\n".join(lines) + "\n"

    return load(path, ())


def _kickstart_faults(text: str, release: str, secrets: set[str]) -> list[str]:
    """What pykickstart and the pipeline find wrong with a kickstart for `release`."""
    from pykickstart.parser import KickstartParser
    from pykickstart.version import makeVersion, versionMap

    if release not in versionMap:
        return [f"pykickstart knows no release {release!r}{did_you_mean(release, versionMap)}"]
    handler = makeVersion(release)
    parser = KickstartParser(handler, followIncludes=False, errorsAreFatal=False)
    said = io.StringIO()
    faults: list[str] = []
    with contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated is not wrong
        try:
            parser.readKickstartFromString(text)
        except Exception as error:  # the parser lets any exception through
            faults.append(_one_line(str(error)))
    faults += [_one_line(line) for line in _messages(said.getvalue())]
    return faults + _command_faults(handler, secrets)


def _command_faults(handler: Any, secrets: set[str]) -> list[str]:
    """Passwords in clear text, and an end that is no power-off."""
    from pykickstart.constants import KS_SHUTDOWN

    faults = []
    rootpw = handler.rootpw
    entries = [("rootpw", rootpw.password, rootpw.isCrypted)] if rootpw.seen else []
    entries += [(f"user {u.name}", u.password, u.isCrypted) for u in handler.user.userList]
    for command, password, crypted in entries:
        if not password or password in secrets:
            continue
        if not crypted:
            faults.append(f"{command}: a password in clear text; give its hash with --iscrypted")
        elif not CRYPT.match(password):
            faults.append(f"{command}: --iscrypted, and the password is no crypt(5) hash")
    boot_password = getattr(handler.bootloader, "password", "")
    if boot_password and boot_password not in secrets and not handler.bootloader.isCrypted:
        faults.append("bootloader: a password in clear text; give its hash with --iscrypted")
    if handler.reboot.action != KS_SHUTDOWN:
        faults.append("it must end in poweroff: the pipeline waits for a clean power-off")
    return faults


def _messages(text: str) -> list[str]:
    """pykickstart's complaints, one an item; its messages start at the margin."""
    items: list[str] = []
    for line in text.splitlines():
        if line[:1].isspace() and items:
            items[-1] += " " + line
        elif line.strip():
            items.append(line)
    return items


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


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
