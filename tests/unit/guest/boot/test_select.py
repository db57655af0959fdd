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
from pipeline.core.hardware import USUAL_HARDWARE, Hardware
from pipeline.core.image import Mount
from pipeline.guest.boot.kernel_image import kernel_release
from pipeline.guest.boot.ramdisk import Ramdisk, scan
from pipeline.guest.boot.select import BootFiles, builtin_modules, collect, judge
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.boot_files import arm64_image, cpio, esp, kernel, ramdisk, uki, zboot
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


@pytest.mark.parametrize(
    ("source", "version"),
    [
        ("  source ${config_directory}/custom.cfg\n", OLD),
        ("# source /custom.cfg\n", NEW),
        ("", NEW),
    ],
)
def test_the_entries_beside_grubs_own(tools: Tools, source: str, version: str) -> None:
    def entry(name: str, kernel: str) -> str:
        return f"menuentry '{name}' {{\n linux /boot/vmlinuz-{kernel}\n}}\n"

    config = f'set default="0"\n{entry("a", NEW)}if true; then\n{source}fi\n'
    custom = f"set default=mine\n{entry('mine', OLD)}"
    tree = {"/boot/grub/grub.cfg": config, "/boot/grub/custom.cfg": custom}
    assert collected({**BOTH, **tree}, tools).kernel_version == version


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


@pytest.mark.parametrize("path", [f"/boot/vmlinuz-{NEW}", f"/boot/initramfs-{NEW}.img"])
def test_what_is_damaged_is_named_as_the_guest_has_it(tools: Tools, path: str) -> None:
    with pytest.raises(GuestError) as said:
        collected({**installed(NEW), path: b"damaged" * 1000}, tools)
    assert said.value.subject == path
    assert str(tools.scratch) not in str(said.value)


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


ARM64 = Hardware.of({}, "aarch64")


def arm64_guest(data: bytes, name: str = "vmlinuz") -> dict[str, bytes | None]:
    """A guest with this kernel; ext4 and, as in Debian's, nothing of virtio is part of it."""
    return {
        **installed(NEW, initrd="initrd.img-{}"),
        f"/boot/vmlinuz-{NEW}": None,
        f"/boot/{name}-{NEW}": data,
        f"/boot/initrd.img-{NEW}": ramdisk(NEW, ("virtio_blk", "virtio_pci")),
    }


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (arm64_image(NEW), "vmlinuz"),
        (gzip.compress(arm64_image(NEW)), "vmlinuz"),
        (zboot(arm64_image(NEW)), "vmlinuz"),
        (arm64_image(NEW), "Image"),  # SUSE's name
    ],
)
def test_kernels_of_arm64_pair_with_their_modules(tools: Tools, data: bytes, name: str) -> None:
    files, taken_kernel, _ = taken(arm64_guest(data, name), tools, hardware=ARM64)
    assert (files.kernel_version, files.kernel) == (NEW, f"/boot/{name}-{NEW}")
    assert taken_kernel == data, "what a cloud boots is the guest's own file"


def test_ext4_counts_where_it_is_part_of_the_kernel_alone(tools: Tools) -> None:
    tree = arm64_guest(arm64_image(NEW))
    tree[f"/lib/modules/{NEW}/modules.builtin"] = b"kernel/drivers/pci/pci.ko\n"
    with pytest.raises(GuestError, match="lacks ext4"):
        taken(tree, tools, hardware=ARM64)


def test_a_kernel_of_another_architecture_is_refused_with_what_to_write(tools: Tools) -> None:
    with pytest.raises(GuestError) as caught:
        taken(arm64_guest(arm64_image(NEW)), tools)
    assert "for aarch64 (Image), and the recipe is for x86_64" in caught.value.why
    assert 'architecture = "aarch64"' in caught.value.next_step
    with pytest.raises(GuestError) as caught:
        taken(installed(NEW), tools, hardware=ARM64)
    assert "for x86_64 (bzImage), and the recipe is for aarch64" in caught.value.why
    assert 'architecture = "x86_64"' in caught.value.next_step


def test_a_version_of_another_kernel_is_found_by_its_greeting(tools: Tools) -> None:
    with pytest.raises(GuestError, match=r"the kernel says that it is 5\.15\.0"):
        taken(arm64_guest(arm64_image("5.15.0")), tools, hardware=ARM64)


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


