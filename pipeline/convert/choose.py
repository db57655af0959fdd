"""Which volume is the root and which is /boot: by inspection or the user's word, never a guess."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.convert.fstab_devices import resolve, spec_of
from pipeline.convert.survey import (
    ESP,
    READABLE,
    XBOOTLDR,
    Candidate,
    Survey,
    has_kernel,
    listed,
    look_into,
)
from pipeline.core.errors import DiskError, InputError, PipelineError
from pipeline.disk.filesystems.lookup import Tree

_MAX_FSTAB = 1 << 20
_INSTALL = "Install on plain partitions or linear LVM volumes with ext4 or xfs"
_OPTION = "Name one with --root: VG/LV, or a partition's number"


def choose_root(found: Survey, choice: str, disk: str) -> Candidate:
    """The one volume that the choice names, or that alone looks like a root.

    Raises InputError when there is none or several, DiskError when the only ones possible are
    damaged or of a kind that is not supported.
    """
    if choice:
        return _usable(_named(found, choice, disk), disk)
    roots = [candidate for candidate in found.candidates if candidate.is_root]
    if len(roots) > 1:
        raise InputError(
            "choose the root filesystem of",
            disk,
            why=f"several volumes look like one: {listed(roots)}",
            next_step=_OPTION,
        )
    if roots:
        return roots[0]
    raise _no_root(found, disk)


def _named(found: Survey, choice: str, disk: str) -> Candidate:
    for candidate in found.candidates:
        if candidate.name == choice:
            return candidate
    names = [candidate.name for candidate in found.candidates]
    close = difflib.get_close_matches(choice, names, 1)
    raise InputError(
        f"take {choice} out of",
        disk,
        why=f"there is no such volume; it holds {listed(found.candidates)}",
        next_step=f"Did you mean {close[0]}?" if close else _OPTION,
    )


def _usable(candidate: Candidate, disk: str) -> Candidate:
    if candidate.refusal:
        raise DiskError(
            f"take {candidate.place} out of",
            disk,
            why=candidate.refusal,
            next_step=f"Choose another volume with --root, or {_INSTALL[0].lower()}{_INSTALL[1:]}",
        )
    if candidate.filesystem not in READABLE:
        raise InputError(
            f"take {candidate.place} out of",
            disk,
            why=f"it holds {candidate.filesystem or 'no known file system'}, not one of "
            f"{', '.join(sorted(READABLE))}",
            next_step=_OPTION,
        )
    return candidate


def _no_root(found: Survey, disk: str) -> PipelineError:
    refused = [candidate for candidate in found.candidates if candidate.refusal]
    if refused:
        return DiskError(
            "find the root filesystem of",
            disk,
            why=f"no readable volume looks like one, and these cannot be read: {listed(refused)}",
            next_step=_looked_at(found, refused) or _copy_again(refused) or _INSTALL,
        )
    if found.damage:
        return found.damage[0]
    next_step = "Check that the installation finished, or name a volume with --root"
    if any(candidate.filesystem == "iso9660" for candidate in found.candidates):
        next_step = "This is installation media: give the disk that was installed from it"
    return InputError(
        "find the root filesystem of",
        disk,
        why=f"no volume looks like one; it holds {listed(found.candidates)}",
        next_step=next_step,
    )


def _looked_at(found: Survey, refused: Iterable[Candidate]) -> str:
    """What the reader of a damaged volume advises, where that is why it was refused."""
    reasons = {candidate.refusal for candidate in refused}
    return next((error.next_step for error in found.damage if error.why in reasons), "")


def _copy_again(refused: Iterable[Candidate]) -> str:
    """What helps where the disk's file ends before its volumes do."""
    cut_off = any(candidate.volume.missing for candidate in refused)
    return "Copy the disk again, to its end" if cut_off else ""


@dataclass(frozen=True)
class BootChoice:
    """Where /boot is: a volume of its own, or None for the root. notes: for people."""

    candidate: Candidate | None
    notes: tuple[str, ...] = ()


