"""Installs Debian packages into a layer: laid out by the host, installed by the guest's own dpkg.

Of the core, the packages that dpkg runs on are unpacked by the host first, with the guest's ids and
without running anything of them. All else happens in isolation, where dpkg takes the package files
from a read-only bind.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.builders.packages.apt import index as apt_index
from pipeline.builders.packages.apt import keys as apt_keys
from pipeline.builders.packages.apt import order as apt_order
from pipeline.builders.packages.apt import script as apt_script
from pipeline.builders.packages.apt.config import DEBIAN_NAMES, repository_urls, stanza
from pipeline.builders.packages.protocol import Package, Wanted
from pipeline.builders.packages.times import newest
from pipeline.core.errors import InstallError, ProgramError
from pipeline.core.packages import PackageSystem
from pipeline.core.text import printable, without_escapes
from pipeline.host.context import Tools
from pipeline.host.isolation import Bind, Isolation, Root, run_inside, run_mapped

_EXTRACT = 900.0
_INSTALL = 7200.0  # s; an emulated architecture takes ten times as long as the host's
_RUN = 400  # package files of one dpkg, whose words must fit its argument list
_LAST = 8  # lines of dpkg's that an error shows
_BASE_FILES = "base-files"
_KEYRINGS = Path("/usr/share/keyrings")
_SOURCES = "/etc/apt/sources.list.d"


def install(
    system: PackageSystem,
    root: Root,
    wanted: Wanted,
    packages: Sequence[Package],
    files: Sequence[Path],
    *,
    records: Mapping[str, str],
    isolation: Isolation,
    tools: Tools,
    log: Path,
) -> None:
    """See protocol.Backend.install. records: of the packages, by sha256."""
    fields = [apt_index.fields(records[package.sha256]) for package in packages]
    nodes = [apt_order.node(record) for record in fields]
    first = apt_order.foundation(nodes) if wanted.kind == "core" else set()
    if first:
        _lay_out(system, root, nodes, first, files, isolation=isolation, tools=tools)
    written = []
    if wanted.kind == "core":
        written = _sources(system, _guest_keyrings(system, packages, files, tools))
    marks = _dependencies(system, wanted, fields, first)
    script = apt_script.install(_steps(nodes, first), marks, written)
    with tempfile.TemporaryDirectory(prefix="debs-", dir=tools.scratch) as name:
        debs = Path(name)
        debs.chmod(0o755)
        for number, file in enumerate(files):
            _link(file, debs / f"{number}.deb")
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            run_inside(
                isolation,
                root,
                ["/bin/sh", "-s"],
                tools=tools,
                timeout=_INSTALL,
                binds=[Bind(debs, apt_script.DEBS)],
                env=apt_script.ENVIRONMENT | {"SOURCE_DATE_EPOCH": str(newest(files))},
                input=script.encode(),
                architecture=system.architecture,
                log=log,
                attempted="install the packages",
            )
        except ProgramError as error:
            raise _failure(wanted, log, error) from error


def _lay_out(
    system: PackageSystem,
    root: Root,
    nodes: Sequence[apt_order.Node],
    first: set[str],
    files: Sequence[Path],
    *,
    isolation: Isolation,
    tools: Tools,
) -> None:
    """Unpack the packages that dpkg runs on, and with them the links of a merged system."""
    merged = any(node.name == "usr-is-merged" for node in nodes)
    named = {node.name: file for node, file in zip(nodes, files, strict=True)}
    others = [named[name] for name in sorted(first - {_BASE_FILES})]
    links = apt_script.links(DEBIAN_NAMES[system.architecture]) if merged else ""
    if _BASE_FILES not in first:
        raise InstallError(
            "lay out the layer",
            "core",
            why=f"its packages have no {_BASE_FILES}, which every Debian system has",
            next_step="Check the recipe's repositories and what it excludes",
        )
    run_mapped(
        isolation,
        ["sh", "-s", "--", root.upper, links, named[_BASE_FILES], *others],
        tools=tools,
        timeout=_EXTRACT,
        input=apt_script.EXTRACT.encode(),
        # tar follows the links of one package where the next one's files lie behind them.
        writable=[root.upper],
        attempted="unpack the first packages",
    )


def _steps(nodes: Sequence[apt_order.Node], first: set[str]) -> list[apt_script.Step]:
    """The runs of dpkg, in order."""
    numbers = {node.name: number for number, node in enumerate(nodes)}
    steps = []
    if first:
        words = [numbers[name] for name in sorted(first)]
        steps.append(apt_script.Step("install what dpkg runs on", "install", words, force=True))
    order = list(apt_order.steps(nodes, first))
    if len(order) == 2 and len(order[0][1]) <= _RUN:
        # The usual case: dpkg reads its database once.
        words = [numbers[name] for name in order[0][1]]
        steps.append(apt_script.Step(f"install {len(words)} packages", "install", words))
        order.clear()
    for action, names in order:
        what = f"{action} {len(names) or 'the'} packages"
        if action == "configure":
            steps.append(apt_script.Step(what, action, names))
            continue
        for begin in range(0, len(names), _RUN):
            some = [numbers[name] for name in names[begin : begin + _RUN]]
            steps.append(apt_script.Step(what, action, some))
    return steps


def _dependencies(
    system: PackageSystem,
    wanted: Wanted,
    fields: Sequence[Mapping[str, str]],
    first: set[str],
) -> list[tuple[str, str]]:
    """Names and architectures of packages that nobody asked for: apt may remove them one day."""
    groups = {*wanted.groups}
    asked = {re.split(r"[:=/]", name)[0] for name in wanted.packages}
    return [
        (record["Package"], _native(system, record))
        for record in fields
        if record["Package"] not in {*asked, "apt", *first}
        and record["Package"].removeprefix("task-") not in groups
        and not groups.intersection(re.split(r"[,\s]+", record.get("Task", "")))
        and record.get("Priority") != "required"
    ]


def _native(system: PackageSystem, record: Mapping[str, str]) -> str:
    """apt marks what is of no architecture under the guest's own."""
    own = DEBIAN_NAMES[system.architecture]
    return own if record["Architecture"] == "all" else record["Architecture"]


