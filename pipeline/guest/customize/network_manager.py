"""NetworkManager's connections in a guest: none of one machine, a general one for Ethernet.

Source: nm-settings-keyfile(5).
"""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.addresses import (
    Setting,
    is_ethernet,
    names_hardware,
    pins,
    settings,
    without_lines,
)

_CONNECTIONS = "/etc/NetworkManager/system-connections"
_MAIN = "/etc/NetworkManager/NetworkManager.conf"
_MAIN_PARTS = "/etc/NetworkManager/conf.d"
_VENDOR = "/usr/lib/NetworkManager/system-connections"
_ETHERNET = ("ethernet", "802-3-ethernet")
_RADIO = ("wifi", "802-11-wireless", "wimax", "wpan", "olpc-mesh", "802-11-olpc-mesh")
_PINNING = re.compile(r"address(?:es)?\d*|routes?\d*|gateway|(?:cloned-)?mac-address|local|remote")
_MASTERS = ("master", "controller")


def general_connections(editor: Editor, template: str) -> list[str]:
    """Connections of one machine go; a general one is for systems told to make none themselves.

    template: the text of that one. Returns the paths of what was removed of other than Ethernet
    interfaces.
    """
    names = [n for n in editor.names(_CONNECTIONS) if n != "wired.nmconnection"]
    found = {f"{_CONNECTIONS}/{n}": settings(editor.text(f"{_CONNECTIONS}/{n}")) for n in names}
    for path in (f"{_VENDOR}/{name}" for name in editor.names(_VENDOR)):
        if _keyfile_pins(each := settings(editor.small_text(path))):
            found[path] = each
    kinds = {path: _keyfile_type(each) for path, each in found.items()}
    masters = {
        setting.value
        for path, each in found.items()
        if kinds[path] in _ETHERNET
        for setting in each
        if setting.key in _MASTERS
    }
    lost = []
    for path, each in found.items():
        own = {s.value for s in each if s.key in ("interface-name", "uuid", "id")}
        if kinds[path] in (*_ETHERNET, *_RADIO):
            editor.remove(path)
        elif _keyfile_pins(each) or own & masters:
            lost.append(path)
            editor.remove(path)
    if editor.is_directory(_CONNECTIONS):
        # NetworkManager ignores a keyfile that others than root can read.
        path = f"{_CONNECTIONS}/wired.nmconnection"
        editor.write(path, template, 0o600)
    # cloud-init's, which had written /etc/resolv.conf itself: without it nobody would.
    editor.remove("/etc/NetworkManager/conf.d/99-cloud-init.conf")
    for path in (_MAIN, *(f"{_MAIN_PARTS}/{name}" for name in editor.names(_MAIN_PARTS))):
        editor.update(path, without_cards)
    return lost


def without_cards(text: str) -> str:
    """NetworkManager.conf(5) without what it says of network cards by their addresses.

    Sections for such a card alone go as a whole; the name of each must not be left without its
    match-device, or it would be for every card.
    """
    parts = re.split(r"(?m)^(?=[ \t]*\[)", text)
    kept = "".join(part for part in parts if not _is_for_a_card(part))
    return without_lines(
        kept,
        lambda line: (
            bool(re.match(r"\s*(?:no-auto-default|unmanaged-devices)\b", line))
            and names_hardware(line)
        ),
    )


def _is_for_a_card(part: str) -> bool:
    return any(
        setting.key == "match-device" and names_hardware(setting.value)
        for setting in settings(part)
    )


def _keyfile_type(found: list[Setting]) -> str:
    """The connection's type; where it does not say, the section that only a type has."""
    for setting in found:
        if (setting.section, setting.key) == ("connection", "type"):
            return setting.value
    sections = {setting.section for setting in found}
    return next((kind for kind in (*_ETHERNET, *_RADIO) if kind in sections), "")


def _keyfile_pins(found: list[Setting]) -> bool:
    if any(setting.key == "method" and setting.value == "shared" for setting in found):
        return False  # a network inside the instance
    return any(
        (_PINNING.fullmatch(setting.key) and pins(setting.value))
        or (setting.key == "parent" and is_ethernet(setting.value))
        for setting in found
    )
