"""One line of fstab as a record, and what it needs to be mounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.fstab import Entry, Rests, normal, parse


def entry(line: str) -> Entry:
    (found,) = parse(line)
    return found


def test_fields_escapes_and_quotes() -> None:
    found = entry('\tLABEL="my\\040disk"\t/srv/my\\040data/  ext4\tro,nofail 0 2 ')
    assert found == Entry(
        'LABEL="my\\040disk" /srv/my\\040data/  ext4 ro,nofail 0 2',
        "LABEL=my disk",
        "/srv/my data/",
        "ext4",
        ("ro", "nofail"),
    )
    assert found.place == "/srv/my data"


def test_comments_are_none_and_short_lines_have_no_kind() -> None:
    assert [e.kind for e in parse("# x\n\n  #y\n/dev/sda1 /x\n/dev/sda1 /x ext4\n")] == ["", "ext4"]


def test_a_space_between_quotes_does_not_hide_the_mount_point() -> None:
    assert entry('LABEL="my data" /var ext4').place == "/var"


SOURCES = [
    *("UUID=1", 'UUID="1"', "LABEL=x", "PARTUUID=x", "PARTLABEL=x", "ID=wwn-0x5", "/dev/sda1"),
    *("/dev/mapper/vg-var", "/dev/vg/var", "/dev/disk/by-id/dm-name-vg-var"),
    "/dev/disk/by-path/pci-0000",
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["ext4", "auto", "unknown"])
@pytest.mark.parametrize("options", ["defaults", "_netdev"])
def test_volumes(source: str, kind: str, options: str) -> None:
    # A disk behind a network is as much a disk that the image does not have.
    assert entry(f"{source} /var {kind} {options}").rests_on is Rests.VOLUME


def test_volumes_by_their_type() -> None:
    assert entry("pool/var /var zfs defaults").rests_on is Rests.VOLUME
    assert entry("data /var ext4 defaults").rests_on is Rests.VOLUME
    assert entry("ntfs-3g#/dev/sdb1 /win fuse defaults").rests_on is Rests.VOLUME


@pytest.mark.parametrize(
    "line",
    [
        "nas:/x /x nfs",
        "[fe80::1]:/x /x nfs4 defaults",
        "//nas/x /x cifs credentials=/etc/c",
        "fs-0123456789abcdef0:/ /mnt/efs efs _netdev,tls",
        "fs-0123456789abcdef0 /mnt/efs efs tls",
        "goofys#bucket /mnt/s3 fuse _netdev",
        "s3fs#bucket:/prefix /mnt/s3 fuse allow_other",
        "sshfs#me@host:/x /mnt/s fuse defaults",
        "me@host: /mnt/s fuse.sshfs noauto",
        "atlas.cern.ch /cvmfs/atlas.cern.ch cvmfs defaults",
        "beegfs_nodev /mnt/beegfs beegfs cfgFile=/etc/beegfs/c.conf",
        "mgs@tcp:/lustre /lustre lustre defaults",
        "mon1:6789,mon2:6789:/ /ceph ceph name=x",
        "server:/vol /gl glusterfs defaults",
        "/etc/glusterfs/x.vol /gl glusterfs defaults",
        "tcp://s:3334/orangefs /o pvfs2 defaults",
        "https://dav.example.com/ /dav davfs user",
        "/dev/gpfs0 /gpfs gpfs rw,mtime,dev=gpfs0",
        "share /mnt 9p trans=virtio",
        "share /mnt virtiofs defaults",
        "mount.rclone#remote:x /r fuse _netdev",
        "unknown-thing /x unknown _netdev",
        "mfsmount /mnt/mfs fuse mfsmaster=m",
    ],
)
def test_servers(line: str) -> None:
    found = entry(line)
    assert found.rests_on is Rests.NETWORK
    assert found.needs_network


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("/data/x /x none bind", ("/data/x",)),
        ("/dev/shm/x /x none rbind", ("/dev/shm/x",)),
        ("/srv/x.iso /x iso9660 loop,ro", ("/srv/x.iso",)),
        (
            "overlay /etc overlay lowerdir=/etc:/b,upperdir=/data/u,workdir=/data/w",
            ("/etc", "/b", "/data/u", "/data/w"),
        ),
        ("/mnt/a:/mnt/b /s fuse.mergerfs defaults", ("/mnt/a", "/mnt/b")),
        ("encfs#/data/.enc /x fuse defaults", ("/data/.enc",)),
        ("/home/.ecryptfs/x /home/x ecryptfs defaults", ("/home/.ecryptfs/x",)),
        ("none /x aufs br=/data/rw=rw:/ro=ro", ("/data/rw", "/ro")),
    ],
)
def test_what_rests_on_other_mounts(line: str, places: tuple[str, ...]) -> None:
    assert entry(line).rests_on is Rests.PLACES
    assert entry(line).places == places


@pytest.mark.parametrize("line", ["tmpfs /x tmpfs", "none /x nfsd", "sunrpc /x rpc_pipefs"])
def test_what_the_kernel_has_itself(line: str) -> None:
    assert entry(line).rests_on is Rests.NOTHING


def test_a_share_of_the_hypervisor() -> None:
    assert entry("share /x vboxsf defaults").rests_on is Rests.HYPERVISOR


def test_noauto_with_an_automount_is_mounted() -> None:
    assert not entry("UUID=1 /x ext4 noauto").at_boot
    assert entry("UUID=1 /x ext4 noauto,x-systemd.automount").at_boot


def test_systemd_knows_some_types_and_netdev() -> None:
    assert entry("nas:/x /x nfs").after_network
    assert entry("x /x cvmfs _netdev").after_network
    assert not entry("x /x cvmfs").after_network
    assert entry("me@h: /x fuse.sshfs").after_network


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for found in parse(text):
        assert isinstance(found.rests_on, Rests)
        assert found.place == "" or normal(found.place) == found.place
