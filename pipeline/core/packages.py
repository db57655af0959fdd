"""What a system made of packages is: where packages come from, which ones, and what is set in it.

A recipe with `source = "packages"` carries one `PackageSystem`. It is data alone; how it becomes a
root is `builders/packages/`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.core.architecture import Architecture
from pipeline.core.environment import FromEnvironment

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

BackendName = Literal["apt", "dnf"]

BACKENDS: dict[str, BackendName] = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "centos": "dnf",
    "rocky": "dnf",
    "almalinux": "dnf",
    "el": "dnf",
}
"""Which package manager a distribution has, by the word of the recipe."""


def is_url(url: str) -> bool:
    """Whether it can be taken apart: some libraries raise errors of their own where it cannot."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


# Before the models that use it: a name that pydantic has to look up later has no type until then.
Part = Annotated[str, Field(pattern=r"^[A-Za-z0-9.][A-Za-z0-9./_~+-]{0,126}$")]


def _address(url: str) -> str:
    # Not quoted: it may have a password.
    if not is_url(url):
        raise ValueError("it is no URL")
    return url


class Repository(BaseModel):
    """One repository. urls: tried in order until one answers; the same content is expected of all.

    keys: files of OpenPGP keys (relative to the recipes file until loaded); the repository must be
    signed by one of them. suites and components are apt's and empty for dnf.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    urls: Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], Field(min_length=1)]
    keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    suites: tuple[Part, ...] = ()
    components: tuple[Part, ...] = ()


_ACCOUNT = r"^[a-z_][a-z0-9_-]{0,31}$"
_MODULAR = re.compile(r"\$[0-9a-z]+\$[!-9;-~]+")
_LOCALE = r"^(?:C|POSIX|[a-z]{2,3}(?:_[A-Z]{2})?)(?:\.[A-Za-z0-9-]{1,20})?(?:@[a-z]{1,20})?$"
_ZONE = r"^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}$"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"^{_LABEL}(?:\.{_LABEL})*$"
_PORT = r"^\d{1,5}(-\d{1,5})?/(tcp|udp|sctp|dccp)$"
_SERVICE = r"^[A-Za-z0-9][A-Za-z0-9:_.\\@-]{0,200}$"
_RELEASE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_SNAPSHOT = r"^(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,62})?$"
_PROXY = re.compile(
    r"(?:[a-z][a-z0-9]*://)?(?:[^\s\"';/@]+@)?(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?/?"
)
_MADE_AT_BOOT = ("/proc", "/sys", "/dev", "/run")


def is_password_hash(entry: str) -> bool:
    """Whether it is a hash in crypt(5)'s modular form, as `openssl passwd -6` prints it.

    The older forms are not: thirteen letters may as well be somebody's password.
    """
    return _MODULAR.fullmatch(entry) is not None


HASH_REMEDY = (
    "write what `openssl passwd -6` prints, or name the variable of the environment that has it: "
    '{ environment = "NAME" }'
)
"""What to do about a password that is no hash."""


def _hashed(entry: str | FromEnvironment) -> str | FromEnvironment:
    # The entry is not quoted: it may be the password itself.
    if isinstance(entry, str) and entry and not is_password_hash(entry):
        raise ValueError(f"it is no crypt(5) hash: {HASH_REMEDY}")
    return entry


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has a line break or control character")
    return text


def _field(text: str) -> str:
    if ":" in text:
        raise ValueError("it has a colon, which ends a field of /etc/passwd")
    return _one_line(text)


def _absolute(path: str) -> str:
    if not path.startswith("/") or path != posixpath.normpath(path) or path.startswith("//"):
        raise ValueError("it is no absolute path without '.', '..' and doubled slashes")
    return _one_line(path)


def _proxy(text: str) -> str:
    # Not quoted: it may have a password.
    if text and not _PROXY.fullmatch(text):
        raise ValueError("it is no proxy; write it as http://HOST:PORT")
    return text


def _mirror(url: str) -> str:
    _address(url)
    if "://" not in url or any(c.isspace() or not c.isprintable() or c in "\"'" for c in url):
        raise ValueError("it is no URL")
    return url


PasswordHash = Annotated[str | FromEnvironment, AfterValidator(_hashed)]
Service = Annotated[str, Field(pattern=_SERVICE)]
Account = Annotated[str, Field(pattern=_ACCOUNT)]
AccountPath = Annotated[str, AfterValidator(_absolute), AfterValidator(_field)]
Line = Annotated[str, AfterValidator(_one_line)]
Word = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]


class PutFile(BaseModel):
    """A file put into the guest after the packages: `content`, or the file `source` of the host.

    path: a symbolic link there is replaced, links above it are followed within the guest. source:
    relative to the recipes file until loaded. mode: octal, as chmod(1) takes it. owner, group:
    names that the guest knows, or numbers.
    """

    model_config = _STRICT

    path: Annotated[str, AfterValidator(_absolute)]
    content: str | None = None
    source: Path | None = None
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")] = "0644"
    owner: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$")] = "root"
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?$")] = "root"

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.content is None) == (self.source is None):
            raise ValueError("a file has either content or source")
        if any(f"{self.path}/".startswith(f"{top}/") for top in _MADE_AT_BOOT):
            raise ValueError(f"{self.path}: what is there is made at boot, not by an image")
        if self.path == "/":
            raise ValueError("/ is no file")
        return self


class UserGroup(BaseModel):
    """A group of accounts that is made where the packages made none. gid: the next free one."""

    model_config = _STRICT

    name: Account
    gid: Annotated[int, Field(ge=1, le=60000)] | None = None


class User(BaseModel):
    """An account. password: its crypt(5) hash, or {environment = NAME}, or none: locked.

    uid: the next free one without it. groups: beside its own, which has its name. home: /home/NAME
    without it, filled from /etc/skel. ssh_keys: lines of its authorized_keys.
    """

    model_config = _STRICT

    name: Account
    uid: Annotated[int, Field(ge=1, le=60000)] | None = None
    groups: tuple[Account, ...] = ()
    shell: AccountPath = "/bin/bash"
    gecos: Annotated[str, AfterValidator(_field)] = ""
    home: Annotated[str, AfterValidator(lambda path: path and _absolute(_field(path)))] = ""
    password: PasswordHash = ""
    ssh_keys: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _not_root(self) -> Self:
        if self.name == "root" or self.home == "/":
            raise ValueError("root is there already: root_password_hash and root_ssh_keys are its")
        return self


class Firewall(BaseModel):
    """What the guest's firewalld lets in. enabled: false switches it off.

    services: firewalld's names. ports: "80/tcp", "6000-6010/udp".
    """

    model_config = _STRICT

    enabled: bool = True
    services: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")], ...] = ()
    ports: tuple[Annotated[str, Field(pattern=_PORT)], ...] = ()


class PackageSystem(BaseModel):
    """A system as packages make it. Lists are in three layers, each on the one before it.

    core: what the layer "core" has beyond the distribution's own minimum. base: what all images of
    a family share: kernel, init, SSH. packages, groups, exclude: this image's own.
    """

    model_config = _STRICT

    distribution: str
    """"debian", "ubuntu", "fedora", "centos", "rocky", "almalinux" or "el"."""
    release: Annotated[str, Field(pattern=_RELEASE)]
    """The release as its repositories name it: "bookworm", "43", "9"."""
    architecture: Architecture = "x86_64"
    """Of the guest."""
    mirrors: tuple[Annotated[str, AfterValidator(_mirror)], ...] = ()
    """URLs of the distribution's main archive, tried in order, in place of its public ones."""
    repositories: tuple[Repository, ...] = ()
    """All repositories; by default the distribution's own, on `mirrors`."""
    proxy: Annotated[str, AfterValidator(_proxy)] = ""
    """For all repositories; "" leaves it to the host's own settings."""
    snapshot: Annotated[str, Field(pattern=_SNAPSHOT)] = ""
    """Pins the repositories' state: a time "20260101T000000Z", put in for {snapshot} in URLs."""
    core: tuple[Word, ...] = ()
    """Packages of the core layer beside the distribution's minimum."""
    base: tuple[Word, ...] = ()
    """Packages of the base layer; by default what makes an image of a root: kernel, ramdisk, init,
    network and SSH."""
    groups: tuple[Word, ...] = ()
    """Comps groups ("@core", dnf) or tasks ("ssh-server", apt) of the image layer."""
    packages: tuple[Word, ...] = ()
    """Packages of the image layer."""
    exclude: tuple[Word, ...] = ()
    """Never installed in any layer; an error where something needs it."""
    weak_dependencies: bool = False
    """Also install Recommends."""
    check_valid_until: bool = True
    """Refuse a Release file that has passed its date; false is for archives that are kept."""
    files: tuple[PutFile, ...] = ()
    """Files that are put in after the packages."""
    scripts: tuple[Path, ...] = ()
    """Run in the guest, isolated and without network, after packages and files."""
    root_password_hash: PasswordHash = ""
    """crypt(5) hash, or {environment = NAME}; "" locks the password."""
    root_ssh_keys: tuple[Line, ...] = ()
    """Lines of root's authorized_keys."""
    users: tuple[User, ...] = ()
    """Accounts that are made."""
    user_groups: tuple[UserGroup, ...] = ()
    """Groups that users may be in and that no package makes."""
    locale: Annotated[str, Field(pattern=_LOCALE)] = "C.UTF-8"
    """Generated where it is not there and the guest can."""
    timezone: Annotated[str, Field(pattern=_ZONE)] = "Etc/UTC"
    """As the guest's zoneinfo names it."""
    hostname: Annotated[str, Field(pattern=_HOST, max_length=64)] = "localhost"
    """Until the cloud gives another."""
    keyboard: Annotated[str, Field(pattern=r"^([a-z][A-Za-z0-9_.-]{0,40})?$")] = ""
    """Layout of the console's keyboard ("us", "de-nodeadkeys"); "" leaves the guest's own."""
    services_enabled: tuple[Service, ...] = ()
    """Started at boot; names of units, with or without ".service"."""
    services_disabled: tuple[Service, ...] = ()
    """Not started at boot; one that is not there is no fault."""
    selinux: Literal["", "enforcing", "permissive", "disabled"] = ""
    """SELinux's mode; "" leaves the guest's own."""
    firewall: Firewall | None = None
    """What firewalld lets in; without it all is left as the packages made it."""
    root_mib: Annotated[int, Field(ge=64)] = 2048
    """Size of the file system."""

    @property
    def backend(self) -> BackendName:
        """The package manager."""
        return BACKENDS[self.distribution]

    def filled(self, url: str) -> str:
        """A repository's URL with the words put in that it may have: {snapshot}, and for dnf
        $releasever and $basearch."""
        found = url.replace("{snapshot}", self.snapshot)
        if self.backend == "dnf":
            for name, value in (("releasever", self.release), ("basearch", self.architecture)):
                found = found.replace(f"${{{name}}}", value).replace(f"${name}", value)
        return found

    @field_validator("distribution")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKENDS:
            raise ValueError(f"no such distribution; known: {', '.join(BACKENDS)}")
        return name

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if self.mirrors and self.repositories:
            raise ValueError("it has mirrors and repositories, which take the place of mirrors")
        uids = [user.uid for user in self.users if user.uid is not None]
        gids = [group.gid for group in self.user_groups if group.gid is not None]
        for what, words in (
            ("users", [user.name for user in self.users]),
            ("uid of users", [str(uid) for uid in uids]),
            ("user_groups", [group.name for group in self.user_groups]),
            ("gid of user_groups", [str(gid) for gid in gids]),
            ("files", [file.path for file in self.files]),
        ):
            twice = sorted({word for word in words if words.count(word) > 1})
            if twice:
                raise ValueError(f"{what}: {', '.join(twice)} is there twice")
        both = sorted(
            {_unit(name) for name in self.services_enabled}
            & {_unit(name) for name in self.services_disabled}
        )
        if both:
            raise ValueError(f"{', '.join(both)} is both enabled and disabled")
        return self


def _unit(name: str) -> str:
    return name.removesuffix(".service")
