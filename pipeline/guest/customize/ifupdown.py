"""Debian's /etc/network/interfaces: DHCP on every Ethernet interface.

Sources: interfaces(5); ifupdown's units, of which ifupdown-pre.service runs `udevadm settle` only
if `ifquery --list` names an interface (a pattern names none before the interface is there).
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.versions import version_key
from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.addresses import is_ethernet, pins
from pipeline.guest.customize.systemd_units import Units
from pipeline.guest.inventory.packages import dpkg_status

_IFUPDOWN_PATTERNS = "0.8.20"  # "auto" takes patterns from here on; Debian 9 has 0.8.19
_UNIT = "networking.service"
_DROP_IN = f"/etc/systemd/system/{_UNIT}.d/settle.conf"
_STANZA = re.compile(r"(?:iface|auto|allow-\S+|mapping|rename|template|source\S*|no-\S+)\b")
# Options of an iface stanza that may hold an address without tying the image to a site.
_DNS = re.compile(r"dns-\S+")
_PORTS = re.compile(r"(?:bridge[-_]ports|bond[-_]slaves|slaves|vlan[-_]raw[-_]device)")
_MAX_STATUS = 64 << 20  # bytes; a desktop's dpkg status has 5 MB


def general_interfaces(editor: Editor, templates: Path) -> list[str]:
    """Replace interfaces, and of interfaces.d remove what is of a card or pins.

    templates: the directory of the network templates. Returns the paths of what was removed of
    other than Ethernet interfaces.
    """
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
        if any(map(_is_of_virtual, _stanzas(editor.text(path)))):
            lost.append(path)
        version = installed_version(editor, "ifupdown")
        # Without an ifupdown (busybox, ifupdown2) plain names are what every reader understands.
        patterns = version and version_key(version) >= version_key(_IFUPDOWN_PATTERNS)
        editor.write(
            path, (templates / ("interfaces" if patterns else "interfaces.plain")).read_text()
        )
        if patterns and Units(editor).path(_UNIT):
            editor.write(_DROP_IN, (templates / "settle.conf").read_text())
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


def _is_of_virtual(stanza: list[list[str]]) -> bool:
    """Whether it is of an interface that the new file does not have."""
    head = stanza[0]
    return (
        head[0] == "iface"
        and len(head) > 1
        and head[1] not in ("lo", "wired")
        and not (_is_of_card(stanza))
    )


def _stanza_pins(stanza: list[list[str]]) -> bool:
    if any(words[:2] in (["bridge_ports", "none"], ["bridge-ports", "none"]) for words in stanza):
        return False  # a network inside the instance
    return any(
        (not _DNS.fullmatch(words[0]) and pins(" ".join(words[1:])))
        or (_PORTS.fullmatch(words[0]) and any(map(is_ethernet, words[1:])))
        for words in stanza[1:]
    )


def installed_version(editor: Editor, package: str) -> str:
    """The version of a Debian package by dpkg's status file; "" if it is not installed."""
    for found in dpkg_status(editor.text("/var/lib/dpkg/status", _MAX_STATUS)):
        if found.name == package:
            _, colon, version = found.version.partition(":")
            return version if colon else found.version
    return ""
