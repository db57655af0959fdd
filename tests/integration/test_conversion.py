"""Conversion as users meet it: foreign images read, none led astray, nothing left of failures."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import http.server
import json
import os
import shlex
import signal
import subprocess
import tarfile
import threading
import xml.etree.ElementTree as Xml
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.convert.conversion import difference
from pipeline.convert.extract import extract, open_format, opened
from pipeline.core.errors import DiskError
from pipeline.core.events import QuietProgress
from pipeline.core.image import DiskImage
from pipeline.disk.blocks.source import RawFile
from pipeline.disk.foreign.server import served
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures import triples
from tests.fixtures.demo import command
from tests.fixtures.disks import foreign
from tests.fixtures.disks.tools import run

pytestmark = pytest.mark.integration
MIB = 1 << 20


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    (tmp_path / "scratch").mkdir()
    with Runner(tmp_path / "commands.log") as runner:
        yield Tools(runner, QuietProgress(), tmp_path / "scratch")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return foreign.sparse_disk(tmp_path / "disk.raw")


def invoke(*words: object, here: Path, ok: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*map(str, words)), cwd=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == ok, done.stdout + done.stderr
    return done


# -- foreign images


@pytest.mark.parametrize(
    "make",
    [
        foreign.vdi,
        foreign.stream_vmdk,
        foreign.vhd,
        lambda c: c + foreign.vhd_footer(len(c), 2, (1 << 64) - 1),
        lambda c: foreign.tar_of(
            ("m.ovf", foreign.ovf("m.vmdk")), ("m.mf", b"x"), ("m.vmdk", foreign.stream_vmdk(c))
        ),
        lambda c: foreign.tar_of(("disk.raw", c)),
        lambda c: gzip.compress(foreign.tar_of(("disk.raw", c))),
        lambda c: bz2.compress(foreign.vdi(c)),
    ],
    ids=["vdi", "stream vmdk", "vhd", "fixed vhd", "ova", "tar", "tar.gz", "vdi.bz2"],
)
def test_an_image_built_from_its_specification_reads_as_its_disk(
    make: Callable[[bytes], bytes], disk: Path, tmp_path: Path, tools: Tools
) -> None:
    image = tmp_path / "image"
    image.write_bytes(make(disk.read_bytes()))
    before = image.read_bytes()
    with opened(open_format(image), tools) as source, RawFile(disk) as raw:
        assert difference(source, raw) is None
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("qcow2", "compression_type=zstd"),
        ("qcow2", "compression_type=zlib"),
        ("qcow2", "compression_type=zstd,cluster_size=2M"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vdi", "static=on"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=fixed"),
    ],
)
def test_what_qemu_writes_is_read(
    driver: str, options: str, disk: Path, tmp_path: Path, tools: Tools
) -> None:
    image = tmp_path / "image"
    packed = ("-c",) if driver == "qcow2" else ()
    run("qemu-img", "convert", *packed, "-O", driver, "-o", options, disk, image)
    with opened(open_format(image), tools) as source:
        content = source.read(0, source.size)
        assert content[: disk.stat().st_size] == disk.read_bytes()
        assert not any(content[disk.stat().st_size :])  # QEMU rounds vpc up to its cylinders
        covered = sum(run.length for run in source.runs(0, source.size))
        assert (
            driver in ("vhdx", "vpc")
            or options == "static=on"
            or "2M" in options
            or covered < 5 * MIB
        )


def test_damage_inside_is_told_and_nothing_is_left(disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    whole = foreign.stream_vmdk(disk.read_bytes())
    at = whole.index(b"\x78\x9c", 128 * 512)
    image.write_bytes(whole[: at + 2] + b"\xff" * 400 + whole[at + 402 :])
    done = invoke("convert", image, "--to", "raw", "--out", "out.raw", here=tmp_path, ok=5)
    assert "image.vmdk" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk.raw", "image.vmdk"]


# -- no header leads to another file


SECRET = b"only for the host\n" * 1000


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET.ljust(MIB, b"s"))
    os.utime(path, (1, 1))
    return path


def unread(path: Path) -> bool:
    """Whether nobody has read the file since its access time was put before its change."""
    return path.stat().st_atime == 1


def test_reading_would_be_seen(secret: Path) -> None:
    assert unread(secret)
    secret.read_bytes()
    if unread(secret):
        pytest.skip("this file system keeps no access times")


@pytest.mark.parametrize("driver", ["qcow2", "vmdk"])
def test_a_layer_of_qemu_opens_nothing_even_without_our_check(
    driver: str, secret: Path, tmp_path: Path, tools: Tools
) -> None:
    """The last line: our own checks are left out, and QEMU finds itself alone."""
    image = tmp_path / "layer"
    base = tmp_path / "base"
    run("qemu-img", "convert", "-f", "raw", "-O", driver, secret, base)
    os.utime(secret, (1, 1))
    run("qemu-img", "create", "-q", "-f", driver, "-b", base, "-F", driver, image)
    os.utime(base, (1, 1))
    try:
        with served(image, driver, tools) as source:  # type: ignore[arg-type]
            assert SECRET[:18] not in source.read(0, source.size)
    except DiskError:
        pass
    assert unread(base) and unread(secret)


def test_a_descriptor_opens_nothing_even_without_our_check(
    secret: Path, tmp_path: Path, tools: Tools
) -> None:
    image = tmp_path / "flat.vmdk"
    image.write_text(
        foreign.vmdk_descriptor(2048, kind="monolithicFlat",
                                extents=(f'RW 2048 FLAT "{secret}" 0',))
    )  # fmt: skip
    with pytest.raises(DiskError), served(image, "vmdk", tools):
        pass
    assert unread(secret)


def test_another_file_of_the_name_is_not_opened(disk: Path, tmp_path: Path, tools: Tools) -> None:
    image = tmp_path / "image"
    image.write_bytes(foreign.vdi(disk.read_bytes()))
    identity = image.stat()
    image.rename(tmp_path / "first")
    image.write_bytes(foreign.vdi(disk.read_bytes()))
    with (
        pytest.raises(DiskError, match="another file"),
        served(image, "vdi", tools, identity=identity),
    ):
        pass


def test_refused_images_are_never_opened_by_qemu(secret: Path, tmp_path: Path) -> None:
    image = tmp_path / "layer.vmdk"
    text = foreign.vmdk_descriptor(2048, parent=str(secret))
    image.write_bytes(foreign.stream_vmdk(bytes(MIB), text))
    done = invoke("convert", image, "--to", "raw", "--verbose", here=tmp_path, ok=2)
    assert str(secret) in done.stderr and "qemu" not in done.stderr.split("Cannot")[0]
    assert unread(secret)


def test_without_namespaces_it_is_said_and_read_all_the_same(disk: Path, tmp_path: Path) -> None:
    """In a user namespace that may make no further ones, as in some containers."""
    image = tmp_path / "image.vdi"
    image.write_bytes(foreign.vdi(disk.read_bytes()))
    convert = shlex.join(command("convert", str(image), "--to", "raw", "--out", "out"))
    script = f"echo 0 > /proc/sys/user/max_mnt_namespaces && exec {convert}"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "without being shut off" in done.stderr
    assert (tmp_path / "out").read_bytes() == disk.read_bytes()


# -- the command


def test_a_dry_run_writes_nothing_and_says_what_comes(disk: Path, tmp_path: Path) -> None:
    odd = foreign.odd_disk(tmp_path / "odd.raw")
    words = ("convert", odd, "--for", "azure", "--json")
    plan = json.loads(invoke(*words, "--dry-run", here=tmp_path).stdout)["plan"]
    assert any("grows from 2098688 to 3145728 bytes" in line for line in plan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk.raw", "odd.raw"]
    made = json.loads(invoke(*words, here=tmp_path).stdout)
    path = tmp_path / "odd.vhd"
    assert made["path"] == str(path) and made["virtual"] == 3 * MIB
    assert path.stat().st_size == 3 * MIB + 512
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "grows" in made["notes"][0]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("disk.raw", "--to", "vmdkk"), 2, "did you mean vmdk?"),
        (("disk.raw", "--for", "azzure"), 2, "did you mean azure?"),
        (("disk.raw", "--to", "qcow2", "--compression", "zst"), 2, "did you mean zstd?"),
        (("disk.raw", "--to", "vdi", "--variant", "fixed"), 2, "no variants"),
        (("disk.raw", "--to", "vdi", "--for", "azure"), 2, "it takes vhd"),
        (("disk.raw",), 2, "nobody says to what"),
        (("nothing", "--to", "raw"), 2, "neither a file nor a build"),
        (("disk.raw", "--to", "raw", "--out", "disk.raw"), 2, "the source itself"),
        (("disk.raw", "--to", "raw", "--out", "no/where"), 2, "no such directory"),
        (("disk.raw", "--to", "raw", "--sha256", "0" * 64, "--out", "x"), 2, "was asked for"),
        (("http://127.0.0.1:9/x", "--to", "raw"), 2, "--sha256"),
        (("short.gz", "--to", "raw", "--out", "x"), 5, "damaged or cut off"),
        (("bomb.gz", "--to", "raw", "--out", "x", "--most", "1"), 2, "more than 1073741824"),
    ],
)
def test_wrong_words_and_damaged_files_have_their_exit_codes(
    words: tuple[str, ...], code: int, said: str, disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.gz").write_bytes(gzip.compress(disk.read_bytes())[:5000])
    if "bomb.gz" in words:
        piece = gzip.compress(bytes(64 * MIB), 1)
        (tmp_path / "bomb.gz").write_bytes(piece * 17)
    before = sorted(tmp_path.iterdir())
    done = invoke("convert", *words, here=tmp_path, ok=code)
    assert said in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_url_is_fetched_by_its_digest(disk: Path, tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/disk.raw"
        words = ("convert", url, "--to", "raw", "--out", "copy")
        invoke(*words, "--sha256", "0" * 64, here=tmp_path, ok=2)
        assert not (tmp_path / "copy").exists()
        invoke(*words, "--sha256", digest, here=tmp_path)
        server.shutdown()
    assert (tmp_path / "copy").read_bytes() == disk.read_bytes()


def test_an_ova_is_what_the_specification_says(disk: Path, tmp_path: Path) -> None:
    invoke("convert", disk, "--for", "vmware", "--cpus", 3, "--memory", 512, here=tmp_path)
    with tarfile.open(tmp_path / "disk.ova") as archive:
        names = archive.getnames()
        content = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert names == ["disk.ovf", "disk.mf", "disk-disk1.vmdk"]
    sums = dict(line.split("= ") for line in content["disk.mf"].decode().splitlines())
    assert sums == {
        f"SHA256({name})": hashlib.sha256(content[name]).hexdigest()
        for name in ("disk.ovf", "disk-disk1.vmdk")
    }
    envelope = Xml.fromstring(content["disk.ovf"])
    ovf = "{http://schemas.dmtf.org/ovf/envelope/1}"
    file = envelope.find(f"{ovf}References/{ovf}File")
    assert file is not None and file.get(f"{ovf}size") == str(len(content["disk-disk1.vmdk"]))
    found = envelope.find(f"{ovf}DiskSection/{ovf}Disk")
    assert found is not None and found.get(f"{ovf}capacity") == str(disk.stat().st_size)
    rasd = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
    needs = {
        item.findtext(f"{rasd}ResourceType"): item.findtext(f"{rasd}VirtualQuantity")
        for item in envelope.iter(f"{ovf}Item")
    }
    assert (needs["3"], needs["4"]) == ("3", "512")


def test_compute_engine_gets_disk_raw_of_whole_gib(disk: Path, tmp_path: Path) -> None:
    invoke("convert", disk, "--for", "gce", here=tmp_path)
    with gzip.open(tmp_path / "disk.tar.gz") as file:
        head = file.read(512)
    assert head[257:265] == b"ustar  \0"  # GNU tar's old format
    listed = run("tar", "-tvzf", tmp_path / "disk.tar.gz").split()
    assert listed[2] == str(1 << 30) and listed[-1] == "disk.raw"


def test_killed_it_leaves_nothing(tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    big.write_bytes(os.urandom(48 * MIB))
    for number in (signal.SIGTERM, signal.SIGKILL):
        argv = command("convert", str(big), "--to", "raw", "--pack", "xz", "--out", "out.xz")
        with subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: any(tmp_path.glob(".convert-*/*.xz")))
            process.send_signal(number)
            process.wait(60)
        wait_for(lambda: not any(tmp_path.glob(".convert-*")))
        assert [path.name for path in tmp_path.iterdir()] == ["big.raw"]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    ended = threading.Event()
    for _ in range(int(seconds / 0.02)):
        with contextlib.suppress(FileNotFoundError):
            if condition():
                return
        ended.wait(0.02)
    raise AssertionError("it never came")


# -- builds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootable disk with a system on it."""
    from pipeline.convert.assemble import make_disk

    place = tmp_path_factory.mktemp("whole")
    files = triples.busybox_triple(place)
    out = place / "whole.raw"
    with Runner() as runner:
        made = Tools(runner, QuietProgress(), place)
        line = "root=LABEL=uec-rootfs ro console=ttyS0"
        make_disk(files.machine, files.kernel, files.ramdisk, line, out, made)
    return out


