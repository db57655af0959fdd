"""The script that shuts a program off from this host: run by isolation.py, never imported by it.

Its first argument is a file descriptor with a JSON object, what follows is the program. It clones
itself into new namespaces; the parent, which stays outside, maps the ids and waits; the child, as
process 1 of the inside, mounts what the program shall see, starts it in one more user and mount
namespace (where no mount of the child's can be undone or made writable) and reaps. When the program
ends, or the parent dies, the kernel ends everything inside. The outcome is written over the object.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import warnings  # noqa: F401 # os.execvpe would import it from the guest's files
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2]))

from pipeline.host import kernel, plain
from pipeline.host.views import (
    DEVICES,
    Spec,
    Step,
    directory,
    fill_dev,
    fill_proc,
    open_paths,
    open_root,
    proc_fd,
    put_binds,
    put_root,
    register_interpreter,
    remove_mount_point,
)

_STAGES = ("/tmp", "/run", "/mnt")  # noqa: S108 # covered in our own view of the mounts only
_MOST_FILES = 1024  # open at once, unless the program asks for more: dpkg tries to close them all
_BAD = 125  # exit status when the program could not be started at all


def ended(status: int) -> int:
    """The exit status that a shell shows for a wait status."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def map_ids(pid: int, spec: Spec) -> None:
    """Give the child's user namespace its ids."""
    Step.now = "map user ids"
    for kind, program in (("uid", "newuidmap"), ("gid", "newgidmap")):
        lines = spec[f"{kind}_map"]
        if spec[program]:
            words = [str(number) for line in lines for number in line]
            Step.now = f"run {program} {pid} {' '.join(words)}"
            done = subprocess.run(  # noqa: PLW1510 # the words are the error's
                [spec[program], str(pid), *words], stdin=subprocess.DEVNULL, capture_output=True
            )
            if done.returncode:
                raise OSError(0, done.stderr.decode(errors="replace").strip())
        else:
            text = "".join(f"{first} {outer} {count}\n" for first, outer, count in lines)
            Path(f"/proc/{pid}/{kind}_map").write_text(text)


def become_root() -> None:
    """Be the namespace's root, and nobody else any more."""
    Step.now = "become root of the namespace"
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kernel.die_with_parent()  # the change of ids undid it


def enter(spec: Spec) -> list[str]:
    """Make the inside and go there; the mount points that it had to make."""
    Step.now = "make the mounts private"
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    stage = next(path for path in _STAGES if os.path.isdir(path))  # noqa: PTH112
    root = open_root(spec["root"])
    devices = open_paths([f"/dev/{name}" for name in DEVICES])
    binds = open_paths([place["source"] for place in spec["binds"]])
    if spec["user_namespace"]:
        become_root()
    Step.now = "set the host name"
    kernel.set_host_name("localhost")
    Step.now = "bring lo up"
    kernel.raise_loopback()
    Step.now = "mount a tmpfs"
    kernel.mount("stage", stage, "tmpfs", kernel.NOSUID | kernel.NODEV, "mode=0755,size=1m")
    os.mkdir(f"{stage}/root")  # noqa: PTH102
    put_root(root, f"{stage}/root")
    if spec["interpreter"]:
        try:
            register_interpreter(spec["interpreter"], f"{stage}/binfmt")
        except OSError:
            if not spec["interpreter_there"]:
                raise
    Step.now = "change the root"
    os.chdir(f"{stage}/root")
    # From here on a module would come from the guest's files, and run with the rights of this.
    sys.meta_path.clear()
    kernel.pivot_here()
    fill_proc(devices[0])
    fill_dev(devices)
    directory("/sys")
    kernel.mount("sys", "/sys", "tmpfs", kernel.READ_ONLY | kernel.NOSUID, "mode=0755,size=4k")
    made = put_binds(spec["binds"], binds)
    Step.now = "leave the host's files"
    kernel.unmount(".")
    os.chdir("/")
    for descriptor in (*root["lower"], root["upper"], root["work"], *devices, *binds):
        os.close(descriptor)
    return made


def see_roots(spec: Spec) -> None:
    """Make the view of a program that is trusted: the host's own, and some roots beside it."""
    Step.now = "make the mounts private"
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    roots = [open_root(place["root"]) for place in spec["mounts"]]
    if spec["user_namespace"]:
        become_root()
    for place, root in zip(spec["mounts"], roots, strict=True):
        put_root(root, place["target"])
    # A /proc of other processes' numbers misleads; where a container forbids ours, it has to do.
    with contextlib.suppress(OSError):
        kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)