# What lies elsewhere than in /boot

UKI = {
    ".osrel": b"ID=debian\n",
    ".uname": NEW.encode(),
    ".linux": kernel(NEW),
    ".initrd": ramdisk(NEW),
}
MODULES_ONLY: Tree = {
    f"/usr/lib/modules/{NEW}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
    "/boot": None,
}


def taken(
    tree: Tree,
    tools: Tools,
    mounts: tuple[Mount, ...] = (),
    *,
    hardware: Hardware = USUAL_HARDWARE,
    whole_disk: bool = False,
) -> tuple[BootFiles, bytes, bytes]:
    """Collect from a guest with further volumes: what was found, and both files."""
    out = tools.scratch / "kernel", tools.scratch / "ramdisk"
    files = collect(
        MemoryGuest(tree),
        *out,
        tools,
        mounts=mounts,
        esp=mounts[-1].at if mounts else "",
        hardware=hardware,
        whole_disk=whole_disk,
    )
    return files, out[0].read_bytes(), out[1].read_bytes()


@pytest.mark.parametrize("at", ["/efi", "/boot", "/boot/efi"])
def test_kernel_and_ramdisk_out_of_an_image_on_the_system_partition(
    tools: Tools, tmp_path: Path, at: str
) -> None:
    name = f"EFI/Linux/debian-{NEW}.efi"
    mount = esp(tmp_path / "esp", {name: uki(UKI), "EFI/BOOT/BOOTX64.EFI": b"x"}, at)
    files, its_kernel, its_ramdisk = taken(MODULES_ONLY, tools, (mount,))
    assert (its_kernel, its_ramdisk) == (UKI[".linux"], UKI[".initrd"])
    assert files.kernel == files.ramdisk == f"{at}/{name}"
    assert files.kernel_version == NEW
    assert files.chosen_because == f"the default of {at}/EFI/Linux"


def test_an_image_in_boot_itself(tools: Tools) -> None:
    files, _, its_ramdisk = taken({**MODULES_ONLY, "/boot/EFI/Linux/a.efi": uki(UKI)}, tools)
    assert its_ramdisk == UKI[".initrd"]
    assert files.kernel == "/boot/EFI/Linux/a.efi"


@pytest.mark.parametrize("top", ["/efi", "/boot/efi"])
def test_an_image_where_its_partition_would_be_mounted(tools: Tools, top: str) -> None:
    files, _, its_ramdisk = taken({**MODULES_ONLY, f"{top}/EFI/Linux/a.efi": uki(UKI)}, tools)
    assert its_ramdisk == UKI[".initrd"]
    assert files.kernel == f"{top}/EFI/Linux/a.efi"


def test_of_two_images_systemd_boots_default_is_taken(tools: Tools, tmp_path: Path) -> None:
    old = {".osrel": b"ID=debian\n", ".uname": OLD.encode(), ".linux": kernel(OLD)}
    images = {
        f"EFI/Linux/debian-{NEW}.efi": uki(UKI),
        f"EFI/Linux/debian-{OLD}.efi": uki({**old, ".initrd": ramdisk(OLD)}),
    }
    tree = {**MODULES_ONLY, f"/usr/lib/modules/{OLD}/modules.builtin": b""}
    for config, version in (
        ("", NEW),
        (f"default debian-{OLD}.efi\n", OLD),
        ("default *-5.9*", OLD),
    ):
        mount = esp(tmp_path / "esp", {**images, "loader/loader.conf": config.encode()})
        assert taken(tree, tools, (mount,))[0].kernel_version == version


def test_an_image_without_a_ramdisk(tools: Tools) -> None:
    image = uki({".uname": NEW.encode(), ".linux": kernel(NEW)})
    tree = {**MODULES_ONLY, "/boot/EFI/Linux/a.efi": image}
    with pytest.raises(GuestError, match=r"the image has none.*ukify --initrd"):
        taken(tree, tools)


def test_what_kernel_install_left_with_its_entry(tools: Tools, tmp_path: Path) -> None:
    text = f"title x\nversion {NEW}\nlinux /T/{NEW}/linux\ninitrd /T/{NEW}/initrd\n"
    files = {f"T/{NEW}/linux": kernel(NEW), f"T/{NEW}/initrd": ramdisk(NEW)}
    mount = esp(tmp_path / "esp", {**files, f"loader/entries/T-{NEW}+3-1.conf": text.encode()})
    found, _, _ = taken(MODULES_ONLY, tools, (mount,))
    assert found.kernel == f"/efi/T/{NEW}/linux"
    assert found.chosen_because == "the default of /efi/loader/entries"


