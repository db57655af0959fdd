"""ifcfg files of Red Hat's and SUSE's systems: DHCP on eth0, nothing of the installed machine.

Old systems call the first interface eth0; NetworkManager serves other names. Sources: the
sysconfig.txt of Red Hat's initscripts, ifcfg(5), ifcfg-bridge(5) and routes(5) of SUSE's wicked.
"""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import join
from pipeline.guest.customize.addresses import (
    is_ethernet,
    names_site,
    pins,
    variables,
    without_lines,
)

_RED_HAT = "/etc/sysconfig/network-scripts"
_SUSE = "/etc/sysconfig/network"
# What system-config-network of old Red Hat systems keeps beside it, as links to the same files.
_PROFILES = "/etc/sysconfig/networking"
_OURS = "ifcfg-eth0"
_ROUTES = r"(?:route6?|rule6?|keys|ifroute|ifrule)-.*"
_PINNING = re.compile(
    r"(?:IPADDR|IPV6ADDR|IPV6_DEFAULTGW|IPV6INIT_|GATEWAY|REMOTE_IPADDR|HWADDR|MACADDR|LLADDR"
    r"|PEER_|MY_INNER_|MY_OUTER_|IPV6TUNNELIPV4|NETWORK|PTPADDR|LADDR|FIXEDIP)"
)
# Other interfaces that an interface is made of or belongs to.
_LOWER = re.compile(r"(?:PHYSDEV|ETHERDEVICE|BRIDGE_PORTS|BONDING_SLAVE\w*|TEAM_PORT_DEVICE\w*)")
_UPPER = ("BRIDGE", "MASTER", "TEAM_MASTER", "OVS_BRIDGE")
_SUSE_VIRTUAL = re.compile(
    r"(?:BRIDGE|BONDING_MASTER|ETHERDEVICE|TUNNEL\w*|TEAM_\w+|OVS_\w+|MACVLAN_DEVICE|DUMMY"
    r"|INTERFACETYPE|VXLAN\w*|PPPMODE|IPVLAN_DEVICE)"
)
# In /etc/sysconfig/network of Red Hat's systems: for every interface. HOSTNAME is elsewhere.
_GLOBAL = re.compile(
    r"\s*(?:export\s+)?(?:GATEWAY|GATEWAYDEV|IPV6_DEFAULTGW|IPV6_DEFAULTDEV|IPV6_ROUTER"
    r"|DHCP_HOSTNAME|DHCP_FQDN)\s*="
)
_STATIC_DNS = re.compile(r"^(NETCONFIG_DNS_STATIC_(?:SERVERS|SEARCHLIST))=[\"']?[^\"'\s].*$", re.M)


def general_ifcfg(editor: Editor, template: str) -> list[str]:
    """Both families. template: the text of ifcfg-eth0.

    Returns the paths of what was removed of other than Ethernet interfaces.
    """
    _forget_profiles(editor)
    gone = _red_hat(editor, template) + _suse(editor, template)
    editor.update("/etc/sysconfig/network", lambda t: without_lines(t, _is_global))
    editor.remove("/etc/sysconfig/static-routes")
    editor.remove("/etc/sysconfig/static-routes-ipv6")
    return gone


def _is_global(line: str) -> bool:
    return _GLOBAL.match(line) is not None


def _forget_profiles(editor: Editor) -> None:
    profiles = f"{_PROFILES}/profiles"
    for directory in (
        f"{_PROFILES}/devices",
        *(f"{profiles}/{name}" for name in editor.names(profiles)),
    ):
        editor.remove_matching(directory, r"ifcfg-(?!lo$).*|.*\.route|hosts|resolv\.conf|network")


def _red_hat(editor: Editor, template: str) -> list[str]:
    if not editor.is_directory(_RED_HAT):
        return []
    texts = _texts(editor, _RED_HAT)
    kinds = {name: variables(text).get("TYPE", "Ethernet") for name, text in texts.items()}
    physical = {n for n, kind in kinds.items() if kind in ("Ethernet", "Wireless", "")}
    return _replace(editor, _RED_HAT, texts, physical, template)


def _suse(editor: Editor, template: str) -> list[str]:
    if not editor.is_directory(_SUSE):
        return []
    texts = {n: text for n, text in _texts(editor, _SUSE).items() if not n.endswith(".template")}
    physical = {
        name for name, text in texts.items() if not any(map(_SUSE_VIRTUAL.match, variables(text)))
    }
    editor.remove(f"{_SUSE}/routes")
    editor.update(
        f"{_SUSE}/config", lambda text: _STATIC_DNS.sub(lambda match: f'{match[1]}=""', text)
    )
    return _replace(editor, _SUSE, texts, physical, template)


def _texts(editor: Editor, directory: str) -> dict[str, str]:
    """The ifcfg files but that of the loopback interface."""
    names = [n for n in editor.names(directory) if n.startswith("ifcfg-") and n != "ifcfg-lo"]
    return {name: editor.text(join(directory, name)) for name in names}


def _replace(
    editor: Editor, directory: str, texts: dict[str, str], physical: set[str], template: str
) -> list[str]:
    """One file for eth0; of the others those stay that name nothing of the installed machine."""
    masters = {
        words
        for name in physical
        for key, words in variables(texts[name]).items()
        if key in _UPPER and words
    }
    routes = [name for name in editor.names(directory) if re.fullmatch(_ROUTES, name)]
    routed = {name.partition("-")[2] for name in routes}
    lost = []
    for name, text in texts.items():
        interface = name.removeprefix("ifcfg-")
        if name == _OURS or name in physical:
            if name != _OURS:
                editor.remove(join(directory, name))
        elif _pinned(text) or {interface, variables(text).get("DEVICE")} & (masters | routed):
            lost.append(join(directory, name))
            editor.remove(lost[-1])
    for name in routes:
        editor.remove(join(directory, name))
    editor.update(f"{directory}/ifcfg-lo", lambda text: without_lines(text, names_site))
    editor.write(f"{directory}/{_OURS}", template)
    return lost


def _pinned(text: str) -> bool:
    return any(
        (_PINNING.match(key) and pins(value))
        or (_LOWER.fullmatch(key) and any(map(is_ethernet, value.split())))
        for key, value in variables(text).items()
    )
