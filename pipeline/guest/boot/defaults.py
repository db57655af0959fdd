"""Which boot loader starts a guest, and what it would boot: its files found, its order obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

from pipeline.core.architecture import WORDS, Architecture
from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import base, join, parent, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.boot.loader_config import (
    Entry,
    candidates,
    entries_default,
    extlinux_default,
    grub2_default,
    legacy_default,
)
from pipeline.guest.boot.loader_entries import (
    entries_of,
    grub_order,
    image_entry,
    loader_default,
    loader_order,
    loader_settings,
)
from pipeline.guest.boot.uki import Uki, read_uki

_MAX_CONFIG = 1 << 20
_MAX_ENTRIES = 200
_MAX_IMAGES = 16
_MAX_IMAGE = 2 << 30  # kernel, ramdisk and firmware in one file
_MAX_LOADER = 16 << 20  # bytes of an EFI boot loader; systemd's has 150 KB, GRUB's with all 5 MB
_GRUB2 = ("/boot/grub2", "/boot/grub")
_LEGACY = ("/boot/grub/grub.conf", "/boot/grub/menu.lst", "/etc/grub.conf")
_LEGACY_SAVED = "/boot/grub/default"
_SYSLINUX = (
    "extlinux/extlinux.conf",
    "extlinux.conf",
    "syslinux/syslinux.cfg",
    "syslinux/extlinux.conf",
    "syslinux.cfg",
    "isolinux/isolinux.cfg",
    "isolinux.cfg",
    "EFI/syslinux/syslinux.cfg",
)
_ENTRIES, _IMAGES, _LOADER_CONF = "loader/entries", "EFI/Linux", "loader/loader.conf"
_SYSTEM_PLACES = ("/boot/efi", "/efi")
_FALLBACK = "EFI/BOOT"  # where the firmware looks; both boot loaders are found there
_LINUX = re.compile(r"^\s*(?:linux|blscfg)", re.MULTILINE)
# grub-mkconfig's 41_custom: what an administrator keeps beside grub.cfg, read at the boot.
_CUSTOM = "custom.cfg"
_SOURCES_CUSTOM = re.compile(rf"^[^#\n]*\bsource\s+\S*/{re.escape(_CUSTOM)}\b", re.MULTILINE)
_SYSTEMD_BOOT = re.compile(rb"#### LoaderInfo: systemd-boot ")


@dataclass(frozen=True)
class Default:
    """What the boot loader would boot, and the file that says so.

    entry: None if no configuration leads to one. others: what else that loader has, in its order.
    """

    entry: Entry | None
    source: str = ""
    others: tuple[Entry, ...] = ()
    warnings: tuple[str, ...] = ()


class Images:
    """The unified kernel images of a guest, each copied out once into `scratch`.

    firmware: what the guest's UEFI calls its architecture ("x64").
    """

    def __init__(self, guest: Guest, scratch: Path, architecture: Architecture) -> None:
        self._guest, self._scratch = guest, scratch
        self.firmware = WORDS[architecture].firmware
        self._known: dict[str, Uki | None] = {}

    def get(self, path: str) -> Uki | None:
        """The image at a guest path; None when there is none, or a PE file without a kernel."""
        if not is_file(self._guest, path):
            return None
        real = self._guest.resolve(path)
        if real not in self._known:
            status = self._guest.stat(real)
            if status is None or status.size > _MAX_IMAGE:
                return None
            if len(self._known) >= _MAX_IMAGES:
                raise GuestError(
                    "look through the guest's unified kernel images in",
                    shown(parent(real)),
                    why=f"there are more than {_MAX_IMAGES}",
                    next_step="Remove those of kernels that are no longer used",
                )
            out = self._scratch / f"image-{len(self._known)}.efi"
            self._guest.download(real, out)
            self._known[real] = read_uki(out, real)
        return self._known[real]


def boot_default(guest: Guest, esp: str, images: Images) -> Default:
    """What the guest's boot loader would boot.

    esp: where the EFI system partition is mounted; "" for a guest without one.
    """
    places = tops(esp)
    warnings: list[str] = []
    environment = _environment(guest, esp, warnings)
    has_grub = any(guest.exists(directory) for directory in _GRUB2)
    loader = f"BOOT{images.firmware.upper()}.EFI"
    by_grub = _grub2(guest, esp, environment, images, warnings)
    by_loader = _systemd_boot(guest, places, images, warnings)
    ways = chain(by_grub, by_loader)
    if not has_grub or _is_systemd_boot(guest, f"{esp}/{_FALLBACK}/{loader}" if esp else ""):
        ways = chain(by_loader, by_grub)
    found = next((way for way in chain(ways, _others(guest, places)) if way.entry), Default(None))
    return replace(found, warnings=tuple(warnings))


def tops(esp: str) -> tuple[str, ...]:
    """Where the volumes are mounted that boot loaders look into."""
    return tuple(dict.fromkeys(("/boot", *((esp,) if esp else ()))))


def system_directory(guest: Guest) -> str:
    """Where the root itself has what an EFI system partition holds; "" where it has not.

    So have images that were flattened before, and installations that boot without firmware.
    """
    places = product(_SYSTEM_PLACES, (_IMAGES, _ENTRIES))
    return next((place for place, name in places if is_directory(guest, f"{place}/{name}")), "")


def _environment(guest: Guest, esp: str, warnings: list[str]) -> str:
    """GRUB's environment block; a warning when it lies where nobody can read it."""
    places = [f"{directory}/grubenv" for directory in _GRUB2]
    places += [f"{directory}/grubenv" for directory in _vendors(guest, esp)]
    for path in places:
        if is_file(guest, path):
            return text_of(guest, path)
        status = guest.stat(path)
        if status is not None and status.kind == "symlink":
            warnings.append(
                f"GRUB's environment block {path} is a link to {shown(guest.read_link(path))}, "
                "which is not there: it lies on an EFI system partition that the disk does not "
                "have, or fstab does not name. An entry that was chosen there is not known: check "
                "that the kernel is the right one"
            )
    return ""


