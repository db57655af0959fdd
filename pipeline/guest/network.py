"""Make a guest's network configuration one of no particular machine: DHCP on any interface.

One function a configuration system; each leaves alone what it does not find. What names an
address, a route, a network card or an interface of the installed machine goes. The new files are
whole templates in templates/network.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.guest.addresses import (
    Setting,
    is_ethernet,
    listed,
    names_hardware,
    names_site,
    pins,
    settings,
    without_comments,
    without_lines,
)
from pipeline.guest.dhcp import general_clients
from pipeline.guest.editor import Editor
from pipeline.guest.ifcfg import general_ifcfg
from pipeline.guest.kernels import version_key
from pipeline.guest.networkd import general_networkd
from pipeline.guest.paths import shown

_IFUPDOWN_PATTERNS = "0.8.20"  # "auto" takes patterns from here on; Debian 9 has 0.8.19
_STANZA = re.compile(r"(?:iface|auto|allow-\S+|mapping|rename|template|source\S*|no-\S+)\b")
# Options of an iface stanza that may hold an address without tying the image to a site.
_DNS = re.compile(r"dns-\S+")
_PORTS = re.compile(r"(?:bridge[-_]ports|bond[-_]slaves|slaves|vlan[-_]raw[-_]device)")
_NM_CONNECTIONS = "/etc/NetworkManager/system-connections"
_NM_ETHERNET = ("ethernet", "802-3-ethernet")
_NM_RADIO = ("wifi", "802-11-wireless", "wimax", "wpan", "olpc-mesh", "802-11-olpc-mesh")
_NM_PINNING = re.compile(
    r"address(?:es)?\d*|routes?\d*|gateway|(?:cloned-)?mac-address|local|remote"
)
_NM_MASTERS = ("master", "controller")
_MAX_STATUS = 64 << 20  # bytes; a desktop's dpkg status has 5 MB
_UDEV = "/etc/udev/rules.d"
_UDEV_RULE = re.compile(r"^\s*[^#\s]", re.M)
_UDEV_NAME = re.compile(r"\bNAME\s*:?=(?!=)")
_UDEV_CARD = re.compile(r"\b(?:ATTRS?\{(?:address|dev_addr)\}|KERNELS|ID_PATH\S*|DEVPATH)\s*==")
# Gentoo's netifrc: config_eth0="192.0.2.9/24"; without one an interface is served by DHCP.
_NETIFRC = re.compile(
    r"^[ \t]*(?:config|routes|rules|mac|dns_\w+|fallback|gateway|ifconfig|ipaddr)_?(\w*)="
    r"(?:\"[^\"]*\"|'[^']*'|\([^)]*\)|\S*)[^\n]*\n?",
    re.M,
)
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


def dhcp_everywhere(editor: Editor, templates: Path) -> None:
    """Apply all of them. templates: the directory of the network templates."""
    gone = general_ifcfg(editor, _template(templates, "ifcfg-eth0"))
    gone += _network_manager(editor, templates)
    gone += _debian(editor, templates)
    _netplan(editor, templates)
    gone += general_networkd(editor, _template(templates, "wired.network"))
    _others(editor)
    general_clients(editor)
    _udev(editor)
    if gone:
        editor.warnings.append(
            f"{shown(listed(gone))} named an address, a card or an interface of the installed "
            "machine and went: where instances need such an interface, make it at their boot"
        )
    _warn_of_scripts(editor)
    _warn_of_boot_parameters(editor)


def _template(templates: Path, name: str) -> str:
    return (templates / name).read_text()


def _network_manager(editor: Editor, templates: Path) -> list[str]:
    """Connections of one machine go; a general one is for systems told to make none themselves."""
    names = [n for n in editor.names(_NM_CONNECTIONS) if n != "wired.nmconnection"]
    found = {
        path: settings(editor.text(path)) for name in names if (path := f"{_NM_CONNECTIONS}/{name}")
    }
    kinds = {path: _keyfile_type(each) for path, each in found.items()}
    masters = {
        setting.value
        for path, each in found.items()
        if kinds[path] in _NM_ETHERNET
        for setting in each
        if setting.key in _NM_MASTERS
    }
    lost = []
    for path, each in found.items():
        own = {s.value for s in each if s.key in ("interface-name", "uuid", "id")}
        if kinds[path] in (*_NM_ETHERNET, *_NM_RADIO):
            editor.remove(path)
        elif _keyfile_pins(each) or own & masters:
            lost.append(path)
            editor.remove(path)
    if editor.is_directory(_NM_CONNECTIONS):
        # NetworkManager ignores a keyfile that others than root can read.
        path = f"{_NM_CONNECTIONS}/wired.nmconnection"
        editor.write(path, _template(templates, "wired.nmconnection"), 0o600)
    # cloud-init's, which had written /etc/resolv.conf itself: without it nobody would.
    editor.remove("/etc/NetworkManager/conf.d/99-cloud-init.conf")
    editor.update(
        "/etc/NetworkManager/NetworkManager.conf",
        lambda text: without_lines(
            text, lambda line: "no-auto-default" in line and names_hardware(line)
        ),
    )
    return lost


def _keyfile_type(found: list[Setting]) -> str:
    """The connection's type; where it does not say, the section that only a type has."""
    for setting in found:
        if (setting.section, setting.key) == ("connection", "type"):
            return setting.value
    sections = {setting.section for setting in found}
    return next((kind for kind in (*_NM_ETHERNET, *_NM_RADIO) if kind in sections), "")