def _sources(system: PackageSystem, guest: Mapping[str, frozenset[str]]) -> list[tuple[str, str]]:
    """Where the guest gets its packages from: the first URL of each repository, with its key.

    guest: path of each keyring in the guest -> the fingerprints in it.
    """
    written = []
    for repository in system.repositories:
        url = repository_urls(system, repository)[0]
        given = apt_keys.keyring(repository.keys)
        wanted = apt_keys.fingerprints(given)
        path = next((path for path, there in sorted(guest.items()) if wanted & there), "")
        if not path:
            path = f"/etc/apt/keyrings/{repository.name}.asc"
            written.append((path, apt_keys.armoured(given)))
        written.append((f"{_SOURCES}/{repository.name}.sources", stanza(repository, url, path)))
    return written


def _guest_keyrings(
    system: PackageSystem, packages: Sequence[Package], files: Sequence[Path], tools: Tools
) -> dict[str, frozenset[str]]:
    """The distribution's own keyrings, out of the package that will bring them."""
    found = {}
    names = [f"{system.distribution}-archive-keyring", f"{system.distribution}-keyring"]
    for package, file in zip(packages, files, strict=True):
        if package.name not in names:
            continue
        data = tools.run.run(["dpkg-deb", "--fsys-tarfile", file], timeout=60).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                path = Path("/", member.name)
                if path.parent != _KEYRINGS or not path.stem.endswith("-archive-keyring"):
                    continue
                content = archive.extractfile(member)  # follows a link to another member
                with contextlib.suppress(ValueError):
                    found[str(path)] = apt_keys.fingerprints(content.read() if content else b"")
    return found


def _link(file: Path, name: Path) -> None:
    """A second name for a package file, readable by the guest; a copy on another file system."""
    file.chmod(0o644)
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)
        name.chmod(0o644)  # whatever the umask


def _failure(wanted: Wanted, log: Path, error: ProgramError) -> InstallError:
    """What failed, with the package manager's own last words."""
    lines = without_escapes(log.read_text(errors="replace")).splitlines() if log.exists() else []
    steps = [line for line in lines if line.startswith(apt_script.MARK)]
    step = steps[-1].removeprefix(apt_script.MARK) if steps else "begin"
    last = "; ".join(printable(line).strip() for line in lines[-_LAST:] if line.strip())
    return InstallError(
        f"{step} of the layer",
        wanted.kind,
        why=last or error.why,
        next_step=f"See {log}",
    )
