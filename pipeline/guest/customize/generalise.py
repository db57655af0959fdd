"""Remove what belongs to the installed machine, not to an image that many machines boot."""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import without_lines
from pipeline.guest.customize.dhcp import forget_leases
from pipeline.guest.customize.identities import forget_cloud_init, renew_identities
from pipeline.guest.customize.proxies import remove_proxies

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
    "/root/curtin-install-cfg.yaml",
    "/root/curtin-install.log",
    "/var/log/anaconda",
    "/var/log/installer",
    "/var/log/curtin",
    "/var/lib/cloud-installer",
    "/var/log/firstboot.log",
    "/var/log/YaST2",
    "/var/adm/autoinstall",
)
_SEEDS = (
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
    "/var/lib/seedrng",
    # systemd-boot's, on whatever is mounted there.
    "/boot/loader/random-seed",
    "/efi/loader/random-seed",
    "/boot/efi/loader/random-seed",
)
_VOLUMES = ("/etc/lvm/archive", "/etc/lvm/backup")
# What old memory and reports of crashes lie in: every entry goes.
_CRASHES = (
    "/var/crash",
    "/var/lib/systemd/coredump",
    "/var/lib/systemd/pstore",
    "/var/spool/abrt",
    "/var/log/dump",
    "/var/lib/kdump/crash",
)
_LOGINS = (
    "/var/log/wtmp",
    "/var/log/btmp",
    "/var/log/lastlog",
    "/var/log/tallylog",
    "/var/log/faillog",
)
_LOGIN_DATABASES = ("/var/lib/wtmpdb/wtmp.db", "/var/lib/lastlog/lastlog2.db")
_MAIL = ("/var/mail", "/var/spool/mail")
_DBUS_ID = "/var/lib/dbus/machine-id"
# File systems of their own in a running system: what a link into them leads to is not the image's.
_VOLATILE = re.compile(r"/(?:run|dev|proc|sys|tmp|var/run)(?:/|$)")
_DNS_LINE = re.compile(r"\s*(?:nameserver|search|domain)\s")


def remove_identity(editor: Editor) -> None:
    """Machine id, random seeds, resolver, DHCP leases, initiators, registrations."""
    _machine_id(editor)
    for path in _SEEDS:
        editor.remove(path)
    forget_leases(editor)
    _resolver(editor)
    renew_identities(editor)
    forget_cloud_init(editor)


def remove_installer_traces(editor: Editor) -> None:
    """Logs and answer files of the installers, proxies, what was done in the installed system."""
    # Before anything else there goes: listing a directory has its collected edits made first.
    editor.remove_matching("/var/log", r"anaconda\..*")
    for path in _LOGS:
        editor.remove(path)
    editor.remove_matching("/tmp", r"ks-script-.*|anaconda.*|yum\.log")  # noqa: S108 # the guest's
    # Journals lie below the old machine's id, which nobody will ask for again.
    editor.remove_matching("/var/log/journal", r"[0-9a-f]{32}(?:\..*)?")
    for path in ("/var/cache/debconf/passwords.dat", "/var/cache/debconf/passwords.dat-old"):
        editor.update(path, _unanswered, secret=True)
    remove_proxies(editor)
    for directory in _CRASHES:
        editor.remove_matching(directory, r".*")
    for path in _LOGINS:
        editor.empty(path)
    for path in _LOGIN_DATABASES:
        editor.remove(path)
    # One is mostly a link to the other.
    boxes = {editor.guest.resolve(path) for path in _MAIL if editor.is_directory(path)}
    for directory in sorted(boxes):
        for name in editor.names(directory):
            editor.empty(f"{directory}/{name}")


def remove_volumes(editor: Editor) -> None:
    """Settings that wait for volumes of the installation: LVM, swap to resume from, crypttab."""
    for directory in _VOLUMES:
        editor.remove_matching(directory, r".*")
    editor.remove("/etc/lvm/cache/.cache")
    editor.remove("/etc/lvm/devices/system.devices")
    _resume_from_nothing(editor)
    editor.update("/etc/crypttab", _without_volumes)


