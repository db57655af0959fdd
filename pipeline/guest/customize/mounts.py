"""Make a guest's mounts those of one flat root: fstab, units, swap files, links to what is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.core.architecture import WORDS
from pipeline.core.errors import GuestError
from pipeline.core.fstab import Entry, Rests, normal, parse
from pipeline.core.system_places import is_essential
from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import MAX_LINKS, base, below, join, shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.customize.fstab import Fstab, root_fstab
from pipeline.guest.customize.mount_units import (
    MountUnit,
    read_units,
    remove_units,
    that_require,
    unit_of,
)

_LINKED = ("/", "/usr", "/var", "/var/lib")
"""Directories whose entries may be links to other volumes."""
_LEAST_SWAP = 10 * 4096  # bytes; swapon(2) takes no smaller area
_SWAP_FILES = (
    *("/swapfile", "/.swapfile", "/swap", "/swap.img", "/swapfile.img", "/swap/swapfile"),
    *("/var/swap", "/var/swapfile", "/var/swap.img"),
)
"""Where installers, dphys-swapfile and cloud-init put them; fstab may not tell."""
_OWN_DATABASES = (
    *("/var/lib/dpkg/status", "/var/lib/pacman/local", "/var/lib/rpm/Packages"),
    *("/var/lib/rpm/Packages.db", "/var/lib/rpm/rpmdb.sqlite"),
)
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/systemd")
_LIBRARIES = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64"),
    *(f"/usr/lib/{each}-linux-gnu" for each in WORDS),
)
_LOADER = re.compile(r"ld-(?:linux|musl)\b.*|ld-2\.\d+\.so")
_ENDLESS = re.compile(r"x-systemd\.mount-timeout=(?:infinity|0[a-z]*)$")
_PATIENT = 60  # minutes that mount.nfs may try before a boot without the server counts as stuck


def flatten_mounts(editor: Editor, by_type: Mapping[str, str]) -> Fstab:
    """Rewrite /etc/fstab and remove the units of volumes that the image does not have.

    by_type: mount points by the disk's partition types, and what is mounted there. Raises
    GuestError, before anything is changed, where a system without the lost content cannot run.
    """
    guest = editor.guest
    units = read_units(editor)
    stale = {point for point in by_type if _has_its_own(editor, point)}
    fstab = root_fstab(
        editor.text("/etc/fstab"),
        guest.facts.filesystem,
        units=[unit.entry for unit in units],
        by_type={point: what for point, what in by_type.items() if point not in stale},
        real=lambda path: real_place(guest, path),
        links=_links(editor),
    )
    _refuse(fstab, _dangling(guest))
    editor.warnings += [
        f"{shown(point)} {shown(fstab.reasons[point])}: its content does not become part of the "
        "image"
        for point in fstab.lost
    ]
    editor.warnings += [
        f"{what} is of the type of {point}, which the root has itself: it does not become part of "
        "the image"
        for point, what in by_type.items()
        if point in stale
    ]
    _warn_of_lines(editor, fstab)
    if any(guest.exists(path) for path in _SYSTEMD):
        kept = [unit.entry for unit in units if unit.entry not in fstab.gone]
        told = [*map(network_warning, parse(fstab.text))]
        told += [network_warning(entry, of_unit=True) for entry in kept]
        editor.warnings += filter(None, told)
    # One that is a link may lead to any other file of the guest, which is not ours to overwrite.
    editor.write("/etc/fstab", fstab.text, follow=False)
    _remove_units(editor, units, fstab)
    _remove_swap_files(editor, fstab, [u.entry for u in units])
    return fstab


def real_place(guest: Guest, path: str) -> str:
    """`path` without links as far as the guest has it: below a lost volume nothing is there."""
    waiting = path.split("/")[::-1]
    real: list[str] = []
    links = 0
    while waiting:
        name = waiting.pop()
        if name == "..":
            del real[-1:]
        if name in ("", ".", ".."):
            continue
        here = "/" + "/".join([*real, name])
        try:
            status = guest.stat(here)
        except GuestError:  # no name of a file system
            return normal(path)
        if status is not None and status.kind == "symlink" and links < MAX_LINKS:
            links += 1
            target = guest.read_link(here)
            real = [] if target.startswith("/") else real
            waiting += target.split("/")[::-1]
            continue
        real.append(name)
    return "/" + "/".join(real)


def network_warning(entry: Entry, *, of_unit: bool = False) -> str:
    """What a boot without the server of a mount that stays would end in; "" if it goes on.

    of_unit: whether a unit says so, which the boot does not require by itself.
    """
    if not entry.needs_network or entry.may_fail or not entry.place:
        return ""
    mount = f"{shown(entry.source)} on {shown(entry.place)} ({shown(entry.kind)})"
    retry = next((o for o in entry.options if o.startswith("retry=")), "")
    patient = retry.partition("=")[2].isdecimal() and int(retry.partition("=")[2]) > _PATIENT
    if any(map(_ENDLESS.match, entry.options)) or (patient and "bg" not in entry.options):
        return (
            f"{mount} is waited for without bound where its server does not answer: add nofail, "
            "and x-systemd.mount-timeout=30 or bg in place of what makes it wait"
        )
    if not (entry.after_network or of_unit):
        return (
            f"{mount} is taken for a local file system by systemd, so that a boot before the "
            "network is up, or without that server, ends in emergency mode: add _netdev,nofail"
        )
    return ""


def _refuse(fstab: Fstab, dangling: Mapping[str, str]) -> None:
    reasons = [f"{shown(point)} {shown(fstab.reasons[point])}" for point in fstab.essential]
    reasons += [
        f"{path} is a link to {shown(target)}, which the root does not have"
        for path, target in dangling.items()
        if path not in fstab.essential
    ]
    if reasons:
        raise GuestError(
            "make a flat image of the guest",
            why=f"{', '.join(reasons)}, and the image has the root's content only",
            next_step="Install the machine with it on the root volume, without a volume of its own",
        )


def _warn_of_lines(editor: Editor, fstab: Fstab) -> None:
    for entry in sorted(fstab.gone, key=lambda entry: entry.line):
        if entry.rests_on is Rests.HYPERVISOR:
            editor.warnings.append(
                f"{shown(entry.place)} is shared by the hypervisor of the installed machine: that "
                "mount goes"
            )
        elif not entry.is_swap and not entry.place:
            editor.warnings.append(
                f"a line of /etc/fstab that is no mount goes: {shown(entry.line)[:200]}"
            )


def _remove_units(editor: Editor, units: Sequence[MountUnit], fstab: Fstab) -> None:
    names = [unit.name for unit in units if unit.entry in fstab.gone]
    removed = remove_units(editor, names, fstab.lost)
    if removed:
        editor.warnings.append(
            f"units of volumes that the image does not have were removed: "
            f"{shown(', '.join(removed))[:500]}"
        )
    # Those of fstab's lines are made at boot, and are as gone as the removed ones.
    lost = [*removed, *(unit_of(point) for point in fstab.lost)]
    for path in that_require(editor, lost):
        editor.warnings.append(
            f"{shown(path)} requires a mount that the image does not have: what it belongs to will "
            "not start"
        )


def _remove_swap_files(editor: Editor, fstab: Fstab, units: Iterable[Entry]) -> None:
    """What was in memory when the machine was installed is nobody else's."""
    guest = editor.guest
    named = {e.source: e.line for e in fstab.gone if e.is_swap and e.source.startswith("/")}
    paths = {entry.line for entry in units}
    for source, line in sorted(named.items()):
        if source.startswith("/dev/"):
            continue
        real = real_place(guest, source)
        where = f"its unit {line}" if line in paths else "its line of /etc/fstab"
        status = guest.stat(real)
        if status is None or status.kind != "file" or not _may_be_swap(real):
            what = "not in the image" if status is None else "no swap file"
            editor.warnings.append(f"{shown(source)} is {what}: {shown(where)} goes")
            continue
        editor.remove(real)
        editor.warnings.append(
            f"the swap file {shown(source)} was removed with {shown(where)}: it may hold what the "
            "installed machine had in memory; have instances make one of their own"
        )
    for path in _SWAP_FILES:
        status = guest.stat(path)
        if status is not None and status.kind == "file" and status.size >= _LEAST_SWAP:
            editor.remove(path)
            editor.warnings.append(
                f"{path} was removed: by its name it is a swap file, which may hold what the "
                "installed machine had in memory"
            )