def execute(spec: Spec, argv: list[str], say: int) -> NoReturn:
    """Become the program; what went wrong with that goes to `say`."""
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for kind, most in (
            (resource.RLIMIT_NOFILE, _MOST_FILES),
            (resource.RLIMIT_NPROC, spec["processes"]),
        ):
            hard = resource.getrlimit(kind)[1]
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (least, hard if kind == resource.RLIMIT_NOFILE else least))
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            if int(name) > 2:
                with contextlib.suppress(OSError):
                    os.set_inheritable(int(name), int(name) in spec["pass_fds"])
        if not spec["user_namespace"] and spec["untrusted"]:
            kernel.drop_capabilities(kernel.PACKAGES)
        if not argv:
            os._exit(0)
        if spec["untrusted"]:
            with contextlib.suppress(OSError, KeyError):  # it is slower without
                kernel.answer_syncs()
        Step.now = f"start {argv[0]}"
        os.execvpe(argv[0], argv, spec["env"] or os.environ)  # noqa: S606
    except OSError as error:
        tell(say, error)
    os._exit(127)


def tell(say: int, error: OSError) -> None:
    """Send the step and the reason to whoever waits outside."""
    why = error.strerror or str(error)
    os.write(say, json.dumps({"step": Step.now, "why": why, "errno": error.errno}).encode())


def start_locked(spec: Spec, argv: list[str], say: int) -> int:
    """Start the program in a user and a mount namespace of its own, where our mounts are locked."""
    Step.now = "make the program's own namespaces"
    ready, go = os.pipe()
    # Otherwise the files of /proc that take the mapping belong to the host's root.
    kernel.set_dumpable(True)
    pid = kernel.clone(kernel.NEWUSER | kernel.NEWNS)
    if pid == 0:
        os.close(go)
        if not os.read(ready, 1):
            os._exit(_BAD)
        become_root()
        execute(spec, argv, say)
    try:
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text(f"0 0 {spec['count']}\n")
        # The inside's root is the same user as this process: it must not get into it by ptrace(2).
        kernel.set_dumpable(False)
        os.write(go, b"1")
    finally:
        os.close(ready)
        os.close(go)
    return pid


def be_init(spec: Spec, argv: list[str], parent: int, say: int) -> int:
    """As process 1: make the inside, run the program there, end all else; its exit status."""
    kernel.new_keyring()
    os.umask(0o022)
    made: list[str] = []
    if spec["untrusted"]:
        made = enter(spec)
    else:
        see_roots(spec)
    if select.select([parent], [], [], 0)[0]:
        return _BAD  # the parent died before this was tied to it
    if spec["untrusted"] and spec["user_namespace"]:
        pid = start_locked(spec, argv, say)
    else:
        kernel.set_dumpable(False)
        pid = os.fork()
        if pid == 0:
            execute(spec, argv, say)
    status = _BAD
    while True:
        ended_pid, result = os.wait()
        if ended_pid == pid:
            status = ended(result)
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    for path in reversed(made):
        remove_mount_point(path)
    return status


def child(spec: Spec, argv: list[str], ready: int, say: int) -> NoReturn:
    """The life of process 1; what keeps it from starting the program goes to `say`."""
    status = _BAD
    try:
        os.setsid()
        kernel.die_with_parent()
        kernel.forget_arguments()
        # Process 1 gets no signal from inside that it does not handle.
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)
        if os.read(ready, 1):  # the ids are mapped
            status = be_init(spec, argv, ready, say)
    except OSError as error:
        tell(say, error)
    os._exit(status)


def run(spec: Spec, argv: list[str]) -> dict[str, Any]:
    """Run the program and say how it ended: "status", or "failed" with the step and the reason."""
    ready, go = os.pipe()
    hear, say = os.pipe()
    flags = spec["flags"] | (kernel.NEWUSER if spec["user_namespace"] else 0)
    Step.now = "make namespaces"
    pid = kernel.clone(flags)
    if pid == 0:
        os.close(go)
        os.close(hear)
        child(spec, argv, ready, say)
    os.close(ready)
    os.close(say)
    # The whole inside ends with its process 1, and so do we.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    try:
        if spec["user_namespace"]:
            map_ids(pid, spec)
        os.write(go, b"1")
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    status = ended(os.waitpid(pid, 0)[1])
    words = os.read(hear, 1 << 16)
    return {"status": status, "failed": json.loads(words) if words else None}


def main() -> int:
    """Read the object, run the program, write the outcome; the exit status."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    spec = json.loads(Path(proc_fd(descriptor)).read_bytes())
    try:
        if spec["flags"]:
            outcome = run(spec, sys.argv[2:])
        else:
            Step.now = "run in a plain chroot"
            outcome = {"status": plain.run(spec, sys.argv[2:]), "failed": None}
    except OSError as error:
        why = error.strerror or str(error)
        outcome = {"status": _BAD, "failed": {"step": Step.now, "why": why, "errno": error.errno}}
    Path(proc_fd(descriptor)).write_text(json.dumps(outcome))
    return int(outcome["status"])


if __name__ == "__main__":
    sys.exit(main())
