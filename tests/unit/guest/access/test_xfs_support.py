"""Which XFS this host can edit: by feature words, kernels and xfsprogs that are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.superblock import Superblock
from pipeline.guest.access.xfs_support import appliance_kernel, features, require_known
from tests.fixtures.boot_files import kernel

BASE = 0x3F  # all that Linux 5.19 knows
NEWEST = BASE & ~0x10 | 0xC0  # mkfs.xfs since 6.18
METADIR = NEWEST | 0x100


def xfs(incompat: int) -> Superblock:
    return Superblock("xfs", ro_compat=0xF, incompat=incompat)


@pytest.mark.parametrize(
    ("kernel", "xfsprogs", "incompat", "words"),
    [
        ("6.1.0-57-amd64", "6.1.0", NEWEST, ["exchange (since 6.10), parent", "lts_6.1.conf"]),
        ("6.12.9-amd64", "6.1.0", NEWEST, ["xfs_repair version 6.1.0 does not know exchange"]),
        ("6.1.0", "7.2.0", NEWEST, ["Linux 6.1.0 of the editing appliance does not know"]),
        ("6.12.9", "6.12.0", METADIR, ["metadir (since 6.13)", "lts_6.12.conf"]),
        ("7.2.1", "7.2.0", NEWEST | 1 << 20, ["the incompat feature 0x100000"]),
        ("7.2.1", "7.2.0", 0x1F, ["needsrepair", "Run xfs_repair on the disk itself"]),
    ],
)
def test_features_that_this_host_lacks_are_named_with_the_remedy(
    kernel: str,
    xfsprogs: str,
    incompat: int,
    words: list[str],
) -> None:
    said = f"xfs_repair version {xfsprogs}"
    with pytest.raises(DiskError) as caught:
        require_known(xfs(incompat), "partition 1", kernel=kernel, xfsprogs=said)
    assert all(each in str(caught.value) for each in ["partition 1", *words])


@pytest.mark.parametrize(
    ("kernel", "xfsprogs", "incompat"),
    [
        ("6.1.0-57-amd64", "6.1.0", BASE & ~0x10),
        ("6.12.9", "6.12.0", NEWEST),
        ("7.2.12+deb14", "7.2.0", METADIR),
        ("5.14.0-611.el9.x86_64", "6.12.0", NEWEST),  # with newer file systems than its number
        ("", "6.12.0", NEWEST),
    ],
)
def test_what_it_knows_is_taken(kernel: str, xfsprogs: str, incompat: int) -> None:
    said = f"xfs_repair version {xfsprogs}"
    require_known(xfs(incompat), "partition 1", kernel=kernel, xfsprogs=said)


def test_the_default_of_mkfs_since_6_18() -> None:
    names = [feature.name for feature in features(Superblock("xfs", incompat=0xEB))]
    assert names == ["ftype", "sparse inodes", "bigtime", "nrext64", "exchange", "parent"]


def test_the_appliance_runs_the_newest_kernel_that_has_modules(tmp_path: Path) -> None:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    for release in ("6.1.0-9-amd64", "6.1.0-57-amd64", "6.12.0-1-amd64"):
        (boot / f"vmlinuz-{release}").mkdir(parents=True)
    assert appliance_kernel({}, boot, modules) == ""
    for release in ("6.1.0-9-amd64", "6.1.0-57-amd64"):
        (modules / release).mkdir(parents=True)
    assert appliance_kernel({}, boot, modules) == "6.1.0-57-amd64"
    # Where kernels lie beside their modules, those come first.
    (modules / "6.1.0-9-amd64/vmlinuz").touch()
    assert appliance_kernel({}, boot, modules) == "6.1.0-9-amd64"


def test_a_kernel_that_is_named_counts(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(kernel("6.12.9"))
    assert appliance_kernel({"LIBGUESTFS_PATH": f"/nowhere:{tmp_path}"}) == "6.12.9"
    (tmp_path / "other").write_bytes(b"no kernel")
    named = {"SUPERMIN_KERNEL": str(tmp_path / "other"), "SUPERMIN_MODULES": "/lib/modules/7.2.12"}
    assert appliance_kernel(named) == "7.2.12"
