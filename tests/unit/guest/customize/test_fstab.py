"""What stays of a guest's mounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.guest.customize.apply import root_fstab

ROOT = "LABEL=uec-rootfs / ext4 defaults 0 0\n"
FEDORA_15 = """
# /etc/fstab
# Created by anaconda on Sat May 28 12:00:00 2011
/dev/mapper/VolGroup-lv_root /                       ext4    defaults        1 1
UUID=9ba0b2f4-2b8c-4d38-a0b5-9d6ca4d4c7a0 /boot      ext4    defaults        1 2
/dev/mapper/VolGroup-lv_swap swap                    swap    defaults        0 0
"""


def test_fedora_15_becomes_the_one_line() -> None:
    fstab = root_fstab(FEDORA_15, "ext4")
    assert fstab.text == ROOT
    assert fstab.kept == fstab.lost == fstab.essential == ()
    assert [line.split()[1] for line in fstab.dropped] == ["/", "/boot", "swap"]


@pytest.mark.parametrize("filesystem", ["ext3", "xfs"])
def test_the_root_keeps_its_type(filesystem: str) -> None:
    assert root_fstab("", filesystem).text == f"LABEL=uec-rootfs / {filesystem} defaults 0 0\n"


@pytest.mark.parametrize(
    "line",
    [
        "tmpfs /tmp tmpfs size=10% 0 0",
        "proc /proc proc defaults 0 0",
        "nas:/srv/x /srv/x nfs4 ro,_netdev 0 0",
        "//nas/share /mnt/share cifs credentials=/etc/c 0 0",
        "user@host:/x /mnt/s fuse.sshfs noauto 0 0",
        "/srv/data /home/data none bind 0 0",
        "devpts /dev/pts devpts gid=5,mode=620 0 0",
    ],
)
def test_mounts_without_a_disk_stay(line: str) -> None:
    fstab = root_fstab(f"/dev/sda1 / ext4 defaults\n  {line}  \n", "ext4")
    assert fstab.text == f"{ROOT}{line}\n"
    assert fstab.kept == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0",
        "/swapfile none swap sw 0 0",
        "nas:/root / nfs defaults 0 0",
        "tmpfs /boot tmpfs defaults 0 0",
        "tmpfs relative tmpfs defaults 0 0",
        "UUID=1234 /boot/efi vfat umask=0077 0 1",
        "LABEL=x /media/stick vfat noauto 0 0",
        "too short",
    ],
)
def test_what_goes_without_a_loss(line: str) -> None:
    fstab = root_fstab(line, "ext4")
    assert fstab.text == ROOT
    assert (fstab.dropped, fstab.lost) == ((line,), ())


def test_content_on_other_volumes_is_lost() -> None:
    text = (
        "/dev/mapper/vg-home /home ext4 defaults 0 2\n"
        "UUID=1 /usr/ xfs defaults 0 2\n"
        "/dev/vg/log /var/log\\040files ext4 defaults 0 2\n"
    )
    fstab = root_fstab(text, "ext4")
    assert fstab.lost == ("/home", "/usr", "/var/log files")
    assert fstab.essential == ("/usr",)


_WORD = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)
_LINE = st.one_of(
    st.lists(_WORD, max_size=7).map(" ".join),
    st.tuples(
        st.sampled_from(["/dev/sda1", "UUID=1", "nas:/x", "tmpfs", "LABEL=uec-rootfs"]),
        st.sampled_from(["/", "/usr", "/tmp", "swap", "/boot"]),
        st.sampled_from(["ext4", "nfs", "tmpfs", "swap", "none"]),
        st.sampled_from(["defaults", "bind", "noauto,ro"]),
    ).map(" ".join),
)


@given(st.lists(_LINE, max_size=8).map("\n".join))
def test_any_file_keeps_its_promises(text: str) -> None:
    fstab = root_fstab(text, "ext4")
    lines = fstab.text.splitlines()
    assert fstab.text.startswith(ROOT)
    assert fstab.text == ROOT + "".join(f"{line}\n" for line in fstab.kept)
    assert [line.split()[1] for line in lines].count("/") == 1
    assert not any(line.startswith(("/dev/", "UUID=")) for line in lines if "bind" not in line)
    assert root_fstab(fstab.text, "ext4").text == fstab.text
    assert set(fstab.essential) <= set(fstab.lost)
