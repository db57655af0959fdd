"""Who makes an instance's SSH host keys: what each family's units are worth at a first boot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.boot_hooks import fresh_host_keys, install_key_script
from pipeline.guest.customize.host_keys import makes_host_keys
from pipeline.guest.customize.systemd_units import Units
from tests.fixtures.memory_guest import MemoryGuest

TEMPLATES = PROJECT / "templates"
Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
LIB, ETC = "/usr/lib/systemd/system", "/etc/systemd/system"
OURS = f"{ETC}/ssh-host-keys.service"
SYSTEMD: Tree = {
    "/sbin/init": {"link": "/usr/lib/systemd/systemd"},
    "/usr/lib/systemd/systemd": "",
    "/usr/bin/ssh-keygen": "",
    "/etc/ssh/ssh_host_rsa_key": "the builder's",
    "/etc/machine-id": "",
}
SSHD = "[Unit]\nAfter=network.target {after}\n{wants}\n[Service]\nExecStart=/usr/sbin/sshd -D\n"
KEYGEN = "[Unit]\n{unit}\n[Service]\nType=oneshot\nExecStart=ssh-keygen -A\n"
DEBIAN_13: Tree = {
    **SYSTEMD,
    f"{LIB}/ssh.service": SSHD.format(after="auditd.service", wants=""),
    f"{LIB}/sshd-keygen.service": KEYGEN.format(
        unit="ConditionFirstBoot=yes\nConditionPathIsReadWrite=/etc/ssh\n"
        "ConditionPathIsSymbolicLink=!/etc/ssh\nBefore=ssh.service sshd.service sshd@.service"
    ),
    f"{ETC}/ssh.service.wants/sshd-keygen.service": {"link": f"{LIB}/sshd-keygen.service"},
    f"{ETC}/multi-user.target.wants/ssh.service": {"link": f"{LIB}/ssh.service"},
}
RED_HAT_8: Tree = {
    **SYSTEMD,
    f"{LIB}/sshd.service": SSHD.format(
        after="sshd-keygen.target", wants="Wants=sshd-keygen.target"
    ),
    f"{LIB}/sshd-keygen.target": (
        "[Unit]\nWants=sshd-keygen@rsa.service\nWants=sshd-keygen@ed25519.service\n"
        "PartOf=sshd.service\n"
    ),
    f"{LIB}/sshd-keygen@.service": (
        "[Unit]\nConditionFileNotEmpty=|!/etc/ssh/ssh_host_%i_key\n[Service]\nType=oneshot\n"
        "ExecStart=/usr/libexec/openssh/sshd-keygen %i\n"
    ),
}
RED_HAT_7: Tree = {
    **SYSTEMD,
    f"{LIB}/sshd.service": SSHD.format(
        after="sshd-keygen.service", wants="Wants=sshd-keygen.service"
    ),
    f"{LIB}/sshd-keygen.service": (
        "[Unit]\nConditionFileNotEmpty=|!/etc/ssh/ssh_host_rsa_key\n"
        "ConditionFileNotEmpty=|!/etc/ssh/ssh_host_ed25519_key\n[Service]\nType=oneshot\n"
        "ExecStart=/usr/sbin/sshd-keygen\n"
    ),
}
SUSE: Tree = {
    **SYSTEMD,
    f"{LIB}/sshd.service": "[Service]\nExecStartPre=/usr/sbin/sshd-gen-keys-start\n",
}
ARCH: Tree = {
    **SYSTEMD,
    f"{LIB}/sshd.service": SSHD.format(
        after="sshdgenkeys.service", wants="Wants=sshdgenkeys.service"
    ),
    f"{LIB}/sshdgenkeys.service": KEYGEN.format(
        unit="ConditionPathExists=|!/etc/ssh/ssh_host_ed25519_key"
    ),
}
KEYGEN_PATH = f"{LIB}/sshd-keygen.service"


def made_by_guest(tree: Tree) -> bool:
    """Whether the guest is left to make its keys by itself; asked of the edited guest too."""
    guest = MemoryGuest(tree)
    editor = Editor(guest)
    fresh_host_keys(editor, TEMPLATES)
    assert not [path for path in guest.nodes if path.startswith("/etc/ssh/ssh_host")]
    mine = OURS not in guest.nodes
    assert mine == makes_host_keys(Editor(guest), Units(Editor(guest)))
    if not mine:
        for target in ("multi-user.target", "ssh.service", "sshd.service"):
            assert guest.resolve(f"{ETC}/{target}.wants/ssh-host-keys.service") == OURS
    return mine


@pytest.mark.parametrize("tree", [RED_HAT_8, RED_HAT_7, SUSE, ARCH])
def test_families_whose_servers_get_keys_at_any_boot(tree: Tree) -> None:
    assert made_by_guest(tree)


def test_debian_13_makes_keys_at_a_first_boot_only_and_an_empty_machine_id_is_none() -> None:
    assert not made_by_guest(DEBIAN_13)


@pytest.mark.parametrize(
    ("value", "runs"), [("no", True), ("!yes", True), ("!no", False), ("true", False)]
)
def test_first_boot_conditions(value: str, runs: bool) -> None:
    unit = KEYGEN.format(unit=f"Before=ssh.service\nConditionFirstBoot={value}")
    assert made_by_guest({**DEBIAN_13, KEYGEN_PATH: unit}) is runs


def with_condition(line: str) -> Tree:
    return {**DEBIAN_13, KEYGEN_PATH: KEYGEN.format(unit=f"Before=ssh.service\n{line}")}


@pytest.mark.parametrize(
    "line",
    [
        "ConditionPathExists=!/etc/ssh/ssh_host_rsa_key",  # gone, though the builder had one
        "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key",
        "ConditionPathIsReadWrite=/etc/ssh",
        "ConditionDirectoryNotEmpty=/usr/bin",
        "ConditionPathExists=/run/x\nConditionPathExists=",  # taken back
        "ConditionPathExists=|/nowhere\nConditionPathExists=|!/nowhere",
        "ConditionVirtualization=!container",
        "# ConditionFirstBoot=yes",
    ],
)
def test_conditions_that_hold(line: str) -> None:
    assert made_by_guest(with_condition(line))


@pytest.mark.parametrize(
    "line",
    [
        "ConditionPathExists=/etc/ssh/ssh_host_rsa_key",
        "ConditionPathExists=/etc/first-boot",
        "ConditionPathExists=!/run/systemd/generator.early/x",  # cannot be told: not relied on
        "ConditionFileNotEmpty=!/etc/machine-id",  # empty in the image, not when this is asked
        "ConditionKernelCommandLine=keys",
        "AssertPathExists=/nowhere",
        "ConditionPathExists=|/nowhere\nConditionPathExists=|/run/x",
        "ConditionNeedsUpdate=/etc",
        "ConditionFirstBoot=\\\nyes",
    ],
)
def test_conditions_that_do_not_hold(line: str) -> None:
    assert not made_by_guest(with_condition(line))


def test_a_drop_in_decides() -> None:
    drop_in = f"{ETC}/sshd-keygen.service.d/always.conf"
    assert made_by_guest({**DEBIAN_13, drop_in: "[Unit]\nConditionFirstBoot=\n"})
    instances = f"{LIB}/sshd-keygen@.service.d/disable-if-cloud-init.conf"
    condition = "[Unit]\nConditionPathExists=!/run/systemd/generator.early/cloud-init.target\n"
    assert not made_by_guest({**RED_HAT_8, instances: condition})
    hidden = f"{ETC}/sshd-keygen@.service.d/disable-if-cloud-init.conf"
    assert made_by_guest({**RED_HAT_8, instances: condition, hidden: {"link": "/dev/null"}})


def test_units_that_nothing_starts_make_no_keys() -> None:
    loose = dict(with_condition(""))
    assert made_by_guest(loose)
    del loose[f"{ETC}/ssh.service.wants/sshd-keygen.service"]
    assert not made_by_guest(loose)
    enabled = {f"{ETC}/multi-user.target.wants/sshd-keygen.service": {"link": KEYGEN_PATH}}
    assert made_by_guest({**loose, **enabled})
    rescue = {f"{ETC}/rescue.target.wants/sshd-keygen.service": {"link": KEYGEN_PATH}}
    assert not made_by_guest({**loose, **rescue})


@pytest.mark.parametrize("mask", [{"link": "/dev/null"}, ""])
def test_masked_units_make_no_keys(mask: str | Mapping[str, str]) -> None:
    assert not made_by_guest({**RED_HAT_7, f"{ETC}/sshd-keygen.service": mask})
    assert not made_by_guest({**RED_HAT_8, f"{ETC}/sshd-keygen.target": mask})
    assert not made_by_guest({**ARCH, f"{ETC}/sshdgenkeys.service": mask})


def test_a_unit_that_may_come_after_the_server_is_not_enough() -> None:
    assert not made_by_guest({**DEBIAN_13, KEYGEN_PATH: KEYGEN.format(unit="")})


def test_the_init_script_counts_only_where_it_is_what_starts() -> None:
    script: Tree = {**SYSTEMD, "/etc/rc.d/init.d/sshd": "do_rsa_keygen() {\n"}
    assert made_by_guest(script)
    assert not made_by_guest({**script, f"{LIB}/sshd.service": SSHD.format(after="", wants="")})


def test_our_unit_is_started_before_no_socket() -> None:
    """Sockets come before what a unit is by default after: that order would be a cycle.

    The key script makes keys too where there are none: it must not do so at the same time.
    """
    text = (TEMPLATES / "ssh-host-keys.service").read_text()
    before = " ".join(re.findall(r"(?m)^Before=(.*)$", text)).split()
    assert before == ["ssh.service", "sshd.service", "rc-local.service"]


@pytest.mark.parametrize("before", [{}, {"/etc/machine-id": {"link": "../var/nothing"}}])
def test_a_guest_without_a_machine_id_gets_an_empty_one(before: Tree) -> None:
    """Booted with `ro`, systemd could not make the file; with `rw` it would be a first boot."""
    guest = MemoryGuest({**{p: t for p, t in SYSTEMD.items() if "machine-id" not in p}, **before})
    fresh_host_keys(Editor(guest), TEMPLATES)
    node = guest.nodes["/etc/machine-id"]
    assert (node.status.kind, node.status.mode, node.data) == ("file", 0o444, b"")


def test_certificates_go_with_their_keys_and_keys_elsewhere_are_said() -> None:
    config = "#HostKey /etc/ssh/keys/old\nHostKey /etc/ssh/ssh_host_rsa_key\n"
    guest = MemoryGuest(
        {
            **SYSTEMD,
            "/etc/ssh/ssh_host_rsa_key.pub": "",
            "/etc/ssh/ssh_host_rsa_key-cert.pub": "",
            "/etc/ssh/ssh_known_hosts": "",
            "/etc/ssh/keys/old": "",
            "/etc/ssh/keys/rsa": "shared",
            "/etc/ssh/sshd_config": config,
            "/etc/ssh/sshd_config.d/50-keys.conf": 'hostkey "/etc/ssh/keys/rsa"\n',
        }
    )
    editor = Editor(guest)
    fresh_host_keys(editor, TEMPLATES)
    assert [name for name in guest.names("/etc/ssh") if "host" in name] == ["ssh_known_hosts"]
    (warning,) = editor.warnings
    assert "host key /etc/ssh/keys/rsa, which /etc/ssh/sshd_config.d/50-keys.conf" in warning


DROPBEAR = '[Service]\nExecStart=/usr/sbin/dropbear -EF -p "$DROPBEAR_PORT" $DROPBEAR_EXTRA_ARGS\n'


@pytest.mark.parametrize(
    ("unit", "defaults", "ours"),
    [
        (DROPBEAR, "", True),
        (DROPBEAR, '# DROPBEAR_EXTRA_ARGS="-R"\nDROPBEAR_EXTRA_ARGS="-s"\n', True),
        (DROPBEAR, 'DROPBEAR_EXTRA_ARGS="-sR"\n', False),
        ("[Service]\nExecStart=/usr/sbin/dropbear -R -E\n", "", False),
        ("[Service]\nExecStartPre=/bin/dropbearkey -t rsa -f x\nExecStart=/y\n", "", False),
        ("", "", False),  # masked
    ],
)
def test_dropbear_of_debian_makes_no_keys(unit: str, defaults: str, ours: bool) -> None:
    guest = MemoryGuest(
        {
            **SYSTEMD,
            "/usr/bin/dropbearkey": "",
            f"{LIB}/dropbear.service": unit,
            "/etc/default/dropbear": defaults,
            "/etc/dropbear/dropbear_rsa_host_key": "the builder's",
        }
    )
    fresh_host_keys(Editor(guest), TEMPLATES)
    assert "/etc/dropbear/dropbear_rsa_host_key" not in guest.nodes
    assert (f"{ETC}/dropbear-host-keys.service" in guest.nodes) is ours
    if ours:
        link = f"{ETC}/dropbear.service.wants/dropbear-host-keys.service"
        assert guest.nodes[link].target == "../dropbear-host-keys.service"


RC_LOCAL = "[Service]\nExecStart=/etc/rc.local start\n"
GENERATOR = "/usr/lib/systemd/system-generators/systemd-rc-local-generator"


@pytest.mark.parametrize("mask", [{"link": "/dev/null"}, ""])
def test_a_masked_rc_local_is_started_all_the_same_and_said(
    mask: str | Mapping[str, str], tmp_path: Path
) -> None:
    unit = f"{ETC}/rc-local.service"
    tree = {**SYSTEMD, f"{LIB}/rc-local.service": RC_LOCAL, GENERATOR: "", "/dev/null": ""}
    editor = Editor(MemoryGuest({**tree, unit: mask}))
    install_key_script(editor, TEMPLATES, "root")
    assert "ExecStart=/etc/rc.local" in editor.text(unit)
    assert editor.guest.stat("/dev/null") == MemoryGuest(tree).stat("/dev/null")
    assert editor.guest.exists(f"{ETC}/multi-user.target.wants/rc-local.service")
    assert [w for w in editor.warnings if "rc-local.service was masked" in w]
    plain = Editor(MemoryGuest(tree))
    install_key_script(plain, TEMPLATES, "root")
    assert plain.warnings == []
    assert plain.guest.stat(unit) is None
