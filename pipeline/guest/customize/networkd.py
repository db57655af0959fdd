"""systemd-networkd's files in a guest: DHCP on every Ethernet interface, none of one machine.

Sources: systemd.network(5), systemd.link(5), systemd.netdev(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import join
from pipeline.guest.customize.addresses import (
    Setting,
    is_ethernet,
    names_hardware,
    names_site,
    settings,
    without_lines,
)

_ETC = "/etc/systemd/network"
_MAIN = "/etc/systemd/networkd.conf"
_OURS = f"{_ETC}/80-wired.network"
_ADMIN = (_ETC, "/usr/local/lib/systemd/network")
_VENDOR = ("/usr/lib/systemd/network", "/lib/systemd/network")
_WANTS = (
    "/etc/systemd/system/multi-user.target.wants",
    "/usr/lib/systemd/system/multi-user.target.wants",
    "/lib/systemd/system/multi-user.target.wants",
)
# Settings that hold an address: of one site if it is a global one.
_ADDRESSES = {
    "Network": ("Address", "Gateway"),
    "Address": ("Address", "Peer", "Broadcast"),
    "Route": ("Gateway", "Destination", "Source", "PreferredSource"),
    "RoutingPolicyRule": ("From", "To"),
    "Neighbor": ("Address",),
    "NextHop": ("Gateway",),
    "DHCPv4": ("RequestAddress",),
    "Tunnel": ("Local", "Remote"),
}
# Settings that may be of one machine; most are whatever their value.
_MACHINE = {
    "Match": ("MACAddress", "PermanentMACAddress", "Path", "Host", "Property"),
    "Link": ("MACAddress",),
    "NetDev": ("MACAddress",),
    "DHCPv4": ("Hostname", "DUIDRawData", "IAID"),
    "DHCPv6": ("DUIDRawData", "IAID"),
    "WireGuard": ("PrivateKey", "PrivateKeyFile"),
}
_MASTERS = ("Bridge", "Bond", "VRF", "VLAN", "MACVLAN", "IPVLAN")
_NO = ("", "no", "false", "0", "off", "none")


@dataclass(frozen=True)
class _File:
    path: str
    settings: list[Setting]

    def values(self, section: str, *keys: str) -> list[str]:
        """The words of every such setting."""
        return [
            word.strip("\"'")
            for each in self.settings
            if each.section == section and each.key in keys
            for word in each.value.split()
        ]

    @property
    def interfaces(self) -> list[str]:
        return self.values("Match", "Name", "OriginalName")

    @property
    def internal(self) -> bool:
        """Whether it serves a network inside the instance, whose address is no site's."""
        words = self.values("Network", "DHCPServer", "IPMasquerade")
        return any(word.lower() not in _NO for word in words)

    @property
    def pinned(self) -> bool:
        """Whether it is of one machine or one site."""
        return any(
            (each.key in _MACHINE.get(each.section, ()) and _of_a_machine(each))
            or (
                each.key in _ADDRESSES.get(each.section, ())
                and names_site(each.value)
                and not self.internal
            )
            for each in self.settings
        )


def _of_a_machine(setting: Setting) -> bool:
    if setting.key in ("MACAddress", "PermanentMACAddress", "Property"):
        return names_hardware(setting.value) or "ID_PATH=" in setting.value
    if setting.key == "Path":
        # A slot ("pci-0000:00:03.0"), not a kind of bus ("*-usb-*").
        return re.search(r"[0-9A-Fa-f]:[0-9A-Fa-f]", setting.value) is not None
    return bool(setting.value)


