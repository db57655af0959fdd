"""However a boot check or a console ends, no guest, socket or key is left."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.checks import Triple
from pipeline.core.errors import HostError, ProgramError
from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from pipeline.verify import verify
from pipeline.verify.boot import left_clean
from pipeline.verify.interactive import console
from tests.fixtures import triples

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

TCG = Acceleration("tcg", "tests")
LINE = "root=LABEL=uec-rootfs ro console=tty0 console=ttyS0"
PROGRAM = """
import sys
from pathlib import Path
from pipeline.core.image import Acceleration
from pipeline.core.events import QuietProgress
from pipeline.host.programs import Runner
from pipeline.host.context import Tools
from pipeline.core.checks import Triple
from pipeline.verify import verify
place, kernel = map(Path, sys.argv[1:])
with Runner() as run:
    verify(
        Triple(place / "root.img", kernel, place / "initrd", "root=LABEL=uec-rootfs ro"),
        acceleration=Acceleration("tcg", "tests"), minutes_per_boot=10,
        evidence=place / "evidence", tools=Tools(run, QuietProgress(), place),
    )
"""


@pytest.fixture
def files(tmp_path: Path) -> triples.Files:
    return triples.busybox_triple(tmp_path)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner() as run:
        yield Tools(run, QuietProgress(), tmp_path / "scratch")


def guests(place: Path) -> list[str]:
    """Command lines of programs that work on files below `place`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(place) in words and words.startswith(("qemu", "setpriv")):
                found.append(words)
    return found


def pids(place: Path) -> list[int]:
    """The qemu processes that work on files below `place` and answer on their monitor."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(b"qemu-system") and bytes(place) in words:
                log = place / "evidence/first-console.log"
                found += [int(entry.name)] * (log.exists() and log.stat().st_size > 0)
    return found


def private_directories(words: list[str]) -> set[Path]:
    """The private directories named in qemu's command lines."""
    return {
        Path(p).parent for w in words for p in w.replace(",", " ").split() if "boot-check-" in p
    }


def eventually(condition: object, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator] # a callable, kept short at its uses
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_check_leaves_nothing(
    files: triples.Files, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path, files.kernel],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as program:
        assert eventually(
            lambda: len([w for w in guests(tmp_path) if w.startswith("qemu")]) == 2
        ), "two guests at once"
        private = private_directories(guests(tmp_path))
        assert private
        assert all(directory.exists() for directory in private)
        program.send_signal(number)
        program.wait(120)
    assert eventually(lambda: not guests(tmp_path)), guests(tmp_path)
    assert eventually(lambda: not any(directory.exists() for directory in private))


def test_a_guest_that_cannot_start_is_the_hosts_trouble(
    files: triples.Files, tmp_path: Path, tools: Tools
) -> None:
    (tmp_path / "kernel").write_bytes(b"no kernel at all")
    with pytest.raises(HostError, match="qemu"):
        verify(
            Triple(files.machine, tmp_path / "kernel", files.ramdisk, LINE),
            acceleration=TCG,
            minutes_per_boot=1,
            evidence=tmp_path / "evidence",
            tools=tools,
        )
    assert not list(tools.scratch.iterdir())
    assert not guests(tmp_path)


def test_a_killed_guest_is_the_hosts_trouble(
    files: triples.Files, tmp_path: Path, tools: Tools
) -> None:
    def killer() -> None:
        if eventually(lambda: pids(tmp_path)):
            os.kill(pids(tmp_path)[0], signal.SIGKILL)

    killing = threading.Thread(target=killer, daemon=True)
    killing.start()
    with pytest.raises(HostError, match="qemu ended with status -9"):
        verify(
            Triple(files.machine, files.kernel, files.ramdisk, LINE),
            acceleration=TCG,
            minutes_per_boot=10,
            evidence=tmp_path / "evidence",
            tools=tools,
        )
    killing.join(60)
    assert not list(tools.scratch.iterdir())
    assert not guests(tmp_path)


def test_a_full_disk_is_the_hosts_trouble(files: triples.Files, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small], check=True)
    try:
        with Runner() as run, pytest.raises(HostError, match="no space"):
            verify(
                Triple(files.machine, files.kernel, files.ramdisk, LINE),
                acceleration=TCG,
                minutes_per_boot=10,
                evidence=tmp_path / "evidence",
                tools=Tools(run, QuietProgress(), small),
            )
    finally:
        subprocess.run(["umount", small], check=True)
    assert not guests(tmp_path)


def test_a_console_session(files: triples.Files, tmp_path: Path, tools: Tools) -> None:
    ours, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    screen = bytearray()

    def user() -> None:
        while b"login:" not in screen:
            screen.extend(os.read(ours, 65536))
        os.write(ours, b"\x1d")

    typing = threading.Thread(target=user, daemon=True)
    typing.start()
    try:
        triple = Triple(files.machine, files.kernel, files.ramdisk, LINE)
        status = console(triple, acceleration=TCG, tools=tools, input=terminal, output=terminal)
        typing.join(60)
        assert status == 1, "left, not powered off"
        assert LINE.encode() in screen
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(ours)
        os.close(terminal)
    assert not list(tools.scratch.iterdir())
    assert not guests(tmp_path)


def test_whether_a_file_system_was_left_clean_is_read_or_an_error(tmp_path: Path) -> None:
    base, overlay = tmp_path / "root.img", tmp_path / "overlay"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", base, "16M"], check=True)
    make: list[str | Path] = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        base,
        overlay,
    ]
    subprocess.run(make, check=True)
    with Runner() as runner:
        assert left_clean(runner, overlay) is True
        command: list[str | Path] = ["debugfs", "-w", "-R", "feature needs_recovery", base]
        subprocess.run(command, check=True, capture_output=True)
        assert left_clean(runner, overlay) is False
        base.write_bytes(bytes(16 << 20))
        assert left_clean(runner, overlay) is None
        base.unlink()
        with pytest.raises(ProgramError, match="qemu-img"):
            left_clean(runner, overlay)
