"""Disks as other image builders make them go through a build, and a triple comes out."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.guest.boot.kernel_image import kernel_release
from tests.compatibility.recorded import record
from tests.fixtures.boot_files import fat
from tests.fixtures.demo import invoke
from tests.fixtures.disks.debian import debian_root_tarball
from tests.fixtures.disks.mkosi import mkosi_disk
from tests.fixtures.disks.tools import run

pytestmark = pytest.mark.integration

MIB = 1 << 20
LABEL = "cloudimg-rootfs"  # diskimage-builder's


@dataclass(frozen=True)
class Built:
    """A triple that came out. manifest: what the build wrote down."""

    directory: Path
    manifest: dict[str, Any]
    said: str

    def content(self, path: str) -> str:
        """A file of the machine image."""
        return run("debugfs", "-R", f"cat {path}", self.directory / "demo.img")


def build(disk: Path, place: Path) -> Built:
    """`invoke build demo --disk DISK`, checked by others' tools; a dry run before agrees."""
    foreseen = invoke(place, "build", "demo", "--disk", str(disk), "--no-verify", "--dry-run")
    assert foreseen.returncode == 0, foreseen.stderr
    done = invoke(place, "build", "demo", "--disk", str(disk), "--no-verify")
    assert done.returncode == 0, done.stderr
    directory = place / "build" / "demo"
    manifest = json.loads((directory / "manifest.json").read_text())
    version = manifest["boot"]["kernel_version"]
    assert f"take the kernel {version}, " in foreseen.stdout
    assert kernel_release(directory / "demo-vmlinuz") == version
    run("e2fsck", "-fn", directory / "demo.img")
    assert (
        run("blkid", "-p", "-s", "LABEL", "-o", "value", directory / "demo.img") == "uec-rootfs\n"
    )
    return Built(directory, manifest, done.stdout + done.stderr)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_mkosis_own_disk(tmp_path: Path) -> None:
    """Root by its partition type, no fstab, an empty /boot, kernel and ramdisk in an image."""
    built = build(mkosi_disk(), tmp_path)
    boot = built.manifest["boot"]
    assert boot["chosen"].startswith("the default of ")
    assert "/EFI/Linux" in boot["chosen"]
    assert {"virtio_blk", "virtio_net", "virtio_scsi"} <= set(boot["drivers"])
    assert built.content("/etc/fstab").split()[:2] == ["LABEL=uec-rootfs", "/"]
    listed = run("zstd", "-dcq", "--pass-through", built.directory / "demo-initrd")
    assert "init" in listed
    record(
        "Debian 13 by mkosi 25.3 (unified kernel image, no fstab)",
        f"Linux {boot['kernel_version']}",
        "tests/integration/test_peers.py::test_mkosis_own_disk",
        "works",
        "three files came out, the ramdisk out of the unified kernel image; none was booted",
    )


# block-device-default's and block-device-efi's layouts, as their YAML has them; sizes are smaller.
_BIOS = "label: dos\nstart=2048, type=83, bootable\n"
_EFI = (
    "label: gpt\n"
    "size=48MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=ESP\n"
    "size=8MiB, type=21686148-6449-6E6F-744E-656564454649, name=BSP\n"
    "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root\n"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of Debian as diskimage-builder leaves it, with GRUB's configuration."""
    folder = tmp_path_factory.mktemp("root") / "tree"
    folder.mkdir()
    run("tar", "-x", "--numeric-owner", "-f", debian_root_tarball(), "-C", folder)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    (folder / "boot/grub").mkdir(exist_ok=True)
    (folder / "boot/efi").mkdir(exist_ok=True)
    (folder / "boot/grub/grubenv").write_text("# GRUB Environment Block\n" + "#" * 999)
    (folder / "boot/grub/grub.cfg").write_text(
        'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\nelse\n'
        '   set default="0"\nfi\n'
        "menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {\n"
        f"\tlinux\t/boot/vmlinuz-{version} root=LABEL={LABEL} ro console=ttyS0\n"
        f"\tinitrd\t/boot/initrd.img-{version}\n}}\n"
    )
    return folder


@pytest.mark.parametrize("table", [_BIOS, _EFI], ids=["bios", "efi"])
def test_diskimage_builders_layouts(tmp_path: Path, root: Path, table: str) -> None:
    lines = [f"LABEL={LABEL} / ext4 rw,relatime 0 1"]
    if table is _EFI:
        lines.append("LABEL=MKFS_ESP /boot/efi vfat defaults 0 2")
    (root / "etc/fstab").write_text("\n".join(lines) + "\n")
    disk, image = tmp_path / "disk.raw", tmp_path / "root.img"
    size = 1024 * MIB
    with disk.open("wb") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", disk, text=table)
    partitions = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    with image.open("wb") as file:
        file.truncate(partitions[-1]["size"] * 512)
    run("mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-d", root, image)
    _place(image, disk, partitions[-1]["start"])
    if table is _EFI:
        stub = b"search --fs-uuid --set=root 1\nconfigfile ($root)/boot/grub/grub.cfg\n"
        esp = fat(tmp_path / "esp", {"EFI/debian/grub.cfg": stub, "EFI/BOOT/BOOTX64.EFI": b"x"},
                  bits=32, mib=48)  # fmt: skip
        run("fatlabel", esp, "MKFS_ESP")
        _place(esp, disk, partitions[0]["start"])
    built = build(disk, tmp_path)
    assert built.manifest["boot"]["chosen"] == "the default of /boot/grub/grub.cfg"
    assert built.manifest["source"]["volume"] == f"partition {len(partitions)}"
    assert built.content("/etc/fstab") == "LABEL=uec-rootfs / ext4 defaults 0 0\n"
    assert {"nvme", "ena", "virtio_blk"} <= set(built.manifest["boot"]["drivers"])


def _place(image: Path, disk: Path, sector: int) -> None:
    subprocess.run(
        ["dd", f"if={image}", f"of={disk}", "bs=512", f"seek={sector}", "conv=sparse,notrunc",
         "status=none"],
        check=True,
    )  # fmt: skip


def test_a_disk_without_a_kernel_is_refused_by_dry_run_and_build_alike(
    tmp_path: Path, root: Path
) -> None:
    """The words lead on: what was looked into, what to do; nothing is asked that nobody can do."""
    tree = tmp_path / "tree"
    run("cp", "-a", "--reflink=auto", root, tree)
    run("sh", "-c", f"rm -rf {tree}/boot/* {tree}/usr/lib/modules/*/vmlinuz")
    (tree / "etc/fstab").write_text("")
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(900 * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, disk)
    words = []
    for more in (["--dry-run"], []):
        done = invoke(tmp_path, "build", "demo", "--disk", str(disk), "--no-verify", *more)
        assert done.returncode == 5
        words.append(next(line for line in done.stderr.splitlines() if "Cannot find" in line))
    assert words[0] == words[1]
    assert "/boot has nothing" in words[0]
    assert "kickstart" not in words[0]