def general_networkd(editor: Editor, template: str) -> list[str]:
    """Remove what pins, and serve every Ethernet interface where networkd is enabled.

    template: the text of the .network file that does. Returns the paths of what was removed of
    other than Ethernet interfaces: the caller says so.
    """
    enabled = any(editor.guest.stat(f"{d}/systemd-networkd.service") is not None for d in _WANTS)
    for path in (_MAIN, *(f"{_MAIN}.d/{name}" for name in editor.names(f"{_MAIN}.d"))):
        editor.update(path, without_own_duid)
    files = [_read(editor, path) for path in _paths(editor, _ADMIN)]
    files = [each for each in files if each.path != _OURS]
    files += [each for path in _paths(editor, _VENDOR) if (each := _read(editor, path)).pinned]
    gone = _unwanted(files, enabled=enabled)
    for each in files:
        if each.path in gone:
            editor.remove(each.path)
    if enabled:
        editor.write(_OURS, template)
    return [each.path for each in files if each.path in gone and _is_virtual(each)]


def without_own_duid(text: str) -> str:
    """networkd.conf(5) without a DHCP identifier written out: networkd then makes one itself."""
    return without_lines(text, lambda line: re.match(r"\s*DUIDRawData\s*=", line) is not None)


def _unwanted(files: list[_File], *, enabled: bool) -> set[str]:
    """Paths of what goes; with an interface its device, with a master what belongs to it."""
    gone = {each.path for each in files if each.pinned}
    for each in files:
        if each.path.endswith(".link") and each.values("Link", "Name"):
            gone.add(each.path)
        if enabled and each.path.endswith(".network") and any(map(is_ethernet, each.interfaces)):
            gone.add(each.path)
    while True:
        lost = _lost_interfaces(files, gone)
        more = {
            each.path
            for each in files
            if each.path not in gone
            and (
                (each.path.endswith(".netdev") and lost.intersection(each.values("NetDev", "Name")))
                or (enabled and _serves_nobody(each, lost))
            )
        }
        if not more:
            return gone
        gone |= more


def _lost_interfaces(files: list[_File], gone: set[str]) -> set[str]:
    """Names of virtual interfaces whose .network or .netdev file goes."""
    lost = {
        name
        for each in files
        if each.path in gone and each.path.endswith(".network")
        for name in each.interfaces
    }
    lost |= {name for f in files if f.path in gone for name in f.values("NetDev", "Name")}
    return lost


def _serves_nobody(each: _File, lost: set[str]) -> bool:
    """Whether it takes all Ethernet interfaces and gives them no address."""
    if not each.path.endswith(".network") or not _is_of_ethernet(each):
        return False
    masters = set(each.values("Network", *_MASTERS))
    if masters:
        return bool(masters & lost)
    asks = each.values("Network", "DHCP", "IPv6AcceptRA") + each.values("Link", "Unmanaged")
    return all(word.lower() in _NO for word in asks)


def _is_of_ethernet(each: _File) -> bool:
    if "ether" in each.values("Match", "Type"):
        return True
    return any(
        is_ethernet(name) or name in ("*", "e*") or (name[0] == "e" and set(name) & set("*?["))
        for name in each.interfaces
        if name
    )


def _is_virtual(each: _File) -> bool:
    if each.path.endswith(".netdev"):
        return True
    return bool(each.interfaces) and not _is_of_ethernet(each)


def _paths(editor: Editor, directories: tuple[str, ...]) -> Iterator[str]:
    """Files of networkd's, those of drop-in directories too; no masks (links to /dev/null)."""
    seen = set()
    for directory in directories:
        if not editor.is_directory(directory):
            continue
        real = editor.guest.resolve(directory)
        if real in seen:
            continue
        seen.add(real)
        for name in editor.names(directory):
            path = join(directory, name)
            if name.endswith((".network", ".link", ".netdev")) and editor.is_file(path):
                yield path
            elif name.endswith((".network.d", ".link.d", ".netdev.d")):
                yield from (
                    join(path, each)
                    for each in editor.names(path)
                    if each.endswith(".conf") and editor.is_file(join(path, each))
                )


def _read(editor: Editor, path: str) -> _File:
    return _File(path, settings(editor.text(path)))
