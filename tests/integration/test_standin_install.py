"""The stand-in installer in a guest: what it leaves on the disk, and how it fails.

The disk is looked at by sfdisk, lvm2's pvck, e2fsck, debugfs and blkid, and then booted.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from pipeline.builders.demo import FATAL, PHASES, InstallTree, make_tree
from pipeline.builders.demo.archive import FileTree, write_cpio
from pipeline.builders.demo.contents import host_files
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Program, Runner

pytestmark = pytest.mark.integration

SECONDS = 120  # for one program on a host that other tests keep busy
GUEST_SECONDS = 600  # for one guest: thirty times what it takes on a quiet host without KVM
DISK_BYTES = 1 << 30
SECTOR = 512
DEMO = (PROJECT / "kickstart/demo.ks").read_text()
SSH = ["ssh", "-q"] + [
    f"-o{option}"
    for option in (
        "BatchMode=yes",
        "ConnectTimeout=10",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    )
]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def tree(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> InstallTree:
    return make_tree(tmp_path_factory.mktemp("trees"), tools)


def injected(initrd: Path, kickstart: str) -> bytes:
    """The initrd as virt-install makes it: a compressed archive with the file behind it."""
    files = FileTree()
    files.put("answers.ks", kickstart.encode())
    stream = BytesIO()
    write_cpio(files, stream)
    return initrd.read_bytes() + gzip.compress(stream.getvalue())


@contextlib.contextmanager
def guest(
    tools: Tools, directory: Path, kernel: Path, initrd: Path, disk: Path, append: str, net: str
) -> Iterator[Program]:
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "640", "-nodefaults", "-display", "none"]
    argv += ["-no-reboot", "-serial", f"file:{directory / 'serial.log'}"]
    argv += ["-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"]
    argv += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
    argv += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    argv += ["-netdev", f"user,id=n0{net}", "-device", "virtio-net-pci,netdev=n0,romfile="]
    argv += ["-device", "virtio-rng-pci"]
    with tools.run.start(argv) as program:
        yield program


def console_log(directory: Path) -> str:
    """What the guest has said so far; qemu makes the file when it starts."""
    log = directory / "serial.log"
    return log.read_text(errors="replace") if log.exists() else ""


@contextlib.contextmanager
def installing(
    tools: Tools, tree: InstallTree, directory: Path, kickstart: str
) -> Iterator[Program]:
    """A guest that installs to directory/disk.img."""
    disk = directory / "disk.img"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    initrd = directory / "initrd"
    initrd.write_bytes(injected(tree.path / "images/pxeboot/initrd.img", kickstart))
    kernel = tree.path / "images/pxeboot/vmlinuz"
    append = "ks=file:/answers.ks console=ttyS0 panic=1"
    with guest(tools, directory, kernel, initrd, disk, append, "") as program:
        yield program


def install(tools: Tools, tree: InstallTree, directory: Path, kickstart: str) -> str:
    """Install to directory/disk.img until the guest ends; the console log."""
    with installing(tools, tree, directory, kickstart) as program:
        program.wait(GUEST_SECONDS)
    (directory / "initrd").unlink()
    return console_log(directory)


@dataclass(frozen=True)
class Installed:
    directory: Path
    console: str
    partitions: list[tuple[int, int, str, bool]]  # start and size in bytes, type, bootable
    volumes: dict[str, tuple[int, int]]  # offset in the disk and size in bytes
    group: str

    def part(self, offset: int, size: int, name: str) -> Path:
        """A slice of the disk as a file of its own."""
        file = self.directory / name
        with (self.directory / "disk.img").open("rb") as disk, file.open("wb") as out:
            disk.seek(offset)
            for _ in range(0, size, 1 << 20):
                chunk = disk.read(min(1 << 20, size))
                if any(chunk):
                    out.write(chunk)
                else:
                    out.seek(len(chunk), os.SEEK_CUR)
            out.truncate(size)
        return file


@pytest.fixture(scope="module")
def installed(
    tools: Tools, tree: InstallTree, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    directory = tmp_path_factory.mktemp("installed")
    console = install(tools, tree, directory, DEMO)
    listed = said("sfdisk", "--dump", directory / "disk.img")
    partitions = [
        (int(start) * SECTOR, int(size) * SECTOR, kind, "bootable" in rest)
        for start, size, kind, rest in re.findall(
            r"start= *(\d+), size= *(\d+), type=(\w+)(.*)", listed
        )
    ]
    found = Installed(directory, console, partitions, {}, "")
    volume = found.part(*partitions[1][:2], "pv.img")
    metadata = said("lvm", "pvck", "--dump", "metadata", volume)
    extent = int(re.findall(r"extent_size = (\d+)", metadata)[0]) * SECTOR
    first = int(re.findall(r"pe_start = (\d+)", metadata)[0]) * SECTOR
    volumes = {
        name: (partitions[1][0] + first + int(at) * extent, int(count) * extent)
        for name, count, at in re.findall(
            r"^(lv_\w+) \{.*?extent_count = (\d+).*?\"pv0\", (\d+)", metadata, re.DOTALL | re.M
        )
    }
    group = re.findall(r"^(\w+) \{", metadata, re.MULTILINE)[0]
    return Installed(directory, console, partitions, volumes, group)


@pytest.fixture(scope="module")
def root(installed: Installed) -> Path:
    return installed.part(*installed.volumes["lv_root"], "root.img")


@pytest.fixture(scope="module")
def boot(installed: Installed) -> Path:
    return installed.part(*installed.partitions[0][:2], "boot.img")


def said(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True)
    return done.stdout


def content(image: Path, path: str) -> str:
    return said("debugfs", "-R", f"cat {path}", image)


def test_the_installer_told_its_phases_in_order(installed: Installed) -> None:
    told = re.findall(r"^installer: (.+?)\r?$", installed.console, re.MULTILINE)
    assert [line for line in told if line in PHASES] == list(PHASES)
    assert told[-1] == "powering off"
    assert FATAL not in installed.console


def test_the_partition_table_is_fedoras(installed: Installed) -> None:
    assert installed.partitions == [
        (1 << 20, 96 << 20, "83", True),
        (97 << 20, DISK_BYTES - (97 << 20), "8e", False),
    ]


def test_lvm_reads_the_group_and_its_volumes(installed: Installed) -> None:
    assert installed.group == "VolGroup"
    assert set(installed.volumes) == {"lv_root", "lv_swap"}
    assert installed.volumes["lv_swap"][1] == 64 << 20
    # lv_root grew to all that was left.
    assert sum(size for _, size in installed.volumes.values()) > installed.partitions[1][1] - (
        8 << 20
    )


def test_the_file_systems_are_clean(root: Path, boot: Path) -> None:
    for image in (root, boot):
        said("e2fsck", "-fn", image)
        features = said("dumpe2fs", "-h", image)
        assert "needs_recovery" not in features
        assert "Filesystem state:         clean" in features


def test_swap_is_swap(installed: Installed) -> None:
    swap = installed.part(*installed.volumes["lv_swap"], "swap.img")
    assert "swap" in said("blkid", "-p", "-o", "value", "-s", "TYPE", swap)


def test_fstab_has_fedoras_three_lines(root: Path, boot: Path) -> None:
    lines = [line.split() for line in content(root, "/etc/fstab").splitlines()]
    uuid = said("blkid", "-p", "-o", "value", "-s", "UUID", boot).strip()
    assert [line for line in lines if line and not line[0].startswith("#")] == [
        ["/dev/mapper/VolGroup-lv_root", "/", "ext4", "defaults", "1", "1"],
        [f"UUID={uuid}", "/boot", "ext4", "defaults", "1", "2"],
        ["/dev/mapper/VolGroup-lv_swap", "swap", "swap", "defaults", "0", "0"],
    ]


def test_kernel_ramdisk_and_modules_pair(root: Path, boot: Path, tmp_path: Path) -> None:
    kernel = host_files().kernel
    said("debugfs", "-R", f"dump /vmlinuz-{kernel.version} {tmp_path / 'kernel'}", boot)
    assert (tmp_path / "kernel").read_bytes() == kernel.image.read_bytes()
    configuration = content(boot, "/grub/grub.conf")
    assert f"kernel /vmlinuz-{kernel.version} ro root=/dev/mapper/VolGroup-lv_root" in configuration
    assert f"initrd /initramfs-{kernel.version}.img" in configuration
    assert "virtio_blk.ko" in content(root, f"/lib/modules/{kernel.version}/modules.dep")


def test_what_the_kickstart_says_is_done(root: Path) -> None:
    assert content(root, "/etc/motd") == "Installed by the image pipeline's demo\n"
    assert content(root, "/etc/sysconfig/network") == (
        "NETWORKING=yes\nHOSTNAME=demo.localdomain\n"
    )
    assert content(root, "/etc/sysconfig/i18n") == 'LANG="en_US.UTF-8"\n'
    assert re.search(r"^root:!\S*:", content(root, "/etc/shadow"), re.MULTILINE)


def test_what_installers_leave_behind_is_there(root: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}\n", content(root, "/etc/machine-id"))
    assert "52:54:00" in content(root, "/etc/udev/rules.d/70-persistent-net.rules")
    assert "HWADDR" in content(root, "/etc/sysconfig/network-scripts/ifcfg-eth0")
    assert content(root, "/root/anaconda-ks.cfg") == DEMO
    assert "phase: Installing" in content(root, "/var/log/anaconda/anaconda.log")
    for kind in ("rsa", "ecdsa", "ed25519"):
        key = said("debugfs", "-R", f"stat /etc/ssh/ssh_host_{kind}_key", root)
        assert "Mode:  0600" in key


@dataclass(frozen=True)
class Booted:
    program: Program
    port: int
    directory: Path

    def run(self, key: Path, command: str) -> str:
        """Run a command in the guest once it answers; fails when the guest ends or time is up."""
        deadline = time.monotonic() + GUEST_SECONDS
        while True:
            done = subprocess.run(
                [*SSH, "-i", key, "-p", str(self.port), "root@127.0.0.1", command],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
            console = console_log(self.directory)
            assert self.program.poll() is None, console
            assert time.monotonic() < deadline, console + done.stderr
            time.sleep(0.5)

    def press_power_button(self) -> int:
        """qemu's exit status after the guest has powered off."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(self.directory / "qmp"))
            lines = connection.makefile("rw")
            lines.readline()
            for command in ("qmp_capabilities", "system_powerdown"):
                lines.write(f'{{"execute": "{command}"}}\n')
                lines.flush()
                lines.readline()
        return self.program.wait(GUEST_SECONDS)