def test_what_kernel_install_left_without_an_entry(tools: Tools, tmp_path: Path) -> None:
    mount = esp(tmp_path / "esp", {
        f"T/{NEW}/linux": kernel(NEW), f"T/{NEW}/initrd": ramdisk(NEW),
        f"T/{OLD}/linux": kernel(OLD),
    })  # fmt: skip
    found, _, _ = taken(MODULES_ONLY, tools, (mount,))
    assert (found.kernel, found.ramdisk) == (f"/efi/T/{NEW}/linux", f"/efi/T/{NEW}/initrd")


@pytest.mark.parametrize(
    "beside",
    [
        {f"/usr/lib/modules/{NEW}/initramfs.img": ramdisk(NEW)},
        {f"/usr/lib/modules/{NEW}/initrd": ramdisk(NEW)},
        {f"/boot/initrd.img-{NEW}": ramdisk(NEW)},
        {"/boot/initramfs-linux.img": ramdisk(NEW), f"/usr/lib/modules/{NEW}/pkgbase": "linux\n"},
        {f"/boot/T/{NEW}/initrd": ramdisk(NEW)},
    ],
)
def test_a_kernel_that_lies_with_its_modules(
    tools: Tools, beside: Mapping[str, bytes | str]
) -> None:
    tree = {**MODULES_ONLY, f"/usr/lib/modules/{NEW}/vmlinuz": kernel(NEW), **beside}
    found, _, _ = taken(tree, tools)
    assert found.kernel == f"/usr/lib/modules/{NEW}/vmlinuz"
    assert "as /boot has none" in found.chosen_because


@pytest.mark.parametrize("flavour", ["linux", "linux-lts", "lts"])
def test_kernels_named_for_their_flavour(tools: Tools, flavour: str) -> None:
    tree = {
        **MODULES_ONLY,
        f"/boot/vmlinuz-{flavour}": kernel(NEW),
        f"/boot/initramfs-{flavour}.img": ramdisk(NEW),
    }
    found, _, _ = taken(tree, tools)
    assert (found.kernel, found.kernel_version) == (f"/boot/vmlinuz-{flavour}", NEW)


def test_several_ramdisks_are_joined_as_a_boot_loader_loads_them(tools: Tools) -> None:
    early = cpio({"kernel/x86/microcode/GenuineIntel.bin": bytes(99)})
    first, second = gzip.compress(cpio({"init": b"x"})) + b"", ramdisk(NEW)
    tree = {
        **installed(NEW),
        "/boot/ucode.img": early,
        "/boot/base.img": first,
        "/boot/modules.img": second,
        "/boot/loader/entries/x.conf": f"linux /vmlinuz-{NEW}\ninitrd /ucode.img\n"
        "initrd /base.img\ninitrd /modules.img\n",
    }
    files, _, its_ramdisk = taken(tree, tools)
    assert its_ramdisk == first + bytes(-len(first) % 4) + second
    assert files.ramdisk == "/boot/base.img, /boot/modules.img"


def test_grubs_environment_on_the_system_partition(tools: Tools, tmp_path: Path) -> None:
    """rhinstaller/anaconda PR 3151's layout: read where it is, a warning where it is not."""
    tree: Tree = {
        **BOTH,
        **{f"/boot/loader/entries/m-{v}-1.conf": f"linux /vmlinuz-{v}\n" for v in (OLD, NEW)},
        "/boot/grub2/grubenv": {"link": "../efi/EFI/redhat/grubenv"},
        "/boot/efi": None,
    }
    block = f"# GRUB Environment Block\nsaved_entry=m-{OLD}-1\n".encode()
    mount = esp(tmp_path / "esp", {"EFI/redhat/grubenv": block}, "/boot/efi")
    files, _, _ = taken(tree, tools, (mount,))
    assert (files.kernel_version, files.warnings) == (OLD, ())
    files, _, _ = taken(tree, tools)
    assert files.kernel_version == NEW
    assert "../efi/EFI/redhat/grubenv" in files.warnings[0]


