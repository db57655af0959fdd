"""qemu's command line, the boots of a check, and the script asked inside the guest."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.checks import NOVA_COMMAND_LINE, Triple, WholeDisk
from pipeline.core.errors import HostError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.fstab import Entry
from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.core.image import Acceleration
from pipeline.host.context import Tools
from pipeline.host.hypervisor import QEMU
from pipeline.host.programs import Runner
from pipeline.verify import plan, verify
from pipeline.verify.boot import quiet_enough
from pipeline.verify.boot_plan import metadata, parts
from pipeline.verify.check import firmware_variables
from pipeline.verify.machines import MACHINES
from pipeline.verify.metadata import Key, Request
from pipeline.verify.metadata_server import exchange_command
from pipeline.verify.probe import fstab_faults, read_facts, script
from pipeline.verify.qemu_command import DirectBoot, Wiring, comma, qemu_argv
from pipeline.verify.ssh import KeyRing, ssh_argv
from tests.unit.verify.test_assertions import FACTS

TRIPLE = Triple(Path("/b/m.img"), Path("/b/vmlinuz"), Path("/b/initrd"), "root=LABEL=uec-rootfs ro")
TCG = Acceleration("tcg", "tests")
KEYS = (Key("k", "ssh-rsa A k"),)


def value(argv: list[str], option: str) -> list[str]:
    return [argv[n + 1] for n, word in enumerate(argv) if word == option]


def test_a_triple_boots_as_nova_does_and_as_recorded() -> None:
    first, again, other, bare = (shlex.split(line) for line in plan(TRIPLE, TCG))
    assert value(first, "-append") == [NOVA_COMMAND_LINE] == value(again, "-append")
    assert value(other, "-append") == ["root=LABEL=uec-rootfs ro"] == value(bare, "-append")
    assert value(first, "-kernel") == ["/b/vmlinuz"]
    assert value(first, "-initrd") == ["/b/initrd"]
    assert value(first, "-uuid") == value(again, "-uuid") != value(other, "-uuid")
    assert "guestfwd" in value(first, "-netdev")[0]
    assert "guestfwd" not in value(bare, "-netdev")[0]


@pytest.mark.parametrize(
    ("properties", "devices", "root"),
    [
        ({}, ("virtio-blk-pci,drive=root",), "/dev/vda"),
        (
            {"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"},
            ("virtio-scsi-pci,id=disks", "scsi-hd,bus=disks.0,drive=root"),
            "/dev/sda",
        ),
        ({"hw_disk_bus": "scsi"}, ("lsi53c895a,", "scsi-hd,"), "/dev/sda"),
        ({"hw_disk_bus": "ide"}, ("ide-hd,bus=ide.0,drive=root",), "/dev/sda"),
        ({"hw_disk_bus": "sata"}, ("ahci,", "ide-hd,bus=disks.0"), "/dev/sda"),
        ({"hw_disk_bus": "usb"}, ("piix3-usb-uhci,", "usb-storage,"), "/dev/sda"),
        ({"hw_vif_model": "e1000"}, ("e1000,netdev=net0",), "/dev/vda"),
        (
            {"hw_machine_type": "pc-q35-9.2"},
            ("pcie-root-port,id=port1", "virtio-blk-pci,bus=port1,drive=root"),
            "/dev/vda",
        ),
        ({"hw_machine_type": "q35", "hw_disk_bus": "sata"}, ("ide-hd,bus=ide.0,",), "/dev/sda"),
    ],
)
def test_the_bus_and_the_card_that_properties_ask_for(
    properties: dict[str, str], devices: tuple[str, ...], root: str
) -> None:
    hardware = Hardware.of(properties)
    for target in (replace(TRIPLE, hardware=hardware), WholeDisk(Path("/d"), hardware=hardware)):
        for line in map(shlex.split, plan(target, TCG)):
            there = value(line, "-device")
            for device in devices:
                assert any(each.startswith(device) for each in there), (device, there)
            if devices != ("virtio-blk-pci,drive=root",) and "hw_disk_bus" in properties:
                assert not any(each.startswith("virtio-blk") for each in there)
            assert value(line, "-machine") == ["q35" if hardware.is_q35 else "pc"]
    first = shlex.split(plan(replace(TRIPLE, hardware=hardware), TCG)[0])
    assert value(first, "-append") == [f"root={root} console=tty0 console=ttyS0"]


def test_every_device_is_one_that_qemu_has() -> None:
    """qemu itself takes the line: it stops at the first device that it does not know."""
    known = subprocess.run(
        [QEMU["x86_64"], "-device", "help"], capture_output=True, text=True, check=True
    )
    there = set(re.findall(r'(?:name|alias) "([^"]+)"', known.stdout))
    for bus in ("virtio", "ide", "sata", "usb", "nvme"):
        for kind in ("pc", "q35"):
            if (bus, kind) != ("ide", "q35"):
                asked = Hardware(bus, machine_type=kind)
                assert _devices(asked) <= there
    for model in ("virtio-scsi", "lsilogic", "lsisas1068", "lsisas1078", "vmpvscsi"):
        assert _devices(Hardware("scsi", model)) <= there
    for card in ("virtio", "e1000", "e1000e", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3"):
        assert _devices(Hardware(vif_model=card)) <= there


def _devices(hardware: Hardware) -> set[str]:
    line = shlex.split(plan(replace(TRIPLE, hardware=hardware), TCG)[0])
    return {device.partition(",")[0] for device in value(line, "-device")}


@pytest.mark.parametrize("properties", [{"hw_disk_bus": "xen"}, {"hw_vif_model": "lan9118"}])
def test_hardware_that_qemu_does_not_have_is_refused(properties: dict[str, str]) -> None:
    with pytest.raises(HostError, match="hw_"):
        plan(replace(TRIPLE, hardware=Hardware.of(properties)), TCG)


def test_a_guest_reaches_only_its_metadata_and_no_fixed_port_is_used() -> None:
    for line in plan(TRIPLE, TCG):
        network = value(shlex.split(line), "-netdev")[0].split(",")
        assert "restrict=on" in network
        assert "hostfwd=tcp:127.0.0.1:0-169.254.169.15:22" in network


def test_a_disk_boots_under_each_firmware() -> None:
    first, again, other = (shlex.split(line) for line in plan(WholeDisk(Path("/d.raw")), TCG))
    assert "OVMF" not in shlex.join(first)
    assert "OVMF_CODE" in shlex.join(again)
    assert "OVMF_CODE" in shlex.join(other)
    assert "-kernel" not in first
    both = plan(WholeDisk(Path("/d.raw"), firmwares=("uefi",)), TCG)
    assert all("OVMF_CODE" in line for line in both)


ARM64 = Hardware.of({}, "aarch64")
ARM64_TRIPLE = replace(
    TRIPLE, command_line="root=LABEL=uec-rootfs ro console=tty0 console=ttyAMA0", hardware=ARM64
)


def test_aarch64_boots_as_nova_boots_it_through_the_firmware_with_the_kernel_beside_it() -> None:
    lines = [shlex.split(line) for line in plan(ARM64_TRIPLE, TCG)]
    for line in lines:
        assert line[0] == "qemu-system-aarch64"
        assert value(line, "-machine") == ["virt,gic-version=max"]
        assert value(line, "-cpu") == ["max,pauth-impdef=on"]
        flash = [drive for drive in value(line, "-drive") if "if=pflash" in drive]
        assert "readonly=on,file=/usr/share/AAVMF/AAVMF_CODE.fd" in flash[0]
        assert "AAVMF_VARS.fd" in flash[1]
        assert "readonly" not in flash[1]
        assert value(line, "-kernel") == ["/b/vmlinuz"]
        assert not {"-vga", "-smbios"} & set(line), "Nova says nothing of itself there"
        devices = {device.partition(",")[0] for device in value(line, "-device")}
        assert all(device.startswith(("virtio-", "pcie-root-port")) for device in devices)
    real = shlex.split(plan(ARM64_TRIPLE, Acceleration("kvm", "measured"))[0])
    assert value(real, "-cpu") == ["host"]


def test_init_writes_to_the_serial_port_that_the_check_reads() -> None:
    """The last console= is /dev/console, where systemd says what failed.

    Nova's own words name no port of aarch64: with them alone the kernel is heard and systemd not.
    """
    first, again, other, bare = (shlex.split(line) for line in plan(ARM64_TRIPLE, TCG))
    for line in (first, again):
        (words,) = value(line, "-append")
        assert words.startswith(NOVA_COMMAND_LINE), "what Nova gives comes first, as it is"
        assert words.split()[-1] == "console=ttyAMA0"
    for line in (other, bare):
        assert value(line, "-append") == [ARM64_TRIPLE.command_line], "what is recorded, as it is"


def test_a_disk_for_aarch64_boots_by_uefi_alone() -> None:
    disk = WholeDisk(Path("/d.raw"), hardware=ARM64)
    lines = [shlex.split(line) for line in plan(disk, TCG)]
    assert len(lines) == 3
    for line in lines:
        assert "AAVMF_CODE" in shlex.join(line)
        assert "-kernel" not in line
    assert {part.title for part in parts(disk)} == {"boots through UEFI"}
    assert not any("BIOS" in part.purpose or "bios" in part.purpose for part in parts(disk))


@pytest.mark.parametrize(
    ("bus", "devices"),
    [
        ("virtio", ("virtio-blk-pci,bus=port1",)),
        ("nvme", ("nvme,bus=port1",)),
        ("usb", ("qemu-xhci,id=disks", "usb-storage,bus=disks.0")),
        ("sata", ("ahci,id=disks", "ide-hd,bus=disks.0")),
    ],
)
def test_buses_of_aarch64(bus: str, devices: tuple[str, ...]) -> None:
    asked = Hardware.of({"hw_disk_bus": bus}, "aarch64")
    there = value(shlex.split(plan(replace(ARM64_TRIPLE, hardware=asked), TCG)[0]), "-device")
    for device in devices:
        assert any(each.startswith(device) for each in there), (device, there)


def test_aarch64_has_no_ide() -> None:
    asked = Hardware.of({"hw_disk_bus": "ide"}, "aarch64")
    with pytest.raises(HostError, match="hw_disk_bus=ide"):
        plan(replace(ARM64_TRIPLE, hardware=asked), TCG)


def test_the_metadata_service_calls_aarch64_arm64() -> None:
    one = metadata(parts(ARM64_TRIPLE)[0], KEYS, ARM64)
    assert one is not None
    path = "/latest/dynamic/instance-identity/document"
    answer = one.answer("GET", path, {})
    assert json.loads(answer.body)["architecture"] == "arm64"


def test_the_variables_of_the_firmware_are_a_private_copy_with_its_holes(tmp_path: Path) -> None:
    uefi = MACHINES["aarch64"].uefi
    if not uefi.variables.is_file():
        pytest.skip("qemu-efi-aarch64 is not installed")
    copy = firmware_variables(ARM64_TRIPLE, parts(ARM64_TRIPLE)[0], tmp_path)
    assert copy is not None
    assert copy.parent == tmp_path
    assert copy.read_bytes() == uefi.variables.read_bytes()
    assert copy.stat().st_size == 64 << 20
    assert copy.stat().st_blocks * 512 < 4 << 20
    assert firmware_variables(TRIPLE, parts(TRIPLE)[0], tmp_path) is None


def test_a_firmware_that_lacks_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MACHINES["aarch64"]
    gone = replace(machine, uefi=replace(machine.uefi, code=tmp_path / "none.fd"))
    monkeypatch.setattr("pipeline.verify.check.machine_of", lambda _: gone)
    with pytest.raises(HostError, match="apt-get install qemu-efi-aarch64"):
        firmware_variables(ARM64_TRIPLE, parts(ARM64_TRIPLE)[0], tmp_path)


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max,la57=off")])
def test_acceleration_is_never_left_to_qemu(accelerator: str, cpu: str) -> None:
    line = shlex.split(plan(TRIPLE, Acceleration(accelerator, "measured"))[0])  # type: ignore[arg-type] # a parameter of two literals
    assert value(line, "-accel") == [accelerator]
    assert ("-icount" in line) == (accelerator == "tcg")
    assert value(line, "-cpu") == [cpu]


def test_commas_cannot_add_options() -> None:
    boot = DirectBoot(Path("k"), Path("i"), "root=/dev/vda")
    wiring = Wiring("/a,readonly=on/o.qcow2", "fd=3", "fd=4", "run /x,y/z")
    argv = qemu_argv(boot, wiring, accelerator="tcg", memory_mib=512, uuid="u", mac="m")
    assert value(argv, "-drive")[0].startswith("file=/a,,readonly=on/o.qcow2,")
    assert value(argv, "-netdev")[0].endswith("-cmd:run /x,,y/z")


@given(st.text(max_size=30))
def test_a_value_never_ends_at_a_comma_of_its_own(text: str) -> None:
    # qemu ends a value at the first comma that is not doubled (QEMU manual, "Standard options").
    assert "," not in comma(text).replace(",,", "")
    assert comma(text).replace(",,", ",") == text


def test_the_exchange_command_survives_odd_paths() -> None:
    words = shlex.split(exchange_command(Path("/tmp/a b'c/s")))
    assert words[0] == sys.executable
    assert words[-1] == "/tmp/a b'c/s"
    assert "-S" in words


def test_first_boots_differ_and_metadata_follows() -> None:
    first, again, other, bare = parts(TRIPLE)
    services = [metadata(part, KEYS, USUAL_HARDWARE) for part in (first, again, other)]
    one, two, three = (service for service in services if service is not None)
    assert one.mode == two.mode == "absent"
    assert three.mode == "required"
    assert three.faults.unavailable > 0
    assert one.instance == two.instance != three.instance
    assert metadata(bare, KEYS, USUAL_HARDWARE) is None
    assert one.instance.architecture == "x86_64"


def test_a_slow_guest_is_given_longer_silences() -> None:
    def asked(*seconds: float) -> float:
        return quiet_enough([Request(s, "GET", "/", 200, False) for s in seconds])

    assert asked() == asked(5.0) == asked(5.0, 5.2, 5.4) == 2.0
    assert asked(454.0, 471.0, 492.0, 507.0) == 42.0
    assert asked(10.0, 300.0) == 60.0


def test_ssh_uses_nothing_of_the_users() -> None:
    keys = KeyRing((Path("/k/id_rsa"), Path("/k/id_ed25519")), KEYS)
    argv = ssh_argv("debian", 2022, keys, Path("/k/known"), "exec sh -s", patience=60)
    options = value(argv, "-o")
    assert value(argv, "-F") == ["none"]
    assert {"BatchMode=yes", "IdentityAgent=none", "UserKnownHostsFile=/k/known"} <= set(options)
    assert value(argv, "-i") == ["/k/id_rsa", "/k/id_ed25519"]
    assert {"ConnectTimeout=60", "ServerAliveInterval=15"} <= set(options)
    assert argv[-2:] == ["127.0.0.1", "exec sh -s"]


@pytest.mark.parametrize("shell", [["sh"], ["busybox", "sh"], ["bash", "--posix"]])
def test_the_script_runs_in_any_posix_shell_and_is_understood(
    shell: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "authorized_keys").write_text("ssh-rsa AAAA one\nssh-rsa BBBB two\n")
    (folder / "authorized_keys").chmod(0o600)
    done = subprocess.run(
        shell,
        input=script(0),
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    facts = read_facts(done.stdout)
    assert facts is not None
    assert facts.keys == ("ssh-rsa AAAA one", "ssh-rsa BBBB two")
    assert facts.modes["ssh"][0] == "drwx------"
    assert facts.modes["keys"][0] == "-rw-------"
    assert facts.root_usable > 0
    assert "/" in facts.mount_points
    assert facts.kernel
    assert facts.uid.isdigit()


def test_an_answer_cut_short_is_no_answer() -> None:
    assert read_facts("") is None
    assert read_facts("==boot-check== kernel\n6.1\n") is None
    assert read_facts("Welcome!\n==boot-check== kernel\n6.1\n==boot-check== end\n") is not None


@given(st.text())
def test_no_answer_breaks_the_reader(said: str) -> None:
    read_facts(said + "\n==boot-check== end")


def test_systemds_units_are_read_with_and_without_bullets() -> None:
    said = "==boot-check== units\ndegraded\n● broken.service loaded failed failed Broken\n"
    facts = read_facts(said + "ssh.service loaded failed failed\n==boot-check== end\n")
    assert facts is not None
    assert facts.system_state == "degraded"
    assert facts.failed_units == ("broken.service", "ssh.service")


def test_failed_mount_units_are_read_as_lines_of_fstab() -> None:
    said = (
        "==boot-check== failed_mounts\n"
        "Unit=srv-x.mount\nWhere=/srv/x\nWhat=nas:/x\nOptions=ro,_netdev\nType=nfs4\n"
        "Description=The filer\n\nUnit=data.mount\nWhat=/dev/vdb\nWhere=/data\n"
        "==boot-check== end\n"
    )
    facts = read_facts(said)
    assert facts is not None
    assert facts.failed_mounts == (
        Entry("srv-x.mount", "nas:/x", "/srv/x", "nfs4", ("ro", "_netdev")),
        Entry("data.mount", "/dev/vdb", "/data", "auto", ("",)),
    )
    assert facts.mount_titles == {"srv-x.mount": "The filer"}


def test_fstab_against_what_is_mounted() -> None:
    assert fstab_faults(FACTS) == []
    mounted = replace(FACTS, mount_points=frozenset({"/", "/srv/my\\040data"}))
    line = "/dev/vdb /srv/my\\040data/ ext4 defaults 0 2"
    assert fstab_faults(replace(mounted, fstab=line)) == []
    assert fstab_faults(replace(FACTS, fstab=line)) == [line]
    assert fstab_faults(replace(FACTS, fstab="UUID=1 none swap sw 0 0")) != []
    assert fstab_faults(replace(FACTS, fstab="nas:/srv/x /srv/x nfs4 ro,_netdev 0 0")) == []


def test_a_missing_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    with Runner() as run, pytest.raises(InputError, match="no such file"):
        verify(
            TRIPLE,
            acceleration=TCG,
            minutes_per_boot=1,
            evidence=tmp_path / "evidence",
            tools=Tools(run, QuietProgress(), tmp_path),
        )
    assert not (tmp_path / "evidence").exists()