@contextlib.contextmanager
def booted(
    tools: Tools, directory: Path, boot: Path, disk: Path, root_argument: str
) -> Iterator[Booted]:
    """Boot the installed kernel and ramdisk with `disk`, SSH forwarded from a free port."""
    version = host_files().kernel.version
    said("debugfs", "-R", f"dump /vmlinuz-{version} {directory / 'kernel'}", boot)
    said("debugfs", "-R", f"dump /initramfs-{version}.img {directory / 'ramdisk'}", boot)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    append = f"root={root_argument} ro console=ttyS0 panic=-1"
    net = f",hostfwd=tcp:127.0.0.1:{port}-:22"
    kernel, ramdisk = directory / "kernel", directory / "ramdisk"
    with guest(tools, directory, kernel, ramdisk, disk, append, net) as program:
        yield Booted(program, port, directory)


def put_keys(image: Path, directory: Path) -> list[Path]:
    """Make a key pair of each kind and let root in with it; the private keys."""
    keys = []
    for kind in ("ed25519", "rsa"):
        key = directory / f"id_{kind}"
        said("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key)
        keys.append(key)
    authorized = directory / "authorized_keys"
    authorized.write_text("".join(key.with_suffix(".pub").read_text() for key in keys))
    commands = directory / "commands"
    commands.write_text(
        "mkdir /root/.ssh\nset_inode_field /root/.ssh mode 040700\ncd /root/.ssh\n"
        f"write {authorized} authorized_keys\nset_inode_field authorized_keys mode 0100600\n"
    )
    said("debugfs", "-w", "-f", commands, image)
    return keys


def test_the_flat_root_boots_by_label(tools: Tools, root: Path, boot: Path, tmp_path: Path) -> None:
    image = tmp_path / "flat.img"
    shutil.copyfile(root, image)
    said("tune2fs", "-L", "uec-rootfs", image)
    (tmp_path / "fstab").write_text("LABEL=uec-rootfs / ext4 defaults 0 0\n")
    (tmp_path / "edit").write_text(f"cd /etc\nrm fstab\nwrite {tmp_path / 'fstab'} fstab\n")
    said("debugfs", "-w", "-f", tmp_path / "edit", image)
    keys = put_keys(image, tmp_path)
    with booted(tools, tmp_path, boot, image, "LABEL=uec-rootfs") as machine:
        assert [machine.run(key, "id -u") for key in keys] == ["0\n", "0\n"]
        assert " / ext4 rw" in machine.run(keys[0], "cat /proc/mounts")
        assert machine.run(keys[0], "curl --version").startswith("curl ")
        assert machine.run(keys[0], "depmod -a && modprobe acpiphp && echo fine") == "fine\n"
        assert machine.press_power_button() == 0
    said("e2fsck", "-fn", image)


def test_the_disk_boots_as_installed(
    tools: Tools, installed: Installed, root: Path, boot: Path, tmp_path: Path
) -> None:
    image, disk = tmp_path / "root.img", tmp_path / "disk.img"
    shutil.copyfile(root, image)
    keys = put_keys(image, tmp_path)
    shutil.copyfile(installed.directory / "disk.img", disk)
    with disk.open("r+b") as whole, image.open("rb") as part:
        whole.seek(installed.volumes["lv_root"][0])
        shutil.copyfileobj(part, whole, 1 << 20)
    with booted(tools, tmp_path, boot, disk, "/dev/mapper/VolGroup-lv_root") as machine:
        mounts = machine.run(keys[0], "cat /proc/mounts")
        assert "/dev/mapper/VolGroup-lv_root / ext4 rw" in mounts
        assert "/dev/vda1 /boot ext4 rw" in mounts
        assert len(machine.run(keys[0], "cat /proc/swaps").splitlines()) == 2
        assert machine.press_power_button() == 0


@pytest.mark.parametrize(
    ("added", "fatal"),
    [
        (
            "%pre --erroronfail\necho the reason; exit 3\n%end\n",
            "%pre of line 35 failed with status 3 and has --erroronfail",
        ),
        ("%pre\nkill -9 $PPID\n%end\n", "the installer was ended by signal 9"),
        ("raid / --level=1\n", "the kickstart cannot be honoured: line 35: raid"),
        (
            "part /big --size=4096\n",
            "not enough space: the partitions need 4193 MiB, vda has 1023",
        ),
    ],
)
def test_a_failed_install_says_why_and_powers_off(
    tools: Tools, tree: InstallTree, tmp_path: Path, added: str, fatal: str
) -> None:
    console = install(tools, tree, tmp_path, DEMO + added)
    assert FATAL + fatal in console
    assert "installer: powering off" in console
    assert "installer: Complete" not in console


def test_post_scripts_fail_after_the_installation(
    tools: Tools, tree: InstallTree, tmp_path: Path
) -> None:
    kickstart = DEMO.replace("\npoweroff\n", "\nreboot\n") + (
        "%post --nochroot\necho outside >/dev/ttyS0; ls -d /mnt/sysimage/boot >/dev/ttyS0; exit 4\n"
        "%end\n"
        "%post --erroronfail --log=/root/post.log\necho inside; ls -d /boot/grub; exit 5\n%end\n"
    )
    console = install(tools, tree, tmp_path, kickstart)
    assert "outside" in console
    assert "/mnt/sysimage/boot" in console
    assert "ended with status 4" in console
    assert re.search(FATAL + r"%post of line \d+ failed with status 5", console)
    assert "/boot/grub" in console  # the end of the failed script's log
    assert "installer: rebooting" in console


def test_a_panic_is_a_panic(tools: Tools, tree: InstallTree, tmp_path: Path) -> None:
    console = install(tools, tree, tmp_path, DEMO + "%pre\necho c >/proc/sysrq-trigger\n%end\n")
    assert "Kernel panic - not syncing: sysrq triggered crash" in console
    assert FATAL not in console


def test_without_an_ending_the_installer_waits(
    tools: Tools, tree: InstallTree, tmp_path: Path
) -> None:
    kickstart = DEMO.replace("\npoweroff\n", "\n") + "autopart\n"
    deadline = time.monotonic() + GUEST_SECONDS
    with installing(tools, tree, tmp_path, kickstart) as program:
        console = ""
        while "installer: waiting" not in console:
            assert time.monotonic() < deadline, console
            assert program.poll() is None, console
            time.sleep(0.5)
            console = console_log(tmp_path)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(3)
    assert FATAL in console