def _vendors(guest: Guest, esp: str) -> Iterator[str]:
    """The directories of boot loaders on the EFI system partition."""
    if esp and guest.exists(f"{esp}/EFI") and is_directory(guest, f"{esp}/EFI"):
        for name in guest.names(f"{esp}/EFI")[:_MAX_ENTRIES]:
            if is_directory(guest, f"{esp}/EFI/{name}"):
                yield join(f"{esp}/EFI", name)


def _grub2(
    guest: Guest, esp: str, environment: str, images: Images, warnings: list[str]
) -> Iterator[Default]:
    """Each grub.cfg that has a menu, then loader entries as GRUB orders them.

    The stub on the EFI system partition has no menu.
    """
    places = tops(esp)
    for directory in (*_GRUB2, *_vendors(guest, esp)):
        path = f"{directory}/grub.cfg"
        if not is_file(guest, path):
            continue
        config = _whole_config(guest, path)
        ordered = grub_order(_entries(guest, images, places[:1] if "blscfg" in config else ()))
        units = loader_order(_unified(guest, places, images)) if "uki" in config else []
        entry = grub2_default(config, environment, ordered, units)
        if entry is not None and not entry.top and directory.startswith(f"{esp}/EFI/") and esp:
            entry = replace(entry, top=esp if entry.uki else "")
        if entry is None and _LINUX.search(config):
            warnings.append(
                f"the default of {path} boots no Linux kernel (another system, a tool, the "
                "firmware's own menu): another of the guest's kernels is taken"
            )
        yield Default(entry, path, (*ordered, *units))
    has_grub = any(guest.exists(directory) for directory in _GRUB2)
    if has_grub and (ordered := grub_order(_entries(guest, images, places[:1]))):
        yield Default(entries_default(ordered, environment), f"/boot/{_ENTRIES}", tuple(ordered))


def _whole_config(guest: Guest, path: str) -> str:
    """A grub.cfg, with the custom.cfg beside it where that is sourced (last, as 41_custom is)."""
    config, custom = text_of(guest, path), join(parent(path), _CUSTOM)
    if not _SOURCES_CUSTOM.search(config) or not is_file(guest, custom):
        return config
    return f"{config}\n{text_of(guest, custom)}"


