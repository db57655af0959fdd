"""A system of packages from a few words: what is left unsaid has the default of its distribution.

Recipes that name no repositories and the command line both come through here. Keys are never
fetched: they are files that a package of the host brought, or that the user names. Sources: Debian
Reference, chapter 2; Ubuntu's "Repositories/CommandLine"; the .repo files of fedora-repos,
centos-stream-repos, rocky-repos and almalinux-repos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.core.architecture import Architecture
from pipeline.core.errors import InputError
from pipeline.core.packages import BACKENDS, Repository
from pipeline.core.text import did_you_mean

_Record = TypeVar("_Record", bound=BaseModel)


@dataclass(frozen=True)
class _Place:
    """One repository. url: with {mirror}, {release}, {arch} and, of a pinned one, {snapshot}."""

    name: str
    urls: tuple[str, ...]
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Releases that have no such repository."""


@dataclass(frozen=True)
class _Defaults:
    """What a distribution has unless the user says otherwise.

    mirror: the beginning of URLs, by architecture, with "" for all others. keys: files, of which
    those count that are there. package: brings them, on systems that have it. base: packages; those
    of the network and the kernel come to them. pinned: as mirror, where a snapshot is asked for.
    """

    mirror: Mapping[str, str]
    places: tuple[_Place, ...]
    keys: tuple[str, ...]
    package: str
    base: tuple[str, ...]
    kernel: Mapping[str, str]
    pinned: str = ""


_KEYS = "/usr/share/distribution-gpg-keys"
_PKI = "/etc/pki/rpm-gpg"
_ROLLING = ("sid", "unstable")
_DEBIAN_BASE = (
    *("systemd-sysv", "udev", "kmod", "dbus", "openssh-server", "iproute2", "netbase"),
    *("initramfs-tools", "ifupdown"),
)
_EL_BASE = (
    *("systemd", "systemd-udev", "dracut-config-generic", "openssh-server", "NetworkManager"),
    *("iproute", "passwd", "shadow-utils"),
)
_ISC_DHCP = ("buster", "bullseye", "bookworm", "focal", "jammy", "noble")
"""Releases whose ifupdown wants that client; later ones have dhcpcd's."""


def _rpm(mirror: str, place: str, *, keys: tuple[str, ...], names: Sequence[str]) -> _Defaults:
    """place: of a repository below the mirror, with {name}."""
    return _Defaults(
        mirror={"": mirror},
        places=tuple(
            _Place(name.lower(), (f"{{mirror}}/{place.replace('{name}', name)}",)) for name in names
        ),
        keys=keys,
        package="distribution-gpg-keys",
        base=_EL_BASE,
        kernel={"": "kernel-core"},
    )


_DISTRIBUTIONS: dict[str, _Defaults] = {
    "debian": _Defaults(
        mirror={"": "https://deb.debian.org/debian"},
        places=(
            _Place("main", ("{mirror}",), ("{release}",), ("main",)),
            _Place("updates", ("{mirror}",), ("{release}-updates",), ("main",), without=_ROLLING),
            _Place(
                "security",
                ("{mirror}-security", "https://security.debian.org/debian-security"),
                ("{release}-security",),
                ("main",),
                without=_ROLLING,
            ),
        ),
        keys=("/usr/share/keyrings/debian-archive-keyring.gpg",),
        package="debian-archive-keyring",
        base=_DEBIAN_BASE,
        kernel={"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"},
        pinned="https://snapshot.debian.org/archive/debian{part}/{snapshot}",
    ),
    "ubuntu": _Defaults(
        mirror={
            "": "http://archive.ubuntu.com/ubuntu",
            "aarch64": "http://ports.ubuntu.com/ubuntu-ports",
        },
        places=(
            _Place(
                "main",
                ("{mirror}",),
                ("{release}", "{release}-updates", "{release}-security"),
                ("main", "universe"),
            ),
        ),
        keys=("/usr/share/keyrings/ubuntu-archive-keyring.gpg",),
        package="ubuntu-keyring",
        base=_DEBIAN_BASE,
        kernel={"": "linux-image-virtual"},
    ),
    "fedora": _Defaults(
        mirror={"": "https://dl.fedoraproject.org/pub/fedora/linux"},
        places=(
            _Place("fedora", ("{mirror}/releases/{release}/Everything/{arch}/os/",)),
            _Place("updates", ("{mirror}/updates/{release}/Everything/{arch}/",)),
        ),
        keys=(
            f"{_KEYS}/fedora/RPM-GPG-KEY-fedora-{{release}}-primary",
            f"{_PKI}/RPM-GPG-KEY-fedora-{{release}}-primary",
        ),
        package="distribution-gpg-keys",
        base=_EL_BASE,
        kernel={"": "kernel-core"},
    ),
    "centos": _rpm(
        "https://mirror.stream.centos.org",
        "{release}-stream/{name}/{arch}/os/",
        keys=(
            f"{_KEYS}/centos/RPM-GPG-KEY-CentOS-Official-SHA256",
            f"{_KEYS}/centos/RPM-GPG-KEY-CentOS-Official",
            f"{_PKI}/RPM-GPG-KEY-centosofficial",
        ),
        names=("BaseOS", "AppStream"),
    ),
    "rocky": _rpm(
        "https://dl.rockylinux.org/pub/rocky",
        "{release}/{name}/{arch}/os/",
        keys=(
            f"{_KEYS}/rocky/RPM-GPG-KEY-Rocky-{{major}}",
            f"{_PKI}/RPM-GPG-KEY-Rocky-{{major}}",
        ),
        names=("BaseOS", "AppStream"),
    ),
    "almalinux": _rpm(
        "https://repo.almalinux.org/almalinux",
        "{release}/{name}/{arch}/os/",
        keys=(
            f"{_KEYS}/alma/RPM-GPG-KEY-AlmaLinux-{{major}}",
            f"{_PKI}/RPM-GPG-KEY-AlmaLinux-{{major}}",
        ),
        names=("BaseOS", "AppStream"),
    ),
}