def test_grubs_configuration_on_the_system_partition(tools: Tools, tmp_path: Path) -> None:
    stub = b"search --fs-uuid --set=dev 1\nset prefix=($dev)/grub2\nconfigfile $prefix/grub.cfg\n"
    full = f"menuentry a {{\nlinuxefi /vmlinuz-{OLD}\n}}\n".encode()
    for config, version in ((stub, NEW), (full, OLD)):
        mount = esp(tmp_path / "esp", {"EFI/redhat/grub.cfg": config}, "/boot/efi")
        assert taken(BOTH, tools, (mount,))[0].kernel_version == version


def test_the_firmware_decides_between_two_boot_loaders(tools: Tools, tmp_path: Path) -> None:
    tree = {**BOTH, "/boot/grub/grub.cfg": f"menuentry a {{\nlinux /boot/vmlinuz-{NEW}\n}}\n"}
    entry = {"loader/entries/a.conf": f"linux /T/{OLD}/linux\ninitrd /T/{OLD}/initrd\n".encode()}
    files = {**entry, f"T/{OLD}/linux": kernel(OLD), f"T/{OLD}/initrd": ramdisk(OLD)}
    magic = b"#### LoaderInfo: systemd-boot 252.39-1~deb12u1 ####"
    for program, version in ((b"GRUB", NEW), (magic, OLD)):
        mount = esp(tmp_path / "esp", {**files, "EFI/BOOT/BOOTX64.EFI": program})
        assert taken(tree, tools, (mount,))[0].kernel_version == version


def test_a_damaged_system_partition_costs_a_warning(tools: Tools, tmp_path: Path) -> None:
    mount = esp(tmp_path / "esp", {"EFI/debian/grub.cfg": b"x" * 9000}, "/boot/efi")
    with mount.image.path.open("r+b") as file:
        file.write(bytes(512))
    files, _, _ = taken(BOTH, tools, (mount,))
    assert files.kernel_version == NEW
    assert "EFI system partition cannot be read" in files.warnings[0]
    with pytest.raises(GuestError, match=r"/boot has nothing.*its first sector is damaged"):
        taken(MODULES_ONLY, tools, (mount,))


def test_a_default_without_tries_left_is_said(tools: Tools) -> None:
    tree = {**BOTH, "/boot/loader/entries/x+0-3.conf": f"linux /vmlinuz-{OLD}\n"}
    files, _, _ = taken(tree, tools)
    assert files.kernel_version == OLD
    assert "no tries left" in files.warnings[0]


@pytest.mark.parametrize(
    "path",
    ["extlinux/extlinux.conf", "syslinux/syslinux.cfg", "isolinux/isolinux.cfg", "extlinux.conf"],
)
def test_the_syslinux_family_with_included_files(tools: Tools, path: str) -> None:
    directory = f"/boot/{path}".rpartition("/")[0]
    tree = {
        **BOTH,
        f"/boot/{path}": "default l0\nprompt 0\nMENU INCLUDE themes.cfg\ninclude linux.cfg\n",
        f"{directory}/themes.cfg": "menu title x\n",
        f"{directory}/linux.cfg": f"label l1\n linux /boot/vmlinuz-{NEW}\nlabel l0\n"
        f" linux /boot/vmlinuz-{OLD}\n append initrd=/boot/initramfs-{OLD}.img root=x\n",
    }
    assert collected(tree, tools).kernel_version == OLD


def test_grub_legacys_saved_default(tools: Tools) -> None:
    menu = f"default saved\ntitle a\nkernel /vmlinuz-{NEW}\ntitle b\nkernel /vmlinuz-{OLD}\n"
    tree = {**BOTH, "/boot/grub/menu.lst": menu, "/boot/grub/default": "1\n#\n#\n"}
    assert collected(tree, tools).kernel_version == OLD


