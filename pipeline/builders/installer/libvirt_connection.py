"""The way to libvirt.

By default libvirt's qemu driver runs inside the virt-install process (`qemu:///embed`): no
daemon, no socket shared with anybody, all state below one short-lived private directory, the
same for root and for an ordinary user, with or without systemd. Measured against a private
session daemon: the daemon needs a second program to supervise, does not exist for root (a
libvirtd of root is always the system's), and leaves its guests running when killed just the
same. Either way only qemu can outlive its parents, and reap.py ends it by the domain's UUID.

IMAGE_PIPELINE_LIBVIRT chooses otherwise: "session" (a private daemon of this user's, started
here), "system" (the host's daemon; started here when nothing runs it and this is root), or any
other qemu URI of this host.

Source: https://libvirt.org/drvqemu.html, "Driver entry points" and "Embedded driver".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core import settings
from pipeline.core.errors import HostError, InputError
from pipeline.host.context import Tools
from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive
from pipeline.host.programs import Program
from pipeline.host.retry import Pauses, poll

VARIABLE = "IMAGE_PIPELINE_LIBVIRT"
_START_SECONDS = 60.0  # a libvirtd that probes qemu on a busy host takes half of it
_SYSTEM_RUN = Path("/run/libvirt")
_CONFIG = """\
stdio_handler = "file"
security_driver = "none"
namespaces = [ ]
cgroup_controllers = [ ]
"""
# As root, qemu keeps root's identity: an unprivileged one could not open the build's files.
_ROOT_CONFIG = 'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\n'


@dataclass(frozen=True)
class Connection:
    """An open way to libvirt.

    uri: for virt-install. directory: private, short (sockets' names are bound to 107 bytes),
    free of commas. environment: for every program that uses the connection. daemons: those started.
    """

    uri: str
    directory: Path
    environment: Mapping[str, str]
    daemons: tuple[Program, ...] = field(default=())

    def lost(self) -> str:
        """Which of the daemons has died, "" for none."""
        return next((Path(d.argv[0]).name for d in self.daemons if d.poll() is not None), "")


def chosen_uri() -> str:
    """What IMAGE_PIPELINE_LIBVIRT asks for: "embed", "session", "system" or a URI."""
    wish = os.environ.get(VARIABLE, "") or "embed"
    wish = {"qemu:///session": "session", "qemu:///system": "system"}.get(wish, wish)
    if wish not in ("embed", "session", "system") and not wish.startswith("qemu:///"):
        raise InputError(
            "use libvirt by",
            wish,
            why="it is neither embed, session, system nor a qemu URI of this host",
            next_step=f"Correct {VARIABLE} or unset it",
        )
    if wish == "session" and os.geteuid() == 0:
        raise InputError(
            "use libvirt by",
            "qemu:///session",
            why="root has no session daemon: for root it is the system's",
            next_step=f"Unset {VARIABLE}, or set it to system",
        )
    return wish


@contextlib.contextmanager
def open_connection(tools: Tools) -> Iterator[Connection]:
    """A way to libvirt that leaves nothing behind, however the pipeline ends."""
    wish = chosen_uri()
    directory = Path(tempfile.mkdtemp(prefix="ip-", dir=_short_directory()))
    with tools.run.cleanup(remove=directory):
        try:
            environment = {
                f"XDG_{name}_HOME": str(directory / name.lower())
                for name in ("CACHE", "CONFIG", "DATA")
            }
            if wish == "embed":
                with _embedded(directory, environment) as connection:
                    yield connection
            elif wish == "session":
                with _session(directory, environment, tools) as connection:
                    yield connection
            elif wish == "system":
                with _system(directory, environment, tools) as connection:
                    yield connection
            else:
                yield Connection(wish, directory, environment)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _short_directory() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = len(runtime) < 32 and os.access(runtime, os.W_OK) and "," not in runtime
    return runtime if runtime and usable else "/tmp"  # noqa: S108 # mkdtemp makes it private


@contextlib.contextmanager
def _embedded(directory: Path, environment: Mapping[str, str]) -> Iterator[Connection]:
    root = directory / "libvirt"
    (root / "etc").mkdir(parents=True)
    config = _CONFIG + (_ROOT_CONFIG if os.geteuid() == 0 else "")
    (root / "etc" / "qemu.conf").write_text(config)
    with _remembered_capabilities(root / "cache" / "qemu" / "capabilities"):
        yield Connection(f"qemu:///embed?root={root}", directory, environment)


@contextlib.contextmanager
def _remembered_capabilities(place: Path) -> Iterator[None]:
    """Keep what libvirt found out about qemu for the next build: 8 s where KVM crawls.

    libvirt itself drops what an upgrade of qemu, libvirt, the kernel or KVM made stale.
    """
    store = settings.cache_dir() / "libvirt-capabilities"
    place.mkdir(parents=True)
    with contextlib.suppress(OSError):
        for file in store.glob("*.xml"):
            shutil.copy2(file, place)
    yield
    with contextlib.suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        for file in place.glob("*.xml"):
            write_whole(store / file.name, file.read_text())


@contextlib.contextmanager
def _session(directory: Path, environment: Mapping[str, str], tools: Tools) -> Iterator[Connection]:
    config = directory / "config" / "libvirt"
    config.mkdir(parents=True)
    (config / "qemu.conf").write_text(_CONFIG)
    environment = {**environment, "XDG_RUNTIME_DIR": str(directory)}
    socket_path = directory / "libvirt" / "libvirt-sock"
    with _daemon("libvirtd", socket_path, environment, tools) as daemon:
        yield Connection("qemu:///session", directory, environment, (daemon,))


@contextlib.contextmanager
def _system(directory: Path, environment: Mapping[str, str], tools: Tools) -> Iterator[Connection]:
    uri = "qemu:///system"
    # qemu runs as another user there and must be able to reach its files.
    directory.chmod(0o711)
    if any(answers(_SYSTEM_RUN / name) for name in ("virtqemud-sock", "libvirt-sock")):
        yield Connection(uri, directory, environment)
        return
    if os.geteuid() != 0:
        raise HostError(
            "reach libvirt at",
            uri,
            why="no daemon answers and only root can start it",
            next_step=f"Start libvirtd, or unset {VARIABLE}",
        )
    _SYSTEM_RUN.mkdir(parents=True, exist_ok=True)
    with (
        exclusive(_SYSTEM_RUN / "image-pipeline.lock", "the system's libvirt daemon"),
        _daemon("virtlogd", _SYSTEM_RUN / "virtlogd-sock", {}, tools) as log,
        _daemon("libvirtd", _SYSTEM_RUN / "libvirt-sock", {}, tools) as daemon,
    ):
        yield Connection(uri, directory, environment, (log, daemon))


@contextlib.contextmanager
def _daemon(
    name: str, path: Path, environment: Mapping[str, str], tools: Tools
) -> Iterator[Program]:
    """The daemon in the foreground, once it answers on its socket."""
    with tools.run.start([name], env=environment) as program:
        if not poll(
            lambda: answers(path),
            seconds=_START_SECONDS,
            pauses=Pauses(0.1),
            stop=lambda: program.poll() is not None,
        ):
            raise HostError(
                "start",
                name,
                why=f"it does not answer on {path}",
                next_step=f"Run `{name}` by hand to see why",
            )
        yield program


def answers(path: Path) -> bool:
    """Whether a server listens on the socket."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(1.0)
        client.connect(str(path))
        return True
    return False