def _keyfile_pins(found: list[Setting]) -> bool:
    if any(setting.key == "method" and setting.value == "shared" for setting in found):
        return False  # a network inside the instance
    return any(
        (_NM_PINNING.fullmatch(setting.key) and pins(setting.value))
        or (setting.key == "parent" and is_ethernet(setting.value))
        for setting in found
    )


def _debian(editor: Editor, templates: Path) -> list[str]:
    lost = []
    for name in editor.names("/etc/network/interfaces.d"):
        extra = f"/etc/network/interfaces.d/{name}"
        if editor.is_file(extra):
            stanzas = _stanzas(editor.text(extra))
            if any(map(_is_of_card, stanzas)):
                editor.remove(extra)
            elif any(map(_stanza_pins, stanzas)):
                lost.append(extra)
                editor.remove(extra)
    path = "/etc/network/interfaces"
    if editor.is_file(path):
        version = installed_version(editor, "ifupdown")
        # Without an ifupdown (busybox, ifupdown2) plain names are what every reader understands.
        patterns = version and version_key(version) >= version_key(_IFUPDOWN_PATTERNS)
        editor.write(path, _template(templates, "interfaces" if patterns else "interfaces.plain"))
    return lost


def _stanzas(text: str) -> list[list[list[str]]]:
    """The words of every line, stanza by stanza: interfaces(5)."""
    found: list[list[list[str]]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if _STANZA.match(words[0]) or not found:
            found.append([])
        found[-1].append(words)
    return found


def _is_of_card(stanza: list[list[str]]) -> bool:
    head = stanza[0]
    if head[0] in ("iface", "mapping", "auto") or head[0].startswith("allow-"):
        names = head[1:2] if head[0] == "iface" else head[1:]
        return any(is_ethernet(name.partition(":")[0].partition("=")[0]) for name in names)
    return head[0] == "rename"


def _stanza_pins(stanza: list[list[str]]) -> bool:
    if any(words[:2] in (["bridge_ports", "none"], ["bridge-ports", "none"]) for words in stanza):
        return False  # a network inside the instance
    return any(
        (not _DNS.fullmatch(words[0]) and pins(" ".join(words[1:])))
        or (_PORTS.fullmatch(words[0]) and any(map(is_ethernet, words[1:])))
        for words in stanza[1:]
    )


def _netplan(editor: Editor, templates: Path) -> None:
    # Copies that netplan does not read hold the same addresses.
    names = [n for n in editor.names("/etc/netplan") if re.search(r"\.ya?ml(?:\W|$)", n)]
    active = [n for n in names if n.endswith((".yaml", ".yml"))]
    texts = [editor.text(f"/etc/netplan/{name}") for name in active]
    managed = any(re.search(r"^\s*renderer:\s*NetworkManager", text, re.M) for text in texts)
    for name in names:
        if name != "01-wired.yaml":
            editor.remove(f"/etc/netplan/{name}")
    if active:
        text = _template(templates, "netplan-manager.yaml" if managed else "netplan.yaml")
        editor.write("/etc/netplan/01-wired.yaml", text, 0o600)


def _others(editor: Editor) -> None:
    """wicked's own files, connman's, Gentoo's, Arch's and Slackware's."""
    for directory, pattern in (
        ("/etc/wicked/ifconfig", r".*\.xml"),
        ("/var/lib/connman", r".*\.config"),
    ):
        for name in editor.names(directory):
            path = f"{directory}/{name}"
            if re.fullmatch(pattern, name) and pins(editor.text(path)):
                editor.remove(path)
    editor.update(
        "/etc/conf.d/net",
        lambda text: _NETIFRC.sub(lambda match: "" if pins(match[0]) else match[0], text),
    )
    for name in editor.names("/etc/netctl"):
        if editor.is_file(f"/etc/netctl/{name}"):
            editor.update(f"/etc/netctl/{name}", _general_netctl)
    editor.update("/etc/rc.d/rc.inet1.conf", _general_inet1)
    for path in ("/etc/iftab", "/etc/mactab", "/etc/sysconfig/hwconf"):
        editor.remove(path)


def _general_netctl(text: str) -> str:
    if not names_site(text):
        return text
    text = re.sub(r"^(IP6?)=[\"']?static[\"']?", r"\1=dhcp", text, flags=re.M)
    return re.sub(
        r"^(?:Address6?|Gateway6?|Routes6?|DNS\w*)=(?:\([^)]*\)|[^\n]*)\n?", "", text, flags=re.M
    )


def _general_inet1(text: str) -> str:
    if not names_site(text):
        return text
    text = re.sub(
        r"^((?:IP6?ADDRS?|NETMASK|GATEWAY6?)(?:\[\d+\])?)=.*$", r'\1=""', text, flags=re.M
    )
    return re.sub(r"^(USE_DHCP\[0\])=.*$", r'\1="yes"', text, flags=re.M)


def _udev(editor: Editor) -> None:
    """Persistent names go; what masks udev's generator of such rules is no rule and stays."""
    for name in editor.names(_UDEV):
        path = f"{_UDEV}/{name}"
        status = editor.guest.stat(path)
        if re.fullmatch(r".*(?:persistent[-_]net|persistent[-_]cd|net_persistent).*\.rules", name):
            mask = not _UDEV_RULE.search(editor.text(path)) and (
                (status is not None and status.kind == "symlink") or "generator" in name
            )
            if not mask:
                editor.remove(path)
        elif name.endswith(".rules") and status is not None and status.kind == "file":
            editor.update(path, _without_names)


def _without_names(text: str) -> str:
    """udev rules without those that name a network card by its address or place."""
    whole = re.sub(r"\\\n\s*", " ", text)
    lines = without_lines(
        whole,
        lambda line: (
            '"net"' in line
            and _UDEV_NAME.search(line) is not None
            and _UDEV_CARD.search(line) is not None
        ),
    )
    return lines if lines != whole else text


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
            "instance: remove it in the kickstart's %post unless that is meant"
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


def installed_version(editor: Editor, package: str) -> str:
    """The version of a Debian package by dpkg's status file; "" if it is not installed."""
    status = editor.text("/var/lib/dpkg/status", _MAX_STATUS)
    stanza = re.search(rf"^Package: {re.escape(package)}\n(?:[^\n]+\n)*", status, re.M)
    version = re.search(r"^Version: (?:\d+:)?(\S+)$", stanza[0], re.M) if stanza else None
    return version[1] if version else ""
