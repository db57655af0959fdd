"""Nothing of one network, card or interface is left in any configuration system's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.addresses import names_site, pins
from pipeline.guest.customize.dhcp import general_dhclient, general_dhcpcd
from pipeline.guest.customize.network import dhcp_everywhere
from tests.fixtures.memory_guest import MemoryGuest

TEMPLATES = PROJECT / "templates" / "network"
Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
SCRIPTS = "/etc/sysconfig/network-scripts"
SUSE = "/etc/sysconfig/network"
NETWORKD = "/etc/systemd/network"
CONNECTIONS = "/etc/NetworkManager/system-connections"
ENABLED: Tree = {
    "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service": {"link": "/x"}
}


def generalised(tree: Tree) -> tuple[MemoryGuest, Editor]:
    guest = MemoryGuest(tree)
    editor = Editor(guest)
    dhcp_everywhere(editor, Path(TEMPLATES))
    again = Editor(guest)
    dhcp_everywhere(again, Path(TEMPLATES))
    assert (again.edits, again.removed) == ([], [])
    return guest, editor


KERNEL = "192.0.2.9::192.0.2.1:255.255.255.0::eth0:none"
STATIC = "[Match]\nName=ens3\n[Network]\nAddress=192.0.2.9/24\nGateway=192.0.2.1\n"
# path -> a text that ties the image to one machine or network: the file must go.
PINNING: dict[str, str] = {
    f"{SCRIPTS}/ifcfg-ens3": "DEVICE=ens3\nBOOTPROTO=none\nIPADDR0=192.0.2.9\nPREFIX0=24\n",
    f"{SCRIPTS}/ifcfg-br0": 'TYPE=Bridge\nDEVICE=br0\nIPADDR="192.0.2.9"\nGATEWAY=192.0.2.1\n',
    f"{SCRIPTS}/ifcfg-bond0": "TYPE=Bond\nDEVICE=bond0\nIPV6ADDR=2001:db8::9/64\n",
    f"{SCRIPTS}/ifcfg-vlan7": "TYPE=Vlan\nPHYSDEV=ens3\nBOOTPROTO=dhcp\nVLAN_ID=7\n",
    f"{SCRIPTS}/ifcfg-eth0:1": "DEVICE=eth0:1\nIPADDR=192.0.2.10\n",
    f"{SCRIPTS}/ifcfg-eth0.bak": "IPADDR=192.0.2.10\n",
    f"{SCRIPTS}/route-eth0": "10.0.0.0/8 via 192.0.2.254 dev eth0\n",
    f"{SCRIPTS}/route6-eth0": "default via 2001:db8::1\n",
    f"{SCRIPTS}/rule-eth0": "from 192.0.2.9 table 5\n",
    f"{SCRIPTS}/rule6-eth0": "from 2001:db8::9 table 5\n",
    f"{SCRIPTS}/keys-wlan0": "KEY_PASSPHRASE1=secret\n",
    "/etc/sysconfig/static-routes": "any net 10.0.0.0/8 gw 192.0.2.254\n",
    "/etc/sysconfig/networking/devices/ifcfg-eth0": "IPADDR=192.0.2.9\n",
    "/etc/sysconfig/networking/profiles/default/hosts": "192.0.2.9 builder\n",
    f"{SUSE}/ifcfg-p1p1": "BOOTPROTO='static'\nIPADDR='192.0.2.9/24'\n",
    f"{SUSE}/ifcfg-eth-id-52:54:00:01:02:03": "BOOTPROTO='dhcp'\n",
    f"{SUSE}/ifcfg-br0": "BRIDGE='yes'\nBRIDGE_PORTS=''\nIPADDR_0='192.0.2.9/24'\n",
    f"{SUSE}/ifcfg-br1": "BRIDGE='yes'\nBOOTPROTO='dhcp'\nBRIDGE_PORTS='eth0'\n",
    f"{SUSE}/ifcfg-eth0.7": "ETHERDEVICE='eth0'\nBOOTPROTO='dhcp'\n",
    f"{SUSE}/routes": "default 192.0.2.1 - -\n",
    f"{SUSE}/ifroute-eth0": "10.0.0.0/8 192.0.2.254 - eth0\n",
    f"{CONNECTIONS}/ens3.nmconnection": "[connection]\ntype=ethernet\n[ipv4]\nmethod=auto\n",
    f"{CONNECTIONS}/untyped": "[connection]\nid=x\n[802-3-ethernet]\nmac-address=52:54:0:1:2:3\n",
    f"{CONNECTIONS}/bond": "[connection]\ntype=bond\n[ipv4]\nmethod=manual\n"
    "address1=192.0.2.9/24,192.0.2.1\n",
    f"{CONNECTIONS}/old": "[connection]\ntype=bridge\n[ipv4]\naddresses1=192.0.2.9;24;0.0.0.0;\n",
    f"{CONNECTIONS}/vlan": "[connection]\ntype=vlan\n[vlan]\nparent=ens3\nid=7\n",
    f"{CONNECTIONS}/route": "[connection]\ntype=team\n[ipv4]\nroute1=10.0.0.0/8,192.0.2.254\n",
    f"{CONNECTIONS}/home-wifi": "[connection]\ntype=wifi\n[wifi-security]\npsk=secret\n",
    f"{NETWORKD}/10-static.network": STATIC,
    f"{NETWORKD}/10-mac.network": "[Match]\nMACAddress = 52:54:00:01:02:03\n[Network]\nDHCP=yes\n",
    f"{NETWORKD}/10-path.link": "[Match]\nPath=pci-0000:00:03.0\n",
    f"{NETWORKD}/10-property.link": "[Match]\nProperty=ID_PATH=pci-0000:00:03.0\n",
    f"{NETWORKD}/10-name.link": "[Match]\nOriginalName=eth0\n[Link]\nName=lan0\n",
    f"{NETWORKD}/10-glob.network": "[Match]\nName=e*\n[Address]\nAddress=192.0.2.9/24\n",
    f"{NETWORKD}/10-route.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n[Route]\n"
    "Destination=10.0.0.0/8\nGateway=192.0.2.254\n",
    f"{NETWORKD}/10-split.network": "[Match]\nName=eth0\n[Network]\nAddress=\\\n192.0.2.9/24\n",
    f"{NETWORKD}/10-br0.network": "[Match]\nName=br0\n[Network]\nAddress=2001:db8::9/64\n",
    f"{NETWORKD}/10-br1.netdev": "[NetDev]\nName=br1\nKind=bridge\nMACAddress=52:54:00:01:02:03\n",
    f"{NETWORKD}/80-wired.network.d/address.conf": "[Network]\nAddress=192.0.2.9/24\n",
    "/usr/lib/systemd/network/10-static.network": STATIC,
    "/usr/local/lib/systemd/network/10-static.network": STATIC,
    "/etc/netplan/50-cloud-init.yaml": "network: {ethernets: {ens3: {addresses: [192.0.2.9/24]}}}",
    "/etc/netplan/01-netcfg.yaml.bak": "network: {ethernets: {ens3: {addresses: [192.0.2.9/24]}}}",
    "/usr/lib/netplan/10-site.yaml": "network: {ethernets: {ens3: {addresses: [192.0.2.9/24]}}}",
    "/etc/network/interfaces.d/ens3": "auto ens3\niface ens3 inet static\n address 192.0.2.9/24\n",
    "/etc/network/interfaces.d/br0":
    "iface br0 inet static\n address 192.0.2.9\n gateway 192.0.2.1\n",
    "/etc/network/interfaces.d/br1": "iface br1 inet dhcp\n  bridge_ports ens3\n",
    "/etc/network/interfaces.d/tun":
    "iface tun0 inet manual\n up ip route add 10.0.0.0/8 via 192.0.2.2\n",
    "/etc/network/interfaces.d/mac": "iface br2 inet dhcp\n  hwaddress ether 52:54:00:01:02:03\n",
    "/etc/udev/rules.d/70-persistent-net.rules": 'SUBSYSTEM=="net", NAME="eth0"\n',
    "/etc/udev/rules.d/30-net_persistent_names.rules": 'SUBSYSTEM=="net", NAME="eth0"\n',
    "/var/lib/connman/home.config": "[service_x]\nType=ethernet\nIPv4=192.0.2.9/24/192.0.2.1\n",
    "/etc/wicked/ifconfig/eth0.xml": "<ipv4:static><local>192.0.2.9/24</local></ipv4:static>",
    "/etc/iftab": "eth0 mac 52:54:00:01:02:03 arp 1\n",
    "/etc/NetworkManager/conf.d/99-cloud-init.conf": "[main]\ndns = none\n",
}  # fmt: skip

# What goes because its interface does.
WITH_THEM: dict[str, str] = {
    f"{NETWORKD}/10-br0.netdev": "[NetDev]\nName=br0\nKind=bridge\n",
    f"{NETWORKD}/10-ports.network": "[Match]\nName=en*\n[Network]\nBridge=br0\n",
}


@pytest.mark.parametrize("path", PINNING)
def test_what_pins_goes(path: str) -> None:
    guest, editor = generalised({**ENABLED, path: PINNING[path]})
    assert path not in guest.nodes
    assert path in editor.removed


def test_all_of_it_at_once_leaves_dhcp_alone() -> None:
    guest, editor = generalised({**ENABLED, **PINNING, **WITH_THEM})
    assert not any(
        pins(node.data.decode()) or b"eth0.7" in node.data
        for path, node in guest.nodes.items()
        if not path.endswith("/ifcfg-eth0")
    )
    assert guest.names(NETWORKD) == ["80-wired.network", "80-wired.network.d"]
    assert guest.names(CONNECTIONS) == ["wired.nmconnection"]
    assert guest.names("/etc/netplan") == ["01-wired.yaml"]
    assert "dhcp" in guest.text(f"{SCRIPTS}/ifcfg-eth0")
    assert "dhcp" in guest.text(f"{SUSE}/ifcfg-eth0")
    # What is more than a plain card's is named, the rest is in the account alone.
    (warning,) = (w for w in editor.warnings if "where instances need such an interface" in w)
    assert f"{SCRIPTS}/ifcfg-br0" in warning
    assert "ifcfg-ens3" not in warning


# path -> a text that is of no machine: the file must stay as it is.
GENERAL: dict[str, str] = {
    f"{SCRIPTS}/ifcfg-lo": "DEVICE=lo\nIPADDR=127.0.0.1\n",
    f"{SCRIPTS}/ifcfg-br0": "TYPE=Bridge\nDEVICE=br0\nBOOTPROTO=dhcp\n",
    f"{SUSE}/ifcfg-lo": "IPADDR=127.0.0.1/8\n",
    f"{SUSE}/ifcfg-dummy0": "DUMMY='yes'\nBOOTPROTO='none'\n",
    f"{CONNECTIONS}/vpn.nmconnection": "[connection]\ntype=vpn\n[ipv4]\nmethod=auto\n",
    f"{CONNECTIONS}/inner":
    "[connection]\ntype=bridge\n[ipv4]\nmethod=shared\naddress1=10.9.0.1/24\n",
    f"{NETWORKD}/20-tun.network": "[Match]\nName=tun0\n",
    f"{NETWORKD}/20-inner.network":
    "[Match]\nName=br7\n[Network]\nAddress=10.9.0.1/24\nDHCPServer=yes\n",
    f"{NETWORKD}/20-any.network": "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n",
    f"{NETWORKD}/20-metadata.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n[Route]\n"
    "Destination=169.254.169.254/32\nGateway=_dhcp4\n",
    f"{NETWORKD}/99-default.link": "[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=none\n",
    f"{NETWORKD}/25-br8.netdev": "[NetDev]\nName=br8\nKind=bridge\n",
    f"{NETWORKD}/25-br8.network": "[Match]\nName=br8\n[Network]\nDHCP=yes\n",
    f"{NETWORKD}/25-ports.network": "[Match]\nName=en*\n[Network]\nBridge=br8\n",
    "/usr/lib/systemd/network/73-usb-net-by-mac.link": "[Match]\nPath=*-usb-*\n[Link]\n"
    "NamePolicy=mac\n",
    f"{NETWORKD}/20-virtio.link": "[Match]\nProperty=ID_NET_DRIVER=virtio_net\n",
    "/usr/lib/systemd/network/80-container-ve.network": "[Match]\nName=ve-*\n[Network]\n"
    "Address=0.0.0.0/28\nDHCPServer=yes\n",
    "/etc/network/interfaces.d/vpn": "iface tun0 inet manual\n",
    "/etc/network/interfaces.d/lxc":
    "iface lxcbr0 inet static\n bridge_ports none\n address 10.0.3.1\n",
    "/etc/udev/rules.d/75-persistent-net-generator.rules": "# a mask\n",
    "/etc/udev/rules.d/75-cd-aliases-generator.rules": "",
    "/etc/udev/rules.d/60-net.rules": 'ACTION=="add", SUBSYSTEM=="net", RUN+="/x"\n',
    "/var/lib/connman/site.config": "[service_x]\nType=ethernet\nIPv4=dhcp\n",
}  # fmt: skip


@pytest.mark.parametrize("path", GENERAL)
def test_what_is_of_no_machine_stays(path: str) -> None:
    guest, editor = generalised({**ENABLED, **GENERAL})
    assert guest.text(path) == GENERAL[path]
    assert path not in editor.removed
    assert not any("where instances need" in warning for warning in editor.warnings)


@pytest.mark.parametrize(
    "name",
    [
        "75-persistent-net-generator.rules",
        "70-persistent-net.rules",
        "80-net-setup-link.rules",
        "75-persistent-cd-generator.rules",
    ],
)
def test_a_mask_of_udevs_rules_stays(name: str) -> None:
    path = f"/etc/udev/rules.d/{name}"
    guest, _ = generalised({path: {"link": "/dev/null"}})
    assert guest.nodes[path].target == "/dev/null"


def test_a_mask_of_networkds_stays() -> None:
    masks: Tree = {f"{NETWORKD}/99-default.link": {"link": "/dev/null"}}
    guest, _ = generalised({**ENABLED, **masks})
    assert guest.nodes[f"{NETWORKD}/99-default.link"].target == "/dev/null"


def test_a_bridge_whose_port_becomes_a_plain_interface_goes() -> None:
    guest, _ = generalised(
        {
            f"{SCRIPTS}/ifcfg-eth0": "DEVICE=eth0\nBRIDGE=br0\n",
            f"{SCRIPTS}/ifcfg-br0": "TYPE=Bridge\nDEVICE=br0\nBOOTPROTO=dhcp\n",
            f"{CONNECTIONS}/br1": "[connection]\ntype=bridge\nuuid=1-2\n[ipv4]\nmethod=auto\n",
            f"{CONNECTIONS}/port": "[connection]\ntype=ethernet\nmaster=1-2\nslave-type=bridge\n",
        }
    )
    assert guest.names(SCRIPTS) == ["ifcfg-eth0"]
    assert guest.names(CONNECTIONS) == ["wired.nmconnection"]


def test_without_networkd_other_interfaces_files_are_not_ours() -> None:
    path = f"{NETWORKD}/30-c.network"
    guest, _ = generalised({path: "[Match]\nName=ens3\n[Network]\nDHCP=yes\n"})
    assert guest.names(NETWORKD) == ["30-c.network"]


@pytest.mark.parametrize(
    ("path", "text", "becomes"),
    [
        (
            SUSE,
            "NETWORKING=yes\nHOSTNAME=b\nGATEWAY=192.0.2.1\n export GATEWAYDEV='eth0'\n"
            "IPV6_DEFAULTGW=2001:db8::1\nNOZEROCONF=yes\n",
            "NETWORKING=yes\nHOSTNAME=b\nNOZEROCONF=yes\n",
        ),
        (
            f"{SUSE}/config",
            'A="1"\nNETCONFIG_DNS_STATIC_SERVERS="192.0.2.53 192.0.2.54"\n',
            'A="1"\nNETCONFIG_DNS_STATIC_SERVERS=""\n',
        ),
        (f"{SUSE}/ifcfg-lo", "IPADDR=127.0.0.1/8\nIPADDR_2='192.0.2.8'\n", "IPADDR=127.0.0.1/8\n"),
        (
            "/etc/conf.d/net",
            'config_eth0="192.0.2.9/24\n2001:db8::9/64"\nroutes_eth0="default via 192.0.2.1"\n'
            'modules="dhcpcd"\nconfig_tun0="null"\n',
            'modules="dhcpcd"\nconfig_tun0="null"\n',
        ),
        (
            "/etc/netctl/lan",
            "Interface=eth0\nConnection=ethernet\nIP=static\nAddress=('192.0.2.9/24')\nGateway=192.0.2.1\n",
            "Interface=eth0\nConnection=ethernet\nIP=dhcp\n",
        ),
        (
            "/etc/rc.d/rc.inet1.conf",
            'IPADDR[0]="192.0.2.9"\nUSE_DHCP[0]=""\nGATEWAY="192.0.2.1"\n',
            'IPADDR[0]=""\nUSE_DHCP[0]="yes"\nGATEWAY=""\n',
        ),
        (
            "/etc/udev/rules.d/10-names.rules",
            'SUBSYSTEM=="net", \\\n ATTR{address}=="52:54:00:01:02:03", NAME="lan0"\n'
            'KERNEL=="kvm", MODE="0666"\n',
            'KERNEL=="kvm", MODE="0666"\n',
        ),
        (
            "/etc/NetworkManager/NetworkManager.conf",
            "[main]\nno-auto-default=52:54:00:01:02:03,\nplugins=keyfile\n",
            "[main]\nplugins=keyfile\n",
        ),
        (
            "/etc/NetworkManager/conf.d/10-cards.conf",
            "[device-1]\nmatch-device=mac:52:54:00:01:02:03\nmanaged=0\n"
            "[keyfile]\nunmanaged-devices=mac:52:54:00:01:02:04\n[device]\nwifi.scan=no\n",
            "[keyfile]\n[device]\nwifi.scan=no\n",
        ),
        (
            "/etc/systemd/networkd.conf",
            "[DHCPv4]\nDUIDType=vendor\nDUIDRawData=00:00:ab:11:f9:2a:c2\n",
            "[DHCPv4]\nDUIDType=vendor\n",
        ),
        (
            "/etc/systemd/networkd.conf.d/a.conf",
            "[DHCPv6]\nDUIDRawData=00:00:ab:11\n",
            "[DHCPv6]\n",
        ),
    ],
)  # fmt: skip
def test_files_that_hold_more_are_edited(path: str, text: str, becomes: str) -> None:
    guest, editor = generalised({path: text})
    assert guest.text(path) == becomes
    assert path in {edit.path for edit in editor.edits}


def test_dhclient() -> None:
    text = (
        'option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n'
        "send host-name = gethostname();\n#send host-name \"example\";\n"
        'send host-name "builder";\nsend dhcp-client-identifier 1:52:54:0:1:2:3;\n'
        "send dhcp-client-identifier = hardware;\nsupersede routers 192.0.2.1;\n"
        'lease {\n  interface "eth0";\n  fixed-address 192.0.2.9;\n}\nrequest subnet-mask;\n'
    )  # fmt: skip
    assert general_dhclient(text) == (
        "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;\n"
        'send host-name = gethostname();\n#send host-name "example";\n'
        "send dhcp-client-identifier = hardware;\nrequest subnet-mask;\n"
    )


def test_dhcpcd() -> None:
    text = (
        "hostname\nduid\npersistent\ninterface eth0\nstatic ip_address=192.0.2.9/24\n"
        "static routers=192.0.2.1\n# static ip_address=192.168.0.10/24\ninform 192.0.2.9\n"
        "static ip_address=\nhostname builder\noption rapid_commit\n"
    )
    assert general_dhcpcd(text) == (
        "hostname\nduid\npersistent\ninterface eth0\n# static ip_address=192.168.0.10/24\n"
        "static ip_address=\noption rapid_commit\n"
    )


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/etc/default/grub", f'GRUB_CMDLINE_LINUX="ip={KERNEL}"\n', "ip="),
        ("/etc/kernel/cmdline", "root=LABEL=x ifname=lan0:52:54:00:01:02:03\n", "ifname="),
        ("/etc/initramfs-tools/initramfs.conf", f"IP={KERNEL}\n", "IP="),
        ("/etc/dracut.conf.d/a.conf", 'kernel_cmdline="ip=[2001:db8::9]:::64::eth0"\n', "ip="),
        ("/boot/grub2/grubenv", "kernelopts=root=/dev/x systemd.machine_id=0123 ro\n", "_id="),
        ("/boot/loader/entries/a.conf", "options rd.iscsi.initiator=iqn.2004-10.x:1\n", "iscsi"),
        ("/etc/ssh/sshd_config", "ListenAddress 192.0.2.9\n", "sshd listen"),
        ("/etc/systemd/resolved.conf", "[Resolve]\nDNS=192.0.2.53\n", "name servers"),
        ("/etc/systemd/resolved.conf.d/a.conf", "[Resolve]\nDNS=192.0.2.53#x\n", "name servers"),
        (
            "/etc/NetworkManager/conf.d/dns.conf",
            "[global-dns-domain-*]\nservers=192.0.2.53\n",
            "name servers",
        ),
        ("/etc/dhcp/dhclient.conf", "supersede domain-name-servers 192.0.2.53;\n", "servers"),
        ("/etc/rc.local", "ip -4 route add 10.0.0.0/8 via 192.0.2.254\n", "every instance"),
        ("/etc/network/if-up.d/a", "route add -net 10.0.0.0/8 gw 192.0.2.254\n", "instance"),
    ],
)  # fmt: skip
def test_what_is_not_ours_to_edit_is_told(path: str, text: str, words: str) -> None:
    guest, editor = generalised({path: text})
    assert guest.text(path) == text
    (warning,) = editor.warnings
    assert path in warning
    assert words in warning
    assert "192.0.2" not in warning


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/default/grub", 'GRUB_CMDLINE_LINUX="ip=dhcp"\n# ip=192.0.2.9\n'),
        (
            "/etc/ssh/sshd_config",
            "#ListenAddress 0.0.0.0\nListenAddress 0.0.0.0\nListenAddress ::\n",
        ),
        ("/etc/systemd/resolved.conf", "#DNS=192.0.2.53\nFallbackDNS=192.0.2.53\nDNS=127.0.0.1\n"),
        ("/etc/rc.local", "ip route add 169.254.169.254 dev eth0\n# ip route add 10.0.0.0/8\n"),
    ],
)
def test_what_is_of_no_network_is_not_told(path: str, text: str) -> None:
    _, editor = generalised({path: text})
    assert editor.warnings == []


@pytest.mark.parametrize(
    "text", ["192.0.2.9/24", "a=10.1.2.3", "[2001:db8::9]", "fd00::1/64", "8.8.8.8;"]
)
def test_addresses_of_a_site(text: str) -> None:
    assert names_site(text)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "::1", "169.254.169.254", "fe80::1", "255.255.255.0", "0.0.0.0/0"),
        *("ff02::1", "::/0", "1.2.3", "1.2.3.4.5", "52:54:00:01:02:03", "12:30:45", "x1.2.3.4"),
        *("999.1.1.1", "_dhcp4"),
    ],
)
def test_no_addresses_of_a_site(text: str) -> None:
    assert not names_site(text)
