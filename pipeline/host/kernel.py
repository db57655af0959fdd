"""System calls of Linux that Python 3.11 has no names for: namespaces, mounts, capabilities.

Read by inside.py, a script that runs on the standard library alone; nothing of ours is imported.
Every function raises OSError as the functions of `os` do. Sources: clone(2), mount(2),
mount_setattr(2), pivot_root(2), prctl(2), keyctl(2), netdevice(7) and the kernel's headers.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import signal
import socket
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
SPACES = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP
"""All that shuts a program off, but the user namespace."""

PACKAGES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 29, 31})
"""Capabilities that programs of packages may have where no user namespace bounds them: CHOWN,
DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, AUDIT_WRITE, SETFCAP.
"""

READ_ONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2

_NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "keyctl": 250},
    "aarch64": {"clone": 220, "pivot_root": 41, "keyctl": 219},
}
_SYNCS = {
    # Of the audit architecture: fsync, fdatasync, sync, syncfs, sync_file_range, msync.
    "x86_64": (0xC000003E, (74, 75, 162, 306, 277, 26)),
    "aarch64": (0xC00000B7, (82, 83, 81, 267, 84, 227)),
}
_MOUNT_SETATTR = 442  # the same number everywhere, as of all calls since Linux 5.1
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SET_CHILD_SUBREAPER = 1, 4, 24, 36
_JOIN_SESSION_KEYRING = 1
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # of a network interface
_MOST_CAPABILITIES = 64
_SET_SECCOMP, _FILTER = 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: ld abs, jeq, ret
_ALLOW, _ANSWER_ZERO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | 0

# PyDLL keeps the interpreter's lock over the call: the copy of a process that clone(2) makes is
# then in the state that its original left.
_LIBC = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)
    return result


def _syscall(number: int, *values: object) -> int:
    _LIBC.syscall.restype = ctypes.c_long
    ready = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    return _check(int(_LIBC.syscall(ctypes.c_long(number), *ready)))


def _number(name: str) -> int:
    return _NUMBERS[platform.machine()][name]


def clone(flags: int) -> int:
    """As os.fork(), into the new namespaces of `flags`. Of a process with one thread alone."""
    return _syscall(_number("clone"), flags | signal.SIGCHLD, 0, 0, 0, 0)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); empty words are left out."""
    _LIBC.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    _check(_LIBC.mount(*words, flags, options.encode() or None), target)


def bind(source: str, target: str, *, writable: bool) -> None:
    """Show `source` at `target` with all that is mounted below it."""
    mount(source, target, flags=BIND | RECURSIVE)
    if not writable:
        # Unlike a remount it keeps nosuid, nodev and noexec, which the kernel has locked.
        attributes = ctypes.create_string_buffer(struct.pack("=4Q", READ_ONLY, 0, 0, 0), 32)
        _syscall(
            _MOUNT_SETATTR,
            _AT_FDCWD,
            ctypes.c_char_p(os.fsencode(target)),
            _AT_RECURSIVE,
            attributes,
            32,
        )


def unmount(target: str) -> None:
    """Take a mount out of sight at once; it ends with its last user."""
    _check(_LIBC.umount2(os.fsencode(target), _DETACH), target)


def pivot_here() -> None:
    """Make the current directory, which is a mount, the root; the old one lies upon it."""
    here = ctypes.c_char_p(b".")
    _syscall(_number("pivot_root"), here, here)


def set_host_name(name: str) -> None:
    """The name of this uts namespace."""
    _check(_LIBC.sethostname(name.encode(), len(name)))


def new_keyring() -> None:
    """A session keyring of one's own; nothing where the kernel has no keyrings."""
    try:
        _syscall(_number("keyctl"), _JOIN_SESSION_KEYRING, 0)
    except OSError:  # ENOSYS, or EPERM under a container's filter: then nobody can use any
        return


def die_with_parent() -> None:
    """SIGKILL when the parent ends. A change of ids undoes it."""
    _check(_LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    _check(_LIBC.prctl(_SET_PDEATHSIG, 0, 0, 0, 0))


def adopt_orphans() -> None:
    """Become the parent of every orphan among this process's descendants."""
    _check(_LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def set_dumpable(on: bool) -> None:
    """Whether processes of the same user may look into this one."""
    _check(_LIBC.prctl(_SET_DUMPABLE, int(on), 0, 0, 0))


def forget_arguments() -> None:
    """Blank this process's command line and environment, as others read them in /proc."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 # no need of pathlib here
        fields = file.read().rpartition(b")")[2].split()
    # proc(5) counts from 1, and the first two lie before the bracket: arg_start is field 48.
    for start, end in ((fields[45], fields[46]), (fields[47], fields[48])):
        ctypes.memset(int(start), 0, int(end) - int(start))


def drop_capabilities(kept: frozenset[int]) -> None:
    """Take all other capabilities from what this process will execute, for good."""
    for number in range(_MOST_CAPABILITIES):
        if number not in kept and _LIBC.prctl(_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # EINVAL: past the last that this kernel knows


def answer_syncs() -> None:
    """Have the kernel answer fsync(2) and its kin with success at once, here and in all children.

    For programs whose work is worth nothing until it is whole, and is synced as a whole then. It
    needs CAP_SYS_ADMIN in the user namespace. Sources: seccomp(2), linux/filter.h.
    """
    architecture, numbers = _SYNCS[platform.machine()]
    count = len(numbers)
    program = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_JUMP_IF_EQUAL, 0, count + 1, architecture),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        *((_JUMP_IF_EQUAL, count - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ANSWER_ZERO),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    whole = ctypes.create_string_buffer(
        struct.pack("@HP", len(program), ctypes.addressof(code)), struct.calcsize("@HP")
    )
    _check(_LIBC.prctl(_SET_SECCOMP, _FILTER, whole, 0, 0))


def raise_loopback() -> None:
    """Bring the interface lo of this network namespace up."""
    with socket.socket() as door:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(door, _GET_FLAGS, request), 16)
        fcntl.ioctl(door, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
