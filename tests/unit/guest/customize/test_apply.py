"""What customising does to guests of each family, on the simplest of backends."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import GuestError
from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.guest.customize.apply import Customization, customize
from pipeline.guest.customize.boot_hooks import is_shell, key_script, merged
from pipeline.guest.customize.hostname import hosts_without
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.memory_guest import MemoryGuest

TEMPLATES = PROJECT / "templates"
Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
PASSWD = "root:x:0:0:root:/root:/bin/bash\nfedora:x:1000:1001::/home/fedora:/bin/bash\n"
FEDORA_15: Tree = {
    "/sbin/init": {"link": "../bin/systemd"},
    "/bin/systemd": "",
    "/usr/bin/ssh-keygen": "",
    "/lib/systemd/system/rc-local.service": "[Service]\nExecStart=/etc/rc.d/rc.local start\n",
    "/lib/systemd/system/multi-user.target.wants/rc-local.service": {"link": "../rc-local.service"},
    "/etc/fstab": "/dev/mapper/VolGroup-lv_root / ext4 defaults 1 1\n",
    "/etc/passwd": PASSWD,
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/rc.d/rc3.d": None,
    "/etc/rc.d/init.d/sshd": "do_rsa_keygen() {\n",
    "/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=builder.example.com\n",
    "/etc/sysconfig/network-scripts/ifcfg-lo": "DEVICE=lo\n",
    "/etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nHWADDR=52:54:00:01:02:03\n",
    "/etc/sysconfig/network-scripts/ifcfg-p1p1": "DEVICE=p1p1\nUUID=x\n",
    "/etc/hosts": "127.0.0.1 builder.example.com builder localhost localhost.localdomain\n",
    "/etc/resolv.conf": "nameserver 192.168.122.1\n",
    "/etc/ssh/ssh_host_rsa_key": "secret",
    "/etc/ssh/ssh_host_rsa_key.pub": "public",
    "/etc/ssh/sshd_config": "",
    "/etc/udev/rules.d/70-persistent-net.rules": "",
    "/root/anaconda-ks.cfg": "rootpw --iscrypted x\n",
    "/root/install.log": "",
    "/var/log/anaconda/syslog": "",
    "/var/log/anaconda.log": "",
    "/var/log/messages": "",
    "/var/lib/random-seed": "seed",
    "/var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/var/lib/dhclient/dhclient-eth0.leases": "lease",
    "/etc/lvm/backup/VolGroup": "",
    "/tmp": None,
    "/etc/selinux/config": "SELINUXTYPE=targeted\n",
    "/etc/selinux/targeted/contexts/files/file_contexts": (
        "/etc(/.*)? system_u:object_r:etc_t:s0\n"
        "/etc/rc\\.d/rc\\.[^/]* -- system_u:object_r:initrc_exec_t:s0\n"
    ),
}
DEBIAN_12: Tree = {
    "/usr/sbin/init": {"link": "/lib/systemd/systemd"},
    "/sbin": {"link": "usr/sbin"},
    "/lib": {"link": "usr/lib"},
    "/usr/lib/systemd/systemd": "",
    "/usr/lib/systemd/system/rc-local.service": "[Service]\nExecStart=/etc/rc.local start\n",
    "/usr/lib/systemd/system/ssh.service": "[Service]\nExecStartPre=/usr/sbin/sshd -t\n",
    "/usr/lib/systemd/system-generators/systemd-rc-local-generator": "",
    "/usr/bin/ssh-keygen": "",
    "/etc/passwd": PASSWD,
    "/etc/fstab": "UUID=1 / ext4 errors=remount-ro 0 1\ntmpfs /tmp tmpfs nosuid 0 0\n",
    "/etc/network/interfaces": "auto lo\niface lo inet loopback\nallow-hotplug enp1s0\n",
    "/etc/network/interfaces.d/setup": "iface enp1s0 inet dhcp\n",
    "/etc/network/interfaces.d/vpn": "iface tun0 inet manual\n",
    "/var/lib/dpkg/status": (
        "Package: x\nVersion: 1\n\n"
        "Package: ifupdown\nStatus: install ok installed\nVersion: 1:0.8.41\n"
    ),
    "/etc/hostname": "builder\n",
    "/etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\tbuilder.example.com\tbuilder\n",
    "/etc/initramfs-tools/conf.d/resume": "RESUME=/dev/mapper/VolGroup-lv_swap\n",
    "/etc/resolv.conf": {"link": "../run/resolvconf/resolv.conf"},
    "/etc/ssh/ssh_host_ed25519_key": "secret",
    "/var/log/installer/syslog": "",
    "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal": "",
    "/var/lib/dbus/machine-id": {"link": "/etc/machine-id"},
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


def customized(tree: Tree, tools: Tools, user: str = "root") -> tuple[MemoryGuest, Customization]:
    guest = MemoryGuest(tree)
    return guest, customize(guest, user=user, templates=TEMPLATES, tools=tools)


def test_fedora_15(tools: Tools) -> None:
    guest, result = customized(FEDORA_15, tools)
    assert guest.facts.label == "uec-rootfs"
    assert guest.text("/etc/fstab") == "LABEL=uec-rootfs / ext4 defaults 0 0\n"
    script = guest.nodes["/etc/rc.d/rc.local"]
    assert script.status.mode == 0o755
    assert script.xattrs == {"security.selinux": b"system_u:object_r:initrc_exec_t:s0\0"}
    assert b"\nscript=/etc/rc.d/rc.local\n" in script.data
    assert guest.nodes["/etc/rc.local"].target == "rc.d/rc.local"
    assert guest.nodes["/etc/fstab"].xattrs == {"security.selinux": b"system_u:object_r:etc_t:s0\0"}
    assert result.relabel == "labelled"
    assert "/etc/systemd/system" not in guest.nodes  # it has what starts rc.local and makes keys
    assert guest.text("/etc/sysconfig/network-scripts/ifcfg-eth0").count("=dhcp") == 1
    assert "HWADDR" not in guest.text("/etc/sysconfig/network-scripts/ifcfg-eth0")
    assert "HOSTNAME=localhost.localdomain" in guest.text("/etc/sysconfig/network")
    assert guest.text("/etc/machine-id") == guest.text("/etc/resolv.conf") == ""
    for gone in (
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/ssh/ssh_host_rsa_key.pub",
        "/etc/udev/rules.d/70-persistent-net.rules",
        "/root/anaconda-ks.cfg",
        "/root/install.log",
        "/var/log/anaconda",
        "/var/log/anaconda.log",
        "/var/lib/random-seed",
        "/var/lib/dbus/machine-id",
        "/var/lib/dhclient/dhclient-eth0.leases",
        "/etc/lvm/backup/VolGroup",
        "/etc/sysconfig/network-scripts/ifcfg-p1p1",
    ):
        assert gone not in guest.nodes
        assert gone in result.removed
    for kept in ("/etc/ssh/sshd_config", "/var/log/messages"):
        assert kept in guest.nodes


def test_debian_12(tools: Tools) -> None:
    guest, result = customized(DEBIAN_12, tools)
    assert guest.text("/etc/fstab").splitlines()[1:] == ["tmpfs /tmp tmpfs nosuid 0 0"]
    assert result.kept_mounts == ("tmpfs /tmp tmpfs nosuid 0 0",)
    assert guest.nodes["/etc/rc.local"].status.mode == 0o755
    assert "auto /en*=wired" in guest.text("/etc/network/interfaces")
    assert _SETTLE not in guest.nodes  # it has no unit of ifupdown's
    assert "/etc/network/interfaces.d/setup" not in guest.nodes
    assert "/etc/network/interfaces.d/vpn" in guest.nodes
    assert guest.text("/etc/hostname") == "localhost\n"
    assert guest.text("/etc/hosts") == "127.0.0.1\tlocalhost\n"
    assert guest.text("/etc/initramfs-tools/conf.d/resume") == "RESUME=none\n"
    assert any("noresume" in warning for warning in result.warnings)
    assert guest.nodes["/etc/resolv.conf"].target == "../run/resolvconf/resolv.conf"
    assert guest.nodes["/var/lib/dbus/machine-id"].target == "/etc/machine-id"
    assert "/var/log/journal/0123456789abcdef0123456789abcdef" not in guest.nodes
    wants = "/etc/systemd/system/multi-user.target.wants"
    assert guest.nodes[f"{wants}/ssh-host-keys.service"].target == "../ssh-host-keys.service"
    assert "/etc/systemd/system/rc-local.service" not in guest.nodes
    assert result.relabel == "none"
    assert not any(node.xattrs for node in guest.nodes.values())


def test_a_ramdisk_is_to_resume_from_nothing_wherever_that_is_set(tools: Tools) -> None:
    tree = {
        **DEBIAN_12,
        "/etc/initramfs-tools/conf.d/resume": "RESUME=none\n",
        "/etc/initramfs-tools/conf.d/ours": "# swap\nRESUME=UUID=1\nMODULES=most\n",
        "/etc/initramfs-tools/initramfs.conf": "MODULES=dep\n# RESUME=\n",
    }
    guest, result = customized(tree, tools)
    assert guest.text("/etc/initramfs-tools/conf.d/ours") == "# swap\nRESUME=none\nMODULES=most\n"
    assert guest.text("/etc/initramfs-tools/initramfs.conf") == "MODULES=dep\n# RESUME=\n"
    assert [w for w in result.warnings if "noresume" in w and "conf.d/ours" in w]


def test_twice_changes_nothing_more(tools: Tools) -> None:
    for tree in (FEDORA_15, DEBIAN_12):
        guest, _ = customized(tree, tools)
        before = {path: (node.data, node.status) for path, node in guest.nodes.items()}
        result = customize(guest, user="root", templates=TEMPLATES, tools=tools)
        assert result.edits == ()
        assert result.removed == ()
        assert {path: (node.data, node.status) for path, node in guest.nodes.items()} == before


def test_systemd_without_rc_local_gets_a_unit(tools: Tools) -> None:
    tree = {
        path: content
        for path, content in DEBIAN_12.items()
        if "generator" not in path and "rc-local" not in path
    }
    guest, _ = customized(tree, tools)
    assert "ExecStart=/etc/rc.local" in guest.text("/etc/systemd/system/rc-local.service")
    link = "/etc/systemd/system/multi-user.target.wants/rc-local.service"
    assert guest.resolve(link) == "/etc/systemd/system/rc-local.service"


def test_a_unit_that_starts_another_path_is_served(tools: Tools) -> None:
    unit = "[Service]\nExecStart=/etc/rc.d/rc.local start\n"
    tree = {**DEBIAN_12, "/usr/lib/systemd/system/rc-local.service": unit}
    guest, _ = customized(tree, tools)
    assert guest.resolve("/etc/rc.d/rc.local") == "/etc/rc.local"


SYSV: Tree = {
    "/sbin/init": "",
    "/etc/passwd": PASSWD,
    **{f"/etc/rc{level}.d": None for level in range(7)},
}


def test_system_v_of_debian(tools: Tools) -> None:
    guest, _ = customized(SYSV, tools)
    assert guest.resolve("/etc/rc2.d/S99rc.local") == "/etc/init.d/rc.local"
    assert guest.nodes["/etc/init.d/rc.local"].status.mode == 0o755
    assert "/etc/rc0.d/S99rc.local" not in guest.nodes


def test_system_v_of_red_hat(tools: Tools) -> None:
    directories = {f"/etc/rc.d/rc{level}.d": None for level in range(7)}
    guest, _ = customized({"/sbin/init": "", "/etc/passwd": PASSWD, **directories}, tools)
    assert guest.resolve("/etc/rc.d/rc3.d/S99local") == "/etc/rc.d/rc.local"
    assert guest.resolve("/etc/rc.local") == "/etc/rc.d/rc.local"
    link = {"/etc/rc.d/rc3.d/S99local": {"link": "../rc.local"}}
    guest, _ = customized({"/sbin/init": "", "/etc/passwd": PASSWD, **directories, **link}, tools)
    assert "/etc/rc.d/rc5.d/S99local" not in guest.nodes  # what there is was enough


def test_upstart(tools: Tools) -> None:
    own = {"/sbin/init": "", "/sbin/initctl": "", "/etc/passwd": PASSWD}
    guest, _ = customized(own, tools)
    assert "exec /etc/rc.local" in guest.text("/etc/init/rc-local.conf")
    ubuntu: Tree = {
        **own,
        "/etc/init/rc.conf": "",
        "/etc/rc2.d/S99rc.local": {"link": "../init.d/rc.local"},
        "/etc/init.d/rc.local": "if [ -x /etc/rc.local ]; then\n",
    }
    guest, _ = customized(ubuntu, tools)
    assert "/etc/init/rc-local.conf" not in guest.nodes


def test_an_rc_local_that_leads_nowhere_is_replaced(tools: Tools) -> None:
    guest, _ = customized({**DEBIAN_12, "/etc/rc.local": {"link": "gone/rc.local"}}, tools)
    assert guest.nodes["/etc/rc.local"].status.mode == 0o755
    assert "uec-rootfs" in guest.text("/etc/rc.local")


def test_an_unknown_init_is_said(tools: Tools) -> None:
    _, result = customized({"/etc/passwd": PASSWD}, tools)
    assert any("at boot" in warning for warning in result.warnings)


def test_their_rc_local_is_kept(tools: Tools) -> None:
    tree = {**DEBIAN_12, "/etc/rc.local": "#!/bin/sh -e\n# theirs\n/usr/bin/thing\nexit 0\n"}
    guest, _ = customized(tree, tools)
    text = guest.text("/etc/rc.local")
    assert text.startswith("#!/bin/sh\n# >>> uec-rootfs\n")
    assert text.endswith("# <<< uec-rootfs\nset -e\n# theirs\n/usr/bin/thing\nexit 0\n")


def test_an_rc_local_of_another_language_is_kept_aside(tools: Tools) -> None:
    tree = {**DEBIAN_12, "/etc/rc.local": "#!/usr/bin/perl\nexit;\n"}
    guest, _ = customized(tree, tools)
    assert guest.text("/etc/rc.local.before-uec-rootfs") == "#!/usr/bin/perl\nexit;\n"
    assert guest.text("/etc/rc.local").endswith('\n/etc/rc.local.before-uec-rootfs "$@"\n')


def test_another_user_gets_the_keys(tools: Tools) -> None:
    tree = {**FEDORA_15, "/home/fedora/.ssh/authorized_keys": "theirs"}
    guest, result = customized(tree, tools, "fedora")
    assert "\nkey_user=fedora\n" in guest.text("/etc/rc.d/rc.local")
    status = guest.nodes["/home/fedora/.ssh/authorized_keys"].status
    assert (status.mode, status.uid, status.gid) == (0o600, 1000, 1001)
    assert guest.nodes["/home/fedora/.ssh"].status.mode == 0o700
    assert not any("no user" in warning for warning in result.warnings)
    _, result = customized(FEDORA_15, tools, "nobody-here")
    assert any("no user nobody-here" in warning for warning in result.warnings)


def test_passwords_that_every_instance_would_share_are_said(tools: Tools) -> None:
    shadow = "root:$6$salt$hash:1::::::\nempty::1::::::\nlocked:!$6$x:1::::::\nbin:*:1::::::\n"
    _, result = customized({**DEBIAN_12, "/etc/shadow": shadow}, tools)
    assert any(warning.startswith("root, empty can log in") for warning in result.warnings)
    _, result = customized({**DEBIAN_12, "/etc/shadow": "root:*:1::::::\n"}, tools)
    assert not any("log in" in warning for warning in result.warnings)


def test_a_volume_the_system_needs_is_an_error(tools: Tools) -> None:
    tree = {**DEBIAN_12, "/etc/fstab": "/dev/vg/var /var ext4 defaults 0 2\n"}
    with pytest.raises(GuestError, match="/var is on a volume of its own"):
        customized(tree, tools)


def test_content_that_is_left_behind_is_said(tools: Tools) -> None:
    tree = {**DEBIAN_12, "/etc/fstab": "/dev/vg/home /home ext4 defaults 0 2\n"}
    _, result = customized(tree, tools)
    assert any(warning.startswith("/home is on") for warning in result.warnings)


def test_a_policy_that_cannot_be_read_relabels_at_first_boot(tools: Tools) -> None:
    contexts = "/etc/selinux/targeted/contexts/files/file_contexts"
    for text in (b"\xff", b"/etc/(x a:b:c\n", "/etc/ü.* a:b:c\n".encode()):
        guest, result = customized({**FEDORA_15, contexts: text}, tools)
        assert result.relabel == "first-boot"
        assert guest.text("/.autorelabel") == ""
        assert any("relabels" in warning for warning in result.warnings)


def test_hostile_links_stay_in_the_guest(tools: Tools, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    tree = {**DEBIAN_12, "/etc/fstab": {"link": f"../../../..{outside}"}, f"{outside}": "guest"}
    guest, _ = customized(tree, tools)
    assert guest.text("/etc/fstab").startswith("LABEL=uec-rootfs")
    assert outside.read_text() == "host"


@pytest.mark.parametrize("target", ["passwd", "/etc/passwd", "../etc/nowhere"])
def test_an_fstab_that_is_a_link_becomes_a_file_and_what_it_led_to_stays(
    target: str, tools: Tools
) -> None:
    tree: Tree = {
        **DEBIAN_12,
        "/etc/fstab": {"link": target},
        "/etc/passwd": "root:x:0:0::/root:\n",
    }
    guest, _ = customized(tree, tools)
    assert guest.nodes["/etc/fstab"].status.kind == "file"
    assert guest.text("/etc/fstab") == "LABEL=uec-rootfs / ext4 defaults 0 0\n"
    assert guest.text("/etc/passwd").startswith("root:x:0:0")
    assert "/etc/nowhere" not in guest.nodes


def test_network_manager_and_the_others(tools: Tools) -> None:
    connections = "/etc/NetworkManager/system-connections"
    tree: Tree = {
        **SYSV,
        f"{connections}/ens3.nmconnection": "[connection]\ntype=ethernet\nuuid=1\n",
        f"{connections}/vpn.nmconnection": "[connection]\ntype=vpn\n",
        "/etc/netplan/00-installer.yaml": "network:\n  ethernets:\n    ens3: {dhcp4: true}\n",
        "/etc/systemd/network/10-a.network": "[Match]\nMACAddress=52:54:00:00:00:01\n",
        "/etc/systemd/network/20-b.network": "[Match]\nName=tun0\n",
        "/etc/systemd/network/30-c.network": "[Match]\nName=ens3\n",
        "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service": {"link": "/x"},
        "/etc/sysconfig/network/ifcfg-eth1": "",
    }
    guest, _ = customized(tree, tools)
    assert f"{connections}/ens3.nmconnection" not in guest.nodes
    assert f"{connections}/vpn.nmconnection" in guest.nodes
    assert guest.nodes[f"{connections}/wired.nmconnection"].status.mode == 0o600
    assert [p for p in guest.nodes if p.startswith("/etc/netplan/")] == [
        "/etc/netplan/01-wired.yaml"
    ]
    assert guest.names("/etc/systemd/network") == ["20-b.network", "80-wired.network"]
    assert "/etc/sysconfig/network/ifcfg-eth1" not in guest.nodes
    assert "dhcp" in guest.text("/etc/sysconfig/network/ifcfg-eth0")


_NETWORKING = "/usr/lib/systemd/system/networking.service"
_SETTLE = "/etc/systemd/system/networking.service.d/settle.conf"


@pytest.mark.parametrize(
    ("state", "version"),
    [
        ("install ok installed", "0.7.53.1"),
        ("install ok installed", "1:0.7.53.1"),
        ("deinstall ok config-files", "0.8.41"),
    ],
)
def test_an_old_ifupdown_or_none_gets_plain_names(state: str, version: str, tools: Tools) -> None:
    status = f"Package: ifupdown\nStatus: {state}\nVersion: {version}\n"
    tree = {**DEBIAN_12, "/var/lib/dpkg/status": status, _NETWORKING: ""}
    guest, _ = customized(tree, tools)
    assert "allow-hotplug eth0 ens3" in guest.text("/etc/network/interfaces")
    assert _SETTLE not in guest.nodes  # udev tells ifupdown of each name when it is there


def test_patterns_of_interfaces_wait_for_udev(tools: Tools) -> None:
    """They name none whose driver is still to be loaded: a Debian with dracut had no network."""
    guest, _ = customized({**DEBIAN_12, _NETWORKING: "[Service]\nType=oneshot\n"}, tools)
    assert "auto /en*=wired" in guest.text("/etc/network/interfaces")
    drop_in = guest.text(_SETTLE)
    assert "\nExecStartPre=-/bin/udevadm settle\n" in drop_in
    assert "systemd-udev-trigger.service" in drop_in


_TO_HOSTS = {"link": "../../../../../etc/hosts"}
_ODD: list[str | bytes | Mapping[str, str] | None] = [
    None,
    "",
    b"\xff\x00\n" * 50,
    "x" * (2 << 20),
    {"link": "/"},
    {"link": "."},
    {"link": "gone/gone"},
    _TO_HOSTS,
    {"link": "loop"},
    {"link": "/etc"},
]
_EVERY_PATH = sorted({*FEDORA_15, *DEBIAN_12, "/etc", "/root/.ssh", "/etc/rc.local", "/etc/loop"})


@settings(max_examples=60, deadline=None)
@example(FEDORA_15, dict.fromkeys(("/etc/fstab", "/etc/hostname"), _TO_HOSTS))
@example(FEDORA_15, dict.fromkeys(("/etc/rc.local", "/etc/resolv.conf"), _TO_HOSTS))
@given(
    st.sampled_from([FEDORA_15, DEBIAN_12]),
    st.dictionaries(st.sampled_from(_EVERY_PATH), st.sampled_from(_ODD), max_size=4),
)
def test_odd_guests_cost_a_guest_error_at_most(
    tree: Tree, odd: Mapping[str, str | bytes | Mapping[str, str] | None]
) -> None:
    whole = {path: content for path, content in tree.items() if path not in odd}
    for path in odd:
        whole = {p: content for p, content in whole.items() if not p.startswith(f"{path}/")}
    whole |= {p: c for p, c in odd.items() if not any(p.startswith(f"{o}/") for o in odd)}
    with Runner() as runner, tempfile.TemporaryDirectory() as scratch:
        tools = Tools(runner, QuietProgress(io.StringIO()), Path(scratch))
        try:
            guest, result = customized(whole, tools)
        except GuestError:
            return
    assert guest.facts.label == "uec-rootfs"
    assert guest.read("/etc/fstab", 1000).startswith(b"LABEL=uec-rootfs / ext4 ")
    assert any(b"# >>> uec-rootfs" in node.data for node in guest.nodes.values())
    assert all(guest.stat(path) is None for path in result.removed)


# Pure parts


def test_the_template_is_filled_in() -> None:
    template = (TEMPLATES / "rc.local").read_text()
    script = key_script(template, "debian", "/etc/rc.d/rc.local")
    assert re.findall(r"^(?:key_user|script)=.*$", script, re.M) == [
        "key_user=debian",
        "script=/etc/rc.d/rc.local",
    ]
    with pytest.raises(GuestError):
        key_script("key_user=a\nkey_user=b\nscript=c\n", "u", "/p")


@pytest.mark.parametrize(
    ("first", "shell"),
    [
        ("#!/bin/sh", True),
        ("#! /bin/bash -e", True),
        ("#!/usr/bin/dash", True),
        ("echo no first line", True),
        ("#!/usr/bin/perl", False),
        ("#!/usr/bin/python3", False),
        ("#!/bin/shiny", False),
    ],
)
def test_shells(first: str, shell: bool) -> None:
    assert is_shell(f"{first}\n") is shell


SCRIPT = "#!/bin/sh\n# >>> uec-rootfs\nours\n# <<< uec-rootfs\n"


@pytest.mark.parametrize("old", ["", "#!/bin/sh\n", "#!/bin/sh -e\n\n"])
def test_nothing_of_theirs(old: str) -> None:
    assert merged(SCRIPT, old) == SCRIPT


def test_their_shell_stays() -> None:
    text = merged(SCRIPT, "#!/bin/bash -eu\nx=(1 2)\n")
    assert text == SCRIPT.replace("/bin/sh", "/bin/bash") + "set -eu\nx=(1 2)\n"


_LINES = st.lists(
    st.sampled_from(["exit 0", "# >>> uec-rootfs", "# <<< uec-rootfs", "echo x", "", "ours"]),
    max_size=8,
)


@given(st.sampled_from(["#!/bin/sh\n", "#!/bin/sh -e\n", ""]), _LINES)
def test_merging_again_changes_nothing(first: str, lines: list[str]) -> None:
    once = merged(SCRIPT, first + "\n".join(lines))
    assert merged(SCRIPT, once) == once
    assert once.startswith(SCRIPT[:-1].partition("\n")[0])
    assert "\nours\n" in once


def test_hosts() -> None:
    text = (
        "# comment\n127.0.0.1 localhost\n::1 localhost builder\n"
        "10.0.0.5 builder.example.com builder\n10.0.0.6 other\n"
    )
    assert hosts_without(text, "builder.example.com") == (
        "# comment\n127.0.0.1 localhost\n::1\tlocalhost\n10.0.0.6 other\n"
    )
