"""Make an installed root file system an image: its label, fstab, key script and hygiene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.checks import ROOT_LABEL
from pipeline.core.errors import GuestError
from pipeline.guest.access.editor import Edit, Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.access.protocol import Guest
from pipeline.guest.customize.boot_hooks import fresh_host_keys, install_key_script
from pipeline.guest.customize.credentials import report_credentials
from pipeline.guest.customize.fstab import Fstab, root_fstab
from pipeline.guest.customize.generalise import (
    remove_identity,
    remove_installer_traces,
    remove_volumes,
    warn_of_passwords,
)
from pipeline.guest.customize.hostname import remove_host_name
from pipeline.guest.customize.mounts import flatten_mounts
from pipeline.guest.customize.network import dhcp_everywhere
from pipeline.guest.customize.selinux import PolicyError, load_policy
from pipeline.host.context import Tools

__all__ = ["Customization", "Edit", "Fstab", "customize", "root_fstab"]

_KEY_FILES = ((".ssh", 0o700, "directory"), (".ssh/authorized_keys", 0o600, "file"))

Relabel = Literal["none", "labelled", "first-boot"]


@dataclass(frozen=True)
class Customization:
    """What was done to the root file system.

    removed: guest paths. kept_mounts, dropped_mounts: lines of the old fstab. relabel: how
    SELinux labels were treated: "labelled" with the guest's own policy, "first-boot"
    (/.autorelabel), or "none" for a guest without a policy.
    """

    edits: tuple[Edit, ...]
    removed: tuple[str, ...]
    kept_mounts: tuple[str, ...]
    dropped_mounts: tuple[str, ...]
    warnings: tuple[str, ...]
    relabel: Relabel


@dataclass(frozen=True)
class Settings:
    """What customising is told: who gets the SSH key, and where the guest-side files lie."""

    user: str
    templates: Path


Concern = Callable[[Editor, Settings], None]
"""One customisation: edits the guest through the editor, adds to its warnings. Doing it twice gives
what doing it once gives."""

CONCERNS: Mapping[str, Concern] = {
    "the user of the SSH key": lambda editor, settings: _check_user(editor, settings.user),
    "SSH host keys": lambda editor, settings: fresh_host_keys(editor, settings.templates),
    "host name": lambda editor, _: remove_host_name(editor),
    "network": lambda editor, settings: dhcp_everywhere(editor, settings.templates / "network"),
    "identity": lambda editor, _: remove_identity(editor),
    "the installer's traces": lambda editor, _: remove_installer_traces(editor),
    "volumes that are gone": lambda editor, _: remove_volumes(editor),
    "passwords": lambda editor, _: warn_of_passwords(editor),
    "credentials": lambda editor, _: report_credentials(editor),
}
"""The customisations in their order; before them come mounts and the key script, on whose outcome
`customize` insists, after them SELinux's labels. A new one is a module and a line here."""


def customize(
    guest: Guest,
    *,
    user: str,
    templates: Path,
    tools: Tools,
    by_type: Mapping[str, str] | None = None,
) -> Customization:
    """Edit the guest in place and say what was changed.

    user: who gets the SSH key. templates: the directory of the guest-side files. by_type: mount
    points that the disk's partition types give, and the partitions' names for people.
    """
    editor = Editor(guest)
    fstab = flatten_mounts(editor, by_type or {})
    rc_local = install_key_script(editor, templates, user)
    written = {"/etc/fstab": fstab.text, rc_local: editor.text(rc_local)}
    settings = Settings(user, templates)
    for concern in CONCERNS.values():
        concern(editor, settings)
    relabel = _finish_labels(editor, tools)
    guest.set_label(ROOT_LABEL)
    # Last: a link between two of these files undoes one by the other.
    for path, text in written.items():
        if editor.text(path) != text:
            raise GuestError(
                "rewrite the guest's",
                path,
                why="another configuration file of the guest leads to the same file",
                next_step=f"Make {path} a file of its own in the kickstart's %post",
            )
    tools.progress.say(
        f"{len(editor.edits)} changes and {len(editor.removed)} removals in the root file system"
    )
    return Customization(
        tuple(editor.edits),
        tuple(editor.removed),
        fstab.kept,
        fstab.dropped,
        tuple(editor.warnings),
        relabel,
    )


def _check_user(editor: Editor, user: str) -> None:
    """Warn of a user that is not there; right modes where an installer left a .ssh directory."""
    for line in editor.text("/etc/passwd").splitlines():
        fields = line.split(":")
        if fields[0] != user or len(fields) != 7:
            continue
        if not (fields[2].isdecimal() and fields[3].isdecimal() and fields[5].startswith("/")):
            break
        uid, gid = int(fields[2]), int(fields[3])
        for name, mode, kind in _KEY_FILES:
            path = f"{fields[5]}/{name}"
            status = editor.guest.stat(path)
            if status is not None and status.kind == kind:
                editor.own(path, mode, uid, gid)
        return
    editor.warnings.append(
        f"the guest has no user {user}: nobody will get the SSH key; create it in the kickstart"
    )


def _finish_labels(editor: Editor, tools: Tools) -> Relabel:
    try:
        policy = load_policy(editor.guest, tools)
        editor.label(policy)
    except PolicyError as error:
        editor.write("/.autorelabel", "")
        editor.label(None)
        editor.warnings.append(
            "the guest relabels its files at first boot, which takes minutes: its SELinux policy "
            f"could not be read ({shown(str(error))[:300]})"
        )
        return "first-boot"
    return "none" if policy is None else "labelled"
