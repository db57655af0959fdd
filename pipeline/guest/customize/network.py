"""Make a guest's network configuration one of no particular machine: DHCP on any interface.

One function a configuration system; each leaves alone what it does not find. What names an
address, a route, a network card or an interface of the installed machine goes. The new files are
whole templates in templates/network.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import listed, names_site, pins, without_lines
from pipeline.guest.customize.dhcp import general_clients
from pipeline.guest.customize.ifcfg import general_ifcfg
from pipeline.guest.customize.ifupdown import general_interfaces
from pipeline.guest.customize.network_manager import general_connections
from pipeline.guest.customize.network_warnings import warn_of_networks
from pipeline.guest.customize.networkd import general_networkd

_NETPLAN_VENDOR = ("/usr/lib/netplan", "/lib/netplan", "/usr/local/lib/netplan")
_NETPLAN_VIRTUAL = re.compile(
    r"^\s*[\"']?(?:bridges|bonds|vlans|tunnels|vrfs|dummy-devices|virtual-ethernets)[\"']?\s*:",
    re.M,
)
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


def dhcp_everywhere(editor: Editor, templates: Path) -> None:
    """Apply all of them. templates: the directory of the network templates."""
    gone = general_ifcfg(editor, _template(templates, "ifcfg-eth0"))
    gone += general_connections(editor, _template(templates, "wired.nmconnection"))
    gone += general_interfaces(editor, templates)
    gone += _netplan(editor, templates)
    gone += general_networkd(editor, _template(templates, "wired.network"))
    _others(editor)
    general_clients(editor)
    _udev(editor)
    if gone:
        editor.warnings.append(
            f"{shown(listed(gone))} named an address, a card or an interface of the installed "
            "machine and went: where instances need such an interface, make it at their boot"
        )
    warn_of_networks(editor)


def _template(templates: Path, name: str) -> str:
    return (templates / name).read_text()


def _netplan(editor: Editor, templates: Path) -> list[str]:
    # Copies that netplan does not read hold the same addresses.
    names = [n for n in editor.names("/etc/netplan") if re.search(r"\.ya?ml(?:\W|$)", n)]
    active = [n for n in names if n.endswith((".yaml", ".yml"))]
    texts = {f"/etc/netplan/{name}": editor.text(f"/etc/netplan/{name}") for name in active}
    managed = any(re.search(r"^\s*renderer:\s*NetworkManager", t, re.M) for t in texts.values())
    for name in names:
        if name != "01-wired.yaml":
            editor.remove(f"/etc/netplan/{name}")
    if active:
        text = _template(templates, "netplan-manager.yaml" if managed else "netplan.yaml")
        editor.write("/etc/netplan/01-wired.yaml", text, 0o600)
    for directory in _NETPLAN_VENDOR:
        for name in editor.names(directory):
            if pins(editor.small_text(f"{directory}/{name}")):
                editor.remove(f"{directory}/{name}")
    return [path for path, text in texts.items() if _NETPLAN_VIRTUAL.search(text)]


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
