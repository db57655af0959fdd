"""The manifest, its earlier version, and what a failed check of any artifact is said by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.builds.listing import show_lines, summary, summary_lines
from pipeline.builds.manifest import FILE, read_manifest
from pipeline.builds.report import write_report
from pipeline.core.errors import InputError
from pipeline.core.identity import content_key
from pipeline.core.image import Role
from pipeline.workflows.prune import known_verdicts
from tests.fixtures.finished import check_report, finished_build, with_disk

VERSION_1 = Path(__file__).parents[2] / "fixtures" / "manifests" / "version-1.json"


def test_version_1_is_read_with_all_it_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(VERSION_1.read_bytes())
    old = json.loads(VERSION_1.read_text())
    manifest = read_manifest(tmp_path)
    assert manifest.version == 2
    roles = (Role.MACHINE, Role.KERNEL, Role.RAMDISK, Role.DISK)
    assert tuple(record.role for record in manifest.artifacts) == roles
    for record in manifest.artifacts:
        before = old[record.role]
        assert (record.file, record.sha256) == (before["file"], before["sha256"])
        assert (record.size, record.allocated) == (before["bytes"], before["allocated"])
    triple, disk = manifest.check("triple"), manifest.check("disk")
    assert triple is not None
    assert triple.passed
    assert triple.artifacts["machine"] == old["machine"]["sha256"]
    assert disk is not None
    assert [a.name for a in disk.failures] == ["boots through UEFI"]
    assert set(manifest.steps) == set(old["stages"])
    assert manifest.boot.command_line == old["boot"]["command_line"]


def test_what_was_registered_of_a_version_1_build_keeps_its_key(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(VERSION_1.read_bytes())
    image = read_manifest(tmp_path).described(tmp_path)
    # As the release that wrote version 1 computed them.
    assert content_key(image) == (
        "818493968890627b30e1593b43c26936a8db49fa75b86f6312b7c4dc1c4138a8"
    )
    assert content_key(image, whole_disk=True) == (
        "d963ac0d7df029e0b8d47954d57729c01da6e21bfba0e21d4e30624e3545b9c5"
    )


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 3}'])
def test_what_is_no_manifest_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match="no manifest of version 2 or 1"):
        read_manifest(tmp_path)


def test_a_failed_check_of_the_disk_is_seen_everywhere(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    failed = check_report("disk", passed=False)
    manifest = with_disk(finished_build(directory), directory, failed)
    known = summary(directory)
    assert (known.boot_check, known.failed) == ("failed", ("disk",))
    assert "boot check failed (disk)" in "\n".join(summary_lines([known]))
    shown = "\n".join(show_lines(manifest, known))
    assert "boot check    failed (disk)" in shown
    assert "FAILED        root by label: /dev/vda is /" in shown
    page = write_report(directory).read_text()
    assert "boot check failed: whole disk" in page
    image = manifest.image(directory)
    assert (image.verified(), image.verified(whole_disk=True)) == (True, False)


def test_generations_are_judged_by_their_own_check(tmp_path: Path) -> None:
    directory = tmp_path / "small"
    manifest = with_disk(finished_build(directory), directory, check_report("disk", passed=False))
    image = manifest.described(directory)
    verdicts = known_verdicts(directory)
    assert verdicts[content_key(image)] is True
    assert verdicts[content_key(image, whole_disk=True)] is False


def test_a_file_that_was_cut_is_no_part_of_the_image(tmp_path: Path) -> None:
    manifest = finished_build(tmp_path / "small")
    (tmp_path / "small" / "small.img").write_bytes(b"cut")
    with pytest.raises(InputError, match="has 3 bytes"):
        manifest.image(tmp_path / "small")
