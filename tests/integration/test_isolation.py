"""Programs inside: what hostile ones try stays inside, as root and as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import HostError, ProgramError
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.isolation import (
    Bind,
    Root,
    find_isolation,
    remove_tree,
    run_inside,
    run_mapped,
)
from pipeline.host.programs import Runner
from tests.fixtures.isolated import (
    PYTHON,
    Room,
    as_builder,
    make_root,
    running,
    vanished,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CALLS = """
import ctypes, errno, os, sys, socket, time
libc = ctypes.CDLL(None, use_errno=True)
def refused(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"
def c(name, *values):
    if getattr(libc, name)(*values) < 0:
        raise OSError(ctypes.get_errno(), "")
"""


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


@pytest.fixture
def room(tmp_path: Path, tools: Tools) -> Iterator[Room]:
    isolation = find_isolation(tools)
    yield Room(isolation, tools, make_root(tmp_path))
    for name in ("upper", "work", "lower"):
        remove_tree(isolation, tmp_path / name, tools)
        assert not (tmp_path / name).exists()


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


class Ended:
    """Ends a process whatever a test says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.close = process.kill


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user")
def test_all_of_it_as_an_ordinary_user() -> None:
    argv = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    # Not tmp_path: pytest closes its parents to all others.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        done = as_builder(place / "home", [*argv, f"--basetemp={place}/home/t"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_the_guest_is_root_of_its_own_ids(room: Room) -> None:
    text = room.run(
        "import os; print(os.getresuid(), os.getresgid(), os.getgroups())\n"
        "open('/made', 'w'); os.chown('/made', 5, 7); os.mkdir('/own')\n"
        "print(oct(os.umask(0)), sorted(os.environ.items()), os.getcwd(), os.uname().nodename)"
    ).text
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = [("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("PATH", path)]
    assert text.splitlines() == [
        "(0, 0, 0) (0, 0, 0) []",
        f"0o22 {environment} / localhost",
    ]
    group = room.isolation.first_group or room.isolation.first_id
    made, own = ((room.root.upper / name).stat() for name in ("made", "own"))
    assert (made.st_uid, made.st_gid) == (room.isolation.first_id + 5, group + 7)
    assert own.st_uid == room.isolation.first_id not in (0, os.geteuid())


def test_what_was_written_is_in_the_upper_layer_and_nothing_else_is(room: Room) -> None:
    room.hand_over()
    room.run(
        "import os; os.remove('/etc/motd'); open('/etc/new', 'w').write('n')\n"
        "open('/dev/shm/x', 'w'); open('/dev/y', 'w'); os.listdir('/proc')",
        binds=[Bind(room.tools.scratch, "/mnt/deep/place")],
    )
    upper = room.root.upper
    found = {str(path.relative_to(upper)) for path in upper.rglob("*")}
    assert found == {"dev", "proc", "sys", "etc", "etc/motd", "etc/new"}
    assert (upper / "etc/motd").is_char_device() and (upper / "etc/motd").stat().st_rdev == 0
    assert (room.root.lower[0] / "etc/motd").read_text() == "of the lower layer\n"


def test_setuid_programs_and_file_capabilities_work(room: Room) -> None:
    script = (
        "import os, shutil, subprocess\n"
        "shutil.copy('/usr/bin/id', '/tmp/id'); os.chmod('/tmp/id', 0o4755)\n"
        "os.setxattr('/tmp/id', 'security.capability', bytes.fromhex('%s'))\n"
        "print(subprocess.run(['/tmp/id', '-u'], user=1000, capture_output=True).stdout)"
    )
    room.hand_over()
    value = "0100000200200000000000000000000000000000"
    assert room.run(script % value).text == "b'0\\n'\n"
    # A writer of images reads it as the guest would have it.
    path = room.root.upper / "tmp/id"
    reader = f"import os; print(os.getxattr({str(path)!r}, 'security.capability').hex())"
    got = run_mapped(
        room.isolation, [sys.executable, "-c", reader], tools=room.tools, timeout=60
    ).text
    assert got.strip() == value


def test_no_file_of_the_host_is_in_reach(room: Room, tmp_path: Path) -> None:
    marker = tmp_path / "readable-by-all"
    marker.write_text("the host's")
    marker.chmod(0o644)
    script = CALLS + (
        "paths = sys.argv[1:]\n"
        "before = [refused(lambda: open(p)) for p in paths]\n"
        "os.mkdir('/jail'); holder = os.open('/', os.O_RDONLY)\n"
        "os.chroot('/jail'); os.fchdir(holder)\n"
        "for _ in range(64): os.chdir('..')\n"
        "os.chroot('.')\n"
        "print(before, [refused(lambda: open(p)) for p in paths], sorted(os.listdir('/')))\n"
        "names = ('root', 'cwd', 'mem', 'fd')\n"
        "print([refused(lambda: os.open(f'/proc/1/{n}', 0)) for n in names])\n"
        "print(sorted(os.listdir('/proc/self/fd')), open('/proc/1/cmdline').read().strip('\\0'))"
    )
    home = Path.home() / ".profile"
    lines = room.run(script, marker, "/etc/shadow", home).text.splitlines()
    none = ["ENOENT"] * 3
    inside = ["bin", "dev", "etc", "jail", "lib", "lib64", "proc", "sbin", "sys", "tmp", "usr"]
    assert lines[0] == f"{none} {none} {inside}"
    assert lines[1] == f"{['EACCES'] * 4}"
    assert lines[2].strip() == "['0', '1', '2', '3', '4']"  # 3: the holder; 4: the list's own


def test_mounts_devices_and_the_kernel_stay_closed(room: Room, tmp_path: Path) -> None:
    before, name = mounts(), os.uname().nodename
    place = tmp_path / "shown"
    place.mkdir()
    (place / "file").write_text("unchanged")
    place.chmod(0o777)
    (place / "file").chmod(0o666)
    script = CALLS + (
        "READ_ONLY, REMOUNT, BIND = 1, 32, 4096\n"
        "print(refused(lambda: open('/shown/file', 'w')),\n"
        "  refused(lambda: open('/shown/new', 'w')),\n"
        "  refused(lambda: c('mount', b'', b'/shown', None, REMOUNT | BIND, None)),\n"
        "  refused(lambda: c('umount2', b'/shown', 2)),\n"
        "  refused(lambda: c('umount2', b'/dev/null', 2)),\n"
        "  refused(lambda: open('/shown/file', 'w')))\n"
        "print(refused(lambda: os.mknod('/disk', 0o60600, os.makedev(8, 0))),\n"
        "  refused(lambda: os.mknod('/mem', 0o20600, os.makedev(1, 1))),\n"
        "  refused(lambda: c('sethostname', b'mine', 4)),\n"
        "  refused(lambda: time.clock_settime(0, time.time())),\n"
        "  refused(lambda: open('/proc/sys/kernel/core_pattern', 'w')),\n"
        "  refused(lambda: open('/proc/sys/vm/drop_caches', 'w')),\n"
        "  refused(lambda: open('/sys/new', 'w')))\n"
        "print(refused(lambda: c('mount', b'x', b'/tmp', b'tmpfs', 0, None)))"
    )
    lines = room.run(script, binds=[Bind(place, "/shown")]).text.splitlines()
    assert lines[0] == "EROFS EROFS EPERM EINVAL EINVAL EROFS"
    assert lines[1] == "EPERM EPERM EPERM EPERM EROFS EROFS EROFS"
    assert lines[2] == "done"  # its own, and gone with it
    assert (place / "file").read_text() == "unchanged"
    assert os.uname().nodename == name and mounts() == before


def test_a_writable_bind_is_written(room: Room, tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    room.run("open('/open/new', 'w').write('x')", binds=[Bind(place, "/open", writable=True)])
    assert (place / "new").read_text() == "x"
    remove_tree(room.isolation, place, room.tools)


def test_no_process_of_the_host_is_in_reach(room: Room) -> None:
    with subprocess.Popen(["sleep", "300"]) as bystander, contextlib.closing(Ended(bystander)):
        script = CALLS + (
            "print(sorted(int(n) for n in os.listdir('/proc') if n.isdecimal()))\n"
            "print(refused(lambda: os.kill(int(sys.argv[1]), 9)))\n"
            "print(refused(lambda: c('ptrace', 16, 1, 0, 0)))\n"
            "os.kill(1, 9); print(refused(lambda: os.kill(-1, 9))); os.kill(0, 18)\n"
            "print('alive')"
        )
        lines = room.run(script, bystander.pid).text.splitlines()
        assert lines == ["[1, 2]", "ESRCH", "EPERM", "ESRCH", "alive"]
        assert bystander.poll() is None


def test_no_network_of_the_host_is_in_reach(room: Room) -> None:
    name = f"\0{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(name)
        unix.listen()
        socket.create_connection(listener.getsockname(), 5).close()  # here it can be had
        script = CALLS + (
            "print(refused(lambda: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)),\n"
            "  refused(lambda: socket.create_connection(('192.0.2.1', 80), 5)),\n"
            "  refused(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[2])))\n"
            "print([name for _, name in socket.if_nameindex()])\n"
            "with socket.create_server(('127.0.0.1', 0)) as own:\n"
            "    socket.create_connection(own.getsockname(), 5); print('lo is up')"
        )
        lines = room.run(script, listener.getsockname()[1], name[1:]).text.splitlines()
    assert lines[0] == "ECONNREFUSED ENETUNREACH ECONNREFUSED"
    assert "lo" in lines[1] and lines[2] == "lo is up"


def test_daemons_and_swarms_end_with_the_program(room: Room, mark: str) -> None:
    script = (
        "import os, signal, sys, time\n"
        "for _ in range(200):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "        os.close(1); os.close(2)\n"
        "        time.sleep(600)\n"
        "print('left')"
    )
    assert room.run(script, mark).text == "left\n"
    assert running(mark) == []


def test_a_swarm_has_a_bound(room: Room) -> None:
    script = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC))"
    soft, hard = eval(room.run(script).text)
    assert soft == hard <= 4096


def test_output_without_end_is_ended(room: Room, mark: str, tmp_path: Path) -> None:
    script = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with pytest.raises(ProgramError, match="it wrote more than 64 MiB"):
        room.run(script, mark)
    log = tmp_path / "log"
    with pytest.raises(ProgramError, match="it wrote more than 64 MiB"):
        room.run(script, mark, log=log)
    assert log.stat().st_size <= 64 << 20
    assert vanished(mark, 5)


def test_a_program_that_does_not_end_is_ended(room: Room, mark: str) -> None:
    script = (
        "import os, signal, time\n"
        "for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "os.fork()\nos.setsid() if os.getpid() != 2 else 0\ntime.sleep(600)"
    )
    with pytest.raises(ProgramError, match="it did not end within 2 s"):
        room.run(script, mark, timeout=2)
    assert vanished(mark, 5)


def test_words_and_ends_of_programs(room: Room, tmp_path: Path) -> None:
    done = room.run("import sys; print(sys.stdin.read().upper())", input=b"abc" * 100_000)
    assert done.text == "ABC" * 100_000 + "\n"
    with pytest.raises(ProgramError, match=r"Cannot ask it: exit status 3: no"):
        room.run("raise SystemExit(print('no') or 3)", attempted="ask it")
    with pytest.raises(ProgramError, match="exit status 137"):
        room.run("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ProgramError, match="no-such cannot be started: No such file"):
        run_inside(room.isolation, room.root, ["no-such"], tools=room.tools, timeout=60)
    log = tmp_path / "log"
    log.write_text("before\n")
    room.run("import sys; print('a', flush=True); print('b', file=sys.stderr)", log=log)
    assert log.read_text() == "before\na\nb\n"


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_root_whose_link_leads_elsewhere_is_refused(room: Room, name: str) -> None:
    (room.root.lower[0] / name).symlink_to("/tmp")
    with pytest.raises(HostError, match=f"use /{name} of the root: it is not a directory"):
        room.run("print()")
    with pytest.raises(HostError, match=r"open .*nowhere"):
        room.run("print()", binds=[Bind(Path("/nowhere"), "/x")])


def test_a_link_of_the_root_keeps_a_bind_inside(room: Room, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (room.root.lower[0] / "link").symlink_to(target)
    with pytest.raises(HostError, match="bind"):
        room.run("print()", binds=[Bind(room.tools.scratch, f"/link/{uuid.uuid4().hex}")])
    assert not target.exists()


def test_many_layers_with_long_names(room: Room, tmp_path: Path) -> None:
    layers = []
    for number in range(120):
        layer = tmp_path / "layers" / f"{number:03}{'x' * 200}"
        layer.mkdir(parents=True)
        (layer / f"of-{number}").touch()
        layers.append(layer)
    root = Root((*layers, *room.root.lower), room.root.upper, room.root.work)
    names = Room(room.isolation, room.tools, root).run("import os; print(*os.listdir('/'))").text
    assert {f"of-{number}" for number in range(120)} <= set(names.split())


def test_a_trusted_program_has_both_kinds_of_ids(room: Room, tmp_path: Path) -> None:
    room.run("import os; open('/a', 'w').write('x'); os.chown('/a', 5, 7); os.chmod('/a', 0o600)")
    before, view, out = mounts(), tmp_path / "view", tmp_path / "out"
    view.mkdir()
    out.write_text("")
    script = (
        f"import os; s = os.stat('{view}/a'); out = open('{out}', 'w')\n"
        f"print(s.st_uid, s.st_gid, oct(s.st_mode), open('{view}/a').read(),\n"
        f"  sorted(os.listdir('{view}/etc')), file=out)\n"
        "os.write(int(os.environ['FD']), b'passed')\n"
    )
    reader, writer = os.pipe()
    run_mapped(
        room.isolation,
        [sys.executable, "-c", script],
        tools=room.tools,
        timeout=60,
        mounts=[(room.root, view)],
        env={"FD": str(writer)},
        pass_fds=[writer],
    )
    assert out.read_text() == "5 7 0o100600 x ['motd']\n"
    assert out.stat().st_uid == os.geteuid()
    assert os.read(reader, 100) == b"passed"
    assert mounts() == before and list(view.iterdir()) == []
    os.close(reader)
    os.close(writer)


KILLED = """
import sys
from pathlib import Path
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.isolation import find_isolation
from pipeline.host.programs import Runner
from tests.fixtures.isolated import Room, make_root
place, script, mark = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Runner() as run:
    tools = Tools(run, QuietProgress(), place)
    Room(find_isolation(tools), tools, make_root(place)).run(script, mark, log=place / "log")
"""


def test_nothing_remains_of_a_killed_pipeline(tmp_path: Path, tools: Tools, mark: str) -> None:
    before, place = mounts(), tmp_path / "place"
    place.mkdir()
    script = (
        "import os, signal, time\n"
        "for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "for _ in range(3):\n    if os.fork() == 0: os.setsid(); time.sleep(600)\n"
        "print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [PYTHON, "-c", KILLED, place, script, mark],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    ) as pipeline:
        log = place / "log"
        arrived = threading.Event()
        while not arrived.wait(0.05):
            assert pipeline.poll() is None
            if log.exists() and "up" in log.read_text():
                arrived.set()
        assert len(running(mark)) >= 5
        pipeline.send_signal(signal.SIGKILL)
    assert vanished(mark)
    assert mounts() == before
    remove_tree(find_isolation(tools), place, tools)
    assert not place.exists()


def exit_42() -> bytes:
    """A program for 64-bit Arm under Linux that writes "hi" and ends with status 42."""
    code = b"".join(
        word.to_bytes(4, "little")
        for word in (
            0xD2800020,  # mov x0, 1
            0x100000E1,  # adr x1, +28
            0xD2800042,  # mov x2, 2
            0xD2800808,  # mov x8, 64: write
            0xD4000001,  # svc 0
            0xD2800540,  # mov x0, 42
            0xD2800BA8,  # mov x8, 93: exit
            0xD4000001,  # svc 0
        )
    )
    base, start, size = 0x400000, 120, 120 + len(code) + 2
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += (2).to_bytes(2, "little") + (0xB7).to_bytes(2, "little") + (1).to_bytes(4, "little")
    head += b"".join(v.to_bytes(8, "little") for v in (base + start, 64, 0)) + bytes(4)
    head += b"".join(v.to_bytes(2, "little") for v in (64, 56, 1, 64, 0, 0))
    load = (1).to_bytes(4, "little") + (5).to_bytes(4, "little")
    load += b"".join(v.to_bytes(8, "little") for v in (0, base, base, size, size, 0x10000))
    return head + load + code + b"hi"


@pytest.mark.skipif(shutil.which("qemu-aarch64-static") is None, reason="no emulator")
@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 7), reason="root alone may register"
)
def test_programs_of_another_architecture_run(room: Room) -> None:
    program = room.root.lower[0] / "arm"
    program.write_bytes(exit_42())
    program.chmod(0o755)
    before = mounts()
    with pytest.raises(ProgramError, match="exit status 42: hi"):
        run_inside(
            room.isolation,
            room.root,
            ["/arm"],
            tools=room.tools,
            timeout=60,
            architecture="aarch64",
        )
    assert mounts() == before


def test_an_architecture_without_an_emulator_is_refused(room: Room) -> None:
    with pytest.raises(HostError, match="qemu-user-static"):
        run_inside(
            room.isolation,
            room.root,
            ["/x"],
            tools=room.tools,
            timeout=60,
            architecture="riscv64",
        )
