"""The wheel, installed into an empty environment and used from an empty directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.core.resources import PROJECT

pytestmark = pytest.mark.integration


def run(*words: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    argv = [str(word) for word in words]
    done = subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its own files beside what it builds."""
    place = tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=PROJECT).splitlines()
    for name in listed:
        if (PROJECT / name).is_file():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, place / "source" / name)
    run(sys.executable, "-m", "build", "-q", "--wheel", "-o", place, cwd=place / "source")
    (made,) = place.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`image-pipeline` in an environment with the system's guestfs and nothing else of ours."""
    place = tmp_path_factory.mktemp("environment")
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", "--without-pip", place)
    uv = Path(sys.executable).with_name("uv")
    run(uv, "pip", "install", "-q", "--python", place / "bin/python", f"{wheel}[openstack,aws]")
    yield place / "bin" / "image-pipeline"


def test_the_wheel_holds_code_templates_kickstarts_and_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    for folder in ("templates", "kickstart"):
        for path in (PROJECT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"pipeline/{path.relative_to(PROJECT)}" in names
    for path in (PROJECT / "pipeline").rglob("*.py"):
        assert str(path.relative_to(PROJECT)) in names
    assert "pipeline/py.typed" in names
    assert f"Version: {pipeline.__version__}" in text
    for needed in ("Requires-Dist: invoke", "Requires-Dist: openstacksdk", "Provides-Extra: aws"):
        assert needed in text


def test_the_command_works_from_any_directory(command: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
    }
    empty = tmp_path / "empty"
    empty.mkdir()

    def say(*words: str) -> str:
        return run(command, *words, cwd=empty, env=environment)

    assert say("--version").strip() == f"image-pipeline {pipeline.__version__}"
    assert "fedora15" in say("recipes")
    plan = say("build", "demo", "--dry-run")
    assert "virt-install" in plan
    assert "boot the three files" in plan
    listed = say("--list")
    assert "upload" in listed
    assert "benchmark" not in listed, "it needs the files of a checkout"
    wrong = subprocess.run(
        [command, "show", "demo"], cwd=empty, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "`image-pipeline list` shows the builds" in wrong.stderr, "there is no invoke here"
    assert list(empty.iterdir()) == [], "a dry run writes nothing"