def repositories(
    distribution: str,
    release: str,
    architecture: Architecture = "x86_64",
    *,
    mirror: str = "",
    keys: Sequence[Path] = (),
    snapshot: str = "",
) -> tuple[Repository, ...]:
    """The distribution's own repositories.

    mirror: in place of the public one. keys: in place of the files that the host's packages bring;
    where none of those is there, the one that is usual is named, for a backend to miss. snapshot: a
    time, for a distribution that keeps its states. InputError where there are no defaults.
    """
    defaults = _defaults(distribution)
    words = {"release": release, "arch": architecture, "major": release.partition(".")[0]}
    pinned = defaults.pinned if snapshot and not mirror else ""
    if snapshot and not mirror and not pinned:
        raise InputError(
            "pin the repositories of",
            distribution,
            why="it keeps no states of the past that are known here",
            next_step="Name a mirror that has them, with {snapshot} in its URL",
        )
    start = mirror.rstrip("/") or defaults.mirror.get(architecture, defaults.mirror[""])
    every = keys or _usual_keys(defaults, words)
    return tuple(
        Repository(
            name=place.name,
            urls=_urls(place, start, pinned, words),
            keys=tuple(every),
            suites=tuple(suite.format(**words) for suite in place.suites),
            components=place.components,
        )
        for place in defaults.places
        if release not in place.without
    )


def _urls(place: _Place, start: str, pinned: str, words: Mapping[str, str]) -> tuple[str, ...]:
    """{snapshot} is left for the backend."""
    if pinned:
        part = "-security" if place.urls[0] == "{mirror}-security" else ""
        return (pinned.replace("{part}", part),)
    return tuple(
        re.sub(r"\{(release|arch)\}", lambda match: words[match[1]], url).replace("{mirror}", start)
        for url in place.urls
    )


def _usual_keys(defaults: _Defaults, words: Mapping[str, str]) -> tuple[Path, ...]:
    paths = [Path(path.format(**words)) for path in defaults.keys]
    return tuple(path for path in paths if path.is_file()) or (paths[0],)


def key_package(distribution: str) -> str:
    """The package that brings a distribution's keys, by the name it has where it is packaged, for
    an error's next step; "" where none is known. Debian 12 has none of other distributions."""
    defaults = _DISTRIBUTIONS.get(distribution)
    return defaults.package if defaults else ""


def base(distribution: str, release: str, architecture: Architecture = "x86_64") -> tuple[str, ...]:
    """Packages that make an image of a root: kernel, ramdisk, init, network, SSH."""
    defaults = _DISTRIBUTIONS.get(distribution)
    if defaults is None:
        return (*_EL_BASE, "kernel-core")
    kernel = defaults.kernel.get(architecture) or defaults.kernel[""]
    network: tuple[str, ...] = ()
    if BACKENDS[distribution] == "apt":
        network = ("isc-dhcp-client",) if release in _ISC_DHCP else ("dhcpcd-base",)
    return (*defaults.base, *network, kernel)


def _defaults(distribution: str) -> _Defaults:
    if distribution in _DISTRIBUTIONS:
        return _DISTRIBUTIONS[distribution]
    known = distribution in BACKENDS
    raise InputError(
        "find the repositories of",
        distribution,
        why="they are not public"
        if known
        else f"no such distribution is known{did_you_mean(distribution, BACKENDS)}",
        next_step="Name repositories and their keys"
        if known
        else f"Choose one of {', '.join(BACKENDS)}",
    )


def repository(word: str, number: int, distribution: str, keys: Sequence[Path]) -> Repository:
    """One repository as a command line has it; InputError for a word that is none.

    word: of apt "URL SUITE COMPONENT...", as sources.list has it, also with "deb" before it; of dnf
    "URL" or "NAME=URL". number: from 1, for a name where there is none.
    """
    apt = BACKENDS.get(distribution) == "apt"
    parts = word.split()
    if parts[:1] == ["deb"]:
        parts = parts[1:]
    name, equals, url = (parts[0] if parts else "").partition("=")
    if not equals or "://" in name:
        name, url = f"repository{number}", parts[0] if parts else ""
    flat = apt and len(parts) == 2 and parts[1].endswith("/")
    if "://" not in url or (len(parts) < 3 and not flat if apt else len(parts) != 1):
        raise InputError(
            "use the repository",
            word,
            why="it is no URL with a suite and components" if apt else "it is no URL",
            next_step='Write it as "https://HOST/debian bookworm main"'
            if apt
            else "Write it as https://HOST/BaseOS/x86_64/os/, or with a name and = before it",
        )
    fields = {"suites": (parts[1],), "components": tuple(parts[2:])} if apt else {}
    return checked(Repository, {"name": name, "urls": (url,), "keys": tuple(keys), **fields}, word)


def checked(
    model: type[_Record],
    fields: Mapping[str, object],
    subject: str,
    attempted: str = "use the words for",
) -> _Record:
    """A record of these fields; InputError with every fault, and the name of its field.

    attempted, subject: the beginning of the error.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}".lstrip(": ")
            for each in error.errors()
        ]
        raise InputError(
            attempted,
            subject,
            why="; ".join(faults),
            next_step="docs/reference/recipes.md explains the fields",
        ) from None