def test_what_is_said_where_there_is_no_kernel(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no EFI system partition") as caught:
        taken({"/boot": None, f"/lib/modules/{NEW}": None}, tools)
    assert "/boot has nothing" in str(caught.value)
    assert f"/lib/modules has {NEW}, without a vmlinuz" in str(caught.value)
    assert "among no" not in str(caught.value)
    mount = esp(tmp_path / "esp", {"EFI/BOOT/BOOTX64.EFI": b"x"})
    with pytest.raises(GuestError, match="/efi has EFI"):
        taken({"/boot": None}, tools, (mount,))


# Buses, cards and the tools that make ramdisks


SCSI = Hardware.of({"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"})


@pytest.mark.parametrize(
    ("properties", "modules", "missing"),
    [
        ({"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"}, "", "virtio_scsi, sd_mod"),
        ({"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"}, "virtio_scsi sd_mod", ""),
        ({"hw_scsi_model": "virtio-scsi"}, "", ""),  # counts for the bus scsi alone
        ({"hw_disk_bus": "scsi"}, "sd_mod", "sym53c8xx"),
        ({"hw_disk_bus": "scsi"}, "virtio_scsi sd_mod", ""),
        ({"hw_disk_bus": "scsi", "hw_scsi_model": "lsilogic"}, "virtio_scsi sd_mod", "sym53c8xx"),
        ({"hw_disk_bus": "ide"}, "", "ata_piix, sd_mod"),
        ({"hw_disk_bus": "ide"}, "ata_piix sd_mod", ""),
        ({"hw_disk_bus": "sata"}, "sd_mod", "ahci"),
        ({"hw_disk_bus": "usb"}, "xhci_pci usb_storage", "sd_mod"),
        ({"hw_disk_bus": "virtio"}, "", ""),
    ],
)
def test_the_bus_that_properties_ask_for(
    tools: Tools, properties: dict[str, str], modules: str, missing: str
) -> None:
    names = ("virtio_blk", "virtio_pci", "ext4", *modules.split())
    tree = {**installed(NEW), f"/boot/initramfs-{NEW}.img": ramdisk(NEW, names)}
    hardware = Hardware.of(properties)
    if not missing:
        taken(tree, tools, hardware=hardware)
        return
    with pytest.raises(GuestError, match=f"lacks {missing}, and so does the kernel") as caught:
        taken(tree, tools, hardware=hardware)
    assert "hw_disk_bus=" in str(caught.value)
    del tree[f"/lib/modules/{NEW}/modules.builtin"]
    files, _, _ = taken(tree, tools, hardware=hardware)
    assert any(missing in warning for warning in files.warnings)


def test_a_bus_nobody_knows_is_said(tools: Tools) -> None:
    files, _, _ = taken(installed(NEW), tools, hardware=Hardware.of({"hw_disk_bus": "uml"}))
    assert "hw_disk_bus=uml" in files.warnings[0]


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"hw_vif_model": "e1000"}, "no e1000"),
        ({"hw_vif_model": "VirtualVmxnet3"}, "no vmxnet3"),
        ({"hw_vif_model": "virtio"}, ""),
        ({"hw_vif_model": "what"}, "no driver is known"),
        ({"hw_machine_type": "pc-q35-9.2"}, ""),
        ({"hw_machine_type": "q35", "hw_disk_bus": "ide"}, "has no IDE"),
        ({"hw_disk_bus": "scsi"}, "without hw_scsi_model"),
    ],
)
def test_network_cards_and_machines(tools: Tools, properties: dict[str, str], words: str) -> None:
    names = ("virtio_blk", "virtio_pci", "ext4", "ata_piix", "sd_mod", "virtio_scsi")
    tree = {
        **installed(NEW),
        f"/boot/initramfs-{NEW}.img": ramdisk(NEW, names),
        f"/lib/modules/{NEW}/modules.dep": "kernel/drivers/net/virtio_net.ko.xz: kernel/a.ko.xz\n",
    }
    files, _, _ = taken(tree, tools, hardware=Hardware.of(properties))
    assert any(words in warning for warning in files.warnings) if words else not files.warnings


def test_old_kernels_do_not_know_the_virtio_of_pci_express(tools: Tools) -> None:
    old = "2.6.38"
    files, _, _ = taken(installed(old), tools, hardware=Hardware.of({"hw_machine_type": "q35"}))
    assert "virtio 1.0" in files.warnings[0]


def test_what_is_missing_on_ec2_is_said_of_whole_disks_alone(tools: Tools) -> None:
    tree = {**installed(NEW), f"/lib/modules/{NEW}/modules.dep": "kernel/virtio_net.ko.zst:\n"}
    files, _, _ = taken(tree, tools, whole_disk=True)
    assert "nvme" in files.warnings[0]
    assert "dracut --force --no-hostonly --add-drivers 'nvme'" in files.warnings[0]
    assert "ena" in files.warnings[1]
    assert files.drivers == ("virtio_blk", "virtio_net", "virtio_pci")
    assert taken(tree, tools)[0].warnings == ()


