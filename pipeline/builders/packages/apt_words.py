"""What apt's words mean: which repository failed, whether asking again helps, what to do.

The words are those of apt 2.2 to 3.0 (apt-pkg/acquire-item.cc, deb/debmetaindex.cc,
methods/gpgv.cc) in the C locale.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.core.errors import InputError
from pipeline.core.text import did_you_mean, printable

_URL = re.compile(r"\b(?:https?|file|copy|ftp)://?[^\s'\"]+|\bfile:/[^\s'\"]+")
_KEYS = 'Give the keys that sign the repository in "keys" of the recipe'
_TAMPERED = (
    "Try again; where it stays so, the mirror or something on the way to it changes files:"
    " name another mirror"
)

_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (
        r"NO_PUBKEY (\w+)|Missing key (\w+)",
        "it is signed by the key {0}, which is not among its keys",
        _KEYS,
    ),
    (
        r"EXPKEYSIG (\w+)|expired key (\w+)|[Kk]ey expired",
        "the key {0} that signed it has expired",
        "Get the repository's keys of today (for Debian: the package debian-archive-keyring)",
    ),
    (r"REVKEYSIG (\w+)", "the key {0} that signed it was revoked", _KEYS),
    (r"EXPSIG (\w+)", "the signature of key {0} has expired", "Name another mirror"),
    (r"BADSIG (\w+)", "the signature of key {0} does not fit its Release file", _TAMPERED),
    (
        r"weak digest|uses weak algorithm|which is considered strong enough"
        r"|untrusted public key algorithm|weak security information",
        "it is signed with a digest that is no longer secure",
        "Ask its owner to sign it with SHA-256 or better, or use another repository",
    ),
    (
        r"is no(?:t| longer) signed|No good signature|does not have a Release file",
        "it is not signed",
        "Use a repository that has InRelease or Release.gpg; unsigned ones are not accepted",
    ),
    (
        r"is expired \(invalid since ([^)]*)\)|has expired",
        "its Release file passed its Valid-Until {0} ago",
        "Use a mirror that is kept up to date; for an archive that is kept as it was,"
        " set check_valid_until = false in the recipe",
    ),
    (
        r"is not valid yet \(invalid for another ([^)]*)\)",
        "its Release file is dated {0} in the future",
        "Set this host's clock",
    ),
    (
        r"Unable to find expected entry '([^']*)'|doesn't have the component '([^']*)'"
        r"|doesn't support architecture '([^']*)'",
        "it has no {0}",
        "Correct components, suites or architecture in the recipe",
    ),
    (
        r"signatures couldn't be verified|signatures were invalid|GPG error",
        "its signature is not valid",
        _KEYS,
    ),
)
"""A pattern, what it says of the repository, what to do. The first that fits is taken."""

_AGAIN = re.compile(
    r"Hash Sum mismatch|unexpected size|Mirror sync in progress|Could not|Cannot initiate|Unable to"
    r"|Failed to fetch|onnection|timed out|NOSPLIT|Temporary failure|Undetermined Error|404|50\d"
)
_FULL = re.compile(r"No space left on device|[Dd]isk quota exceeded|not enough space|enough free")


@dataclass(frozen=True)
class Failure:
    """Why a repository cannot be used. repository: its name. refused: asking again cannot help."""

    repository: str
    refused: bool
    why: str
    next_step: str = ""


def failures(output: str, urls: Mapping[str, str]) -> list[Failure]:
    """What an update's output complains of, each repository once, refusals first.

    urls: repository's name -> the URL that was asked.
    """
    found: dict[str, Failure] = {}
    for line in _complaints(output):
        for name in _named(line, urls):
            failure = _failure(name, line)
            if failure and (name not in found or failure.refused > found[name].refused):
                found[name] = failure
    return sorted(found.values(), key=lambda f: (not f.refused, f.repository))


def is_full(output: str) -> bool:
    """Whether apt ran out of space."""
    return _FULL.search(output) is not None


def complaint(output: str) -> str:
    """apt's own errors in one line; its last line where it names none."""
    lines = [line[2:].strip() for line in output.splitlines() if line.startswith("E:")]
    last = output.strip().splitlines()[-1:]
    return printable("; ".join(dict.fromkeys(lines)) or "".join(last))


def _complaints(output: str) -> Iterator[str]:
    """Errors, warnings, and notices of what was skipped, each with the lines that go on with it."""
    lines = [line for line in output.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith(("W:", "E:")) or "Skipping acquire" in line:
            end = number + 1
            while end < len(lines) and lines[end].startswith("   "):
                end += 1
            yield " ".join(part.strip() for part in lines[number:end])


def _named(line: str, urls: Mapping[str, str]) -> list[str]:
    """The repositories that a line speaks of: those with the longest URL that one of its begins
    with."""
    asked = [match.rstrip(".,") for match in _URL.findall(line)]
    best: list[str] = []
    length = 0
    for name, url in urls.items():
        base = url.rstrip("/")
        if any(a == base or a.startswith(f"{base}/") for a in asked) and len(base) >= length:
            best = [*best, name] if len(base) == length else [name]
            length = len(base)
    return best


def _failure(name: str, line: str) -> Failure | None:
    for pattern, why, next_step in _REFUSALS:
        if match := re.search(pattern, line):
            word = next((group for group in match.groups() if group), "")
            said = " ".join(why.format(word).split())
            return Failure(name, True, printable(said), next_step)
    if _AGAIN.search(line):
        said = re.sub(r"^[WE]: (?:Failed to fetch \S+ +)?", "", line)
        return Failure(name, False, printable(said.strip())[:300])
    return None


def refuse_resolution(output: str, wanted: Iterable[str], known: Iterable[str]) -> InputError:
    """The error of a resolution that failed. known: names to look for a near miss in."""
    attempted, what = "choose the packages", ", ".join(wanted)
    choices: list[str] = []
    for pattern, why in (
        (r"Unable to locate package (\S+)", "no repository has the package {0}"),
        (r"Package '(\S+)' has no installation candidate", "no repository offers {0} to install"),
        (r"[Cc]ouldn't find task '?([^'\s]+)'?", "no repository has the task {0}"),
        (r"Version '\S+' for '(\S+)' was not found", "no repository has that version of {0}"),
    ):
        names = list(dict.fromkeys(re.findall(pattern, output)))
        if names:
            choices = choices or list(known)
            said = "; ".join(why.format(n) + did_you_mean(n, choices) for n in names)
            return InputError(
                attempted,
                what,
                why=printable(said),
                next_step="Correct the name, or add the repository or component that has it",
            )
    unmet = re.findall(r"^ *(\S+) : (?:Pre)?-?(?:Depends|Conflicts|Breaks): .*$", output, re.M)
    if unmet:
        said = "; ".join(
            " ".join(m.split()) for m in re.findall(r"^ *\S+ : .*(?:\n {8,}.*)*", output, re.M)[:6]
        )
        return InputError(
            attempted,
            what,
            why=printable(said),
            next_step="Drop one of them, or name the repository that has what is missing",
        )
    return InputError(
        attempted, what, why=complaint(output), next_step="Correct the recipe's packages"
    )
