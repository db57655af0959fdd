"""One finished `build demo upload`, made once a test session and shared by all its workers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.settings import PROJECT
from pipeline.workspace import exclusive

_SECONDS = 1500  # an install and a boot check under emulation, beside another worker's guests
_LINKED = 64 << 10  # bytes; larger files are linked: stages are recognised by inode and time


@dataclass(frozen=True)
class Demo:
    """A user's directory with build/demo and catalogue/, and what the build printed."""

    directory: Path
    stdout: str

    def clone(self, directory: Path) -> Demo:
        """The same in another directory: large files by hard link, so that a rerun reuses them.

        A test may delete and replace what is in the clone, but not write into a large file.
        """
        for name in ("build", "catalogue"):
            shutil.copytree(
                self.directory / name,
                directory / name,
                copy_function=_link_or_copy,
                ignore=shutil.ignore_patterns(".lock"),
                dirs_exist_ok=True,
            )
        return Demo(directory, self.stdout)


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).stat().st_size >= _LINKED:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def command(*words: str, project: Path = PROJECT) -> list[str]:
    """How `./invoke WORDS` of a checkout is started, its environment being this one."""
    return [sys.executable, "-P", "-m", "invoke", "--search-root", str(project), *words]


def environment(directory: Path, **more: str) -> dict[str, str]:
    """No cloud of whoever runs the tests, and the catalogue in the user's directory."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OS_", "AWS_", "EC2_", "S3_"))
    }
    return {**clean, "IMAGE_PIPELINE_CATALOGUE": str(directory / "catalogue"), **more}


def invoke(directory: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`./invoke WORDS` in a user's directory."""
    return subprocess.run(
        command(*words),
        cwd=directory,
        env=environment(directory, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Read it, or `clone` it; the first worker that asks makes it."""
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have directories of their own in one that they share.
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-demo"
    place.mkdir(exist_ok=True)
    said = place / "stdout"
    with exclusive(place / "lock", "the finished demo", wait=_SECONDS):
        if not said.exists():
            done = invoke(place, "build", "demo", "upload")
            assert done.returncode == 0, done.stderr[-3000:]
            said.write_text(done.stdout)
    return Demo(place, said.read_text())


def copy_of_the_checkout(directory: Path) -> Path:
    """What a user has after cloning, with a working `./invoke`, `pytest` and the like on a PATH.

    Their set-up is the one that runs the tests; the directory bin/ goes before the PATH.
    """
    left = ("build", "catalogue", "*.pyc", "__pycache__", ".*")
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns(*left), dirs_exist_ok=True)
    started = shlex.join(command(project=directory))
    _program(directory / "invoke", f'{started} "$@"')
    _program(directory / "bin" / "invoke", f'{started} "$@"')
    _program(directory / ".venv" / "bin" / "python", f'{sys.executable} "$@"')
    for name in ("pytest", "ruff"):
        _program(directory / "bin" / name, f'{sys.executable} -m {name} "$@"')
    return directory


def _program(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\nexec {line}\n")
    path.chmod(0o755)


def shell(
    script: str, directory: Path, variables: Mapping[str, str], seconds: float = 800
) -> subprocess.CompletedProcess[str]:
    """Run what a document says to type, in a checkout made by `copy_of_the_checkout`."""
    inherited = {n: v for n, v in environment(directory).items() if not n.startswith("PYTEST_")}
    places = {
        "PATH": f"{directory / 'bin'}:{inherited['PATH']}",
        # The tests of a test in directories of their own: pytest sweeps the one it shares.
        "PYTEST_ADDOPTS": f"-q -p no:cacheprovider --basetemp={directory / 'pytest'}",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env={**inherited, **places, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
