"""One install from its inputs to a disk under its final name, or an error with its evidence."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets as random
import shutil
import time
import uuid as uuids
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.builders.installer.answers import Answers
from pipeline.builders.installer.command import Machine, virt_install_argv
from pipeline.builders.installer.console import Console
from pipeline.builders.installer.console_patterns import PROFILES
from pipeline.builders.installer.domain import Event, Guest, start_guest
from pipeline.builders.installer.errors import EmptyDiskError, VirtInstallError
from pipeline.builders.installer.forecast import Forecast, read_forecast
from pipeline.builders.installer.libvirt_connection import Connection, chosen_uri, open_connection
from pipeline.builders.installer.serve import serve_answers
from pipeline.builders.installer.trees import Tree
from pipeline.builders.installer.watch import Judge, Limits, Verdict
from pipeline.core.errors import InputError, PipelineError
from pipeline.core.events import Meter
from pipeline.core.image import Acceleration, DiskImage
from pipeline.core.recipe import Recipe
from pipeline.core.secrets import Secrets
from pipeline.host import hypervisor
from pipeline.host.context import Tools
from pipeline.host.download import has_password, masked
from pipeline.host.files import finish, write_whole
from pipeline.host.fingerprint import code_of, step_key
from pipeline.host.firmware import UEFI
from pipeline.host.requirements import require

CONSOLE, VIRT_INSTALL, QEMU, SCREEN, REPORT = (
    "console.log",
    "virt-install.log",
    "qemu.log",
    "screen.png",
    "install.json",
)
"""Names of the evidence files; the last one only after a success, the picture only without."""

_POLL = 0.25  # s between looks at the console
_FEEL = 5.0  # s between looks at the network's counters, a walk over qemu's sockets
_MIN_CONTENT = 1 << 20  # bytes; the smallest partition table with a boot sector behind it is less
_LOG_BYTES = 1 << 20  # of each log kept


def install(  # noqa: PLR0917 # the hand-offs of the steps before, each of a type of its own
    recipe: Recipe,
    answers: Answers,
    tree: Tree,
    out: Path,
    acceleration: Acceleration,
    tools: Tools,
    *,
    evidence: Path,
    limits: Limits | None = None,
) -> DiskImage:
    """Install the recipe on a new raw sparse disk that gets the name `out` when it succeeded.

    evidence: a directory for console.log and what else explains the outcome; made anew.
    limits: by default the recipe's. Raises a subclass of InstallError that says why it failed,
    with nothing left running and no disk under the name `out`.
    """
    if recipe.architecture != "x86_64":
        require(hypervisor.QEMU[recipe.architecture])
        UEFI[recipe.architecture].require()
    limits = limits or Limits(recipe.install_minutes * 60.0, recipe.quiet_minutes * 60.0)
    for secret in (answers.nonce, *answers.secrets):
        tools.run.secrets.add(secret)
    forecast = read_forecast(evidence / REPORT, acceleration.accelerator)
    _empty(evidence)
    out.unlink(missing_ok=True)
    disk = tools.scratch / f"{out.name}.partial"
    with contextlib.ExitStack() as stack:
        stack.callback(disk.unlink, missing_ok=True)
        with disk.open("xb") as file:
            file.truncate(recipe.disk_gib << 30)
        connection = stack.enter_context(open_connection(tools))
        served = stack.enter_context(_deliver(recipe, answers, connection))
        machine = _machine(
            recipe, tree, disk, answers=served, acceleration=acceleration, connection=connection
        )
        meter = stack.enter_context(
            tools.progress.task(f"install {recipe.name}", forecast.total, "seconds")
        )
        judge = Judge(PROFILES[recipe.installer], answers.nonce, limits, time.monotonic())
        _Install(
            recipe.name,
            machine,
            judge,
            evidence=evidence,
            tools=tools,
            shown=_Shown(recipe.name, meter, forecast),
            connection=connection,
        ).run(virt_install_argv(recipe, machine))
        if not has_content(disk):
            raise EmptyDiskError(
                recipe.name,
                "the installer reported success and the disk is empty",
                evidence=(evidence / CONSOLE,),
            )
        write_whole(evidence / REPORT, _report(judge, recipe, acceleration))
        finish(disk, out)
    return DiskImage(out, "raw")


def plan(recipe: Recipe, tree: Tree | None, acceleration: Acceleration) -> list[str]:
    """The virt-install command of a build, for `--dry-run`; paths that are made then stand in.

    tree: None when it has not been fetched.
    """
    place = Path("/PRIVATE")
    chosen = chosen_uri()
    uri = {"session": "qemu:///session", "system": "qemu:///system"}.get(
        chosen, f"qemu:///embed?root={place}/libvirt" if chosen == "embed" else chosen
    )
    file_name = "preseed.cfg" if recipe.installer == "debian-installer" else "ks.cfg"
    machine = Machine(
        uri=uri,
        name=recipe.name,
        uuid=str(uuids.UUID(int=0)),
        accelerator=acceleration.accelerator,
        disk=place / "disk.img",
        serial=place / "serial",
        tree=tree.path if tree else place / "tree",
        answers=(
            place / file_name
            if recipe.answers_by == "initrd"
            else f"http://10.0.2.2:PORT/TOKEN/{file_name}"
        ),
        tree_url=masked(tree.url if tree else next((t for t in recipe.trees if "://" in t), "")),
    )
    return virt_install_argv(recipe, machine)


def identity(recipe: Recipe, answers: Answers, tree: Tree) -> dict[str, object]:
    """What the installed disk depends on, for `step_key`: not on the nonce.

    Secrets enter by a slow hash (scrypt, RFC 7914), for the key is kept with the build.
    """
    fields = (
        "architecture answers_argument answers_by installer_arguments tree_argument "
        "osinfo installer cpu disk_gib memory_mib vcpus"
    )
    return {
        "answers": answers.saved,
        "secrets": [
            hashlib.scrypt(word.encode(), salt=recipe.name.encode(), n=1 << 14, r=8, p=1).hex()
            for word in (*answers.secrets, *filter(None, ["\n".join(answers.masked)]))
        ],
        "tree": tree.identity,
        "recipe": {name: getattr(recipe, name) for name in fields.split()},
        # What runs programs and writes files does not decide what is installed: an install of an
        # hour is not made again for it.
        "code": step_key(
            "install", {}, code_of(__name__, without=("pipeline.core", "pipeline.host"))
        ),
    }


def has_content(disk: Path) -> bool:
    """Whether something was installed: a boot signature (MBR, GPT's too) and some content."""
    with disk.open("rb") as file:
        sector = file.read(512)
    return sector[510:] == b"\x55\xaa" and disk.stat().st_blocks * 512 >= _MIN_CONTENT


@contextlib.contextmanager
def _deliver(recipe: Recipe, answers: Answers, connection: Connection) -> Iterator[Path | str]:
    """The answer file as virt-install is to be told of it: a file to inject or a URL."""
    if recipe.answers_by == "http":
        with serve_answers(answers) as url:
            yield url
        return
    path = connection.directory / answers.file_name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(answers.text)
    yield path


def _machine(
    recipe: Recipe,
    tree: Tree,
    disk: Path,
    *,
    answers: Path | str,
    acceleration: Acceleration,
    connection: Connection,
) -> Machine:
    if recipe.tree_argument and has_password(tree.url):
        raise InputError(
            "give the installer its tree by",
            recipe.tree_argument,
            why="the tree's URL has a password, which everybody could read in the command line",
            next_step="Name the tree in the answer file instead: url --url={{tree}}",
        )
    # virt-install takes commas apart and sockets' names are short: links in the private directory.
    links = {"disk.img": disk, "tree": tree.path}
    for name, target in links.items():
        (connection.directory / name).symlink_to(target.absolute())
    return Machine(
        uri=connection.uri,
        name=f"{recipe.name[:32]}-{random.token_hex(4)}",
        uuid=str(uuids.uuid4()),
        accelerator=acceleration.accelerator,
        disk=connection.directory / "disk.img",
        serial=connection.directory / "serial",
        tree=connection.directory / "tree",
        answers=answers,
        tree_url=tree.url,
    )


class _Shown:
    """What the user sees of a running install: its phase, and how far it is."""

    def __init__(self, name: str, meter: Meter, forecast: Forecast) -> None:
        self._name, self._meter, self._forecast = name, meter, forecast
        self._position = 0

    def update(self, judge: Judge, now: float) -> None:
        if self._forecast.total is not None:
            position = int(self._forecast.position(judge.phases, judge.elapsed(now)))
            if position > self._position:  # an installer that starts again loses nothing here
                self._meter.advance(position - self._position)
                self._position = position
        self._meter.describe(f"install {self._name}: {judge.phase or 'starting'}")


class _Install:
    """The supervision of one running install."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        judge: Judge,
        *,
        evidence: Path,
        tools: Tools,
        shown: _Shown,
        connection: Connection,
    ) -> None:
        self._name, self._machine, self._judge = name, machine, judge
        self._evidence, self._tools, self._shown = evidence, tools, shown
        self._connection = connection
        self._said = connection.directory / "said"
        self._block: object = None
        self._network: object = None
        self._felt = 0.0

    def run(self, argv: list[str]) -> None:
        """Start and watch; return after a success, raise the failure otherwise."""
        verdict: Verdict | None = None
        try:
            with (
                Console(
                    self._machine.serial, self._evidence / CONSOLE, self._tools.run.secrets.mask
                ) as console,
                start_guest(
                    argv,
                    uri=self._machine.uri,
                    uuid=self._machine.uuid,
                    connection=self._connection,
                    said=self._said,
                    tools=self._tools,
                ) as guest,
            ):
                verdict = self._watch(guest, console)
                if verdict is not None:
                    guest.photograph(self._evidence / SCREEN)
                console.finish()
        finally:
            self._keep_logs()
        if verdict is not None:
            raise self._failure(verdict)

    def _watch(self, guest: Guest, console: Console) -> Verdict | None:
        """The verdict on the install, None for success."""
        judge = self._judge
        while True:
            event = guest.next_event(_POLL)
            now = time.monotonic()
            if event is not None:
                if event["event"] in ("gone", "exit"):
                    break
                self._take(event, now)
            judge.hear(console.poll(), now)
            judge.glimpse(console.unfinished, now)
            self._shown.update(judge, now)
            if console.flooded:
                return judge.flood(console.size)
            if now - self._felt >= _FEEL:
                self._felt, self._network = now, guest.network_bytes()
            judge.feel((self._block, self._network), now)
            lost = self._connection.lost()
            if lost:
                return judge.end(None, lost)
            verdict = judge.verdict(now)
            if verdict is not None:
                return verdict
        now = time.monotonic()
        judge.hear(console.finish(), now)
        final = event if event["event"] == "exit" else None
        return judge.end(final, self._connection.lost() or ("" if final else "virt-install"))

    def _take(self, event: Event, now: float) -> None:
        if event["event"] == "state":
            self._block = event["block"]
        self._judge.event(event, now)

    def _failure(self, verdict: Verdict) -> PipelineError:
        secrets = self._tools.run.secrets
        files = [self._evidence / name for name in (CONSOLE, SCREEN, VIRT_INSTALL, QEMU)]
        lines = verdict.lines
        if verdict.kind is VirtInstallError:
            lines = tuple(_tail(self._evidence / VIRT_INSTALL))
        return verdict.kind(
            self._name,
            secrets.mask(verdict.why),
            evidence=[file for file in files if file.exists() and file.stat().st_size],
            lines=[secrets.mask(line) for line in lines],
            advice=verdict.advice,
        )

    def _keep_logs(self) -> None:
        secrets = self._tools.run.secrets
        _keep(self._said, self._evidence / VIRT_INSTALL, secrets)
        for log in (self._connection.directory / "libvirt" / "log" / "qemu").glob("*.log"):
            _keep(log, self._evidence / QEMU, secrets)


def _keep(source: Path, target: Path, secrets: Secrets) -> None:
    """Copy the end of a log, masked."""
    with contextlib.suppress(OSError), source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - _LOG_BYTES))
        write_whole(target, secrets.mask(file.read().decode(errors="replace")))


def _tail(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except OSError:
        return []
    return [line for line in text.splitlines() if "ERROR" in line] or text.splitlines()[-5:]


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _report(judge: Judge, recipe: Recipe, acceleration: Acceleration) -> str:
    facts: Mapping[str, object] = {
        "recipe": recipe.name,
        "accelerator": acceleration.accelerator,
        "phases": [{"second": round(at, 1), "phase": name} for at, name in judge.phases],
    }
    return json.dumps(facts, indent=1) + "\n"
