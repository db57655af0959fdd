"""A private apt: its own sources, lists, cache and settings, beside the host's and not mixed.

Of the host's settings only those that say how its network is reached are taken over; no source,
preference, hook, key or relaxed check is. Passwords lie in files that only the user reads, in the
build's scratch directory.

Sources: apt.conf(5), sources.list(5), apt_auth.conf(5), of apt 2.6.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.core.packages import PackageSystem, Repository
from pipeline.host.context import Tools
from pipeline.host.programs import Completed
from pipeline.host.requirements import Requirement, declare

REQUIRES = declare(
    Requirement(
        "packages",
        "systems made of Debian packages",
        programs={"apt-get": "apt", "gpgv": "gpgv", "dpkg-deb": "dpkg"},
        needed=False,
    )
)

DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Architectures as dpkg names them."""

_OF_THE_HOST = re.compile(
    r"^Acquire::(?:https?::(?!Dl-Limit)|ForceIPv|Retries|Queue-|SOCKS|socks5h::)", re.IGNORECASE
)
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_PASSWORD = re.compile(r"://[^/@\s\"]*?:([^/@\s\"]+)@")
_SETTINGS = """\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::netrcparts "/dev/null";
Dir::Ignore-Files-Silently { ".*"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
APT::Cmd::Disable-Script-Warning "true";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::AllowReleaseInfoChange "true";
Acquire::Check-Date "true";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::PDiffs "false";
"""
# AllowReleaseInfoChange: the recipe names what it wants; a point release changes its version.


def repository_urls(system: PackageSystem, repository: Repository) -> tuple[str, ...]:
    """A repository's URLs without account, with the snapshot put in, in order."""
    return tuple(
        _bare(url.replace("{snapshot}", system.snapshot)).rstrip("/") for url in repository.urls
    )


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def sources(system: PackageSystem, urls: Mapping[str, str], keys: Path) -> dict[str, str]:
    """deb822 sources: file name -> content. urls: repository's name -> its URL.

    keys: the directory with a keyring NAME.gpg for each repository.
    """
    return {
        f"{number:02d}-{repository.name}.sources": stanza(
            repository,
            urls[repository.name],
            str(keys / f"{repository.name}.gpg"),
            DEBIAN_NAMES[system.architecture],
            "" if system.check_valid_until else "Check-Valid-Until: no\n",
        )
        for number, repository in enumerate(system.repositories)
    }


def stanza(
    repository: Repository, url: str, keyring: str, architecture: str = "", more: str = ""
) -> str:
    """One repository in deb822 form, as apt's sources.list.d takes it."""
    components = f"Components: {' '.join(repository.components)}\n" if repository.components else ""
    architectures = f"Architectures: {architecture}\n" if architecture else ""
    return (
        f"Types: deb\nURIs: {url}\nSuites: {' '.join(repository.suites)}\n"
        f"{components}{architectures}Signed-By: {keyring}\n{more}"
    )


@dataclass(frozen=True)
class PrivateApt:
    """apt with the sources of one recipe.

    directory: holds lists/, cache/, sources/ and keys/. host: the settings that were taken over.
    """

    system: PackageSystem
    tools: Tools
    directory: Path
    host: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def configured(
        self, *, status: str = "", preferences: str = "", settings: Sequence[str] = ()
    ) -> Iterator[Mapping[str, str]]:
        """The environment for apt's programs until the context ends.

        status: what is installed, as dpkg keeps it. preferences: pins. settings: further lines.
        """
        with tempfile.TemporaryDirectory(prefix="apt-", dir=self.tools.scratch) as name:
            scratch = Path(name)
            (scratch / "state").mkdir()
            (scratch / "status").write_text(status)
            (scratch / "preferences").write_text(preferences)
            _write_private(scratch / "auth.conf", self._accounts())
            _write_private(scratch / "apt.conf", self._settings(scratch, settings))
            yield {"APT_CONFIG": str(scratch / "apt.conf"), **self.environment}

    def run(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        timeout: float,
        ok: Sequence[int] = (0,),
        cwd: Path | None = None,
    ) -> Completed:
        """Run one of apt's programs."""
        return self.tools.run.run(argv, timeout=timeout, env=env, ok=ok, cwd=cwd)

    def _settings(self, scratch: Path, more: Sequence[str]) -> str:
        architecture = DEBIAN_NAMES[self.system.architecture]
        lines = [
            self.host,
            _SETTINGS,
            *(
                f'Dir::{key} "{value}";'
                for key, value in {
                    "Etc::sourceparts": self.directory / "sources",
                    "Etc::preferences": scratch / "preferences",
                    "Etc::netrc": scratch / "auth.conf",
                    "State": scratch / "state",
                    "State::status": scratch / "status",
                    "State::lists": self.directory / "lists",
                    "Cache": self.directory / "cache",
                    # What is installed differs from run to run; the repositories' part does not.
                    "Cache::pkgcache": "",
                    "Cache::srcpkgcache": self.directory / "cache/srcpkgcache.bin",
                    "Log": scratch,
                }.items()
            ),
            f'APT::Architecture "{architecture}";',
            f'APT::Architectures {{ "{architecture}"; }};',
            f'Acquire::Check-Valid-Until "{_word(self.system.check_valid_until)}";',
            f'APT::Install-Recommends "{_word(self.system.weak_dependencies)}";',
            *more,
        ]
        if self.system.proxy:
            lines += [f'Acquire::{s}::Proxy "{self.system.proxy}";' for s in ("http", "https")]
        return "\n".join(lines) + "\n"

    def _accounts(self) -> str:
        """Users and passwords of URLs, in the form of netrc."""
        lines = []
        for url in (url for repository in self.system.repositories for url in repository.urls):
            parts = urlsplit(url)
            if parts.username is not None:
                password = unquote(parts.password or "")
                self.tools.run.secrets.add(password)
                machine = _bare(url).replace("https://", "", 1)
                lines.append(f"machine {machine} login {unquote(parts.username)}"
                             f" password {password}")  # fmt: skip
        return "\n".join(lines) + "\n" if lines else ""


def private_apt(system: PackageSystem, tools: Tools, directory: Path) -> PrivateApt:
    """The private apt in `directory`, which need not exist yet."""
    environment = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    host = host_settings(tools)
    for password in _PASSWORD.findall("\n".join((system.proxy, host, *environment.values()))):
        tools.run.secrets.add(unquote(password))
    return PrivateApt(system, tools, directory, host, environment)


def host_settings(tools: Tools) -> str:
    """Of the host's own configuration, what says how the network is reached."""
    dump = tools.run.run(["apt-config", "dump"], timeout=30).text
    return "\n".join(line for line in dump.splitlines() if _OF_THE_HOST.match(line))


def _word(value: bool) -> str:
    return "true" if value else "false"


def _write_private(path: Path, content: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
