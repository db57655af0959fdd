"""What to run in a guest so that its ramdisk gets drivers, in the words of its own tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pipeline.guest.access.paths import base, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.ramdisk import Ramdisk

Tool = Literal["initramfs-tools", "dracut", "mkinitcpio", "booster", "mkinitfs"]

# What shows that a guest has the tool. Debian's dracut brings an update-initramfs of its own and
# keeps the names of the files in /boot, so neither says anything.
_SIGNS: dict[Tool, tuple[str, ...]] = {
    "mkinitcpio": ("/etc/mkinitcpio.conf", "/usr/bin/mkinitcpio"),
    "booster": ("/usr/lib/booster", "/usr/bin/booster", "/etc/booster.yaml"),
    "mkinitfs": ("/etc/mkinitfs/mkinitfs.conf", "/sbin/mkinitfs"),
    "dracut": ("/usr/lib/dracut", "/usr/share/dracut", "/usr/bin/dracut", "/sbin/dracut"),
    "initramfs-tools": (
        "/usr/sbin/mkinitramfs",
        "/usr/share/initramfs-tools",
        "/etc/initramfs-tools",
    ),
}
_IN_GUEST = "Have the guest run (by hand, in a kickstart's %post or a preseed's late_command): "


def ramdisk_tool(guest: Guest, content: Ramdisk, ramdisk: str) -> Tool:
    """What makes the guest's ramdisks: the installed tool that made this one, else one that is
    installed, else what the file's name suggests.
    """
    installed = [tool for tool, signs in _SIGNS.items() if any(map(guest.exists, signs))]
    made = [tool for tool in installed if tool in content.makers]
    # Directories outlive a package that was removed: with two left, the running tool is dracut's
    # rival only where the ramdisk says so.
    for tool in (*made, *installed):
        return tool
    return "initramfs-tools" if base(ramdisk).startswith("initrd.img") else "dracut"


def remedy(tool: Tool, modules: Sequence[str], ramdisk: str, version: str) -> str:
    """What adds the modules to the ramdisk of a kernel version; an imperative sentence.

    ramdisk: its guest path, a unified kernel image where it is part of one.
    """
    names, version = " ".join(modules), shown(version)
    in_image = ramdisk.lower().endswith(".efi")
    commands: dict[Tool, Callable[[], str]] = {
        "initramfs-tools": lambda: (
            f"printf '{''.join(name + chr(92) + 'n' for name in modules)}' >> "
            f"/etc/initramfs-tools/modules && update-initramfs -u -k {version}"
        ),
        "dracut": lambda: (
            f"echo 'add_drivers+=\" {names} \"' > /etc/dracut.conf.d/cloud.conf"
            if in_image
            else f"dracut --force --no-hostonly --add-drivers '{names}' {shown(ramdisk)} {version}"
        ),
        "mkinitcpio": lambda: (
            "mkdir -p /etc/mkinitcpio.conf.d && "
            f"echo 'MODULES+=({names})' > /etc/mkinitcpio.conf.d/cloud.conf && mkinitcpio -P"
        ),
        "booster": lambda: (
            f"echo 'modules: {','.join(modules)}' >> /etc/booster.yaml && "
            "/usr/lib/booster/regenerate_images"
        ),
        "mkinitfs": lambda: (
            "printf '%s\\n' "
            + " ".join(f"'kernel/**/{name}.ko*'" for name in modules)
            + " > /etc/mkinitfs/features.d/cloud.modules && sed -i 's/^features=\"/&cloud /' "
            f"/etc/mkinitfs/mkinitfs.conf && mkinitfs {version}"
        ),
    }
    again = ""
    if in_image and tool != "mkinitcpio":
        again = f", then make {shown(ramdisk)} again (kernel-install add {version} "
        again += f"/usr/lib/modules/{version}/vmlinuz, or what your image builder has)"
    return _IN_GUEST + commands[tool]() + again
