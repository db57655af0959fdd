"""The script that starts a program which reads somebody else's file: run by disk/foreign/server.py.

Its first argument is a JSON object, what follows is the program. The program gets a root of its
own, in new mount, network, ipc, uts and process namespaces: the host's libraries read-only, the one
file at /disk, nothing else of this host's files and no network. Ids stay as they are, so that the
file is opened with the rights of whoever asks. A listening socket is handed over as systemd(1) does
it (sd_listen_fds(3)). Where the host allows no namespace the status is 125, for
another file 124, and nothing was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import warnings  # noqa: F401 # os.execvpe would import it when there is nothing to import from
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2]))

from pipeline.host import kernel

REFUSED, CHANGED = 125, 124
_STAGES = ("/tmp", "/run", "/mnt")  # noqa: S108 # covered in our own view of the mounts only
_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
_READ_ALL = frozenset({1})  # CAP_DAC_OVERRIDE: root reads everybody's files, here this one
_SOCKET = 3  # the first descriptor of sd_listen_fds(3)
_SPACES = kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS | kernel.NEWPID


def map_own_ids(pid: int) -> None:
    """The caller's own ids and no others, in the child's user namespace."""
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(f"{os.geteuid()} {os.geteuid()} 1\n")
    Path(f"/proc/{pid}/gid_map").write_text(f"{os.getegid()} {os.getegid()} 1\n")


def place(source: int, target: str, *, is_directory: bool, writable: bool) -> None:
    """Show what was opened at `target`, which is made."""
    if is_directory:
        Path(target).mkdir(parents=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    kernel.bind(f"/proc/self/fd/{source}", target, writable=writable)


def require_same(status: os.stat_result, identity: list[int]) -> None:
    """End the process if somebody has put another file in the place of the one looked at."""
    if [status.st_dev, status.st_ino] != identity:
        os.write(2, b"it is another file than the one that was looked at\n")
        os._exit(CHANGED)


def enter(path: str, identity: list[int], *, writable: bool) -> None:
    """Make the root and go there; nothing of the host's files is left."""
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)  # a bind takes what was opened in here alone
    require_same(os.fstat(file), identity)
    null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)  # QEMU tries the host's locks on it
    stage = next(path for path in _STAGES if Path(path).is_dir())
    libraries = [
        (path, os.open(path, os.O_PATH | os.O_CLOEXEC), Path(path).is_dir())
        for path in _LIBRARIES
        if Path(path).exists()
    ]
    kernel.mount("stage", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755,size=1m")
    for name, descriptor, is_directory in libraries:
        place(descriptor, stage + name, is_directory=is_directory, writable=False)
    place(null, f"{stage}/dev/null", is_directory=False, writable=True)
    place(file, f"{stage}/disk", is_directory=False, writable=writable)
    os.chdir(stage)
    sys.meta_path.clear()  # a module would come from nowhere
    kernel.pivot_here()
    kernel.unmount(".")
    os.chdir("/")


def execute(argv: list[str], socket: int) -> NoReturn:
    """Become the program, with the listening socket where it looks for one."""
    os.dup2(socket, _SOCKET)
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    environment |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execvpe(argv[0], argv, environment)  # noqa: S606


def child(spec: dict[str, Any], argv: list[str], ready: int) -> NoReturn:
    """The life of process 1 inside, which becomes the program."""
    try:
        kernel.die_with_parent()
        if not os.read(ready, 1):
            os._exit(REFUSED)
        enter(spec["file"], spec["identity"], writable=spec["writable"])
        if os.geteuid() == 0:
            kernel.drop_capabilities(_READ_ALL)
        execute(argv, spec["socket"])
    except OSError as error:
        os.write(2, f"cannot be enclosed: {error}\n".encode())
    os._exit(REFUSED)


def run(spec: dict[str, Any], argv: list[str]) -> int:
    """Start the program inside and wait for it; its exit status as a shell shows it."""
    own = 0 if os.geteuid() == 0 else kernel.NEWUSER
    ready, go = os.pipe()
    pid = kernel.clone(_SPACES | own)
    if pid == 0:
        os.close(go)
        child(spec, argv, ready)
    os.close(spec["socket"])  # its only holder's end is then seen at the other side
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    if own:
        map_own_ids(pid)
    os.write(go, b"1")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def main() -> int:
    """Read the object and run the program, enclosed unless the object says that it cannot be."""
    spec = json.loads(sys.argv[1])
    argv = sys.argv[2:]
    try:
        if not spec["enclosed"]:
            require_same(Path(spec["file"]).stat(), spec["identity"])
            execute(argv, spec["socket"])
        return run(spec, argv)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(2, f"cannot be enclosed: {error}\n".encode())
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
