"""Which kernel and ramdisk leave the guest, and what is wrong with those that do not."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import GuestError
from pipeline.core.events import QuietProgress
from pipeline.guest.boot.kernel_image import kernel_release
from pipeline.guest.boot.ramdisk import Ramdisk, scan
from pipeline.guest.boot.select import BootFiles, builtin_modules, collect, judge
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import cpio, kernel, ramdisk
from tests.fixtures.memory_guest import MemoryGuest

Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
NEW, OLD = "5.14.0", "5.9.1"


def installed(version: str, *, initrd: str = "initramfs-{}.img") -> dict[str, bytes | None]:
    return {
        f"/boot/vmlinuz-{version}": kernel(version),
        f"/boot/{initrd.format(version)}": ramdisk(version),
        f"/lib/modules/{version}": None,
        f"/lib/modules/{version}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
    }


BOTH: Tree = {**installed(OLD), **installed(NEW)}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), tmp_path)


def collected(tree: Tree, tools: Tools, **options: str) -> BootFiles:
    """Collect, and check that the host's files are the guest's, or that there are none."""
    guest = MemoryGuest(tree, **options)  # type: ignore[arg-type] # the file system alone
    out = tools.scratch / "kernel", tools.scratch / "ramdisk"
    try:
        files = collect(guest, *out, tools)
    except GuestError:
        assert list(tools.scratch.iterdir()) == []
        raise
    assert sorted(tools.scratch.iterdir()) == sorted(out)
    for path, file in zip((files.kernel, files.ramdisk), out, strict=True):
        assert file.read_bytes() == guest.nodes[path].data
        file.unlink()
    return files


def test_the_newest_without_a_boot_loader(tools: Tools) -> None:
    files = collected(BOTH, tools)
    assert files == BootFiles(
        NEW, f"/boot/vmlinuz-{NEW}", f"/boot/initramfs-{NEW}.img", "the newest of 2", ()
    )


@pytest.mark.parametrize("initrd", ["initramfs-{}.img", "initrd.img-{}", "initrd-{}"])
def test_names_of_the_families(tools: Tools, initrd: str) -> None:
    assert collected(installed(NEW, initrd=initrd), tools).ramdisk == f"/boot/{initrd.format(NEW)}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/boot/grub2/grub.cfg", f"menuentry a {{\nlinux /vmlinuz-{OLD}\n}}\n"),
        ("/boot/grub/grub.cfg", f"menuentry a {{\nlinux /boot/vmlinuz-{OLD} ro\n}}\n"),
        ("/boot/grub/grub.conf", f"default=0\ntitle a\n kernel /vmlinuz-{OLD}\n"),
        ("/boot/extlinux/extlinux.conf", f"LABEL a\nKERNEL ../vmlinuz-{OLD}\n"),
        ("/boot/loader/entries/x.conf", f"linux /vmlinuz-{OLD}\nversion {OLD}\n"),
    ],
)
def test_the_boot_loader_decides(tools: Tools, path: str, text: str) -> None:
    files = collected({**BOTH, path: text}, tools)
    assert files.kernel_version == OLD
    assert files.ramdisk == f"/boot/initramfs-{OLD}.img"
    assert files.chosen_because.startswith("the default of /boot/")


def test_links_are_followed_inside_the_guest(tools: Tools) -> None:
    tree = {
        **BOTH,
        "/vmlinuz": {"link": f"boot/vmlinuz-{OLD}"},
        "/initrd.img": {"link": f"../../../boot/initramfs-{OLD}.img"},
        "/boot/grub/menu.lst": "title a\nkernel /vmlinuz\ninitrd /initrd.img\n",
    }
    files = collected(tree, tools)
    assert (files.kernel_version, files.ramdisk) == (OLD, f"/boot/initramfs-{OLD}.img")


def test_a_default_that_is_not_there_or_unfit(tools: Tools) -> None:
    for name, words in (("vmlinuz-9", "not there"), ("vmlinuz-0-rescue-1", "rescue")):
        tree = {
            **BOTH,
            "/boot/vmlinuz-0-rescue-1": kernel(NEW),
            "/boot/grub2/grub.cfg": f"menuentry a {{\nlinux /{name}\n}}\n",
        }
        files = collected(tree, tools)
        assert files.kernel_version == NEW
        assert any(words in warning for warning in files.warnings)


def test_a_ramdisk_of_another_name_by_the_entry(tools: Tools) -> None:
    tree = {
        **installed(NEW),
        "/boot/micro.img": b"",
        "/boot/special.img": ramdisk(NEW),
        "/boot/grub2/grub.cfg": (
            f"menuentry a {{\nlinux /vmlinuz-{NEW}\ninitrd /micro.img /special.img\n}}\n"
        ),
    }
    assert collected(tree, tools).ramdisk == "/boot/special.img"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"/boot/initramfs-{NEW}.img": None}, "no ramdisk beside it"),
        ({f"/boot/vmlinuz-{NEW}": kernel("5.15.0")}, "the kernel says that it is 5.15.0"),
        ({f"/boot/vmlinuz-{NEW}": b"MZ" + bytes(5000)}, "no x86 boot header"),
        ({f"/boot/vmlinuz-{NEW}": kernel(NEW)[:-1]}, "bytes that its header counts"),
        ({f"/boot/initramfs-{NEW}.img": b""}, "holds no files"),
        ({f"/boot/initramfs-{NEW}.img": b"not one at all"}, "should begin"),
        ({f"/boot/initramfs-{NEW}.img": ramdisk(NEW)[:200]}, "damaged or ends too early"),
        ({f"/boot/initramfs-{NEW}.img": ramdisk("5.15.0")}, "its modules are of 5.15.0"),
        ({f"/boot/initramfs-{NEW}.img": ramdisk(NEW, ("ext4",))}, "lacks virtio_blk, virtio_pci"),
    ],
)
def test_what_does_not_pair_or_boot(
    tools: Tools, changes: Mapping[str, bytes | None], words: str
) -> None:
    with pytest.raises(GuestError, match=words):
        collected({**installed(NEW), **changes}, tools)


def test_modules_of_the_version_must_be_there(tools: Tools) -> None:
    tree = {path: data for path, data in installed(NEW).items() if "/lib/modules" not in path}
    with pytest.raises(GuestError, match=r"only 5\.14\.1"):
        collected({**tree, "/lib/modules/5.14.1": None}, tools)


def test_no_kernel_at_all(tools: Tools) -> None:
    with pytest.raises(GuestError, match="none but rescue kernels"):
        collected({"/boot/vmlinuz-0-rescue-1": kernel()}, tools)


def test_the_remedy_is_of_the_guests_family(tools: Tools) -> None:
    bare = {f"/boot/initramfs-{NEW}.img": ramdisk(NEW, ("ext4",))}
    with pytest.raises(GuestError, match="dracut --force"):
        collected({**installed(NEW), **bare}, tools)
    with pytest.raises(GuestError, match="update-initramfs -u -k"):
        collected({**installed(NEW), **bare, "/etc/initramfs-tools/modules": ""}, tools)


# The lint


def content(*modules: str) -> Ramdisk:
    return Ramdisk(entries=1, modules={NEW: set(modules)})


@pytest.mark.parametrize(
    ("modules", "builtin", "filesystem", "missing"),
    [
        ({"virtio_blk", "virtio_pci", "ext4"}, set(), "ext4", ""),
        ({"virtio_blk", "virtio_pci"}, {"ext4"}, "ext4", ""),
        ({"ext4"}, {"virtio_blk", "virtio_pci"}, "ext3", ""),
        ({"virtio_blk", "virtio_pci", "ext3"}, set(), "ext3", ""),
        ({"virtio_blk", "virtio_pci", "ext4"}, set(), "xfs", "xfs"),
        ({"virtio_pci", "ext4"}, set(), "ext4", "virtio_blk"),
        (set(), set(), "ext4", "virtio_blk, virtio_pci, ext4"),
    ],
)
def test_judge(modules: set[str], builtin: set[str], filesystem: str, missing: str) -> None:
    problem, warnings = judge(content(*modules), frozenset(builtin), NEW, filesystem)
    assert problem == (f"it lacks {missing}, and so does the kernel" if missing else "")
    assert warnings == []


def test_judging_without_a_list_of_the_kernels_own_modules() -> None:
    problem, warnings = judge(content(), None, NEW, "ext4")
    assert problem == ""
    assert "virtio_blk, virtio_pci, ext4" in warnings[0]


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("rd.lvm.lv=VolGroup/lv_root", True),
        ("RESUME=/dev/dm-1", True),
        ("resume=UUID=1", True),
        ("RESUME=none", False),
        ("root=LABEL=x", False),
    ],
)
def test_volumes_that_a_ramdisk_waits_for(text: str, warned: bool) -> None:
    ramdisk = content("virtio_blk", "virtio_pci", "ext4")
    ramdisk.files["etc/cmdline.d/90lvm.conf"] = text
    problem, warnings = judge(ramdisk, frozenset(), NEW, "ext4")
    assert problem == ""
    assert bool(warnings) == warned


def test_builtin_modules() -> None:
    listing = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko.xz\n\n"
    assert builtin_modules(listing) == {"ext4", "virtio_pci"}


# Ramdisks


ARCHIVE = ramdisk(NEW)
MICROCODE = cpio({"kernel/x86/microcode/GenuineIntel.bin": bytes(3000)})


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (ARCHIVE, {"none"}),
        (gzip.compress(ARCHIVE), {"gzip"}),
        (gzip.compress(ARCHIVE) + bytes(7), {"gzip"}),
        (lzma.compress(ARCHIVE), {"xz"}),
        (lzma.compress(ARCHIVE, lzma.FORMAT_ALONE), {"xz"}),
        (bz2.compress(ARCHIVE), {"bzip2"}),
        (MICROCODE + bytes(512) + gzip.compress(ARCHIVE), {"none", "gzip"}),
        (gzip.compress(MICROCODE + bytes(1024) + ARCHIVE), {"gzip"}),
        (gzip.compress(MICROCODE) + lzma.compress(ARCHIVE) + bytes(8), {"gzip", "xz"}),
    ],
)
def test_ramdisks_are_read(tools: Tools, data: bytes, compression: set[str]) -> None:
    path = tools.scratch / "r"
    path.write_bytes(data)
    found = scan(path, tools)
    assert found.compression == compression
    assert found.modules == {NEW: {"virtio_blk", "virtio_pci", "ext4"}}


def test_settings_in_a_ramdisk_are_kept(tools: Tools) -> None:
    path = tools.scratch / "r"
    path.write_bytes(cpio({"./etc/cmdline.d/90lvm.conf": b"rd.lvm.lv=a/b", "etc/shadow": b"x"}))
    assert scan(path, tools).files == {"etc/cmdline.d/90lvm.conf": "rd.lvm.lv=a/b"}


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(ARCHIVE)[:-20],
        lzma.compress(ARCHIVE)[:-20],
        bz2.compress(ARCHIVE)[:-20],
        gzip.compress(ARCHIVE[:300]),
        gzip.compress(b"no archive"),
        bytes(5000),
        ARCHIVE + b"garbage",
    ],
)
def test_damaged_ramdisks(tools: Tools, data: bytes) -> None:
    path = tools.scratch / "r"
    path.write_bytes(data)
    with pytest.raises(GuestError, match="read the ramdisk"):
        scan(path, tools)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.sampled_from([b"", b"\x1f\x8b", b"070701"]))
def test_any_bytes_are_read_or_refused(tools: Tools, junk: bytes, at: int, magic: bytes) -> None:
    path = tools.scratch / "r"
    for data in (magic + junk, ARCHIVE[:at] + junk + ARCHIVE[at + len(junk) :]):
        path.write_bytes(data)
        try:
            scan(path, tools)
        except GuestError as error:
            assert str(path) in str(error)


# Kernels


def test_the_kernels_own_version(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(kernel("6.1.0-13-cloud-amd64"))
    assert kernel_release(path) == "6.1.0-13-cloud-amd64"
    without = bytearray(kernel())
    without[0x20E:0x210] = bytes(2)
    path.write_bytes(without)
    assert kernel_release(path) == ""


@settings(deadline=None)
@given(st.integers(0, 0x260), st.binary(min_size=1, max_size=8))
def test_any_header_is_read_or_refused(at: int, junk: bytes) -> None:
    import tempfile

    data = bytearray(kernel())
    data[at : at + len(junk)] = junk
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            kernel_release(Path(file.name))
        except GuestError as error:
            assert file.name in str(error)


@pytest.mark.parametrize(
    ("name", "bound"), [("vmlinuz", "_MAX_KERNEL"), ("initramfs", "_MAX_RAMDISK")]
)
def test_files_larger_than_any_of_their_kind_are_left(
    name: str, bound: str, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"pipeline.guest.boot.select.{bound}", 100)
    with pytest.raises(GuestError, match=rf"/boot/{name}.*at most 0 are expected"):
        collected(installed(NEW), tools)
