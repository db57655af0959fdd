"""Kickstarts that cannot end in an image are told before the install, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pykickstart.version import versionMap

from pipeline.builders.installer.answers import Answers
from pipeline.core.errors import InputError
from tests.fixtures.answer_files import END, faults, rendered

TREES: dict[str, object] = {"trees": ("http://mirror/os",), "release": "RHEL9"}
URL = "url --url={{tree}}{{proxy_option}}\n"
ROOT = "zerombr\nclearpart --all --initlabel\npart / --size=2000\n"
REST = "rootpw --lock\npoweroff\n"
LVM = (
    "zerombr\nclearpart --all --initlabel\npart /boot --size=500\npart pv.1 --size=1 --grow\n"
    "volgroup vg pv.1\nlogvol / --vgname=vg --name=root --size=2000 --fstype=xfs\n"
)


def accepted(tmp_path: Path, text: str, **fields: object) -> Answers:
    return rendered(tmp_path, URL + text + REST, **(TREES | fields))


def refused(tmp_path: Path, text: str, **fields: object) -> str:
    said = faults(tmp_path, URL + text + REST, **(TREES | fields))
    assert "1 fault:" in said, said
    return said


@pytest.mark.parametrize("layout", [ROOT, LVM, "zerombr\nautopart --type=lvm\n"])
def test_what_works_is_accepted_without_a_warning(layout: str, tmp_path: Path) -> None:
    assert accepted(tmp_path, layout).warnings == ()


@pytest.mark.parametrize(
    "source",
    [
        "",
        "cdrom\n",
        "harddrive --partition=vda1 --dir=/os\n",
        "repo --name=more --baseurl=http://mirror/more\n",
    ],
)
def test_without_an_install_source(source: str, tmp_path: Path) -> None:
    said = faults(tmp_path, source + ROOT + REST, **TREES)
    assert "1 fault:" in said
    assert "install source" in said
    assert "write url --url={{tree}}{{proxy_option}}" in said


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("url --url=http://mirror/other\n", {}),
        ("nfs --server=filer --dir=/os\n", {}),
        ("liveimg --url=http://mirror/live.img\n", {}),
        ("", {"tree_argument": "inst.repo"}),
        ("", {"tree_argument": "inst.repo", "trees": ("/srv/tree", "http://mirror/os")}),
        ("", {"installer_arguments": "inst.text inst.repo=http://mirror/os"}),
        ("cdrom\n", {"installer": "stand-in"}),
    ],
)
def test_with_an_install_source(source: str, fields: dict[str, object], tmp_path: Path) -> None:
    assert rendered(tmp_path, source + ROOT + REST, **(TREES | fields)).warnings == ()


def test_a_volume_whose_passphrase_would_be_asked_for(tmp_path: Path) -> None:
    said = refused(tmp_path, ROOT + "part /home --size=9 --encrypted\n")
    assert "a.ks line 5: /home is encrypted and has no passphrase" in said


def test_a_tree_of_this_host_reaches_no_installer(tmp_path: Path) -> None:
    named: dict[str, object] = {"tree_argument": "inst.repo", "trees": ("/srv/tree",)}
    assert "install source" in faults(tmp_path, ROOT + REST, **(TREES | named))
    said = faults(tmp_path, URL + ROOT + REST, release="RHEL9", trees=("/srv/tree",))
    assert "/srv/tree, a directory of this host" in said


@pytest.mark.parametrize("disk", ["sda", "/dev/hda", "xvda", "nvme0n1", "vdb", "UUID=1234"])
@pytest.mark.parametrize(
    "line",
    [
        "part /boot --size=500 --ondisk={}",
        "part /boot --size=500 --ondrive={}",
        "clearpart --all --drives={}",
        "ignoredisk --only-use={}",
        "ignoredisk --drives={}",
        "bootloader --location=mbr --driveorder={}",
        "bootloader --location=mbr --boot-drive={}",
    ],
)
def test_other_disks(line: str, disk: str, tmp_path: Path) -> None:
    said = refused(tmp_path, ROOT + line.format(disk) + "\n")
    assert f"a.ks line 5: {line.split(maxsplit=1)[0]}" in said
    assert f"names the disk {disk}" in said
    assert "only disk is vda" in said


@pytest.mark.parametrize("disk", ["vda", "/dev/vda", "vd*", "disk/by-path/virtio-pci-0000:00:04.0"])
def test_the_machines_own_disk(disk: str, tmp_path: Path) -> None:
    lines = f"ignoredisk --only-use={disk}\nbootloader --location=mbr --boot-drive={disk}\n"
    assert accepted(tmp_path, ROOT + lines).warnings == ()


def test_the_only_disk_left_out(tmp_path: Path) -> None:
    assert "the machine's only disk" in refused(tmp_path, ROOT + "ignoredisk --drives=vda\n")


@pytest.mark.parametrize(
    "line",
    [
        "part / --onpart=vda2",
        "logvol / --vgname=vg --name=root --useexisting",
        "mount /dev/vda1 /",
    ],
)
def test_volumes_that_are_not_there(line: str, tmp_path: Path) -> None:
    assert "disk is blank" in faults(tmp_path, f"{URL}{line}\n{REST}", **TREES)
    made = "%pre\nsgdisk --new 0:0:0 /dev/vda\n%end\n"
    assert rendered(tmp_path, f"{URL}part / --onpart=vda2\n{REST}{made}", **TREES).warnings == ()
    named = rendered(tmp_path, f"{URL}part / --onpart=vda2\n{REST}%pre\nmake\n%end\n", **TREES)
    assert "must be there before the install" in " ".join(named.warnings)


@pytest.mark.parametrize("line", ["iscsi --ipaddr=192.0.2.1", "fcoe --nic=eth0"])
def test_disks_from_elsewhere(line: str, tmp_path: Path) -> None:
    assert "neither the machine nor an instance has" in refused(tmp_path, f"{ROOT}{line}\n")


ARRAY = "part raid.1 --size=1\npart raid.2 --size=1\nraid {} --device=md0 --level=1 raid.1 raid.2\n"
GROUP = "volgroup vg pv.1\nlogvol / --vgname=vg --name=root --size=1\n"
BTRFS = "part btrfs.1 --size=1\nbtrfs {} --label=all btrfs.1\n"


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("autopart --type=btrfs\n", "write --type=lvm"),
        ("autopart --type=thinp\n", "a thin volume"),
        ("autopart --type=lvm --encrypted\n", "is encrypted"),
        ("part / --fstype=btrfs --size=2000\n", "part / is btrfs"),
        ("part / --size=2000 --encrypted\n", "part / is encrypted"),
        (ARRAY.format("/"), "raid / is RAID"),
        (ARRAY.format("pv.1") + GROUP, "raid pv.1, which is RAID"),
        (LVM.replace("--fstype=xfs", "--thin --poolname=p"), "logvol / is a thin volume"),
        (
            LVM.replace("pv.1 --size=1", "pv.1 --encrypted --size=1"),
            "logvol / lies in volgroup vg, which lies in part pv.1, which is encrypted",
        ),
        (BTRFS.format("/"), "btrfs / is btrfs"),
        (BTRFS.format("none") + "btrfs / --subvol --name=root all\n", "btrfs / is btrfs"),
        (ROOT + "part /boot --fstype=btrfs --size=500\n", "part /boot is btrfs"),
    ],
)
def test_roots_that_no_image_can_be_made_of(layout: str, said: str, tmp_path: Path) -> None:
    whole = faults(tmp_path, f"{URL}zerombr\n{layout}{REST}", **(TREES | {"release": "F32"}))
    assert said in whole


@pytest.mark.parametrize(
    "line",
    [
        "ostreesetup --osname=x --remote=x --url=http://m --ref=r",
        "ostreecontainer --url=quay.io/x/y",
    ],
)
def test_deployments(line: str, tmp_path: Path) -> None:
    said = faults(tmp_path, ROOT + REST + line + "\n", **TREES)
    assert "no plain file tree" in said


@pytest.mark.parametrize(
    "point",
    ["/usr", "/usr/", "/usr/lib", "/var", "/var/lib", "/var/lib/rpm", "/etc", "/lib/modules"],
)
@pytest.mark.parametrize(
    "line", ["part {} --size=10", "logvol {} --vgname=vg --name=own --size=10 --fstype=xfs"]
)
def test_directories_that_no_system_runs_without(line: str, point: str, tmp_path: Path) -> None:
    said = refused(tmp_path, LVM + line.format(point) + "\n")
    assert f"{point.rstrip('/')} is on a volume of its own" in said


@pytest.mark.parametrize("point", ["/home", "/var/log", "/var/lib/docker", "/usr/local", "/opt"])
def test_directories_whose_content_is_lost_are_warned_of(point: str, tmp_path: Path) -> None:
    (warning,) = accepted(tmp_path, f"{ROOT}part {point} --size=10\n").warnings
    assert f"{point} is on a volume of its own" in warning
    assert warning.startswith("a.ks line 5: ")


def test_btrfs_where_the_release_has_none(tmp_path: Path) -> None:
    said = refused(tmp_path, "zerombr\npart / --fstype=btrfs --size=2000\n")
    assert "a.ks line 3: Btrfs file system is not supported; write ext4 or xfs" in said


def test_no_root_at_all(tmp_path: Path) -> None:
    said = refused(tmp_path, "zerombr\npart /boot --size=500\n")
    assert "no command makes a root volume" in said
    assert "autopart --type=lvm" in said
    assert "no root" not in faults(tmp_path, "poweroff\n")
    assert "root volume" in faults(tmp_path, "poweroff\n")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("logvol /opt --vgname=vg --name=root --size=9\n", "logical volume vg/root is given twice"),
        ("part / --size=9\n", "/ is given twice"),
        ("part pv.1 --size=9\n", "pv.1 is given twice"),
        ("volgroup vg pv.1\n", "volume group vg is given twice"),
    ],
)
def test_two_of_one_name(lines: str, said: str, tmp_path: Path) -> None:
    whole = faults(tmp_path, URL + LVM + lines + REST, **TREES)
    assert said in whole
    assert "(the other is a.ks line " in whole


def test_an_included_mount_point_may_be_given_anew(tmp_path: Path) -> None:
    (tmp_path / "base.ks").write_text(URL + ROOT + REST)
    text = "%include base.ks\npart / --size=3000\n"
    (warning,) = rendered(tmp_path, text, **TREES).warnings
    assert warning == "a.ks line 2: / is given twice: keep one (the other is base.ks line 4)"


def test_names_that_nothing_makes(tmp_path: Path) -> None:
    assert "volume group vh, which no command makes" in refused(
        tmp_path, LVM.replace("--vgname=vg", "--vgname=vh")
    )
    assert "pv.2, which no command makes" in refused(
        tmp_path, LVM.replace("volgroup vg pv.1", "volgroup vg pv.2")
    )


def test_more_than_the_disk_holds_is_warned_of(tmp_path: Path) -> None:
    for text in ("zerombr\npart / --size=9000\n", LVM.replace("2000", "9000")):
        assert "larger disk_gib" in " ".join(accepted(tmp_path, text).warnings)
        assert accepted(tmp_path, text, disk_gib=10).warnings == ()


def packages(*names: str) -> str:
    return ROOT + "%packages\n" + "".join(f"{name}\n" for name in names) + "%end\n"


@pytest.mark.parametrize(
    "names", [("-kernel",), ("@core", "-kernel*"), ("-kernel", "kernel-tools", "kernel-headers")]
)
def test_no_kernel(names: tuple[str, ...], tmp_path: Path) -> None:
    said = refused(tmp_path, packages(*names))
    assert "names no other kernel" in said
    assert "a.ks line " in said


@pytest.mark.parametrize(
    "names",
    [("kernel",), ("-kernel", "kernel-lt"), ("-kernel-firmware",), ("-kernel", "kernel-core")],
)
def test_a_kernel(names: tuple[str, ...], tmp_path: Path) -> None:
    assert accepted(tmp_path, packages(*names)).warnings == ()


def test_a_kernel_that_a_script_installs(tmp_path: Path) -> None:
    text = packages("-kernel") + "%post\ndnf -y install kernel-uek\n%end\n"
    assert accepted(tmp_path, text).warnings == ()
    gone = packages("-kernel") + "%post\nrpm -e kernel\n%end\n"
    assert "no other kernel" in refused(tmp_path, gone)


@pytest.mark.parametrize(("end", "line"), [("reboot", 5), ("halt", 5), ("reboot --eject", 5)])
def test_ends_that_are_no_power_off(end: str, line: int, tmp_path: Path) -> None:
    said = faults(tmp_path, f"{URL}{ROOT}{end}\n", **TREES)
    assert f"a.ks line {line}: it must end in poweroff" in said
    assert f"write poweroff in place of {end.split(maxsplit=1)[0]}" in said
    assert rendered(tmp_path, f"{URL}{ROOT}rootpw --lock\nshutdown\n", **TREES).warnings == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [("rescue", "rescue system"), ("ignoredisk --interactive", "--only-use=vda")],
)
def test_questions_to_nobody(line: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, f"{ROOT}{line}\n", release="RHEL7")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("firstboot --enable", "firstboot --disabled"),
        ("bootloader --location=none", "the newest is taken"),
    ],
)
def test_what_may_go_wrong_is_warned_of(line: str, said: str, tmp_path: Path) -> None:
    (warning,) = accepted(tmp_path, f"{ROOT}{line}\n").warnings
    assert said in warning


def test_a_missing_password_and_a_disk_as_it_is_are_warned_of(tmp_path: Path) -> None:
    said = rendered(tmp_path, f"{URL}{END}", **TREES).warnings
    assert len(said) == 2
    assert "write zerombr" in said[0]
    assert "rootpw --lock" in said[1]


def test_btrfs_by_default_is_warned_of(tmp_path: Path) -> None:
    text = "zerombr\nautopart\n"
    (warning,) = accepted(tmp_path, text, release="F43").warnings
    assert "write --type=lvm" in warning
    assert accepted(tmp_path, text, release="RHEL9").warnings == ()
    assert accepted(tmp_path, text, release="F32").warnings == ()


def test_scripts_that_look_for_other_disks_are_warned_of(tmp_path: Path) -> None:
    script = "%pre\n# not /dev/sdb\nparted /dev/sda mklabel gpt\n%end\n"
    (warning,) = accepted(tmp_path, ROOT + script).warnings
    assert warning.startswith("a.ks line 7: the script names the disk /dev/sda")
    looks = script.replace("parted", "test -e /dev/vda || parted")
    assert accepted(tmp_path, ROOT + looks).warnings == ()


def test_what_a_script_writes_is_not_known_yet(tmp_path: Path) -> None:
    text = "%include /tmp/disks\nrootpw --lock\npoweroff\n%pre\necho part >/tmp/disks\n%end\n"
    said = rendered(tmp_path, text, **TREES).warnings
    assert any("root volume" in warning for warning in said)
    assert any("install source" in warning for warning in said)


def test_lines_are_those_of_the_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    long = "# one\n" * 10
    (tmp_path / "parts" / "long.ks").write_text(f"{long}keyboard --bogus us\n")
    text = f"{URL}%include parts/long.ks\ntimezone --frob UTC\n{ROOT}{REST}"
    said = faults(tmp_path, text, **TREES)
    assert "2 faults:" in said
    assert "parts/long.ks line 11: " in said
    assert "a.ks line 3: unrecognized arguments: --frob" in said
    assert "following problem" not in said


def test_a_quotation_mark_left_open_has_its_line(tmp_path: Path) -> None:
    assert "a.ks line 2: No closing quotation" in faults(tmp_path, f"{URL}lang 'x\n{ROOT}", **TREES)


def test_a_key_that_is_broken_by_a_line_end(tmp_path: Path) -> None:
    text = f'{URL}{ROOT}sshkey --username=root "ssh-ed25519 AAAA\nBBBB me"\n{REST}'
    said = faults(tmp_path, text, **TREES)
    assert "a.ks line 5: " in said


def test_a_fault_does_not_bring_others_in_its_train(tmp_path: Path) -> None:
    said = refused(tmp_path, "zerombr\npart / --size=2000 --bogus\n")
    assert "--bogus" in said


def test_an_unknown_command_and_its_neighbour(tmp_path: Path) -> None:
    assert "Unknown command: bootlader, did you mean bootloader?" in refused(
        tmp_path, f"{ROOT}bootlader --location=mbr\n"
    )


@pytest.mark.parametrize("release", sorted(versionMap))
def test_every_release_that_pykickstart_knows(release: str, tmp_path: Path) -> None:
    text = (
        "url --url=http://mirror/os\nlang en_US\nrootpw --iscrypted *\nzerombr\n"
        "clearpart --all\npart /boot --size=100\npart pv.1 --size=1 --grow\nvolgroup vg pv.1\n"
        "logvol / --vgname=vg --name=root --size=1000\nfirewall --enabled\n"
        "bootloader --location=mbr\npoweroff\n%packages\n@core\n%end\n%post\necho done\n%end\n"
    )
    if release == "DEVEL":  # its name, and no handler
        assert "knows no release 'DEVEL'" in faults(tmp_path, text, release=release)
        return
    assert "echo done" in rendered(tmp_path, text, release=release).text
    broken = "rootpw secret\nuser --name=x --password=secret\nautopart\nreboot\n"
    with pytest.raises(InputError, match="clear text"):
        rendered(tmp_path, broken, release=release)
