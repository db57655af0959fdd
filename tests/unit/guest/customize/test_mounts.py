"""What becomes of a guest's mounts: by lines, units, partition types, binds and links."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from pipeline.core.errors import GuestError
from pipeline.core.fstab import parse
from pipeline.guest.access.editor import Editor
from pipeline.guest.customize.fstab import Fstab
from pipeline.guest.customize.mount_units import path_of, read_units, unit_of
from pipeline.guest.customize.mounts import flatten_mounts, network_warning
from tests.fixtures.memory_guest import MemoryGuest

Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
ROOT = "LABEL=uec-rootfs / ext4 defaults 0 0\n"
DISK = "UUID=1 / ext4 defaults 0 1\n"
ETC, LIB = "/etc/systemd/system", "/usr/lib/systemd/system"
BASE: Tree = {
    "/usr/lib/systemd/systemd": "x",
    "/lib": {"link": "usr/lib"},
    "/bin": {"link": "usr/bin"},
    "/usr/bin/sh": "x",
    "/var/log": None,
    "/var/lib": None,
}


def flat(
    tree: Tree, fstab: str = "", by_type: Mapping[str, str] | None = None
) -> tuple[Editor, Fstab]:
    editor = Editor(MemoryGuest({**BASE, "/etc/fstab": DISK + fstab, **tree}))
    return editor, flatten_mounts(editor, by_type or {})


def refused(tree: Tree, fstab: str = "", by_type: Mapping[str, str] | None = None) -> str:
    guest = MemoryGuest({**BASE, "/etc/fstab": DISK + fstab, **tree})
    editor = Editor(guest)
    before = dict(guest.nodes)
    with pytest.raises(GuestError) as caught:
        flatten_mounts(editor, by_type or {})
    assert guest.nodes == before, "nothing is edited before the refusal"
    assert not editor.edits
    assert not editor.removed
    return str(caught.value)


def unit(what: str, where: str, kind: str = "xfs", more: str = "") -> str:
    return f"[Unit]\nDescription=x\n[Mount]\nWhat={what}\nWhere={where}\nType={kind}\n{more}"


# By lines


@pytest.mark.parametrize(
    "point",
    [
        *(
            "/usr",
            "/var",
            "/var/",
            "//var",
            "/v\\141r",
            "/var/lib",
            "/var/lib/dpkg",
            "/var/lib/rpm",
        ),
        *("/usr/lib", "/usr/lib64", "/usr/share", "/usr/bin", "/usr/lib/sysimage", "/lib/modules"),
        *("/var/lib/rpm/x", "/var/lib/pacman/local", "/etc", "/etc/ssl", "/lib/firmware"),
    ],
)
@pytest.mark.parametrize("source", ["UUID=2", "/dev/mapper/vg-x", 'PARTLABEL="x y"'])
def test_no_system_without(point: str, source: str) -> None:
    shown = point.replace("\\141", "a").replace("//", "/").rstrip("/")
    assert f"{shown} is on a volume of its own" in refused({}, f"{source}\t{point}\text4\tro 0 2\n")


@pytest.mark.parametrize(
    "point",
    [
        *("/var/log", "/var/log/audit", "/var/cache", "/var/spool", "/var/lib/docker", "/var/www"),
        *("/usr/local", "/usr/src", "/opt", "/home", "/srv", "/root", "/data", "/usr/lib/debug"),
    ],
)
def test_content_that_a_system_runs_without_is_warned_of(point: str) -> None:
    editor, fstab = flat({}, f"LABEL=x {point} xfs defaults 0 2\n")
    assert fstab.text == ROOT
    assert [w for w in editor.warnings if point in w and "does not become part" in w]


def test_a_mount_point_behind_a_link() -> None:
    tree: Tree = {"/srv/modules": {"link": "../lib/modules"}, "/usr/lib/modules": None}
    assert "/srv/modules" in refused(tree, "UUID=2 /srv/modules ext4 defaults 0 2\n")


def test_noauto_is_not_mounted_but_usr_is_by_the_initramfs() -> None:
    assert flat({}, "UUID=2 /usr/share ext4 noauto 0 0\n")[1].lost == ()
    assert "/usr" in refused({}, "UUID=2 /usr ext4 noauto 0 0\n")
    automount = "UUID=2 /usr/share ext4 noauto,x-systemd.automount 0 0\n"
    assert "/usr/share" in refused({}, automount)


def test_a_line_that_is_no_mount_is_told() -> None:
    editor, fstab = flat({}, 'UUID="5e9d-b" TYPE="ext4" /u02 ext4 defaults,nofail 1 2\n')
    assert fstab.text == ROOT
    assert [w for w in editor.warnings if "/u02" in w]


# By binds, overlays and links


@pytest.mark.parametrize(
    "line",
    [
        "/data/var /var none bind 0 0",
        "/data/./usr//lib /usr/lib none rbind 0 0",
        "overlay /etc overlay lowerdir=/etc,upperdir=/data/u,workdir=/data/w 0 0",
        "/data/var.img /var ext4 loop 0 0",
        "/data/x/y /var/lib/rpm none bind,nofail 0 0",
    ],
)
def test_a_system_that_rests_on_a_lost_volume(line: str) -> None:
    said = refused({}, f"{line}\nUUID=2 /data xfs defaults 0 2\n")
    assert f"{line.split()[1]} is mounted from /data/" in said or "from /data" in said


def test_a_bind_goes_with_its_source_and_what_rests_on_it() -> None:
    fstab = (
        "/export/home /srv/people none bind 0 0\n"
        "/data/home /export/home none bind 0 0\n"
        "UUID=2 /data xfs defaults 0 2\n"
        "/home /export/here none bind 0 0\n"
    )
    editor, made = flat({}, fstab)
    assert made.kept == ("/home /export/here none bind 0 0",)
    for point in ("/data", "/export/home", "/srv/people"):
        assert [w for w in editor.warnings if w.startswith(point)]


def test_what_lies_on_a_server_within_a_lost_volume_stays() -> None:
    fstab = (
        "UUID=2 /data xfs defaults 0 2\nnas:/x /data/nas nfs ro 0 0\n/data/nas/a /a none bind 0 0\n"
    )
    assert len(flat({}, fstab)[1].kept) == 2


def test_scratch_space_is_a_directory_of_the_root_as_well() -> None:
    line = "/tmp /var/tmp none bind 0 0"
    assert flat({}, f"/dev/vg/tmp /tmp ext4 defaults 0 2\n{line}\n")[1].kept == (line,)


def test_a_union_of_directories_on_lost_volumes() -> None:
    fstab = "/mnt/disk*:/srv/own /pool fuse.mergerfs defaults 0 0\n"
    assert flat({}, fstab)[1].kept
    editor, made = flat({}, fstab + "LABEL=a /mnt/disk1 xfs defaults 0 2\n")
    assert made.kept == ()
    assert [w for w in editor.warnings if w.startswith("/pool is mounted from /mnt/disk*")]


def test_a_bind_onto_itself() -> None:
    assert flat({}, "/srv/x /srv/x none bind,nosuid 0 0\n")[1].kept
    fstab = "UUID=2 /data xfs defaults 0 2\n/data/x /data/x none bind,nosuid 0 0\n"
    assert flat({}, fstab)[1].kept == ()


@pytest.mark.parametrize("path", ["/var", "/var/lib", "/usr", "/var/lib/dpkg", "/usr/share"])
def test_a_link_into_a_lost_volume(path: str) -> None:
    tree = {p: c for p, c in BASE.items() if not p.startswith(path)}
    guest = MemoryGuest(
        {**tree, "/etc/fstab": f"{DISK}UUID=2 /data xfs defaults 0 2\n"}
        | {path: {"link": "/data/there"}, "/data": None}
    )
    with pytest.raises(GuestError, match=f"{path} is a link to /data/there"):
        flatten_mounts(Editor(guest), {})


def test_a_link_to_nothing_and_no_word_of_a_volume() -> None:
    guest = MemoryGuest({"/etc/fstab": DISK, "/usr/bin": None, "/var": {"link": "data/var"}})
    with pytest.raises(GuestError, match="/var is a link to /data/var, which the root does not"):
        flatten_mounts(Editor(guest), {})


def test_a_home_that_leads_there_is_told() -> None:
    editor, _ = flat({"/home": {"link": "data/home"}, "/data": None}, "UUID=2 /data xfs rw 0 2\n")
    assert [w for w in editor.warnings if w.startswith("/home is a link to /data/home")]


def test_mounts_without_number_are_refused_in_time() -> None:
    lines = [f"/d/{n + 1} /d/{n} none bind 0 0\n" for n in range(1500)]
    lost = "".join(lines) + "UUID=2 /d/1500 ext4 defaults 0 2\n"
    began = time.monotonic()
    assert len(flat({}, lost)[1].lost) == 1501
    assert time.monotonic() - began < 20
    assert "2001" in refused({}, "tmpfs /x tmpfs\n" * 2000)


# By units


@pytest.mark.parametrize("directory", [ETC, LIB, "/usr/local/lib/systemd/system"])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("var.mount", "/var"),
        ("usr.mount", "/usr"),
        ("var-lib.mount", "/var/lib"),
        ("usr-lib-x86_64\\x2dlinux\\x2dgnu.mount", "/usr/lib/x86_64-linux-gnu"),
    ],
)
def test_units_of_the_system(directory: str, name: str, where: str) -> None:
    assert where in refused({f"{directory}/{name}": unit("/dev/disk/by-label/x", where)})
    without_where = unit("/dev/vg/x", "").replace("Where=\n", "")
    assert where in refused({f"{directory}/{name}": without_where})


def test_units_of_lost_volumes_go_with_all_that_is_theirs() -> None:
    tree: Tree = {
        f"{ETC}/data.mount": unit("/dev/vg/data", "/data"),
        f"{ETC}/data.automount": "[Automount]\nWhere=/data\n",
        f"{ETC}/data.mount.d/opts.conf": "[Mount]\nOptions=ro\n",
        f"{ETC}/local-fs.target.requires/data.mount": {"link": "../data.mount"},
        f"{ETC}/multi-user.target.wants/data.automount": {"link": "../data.automount"},
        f"{ETC}/data.mount.wants/x.service": {"link": "../x.service"},
        f"{ETC}/multi-user.target.wants/x.service": {"link": "../x.service"},
        f"{LIB}/boot-efi.mount": unit("/dev/disk/by-partlabel/ESP", "/boot/efi", "vfat"),
        f"{LIB}/srv-nas.mount": unit("nas:/x", "/srv/nas", "nfs"),
        f"{LIB}/tmp.mount": unit("tmpfs", "/tmp", "tmpfs"),
        f"{LIB}/data-bound.mount": unit("/data/x", "/srv/bound", "none", "Options=bind\n"),
    }
    editor, fstab = flat(tree)
    nodes = editor.guest.nodes  # type: ignore[attr-defined] # a MemoryGuest
    assert sorted(p for p in nodes if "data" in p or "efi" in p) == []
    for path in (f"{ETC}/multi-user.target.wants/x.service", f"{LIB}/srv-nas.mount"):
        assert path in nodes
    assert f"{LIB}/tmp.mount" in nodes
    assert fstab.lost == ("/data", "/srv/bound")
    assert f"{ETC}/data.mount" in editor.removed
    assert [w for w in editor.warnings if "data.mount" in w and "removed" in w]


def test_a_masked_unit_mounts_nothing() -> None:
    tree: Tree = {
        f"{LIB}/var.mount": unit("/dev/vg/var", "/var"),
        f"{ETC}/var.mount": {"link": "/dev/null"},
    }
    assert flat(tree)[1].lost == ()


def test_a_drop_in_has_the_last_word() -> None:
    tree: Tree = {
        f"{LIB}/srv-x.mount": unit("tmpfs", "/srv/x", "tmpfs"),
        f"{ETC}/srv-x.mount.d/50-disk.conf": "[Mount]\nWhat=/dev/vg/x\nType=ext4\n",
        f"{ETC}/srv-.mount.d/40-early.conf": "[Mount]\nWhat=/dev/vg/wrong\n",
    }
    (read,) = read_units(Editor(MemoryGuest({**BASE, **tree})))
    assert (read.entry.source, read.entry.kind) == ("/dev/vg/x", "ext4")


def test_units_that_require_what_is_gone_are_told() -> None:
    tree: Tree = {
        f"{ETC}/db.service": "[Unit]\nRequires=srv-db.mount network.target\n",
        f"{ETC}/web.service.d/wait.conf": "[Unit]\nBindsTo=srv-my\\x2dweb.mount\n",
        f"{ETC}/other.service": "[Unit]\nWants=srv-db.mount\nRequiresMountsFor=/srv/db\n",
        f"{ETC}/srv-db.mount": unit("/dev/vg/db", "/srv/db"),
    }
    editor, _ = flat(tree, "UUID=2 /srv/my-web ext4 defaults 0 2\n")
    told = [w.split()[0] for w in editor.warnings if "requires a mount" in w]
    assert told == [f"{ETC}/db.service", f"{ETC}/web.service.d/wait.conf"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/my-data", "srv-my\\x2ddata.mount"),
        ("/a b/c_d:e", "a\\x20b-c_d:e.mount"),
        ("/.x/y.z", "\\x2ex-y.z.mount"),
        ("/", "-.mount"),
        ("/é", "\\xc3\\xa9.mount"),
    ],
)
def test_paths_and_names_of_units(path: str, name: str) -> None:
    """Names are those that systemd-escape --path of systemd 252 makes."""
    assert unit_of(path) == name
    assert path_of(name) == path


# By partition types


@pytest.mark.parametrize("point", ["/usr", "/var"])
def test_partition_types(point: str) -> None:
    assert f"{point} is on partition 3" in refused({}, by_type={point: "partition 3"})
    configured = f"tmpfs {point} tmpfs defaults 0 0\n"
    assert flat({}, configured, {point: "partition 3"})[1].lost == ()


def test_other_partition_types_are_told() -> None:
    editor, fstab = flat({}, by_type={"/home": "partition 3", "/srv": "partition 4"})
    assert fstab.lost == ("/home", "/srv")
    assert [w for w in editor.warnings if w.startswith("/home is on partition 3")]


@pytest.mark.parametrize(
    ("point", "own"),
    [("/var", "/var/lib/dpkg/status"), ("/usr", "/usr/lib64/ld-linux-x86-64.so.2")],
)
def test_a_stale_partition_of_a_type_that_the_root_has_itself(point: str, own: str) -> None:
    editor, _ = flat({own: "x"}, by_type={point: "partition 3"})
    assert [w for w in editor.warnings if "partition 3" in w and point in w]


# Swap


def test_a_swap_file_goes_with_its_line() -> None:
    editor, fstab = flat({"/swapfile": "old memory"}, "/swapfile none swap sw 0 0\n")
    assert fstab.text == ROOT
    assert "/swapfile" in editor.removed
    assert [w for w in editor.warnings if "/swapfile" in w and "memory" in w]


def test_a_swap_file_goes_with_its_unit() -> None:
    tree: Tree = {
        "/var/swap/file": "old memory",
        f"{ETC}/var-swap-file.swap": "[Swap]\nWhat=/var/swap/file\n",
        f"{ETC}/swap.target.wants/var-swap-file.swap": {"link": "../var-swap-file.swap"},
    }
    editor, _ = flat(tree)
    assert set(editor.removed) == {
        "/var/swap/file",
        f"{ETC}/var-swap-file.swap",
        f"{ETC}/swap.target.wants/var-swap-file.swap",
    }


@pytest.mark.parametrize("path", ["/swap.img", "/var/swap"])
def test_a_swap_file_that_nothing_names(path: str) -> None:
    editor, _ = flat({path: b"\0" * 40960})
    assert path in editor.removed


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/lib/x", "/home"])
def test_a_line_by_mistake_costs_no_file(path: str) -> None:
    tree: Tree = {path: None if path == "/home" else "x"}
    editor, fstab = flat(tree, f"{path} none swap sw 0 0\n")
    assert fstab.text == ROOT
    assert editor.removed == []
    assert [w for w in editor.warnings if path in w]


def test_swap_partitions_go_silently_and_compressed_memory_stays() -> None:
    lines = "UUID=3 none swap sw 0 0\n/dev/zram0 none swap pri=100 0 0\n"
    tree: Tree = {f"{LIB}/dev-zram0.swap": "[Swap]\nWhat=/dev/zram0\n"}
    editor, fstab = flat(tree, lines)
    assert fstab.kept == ("/dev/zram0 none swap pri=100 0 0",)
    assert editor.removed == editor.warnings == []


# Servers


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("nas:/x /x nfs ro 0 0", ""),
        ("nas:/x /x nfs ro,_netdev 0 0", ""),
        ("fs-1:/ /e efs _netdev,tls 0 0", ""),
        ("fs-1:/ /e efs tls 0 0", "_netdev,nofail"),
        ("fs-1:/ /e efs tls,nofail 0 0", ""),
        ("nas:/x /x nfs x-systemd.mount-timeout=infinity 0 0", "without bound"),
        ("nas:/x /x nfs x-systemd.mount-timeout=0 0 0", "without bound"),
        ("nas:/x /x nfs hard,retry=10000 0 0", "without bound"),
        ("nas:/x /x nfs hard,bg,retry=10000 0 0", ""),
        ("goofys#b /b fuse allow_other 0 0", "emergency mode"),
    ],
)
def test_mounts_from_servers_that_would_hold_a_boot_up(line: str, word: str) -> None:
    editor, fstab = flat({}, f"{line}\n")
    assert fstab.kept == (line,)
    assert editor.warnings == [network_warning(next(parse(line)))] if word else not editor.warnings
    assert word in "".join(editor.warnings)


def test_a_unit_that_waits_for_ever_for_a_server() -> None:
    text = unit("nas:/x", "/srv/x", "nfs", "TimeoutSec=infinity\n")
    editor, _ = flat({f"{ETC}/srv-x.mount": text})
    assert [w for w in editor.warnings if "/srv/x" in w and "without bound" in w]


def test_shares_of_the_hypervisor_go() -> None:
    editor, fstab = flat({}, "share /s vboxsf defaults 0 0\n")
    assert fstab.text == ROOT
    assert [w for w in editor.warnings if "/s is shared by the hypervisor" in w]


def test_the_links_into_what_is_refused_are_not_told_as_well() -> None:
    assert "/bin" not in refused({}, by_type={"/usr": "partition 3"})


def test_a_program_directory_that_leads_to_nothing() -> None:
    guest = MemoryGuest({"/etc/fstab": DISK, "/usr": None, "/bin": {"link": "usr/bin"}})
    with pytest.raises(GuestError, match="/bin is a link to /usr/bin"):
        flatten_mounts(Editor(guest), {})
