"""The choice of root and /boot: never a guess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.convert.choose import choose_boot, choose_esp, choose_root
from pipeline.convert.fstab_devices import resolve, spec_of
from pipeline.convert.survey import Candidate, Survey, survey
from pipeline.core.errors import DiskError, InputError, PipelineError
from pipeline.disk.blocks.partition import Partition
from pipeline.disk.blocks.superblock import Superblock
from pipeline.disk.blocks.volume import Stretch, Volume
from tests.fixtures.disks.memory import MemoryDisk
from tests.fixtures.disks.trees import Folder, tree
from tests.fixtures.disks.writers import write_gpt

DISK = MemoryDisk(1 << 30)


def volume(
    name: str,
    kind: str = "ext4",
    *,
    root: bool = False,
    boot: bool = False,
    refusal: str = "",
    uuid: str = "",
    label: str = "",
    partuuid: str = "",
    partlabel: str = "",
    type_: str = "83",
) -> Candidate:
    stretch = Stretch(0, 1 << 20)
    partition = None
    if name.isdigit():
        partition = Partition(int(name), stretch, type_, partuuid, partlabel)
    superblock = Superblock(kind, uuid, label) if kind else None
    place = f"partition {name}" if partition else f"LV {name}"
    bytes_ = Volume(DISK, (stretch,), place)
    return Candidate(name, place, bytes_, superblock, partition, root, boot, refusal)


ROOT = volume("vg/root", root=True, uuid="0001")
BOOT = volume("1", boot=True, uuid="b007", label="boot me", partuuid="0A-01", partlabel="the boot")
SWAP = volume("vg/swap", "swap")


def test_the_only_root_is_chosen() -> None:
    assert choose_root(Survey((BOOT, ROOT, SWAP)), "", "disk") is ROOT


def test_two_roots_are_listed_and_not_guessed_between() -> None:
    other = volume("3", root=True)
    with pytest.raises(InputError) as caught:
        choose_root(Survey((ROOT, BOOT, other)), "", "disk")
    assert "vg/root" in caught.value.why and "3 (ext4" in caught.value.why
    assert "--root" in caught.value.next_step
    assert "1 (" not in caught.value.why
    assert choose_root(Survey((ROOT, BOOT, other)), "3", "disk") is other


def test_no_root_says_what_there_is() -> None:
    with pytest.raises(InputError, match=r"vg/swap \(swap"):
        choose_root(Survey((BOOT, SWAP)), "", "disk")
    with pytest.raises(InputError, match="it holds nothing"):
        choose_root(Survey(()), "", "disk")


def test_what_cannot_be_read_is_named_when_there_is_no_root() -> None:
    thin = volume("vg/thin", "", refusal="it is of the LVM type thin")
    thin = replace(thin, volume=Volume(DISK, (), "thin"), size=2000 << 20)
    assert thin.describe() == "vg/thin (nothing known, 2000 MiB; it is of the LVM type thin)"
    with pytest.raises(DiskError, match="LVM type thin"):
        choose_root(Survey((BOOT, thin)), "", "disk")
    assert choose_root(Survey((ROOT, thin)), "", "disk") is ROOT
    with pytest.raises(DiskError, match="LVM type thin"):
        choose_root(Survey((ROOT, thin)), "vg/thin", "disk")


def test_a_damaged_volume_is_followed_by_its_readers_advice() -> None:
    damage = DiskError("read", "disk", why="a directory is damaged", next_step="Run e2fsck -fn")
    with pytest.raises(DiskError) as caught:
        choose_root(Survey((volume("1", refusal=damage.why),), (damage,)), "", "disk")
    assert caught.value.next_step == "Run e2fsck -fn"


def test_a_disk_that_is_cut_off_is_to_be_copied_again() -> None:
    cut = volume("1", refusal="it is cut off")
    beyond = Volume(DISK, (Stretch(DISK.size - 512, 1 << 20),), "partition 1")
    with pytest.raises(DiskError, match="it is cut off") as caught:
        choose_root(Survey((replace(cut, volume=beyond),)), "", "disk")
    assert caught.value.next_step == "Copy the disk again, to its end"


def test_installation_media_are_told_as_such() -> None:
    with pytest.raises(InputError, match="installation media") as caught:
        choose_root(Survey((volume("0", "iso9660"),)), "", "disk")
    assert "iso9660" in caught.value.why


@pytest.mark.parametrize(
    ("signature", "kind", "code"),
    [
        ((0, b"hsqs"), "squashfs", 5),
        ((0x400, b"\xe2\xe1\xf5\xe0"), "erofs", 5),
        ((0x10040, b"_BHRfS_M"), "btrfs", 5),
        ((0x20000, b"\x0c\xb1\xba\0\0\0\0\0"), "ZFS pool", 5),
        ((0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")), "bcachefs", 5),
        ((3, b"EXFAT   "), "exfat", 2),
        ((0x8001, b"BEA01"), "udf", 2),
        ((0, b"\x0b\xe5\xa9\x41"), "partition table of SGI", 5),
        ((508, b"\xda\xbe"), "partition table of Sun", 5),
    ],
)
def test_a_disk_of_another_kind_is_named_as_what_it_is(
    signature: tuple[int, bytes], kind: str, code: int
) -> None:
    disk = MemoryDisk(1 << 20)
    disk.write(*signature)
    with pytest.raises(PipelineError) as caught:
        choose_root(survey(disk), "", "disk")
    assert kind in str(caught.value) and "nothing known" not in str(caught.value).partition(";")[2]
    assert caught.value.exit_code == code
    assert ("ext4 or xfs" in caught.value.next_step) is (code == 5)


def test_a_root_beside_a_partition_that_the_gpt_does_not_allow() -> None:
    """A BIOS boot partition before the first sector that the header calls usable."""
    disk = MemoryDisk(1 << 20)
    write_gpt(disk, [(34, 40, "bios"), (128, 1023, "data")], first_usable=64)
    found = survey(disk)
    assert [(c.name, bool(c.refusal)) for c in found.candidates] == [("1", True), ("2", False)]
    with pytest.raises(DiskError, match="calls usable"):
        choose_root(found, "1", "disk")


def test_an_impossible_gpt_entry_is_left_out_and_told() -> None:
    disk = MemoryDisk(1 << 20)
    write_gpt(disk, [(900, 800, "odd"), (128, 1023, "data")])
    found = survey(disk)
    assert [c.name for c in found.candidates] == ["2"]
    assert found.notes == ("Partition 1 is left out: its sectors 900 to 800 are impossible",)


def test_damage_is_told_when_there_is_no_root() -> None:
    damage = DiskError("read", "partition 2", why="it is broken")
    with pytest.raises(DiskError, match="it is broken"):
        choose_root(Survey((BOOT,), (damage,)), "", "disk")


def test_the_users_choice() -> None:
    found = Survey((BOOT, ROOT, SWAP))
    assert choose_root(found, "1", "disk") is BOOT, "the user may know better"
    with pytest.raises(InputError, match="Did you mean vg/root"):
        choose_root(found, "vg/rot", "disk")
    with pytest.raises(InputError, match="holds swap"):
        choose_root(found, "vg/swap", "disk")
    with pytest.raises(InputError, match="no known file system"):
        choose_root(Survey((volume("2", ""),)), "2", "disk")


def fstab(line: str, **boot: bytes) -> Folder:
    return {"etc": {"fstab": f"# /boot\n{line}\n/dev/x / ext4\n".encode()}, "boot": {**boot}}


@pytest.mark.parametrize(
    "spec",
    ["UUID=b007", "UUID=B007", 'UUID="b007"', "/dev/disk/by-uuid/b007", "LABEL=boot\\040me",
     "PARTUUID=0a-01", "PARTLABEL=the\\040boot", "/dev/vda1", "/dev/sda1", "/dev/xvda1",
     "/dev/nvme0n1p1"],
)  # fmt: skip
def test_boot_by_fstab(spec: str) -> None:
    found = choose_boot(Survey((ROOT, BOOT, SWAP)), ROOT, tree(fstab(f"{spec} /boot ext4")), "disk")
    assert found.candidate is BOOT and found.notes == ()


@pytest.mark.parametrize("spec", ["/dev/my-vg/b-oot", "/dev/mapper/my--vg-b--oot"])
def test_boot_on_a_logical_volume(spec: str) -> None:
    boot = volume("my-vg/b-oot")
    found = choose_boot(Survey((ROOT, boot)), ROOT, tree(fstab(f"{spec} /boot ext4")), "disk")
    assert found.candidate is boot


def test_boot_within_the_root() -> None:
    inside = tree(fstab("", **{"vmlinuz-6.1": b""}))
    assert choose_boot(Survey((ROOT, BOOT)), ROOT, inside, "disk").candidate is None


def test_boot_by_its_kernel_when_fstab_names_another_disk() -> None:
    found = choose_boot(Survey((ROOT, BOOT)), ROOT, tree(fstab("/dev/sdb1 /boot ext4")), "disk")
    assert found.candidate is BOOT
    assert "/dev/sdb1" in found.notes[0] and "looks like /boot" in found.notes[1]


def test_several_that_could_be_boot_are_listed() -> None:
    other = volume("2", boot=True)
    with pytest.raises(InputError, match="several volumes look like it"):
        choose_boot(Survey((ROOT, BOOT, other)), ROOT, tree(fstab("")), "disk")


def test_a_boot_that_cannot_be_read_is_an_error() -> None:
    locked = volume("1", "ext4", uuid="b007", refusal="it is cut off")
    with pytest.raises(DiskError, match="cut off"):
        choose_boot(Survey((ROOT, locked)), ROOT, tree(fstab("UUID=b007 /boot ext4")), "disk")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("UUID=1 /boot ext4 defaults 1 2", "UUID=1"),
        ("\tUUID=1\t/boot/\text4", "UUID=1"),
        ("#UUID=1 /boot ext4", None),
        ("UUID=1 /boot/efi vfat", None),
        ("UUID=1", None),
        ("LABEL=a\\011b /b\\157ot ext4", "LABEL=a\tb"),
    ],
)
def test_fstab_lines(text: str, spec: str | None) -> None:
    assert spec_of(text, "/boot") == spec


@pytest.mark.parametrize(
    "spec",
    ["", "UUID=", "LABEL=", "UUID=nope", "/dev/sda", "/dev/sdb1", "none", "tmpfs", "PARTUUID="],
)
def test_specifications_that_mean_nothing_here(spec: str) -> None:
    assert resolve(spec, [ROOT, BOOT, volume("2")]) == []


_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_XBOOTLDR = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
SYSTEM = volume("1", "vfat", uuid="AB12-CD34", type_=_ESP)
EXTENDED = volume("2", "vfat", type_=_XBOOTLDR)


def guest(fstab: str = "", **folders: Folder | bytes) -> Folder:
    return {"etc": {"fstab": fstab.encode()}, **folders}


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (guest(boot={}), "/boot"),
        (guest(), "/boot"),
        (guest(boot={"efi": {}, "vmlinuz-6": b"x"}), "/boot/efi"),
        (guest(boot={"efi": {}}), "/boot/efi"),
        (guest(boot={"vmlinuz-6": b"x"}), "/efi"),
        (guest("UUID=AB12-CD34 /boot/efi vfat umask=0077 0 1\n", boot={}), "/boot/efi"),
        (guest("UUID=ab12-cd34 /efi vfat defaults\n", boot={}), "/efi"),
    ],
)
def test_where_the_system_partition_is(content: Folder, at: str) -> None:
    found = choose_esp(Survey((ROOT, SYSTEM, SWAP)), ROOT, None, tree(content))
    assert (found.candidate, found.at, found.notes) == (SYSTEM, at, ())


def test_a_system_partition_that_fstab_names_and_nobody_has() -> None:
    content = tree(guest("UUID=0000-0001 /boot/efi vfat defaults\n", boot={"efi": {}}))
    found = choose_esp(Survey((ROOT, SWAP)), ROOT, None, content)
    assert found.candidate is None
    assert "UUID=0000-0001, which is not on the disk" in found.notes[0]


def test_neither_two_system_partitions_nor_another_fat_are_guessed_at() -> None:
    other = volume("3", "vfat", type_=_ESP)
    found = choose_esp(Survey((ROOT, SYSTEM, other)), ROOT, None, tree(guest()))
    assert found.candidate is None
    assert "several EFI system partitions" in found.notes[0]
    data = volume("3", "vfat", type_="ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
    assert choose_esp(Survey((ROOT, data)), ROOT, None, tree(guest())).candidate is None


def test_one_that_is_damaged_is_left_alone() -> None:
    broken = volume("1", "vfat", type_=_ESP, refusal="its first sector is damaged")
    assert choose_esp(Survey((ROOT, broken)), ROOT, None, tree(guest())).candidate is None


def test_boot_by_its_type_where_fstab_is_silent() -> None:
    found = choose_boot(Survey((ROOT, SYSTEM, EXTENDED)), ROOT, tree(guest(boot={})), "disk")
    assert found.candidate is EXTENDED
    assert "XBOOTLDR" in found.notes[0]
    full = tree(guest(boot={"vmlinuz-6": b"x"}))
    assert choose_boot(Survey((ROOT, SYSTEM, EXTENDED)), ROOT, full, "disk").candidate is None


def test_what_fstab_says_is_told_where_two_could_be_boot() -> None:
    content = tree(guest("/dev/disk/by-id/dm-uuid-LVM-x /boot ext4\n"))
    others = (BOOT, volume("2", boot=True))
    with pytest.raises(InputError, match=r"from /dev/disk/by-id/dm-uuid-LVM-x, which is not"):
        choose_boot(Survey((ROOT, *others)), ROOT, content, "disk")


def test_a_logical_volume_by_its_mapper_id() -> None:
    """libguestfs PR 187: Ubuntu 22's installer names /boot by device-mapper's UUID."""
    boot, other = (replace(volume(f"vg/{n}", boot=True), mapper_uuid=n * 2) for n in "ab")
    found = Survey((ROOT, other, boot))
    content = tree(guest("/dev/disk/by-id/dm-uuid-LVM-aa /boot ext4 defaults 0 1\n"))
    assert choose_boot(found, ROOT, content, "disk").candidate is boot
    boot = volume("vg/boot", boot=True)
    assert resolve("/dev/disk/by-id/dm-name-vg-boot", [ROOT, boot]) == [boot]
