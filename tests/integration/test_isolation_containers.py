"""Isolation where root is a container's, which may have no user namespace, or none at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

import pytest

from pipeline.core.errors import ProgramError
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.isolation import Bind, Isolation, run_inside, stage_copy
from pipeline.host.programs import Runner
from tests.fixtures.isolated import busybox_root, in_container, running, vanished

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="makes containers"),
]


CONTAINED = """
import sys
from pathlib import Path
from pipeline.core.events import QuietProgress
from pipeline.host.context import Tools
from pipeline.host.isolation import Root, find_isolation, remove_tree, run_inside, stage_copy
from pipeline.host.programs import Runner
from tests.fixtures.isolated import busybox_root
class Said(QuietProgress):
    def warn(self, text): print("warned:", text)
place = Path(sys.argv[1])
with Runner() as run:
    tools = Tools(run, Said(), place)
    found = find_isolation(tools)
    print(found.mode, found.first_id, found.count, found.overlay, found.namespaces)
    find_isolation(tools)
    root = stage_copy(found, busybox_root(place), tools)
    script = "B=/busybox; $B id -u; :>/made; $B chown 5:7 /made; $B ls /one; $B sleep 99 &\\n"
    script += "(exec 3>>/proc/sys/kernel/core_pattern) && $B echo open; $B echo end"
    argv = ["/busybox", "sh", "-c", script]
    done = run_inside(found, root, argv, tools=tools, timeout=60)
    print(done.text.split(), (root.upper / "made").stat().st_uid)
    print(sorted(path.name for path in root.upper.iterdir()))
    remove_tree(found, place / "upper", tools)
    print((place / "upper").exists())
"""
CONTAINERS = {
    (): ("user namespace 0 65536 True True", "5", ["dev", "made", "proc", "sys"], ""),
    ("no-user-namespaces",): (
        "root 0 65536 True True",
        "5",
        ["dev", "made", "proc", "sys"],
        "no user namespace can be made here",
    ),
    ("no-user-namespaces", "no-mounts"): (
        "root 0 65536 False False",
        "5",
        ["busybox", "dev", "made", "one", "tmp"],
        "this container allows no program any namespace",
    ),
}


@pytest.mark.parametrize("how", CONTAINERS, ids=lambda how: "+".join(how) or "plain")
def test_roots_of_containers(how: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "c").mkdir()
        place.chmod(0o755)
        done = in_container(place / "c", CONTAINED, *how)
    assert done.returncode == 0, done.stdout + done.stderr
    found, owner, upper, warning = CONTAINERS[how]
    lines = done.stdout.splitlines()
    warnings = [line for line in lines if line.startswith("warned: ")]
    assert len(warnings) == bool(warning) and all(warning in line for line in warnings)
    assert lines[len(warnings)] == found
    words, made = lines[len(warnings) + 1].rsplit(" ", 1)
    assert words == "['0', '/one', 'end']" and made == owner
    assert lines[-2:] == [str(upper), "False"]


def test_a_plain_chroot_as_the_real_root(tmp_path: Path) -> None:
    """Where no namespace can be had: the devices and copies go, the programs end."""
    mark = f"mark-{uuid.uuid4().hex}"
    with Runner() as runner:
        plain_chroot(Tools(runner, QuietProgress(), tmp_path), tmp_path, mark)


def plain_chroot(tools: Tools, tmp_path: Path, mark: str) -> None:
    isolation = Isolation("root", 0, 65536, overlay=False, namespaces=False)
    root = stage_copy(isolation, busybox_root(tmp_path), tools)
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("content")
    script = (
        "B=/busybox; $B cat /deep/shown/file; $B wc -c </dev/null;"
        f" $B setsid $B sh -c '$B sleep 600; : {mark}' & :"
    )
    argv = ["/busybox", "sh", "-c", script, mark]
    done = run_inside(
        isolation,
        root,
        argv,
        tools=tools,
        timeout=60,
        binds=[Bind(shown, "/deep/shown")],
    )
    assert done.text == "content0\n"
    assert running(mark) == []
    assert sorted(path.name for path in root.upper.iterdir()) == ["busybox", "dev", "one", "tmp"]
    assert list((root.upper / "dev").iterdir()) == []
    with pytest.raises(ProgramError, match="it did not end within 1 s"):
        run_inside(
            isolation,
            root,
            ["/busybox", "sh", "-c", "/busybox sleep 600; :", mark],
            tools=tools,
            timeout=1,
        )
    assert vanished(mark, 10)


def test_the_real_root_without_a_user_namespace(tmp_path: Path) -> None:
    """Files that open to the host's user 0, whatever its capabilities, must be closed."""
    isolation = Isolation("root", 0, 65536, overlay=True)
    script = (
        "B=/busybox; for f in sys/kernel/core_pattern sys/kernel/modprobe sysrq-trigger; do"
        " (exec 3>>/proc/$f) && $B echo $f; done; $B mount -o remount,rw /proc/sys && $B echo rw;"
        " $B umount /proc/sys && $B echo off; $B mknod /m c 1 1 && $B echo node;"
        " $B wc -c </proc/kallsyms;"
        " $B kill -9 1; $B dd if=/proc/1/mem count=1 && $B echo memory;"
        " $B grep CapEff /proc/self/status"
    )
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), tmp_path)
        argv = ["/busybox", "sh", "-c", script]
        done = run_inside(isolation, busybox_root(tmp_path), argv, tools=tools, timeout=60)
    assert done.text.split() == ["0", "CapEff:", "00000000a00005fb"]
