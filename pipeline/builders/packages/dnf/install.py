"""rpm's transaction in a guest's root, shut off from the host: the host's rpm, the guest's "/".

The host's rpm, its Python and their libraries are bound into the guest below /.tools, read-only,
while the transaction runs, and started from there by the host's own loader. So rpm has the guest's
root as its "/": it needs no chroot, and scriptlets have the guest's files alone (and those
programs, which tell nothing), no network and no process of the host. A guest needs neither rpm nor
dnf.

rpm orders and installs exactly the files given; what they are was solved before. What dnf would
have written beside (its history of reasons) is not there: the guest's dnf takes every package for
one that the user asked for.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.builders.packages.dnf.resolve import PYTHON
from pipeline.builders.packages.times import newest
from pipeline.core.checks import ROOT_LABEL
from pipeline.core.errors import HostError, InstallError, ProgramError
from pipeline.host.context import Tools
from pipeline.host.isolation import Bind, Isolation, Root, run_inside, run_mapped
from pipeline.host.staging import stage_copy

_SCRIPT = Path(__file__).with_name("guest.py")
_TOOLS = "/.tools"
_LONGEST = 4 * 3600.0  # seconds; an emulated guest of another architecture takes hours
_SHORT = 900.0
_FIRST_DATABASE = "/usr/lib/sysimage/rpm"
"""Where the database is until the guest has an rpm that says where it looks for it."""
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_NO_ACCOUNT = re.compile(r"warning: (?:user|group) (\S+) does not exist - using root")
_FAILED = re.compile(r"^(?:error|warning): .*scriptlet failed.*$", re.MULTILINE)
_SAID = 3000  # characters of the log's end in an error


@dataclass(frozen=True)
class Transaction:
    """One layer's installation. architecture: the guest's. files: in the order of the packages."""

    root: Root
    files: tuple[Path, ...]
    architecture: str
    isolation: Isolation
    tools: Tools
    log: Path

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The host's rpm and Python, and the directories that the package files are in."""
        folders = sorted({path.parent for path in self.files})
        python = Path(PYTHON).resolve()
        used = (
            *(_loader().parent, python, Path(f"/usr/lib/{python.name}")),
            *(Path("/usr/bin/rpm"), Path("/usr/lib/rpm")),
        )
        return (
            *(Bind(path, f"{_TOOLS}{path}") for path in used),
            *(Bind(path, f"{_TOOLS}/packages/{n}") for n, path in enumerate(folders)),
        )

    @property
    def paths(self) -> list[str]:
        """The package files as they are seen inside."""
        folders = sorted({path.parent for path in self.files})
        places = {path: f"{_TOOLS}/packages/{n}" for n, path in enumerate(folders)}
        return [f"{places[path.parent]}/{path.name}" for path in self.files]

    def run(
        self,
        argv: Sequence[str],
        attempted: str,
        *,
        timeout: float = _SHORT,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
        logged: bool = True,
    ) -> str:
        """Run inside, and what it said on standard output; ProgramError."""
        done = run_inside(
            self.isolation,
            self.root,
            argv,
            tools=self.tools,
            binds=self.binds,
            architecture=self.architecture,
            attempted=attempted,
            timeout=timeout,
            env=env,
            input=input,
            log=self.log if logged else None,
        )
        return done.text

    def script(self, step: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Run a step of guest.py inside by the host's Python."""
        said = self.run(
            [*_hosted(Path(PYTHON).resolve()), "-P", "-s", "-S", "-", step, json.dumps(asked)],
            f"{step} the root for packages",
            env={"PYTHONHOME": f"{_TOOLS}/usr", "PYTHONDONTWRITEBYTECODE": "1"},
            input=_SCRIPT.read_bytes(),
            logged=False,
        )
        answer: dict[str, Any] = json.loads(said)
        return answer

    def rpm(
        self,
        *words: str,
        attempted: str,
        timeout: float = _SHORT,
        env: Mapping[str, str] | None = None,
        logged: bool = True,
    ) -> str:
        """Run the host's rpm with the guest's root as its own."""
        own = {"RPM_CONFIGDIR": f"{_TOOLS}/usr/lib/rpm"}
        return self.run(
            [*_hosted("/usr/bin/rpm"), "--force-debian", "--noplugins", *words],
            attempted,
            env=own | dict(env or {}),
            timeout=timeout,
            logged=logged,
        )


def install(transaction: Transaction) -> None:
    """Install the files; InstallError with rpm's own words.

    After an error the root is half done and is to be thrown away: `root.upper` has all of it.
    """
    t = transaction
    if not t.files:
        return
    root = stage_copy(t.isolation, t.root, t.tools)
    t = Transaction(root, t.files, t.architecture, t.isolation, t.tools, t.log)
    epoch = newest(t.files)
    try:
        prepared = t.script("prepare", {"command_line": f"root=LABEL={ROOT_LABEL} ro"})
        before = _database(t)
        _transaction(t, before or _FIRST_DATABASE, epoch)
        after = _database(t, wanted=True) or before or _FIRST_DATABASE
        _ramdisks(t, epoch)
        settled = t.script(
            "settle",
            {**prepared, "epoch": epoch, "from": before or _FIRST_DATABASE, "to": after},
        )
    except ProgramError as error:
        raise _failure(t, f"{error.attempted}: {error.why}") from error
    _outside(t, settled["epoch"])


def _hosted(program: str | Path) -> list[str]:
    """The words that start a program of the host inside."""
    loader = _loader()
    return [f"{_TOOLS}{loader}", "--library-path", f"{_TOOLS}{loader.parent}", f"{_TOOLS}{program}"]


def _loader() -> Path:
    """The loader of the host's programs, which lies with the libraries."""
    for name in _LOADERS:
        if Path(name).exists():
            return Path(name).resolve()
    raise HostError(
        "start the host's rpm in a root",
        why=f"this host has no loader of programs at {' or '.join(_LOADERS)}",
        next_step="Build on Debian 12, x86_64 or arm64",
    )


def _database(t: Transaction, *, wanted: bool = False) -> str:
    """Where the guest's rpm looks for its database, by the guest's own macros; "" without them.

    wanted: refuse a kind that the host's rpm does not write.
    """
    macros = "/usr/lib/rpm/macros:/usr/lib/rpm/macros.d/macros.*:/etc/rpm/macros.*:/etc/rpm/macros"
    said = t.rpm(
        "--macros", macros, "--eval", "%{?_dbpath} %{?_db_backend}",
        attempted="ask the guest's macros for the place of its database",
        logged=False,
    )  # fmt: skip
    place, _, kind = said.strip().partition(" ")
    if wanted and kind.strip() not in ("", "sqlite"):
        raise InstallError(
            "make the package database of the guest",
            why=f"its rpm keeps a database of the kind {kind.strip()}, and this host's rpm writes"
            " sqlite alone",
            next_step="Take a release whose rpm keeps sqlite:"
            " Fedora 33, Enterprise Linux 9 or later",
        )
    return place.strip() if place.startswith("/") else ""


def _transaction(t: Transaction, database: str, epoch: int) -> None:
    """rpm -U, strictly: a scriptlet that fails is an error.

    Fedora's packaging guidelines want every scriptlet to end with status 0, and rpm itself would
    go on after most that do not.
    """
    start = t.log.stat().st_size if t.log.exists() else 0
    defines = {
        "_dbpath": database,
        # These are mounts while we are here; their modes are put right from outside.
        "_netsharedpath": "/proc:/sys:/dev",
        "_db_backend": "sqlite",
    }
    words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    foreign = ["--ignorearch"]  # the solver saw to it; the host's may be another
    env = {"SOURCE_DATE_EPOCH": str(epoch), "DRACUT_NO_MKNOD": "1", "DRACUT_NO_XATTR": "1"}
    try:
        t.rpm(
            *words, *foreign, "--nosignature", "-U", "--verbose", *t.paths,
            attempted="run rpm's transaction",
            timeout=_LONGEST,
            env=env,
        )  # fmt: skip
    except ProgramError as error:
        raise _failure(t, last_words(_log_from(t.log, start)) or error.why) from error
    said = _log_from(t.log, start)
    if _FAILED.search(said):
        raise _failure(t, last_words(said))
    if accounts := sorted(set(_NO_ACCOUNT.findall(said))):
        _late_accounts(t, words, accounts)


def _late_accounts(t: Transaction, words: Sequence[str], accounts: Sequence[str]) -> None:
    """Give files their owners where these came with the same transaction.

    Packages of Fedora 42 and later leave users to rpm 4.19, which makes them from sysusers.d.
    """
    found = t.script("accounts", {})
    if found["sysusers"]:
        t.run([found["sysusers"]], "make the users of sysusers.d")
    t.rpm(*words, "--restore", "--all", attempted="give the files their owners")
    t.tools.progress.warn(
        f"files of {', '.join(accounts)} were unpacked before these users were there; they got"
        " their owners afterwards, where the packages make them"
    )


def _ramdisks(t: Transaction, epoch: int) -> None:
    """Fill /boot where scriptlets did not."""
    found = t.script("kernels", {})
    for version in found["kernels"] if found["dracut"] else ():
        t.run(
            [
                found["dracut"],
                "--force",
                "--no-hostonly",
                f"/boot/initramfs-{version}.img",
                version,
            ],
            f"make the ramdisk of the kernel {version}",
            env={"SOURCE_DATE_EPOCH": str(epoch), "DRACUT_NO_MKNOD": "1"},
            timeout=_LONGEST,
        )


def _outside(t: Transaction, epoch: int) -> None:
    """Right modes for what is mounted over inside."""
    with tempfile.TemporaryDirectory(prefix="root-", dir=t.tools.scratch) as place:
        seen, mounts = t.root.upper, []
        if t.isolation.overlay:
            seen, mounts = Path(place), [(t.root, Path(place))]
        run_mapped(
            t.isolation,
            [PYTHON, "-I", _SCRIPT, "places",
             json.dumps({"root": str(seen), "epoch": epoch})],
            tools=t.tools,
            timeout=_SHORT,
            mounts=mounts,
        )  # fmt: skip


def _log_from(log: Path, start: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")


def _failure(t: Transaction, why: str) -> InstallError:
    return InstallError(
        "install the packages", why=why, next_step=f"All that was said is in {t.log}"
    )


def last_words(said: str) -> str:
    """What rpm's words end with, from shortly before the first complaint on if there is one; the
    middle of too many is left out, since a transaction goes on after many a fault."""
    complaint = re.search(r"^.*(?:error:|scriptlet failed|conflicts with).*$", said, re.MULTILINE)
    if not complaint:
        return said.strip()[-_SAID:]
    # What a scriptlet said stands before what rpm says of it.
    number = said[: complaint.start()].count("\n")
    text = "\n".join(said.splitlines()[max(0, number - 3) :]).strip()
    half = _SAID // 2
    return text if len(text) <= _SAID else f"{text[:half]}\n...\n{text[-half:]}"