def _systemd_boot(
    guest: Guest, places: Sequence[str], images: Images, warnings: list[str]
) -> Iterator[Default]:
    """What systemd-boot would boot: entries and images of both its partitions."""
    typed = _entries(guest, images, places)
    units = _unified(guest, places, images)
    ordered = loader_order((*typed, *units))
    if not ordered:
        return
    # systemd-boot reads the EFI system partition's alone; that may be mounted at /boot.
    paths = [f"{top}/{_LOADER_CONF}" for top in reversed(places)]
    config = next((path for path in paths if is_file(guest, path)), "")
    text = text_of(guest, config) if config else ""
    entry = loader_default(ordered, text)
    settings = loader_settings(text)
    named = settings.get("preferred") or settings.get("default", "")
    if named.startswith("@"):
        warnings.append(
            f"{config} says {shown(named)}: which entry was chosen last is remembered by the "
            "machine's firmware, not on the disk; the first in the loader's order is taken"
        )
        named = ""
    where = f"{entry.top}/{_IMAGES}" if entry and entry in units else ""
    source = config if named else where or f"{entry.top if entry else '/boot'}/{_ENTRIES}"
    if entry is not None and entry.tries_left == 0:
        warnings.append(
            f"{shown(entry.id)}, the default of {source}, has no tries left: its boots were never "
            "marked as good"
        )
    yield Default(entry, source, tuple(ordered))


def _entries(guest: Guest, images: Images, places: Sequence[str]) -> list[Entry]:
    found = []
    for top in places:
        directory = f"{top}/{_ENTRIES}"
        if not is_directory(guest, directory):
            continue
        names = [n for n in guest.names(directory) if n.lower().endswith(".conf")][:_MAX_ENTRIES]
        paths = [join(directory, name) for name in names]
        texts = {base(path): text_of(guest, path) for path in paths if is_file(guest, path)}
        found += entries_of(texts, top, images.firmware)
    return found


def _unified(guest: Guest, places: Sequence[str], images: Images) -> list[Entry]:
    """The unified kernel images where boot loaders look for them."""
    found = []
    for top in places:
        directory = f"{top}/{_IMAGES}"
        if not is_directory(guest, directory):
            continue
        for name in guest.names(directory):
            path = join(directory, name)
            if name.lower().endswith((".efi", ".uki")) and (image := images.get(path)) is not None:
                found.append(image_entry(path, image, top))
    return found


def _is_systemd_boot(guest: Guest, path: str) -> bool:
    """Whether the firmware's boot loader is systemd-boot, by the mark that it carries."""
    if not path or not is_file(guest, path):
        return False
    status = guest.stat(guest.resolve(path))
    if status is None or status.size > _MAX_LOADER:
        return False
    return _SYSTEMD_BOOT.search(guest.read(path, _MAX_LOADER)) is not None


def _others(guest: Guest, places: Sequence[str]) -> Iterator[Default]:
    """What GRUB legacy and the syslinux family would boot."""
    saved = text_of(guest, _LEGACY_SAVED) if is_file(guest, _LEGACY_SAVED) else ""
    for path in _LEGACY:
        if is_file(guest, path):
            yield Default(legacy_default(text_of(guest, path), saved), path)
    # U-Boot looks below the root of a bootable partition as well.
    for top, name in product((*places, ""), _SYSLINUX):
        path = f"{top}/{name}"
        if is_file(guest, path):

            def include(name: str, top: str = top) -> str:
                there = next((p for p in candidates(name, top) if is_file(guest, p)), "")
                return text_of(guest, there) if there else ""

            entry = extlinux_default(text_of(guest, path), parent(path), include)
            yield Default(replace(entry, top=top) if entry else None, path)


def text_of(guest: Guest, path: str) -> str:
    """A configuration file's text."""
    return guest.read(path, _MAX_CONFIG).decode(errors="replace")


def is_file(guest: Guest, path: str) -> bool:
    """Whether a path leads, through links, to a file."""
    return _kind(guest, path) == "file"


def is_directory(guest: Guest, path: str) -> bool:
    """Whether a path leads, through links, to a directory."""
    return _kind(guest, path) == "directory"


def _kind(guest: Guest, path: str) -> str:
    if not guest.exists(path):
        return ""
    status = guest.stat(guest.resolve(path))
    return status.kind if status is not None else ""
