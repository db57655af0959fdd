"""systemd-boot's menu, for a whole disk whose guest brings that loader. Pure.

Source: UAPI.1 Boot Loader Specification; systemd-boot(7), loader.conf(5).
"""

from __future__ import annotations

from pipeline.core.errors import InputError


def menu(command_line: str, directory: str) -> dict[str, str]:
    """The files of the menu by their paths on the EFI system partition.

    directory: where kernel and ramdisk lie there. InputError for a command line of other characters
    than printable ASCII.
    """
    if not command_line.isascii() or not command_line.isprintable():
        raise InputError(
            "write a boot menu with the command line",
            command_line,
            why="it has characters other than printable ASCII",
        )
    entry = {
        "title": "Linux",
        "linux": f"{directory}/vmlinuz",
        "initrd": f"{directory}/initrd",
        "options": " ".join(command_line.split()),
    }
    return {
        "/loader/loader.conf": "default image.conf\ntimeout 1\n",
        "/loader/entries/image.conf": "".join(f"{k} {v}\n" for k, v in entry.items()),
    }
