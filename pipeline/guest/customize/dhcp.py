"""DHCP clients of a guest: their leases, their identifiers, and what pins them to one machine."""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.addresses import names_site, without_lines

# Directories of leases, and which of their entries are of one machine.
_LEASES = {
    "/var/lib/dhcp": r".*\.leases?~?",
    "/var/lib/dhcp3": r".*\.leases?~?",
    "/var/lib/dhclient": r".*\.leases?~?",
    "/var/lib/dhcpcd": r".*\.lease6?|duid|secret",
    "/var/lib/dhcpcd5": r".*\.lease6?|duid|secret",
    "/var/db/dhcpcd": r".*\.lease6?|duid|secret",
    "/var/lib/dhcpv6": r".*_duid",
    "/var/lib/dibbler": r"client-.*",
    "/var/lib/wicked": r"(?:lease-.*|duid|iaid)\.xml",
    "/var/lib/systemd/network": r"dhcp-server-lease",
    "/var/lib/NetworkManager": r".*\.leases?|dhclient6?-.*\.conf|secret_key|seen-bssids|timestamps"
    r"|no-auto-default\.state|NetworkManager-intern\.conf",
    "/var/lib/connman": r"(?:ethernet|wifi|cellular|bluetooth|gadget)_.*",
}
_FILES = ("/etc/dhcpcd.duid", "/etc/dhcpcd.secret", "/etc/dhcp/duid")
_DHCLIENT_DIRECTORIES = ("/etc/dhcp", "/etc/dhcp3")
_DHCLIENT_FILES = ("/etc/dhclient.conf", "/etc/dhclient6.conf", "/etc/dhclient-eth0.conf")
# dhclient.conf(5). "send host-name = gethostname();" is of no machine.
_SENT = re.compile(
    r"^[ \t]*(?:send|supersede|default|append|prepend)\s+"
    r"(?:host-name|fqdn\.\S+|dhcp-client-identifier|dhcp6\.client-id|routers|(?:rfc\S*-)?"
    r"classless-static-routes|rfc3442-\S+|static-routes|dhcp-requested-address)\s*=?\s*"
    r"(?:\"[^\"]*\"|[0-9A-Fa-f:., \t\n]+?)\s*;[^\n]*\n?",
    re.M,
)
_BLOCK = re.compile(r"^[ \t]*(?:lease|alias)6?\s*\{[^{}]*\}[^\n]*\n?", re.M)
# dhcpcd.conf(5): "static ip_address=192.0.2.9/24", "inform 192.0.2.9", "hostname builder".
_DHCPCD = re.compile(r"\s*(?:static|inform6?|request)\s")
_DHCPCD_IDENTITY = re.compile(r"\s*(?:hostname|fqdn_name|clientid|duid)\s+\S+\s*$")


def forget_leases(editor: Editor) -> None:
    """Leases, and the identifiers by which a server knows the installed machine again."""
    for directory, pattern in _LEASES.items():
        editor.remove_matching(directory, pattern)
    for path in _FILES:
        editor.remove(path)


def general_clients(editor: Editor) -> None:
    """dhclient and dhcpcd ask for an address of any machine's, under no name."""
    for directory in _DHCLIENT_DIRECTORIES:
        for name in editor.names(directory):
            if re.fullmatch(r"dhclient6?(?:-\S+)?\.conf", name):
                editor.update(f"{directory}/{name}", general_dhclient)
    for path in _DHCLIENT_FILES:
        editor.update(path, general_dhclient)
    editor.update("/etc/dhcpcd.conf", general_dhcpcd)


def general_dhclient(text: str) -> str:
    """dhclient.conf without literal names, identifiers, routes and leases."""
    return _BLOCK.sub("", _SENT.sub("", text))


def general_dhcpcd(text: str) -> str:
    """dhcpcd.conf without static addresses, routes and servers, and without a name."""
    return without_lines(
        text,
        lambda line: bool(
            (_DHCPCD.match(line) and names_site(line))
            or (_DHCPCD_IDENTITY.match(line) and not re.match(r"\s*duid\s+(?:ll|llt|uuid)\b", line))
        ),
    )
