"""What a system made of packages is: where packages come from, which ones, and what is set in it.

A recipe with `source = "packages"` carries one `PackageSystem`. It is data alone; how it becomes a
root is `builders/packages/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.core.architecture import Architecture

_STRICT = ConfigDict(extra="forbid", frozen=True)

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


class Repository(BaseModel):
    """One repository. urls: tried in order until one answers; the same content is expected of all.

    keys: files of OpenPGP keys (relative to the recipes file until loaded); the repository must be
    signed by one of them. suites and components are apt's and empty for dnf.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    keys: Annotated[tuple[Path, ...], Field(min_length=1)]
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


class PutFile(BaseModel):
    """A file put into the guest after the packages: `content`, or the file `source` of the host.

    source: relative to the recipes file until loaded. mode: octal, as chmod(1) takes it.
    """

    model_config = _STRICT

    path: Annotated[str, Field(pattern=r"^/[^\0]+$")]
    content: str | None = None
    source: Path | None = None
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")] = "0644"
    owner: str = "root"
    group: str = "root"


class User(BaseModel):
    """An account. password: its crypt(5) hash, or {environment = NAME}, or none: locked."""

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    uid: Annotated[int, Field(ge=1, le=60000)] | None = None
    groups: tuple[str, ...] = ()
    shell: str = "/bin/bash"
    gecos: str = ""


class PackageSystem(BaseModel):
    """A system as packages make it. Lists are in three layers, each on the one before it.

    core: what the layer "core" has beyond the distribution's own minimum. base: what all images of
    a family share: kernel, init, SSH. packages, groups, exclude: this image's own.
    """

    model_config = _STRICT

    distribution: str
    """"debian", "ubuntu", "fedora", "centos", "rocky", "almalinux" or "el"."""
    release: str
    """The release as its repositories name it: "bookworm", "43", "9"."""
    architecture: Architecture = "x86_64"
    repositories: Annotated[tuple[Repository, ...], Field(min_length=1)]
    proxy: str = ""
    """For all repositories; "" leaves it to the host's own settings."""
    snapshot: str = ""
    """Pins the repositories' state: a time "20260101T000000Z", put in for {snapshot} in URLs."""
    core: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    """Comps groups ("@core", dnf) or tasks ("ssh-server", apt) of the image layer."""
    packages: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Never installed in any layer; an error where something needs it."""
    weak_dependencies: bool = False
    """Also install Recommends."""
    check_valid_until: bool = True
    """Refuse a Release file that has passed its date; false is for archives that are kept."""
    files: tuple[PutFile, ...] = ()
    scripts: tuple[Path, ...] = ()
    """Run in the guest, isolated and without network, after packages and files."""
    root_password_hash: str = ""
    """crypt(5) hash; "" locks the password."""
    users: tuple[User, ...] = ()
    locale: str = "C.UTF-8"
    timezone: str = "Etc/UTC"
    hostname: str = "localhost"
    root_mib: Annotated[int, Field(ge=64)] = 2048
    """Size of the file system."""

    @property
    def backend(self) -> BackendName:
        """The package manager."""
        return BACKENDS[self.distribution]

    @field_validator("distribution")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKENDS:
            raise ValueError(f"no such distribution; known: {', '.join(BACKENDS)}")
        return name
