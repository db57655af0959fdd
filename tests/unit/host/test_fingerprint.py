"""What a step's key depends on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.core.resources import PROJECT
from pipeline.host.fingerprint import code_of, step_key


def names(*modules: str, without: tuple[str, ...] = ()) -> set[str]:
    return {str(p.relative_to(PROJECT / "pipeline")) for p in code_of(*modules, without=without)}


def test_the_code_behind_the_image_is_all_that_it_imports() -> None:
    found = names("pipeline.workflows.image_step")
    assert {
        "workflows/image_step.py",
        "convert/extract.py",
        "disk/blocks/copy.py",
        "guest/customize/fstab.py",
        "guest/boot/select.py",
        "convert/grub.py",
        "host/sparse.py",
        "host/memory.py",
        "core/image.py",
    } <= found
    assert not any(name.startswith(("cli/", "clouds/", "verify/")) for name in found)


def test_an_install_does_not_depend_on_what_runs_programs() -> None:
    found = names("pipeline.builders.installer.install", without=("pipeline.core", "pipeline.host"))
    assert {"builders/installer/command.py", "builders/installer/answers.py"} <= found
    assert not any(name.startswith(("core/", "host/")) for name in found)


def test_a_name_that_is_no_module_has_no_code() -> None:
    assert code_of("pipeline.nothing.here") == []


@pytest.mark.parametrize(
    "folder", sorted({p.parent for p in (PROJECT / "templates").rglob("*") if p.is_file()}), ids=str
)
def test_one_byte_in_any_template_folder_changes_the_key(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "templates"
    shutil.copytree(PROJECT / "templates", copy)
    before = step_key("image", {}, [copy])
    file = next(
        p
        for p in sorted(copy.joinpath(folder.relative_to(PROJECT / "templates")).iterdir())
        if p.is_file()
    )
    file.write_bytes(file.read_bytes() + b"\n")
    assert step_key("image", {}, [copy]) != before


def test_a_file_that_moves_changes_the_key(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    before = step_key("s", {}, [tmp_path])
    (tmp_path / "a" / "x").rename(tmp_path / "x")
    assert step_key("s", {}, [tmp_path]) != before
