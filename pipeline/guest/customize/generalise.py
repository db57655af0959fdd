"""Remove what belongs to the installed machine, not to an image that many machines boot."""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown

_LOGS = (
    "/root/anaconda-ks.cfg",  # holds the installer's root password hash
    "/root/original-ks.cfg",
    "/root/initial-setup-ks.cfg",
    "/root/install.log",
    "/root/install.log.syslog",
    "/root/upgrade.log",
    "/root/upgrade.log.syslog",
    "/root/ks-post.log",
    "/root/autoinst.xml",
    "/root/.bash_history",
    "/var/log/anaconda",
    "/var/log/installer",
    "/var/log/YaST2",
    "/var/adm/autoinstall",
)
_SEEDS = (
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
)
_VOLUMES = ("/etc/lvm/archive", "/etc/lvm/backup")
_LEASES = ("/var/lib/dhcp", "/var/lib/dhcp3", "/var/lib/dhclient", "/var/lib/NetworkManager")
_HOSTNAME = "localhost"


def remove_identity(editor: Editor) -> None:
    """Machine id, random seeds, host name, resolver, DHCP leases."""
    _machine_id(editor)
    for path in _SEEDS:
        editor.remove(path)
    for directory in _LEASES:
        editor.remove_matching(directory, r".*\.leases?")
    _host_name(editor)
    status = editor.guest.stat("/etc/resolv.conf")
    if status is not None and status.kind == "file":
        editor.write("/etc/resolv.conf", "")


def remove_installer_traces(editor: Editor) -> None:
    """Logs and answer files of the installers."""
    # Before anything else there goes: listing a directory has its collected edits made first.
    editor.remove_matching("/var/log", r"anaconda\..*")
    for path in _LOGS:
        editor.remove(path)
    editor.remove_matching("/tmp", r"ks-script-.*|anaconda.*|yum\.log")  # noqa: S108 # the guest's
    # Journals lie below the old machine's id, which nobody will ask for again.
    editor.remove_matching("/var/log/journal", r"[0-9a-f]{32}")


def remove_volumes(editor: Editor) -> None:
    """Settings that wait for volumes of the installation: LVM, swap to resume from, crypttab."""
    for directory in _VOLUMES:
        editor.remove_matching(directory, r".*")
    editor.remove("/etc/lvm/cache/.cache")
    editor.remove("/etc/lvm/devices/system.devices")
    resume = "/etc/initramfs-tools/conf.d/resume"
    text = editor.text(resume)
    if re.search(r"^\s*RESUME=(?!none\b)\S", text, re.M):
        editor.write(resume, "RESUME=none\n")
        editor.warnings.append(
            "the ramdisk was made to resume from the installation's swap volume and may wait some "
            "30 s for it: add noresume to the recipe's command_line, or have the preseed write "
            f"RESUME=none to {resume} and run update-initramfs -u"
        )
    editor.update("/etc/crypttab", _without_volumes)


def warn_of_passwords(editor: Editor) -> None:
    """Accounts that anybody who knows the kickstart can log in to: every instance shares them."""
    open_accounts = [
        fields[0]
        for line in editor.text("/etc/shadow").splitlines()
        if len(fields := line.split(":")) > 1 and (fields[1] == "" or fields[1][0] == "$")
    ]
    if open_accounts:
        editor.warnings.append(
            f"{shown(', '.join(open_accounts[:10]))} can log in by password on every instance: "
            "lock it in the kickstart (rootpw --lock) unless that is meant"
        )


def _without_volumes(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.strip() or line.lstrip()[0] == "#"]
    return "".join(f"{line}\n" for line in lines)


def _machine_id(editor: Editor) -> None:
    """An empty file is what systemd fills at the next boot; D-Bus's copy would bring it back."""
    if editor.guest.stat("/etc/machine-id") is not None:
        editor.write("/etc/machine-id", "", 0o444)
    copy = editor.guest.stat("/var/lib/dbus/machine-id")
    if copy is not None and copy.kind == "file":
        editor.remove("/var/lib/dbus/machine-id")


def _host_name(editor: Editor) -> None:
    """A name that DHCP clients know they may replace."""
    old = editor.text("/etc/hostname").strip() or "localhost"
    if editor.is_file("/etc/hostname"):
        editor.write("/etc/hostname", f"{_HOSTNAME}\n")
    editor.update(
        "/etc/sysconfig/network",
        lambda text: re.sub(
            r"^HOSTNAME=.*$", f"HOSTNAME={_HOSTNAME}.localdomain", text, flags=re.M
        ),
    )
    # SUSE's file.
    if editor.is_file("/etc/HOSTNAME") and editor.guest.resolve("/etc/HOSTNAME") != "/etc/hostname":
        editor.write("/etc/HOSTNAME", f"{_HOSTNAME}\n")
    editor.update("/etc/hosts", lambda text: hosts_without(text, old))


def hosts_without(text: str, name: str) -> str:
    """A hosts file without the installed machine's own name; the standard lines stay."""
    short = name.partition(".")[0]
    kept = []
    for line in text.splitlines():
        address, *names = line.split("#")[0].split() or [""]
        mine = short != "localhost" and any(n in (name, short) for n in names)
        if address == "127.0.1.1" or (mine and not any("localhost" in n for n in names)):
            continue
        if mine:
            names = [n for n in names if n not in (name, short) and n.split(".")[0] != short]
            line = f"{address}\t{' '.join(names)}"  # noqa: PLW2901
        kept.append(line)
    return "".join(f"{line}\n" for line in kept)