def choose_boot(found: Survey, root: Candidate, tree: Tree, disk: str) -> BootChoice:
    """The volume of a separate /boot: by the root's fstab, else by what the volumes hold.

    tree: the root's content, its journal replayed. Raises InputError when several could be it.
    """
    others = [candidate for candidate in found.candidates if candidate.name != root.name]
    text = tree.read("/etc/fstab", _MAX_FSTAB) or b""
    spec = spec_of(text.decode(errors="replace"), "/boot")
    note = ""
    if spec is not None:
        meant = [c for c in resolve(spec, others) if c.filesystem in READABLE | {"vfat"}]
        if len(meant) == 1:
            if meant[0].refusal:
                raise DiskError(f"take /boot ({meant[0].place}) out of", disk, why=meant[0].refusal)
            return BootChoice(meant[0])
        note = f"fstab mounts /boot from {spec}, which is not on the disk as that"
    elif has_kernel(tree, "/boot"):
        return BootChoice(None)
    else:
        typed = [c for c in others if c.is_of(XBOOTLDR) and c.filesystem in READABLE | {"vfat"}]
        if len(typed) == 1 and not typed[0].refusal:
            return BootChoice(typed[0], (f"{typed[0].place} is /boot by its type, XBOOTLDR",))
    likely = [candidate for candidate in others if candidate.is_boot and not candidate.refusal]
    if len(likely) > 1:
        raise InputError(
            "find /boot on",
            disk,
            why=f"{note or 'fstab does not tell'}, and several volumes look like it: "
            f"{listed(likely)}",
            next_step="Mount the right one on /boot by UUID in the guest's /etc/fstab",
        )
    if likely:
        return BootChoice(likely[0], (*_some(note), f"{likely[0].place} looks like /boot"))
    return BootChoice(None, tuple(_some(note)))


@dataclass(frozen=True)
class SystemPartition:
    """The EFI system partition and where the guest has it mounted. notes: for people."""

    candidate: Candidate | None
    at: str = ""
    notes: tuple[str, ...] = ()


_SYSTEM_POINTS = ("/boot/efi", "/efi", "/boot/EFI", "/esp")


def choose_esp(
    found: Survey, root: Candidate, boot: Candidate | None, tree: Tree
) -> SystemPartition:
    """The EFI system partition: by the root's fstab, else by its type if there is but one.

    tree: the root's content. One that fstab is silent about is mounted as systemd
    and installers do: at /boot/efi where that is, at an empty /boot, at /efi.
    """
    taken = {root.name, boot.name if boot else root.name}
    # What is damaged was told by the survey.
    others = [
        candidate
        for candidate in found.candidates
        if candidate.name not in taken and candidate.filesystem == "vfat" and not candidate.refusal
    ]
    text = (tree.read("/etc/fstab", _MAX_FSTAB) or b"").decode(errors="replace")
    notes: list[str] = []
    for point in _SYSTEM_POINTS:
        spec = spec_of(text, point)
        if spec is None:
            continue
        meant = resolve(spec, others)
        if len(meant) == 1:
            return SystemPartition(meant[0], point)
        notes.append(f"fstab mounts {point} from {spec}, which is not on the disk as that")
    typed = [candidate for candidate in others if candidate.is_of(ESP)]
    if len(typed) != 1:
        if typed:
            notes.append(f"several EFI system partitions, none looked into: {listed(typed)}")
        return SystemPartition(None, notes=tuple(notes))
    if _has_mount_point(boot, tree):
        return SystemPartition(typed[0], "/boot/efi", tuple(notes))
    if boot is None and not [n for n in tree.names("/boot") if n != "lost+found"]:
        return SystemPartition(typed[0], "/boot", tuple(notes))
    return SystemPartition(typed[0], "/efi", tuple(notes))


def boot_volumes(found: Survey, root: Candidate, disk: str) -> list[Candidate]:
    """/boot and the EFI system partition, by the root as it lies there, for dry runs.

    Raises what `choose_boot` raises.
    """
    try:
        tree = look_into(root.volume, root.filesystem)
        boot = choose_boot(found, root, tree, disk).candidate
        esp = choose_esp(found, root, boot, tree).candidate
    except DiskError:
        if root.superblock is None or not root.superblock.dirty:
            raise
        # What the journal holds may say otherwise.
        return [c for c in found.candidates if c.is_boot and c.name != root.name]
    return [candidate for candidate in (boot, esp) if candidate is not None]


def _has_mount_point(boot: Candidate | None, tree: Tree) -> bool:
    """Whether /boot has a directory "efi"."""
    if boot is None:
        return tree.is_directory("/boot/efi")
    try:
        return look_into(boot.volume, boot.filesystem).is_directory("/efi")
    except DiskError:  # what its journal has yet to repair
        return True


def _some(note: str) -> Iterable[str]:
    return (note,) if note else ()
