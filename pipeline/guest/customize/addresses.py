"""Find in a guest's configuration what belongs to one machine or one site: its addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_MAC = re.compile(r"(?<!\w)[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?!\w)")
_ETHERNET = re.compile(r"(?:e(?:n|th|m)[\w.:-]*|p\d+p\d+[\w.:-]*|lan\d+|wl[\w.:-]*|net\d+|ib\d+)")
_SECTION = re.compile(r"\[(.+)\]")
_VARIABLE = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s#]*))", re.M
)


@dataclass(frozen=True)
class Setting:
    """One line "key = value" below "[section]"; section is "" above the first one."""

    section: str
    key: str
    value: str


def names_site(text: str) -> bool:
    """Whether `text` holds an address of one site: none of loopback, link-local, multicast.

    Netmasks and 0.0.0.0 are no addresses here; prefix lengths may follow ("192.0.2.9/24").
    """
    words = [match[0] for pattern in (_IPV4, _IPV6) for match in pattern.finditer(text)]
    return any(map(_is_of_site, words))


def _is_of_site(word: str) -> bool:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        return False
    if address.version == 4 and int(address) >> 24 in (0, 255):
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


def names_hardware(text: str) -> bool:
    """Whether `text` holds an Ethernet address."""
    return _MAC.search(text) is not None


def pins(text: str) -> bool:
    """Whether `text` names one site or one network card."""
    return names_site(text) or names_hardware(text)


def is_ethernet(name: str) -> bool:
    """Whether an interface name, no pattern, is one that a kernel or udev gives to a real card."""
    return _ETHERNET.fullmatch(name) is not None


def settings(text: str) -> list[Setting]:
    """The settings of an INI file such as systemd's and NetworkManager's; keys may repeat."""
    found, section = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()  # noqa: PLW2901
        if not line or line[0] in "#;":
            continue
        if match := _SECTION.fullmatch(line):
            section = match[1]
        elif "=" in line:
            key, _, value = line.partition("=")
            found.append(Setting(section, key.strip(), value.strip()))
    return found


def variables(text: str) -> dict[str, str]:
    """The variables that a file in a shell's syntax sets, quotes taken off; the last one wins."""
    return {
        match[1]: next((group for group in match.groups()[1:] if group is not None), "")
        for match in _VARIABLE.finditer(text)
    }


def without_lines(text: str, unwanted: Callable[[str], bool]) -> str:
    """`text` without the lines that `unwanted` is true of; comments always stay."""
    kept = [
        line
        for line in text.splitlines(keepends=True)
        if line.lstrip().startswith("#") or not unwanted(line)
    ]
    return "".join(kept)


def without_comments(text: str) -> str:
    """`text` without the lines that begin with "#"."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#")
    )


def listed(paths: Iterable[str], most: int = 8) -> str:
    """Paths or names for a warning, at most `most` of them."""
    every = list(dict.fromkeys(paths))
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