@pytest.mark.parametrize(
    ("tree", "inside", "words"),
    [
        # Debian 14: dracut, with Debian's names and an update-initramfs of its own.
        (
            {"/usr/lib/dracut/dracut-init.sh": "", "/usr/sbin/update-initramfs": ""},
            ("usr/lib/dracut/modules.txt",),
            "dracut --force --no-hostonly --add-drivers 'virtio_blk virtio_pci' /boot/initrd.img-",
        ),
        (
            {"/usr/lib/dracut/x": "", "/etc/initramfs-tools/initramfs.conf": ""},
            ("conf/initramfs.conf",),
            "/etc/initramfs-tools/modules && update-initramfs -u -k",
        ),
        ({"/usr/sbin/mkinitramfs": ""}, (), "update-initramfs -u -k"),
        ({"/etc/mkinitcpio.conf": ""}, ("buildconfig",), "mkinitcpio -P"),
        ({"/etc/booster.yaml": ""}, ("etc/booster.init.yaml",), "regenerate_images"),
        ({"/etc/mkinitfs/mkinitfs.conf": ""}, (), f"mkinitfs {NEW}"),
    ],
)
def test_the_remedy_is_the_installed_tools(
    tools: Tools, tree: Tree, inside: tuple[str, ...], words: str
) -> None:
    content = {f"lib/modules/{NEW}/kernel/ext4.ko": b"x", **dict.fromkeys(inside, b"x")}
    whole = {**installed(NEW, initrd="initrd.img-{}"), f"/boot/initrd.img-{NEW}": cpio(content)}
    with pytest.raises(GuestError, match="lacks virtio_blk, virtio_pci") as caught:
        taken({**whole, **tree}, tools)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (
            "modules.builtin.modinfo",
            b"virtio_pci.license=GPL\0virtio_blk.file=a/b\0ext4.author=x\0",
        ),
        ("config", b"CONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_EXT4_FS=y\n"),
    ],
)
def test_where_a_kernel_says_what_is_part_of_it(tools: Tools, path: str, data: bytes) -> None:
    tree = {
        **installed(NEW),
        f"/boot/initramfs-{NEW}.img": cpio({"init": b"x"}),
        f"/lib/modules/{NEW}/{path}": data,
    }
    del tree[f"/lib/modules/{NEW}/modules.builtin"]
    files, _, _ = taken(tree, tools)
    assert files.warnings == ()


def test_a_ramdisks_own_list_of_what_is_part_of_the_kernel(tools: Tools) -> None:
    listing = b"kernel/virtio_blk.ko\nkernel/virtio_pci.ko\nkernel/ext4.ko\n"
    tree = installed(NEW)
    tree[f"/boot/initramfs-{NEW}.img"] = cpio({f"usr/lib/modules/{NEW}/modules.builtin": listing})
    del tree[f"/lib/modules/{NEW}/modules.builtin"]
    assert taken(tree, tools)[0].warnings == ()


def test_what_the_firmware_remembers_is_said_to_be_unknown(tools: Tools) -> None:
    tree = {
        **BOTH,
        "/boot/loader/entries/a.conf": f"linux /vmlinuz-{OLD}\n",
        "/boot/loader/loader.conf": "default @saved\n",
    }
    files, _, _ = taken(tree, tools)
    assert "@saved" in files.warnings[0]
    assert files.chosen_because == "the default of /boot/loader/entries"


def test_a_default_that_is_no_kernel_is_said(tools: Tools) -> None:
    config = (
        "set default=1\nmenuentry a {\n linux /boot/vmlinuz-5.9.1\n}\n"
        "menuentry 'Windows' {\n chainloader /EFI/Microsoft/Boot/bootmgfw.efi\n}\n"
        "menuentry 'UEFI Firmware Settings' {\n fwsetup\n}\n"
    )
    for number, words in (("1", "which is not there"), ("2", "boots no Linux kernel")):
        text = config.replace("default=1", f"default={number}")
        files, _, _ = taken({**BOTH, "/boot/grub/grub.cfg": text}, tools)
        assert files.kernel_version == NEW
        assert words in files.warnings[0]
