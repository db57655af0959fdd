"""A program in a plain chroot, where a container allows no namespace: read by inside.py alone.

The root is a whole copy; the dangerous capabilities are gone; the network and the processes are
those of the container. A guard, in a session of its own, ends all that the program started, also
when the pipeline is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import stat
from pathlib import Path
from typing import Any, NoReturn

from pipeline.host import kernel

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}


def run(spec: dict[str, Any], argv: list[str]) -> int:
    """Run the program; its exit status as a shell shows it. Nothing that it started remains."""
    alive, life = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(life)
        _guard(spec, argv, alive)
    os.close(alive)
    # The guard hears of our end, whatever it is, by the closing of `life`.
    signal.signal(signal.SIGTERM, lambda *_: os.close(life))
    return os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1])


def _guard(spec: dict[str, Any], argv: list[str], alive: int) -> NoReturn:
    status = 125
    try:
        os.setsid()
        kernel.outlive_parent()
        kernel.adopt_orphans()
        made = _prepare(spec)
        pid = os.fork()
        if pid == 0:
            _execute(spec, argv)
        handle = os.pidfd_open(pid)
        select.select([handle, alive], [], [])
        os.kill(pid, signal.SIGKILL)  # nothing to one that has ended
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = code if code >= 0 else 128 - code
        _end_all()
        for path in reversed(made):
            _remove(path)
    except OSError as error:
        os.write(2, f"cannot run in a plain chroot: {error}\n".encode())
    os._exit(status)


def _execute(spec: dict[str, Any], argv: list[str]) -> NoReturn:
    try:
        os.chroot(spec["root"]["upper"])
        os.chdir("/")
        for name in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(name, signal.SIG_DFL)
        os.umask(0o022)
        kernel.drop_capabilities(kernel.PACKAGES)
        if not argv:
            os._exit(0)
        os.execvpe(argv[0], argv, spec["env"])  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
    os._exit(127)


def _end_all() -> None:
    """Kill every descendant; as orphans they become children of this process."""
    me = os.getpid()
    while True:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and _parent(entry) == me:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _inside(root: Path, target: str) -> Path:
    """The target in the root; OSError where a link of the root's own leads elsewhere."""
    path = root
    for part in Path(target).parts[1:]:
        path /= part
        if part == ".." or path.is_symlink():
            raise OSError(0, f"{path} is a link")
    return path


def _prepare(spec: dict[str, Any]) -> list[Path]:
    """Copy what shall be seen and make the devices; what has to be removed afterwards."""
    root, made = Path(spec["root"]["upper"]), list[Path]()
    for place in spec["binds"]:
        target = _inside(root, place["target"])
        if place["writable"] or target.exists():
            raise OSError(0, f"{target} cannot be shown without mounts")
        for parent in reversed(target.relative_to(root).parents):
            if not (root / parent).exists():
                (root / parent).mkdir(mode=0o755)
                made.append(root / parent)
        made.append(target)
        if Path(place["source"]).is_dir():
            shutil.copytree(place["source"], target, symlinks=True)
        else:
            shutil.copy2(place["source"], target)
    dev = _inside(root, "/dev")
    dev.mkdir(mode=0o755, exist_ok=True)
    for name, (major, minor) in _DEVICES.items():
        path = _inside(root, f"/dev/{name}")
        with contextlib.suppress(FileExistsError, PermissionError):
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            path.chmod(0o666)
            made.append(path)
    return made


def _remove(path: Path) -> None:
    """Take away what `_prepare` made; a directory that was filled since stays."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
