"""A triple from a real Debian root, made an image by the product itself: nothing is added by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pipeline.collect import collect
from pipeline.customize import Customization, customize
from pipeline.guest import open_guest
from pipeline.model import Acceleration, PartitionImage
from pipeline.progress import QuietProgress
from pipeline.run import Runner
from pipeline.settings import PROJECT
from pipeline.stage import Tools
from tests.disks import debian_root_tarball
from tests.disks.debian import BOOKWORM, Flavour
from tests.triples import Files, root_image

_MIB = 1024
_MACHINE_ID = "0123456789abcdef0123456789abcdef\n"


def debian_triple(directory: Path, flavour: Flavour = BOOKWORM) -> tuple[Files, Customization]:
    """Unpack the root, leave it as an installer does, customise it, and take the three files."""
    root = installed_root(directory / "root", flavour)
    image = root_image(root, directory / "root.img", label="installed", mib=_MIB)
    shutil.rmtree(root)
    files = Files(image, directory / "vmlinuz", directory / "initrd")
    said = subprocess.run(
        ["/sbin/blkid", "-p", "-o", "value", "-s", "UUID", image],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    partition = PartitionImage(image, image.stat().st_size, "ext4", said.strip(), "", "test")
    scratch = directory / "customising"
    scratch.mkdir()
    with Runner() as run:
        tools = Tools(run, QuietProgress(), scratch)
        emulated = Acceleration("tcg", "the tests run anywhere")
        with open_guest(
            partition, None, backend="auto", acceleration=emulated, tools=tools
        ) as guest:
            collect(guest, files.kernel, files.ramdisk, tools)
            done = customize(guest, user="root", templates=PROJECT / "templates", tools=tools)
    return files, done


def installed_root(root: Path, flavour: Flavour) -> Path:
    """The root directory as an installer leaves it: one machine's, with its own keys and id."""
    root.mkdir(parents=True)
    subprocess.run(
        ["tar", "-C", root, "--numeric-owner", "--xattrs", "-xpf", debian_root_tarball(flavour)],
        check=True,
        capture_output=True,
    )
    (root / "etc/fstab").write_text("UUID=1 / ext4 errors=remount-ro 0 1\n")
    (root / "etc/hostname").write_text("debian\n")
    (root / "etc/machine-id").write_text(_MACHINE_ID)
    if flavour.network == "ifupdown":
        (root / "etc/network/interfaces").write_text(
            "auto lo\niface lo inet loopback\nallow-hotplug enp1s0\niface enp1s0 inet dhcp\n"
        )
    else:
        (root / "etc/systemd/network/installer.network").write_text(
            "[Match]\nName=enp1s0\n[Network]\nDHCP=yes\n"
        )
        _chroot(root, "systemctl", "enable", "systemd-networkd")
    assert list((root / "etc/ssh").glob("ssh_host_*_key"))
    return root


def _chroot(root: Path, *argv: str) -> None:
    subprocess.run(["/usr/sbin/chroot", root, *argv], check=True, capture_output=True)
