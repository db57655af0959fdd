"""A real Debian 12 made an image: what changed, and what its own programs make of it."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.events import QuietProgress
from pipeline.core.image import Acceleration, PartitionImage
from pipeline.core.resources import PROJECT
from pipeline.guest.access.open import open_guest
from pipeline.guest.boot.select import BootFiles, collect
from pipeline.guest.customize.apply import Customization, customize
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import Entry, debian_root_tarball, listing, mounted
from tests.fixtures.disks.tools import run
from tests.fixtures.metadata_server import Service, serving

pytestmark = pytest.mark.integration

KEYS = {
    0: ("a", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 one"),
    1: ("b", "ecdsa-sha2-nistp256 AAAAE2V two"),
}
PREPARE = """
set -e
cd "$1"
printf '/dev/mapper/VolGroup-lv_root / ext4 errors=remount-ro 0 1\\nUUID=1 /boot ext4 defaults 0 2\\n' >etc/fstab
printf 'auto lo\\niface lo inet loopback\\nallow-hotplug enp1s0\\niface enp1s0 inet dhcp\\n' >etc/network/interfaces
echo 'RESUME=/dev/mapper/VolGroup-lv_swap' >etc/initramfs-tools/conf.d/resume
echo 'user:x:1234:1234::/home/user:/usr/sbin/nologin' >>etc/passwd
echo 'user:!:19000:0:99999:7:::' >>etc/shadow
mkdir -p home/user var/log/installer
chown 1234:1234 home/user
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo secret >var/log/installer/cdebconf
"""  # noqa: E501


class Made:
    """The image, what was in it before and after, and what the steps said."""

    image: PartitionImage
    before: dict[str, Entry]
    after: dict[str, Entry]
    customization: Customization
    files: BootFiles
    kernel: bytes
    ramdisk: bytes
    boot: dict[str, bytes]
    log: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    directory = tmp_path_factory.mktemp("debian")
    path = directory / "root.img"
    with path.open("wb") as file:
        file.truncate(900 << 20)
    run("mke2fs", "-q", "-t", "ext4", path)
    result = Made()
    with mounted(path, directory / "mount") as top:
        run("tar", "-x", "--numeric-owner", "--xattrs", "-f", debian_root_tarball(), "-C", top)
        run("sh", "-c", PREPARE, "sh", top)
        result.before = listing(top)
        result.boot = {p.name: p.read_bytes() for p in (top / "boot").iterdir()}
    uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", path).strip()
    result.image = PartitionImage(path, path.stat().st_size, "ext4", uuid, "", "test")
    (directory / "scratch").mkdir()
    kernel, ramdisk = directory / "kernel", directory / "ramdisk"
    result.log = directory / "log"
    with Runner(result.log) as runner:
        tools = Tools(runner, QuietProgress(io.StringIO()), directory / "scratch")
        emulated = Acceleration("tcg", "the tests run anywhere")
        with open_guest(
            result.image, None, backend="auto", acceleration=emulated, tools=tools
        ) as guest:
            assert guest.backend == "e2fsprogs"
            result.files = collect(guest, kernel, ramdisk, tools)
            templates = PROJECT / "templates"
            result.customization = customize(guest, user="user", templates=templates, tools=tools)
    result.kernel, result.ramdisk = kernel.read_bytes(), ramdisk.read_bytes()
    with mounted(path, directory / "mount", "ro") as top:
        result.after = listing(top)
    yield result
    for file_path in (path, kernel, ramdisk):
        file_path.unlink()


def test_every_change_is_told_and_nothing_else_changed(made: Made) -> None:
    told = {edit.path[1:] for edit in made.customization.edits}
    gone = [path[1:] for path in made.customization.removed]
    for path in made.before.keys() | made.after.keys():
        old, new = made.before.get(path), made.after.get(path)
        if any(path == name or path.startswith(f"{name}/") for name in gone):
            assert new is None
        elif old is None or new is None or replace(old, modified=new.modified) != new:
            assert path in told, path
        else:
            assert path not in told
            is_directory = old.content == "" and old.mode & 0o170000 == 0o040000
            assert is_directory or old.modified == new.modified


def test_kernel_and_ramdisk_are_the_guests_own(made: Made) -> None:
    version = made.files.kernel_version
    assert made.files.warnings == ()
    assert made.kernel == made.boot[f"vmlinuz-{version}"]
    assert made.ramdisk == made.boot[f"initrd.img-{version}"]


def test_one_launch_for_all_edits(made: Made) -> None:
    lines = made.log.read_text().splitlines()
    # A command that had a directory of its own is written as (cd DIRECTORY && COMMAND).
    commands = [line.rpartition(" && ")[2] for line in lines if not line.startswith("#")]
    started = [command.split()[0] for command in commands]
    assert [name for name in started if name != "zstd"] == ["debugfs", "e2fsck"]


def test_independent_tools_agree(made: Made) -> None:
    run("e2fsck", "-fn", made.image.path)
    assert run("blkid", "-p", "-o", "value", "-s", "LABEL", made.image.path) == "uec-rootfs\n"
    assert run("debugfs", "-R", "cat /etc/fstab", made.image.path) == (
        "LABEL=uec-rootfs / ext4 defaults 0 0\n"
    )


def test_the_guests_own_programs_understand_it(made: Made, tmp_path: Path) -> None:
    """ifupdown, systemd, su and sh of the guest, in a chroot of a throw-away mount."""
    copy = tmp_path / "copy.img"
    run("cp", "--sparse=always", "--reflink=auto", made.image.path, copy)
    service = Service(KEYS)
    with mounted(copy, tmp_path / "mount") as top, serving(service):
        # On this host there is an interface that the patterns match, or only "lo" is listed.
        names = {p.name for p in Path("/sys/class/net").iterdir()}
        (top / "sys/class").mkdir(parents=True, exist_ok=True)
        listed = run("unshare", "-m", "sh", "-c", _IFQUERY, "sh", top).split()
        assert set(listed) == {"lo"} | {n for n in names if re.match("en|eth", n)}
        verified = run("chroot", top, "systemctl", "list-unit-files", "ssh-host-keys.service")
        assert "enabled" in verified
        # A server that a socket starts is not to be lost to a cycle of orders.
        wants = top / "etc/systemd/system/sockets.target.wants"
        wants.mkdir(exist_ok=True)
        (wants / "ssh.socket").symlink_to("/lib/systemd/system/ssh.socket")
        analysis = subprocess.run(
            ["systemd-analyze", f"--root={top}", "verify", "default.target"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "ssh-host-keys" not in analysis.stderr
        assert "cycle" not in analysis.stderr
        script = (top / "etc/rc.local").read_text()
        settings = {
            "metadata": service.url,
            "console": "/console",
            "wait": "20",
            "prefix": "/none",  # or it would start the guest's SSH server here
        }
        for name, value in settings.items():
            script, count = re.subn(rf"(?m)^{name}=\S*", f"{name}={value}", script)
            assert count == 1
        (top / "etc/rc.local").write_text(re.sub("depmod -a|modprobe acpiphp", ":", script))
        for _ in range(2):
            done = subprocess.run(
                ["/usr/sbin/chroot", top, "/etc/rc.local", "start"],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        keys = [text for _, text in KEYS.values()]
        assert (top / "console").read_text().splitlines()[2:-1] == keys
        found = listing(top / "home/user")
        assert {path: (entry.mode & 0o7777, entry.owner) for path, entry in found.items()} == {
            ".": (0o755, (1234, 1234)),
            ".ssh": (0o700, (1234, 1234)),
            ".ssh/authorized_keys": (0o600, (1234, 1234)),
        }


_IFQUERY = 'mount --bind /sys "$1/sys" && chroot "$1" ifquery --list -a'
