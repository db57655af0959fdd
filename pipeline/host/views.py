"""What a program inside sees: roots, devices and paths of the host. Read by inside.py alone.

Places of the host are opened before the caller's rights are given up, and named by descriptors from
then on: such a path is short, whatever its length, and no link of a guest's leads it elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

from pipeline.host import kernel

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_READ_ONLY = ("sys", "sysrq-trigger", "bus", "fs", "irq")
_EMPTY = ("kcore", "keys", "key-users", "kallsyms", "latency_stats", "timer_list", "sched_debug")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
    "ptmx": "pts/ptmx",
}

Spec = dict[str, Any]


class Step:
    """What is being done, for the message when it fails."""

    now = "start"


def proc_fd(descriptor: int) -> str:
    """A path of a few characters for what was opened, whatever is mounted over it since."""
    return f"/proc/self/fd/{descriptor}"


def open_paths(paths: list[str]) -> list[int]:
    """Open places with the rights that this process has now."""
    opened = []
    for path in paths:
        Step.now = f"open {path}"
        opened.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
    return opened


def put_root(root: Spec, target: str) -> None:
    """Mount a root (of descriptors) at `target`."""
    upper = proc_fd(root["upper"])
    if not root["lower"]:
        Step.now = "bind the root"
        kernel.mount(upper, target, flags=kernel.BIND | kernel.RECURSIVE)
        return
    Step.now = "mount the layers by overlayfs"
    lower = ":".join(map(proc_fd, root["lower"]))
    options = f"lowerdir={lower},upperdir={upper},workdir={proc_fd(root['work'])},userxattr"
    kernel.mount("overlay", target, "overlay", options=options)


def open_root(root: Spec) -> Spec:
    """The same root, of descriptors."""
    lower = open_paths(root["lower"])
    upper, work = open_paths([root["upper"], root["work"]])
    return {"lower": lower, "upper": upper, "work": work}


def directory(path: str) -> None:
    """Have a directory there, by no detour: the guest's own link could lead anywhere."""
    Step.now = f"use {path} of the root"
    if not os.path.lexists(path):
        os.mkdir(path, 0o755)  # noqa: PTH102
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise OSError(0, "it is not a directory")


def fill_dev(devices: list[int]) -> None:
    """The few devices that programs may expect, all of them the host's harmless ones."""
    directory("/dev")
    kernel.mount("dev", "/dev", "tmpfs", kernel.NOSUID, "mode=0755,size=1m")
    for name, descriptor in zip(DEVICES, devices, strict=True):
        Step.now = f"bind /dev/{name}"
        Path("/dev", name).touch()
        kernel.mount(proc_fd(descriptor), f"/dev/{name}", flags=kernel.BIND)
    Step.now = "fill /dev"
    for name, target in _LINKS.items():
        Path("/dev", name).symlink_to(target)
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir()
    bare = kernel.NOSUID | kernel.NODEV
    kernel.mount("shm", "/dev/shm", "tmpfs", bare, "mode=1777,size=64m")  # noqa: S108
    Step.now = "mount /dev/pts"
    kernel.mount(
        "devpts",
        "/dev/pts",
        "devpts",
        kernel.NOSUID | kernel.NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )


def fill_proc(null: int) -> None:
    """The inside's own processes. What rules the whole kernel is read-only or empty: some of it
    opens to the user id 0 of the host, which a guest's root may be in a container."""
    directory("/proc")
    Step.now = "mount /proc"
    kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    Step.now = "close /proc"
    for name in _READ_ONLY:
        if os.path.exists(f"/proc/{name}"):  # noqa: PTH110
            kernel.bind(f"/proc/{name}", f"/proc/{name}", writable=False)
    for name in _EMPTY:
        if os.path.exists(f"/proc/{name}"):  # noqa: PTH110
            kernel.mount(proc_fd(null), f"/proc/{name}", flags=kernel.BIND)


def put_binds(binds: list[Spec], opened: list[int]) -> list[str]:
    """Show the host's paths; the mount points that had to be made, in the order they were."""
    made: list[str] = []
    for place, descriptor in zip(binds, opened, strict=True):
        target = place["target"]
        Step.now = f"bind {place['source']} at {target}"
        ancestors = [str(path) for path in reversed(Path(target).parents)]
        for path in ancestors:
            if not os.path.isdir(path):  # noqa: PTH112
                os.mkdir(path, 0o755)  # noqa: PTH102
                made.append(path)
        if not os.path.lexists(target):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.mkdir(target, 0o755)  # noqa: PTH102
            else:
                Path(target).touch()
            made.append(target)
        kernel.bind(proc_fd(descriptor), target, writable=place["writable"])
    return made


def register_interpreter(line: str, stage: str) -> int:
    """Have this user namespace run a foreign architecture; lasts while the descriptor is open."""
    Step.now = "register the emulator of the architecture"
    os.mkdir(stage)  # noqa: PTH102
    kernel.mount("binfmt_misc", stage, "binfmt_misc")
    Path(stage, "register").write_bytes(line.encode("latin-1"))
    return os.open(stage, os.O_PATH | os.O_CLOEXEC)


def remove_mount_point(path: str) -> None:
    """Take away what was made for a bind, unless the program put something there."""
    with contextlib.suppress(OSError):
        kernel.unmount(path)
    with contextlib.suppress(OSError):
        if os.path.isdir(path):  # noqa: PTH112
            os.rmdir(path)  # noqa: PTH106
        elif os.lstat(path).st_size == 0:
            os.unlink(path)  # noqa: PTH108