def _may_be_swap(real: str) -> bool:
    """Whether a file that fstab swaps to may go: a line by mistake must not cost the system."""
    if below(real, "/boot"):
        return False
    return "swap" in base(real) or not is_essential(real)


def _links(editor: Editor) -> dict[str, str]:
    """Links at the top of the guest and in /usr and /var, and what they name."""
    found = {}
    for directory in _LINKED:
        for name in editor.names(directory):
            path = join(directory, name)
            status = editor.guest.stat(path)
            if status is not None and status.kind == "symlink":
                found[path] = real_place(editor.guest, path)
    return found


def _dangling(guest: Guest) -> dict[str, str]:
    """The system's own directories that are links to nothing."""
    found = {}
    for path in ("/usr", "/var", "/etc", "/bin", "/sbin", "/lib", "/usr/lib", "/var/lib"):
        status = guest.stat(path)
        if status is not None and status.kind == "symlink" and not guest.exists(path):
            found[path] = real_place(guest, path)
    return found


def _has_its_own(editor: Editor, point: str) -> bool:
    """Whether the root's own /usr or /var is whole, so that a partition of that type is stale."""
    if point == "/var":
        return any(editor.guest.exists(path) for path in _OWN_DATABASES)
    return point == "/usr" and any(
        _LOADER.match(name) for directory in _LIBRARIES for name in editor.names(directory)
    )