def test_extraction_is_the_same_from_every_format(
    whole: Path, tmp_path: Path, tools: Tools
) -> None:
    def root(image: Path) -> str:
        scratch = tmp_path / f"{image.name}-scratch"
        scratch.mkdir()
        done = extract(open_format(image), "", Tools(tools.run, tools.progress, scratch))
        return hashlib.sha256(done.root.path.read_bytes()).hexdigest()

    expected = root(whole)
    for words in (
        ("--to", "vmdk"), ("--to", "vmdk", "--variant", "sparse"), ("--to", "vdi"),
        ("--to", "vhdx"), ("--to", "ova"), ("--to", "qcow2"), ("--to", "raw", "--pack", "zstd"),
    ):  # fmt: skip
        image = tmp_path / "".join(words).replace("-", "")
        invoke("convert", whole, *words, "--out", image, here=tmp_path)
        assert root(image) == expected, words


def test_a_build_from_any_format_has_the_same_files_and_its_outputs(
    whole: Path, tmp_path: Path
) -> None:
    recipes = tmp_path / "recipes.toml"
    (tmp_path / "a.ks").write_text("")
    recipes.write_text(
        '[small]\ndescription = "x"\nanswers = "a.ks"\nrelease = "F15"\n'
        'trees = ["/nowhere"]\noutputs = ["qcow2", "vhd"]\n'
    )
    kernels = set()
    for words in ((), ("--to", "vmdk"), ("--to", "vdi"), ("--to", "vhdx")):
        image = whole
        if words:
            image = tmp_path / f"disk-{words[1]}"
            invoke("convert", whole, *words, "--out", image, here=tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IMAGE_PIPELINE_RECIPES", str(recipes))
            invoke("build", "small", "--disk", image, "--no-verify", here=tmp_path)
        build = tmp_path / "build" / "small"
        manifest = json.loads((build / "manifest.json").read_text())
        records = {record["file"]: record for record in manifest["artifacts"]}
        assert {"small-disk.raw", "small-disk.qcow2", "small-disk.vhd"} <= records.keys()
        for name, record in records.items():
            assert hashlib.sha256((build / name).read_bytes()).hexdigest() == record["sha256"]
        run("qemu-img", "compare", build / "small-disk.raw", build / "small-disk.qcow2")
        kernels.add((records["small-vmlinuz"]["sha256"], records["small-initrd"]["sha256"],
                     manifest["root"]["uuid"], records["small.img"]["size"]))  # fmt: skip
    assert len(kernels) == 1
    recipes.write_text(recipes.read_text().replace(', "vhd"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_PIPELINE_RECIPES", str(recipes))
        invoke("build", "small", "--disk", whole, "--no-verify", here=tmp_path)
    assert not (build / "small-disk.vhd").exists() and (build / "small-disk.qcow2").exists()


def test_the_root_becomes_an_archive_that_tar_unpacks(whole: Path, tmp_path: Path) -> None:
    invoke("convert", whole, "--to", "root", "--out", "root.tar.gz", here=tmp_path)
    (tmp_path / "tree").mkdir()
    run("tar", "-xzpf", tmp_path / "root.tar.gz", "--xattrs", "-C", tmp_path / "tree")
    with Runner() as runner:
        (tmp_path / "scratch").mkdir()
        done = extract(
            DiskImage(whole, "raw"), "", Tools(runner, QuietProgress(), tmp_path / "scratch")
        )
    from tests.fixtures.disks import listing, mounted

    with mounted(done.root.path, tmp_path / "mount", "ro") as mount:
        ours, theirs = listing(tmp_path / "tree"), listing(mount)
    assert ours == theirs


@pytest.mark.parametrize("inline", [False, True])
def test_an_archive_of_the_root_has_all_that_ext4_knows(inline: bool, tmp_path: Path) -> None:
    from tests.fixtures.disks import listing, mounted

    image = tmp_path / "root.ext4"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    features = ("-O", "inline_data") if inline else ()
    run("mke2fs", "-q", "-t", "ext4", *features, "-b", "4096", "-I", "256", image)
    with mounted(image, tmp_path / "made") as top:
        for name in ("etc", "dev", "bin", "a" * 200, "var/" + "b" * 120 + "/" + "c" * 120):
            (top / name).mkdir(parents=True)
        (top / "etc" / "small").write_text("x")
        (top / "etc" / "large").write_bytes(os.urandom(3 * MIB))
        with (top / "etc" / "sparse").open("wb") as file:
            file.truncate(5 * MIB)
            file.seek(2 * MIB)
            file.write(b"in the middle")
        (top / "etc" / "link").symlink_to("l" * 150)
        (top / "bin" / "short").symlink_to("x")
        os.link(top / "etc" / "large", top / "bin" / "again")
        os.mknod(top / "dev" / "old", 0o20640, os.makedev(5, 1))
        os.mknod(top / "dev" / "new", 0o60600, os.makedev(259, 70000))
        os.mkfifo(top / "dev" / "pipe", 0o611)
        os.chown(top / "etc" / "small", 3_000_000_000, 1234)
        (top / "etc" / "small").chmod(0o6755)
        os.utime(top / "etc" / "small", ns=(1, 3_500_000_000_123_456_789))
        os.utime(top / "etc" / "link", ns=(1, -5_000_000_001), follow_symlinks=False)
        os.setxattr(top / "etc" / "small", "user.note", b"a=%\n" * 10)
        os.setxattr(top / "etc" / "large", "user.long", b"v" * 1000)
        capability = bytes.fromhex("0100000200200000000000000000000000000000")
        os.setxattr(top / "etc" / "small", "security.capability", capability)
        acl = bytes.fromhex(
            "020000000100070 0ffffffff".replace(" ", "")
            + "020005 00e8030000".replace(" ", "")
            + "04000500ffffffff"
            "10000700ffffffff"
            "20000500ffffffff"
        )
        os.setxattr(top / "bin", "system.posix_acl_access", acl)
    run("e2fsck", "-fn", image)
    invoke("convert", image, "--to", "root", "--root", "0", "--out", "r.tgz", here=tmp_path)
    (tmp_path / "tree").mkdir()
    run("tar", "-xzpf", tmp_path / "r.tgz", "--xattrs", "--xattrs-include=*", "--numeric-owner",
        "-C", tmp_path / "tree")  # fmt: skip
    with mounted(image, tmp_path / "mount", "ro") as mount:
        ours, theirs = listing(tmp_path / "tree"), listing(mount)
    assert ours.keys() == theirs.keys()
    assert {k: (ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]} == {}
