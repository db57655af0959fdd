"""What extraction may cost, counted, and what it does when the host fails it."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.convert.extract import Extraction, extract, open_format
from pipeline.core.errors import DiskError, HostError, InputError
from pipeline.core.events import QuietProgress
from pipeline.core.image import DiskImage
from pipeline.core.resources import PROJECT
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.disks import mounted
from tests.fixtures.disks.tools import run
from tests.fixtures.disks.writers import write_mbr
from tests.robustness.fuzz.seeds import FileDisk, Seed, journalled, make_seeds

pytestmark = pytest.mark.integration

MIB, GIB = 1 << 20, 1 << 30
MEMORY = 64 * MIB
_MEASURE = """
import json, resource, sys
from pathlib import Path
from pipeline.convert.extract import extract, open_format
from pipeline.core.events import QuietProgress
from pipeline.host.programs import Runner
from pipeline.host.context import Tools

def counts():
    return dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())

def peak():
    # Not ru_maxrss: it starts with the peak of the process that was forked (getrusage(2)).
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

before = counts()
with Runner() as runner:
    tools = Tools(runner, QuietProgress(), Path(sys.argv[2]))
    done = extract(open_format(Path(sys.argv[1])), "", tools)
after = counts()
print(json.dumps({
    "copied": done.copied,
    "size": done.root.size,
    "method": done.method,
    "memory": peak(),
    "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    "read": int(after["rchar"]) - int(before["rchar"]),
    "written": int(after["wchar"]) - int(before["wchar"]),
    "reads": int(after["syscr"]) - int(before["syscr"]),
}))
"""


def measured(disk: Path, scratch: Path) -> dict[str, int]:
    """Extract in a process of its own and tell what it cost."""
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, disk, scratch],
        cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def root_disk(path: Path, size: int, used: int) -> Path:
    """A disk without partitions: a root of `size` bytes of which about `used` are used."""
    with path.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", path)
    with mounted(path, path.with_suffix(".mount")) as top:
        for name in ("etc", "usr", "bin"):
            (top / name).mkdir()
        (top / "etc/fstab").write_text("LABEL=root / ext4\n")
        with (top / "content").open("wb") as file:
            for number in range(used // MIB):
                file.write((number + 1).to_bytes(8, "little") * (MIB // 8))
    return path


def test_memory_and_work_do_not_grow_with_the_disk(tmp_path: Path) -> None:
    small = measured(root_disk(tmp_path / "small", 2 * GIB, 128 * MIB), tmp_path / "one")
    large = measured(root_disk(tmp_path / "large", 200 * GIB, 128 * MIB), tmp_path / "two")
    assert large["size"] == 200 * GIB
    for figures in (small, large):
        assert figures["memory"] < MEMORY
        assert figures["children"] < MEMORY
    # A hundred times the disk: more descriptors and a larger journal, nothing else.
    assert large["memory"] - small["memory"] < 8 * MIB
    assert large["copied"] - small["copied"] < 8 * MIB
    assert large["read"] - small["read"] < 32 * MIB
    assert (tmp_path / "two/root.img").stat().st_blocks * 512 < 512 * MIB


@pytest.mark.parametrize("options", ["-c", "-c -o cluster_size=2M", "-o cluster_size=2M"])
def test_memory_on_qcow2(options: str, tmp_path: Path) -> None:
    raw, disk = root_disk(tmp_path / "raw", GIB, 200 * MIB), tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options.split(), raw, disk)
    figures = measured(disk, tmp_path / "scratch")
    assert figures["copied"] >= 200 * MIB
    assert figures["memory"] < MEMORY


def test_each_used_byte_is_read_once_and_written_once(tmp_path: Path) -> None:
    used = 256 * MIB
    figures = measured(root_disk(tmp_path / "disk", GIB, used), tmp_path / "scratch")
    assert used <= figures["copied"] < used + 16 * MIB
    # Beside the copy only superblocks, descriptors, bitmaps and a few directories are read.
    assert figures["read"] - figures["copied"] < 8 * MIB
    assert figures["written"] - figures["copied"] < MIB
    assert figures["reads"] < 1000


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seed]:
    return {seed.name: seed for seed in make_seeds(tmp_path_factory.mktemp("seeds"))}


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    scratch = tmp_path / "work"
    scratch.mkdir()
    with Runner() as runner:
        yield Tools(runner, QuietProgress(), scratch)


@pytest.mark.parametrize("layout", ["lvm", "two-pvs", "gpt"])
def test_a_host_with_reflinks_shares_the_blocks(
    layout: str, seeds: dict[str, Seed], tmp_path: Path
) -> None:
    host = tmp_path / "host.fs"
    with host.open("wb") as file:
        file.truncate(400 * MIB)
    run("mkfs.xfs", "-q", "-m", "reflink=1", host)
    with mounted(host, tmp_path / "host") as top, Runner() as runner:
        disk = top / "disk.img"
        run("cp", seeds[layout].path, disk)
        (top / "work").mkdir()
        done = extract(open_format(disk), "", Tools(runner, QuietProgress(), top / "work"))
        assert "reflink" in done.method and done.copied == 0
        run("e2fsck", "-f", "-n", done.root.path)
        plain = extracted_elsewhere(seeds[layout].path, tmp_path)
        assert same_files(done, plain)


def extracted_elsewhere(disk: Path, folder: Path) -> Extraction:
    (folder / "plain").mkdir()
    with Runner() as runner:
        return extract(open_format(disk), "", Tools(runner, QuietProgress(), folder / "plain"))


def same_files(first: Extraction, second: Extraction) -> bool:
    names = [run("debugfs", "-R", "ls -lr /srv", d.root.path) for d in (first, second)]
    return names[0] == names[1] and "file-39" in names[0]


def test_another_file_system_for_the_result(seeds: dict[str, Seed], tmp_path: Path) -> None:
    """Across file systems the kernel may refuse to copy; then bytes go by hand."""
    host = tmp_path / "host.fs"
    with host.open("wb") as file:
        file.truncate(400 * MIB)
    run("mkfs.xfs", "-q", host)
    with mounted(host, tmp_path / "host") as top, Runner() as runner:
        done = extract(open_format(seeds["lvm"].path), "", Tools(runner, QuietProgress(), top))
        assert done.copied > 0
        assert same_files(done, extracted_elsewhere(seeds["lvm"].path, tmp_path))


def test_a_full_disk_is_told_before_it_is_filled(seeds: dict[str, Seed], tmp_path: Path) -> None:
    top = tmp_path / "host"
    top.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", top)
    try:
        with Runner() as runner:
            tools = Tools(runner, QuietProgress(), top)
            with pytest.raises(HostError, match=r"needs \d+ MiB and \d+ MiB are free"):
                extract(open_format(seeds["plain"].path), "", tools)
        assert (top / "root.img").stat().st_blocks == 0
    finally:
        run("umount", top)


def test_a_file_size_limit_is_a_host_error(seeds: dict[str, Seed], tools: Tools) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        with pytest.raises(HostError, match="File too large"):
            extract(open_format(seeds["plain"].path), "", tools)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_running_machines_disk_is_refused(seeds: dict[str, Seed], tools: Tools) -> None:
    path = seeds["plain"].path
    with path.open("rb") as file:
        # As QEMU does for an image it writes to (block/file-posix.c).
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0)
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
        with pytest.raises(InputError, match="running machine"):
            extract(DiskImage(path, "raw"), "", tools)
    extract(DiskImage(path, "raw"), "", tools)


def test_a_real_qemu_holds_that_lock(seeds: dict[str, Seed], tools: Tools, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    shutil.copyfile(seeds["plain"].path, disk)
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none",
            "-S", "-drive", f"file={disk},format=raw,if=virtio"]  # fmt: skip
    with tools.run.start(argv) as program:
        deadline = time.monotonic() + 60
        while True:  # until it has opened its disk
            for image in tools.scratch.iterdir():
                image.unlink()
            try:
                extract(DiskImage(disk, "raw"), "", tools)
            except InputError as error:
                assert "running machine" in str(error)
                break
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)


def test_a_result_is_never_written_over(seeds: dict[str, Seed], tools: Tools) -> None:
    (tools.scratch / "root.img").symlink_to("/etc/passwd")
    with pytest.raises(HostError, match="File exists"):
        extract(open_format(seeds["plain"].path), "", tools)


def test_a_disk_that_changes_meanwhile_is_an_error(
    seeds: dict[str, Seed], tools: Tools, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    shutil.copyfile(seeds["plain"].path, disk)

    class Scribbler(QuietProgress):
        def task(self, *words: object, **more: object) -> object:  # type: ignore[override]
            with disk.open("r+b") as file:
                file.write(b"\1")
            return super().task("", None)

    with pytest.raises(DiskError, match="somebody wrote to it"):
        extract(DiskImage(disk, "raw"), "", Tools(tools.run, Scribbler(), tools.scratch))  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0, 511, 512, 3 * MIB + 700, 5 * MIB, 9 * MIB])
def test_a_cut_disk_is_refused_and_leaves_no_image(
    cut: int, seeds: dict[str, Seed], tools: Tools, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(seeds["lvm"].path.read_bytes()[:cut])
    with pytest.raises((DiskError, InputError)):
        extract(open_format(disk), "", tools)


def test_two_roots_need_a_choice(seeds: dict[str, Seed], tools: Tools, tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "disk.img", 16 * MIB)
    write_mbr(disk, [(0x83, 2048, 12288), (0x83, 16384, 12288)])
    for start in (2048, 16384):
        disk.place(seeds["plain"].path, [(start * 512, 6 * MIB)])
    image = open_format(disk.path)
    with pytest.raises(InputError, match="several volumes") as caught:
        extract(image, "", tools)
    assert "1 (ext4" in str(caught.value) and "2 (ext4" in str(caught.value)
    assert extract(image, "2", tools).root.source == "partition 2"


def test_a_root_that_exists_in_its_journal_alone_is_found(tools: Tools, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("etc", "usr", "bin"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/fstab").write_text("/dev/sda1 / ext4\n")
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg",
            "-U", "0f15f15f-0f15-4f15-8f15-0f15f15f0f15"]  # fmt: skip
    run(*make, tmp_path / "empty", "16M")
    run(*make, "-d", tree, tmp_path / "full", "16M")
    disk = journalled(tmp_path / "empty", tmp_path / "full", tmp_path / "disk.img")
    assert "etc" not in run("debugfs", "-c", "-R", "ls", disk)
    done = extract(open_format(disk), "", tools)
    assert any("journal" in note for note in done.notes)
    run("e2fsck", "-f", "-n", done.root.path)
    assert "fstab" in run("debugfs", "-R", "ls /etc", done.root.path)


@pytest.mark.parametrize("fault", [False, True])
def test_a_clean_file_system_is_checked_where_it_lies(fault: bool, tmp_path: Path) -> None:
    """Its copy is looked at again only when the original shows a fault."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(MIB + 64 * MIB)
    sectors = (64 * MIB) >> 9
    run("sfdisk", "-q", disk, text=f"2048,{sectors},83\n")
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={MIB}", disk, "64M")
    if fault:  # a wrong count of links: preening mends it
        run("debugfs", "-w", "-R", "sif /lost+found links_count 7", f"{disk}?offset={MIB}")
    log, scratch = tmp_path / "commands.log", tmp_path / "scratch"
    scratch.mkdir()
    with Runner(log) as runner:
        done = extract(open_format(disk), "1", Tools(runner, QuietProgress(), scratch))
    checks = [line for line in log.read_text().splitlines() if line.startswith("e2fsck")]
    assert f"{disk}?offset={MIB}" in checks[0]
    assert len(checks) == (4 if fault else 1)
    assert len(done.notes) == int(fault)
    run("e2fsck", "-f", "-n", done.root.path)
