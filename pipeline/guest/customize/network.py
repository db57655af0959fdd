"""Make a guest's network configuration one of no particular machine: DHCP on any interface.

One function a configuration system; each leaves alone what it does not find. The new files are
whole templates in templates/network.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.versions import version_key
from pipeline.guest.access.editor import Editor

_SYSTEMD = "/etc/systemd/system"
_IFUPDOWN_PATTERNS = "0.8.20"  # "auto" takes patterns from here on; Debian 9 has 0.8.19
_ETHERNET_STANZA = re.compile(r"^\s*(?:iface|auto|allow-\S+)\s+(?:.*\s)?(?:e(?:th|n)\S*)", re.M)
_KEYFILE_TYPE = re.compile(r"^\s*type\s*=\s*(\S+)", re.M)
_HARDWARE = re.compile(r"^\s*(?:Permanent)?MACAddress\s*=|^\s*Path\s*=", re.M)
_NM_CONNECTIONS = "/etc/NetworkManager/system-connections"
_MAX_STATUS = 64 << 20  # bytes; a desktop's dpkg status has 5 MB
_SCRIPTS = "/etc/sysconfig/network-scripts"


def dhcp_everywhere(editor: Editor, templates: Path) -> None:
    """Apply all of them. templates: the directory of the network templates."""
    _red_hat(editor, templates)
    _network_manager(editor, templates)
    _debian(editor, templates)
    _netplan(editor, templates)
    _networkd(editor, templates)
    _wicked(editor, templates)
    editor.remove_matching("/etc/udev/rules.d", r".*persistent-(?:net|cd).*\.rules")


def _template(templates: Path, name: str) -> str:
    return (templates / name).read_text()


def _red_hat(editor: Editor, templates: Path) -> None:
    """ifcfg files: one for eth0, which old systems call the first interface; none of its own
    hardware address or identity. NetworkManager serves other names (below)."""
    if not editor.is_directory(_SCRIPTS):
        return
    names = [n for n in editor.names(_SCRIPTS) if n.startswith("ifcfg-") and n != "ifcfg-lo"]
    for name in names:
        kind = re.search(r"^\s*TYPE=[\"']?(\w+)", editor.text(f"{_SCRIPTS}/{name}"), re.M)
        if name != "ifcfg-eth0" and (kind is None or kind[1] == "Ethernet"):
            editor.remove(f"{_SCRIPTS}/{name}")
    editor.write(f"{_SCRIPTS}/ifcfg-eth0", _template(templates, "ifcfg-eth0"))


def _network_manager(editor: Editor, templates: Path) -> None:
    """Connections of one machine go; a general one is for systems told to make none themselves."""
    for name in editor.names(_NM_CONNECTIONS):
        path = f"{_NM_CONNECTIONS}/{name}"
        kind = _KEYFILE_TYPE.search(editor.text(path))
        if kind and kind[1] in ("ethernet", "802-3-ethernet") and name != "wired.nmconnection":
            editor.remove(path)
    if editor.is_directory(_NM_CONNECTIONS):
        # NetworkManager ignores a keyfile that others than root can read.
        path = f"{_NM_CONNECTIONS}/wired.nmconnection"
        editor.write(path, _template(templates, "wired.nmconnection"), 0o600)
    for name in ("secret_key", "seen-bssids", "timestamps", "NetworkManager-intern.conf"):
        editor.remove(f"/var/lib/NetworkManager/{name}")


def _debian(editor: Editor, templates: Path) -> None:
    path = "/etc/network/interfaces"
    if not editor.is_file(path):
        return
    version = installed_version(editor, "ifupdown")
    # Without an ifupdown (busybox, ifupdown2) plain names are what every reader understands.
    patterns = version and version_key(version) >= version_key(_IFUPDOWN_PATTERNS)
    editor.write(path, _template(templates, "interfaces" if patterns else "interfaces.plain"))
    for name in editor.names("/etc/network/interfaces.d"):
        extra = f"/etc/network/interfaces.d/{name}"
        if editor.is_file(extra) and _ETHERNET_STANZA.search(editor.text(extra)):
            editor.remove(extra)


def _netplan(editor: Editor, templates: Path) -> None:
    names = [n for n in editor.names("/etc/netplan") if n.endswith((".yaml", ".yml"))]
    if not names:
        return
    texts = [editor.text(f"/etc/netplan/{name}") for name in names]
    managed = any(re.search(r"^\s*renderer:\s*NetworkManager", text, re.M) for text in texts)
    for name in names:
        if name != "01-wired.yaml":
            editor.remove(f"/etc/netplan/{name}")
    text = _template(templates, "netplan-manager.yaml" if managed else "netplan.yaml")
    editor.write("/etc/netplan/01-wired.yaml", text, 0o600)


def _networkd(editor: Editor, templates: Path) -> None:
    directory = "/etc/systemd/network"
    for name in editor.names(directory):
        path = f"{directory}/{name}"
        if name.endswith((".network", ".link")) and _HARDWARE.search(editor.text(path)):
            editor.remove(path)
    wants = f"{_SYSTEMD}/multi-user.target.wants/systemd-networkd.service"
    if editor.guest.stat(wants) is not None:
        for name in editor.names(directory):
            text = editor.text(f"{directory}/{name}")
            if name.endswith(".network") and re.search(r"^\s*Name\s*=\s*e\S*$", text, re.M):
                editor.remove(f"{directory}/{name}")
        editor.write(f"{directory}/80-wired.network", _template(templates, "wired.network"))


def _wicked(editor: Editor, templates: Path) -> None:
    directory = "/etc/sysconfig/network"
    if not editor.is_directory(directory):
        return
    editor.remove_matching(directory, r"ifcfg-(?:eth[1-9]\d*|en\S+|eth-id-\S+)")
    editor.write(f"{directory}/ifcfg-eth0", _template(templates, "ifcfg-eth0"))


def installed_version(editor: Editor, package: str) -> str:
    """The version of a Debian package by dpkg's status file; "" if it is not installed."""
    status = editor.text("/var/lib/dpkg/status", _MAX_STATUS)
    stanza = re.search(rf"^Package: {re.escape(package)}\n(?:[^\n]+\n)*", status, re.M)
    version = re.search(r"^Version: (?:\d+:)?(\S+)$", stanza[0], re.M) if stanza else None
    return version[1] if version else ""