def _resume_from_nothing(editor: Editor) -> None:
    """Have initramfs-tools, which reads all of conf.d, look for no hibernated system."""
    directory = "/etc/initramfs-tools/conf.d"
    files = [f"{directory}/{name}" for name in editor.names(directory)]
    for path in ("/etc/initramfs-tools/initramfs.conf", *files):
        text = editor.text(path)
        none = re.sub(r"^[ \t]*RESUME=(?!none\b)\S.*$", "RESUME=none", text, flags=re.M)
        if none == text:
            continue
        editor.write(path, none)
        editor.warnings.append(
            "the ramdisk was made to resume from the installation's swap volume and may wait some "
            "30 s for it: add noresume to the recipe's command_line, or have the preseed write "
            f"RESUME=none to {path} and run update-initramfs -u"
        )


def warn_of_passwords(editor: Editor) -> None:
    """Accounts that anybody who knows the kickstart can log in to: every instance shares them."""
    open_accounts = [
        fields[0]
        for line in editor.text("/etc/shadow").splitlines()
        if len(fields := line.split(":")) > 1 and _OPEN.fullmatch(fields[1])
    ]
    if open_accounts:
        editor.warnings.append(
            f"{shown(', '.join(open_accounts[:10]))} can log in by password on every instance: "
            "lock it (rootpw --lock, passwd -l) unless that is meant"
        )


_OPEN = re.compile(r"|\$.+|_[./0-9A-Za-z]{19}|[./0-9A-Za-z]{13}")  # none, or a hash (crypt(5))


def _without_volumes(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.strip() or line.lstrip()[0] == "#"]
    return "".join(f"{line}\n" for line in lines)


def _machine_id(editor: Editor) -> None:
    """An empty file is what systemd fills at the next boot; D-Bus's copy would bring it back.

    A file, not a link to D-Bus's: while the root is still read-only systemd can put a file over
    one that is there, and make none.
    """
    path = "/etc/machine-id"
    status = editor.guest.stat(path)
    copy = editor.guest.stat(_DBUS_ID)
    if status is not None and status.kind == "symlink":
        target = editor.place(path)
        if _VOLATILE.match(editor.guest.read_link(path)):
            target = editor.guest.read_link(path)
        if target == _DBUS_ID or not (editor.is_file(path) or _VOLATILE.match(target)):
            editor.write(path, "", 0o444, follow=False)
            # The other way round, as distributions have it.
            editor.link(path, _DBUS_ID)
            return
        if not _VOLATILE.match(target):
            editor.write(path, "", 0o444)
    elif status is not None and editor.text(path).strip() != "uninitialized":
        editor.write(path, "", 0o444)
    if copy is not None and copy.kind == "file":
        editor.remove(_DBUS_ID)


def _resolver(editor: Editor) -> None:
    """The name servers of the installed machine's network; a distribution's own file stays."""
    path = "/etc/resolv.conf"
    if editor.is_file(path) and not editor.guest.resolve(path).startswith("/usr/"):
        if editor.guest.is_immutable(path) and editor.text(path):
            # Nobody could fill it again.
            editor.warnings.append(
                f"{path} is immutable (chattr +i) and stays: every instance asks its name servers; "
                "leave it to DHCP in the installed system unless that is meant"
            )
        else:
            editor.write(path, "")
    for name in ("original", "base", "head", "tail"):
        editor.update(
            f"/etc/resolvconf/resolv.conf.d/{name}",
            lambda text: without_lines(text, lambda line: _DNS_LINE.match(line) is not None),
        )


def _unanswered(text: str) -> str:
    """debconf's passwords without their values."""
    return re.sub(r"^Value:[ \t]*\S.*$", "Value:", text, flags=re.M)
