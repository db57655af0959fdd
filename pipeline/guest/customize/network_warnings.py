"""What in a guest ties it to one network and is not the pipeline's to edit: told, by file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import listed, names_site, pins, without_comments

# A kernel's or ramdisk's word that configures one network, one card or one machine.
_BOOT_WORD = re.compile(
    r"(?<![\w.-])((?:ip|IP|nameserver|rd\.route|ifname|BOOTIF|vlan|bond|bridge|rd\.neednet"
    r"|iscsi_initiator|rd\.iscsi\.initiator|systemd\.hostname|systemd\.machine_id)=[^\s\"']+)"
)
_BOOT_ALWAYS = re.compile(r"(?:BOOTIF|\S*initiator|systemd\.\w+)=")
_BOOT_FILES = (
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/initramfs.conf",
    "/boot/grub2/grubenv",
    "/boot/grub2/grub.cfg",
    "/boot/grub/grub.cfg",
    "/boot/grub/grub.conf",
    "/boot/extlinux/extlinux.conf",
)
_BOOT_DIRECTORIES = (
    "/etc/default/grub.d",
    "/etc/cmdline.d",
    "/etc/dracut.conf.d",
    "/etc/initramfs-tools/conf.d",
    "/boot/loader/entries",
)
_SCRIPTS = ("/etc/rc.local", "/etc/rc.d/rc.local", "/sbin/ifup-local", "/etc/conf.d/local.start")
_SCRIPT_DIRECTORIES = (
    "/etc/network/if-up.d",
    "/etc/network/if-pre-up.d",
    "/etc/NetworkManager/dispatcher.d",
    "/etc/networkd-dispatcher/routable.d",
    "/etc/networkd-dispatcher/configured.d",
    "/etc/dhcp/dhclient-exit-hooks.d",
    "/etc/local.d",
)
_COMMAND = re.compile(
    r"^[^#\n]*\b(?:ip\s+(?:-\S+\s+)*(?:a|addr|address|r|ro|route|rule)\s+(?:add|replace|change)"
    r"|route\s+(?:-\S+\s+)*add|ifconfig\s+\S+)\s[^\n]*$",
    re.M,
)

# A pattern of settings -> files and directories that may have it.
_NAME_SERVERS = {
    re.compile(r"^[ \t]*DNS[ \t]*=[^\n]*$", re.M): (
        "/etc/systemd/resolved.conf",
        "/etc/systemd/resolved.conf.d",
    ),
    re.compile(r"^[ \t]*servers[ \t]*=[^\n]*$", re.M): (
        "/etc/NetworkManager/NetworkManager.conf",
        "/etc/NetworkManager/conf.d",
    ),
    re.compile(r"^[ \t]*(?:supersede|prepend)\s+domain-name-servers\s[^;\n]*", re.M): (
        "/etc/dhcp/dhclient.conf",
        "/etc/dhclient.conf",
    ),
}


def warn_of_networks(editor: Editor) -> None:
    """Scripts that set addresses, servers bound to one, boot parameters of one network."""
    _warn_of_scripts(editor)
    _warn_of_bound_server(editor)
    _warn_of_boot_parameters(editor)
    _warn_of_name_servers(editor)


def _warn_of_scripts(editor: Editor) -> None:
    paths = list(_SCRIPTS)
    for directory in _SCRIPT_DIRECTORIES:
        paths += [f"{directory}/{name}" for name in editor.names(directory)]
    found = [
        path
        for path in paths
        if any(names_site(match[0]) for match in _COMMAND.finditer(editor.small_text(path)))
    ]
    if found:
        editor.warnings.append(
            f"{shown(listed(found))}: sets an address or a route of one network on every "
            "instance: remove it in the installed system unless that is meant"
        )


def _warn_of_bound_server(editor: Editor) -> None:
    directory = "/etc/ssh/sshd_config.d"
    paths = ["/etc/ssh/sshd_config", *(f"{directory}/{n}" for n in editor.names(directory))]
    found = [
        path
        for path in paths
        if any(
            names_site(match[0])
            for match in re.finditer(
                r"^[ \t]*ListenAddress[^\n]*$", editor.small_text(path), re.M | re.I
            )
        )
    ]
    if found:
        editor.warnings.append(
            f"{shown(listed(found))} has sshd listen at one address only: instances without it "
            "are not reached by SSH; take ListenAddress out in the installed system"
        )


def _warn_of_boot_parameters(editor: Editor) -> None:
    """Kernel and ramdisk parameters of one network in what the guest makes boot entries from."""
    paths = list(_BOOT_FILES)
    for directory in _BOOT_DIRECTORIES:
        paths += [f"{directory}/{name}" for name in editor.names(directory)]
    words = {
        match[1].partition("=")[0]: path
        for path in paths
        for match in _BOOT_WORD.finditer(without_comments(editor.small_text(path)))
        if _BOOT_ALWAYS.match(match[1]) or pins(match[1])
    }
    for word, path in words.items():
        editor.warnings.append(
            f"{shown(path)} has {word}= of the installed machine: instances that boot by the "
            "guest's own entries get it; leave it out of the installation's boot parameters"
        )


def _warn_of_name_servers(editor: Editor) -> None:
    """Settings by which every instance asks the name servers of one network, DHCP's aside."""
    found = [
        path
        for pattern, paths in _NAME_SERVERS.items()
        for path in _files(editor, paths)
        if any(names_site(match[0]) for match in pattern.finditer(editor.small_text(path)))
    ]
    if found:
        editor.warnings.append(
            f"{shown(listed(found))} has every instance ask the name servers of one network, "
            "whatever DHCP tells it: take them out in the installed system unless that is meant"
        )


def _files(editor: Editor, paths: tuple[str, ...]) -> Iterator[str]:
    """Each path, and the entries of those that are directories."""
    for path in paths:
        if editor.is_directory(path):
            yield from (f"{path}/{name}" for name in editor.names(path))
        else:
            yield path
