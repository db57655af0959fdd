"""Stands in for a mirror that lacks installer components (udebs) of Debian.

Some mirrors prune *.udeb files. The missing ones that Debian's installer insists on are made
here from the same versions' ordinary packages, or as empty packages where nothing of them is
used, and put into the installer's initrd; an early command of the answer file installs them.

usage: udebs.py MIRROR SUITE TREE ANSWERS PLACE
    TREE: an installer's .../netboot/debian-installer/amd64 directory. ANSWERS: a preseed file.
    PLACE: gets tree/ (kernel, initrd, SHA256SUMS) and answers.preseed.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipeline.builders.demo.archive import FileTree, write_cpio

EARLY = (
    "mkdir /udebs; tar -xf /udebs.tar -C /udebs; "
    "for u in /udebs/*.udeb; do udpkg --force-configure -i $u || udpkg -i $u; done; depmod -a; true"
)
Paragraph = dict[str, str]


def paragraphs(text: str) -> Iterator[Paragraph]:
    """Packages or status files (deb822), continuation lines left out."""
    for block in text.split("\n\n"):
        pairs = (line.partition(": ") for line in block.splitlines() if not line.startswith(" "))
        fields = {key: value for key, colon, value in pairs if colon}
        if fields:
            yield fields


def index(mirror: str, suite: str, component: str) -> dict[str, Paragraph]:
    """The packages of a component by name."""
    with urllib.request.urlopen(f"{mirror}/dists/{suite}/{component}/Packages.xz") as stream:
        text = lzma.decompress(stream.read()).decode()
    return {package["Package"]: package for package in paragraphs(text)}


def is_missing(mirror: str, package: Paragraph) -> bool:
    """Whether the mirror lists the package and does not have it."""
    request = urllib.request.Request(f"{mirror}/{package['Filename']}", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False


def fetch(mirror: str, package: Paragraph, place: Path) -> Path:
    """Unpack an ordinary package below `place`."""
    target = place / package["Package"]
    deb = place / "package.deb"
    with urllib.request.urlopen(f"{mirror}/{package['Filename']}") as stream, deb.open("wb") as f:
        shutil.copyfileobj(stream, f)
    with deb.open("rb") as f:
        assert hashlib.file_digest(f, "sha256").hexdigest() == package["SHA256"]
    subprocess.run(["dpkg-deb", "-x", deb, target], check=True)
    return target


def make_udeb(package: Paragraph, files: dict[str, Path], place: Path) -> Path:
    """A udeb with the files, and the fields by which the installer knows the real one."""
    root = place / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, root / name)
    (root / "DEBIAN").mkdir(parents=True)
    kept = ("Package", "Version", "Architecture", "Maintainer", "Provides", "Description")
    control = [f"{name}: {package[name]}" for name in kept if name in package]
    (root / "DEBIAN" / "control").write_text("\n".join(control) + "\n")
    udeb = place / f"{package['Package']}.udeb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-b", root, udeb], check=True, capture_output=True)
    return udeb


def contents(name: str, release: str, unpacked: dict[str, Path]) -> dict[str, Path]:
    """Files of the udebs whose content the installation uses; none for the others."""
    kernel = f"linux-image-{release}"
    files: dict[str, Path] = {}
    modules = {
        "ext4-modules": ("ext4", "jbd2", "mbcache", "crc16", "crc32c_generic", "libcrc32c"),
        # partman stops at a dialog unless software RAID could be loaded
        "md-modules": (
            *("dm-mod", "dm-snapshot", "dm-bufio", "dm-mirror", "dm-log", "dm-region-hash"),
            *("md-mod", "linear", "raid0", "raid1", "raid10", "raid456"),
            *("async_memcpy", "async_pq", "async_raid6_recov", "async_tx", "async_xor"),
            *("raid6_pq", "xor"),
        ),
        "scsi-modules": ("virtio_blk", "virtio_scsi"),
        "loop-modules": ("loop",),
    }
    if (kind := name.removesuffix(f"-{release}-di")) in modules:
        for path in unpacked[kernel].rglob("*.ko*"):
            if path.name.partition(".")[0].replace("_", "-") in [
                m.replace("_", "-") for m in modules[kind]
            ]:
                files[str(path.relative_to(unpacked[kernel]))] = path
    libraries = {
        "libmount1-udeb": ["libmount1"],
        "libfdisk1-udeb": ["libfdisk1"],
        "libsmartcols1-udeb": ["libsmartcols1"],
        "e2fsprogs-udeb": ["e2fsprogs", "libext2fs2t64", "libcom-err2", "libss2"],
    }
    for package in libraries.get(name, []):
        for path in unpacked[package].rglob("*"):
            if path.is_file() and ".so." in path.name:
                files[f"usr/lib/{_soname(path.name)}"] = path
            elif path.is_file() and path.parent.name == "sbin":
                files[f"usr/sbin/{path.name}"] = path
            elif path.name == "mke2fs.conf":
                files["etc/mke2fs.conf"] = path
    if name == "e2fsprogs-udeb":
        for alias in ("mkfs.ext4", "mkfs.ext3", "mkfs.ext2"):
            files[f"usr/sbin/{alias}"] = files["usr/sbin/mke2fs"]
        for alias in ("fsck.ext4", "fsck.ext3", "fsck.ext2"):
            files[f"usr/sbin/{alias}"] = files["usr/sbin/e2fsck"]
    return files


def _soname(name: str) -> str:
    stem, _, version = name.partition(".so.")
    return f"{stem}.so.{version.partition('.')[0]}"


def complete(mirror: str, suite: str, tree: Path, answers: Path, place: Path) -> None:
    """Make the tree and the answer file; see the module's text."""
    initrd = gzip.decompress((tree / "initrd.gz").read_bytes())
    work = Path(tempfile.mkdtemp(dir=place))
    try:
        subprocess.run(
            ["cpio", "-id", "--quiet", "var/lib/dpkg/status", "usr/lib/modules/*/modules.order"],
            input=initrd,
            cwd=work,
            check=True,
        )
        release = next((work / "usr" / "lib" / "modules").iterdir()).name
        status = (work / "var/lib/dpkg/status").read_text()
        present = {package["Package"] for package in paragraphs(status)}
        udebs = index(mirror, suite, "main/debian-installer/binary-amd64")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            lacking = dict(
                zip(udebs, pool.map(lambda p: is_missing(mirror, p), udebs.values()), strict=True)
            )
        wanted = [udebs[name] for name in udebs if lacking[name] and name not in present]
        debs = index(mirror, suite, "main/binary-amd64")
        needed = [f"linux-image-{release}", "e2fsprogs", "libext2fs2t64", "libcom-err2", "libss2"]
        needed += ["libmount1", "libfdisk1", "libsmartcols1"]
        unpacked = {name: fetch(mirror, debs[name], work) for name in needed}
        bundle = io.BytesIO()
        with tarfile.open(fileobj=bundle, mode="w") as tar:
            for package in wanted:
                udeb = make_udeb(package, contents(package["Package"], release, unpacked), work)
                tar.add(udeb, udeb.name)
        extra = FileTree()
        extra.put("udebs.tar", bundle.getvalue())
        cpio = io.BytesIO()
        write_cpio(extra, cpio)
        (place / "tree").mkdir()
        shutil.copyfile(tree / "linux", place / "tree" / "linux")
        with (place / "tree" / "initrd.gz").open("wb") as file:
            file.write((tree / "initrd.gz").read_bytes() + gzip.compress(cpio.getvalue(), 1))
        sums = [
            f"{hashlib.sha256((place / 'tree' / n).read_bytes()).hexdigest()}  ./{n}\n"
            for n in ("linux", "initrd.gz")
        ]
        (place / "tree" / "SHA256SUMS").write_text("".join(sums))
        text = answers.read_text() + f"d-i preseed/early_command string {EARLY}\n"
        (place / "answers.preseed").write_text(text)
        print(f"{len(wanted)} of {len(udebs)} udebs replaced, kernel {release}")
    finally:
        shutil.rmtree(work)


def netboot(mirror: str, suite: str, release: str, place: Path) -> Path:
    """The installer's kernel and initrd from their Debian package: the directory with both."""
    debs = index(mirror, suite, "main/binary-amd64")
    unpacked = fetch(mirror, debs[f"debian-installer-{release}-netboot-amd64"], place)
    return next(unpacked.rglob("text/debian-installer/amd64"))


if __name__ == "__main__":
    complete(sys.argv[1], sys.argv[2], *map(Path, sys.argv[3:]))
