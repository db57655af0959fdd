"""Finished builds for tests, written through the product's own models: no image in them boots."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from pipeline import inventory
from pipeline.install.picture import png_from_ppm
from pipeline.inventory import Entry, Inventory, Package
from pipeline.manifest import (
    AssertionRecord,
    BootRecord,
    CustomizationRecord,
    EditRecord,
    FileRecord,
    Manifest,
    RecipeRecord,
    RootRecord,
    SourceRecord,
    StageRecord,
    VerificationRecord,
    write_manifest,
)

DIFF = """--- /etc/fstab
+++ /etc/fstab
@@ -1,3 +1 @@
-/dev/mapper/VolGroup-lv_root / ext4 defaults 1 1
-UUID=1f2e /boot ext4 defaults 1 2
-/dev/mapper/VolGroup-lv_swap swap swap defaults 0 0
+LABEL=uec-rootfs / ext4 defaults 1 1
"""


def file_record(directory: Path, name: str, content: bytes) -> FileRecord:
    """Writes the file, too."""
    path = directory / name
    path.write_bytes(content)
    return FileRecord(
        file=name,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        allocated=path.stat().st_blocks * 512,
    )


def finished_manifest(directory: Path, root: bytes, **changes: object) -> Manifest:
    """A manifest of three small files, which are written; `changes` replace its fields."""
    name = str(changes.get("name", directory.name))
    fields: dict[str, object] = {
        "name": name,
        "created": "2026-11-21T05:40:00Z",
        "product": "0.1.0",
        "recipe": RecipeRecord(name=name, description="A small system", digest="ab" * 32),
        "source": SourceRecord(
            kind="install",
            file="disk.img",
            volume="LV VolGroup/lv_root in partition 2",
            method="copy of used blocks",
            copied=812 << 20,
        ),
        "machine": file_record(directory, f"{name}.img", root),
        "kernel": file_record(directory, f"{name}-vmlinuz", b"kernel" * 900),
        "ramdisk": file_record(directory, f"{name}-initrd", b"ramdisk" * 900),
        "root": RootRecord(
            filesystem="ext4",
            label="uec-rootfs",
            uuid="0b9c4a4e-6f3a-4e0e-9d0a-4f1de5f3a111",
            bytes=3500 << 20,
        ),
        "boot": BootRecord(
            kernel_version="2.6.38.6-26.rc1.fc15.x86_64",
            chosen="default entry of grub.conf",
            command_line="root=LABEL=uec-rootfs ro console=tty0 console=ttyS0",
            architecture="x86_64",
        ),
        "customization": CustomizationRecord(
            backend="e2fsprogs",
            edits=(
                EditRecord(path="/etc/fstab", change=DIFF),
                EditRecord(path="/etc/rc.d/rc.local", change="written, mode 0755"),
            ),
            removed=("/etc/ssh/ssh_host_rsa_key", "/var/log/anaconda.log"),
            kept_mounts=("tmpfs /dev/shm tmpfs defaults 0 0",),
            relabel="labelled",
            warnings=(),
        ),
        "verification": VerificationRecord(
            passed=True,
            seconds_to_ssh=51.3,
            boot_seconds={"first": 51.3, "again": 44.0},
            assertions=(
                AssertionRecord(
                    name="root by label", passed=True, reached=True, detail="/dev/vda is /"
                ),
                AssertionRecord(name="ssh key", passed=True, reached=True, detail="one key"),
            ),
            console_lines=(),
        ),
        "properties": {"os_distro": "fedora", "os_version": "15"},
        "stages": {
            "install": StageRecord(seconds=182.4, reused=False, begun=0.4),
            "extract": StageRecord(seconds=2.9, reused=False, begun=182.9),
            "customize": StageRecord(seconds=0.6, reused=False, begun=185.8),
            "image": StageRecord(seconds=3.7, reused=False, begun=182.8),
            "digests": StageRecord(seconds=4.1, reused=False, begun=186.5),
            "verify": StageRecord(seconds=96.0, reused=False, begun=186.5),
        },
        "acceleration": "tcg",
    }
    return Manifest.model_validate({**fields, **changes})


def entry(path: str, size: int, *, owner: int = -1, check: int = 1, kind: str = "f") -> Entry:
    """A file of root's, mode 0644."""
    blocks = -(-size // 4096) * 4096
    return Entry(path, kind, 0o644, 0, 0, size, blocks, check, owner)


def small_inventory() -> Inventory:
    """Two packages, five files."""
    return Inventory(
        entries=(
            entry("/etc/fstab", 60),
            entry("/usr", 4096, kind="d"),
            entry("/usr/bin/bash", 1_200_000, owner=0),
            entry("/usr/lib/libc.so.6", 1_900_000, owner=1),
            entry("/usr/share/doc/bash/README", 9000, owner=0),
        ),
        packages=(Package("bash", "5.2-1", "amd64"), Package("libc6", "2.36-9", "amd64")),
        manager="dpkg",
        unknown="",
        used=40 << 20,
        size=3500 << 20,
    )


def finished_build(
    directory: Path,
    *,
    listing: Inventory | None = None,
    evidence: Mapping[str, bytes] | None = None,
    root: bytes = b"root" * 5000,
    **changes: object,
) -> Manifest:
    """A finished build in `directory`, made if missing.

    evidence: file names and contents. root: the machine image's content.
    """
    directory.mkdir(parents=True, exist_ok=True)
    manifest = finished_manifest(directory, root, **changes)
    (directory / inventory.FILE).write_bytes(inventory.dump(listing or small_inventory()))
    for name, content in (evidence or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(manifest, directory)
    return manifest


def png(width: int, height: int) -> bytes:
    """A picture with a gradient."""
    pixels = bytes(c for y in range(height) for x in range(width) for c in (x % 256, y % 256, 128))
    return png_from_ppm(b"P6\n%d %d\n255\n" % (width, height) + pixels)


def png_size(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and the unpacked rows of a PNG, its checksums verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    position, size, packed = 8, (0, 0), b""
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        (check,) = struct.unpack_from(">I", data, position + 8 + length)
        assert check == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack_from(">II", body)
        packed += body if kind == b"IDAT" else b""
        position += 12 + length
    return (*size, zlib.decompress(packed))
